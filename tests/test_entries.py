"""The timeline in the database: who sees which line, in what order; it stays quick when it is full."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from metalbox.entries import PRUNE_STEP
from metalbox.machine import Mac, Machine
from metalbox.store import Store, sqlite_url
from metalbox.timeline import Entry, Kind
from tests.counting import cost

A, B = Mac("52:54:00:00:00:01"), Mac("52:54:00:00:00:02")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = Store.open(sqlite_url(tmp_path / "metalbox.db"))
    yield opened
    opened.close()


def line(text: str, mac: Mac | None = A, machine_id: int | None = None, number: int = 0, count: int = 1) -> Entry:
    return Entry(number, 1.0, 1.0 + count, count, Kind.DHCP, mac, machine_id, text, {"n": count})


def texts(entries: list[Entry]) -> list[str]:
    return [entry.text for entry in entries]


def test_lines_from_before_the_machine_was_known_are_its_own(store: Store) -> None:
    store.save_entries([line("early"), line("stranger", B)])
    with store.transaction():
        machine = store.machines.add(Machine(0, "m", "discovered", macs=(A,)))
    store.save_entries([line("report", None, machine.id), line("late")])
    assert texts(store.events.of_machine(machine, 10)) == ["early", "report", "late"]
    assert texts(store.events.of_mac(B, 10)) == ["stranger"]
    assert texts(store.events.all(10)) == ["early", "stranger", "report", "late"]


def test_the_newest_are_read_or_the_next(store: Store) -> None:
    store.save_entries([line(str(number)) for number in range(10)])
    assert texts(store.events.all(3)) == ["7", "8", "9"]
    assert texts(store.events.all(3, after=0)) == ["0", "1", "2"]
    assert texts(store.events.all(3, after=8)) == ["8", "9"]
    assert texts(store.events.of_mac(A, 2, after=10)) == []


def test_a_line_that_grows_keeps_its_id_and_its_machine(store: Store) -> None:
    ids = store.save_entries([line("one"), line("two")])
    with store.transaction():
        store.events.claim(A, 7)
    assert store.save_entries([line("one, grown", number=ids[0], count=5), line("three")]) == [ids[0], 3]
    found = store.events.all(10)
    assert [(entry.id, entry.text, entry.count, entry.machine_id) for entry in found] == [
        (1, "one, grown", 5, 7),
        (2, "two", 1, 7),
        (3, "three", 1, None),
    ]


def test_a_line_that_was_cleaned_away_and_goes_on_is_there_again(store: Store) -> None:
    ids = store.save_entries([line("poll"), line("other")])
    assert store.prune_step(1000, 1) == 1
    store.save_entries([line("poll, still", number=ids[0], count=9)])
    assert texts(store.events.all(10)) == ["poll, still", "other"]


def test_a_step_of_cleaning_is_small_however_full_it_is(store: Store) -> None:
    """Commits of leases wait behind a step: it touches the lines that it deletes, and those of one machine."""
    macs = [Mac.from_bytes(b"\x02\0\0\0" + number.to_bytes(2, "big")) for number in range(1000)]
    for turn in range(50):
        store.save_entries([line(f"{turn}", mac) for mac in macs])
    deleted, dearest, total, single = 0, 0, 0, 0
    for _ in range(1100):
        with cost(store) as counted:
            gone = store.prune_step(40, 45_000)
        deleted += gone
        dearest = max(dearest, counted.instructions)
        total += gone == PRUNE_STEP
        single += 0 < gone <= 10
    assert deleted == 1000 * 10 and (total, single) == (10, 1000)
    # 11,600 instructions for 500 lines, 1,100 for a machine of 45; reading the whole table would be 400,000.
    assert dearest < 20_000
    assert store.prune_step(40, 45_000) == 0
