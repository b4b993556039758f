"""The timeline as it is written: `record` keeps lines in memory, a task stores them in batches a few times a second.

The packet path only ever calls `record`, which does no I/O and never waits. Lines with the same key become one line,
also when the first was stored already. When the database is slow, lines of little value are given up and counted.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import logging
from collections import Counter, OrderedDict, deque
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

from sqlalchemy.exc import DBAPIError

from metalbox.config import Timeline
from metalbox.entries import Line
from metalbox.machine import Mac
from metalbox.store import Database, Store
from metalbox.timeline import COALESCE_SECONDS, LOW_VALUE, Entry, Kind, merge_data

__all__ = ["Entry", "Journal", "Kind"]

log = logging.getLogger("metalbox.journal")

FLUSH_SECONDS = 0.2
# So much a source may say before somebody else's line, to be in order: more than comes between two lines of a boot.
IN_ORDER = 256
# Sources that get this much to tell in one turn (10,000 packets a second) are left alone: whoever reads asks for it at
# once, and packets do not wait for the database; what is told goes with the leases, in transactions that are made
# anyway. Not for longer than a few turns, nor beyond what sources keep.
PRESSED = 2000
POSTPONED_TURNS = 10
POSTPONED_MOST = 98_304
# Every how many flushes it is stored when machines were last heard of: 5 s, and nobody's life hangs on it.
SEEN_TURNS = 25
# One transaction of this many lines takes about 1 ms; commits of leases wait behind it.
BATCH = 128
# So many lines stay behind while sources have more to tell: the next message of a conversation makes none of its own.
LINGER = 256
# The log of a source is for people: beyond so many lines a second it only says how many more there were.
MAX_LOGGED = 500
# What a line keeps as it came; a client that says the same again and again is put into words.
MAX_TALES = 4
# A minute of 300 lines a second. One line takes about 1 KiB.
MAX_PENDING = 20_000
# Lines that may still grow.
MAX_OPEN = 8192

Key = tuple[Mac | None, Kind, str]


class Source(Protocol):
    """Who has something to record and would rather be asked for it. Its length is how much that is."""

    def __len__(self) -> int: ...

    def tell(self, count: int) -> None:
        """Record the oldest so many. Only the journal calls it, for what is recorded then asks nobody."""


class Wording(Protocol):
    """Who puts tales into words: what happened, kept as it came until the line is written or shown."""

    def text(self, tale: Any) -> str:
        """The sentence."""

    def data(self, tale: Any) -> dict[str, Any]:
        """The same for programs."""

    def encode(self, tales: Sequence[Any]) -> str:
        """JSON of the data of all of them, merged as `merge_data` does."""


@dataclass(slots=True, eq=False)
class _Draft:
    """A line that may still grow. `id` is 0 until it was stored; `data` is replaced, never changed in place.

    `tales` came after what is in `text` and `data`.
    """

    serial: int
    at: float
    last_at: float
    count: int
    kind: Kind
    mac: Mac | None
    machine_id: int | None
    text: str = ""
    data: dict[str, Any] = field(default_factory=dict)
    wording: Wording | None = None
    tales: list[Any] = field(default_factory=list)
    id: int = 0

    def settle(self) -> None:
        """Put what is kept as it came into words."""
        if self.wording is not None:
            self.text = self.wording.text(self.tales[-1])
            for tale in self.tales:
                self.data = merge_data(self.data, self.wording.data(tale))
            self.wording, self.tales = None, []

    def line(self) -> Line:
        """The row; the data as JSON where nobody had to look at it."""
        text: str = self.text
        data: dict[str, Any] | str = self.data
        if self.wording is not None:
            if self.data:
                self.settle()
                text, data = self.text, self.data
            else:
                text, data = self.wording.text(self.tales[-1]), self.wording.encode(self.tales)
        return (
            self.id,
            self.at,
            self.last_at,
            self.count,
            self.kind,
            self.mac,
            self.machine_id,
            text,
            data,
        )

    def entry(self) -> Entry:
        """The same for readers."""
        number, at, last_at, count, kind, mac, machine_id, text, data = self.line()
        read = json.loads(data) if isinstance(data, str) else data
        return Entry(number, at, last_at, count, kind, mac, machine_id, text, read)


class Valve:
    """Lets a bounded number of lines a second into a log; all of them are in the timeline anyway."""

    def __init__(self, log: logging.Logger) -> None:
        self._log = log
        self._second = 0
        self._count = 0

    def log(self, level: int, now: float, who: str, text: str) -> None:
        """One line of the second in which it happened."""
        if not self._log.isEnabledFor(level):
            return
        if int(now) != self._second:
            if self._count > MAX_LOGGED:
                surplus = self._count - MAX_LOGGED
                self._log.info("%d more lines of the same second are in the timeline only", surplus)
            self._second, self._count = int(now), 0
        self._count += 1
        if self._count <= MAX_LOGGED:
            self._log.log(level, "%s: %s", who, text)


def is_postponed(got: int, waiting: int, postponed: int) -> bool:
    """Whether this turn is left to packets: by what sources got in a turn and have to tell, and turns left out."""
    return got >= PRESSED and postponed < POSTPONED_TURNS and waiting < POSTPONED_MOST


def keeps_up(got: int, waiting: int, carried: int) -> bool:
    """Whether nothing is late although no turn was taken: a flood's lines, `carried` of them, go with the leases."""
    return carried > 0 and got >= PRESSED and waiting < POSTPONED_MOST


