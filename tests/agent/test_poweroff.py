"""Switching off from inside: claimed, told, and only then done."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from metalbox.agent import poweroff


class Told:
    """What the module needs of an errand."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def claim(self) -> None:
        self.said.append("claim")

    def say(self, text: str) -> None:
        self.said.append(text)


def test_it_is_claimed_and_told_before_the_kernel_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trigger = tmp_path / "sysrq-trigger"
    trigger.write_text("")
    asked = threading.Event()
    monkeypatch.setattr(poweroff, "TRIGGER", trigger)
    monkeypatch.setattr(poweroff, "SECONDS", 0.05)
    monkeypatch.setattr(poweroff, "switch_off", asked.set)
    told: Any = Told()
    assert poweroff.work(told) == {"done": True}
    assert told.said == ["claim", "the machine is switched off"]
    assert asked.wait(60)


def test_the_kernel_is_asked_in_its_own_letter(tmp_path: Path) -> None:
    trigger = tmp_path / "sysrq-trigger"
    poweroff.switch_off(trigger)
    assert trigger.read_text() == "o"


def test_a_kernel_that_takes_no_such_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(poweroff, "TRIGGER", tmp_path / "none")
    told: Any = Told()
    assert "cannot be written" in poweroff.work(told)["error"]
