"""tftp.telling: nothing is put into words before the journal asks, and then everything in its order."""

from __future__ import annotations

from collections import Counter

import pytest

from metalbox.journal import Journal, Kind
from metalbox.machine import Mac
from metalbox.presence import Presence
from metalbox.tftp import telling
from metalbox.tftp.packet import ErrorCode
from metalbox.tftp.telling import Ended, Refused, Telling
from tests.tftp.wire import ack, session

MAC = Mac("52:54:00:ab:cd:ef")


class Rig:
    """A telling with its journal, and how often the kernel was asked for a MAC."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.journal = Journal()
        self.counters: Counter[str] = Counter()
        self.telling = Telling(self.journal, Presence(self.neighbour), self.counters)

    def neighbour(self, address: str) -> Mac | None:
        self.asked.append(address)
        return MAC if address == "192.0.2.5" else None

    def end(self, name: str, at: float, address: str = "192.0.2.5") -> None:
        ended = session(b"text")
        ended.start(at - 0.5)
        ended.received(ack(1), at)
        self.telling.add(Ended(address, name, 4, ended, 0.5, at))


@pytest.fixture
def rig() -> Rig:
    return Rig()


def test_what_was_told_is_what_happened_in_its_order(rig: Rig) -> None:
    rig.end("a", 100.0)
    rig.telling.add(Refused("192.0.2.6", "grub.cfg\xff", ErrorCode.NOT_FOUND, "file not found", 101.0))
    rig.telling.add(Refused("192.0.2.5", "b", ErrorCode.ACCESS_VIOLATION, "this server takes no files", 102.0))
    assert len(rig.telling) == 3 and rig.asked == []
    entries = rig.journal.pending
    assert len(rig.telling) == 0
    assert [(e.at, e.kind, e.mac, e.text) for e in entries] == [
        (100.0, Kind.TFTP, MAC, "fetched a by TFTP: 4 bytes in 0.50 s"),
        (101.0, Kind.TFTP, None, "asked by TFTP for grub.cfg?, which is not here"),
        (102.0, Kind.TFTP, MAC, "was refused b by TFTP: this server takes no files"),
    ]
    assert [e.data["address"] for e in entries] == ["192.0.2.5", "192.0.2.6", "192.0.2.5"]
    assert rig.asked == ["192.0.2.5", "192.0.2.6"]


def test_files_that_are_missed_again_are_one_line(rig: Rig) -> None:
    for n in range(3):
        rig.telling.add(Refused("192.0.2.5", "grub.cfg", ErrorCode.NOT_FOUND, "file not found", 100.0 + n))
    rig.end("a", 104.0)
    rig.end("a", 105.0)
    assert [(e.count, e.last_at) for e in rig.journal.pending] == [(3, 102.0), (1, 104.0), (1, 105.0)]


def test_no_more_is_told_than_was_asked_for(rig: Rig) -> None:
    for n in range(5):
        rig.end(f"f{n}", 100.0 + n)
    rig.journal.ask(2)
    assert len(rig.telling) == 3
    assert [e.data["file"] for e in rig.journal.pending] == ["f0", "f1", "f2", "f3", "f4"]


def test_a_journal_that_does_not_ask_costs_the_oldest_their_line(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(telling, "MAX_UNTOLD", 2)
    for n in range(3):
        rig.end(f"f{n}", 100.0 + n)
    assert [e.data["file"] for e in rig.journal.pending] == ["f1", "f2"]
    assert rig.counters == {"not in the timeline": 1}


def test_the_log_says_it_too(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "metalbox.tftp")
    rig.end("a", 100.0, "192.0.2.7")
    rig.telling.add(Refused("192.0.2.7", "b", ErrorCode.NOT_FOUND, "file not found", 101.0))
    assert not caplog.records
    rig.journal.ask(2)
    assert [record.getMessage() for record in caplog.records] == ["192.0.2.7: fetched a by TFTP: 4 bytes in 0.50 s"]