@dataclass(slots=True, eq=False)
class Batch:
    """Lines on their way into the database, and the ids that they got there."""

    lines: list[Line]
    ids: list[int] = field(default_factory=list)


class Journal:
    """The one place where lines of the timeline are written. Without a database they are only kept as `pending`.

    `sources` are asked for what they have before anything is stored or shown.
    """

    def __init__(self, database: Database | None = None, settings: Timeline | None = None) -> None:
        self.counters: Counter[str] = Counter()
        self.sources: list[Source] = []
        self._database = database
        self._settings = settings or Timeline()
        self._is_asking = False
        self._serial = 0
        self._pending: OrderedDict[int, _Draft] = OrderedDict()
        self._low: deque[int] = deque()
        self._open: OrderedDict[Key, _Draft] = OrderedDict()
        self._writing: asyncio.Task[None] | None = None
        # Held while lines are on their way: one that grows meanwhile must not set out before it has its id.
        self._storing = asyncio.Lock()
        # How much sources have told in all, lines that went as passengers since the last turn, and whether the last
        # of them were put off.
        self._told = 0
        self._carried = 0
        self._is_refused = False
        self._fresh = asyncio.Event()
        self._woken_at = 0

    def record(
        self,
        kind: Kind,
        text: str,
        *,
        now: float,
        mac: Mac | None = None,
        machine_id: int | None = None,
        key: str = "",
        data: dict[str, Any] | None = None,
    ) -> None:
        """Keep one line. The same (mac, kind, key) within 60 s of the last becomes one line with a higher count."""
        if not self._is_asking:
            # What DHCP has said to a machine stands before what the machine did then.
            self.ask(IN_ORDER)
        draft = self._draft(kind, now, mac, key)
        draft.settle()
        draft.text = text
        draft.machine_id = machine_id or draft.machine_id
        if data:
            draft.data = merge_data(draft.data, data) if draft.data else data

    def keep(self, kind: Kind, tale: Any, wording: Wording, *, now: float, mac: Mac, key: str) -> None:
        """The same as `record` for a source that was asked: what it tells is put into words when it is wanted."""
        draft = self._draft(kind, now, mac, key)
        if draft.wording is wording and len(draft.tales) < MAX_TALES:
            draft.tales.append(tale)
        else:
            draft.settle()
            draft.wording, draft.tales = wording, [tale]

    def _draft(self, kind: Kind, now: float, mac: Mac | None, key: str) -> _Draft:
        """The line that grows by what happens now, or a new one. It is to be stored."""
        name = (mac, kind, key)
        draft = self._open.get(name) if key else None
        if draft is not None and now - draft.last_at <= COALESCE_SECONDS:
            draft.count += 1
            draft.last_at = max(now, draft.last_at)
        else:
            self._serial += 1
            draft = _Draft(self._serial, now, now, 1, kind, mac, None)
            if key:
                self._open[name] = draft
                self._open.move_to_end(name)
                if len(self._open) > MAX_OPEN:
                    self._open.popitem(last=False)
        if draft.serial not in self._pending:
            self._pending[draft.serial] = draft
            if kind in LOW_VALUE:
                self._low.append(draft.serial)
            if len(self._pending) > MAX_PENDING:
                self._drop_one()
        return draft

    def _drop_one(self) -> None:
        """Give up the oldest line of little value, else the oldest line."""
        while self._low:
            serial = self._low.popleft()
            if serial in self._pending:
                break
        else:
            serial = next(iter(self._pending))
        draft = self._pending.pop(serial)
        self.counters[f"dropped: {draft.kind}"] += 1

    @property
    def pending(self) -> list[Entry]:
        """The lines that are not stored yet, oldest first."""
        self.ask(self._untold())
        return [draft.entry() for draft in self._pending.values()]

    async def run(self) -> None:
        """Store what was recorded, five times a second, until cancelled. `close` stores the rest."""
        database = self._database
        assert database is not None, "a journal without a database has nothing to run"
        await database.run(Store.find_overfull, self._settings.entries_per_machine)
        got = postponed = 0
        for turn in itertools.count(1):
            await asyncio.sleep(FLUSH_SECONDS)
            before, waiting = got, self._untold()
            got = self._told + waiting
            if is_postponed(got - before, waiting, postponed):
                postponed += 1
                self._wake()
                continue
            postponed = 0
            self._low = deque([serial for serial in self._low if serial in self._pending])
            try:
                if not keeps_up(got - before, waiting, self._carried):
                    await self.flush()
                self._carried = 0
                await database.run(Store.prune_step, self._settings.entries_per_machine, self._settings.entries_total)
                if turn % SEEN_TURNS == 0:
                    await database.run(Store.save_seen)
            except DBAPIError as error:
                # A full disk must not stop the machines that only want a packet: keep the lines and try again.
                self.counters["write failed"] += 1
                log.error("the timeline cannot be stored, %d lines wait: %s", len(self._pending), error.orig)

    async def flush(self) -> None:
        """Store all that was recorded until now, and wake those who wait. Cancelling the caller loses nothing."""
        if self._writing is not None and not self._writing.done():
            # That one began with what there was then.
            await asyncio.shield(self._writing)
        if self._writing is None or self._writing.done():
            self._writing = asyncio.create_task(self._write())
        await asyncio.shield(self._writing)

    async def close(self) -> None:
        """Store the last lines."""
        await self.flush()
        if self._pending:
            await self.flush()

    async def _write(self) -> None:
        database = self._database
        # What comes meanwhile is for the next time: under load there is no end of it.
        untold = self._untold()
        left = len(self._pending) + untold
        while left > 0 and database is not None:
            self.ask(BATCH)
            untold -= BATCH
            if untold > 0 and len(self._pending) < BATCH + LINGER:
                await asyncio.sleep(0)
                continue
            left -= BATCH
            async with self._leaving(BATCH) as batch:
                if not batch.lines:
                    break
                batch.ids = await database.run(Store.save_lines, batch.lines)
        self._is_refused = False
        self._wake()

    @asynccontextmanager
    async def passengers(self, most: int) -> AsyncIterator[Batch]:
        """Lines that go with somebody else's transaction, so that a flood costs no others: none when there is little.

        The block sets their ids. When it fails they stay, and all travel by themselves until that was possible.
        """
        if not most or self._storing.locked() or self._is_refused or self._untold() < PRESSED:
            yield Batch([])
            return
        # Each may have been an offer and an answer; what lingers stays behind.
        self.ask(2 * most)
        self._is_refused = True
        async with self._leaving(min(most, len(self._pending) - LINGER)) as batch:
            yield batch
        self._is_refused = False
        self._carried += len(batch.lines)

    @asynccontextmanager
    async def _leaving(self, most: int) -> AsyncIterator[Batch]:
        """The oldest lines; the block stores them and sets their ids. Those that it does not store stay."""
        async with self._storing:
            drafts = [self._pending.popitem(last=False)[1] for _ in range(min(most, len(self._pending)))]
            batch = Batch([draft.line() for draft in drafts])
            try:
                yield batch
            except BaseException:
                for draft in reversed(drafts):
                    self._pending[draft.serial] = draft
                    self._pending.move_to_end(draft.serial, last=False)
                raise
            for draft, number in zip(drafts, batch.ids, strict=True):
                draft.id = number

    def _wake(self) -> None:
        """Whoever waits for new lines looks whether there are some."""
        if self._database is not None and self._database.store.last_event_id != self._woken_at:
            self._woken_at = self._database.store.last_event_id
            fresh, self._fresh = self._fresh, asyncio.Event()
            fresh.set()

    def _untold(self) -> int:
        return sum([len(source) for source in self.sources])

    def ask(self, count: int) -> None:
        """Let each source that has something record at most so much; what it records asks nobody."""
        if count <= 0:
            return
        self._is_asking = True
        try:
            for source in self.sources:
                if waiting := len(source):
                    source.tell(count)
                    self._told += waiting - len(source)
        finally:
            self._is_asking = False

    async def wait(self, after: int, seconds: float) -> bool:
        """Wait until a line with an id above `after` is stored; False when `seconds` went by without one."""
        database = self._database
        assert database is not None, "a journal without a database has nothing to wait for"
        deadline = asyncio.get_running_loop().time() + seconds
        while database.store.last_event_id <= after:
            fresh = self._fresh
            try:
                async with asyncio.timeout_at(deadline):
                    await fresh.wait()
            except TimeoutError:
                return False
        return True
