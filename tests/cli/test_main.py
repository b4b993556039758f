"""The command as a whole: its verbs, its start time, its manners."""

from __future__ import annotations

import subprocess
import sys

import pytest

from metalbox.cli.main import main

VERBS = (
    "serve", "list", "show", "events", "why", "leases", "status", "report", "config", "agent", "boot-files", "doctor",
    "lab",
)  # fmt: skip


def test_every_verb_is_there_and_explains_itself(capsys: pytest.CaptureFixture[str]) -> None:
    for verb in VERBS:
        with pytest.raises(SystemExit) as caught:
            main([verb, "--help"])
        assert caught.value.code == 0
        assert verb in capsys.readouterr().out


def test_no_verb_is_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main([])
    assert caught.value.code == 2


def test_a_reader_that_goes_away_is_no_error() -> None:
    line = f"{sys.executable} -m metalbox config example | head -1"
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", line], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stderr == ""


def test_it_starts_with_little() -> None:
    """Time is measured by `bench.beside`; this is where it goes: 180 modules, of them 60 of Python's own start."""
    code = "import sys; from metalbox.cli.main import main; main(['status', '--socket', '/nonexistent/socket'])"
    code = f"import atexit, sys; atexit.register(lambda: print(*sys.modules)); {code}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    loaded = set(done.stdout.split())
    assert "metalbox.cli.status" in loaded, done.stderr
    assert len(loaded) < 250
    assert not {"asyncio", "aiohttp", "sqlalchemy", "yaml", "cryptography", "metalbox.config"} & loaded
