"""Recording, coalescing, flushing, waiting and forgetting; with a real database, and the clock as an argument."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest
from sqlalchemy.exc import OperationalError

from metalbox import journal as journal_module
from metalbox.config import Timeline
from metalbox.entries import Line
from metalbox.journal import (
    MAX_LOGGED,
    MAX_OPEN,
    MAX_PENDING,
    Batch,
    Entry,
    Journal,
    Kind,
    Valve,
    is_postponed,
    keeps_up,
)
from metalbox.machine import Mac
from metalbox.store import Database, Store, sqlite_url
from tests.counting import calls

MAC = Mac("52:54:00:00:00:01")


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    opened = Database(Store.open(sqlite_url(tmp_path / "metalbox.db")))
    yield opened
    await opened.close()


async def stored(database: Database) -> list[Entry]:
    return await database.run(lambda store: store.events.all(100_000))


def test_recording_does_nothing_but_remember() -> None:
    journal = Journal()
    journal.record(Kind.DHCP, "asked", now=1.0, mac=MAC, data={"messages": ["DISCOVER"]})
    assert journal.pending == [Entry(0, 1.0, 1.0, 1, Kind.DHCP, MAC, None, "asked", {"messages": ["DISCOVER"]})]


def test_the_same_key_within_a_minute_is_one_line() -> None:
    journal = Journal()
    for now, text in ((1.0, "asked"), (2.0, "asked again"), (61.9, "and again")):
        journal.record(Kind.DHCP, text, now=now, mac=MAC, key="k", data={"messages": [text], "micros": 5})
    journal.record(Kind.DHCP, "other machine", now=2.0, key="k")
    journal.record(Kind.TFTP, "other kind", now=2.0, mac=MAC, key="k")
    journal.record(Kind.DHCP, "no key", now=2.0, mac=MAC)
    journal.record(Kind.DHCP, "no key", now=2.0, mac=MAC)
    journal.record(Kind.DHCP, "a minute later", now=122.0, mac=MAC, key="k")
    lines = [(entry.text, entry.count, entry.at, entry.last_at) for entry in journal.pending]
    assert lines == [
        ("and again", 3, 1.0, 61.9),
        ("other machine", 1, 2.0, 2.0),
        ("other kind", 1, 2.0, 2.0),
        ("no key", 1, 2.0, 2.0),
        ("no key", 1, 2.0, 2.0),
        ("a minute later", 1, 122.0, 122.0),
    ]
    assert journal.pending[0].data == {"messages": ["asked", "asked again", "and again"], "micros": 15}


async def test_a_line_that_was_stored_goes_on_growing(database: Database) -> None:
    journal = Journal(database)
    journal.record(Kind.DHCP, "discover", now=1.0, mac=MAC, key="k", data={"messages": ["DISCOVER"]})
    await journal.flush()
    journal.record(Kind.LOG, "between", now=2.0)
    journal.record(Kind.DHCP, "request", now=3.0, mac=MAC, key="k", data={"messages": ["REQUEST"]})
    await journal.flush()
    assert await stored(database) == [
        Entry(1, 1.0, 3.0, 2, Kind.DHCP, MAC, None, "request", {"messages": ["DISCOVER", "REQUEST"]}),
        Entry(2, 2.0, 2.0, 1, Kind.LOG, None, None, "between", {}),
    ]


async def test_closing_stores_the_rest_and_a_restart_remembers(tmp_path: Path) -> None:
    url = sqlite_url(tmp_path / "metalbox.db")
    for turn in range(2):
        database = Database(Store.open(url))
        journal = Journal(database)
        journal.record(Kind.SERVICE, f"start {turn}", now=float(turn))
        running = asyncio.create_task(journal.run())
        await asyncio.sleep(0)
        journal.record(Kind.SERVICE, f"stop {turn}", now=float(turn))
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running
        await journal.close()
        await database.close()
    store = Store.open(url)
    assert [entry.text for entry in store.events.all(10)] == ["start 0", "stop 0", "start 1", "stop 1"]
    assert [entry.id for entry in store.events.all(10)] == [1, 2, 3, 4]
    store.close()


async def test_cancelling_a_flush_writes_nothing_twice(database: Database) -> None:
    journal = Journal(database)
    for number in range(50):
        journal.record(Kind.LOG, f"line {number}", now=1.0)
        flushing = asyncio.create_task(journal.flush())
        await asyncio.sleep(0)
        flushing.cancel()
    await journal.close()
    assert [entry.text for entry in await stored(database)] == [f"line {number}" for number in range(50)]


async def test_the_task_stores_by_itself_and_wakes_who_waits(database: Database) -> None:
    journal = Journal(database)
    running = asyncio.create_task(journal.run())
    waiting = asyncio.create_task(journal.wait(0, 60.0))
    journal.record(Kind.LOG, "news", now=1.0)
    assert await waiting
    assert [entry.text for entry in await stored(database)] == ["news"]
    assert not await journal.wait(1, 0.01)
    for _ in range(6000):
        if not journal._low:
            break
        await asyncio.sleep(0.01)
    assert not journal._low
    running.cancel()


async def test_lines_that_verbs_store_wake_too(database: Database) -> None:
    journal = Journal(database)
    running = asyncio.create_task(journal.run())
    waiting = asyncio.create_task(journal.wait(0, 60.0))
    await database.run(Store.save_entries, [Entry(0, 1.0, 1.0, 1, Kind.CHANGE, None, 1, "changed")])
    assert await waiting
    running.cancel()


def above(store: Store, newest: int) -> list[Entry]:
    return store.events.all(100, newest)


async def test_ids_are_seen_in_order(database: Database) -> None:
    """Who has read up to an id has missed nothing below it, whoever wrote."""
    journal = Journal(database)
    seen: list[int] = []
    for turn in range(20):
        journal.record(Kind.LOG, f"early {turn}", now=1.0)
        await database.run(Store.save_entries, [Entry(0, 1.0, 1.0, 1, Kind.CHANGE, None, 1, f"verb {turn}")])
        await journal.flush()
        newest = max(seen, default=0)
        seen += [entry.id for entry in await database.run(above, newest)]
    assert seen == list(range(1, 41))


class SlowDatabase(Database):
    """A disk that is full for a while."""

    broken = True

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self.refused = asyncio.Event()

    async def run(self, function, *args, **kwargs):  # type: ignore[no-untyped-def]
        if self.broken and function is Store.save_lines:
            self.refused.set()
            raise OperationalError("insert", {}, Exception("database or disk is full"))
        return await super().run(function, *args, **kwargs)


async def test_a_full_disk_loses_low_value_first_and_is_survived(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal_module, "MAX_PENDING", 100)
    database = SlowDatabase(Store.open(sqlite_url(tmp_path / "metalbox.db")))
    journal = Journal(database)
    for number in range(100):
        journal.record(Kind.LOG if number % 2 else Kind.CHANGE, f"line {number}", now=1.0)
    with pytest.raises(OperationalError):
        await journal.flush()
    assert [entry.text for entry in journal.pending] == [f"line {number}" for number in range(100)]
    for number in range(60):
        journal.record(Kind.CHANGE, f"more {number}", now=1.0)
    assert journal.counters == {"dropped: log": 50, "dropped: change": 10}
    database.broken = False
    await journal.close()
    kept = [entry.text for entry in await stored(database)]
    assert kept == [*(f"line {number}" for number in range(20, 100, 2)), *(f"more {number}" for number in range(60))]
    await database.close()


async def test_the_task_survives_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal_module, "FLUSH_SECONDS", 0.001)
    database = SlowDatabase(Store.open(sqlite_url(tmp_path / "metalbox.db")))
    journal = Journal(database)
    journal.record(Kind.LOG, "news", now=1.0)
    running = asyncio.create_task(journal.run())
    await asyncio.wait_for(database.refused.wait(), 60.0)
    database.broken = False
    assert await journal.wait(0, 60.0)
    running.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await running
    await database.close()


def test_memory_is_bounded() -> None:
    journal = Journal()
    for number in range(MAX_PENDING + MAX_OPEN + 500):
        journal.record(Kind.DHCP, "x", now=1.0, mac=MAC, key=str(number))
    assert len(journal.pending) == MAX_PENDING
    assert len(journal._open) == MAX_OPEN
    assert journal.counters["dropped: dhcp"] == MAX_OPEN + 500


async def prune_all(database: Database, settings: Timeline) -> None:
    while await database.run(Store.prune_step, settings.entries_per_machine, settings.entries_total):
        pass


def lines(count: int, mac: Mac | None = MAC, kind: Kind = Kind.DHCP) -> Sequence[Entry]:
    return [Entry(0, float(n), float(n), 1, kind, mac, None, f"{kind} {n}") for n in range(count)]


async def test_each_timeline_and_the_whole_are_bounded(database: Database) -> None:
    settings = Timeline(entries_per_machine=100, entries_total=1000)
    other = Mac("52:54:00:00:00:02")
    await database.run(Store.save_entries, lines(30, other))
    await database.run(Store.save_entries, lines(700, kind=Kind.LOG))
    await database.run(Store.save_entries, lines(60))
    await prune_all(database, settings)
    kept = await database.run(lambda store: store.events.of_mac(MAC, 10_000))
    # The agent's chatter goes before what tells the story.
    assert [entry.text for entry in kept] == [f"log {n}" for n in range(660, 700)] + [f"dhcp {n}" for n in range(60)]
    assert len(await database.run(lambda store: store.events.of_mac(other, 10_000))) == 30
    for number in range(100):
        await database.run(Store.save_entries, lines(20, Mac.from_bytes(b"\x02\0\0\0\0" + bytes([number]))))
    await prune_all(database, settings)
    assert len(await stored(database)) == 1000


async def test_what_was_too_much_before_a_restart_is_found_again(tmp_path: Path) -> None:
    url = sqlite_url(tmp_path / "metalbox.db")
    store = Store.open(url)
    store.save_entries(lines(500))
    store.close()
    store = Store.open(url)
    store.find_overfull(100)
    while store.prune_step(100, 100_000):
        pass
    assert [entry.text for entry in store.events.all(1000)] == [f"dhcp {n}" for n in range(400, 500)]
    store.close()


async def test_a_machine_that_speaks_for_ever_stays_bounded(database: Database) -> None:
    journal = Journal(database)
    settings = Timeline(entries_per_machine=50)
    for turn in range(200):
        for number in range(10):
            journal.record(Kind.DHCP, f"{turn}.{number}", now=float(turn), mac=MAC)
        await journal.flush()
        await database.run(Store.prune_step, settings.entries_per_machine, settings.entries_total)
        assert len(await stored(database)) <= 65


def test_recording_is_cheap() -> None:
    """The packet path: 20,000 packets a second may spend at most a tenth of it here."""
    journal = Journal()
    data = {"messages": ["DISCOVER", "OFFER"], "client": "bios", "micros": 40}
    count = 20_000

    def record(first: int) -> None:
        for number in range(first, first + 1000):
            journal.record(Kind.DHCP, "asked", now=1.0, mac=MAC, key=f"bios:67:{number % 5000:08x}", data=data)

    called = [calls(lambda first=first: record(first)) for first in range(0, count, 1000)]  # type: ignore[misc]
    # Six calls for a new line and four for one that grows, also when 5,000 wait.
    assert max(called) <= 10 * 1000 and called[-1] <= called[0]


class Talker:
    """Has so many lines to tell."""

    def __init__(self, journal: Journal, count: int) -> None:
        self.journal = journal
        self.left = count
        self.asked: list[int] = []
        journal.sources.append(self)

    def __len__(self) -> int:
        return self.left

    def tell(self, count: int) -> None:
        self.asked.append(count)
        for _ in range(min(count, self.left)):
            self.journal.record(Kind.LOG, f"{self.left}", now=1.0)
            self.left -= 1


async def test_sources_are_asked_in_batches_and_before_anybody_reads(database: Database) -> None:
    journal = Journal(database)
    talker = Talker(journal, 0)
    journal.record(Kind.LOG, "first", now=1.0)
    talker.left = 300
    await journal.flush()
    assert [entry.text for entry in await stored(database)] == ["first", *map(str, range(300, 0, -1))]
    assert max(talker.asked) <= journal_module.BATCH
    talker.left = 2
    assert [entry.text for entry in journal.pending] == ["2", "1"]


class Flood:
    """Who asks is answered, and asks again when two hundred others have."""

    def __init__(self, journal: Journal, count: int = 1000) -> None:
        self.left = [number for start in range(0, count, 200) for number in [*range(start, start + 200)] * 2]
        self.journal = journal
        journal.sources.append(self)

    def __len__(self) -> int:
        return len(self.left)

    def tell(self, count: int) -> None:
        for number in self.left[:count]:
            self.journal.record(Kind.DHCP, "asks", now=1.0, mac=MAC, key=f"{number}")
        del self.left[:count]


def _save(database: Database, batch: Batch) -> None:
    batch.ids = database.store.save_lines(batch.lines)


async def test_lines_of_a_flood_go_with_others_transactions(database: Database) -> None:
    journal = Journal(database)
    flood = Flood(journal, 2000)
    carried = 0
    while len(flood.left) >= journal_module.PRESSED:
        async with journal.passengers(60) as batch:
            _save(database, batch)
        carried += len(batch.lines)
    # The rest is left to who writes a few times a second, and nothing is stored in two halves.
    assert carried > 500
    assert [entry.count for entry in await stored(database)] == [2] * carried
    await journal.flush()
    entries = await stored(database)
    assert [entry.count for entry in entries] == [2] * 2000
    assert [entry.id for entry in entries] == list(range(1, 2001))


async def test_there_are_no_passengers_without_a_flood_or_while_lines_are_on_their_way(database: Database) -> None:
    journal = Journal(database)
    journal.record(Kind.DHCP, "asks", now=1.0, mac=MAC, key="a")
    async with journal.passengers(60) as batch:
        assert batch.lines == []
    Flood(journal, 4000)
    async with journal.passengers(0) as batch:
        assert batch.lines == []
    while not (first := await _carry(journal, database)):
        pass
    assert first
    async with journal.passengers(60) as outer:
        _save(database, outer)
        async with journal.passengers(60) as inner:
            assert outer.lines and inner.lines == []
        writing = asyncio.create_task(journal.flush())
        await asyncio.sleep(0.05)
        assert not writing.done(), "a line that grows meanwhile would be stored twice"
    await writing
    assert [entry.id for entry in await stored(database)] == list(range(1, 4002))


async def _carry(journal: Journal, database: Database) -> int:
    async with journal.passengers(60) as batch:
        _save(database, batch)
    return len(batch.lines)


async def test_passengers_that_are_refused_travel_by_themselves(database: Database) -> None:
    journal = Journal(database)
    Flood(journal, 6000)
    while not await _carry(journal, database):
        pass
    before = len(await stored(database))
    with pytest.raises(OSError, match="full"):
        async with journal.passengers(60) as batch:
            assert batch.lines
            raise OSError("the disk is full")
    # Whatever was wrong with them, leases are not kept back by it.
    assert await _carry(journal, database) == 0
    assert len(await stored(database)) == before
    await journal.flush()
    assert [entry.count for entry in await stored(database)] == [2] * 6000
    Flood(journal, 2000)
    assert await _carry(journal, database) == 0, "what lingers stays behind"
    while not await _carry(journal, database):
        pass


async def test_messages_of_one_conversation_are_stored_as_one_line_also_in_a_flood(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows: list[int] = []
    save = Store.save_lines

    def spy(store: Store, lines: Sequence[Line]) -> list[int]:
        rows.append(len(lines))
        return save(store, lines)

    monkeypatch.setattr(Store, "save_lines", spy)
    journal = Journal(database)
    Flood(journal)
    await journal.flush()
    assert [entry.count for entry in await stored(database)] == [2] * 1000
    assert sum(rows) == 1000
    assert max(rows) <= journal_module.BATCH


def test_a_log_gets_a_bounded_number_of_lines_a_second(caplog: pytest.LogCaptureFixture) -> None:
    log = logging.getLogger("metalbox.dhcp")
    caplog.set_level(logging.INFO, log.name)
    valve = Valve(log)
    for number in range(MAX_LOGGED + 7):
        valve.log(logging.INFO, 5.0 + number / 1e4, "a", f"{number}")
        valve.log(logging.DEBUG, 5.0, "a", "is not asked for")
    assert [record.getMessage() for record in caplog.records] == [f"a: {number}" for number in range(MAX_LOGGED)]
    caplog.clear()
    valve.log(logging.INFO, 6.0, "b", "the next second")
    valve.log(logging.INFO, 8.0, "b", "another")
    assert [record.getMessage() for record in caplog.records] == [
        "7 more lines of the same second are in the timeline only",
        "b: the next second",
        "b: another",
    ]


def test_what_sources_have_stands_before_what_is_recorded_later() -> None:
    journal = Journal()
    talker = Talker(journal, 2)
    journal.record(Kind.TFTP, "asks for a file", now=2.0)
    talker.left = 1
    assert [entry.text for entry in journal.pending] == ["2", "1", "asks for a file", "1"]
    talker.left = 100_000
    journal.record(Kind.TFTP, "asks again", now=3.0)
    assert talker.asked[-1] == talker.asked[0] <= 256, "a flood is not told at once"


async def test_a_flush_ends_although_there_is_always_more(database: Database) -> None:
    journal = Journal(database)
    talker = Talker(journal, 500)

    async def feed() -> None:
        while True:
            talker.left = 500
            await asyncio.sleep(0)

    feeding = asyncio.create_task(feed())
    async with asyncio.timeout(20):
        await journal.flush()
    feeding.cancel()
    assert len(await stored(database)) >= 500


async def test_who_flushes_while_another_does_has_his_line_stored(database: Database) -> None:
    journal = Journal(database)
    journal.record(Kind.LOG, "one", now=1.0)
    first = asyncio.create_task(journal.flush())
    await asyncio.sleep(0)
    journal.record(Kind.LOG, "two", now=1.0)
    await journal.flush()
    assert [entry.text for entry in await stored(database)] == ["one", "two"]
    await first


@pytest.mark.parametrize(
    ("got", "waiting", "postponed", "expected"),
    [
        (0, 0, 0, False),
        (1999, 1999, 0, False),
        (2000, 2000, 0, True),
        (2000, 12_000, 9, True),
        (2000, 12_000, 10, False),
        (500, 10_500, 3, False),
        (8304, 98_304, 0, False),
    ],
)
def test_packets_come_before_the_timeline_for_a_while(got: int, waiting: int, postponed: int, expected: bool) -> None:
    assert is_postponed(got, waiting, postponed) == expected


@pytest.mark.parametrize(
    ("got", "waiting", "carried", "expected"),
    [(2000, 5000, 1, True), (2000, 5000, 0, False), (1999, 0, 50, False), (9000, 98_304, 50, False)],
)
def test_a_flood_whose_lines_go_with_leases_needs_no_turn(got: int, waiting: int, carried: int, expected: bool) -> None:
    assert keeps_up(got, waiting, carried) == expected
