"""The timeline in the database: who sees which line, in what order; it stays quick when it is full."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from metalbox.machine import Mac, Machine
from metalbox.store import Store, sqlite_url
from metalbox.timeline import Entry, Kind

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


def test_cleaning_step_by_step_is_quick_even_when_full(tmp_path: Path, store: Store) -> None:
    macs = [Mac.from_bytes(b"\x02\0\0\0" + number.to_bytes(2, "big")) for number in range(2000)]
    for turn in range(50):
        store.save_entries([line(f"{turn}", mac) for mac in macs])
    slowest = 0.0
    deleted = steps = 0
    while True:
        start = time.perf_counter()
        gone = store.prune_step(40, 90_000)
        slowest = max(slowest, time.perf_counter() - start)
        deleted += gone
        steps += 1
        if not gone and steps > 2100:
            break
    assert deleted == 2000 * 10
    # A quiet machine needs at most 10 ms for a step: commits of leases wait behind it.
    assert slowest < 0.5, f"{slowest:.3f} s"
