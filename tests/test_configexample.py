"""The example file: shipped as the code says it, and nothing but defaults when its comment marks are removed."""

from __future__ import annotations

import re
from pathlib import Path

from metalbox import config
from metalbox.config import Config, Mode
from metalbox.configexample import example


def test_the_example_file_is_what_the_code_says() -> None:
    shipped = Path(__file__).parents[1] / "configs" / "metalbox.yaml"
    assert shipped.read_text() == example(), "run: metalbox config example > configs/metalbox.yaml"


def test_the_example_with_its_comment_marks_removed_is_the_defaults() -> None:
    # A sentence begins after one more space than its setting.
    lines = [line[1:] for line in example().splitlines() if re.match(r"#(  |    |  - )?[a-z_]+:( |$)", line)]
    settings = config.parse("\n".join(lines))
    subnet = settings.subnets[0]
    assert subnet.mode is Mode.PROXY
    assert subnet.lease_seconds == 3600
    assert settings.power_budgets == (config.PowerBudget(label="rack"),)
    assert settings.accept_rules == (config.AcceptRule(name="rack-7", location="tor-7 *"),)
    defaults = Config()
    for name in ("data_dir", "socket", "dhcp", "tftp", "http", "boot", "timeline", "consoles", "erase"):
        assert getattr(settings, name) == getattr(defaults, name)
