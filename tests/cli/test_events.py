"""The timeline as lines, and following it."""

from __future__ import annotations

from typing import Any

import pytest

from metalbox.cli import events
from metalbox.cli.main import main

ENTRY = {
    "id": 3, "at": 0.25, "last_at": 2.25, "count": 3, "kind": "dhcp", "mac": "52:54:00:00:00:01", "machine_id": 1,
    "machine": "lab0001", "text": "offered undionly.kpxe", "data": {},
}  # fmt: skip


def test_one_line_tells_when_what_and_how_often() -> None:
    line = events.line(ENTRY, with_machine=False)
    assert line.endswith("00.250  dhcp     offered undionly.kpxe  (x3 in 2.0s)")
    assert "lab0001" in events.line(ENTRY, with_machine=True)
    stranger = {**ENTRY, "machine": "", "count": 1}
    assert events.line(stranger, with_machine=True).endswith("dhcp     52:54:00:00:00:01  offered undionly.kpxe")


def test_of_one_machine(scripted: Any, capsys: pytest.CaptureFixture[str]) -> None:
    scripted.answers["GET /api/v1/machines/lab0001/events"] = (200, {"events": [ENTRY], "next": 3})
    assert main(["events", "lab0001", "-n", "5", "--socket", str(scripted.path)]) == 0
    assert scripted.requests == [("GET", "/api/v1/machines/lab0001/events", "limit=5", None)]
    assert capsys.readouterr().out.count("\n") == 1


def test_following_asks_for_what_comes_after(scripted: Any, capsys: pytest.CaptureFixture[str]) -> None:
    scripted.answers["GET /api/v1/events"] = (200, {"events": [ENTRY], "next": 3})
    asked = 0

    class Enough(Exception):
        pass

    original = events._print

    def count(rows: Any, args: Any) -> None:
        nonlocal asked
        asked += 1
        original(rows, args)
        if asked == 3:
            raise Enough

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Enough):
        patch.setattr(events, "_print", count)
        main(["events", "-f", "--socket", str(scripted.path)])
    assert [query for _, _, query, _ in scripted.requests][1:] == ["after=3&limit=1000&wait=30"] * 2
