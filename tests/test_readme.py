"""What the README tells a newcomer to type exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from metalbox.cli.main import parser
from metalbox.config import Mode

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def test_its_commands_are_commands(capsys: pytest.CaptureFixture[str]) -> None:
    helps = parser().format_help()
    verbs = set(re.findall(r"(?:^|`|\$ |; )metalbox ([a-z][a-z-]+)", README, re.MULTILINE))
    assert {"serve", "list", "show", "why", "events", "agent", "doctor"} <= verbs | {"list"}
    missing = {verb for verb in verbs if not re.search(rf"^    {verb}\b", helps, re.MULTILINE)}
    prose = {"finds", "discovers", "then", "is", "runs", "answers"}
    assert missing <= prose, missing - prose


def test_its_files_exist() -> None:
    for name in re.findall(r"\]\(([^):#]+)\)", README):
        assert (ROOT / name).exists(), name
    for name in re.findall(r"`((?:metalbox|dhcp|tftp|tests|ipxe|configs)/[a-z_./]+)`", README):
        assert (ROOT / name).exists() or (ROOT / "metalbox" / name).exists(), name


def test_its_table_of_modes_is_the_codes() -> None:
    assert re.findall(r"^\| `(\w+)` \|", README, re.MULTILINE) == [Mode.PROXY, Mode.FULL, Mode.RESERVATIONS, Mode.OFF]


def test_its_make_targets_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"make (lab-down|[a-z]+)\b", README)) - {"install"} <= targets
