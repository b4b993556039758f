"""What `--wait` shows: each step in words, coarse where nothing can be taken back, and patient with a restart."""

from __future__ import annotations

import sys
from typing import Any

import pytest

from metalbox.cli import client, following
from metalbox.errors import StartError

DISKS = {
    "A": {"phase": "erase", "percent": 41.7, "left": 95},
    "B": {"phase": "verify", "percent": 3.0, "left": None},
    "C": {"phase": "done", "percent": 100.0, "left": None},
}


def row(**changes: Any) -> dict[str, Any]:
    at_rest: dict[str, Any] = {"fault": None, "held": "", "round": {}, "order": None, "begun": False, "progress": {}}
    return {"state": "erasing", **at_rest, **changes}


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({}, "erasing: waits for its agent"),
        ({"round": {"boots": 1}}, "erasing: is started from the network"),
        ({"round": {"asked": True}}, "erasing: please start it from the network, nothing is known that switches it"),
        ({"round": {"account": "ordered"}}, "erasing: its agent makes metalbox's account at the BMC"),
        ({"order": 7}, "erasing: its agent looks at the disks"),
        ({"held": "new fan"}, "erasing, held: new fan"),
        (
            {"order": 7, "begun": True, "progress": {"disks": DISKS}},
            "erasing: A erase 41% (1m 35s left), B verify 3%, C done",
        ),
        (
            {"order": 7, "begun": True, "progress": {"disks": {**DISKS, "D": {"phase": "erase", "percent": 80.2}}}},
            "erasing: 2 erase 41%, 1 verify 3%, 1 done (1m 35s left)",
        ),
    ],
)
def test_each_step_in_words(changes: dict[str, Any], text: str) -> None:
    assert following.text_of(row(**changes)) == text


def test_in_a_log_a_line_for_every_tenth() -> None:
    said = row(order=7, begun=True, progress={"disks": DISKS})
    assert following.text_of(said, is_coarse=True) == "erasing: A erase 40%, B verify 0%, C done"


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What the service says, answer by answer; an exception is raised."""
    answers: list[Any] = []

    def call(*_: Any) -> Any:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(client, "call", call)
    monkeypatch.setattr(following, "LOOK_SECONDS", 0.0)
    return answers


def test_a_service_that_is_started_anew_is_waited_for(told: list[Any], capsys: pytest.CaptureFixture[str]) -> None:
    told += [row(), StartError("no service"), StartError("no service"), row(), row(state="available")]
    assert following.follow("", ["r1"], 60) == 0
    captured = capsys.readouterr()
    assert captured.out.splitlines() == ["r1: erasing: waits for its agent", "r1: is available"]
    assert captured.err == "still waiting: no service\n"


def test_a_fault_with_its_evidence_ends_it(told: list[Any], capsys: pytest.CaptureFixture[str]) -> None:
    fault = {"code": "erase-failed", "text": "1 of 2 disks were not erased", "at": 0.0, "evidence": ["S1: \x1b[31mno"]}
    told += [row(fault=fault)]
    assert following.follow("", ["r1"], 60) == 1
    assert capsys.readouterr().out == "r1: erasing, fault: 1 of 2 disks were not erased\n  S1: ?[31mno\n"


def test_a_terminal_has_one_line(
    told: list[Any], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "20")
    told += [row(), row(state="available")]
    assert following.follow("", ["r1"], 60) == 0
    assert capsys.readouterr().out == "\r\033[Kr1: erasing: waits \r\033[Kr1: is available\n"


def test_what_somebody_took_back_is_not_done(told: list[Any], capsys: pytest.CaptureFixture[str]) -> None:
    told += [row(state="discovered")]
    assert following.follow("", ["r1"], 60) == 1
    assert capsys.readouterr().out == "r1: is discovered\n"


def test_the_time_is_over(told: list[Any], capsys: pytest.CaptureFixture[str]) -> None:
    told += [row()]
    assert following.follow("", ["r1"], 0) == 5
    assert capsys.readouterr().err == "\nnot done within 0 s: r1; it goes on\n"
