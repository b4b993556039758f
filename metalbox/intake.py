"""Reports that come at the same time are stored together: checked in one turn of a thread, written by one commit.

A rack that boots at once reports at once. Each report alone would cost a commit of the lines before it, its own commit
and four changes of thread, and a thread for each would take the interpreter from the packets of those still booting.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from metalbox.inventory import Reported
from metalbox.journal import Journal
from metalbox.report import Report, parse_report, read_json
from metalbox.store import Database, Store

# One transaction of so many takes some 20 ms; commits of leases wait behind it.
BATCH = 8
# A large report takes some 50 ms to check: no second one is checked in the same turn.
BATCH_BYTES = 256 * 1024

StoreReport = Callable[[Store, Report, str, float], Reported]
Taken = tuple[Report, Reported]


@dataclass(slots=True, eq=False)
class _Waiting:
    body: bytes
    address: str
    now: float
    taken: asyncio.Future[Taken]

    def fail(self, error: Exception) -> None:
        if not self.taken.done():
            self.taken.set_exception(error)


class Intake:
    """The reports that wait to be stored, in the order in which they came."""

    def __init__(self, database: Database, journal: Journal, store_report: StoreReport) -> None:
        self._database = database
        self._journal = journal
        self._store_report = store_report
        self._queue: deque[_Waiting] = deque()
        self._working: asyncio.Task[None] | None = None

    async def take(self, body: bytes, address: str, now: float) -> Taken:
        """Check and store one report: it is on disk when this returns. Raises InvalidValue, InvalidReport.

        Also raises what storing raises. Who goes away while waiting is stored nevertheless.
        """
        waiting = _Waiting(body, address, now, asyncio.get_running_loop().create_future())
        self._queue.append(waiting)
        if self._working is None or self._working.done():
            self._working = asyncio.create_task(self._work())
        return await waiting.taken

    async def _work(self) -> None:
        while self._queue:
            batch = self._next_batch()
            found = await asyncio.to_thread(_check, [waiting.body for waiting in batch])
            good: list[tuple[_Waiting, Report]] = []
            for waiting, report in zip(batch, found, strict=True):
                if isinstance(report, Report):
                    good.append((waiting, report))
                else:
                    waiting.fail(report)
            if good:
                await self._store(good)

    def _next_batch(self) -> list[_Waiting]:
        batch = [self._queue.popleft()]
        size = len(batch[0].body)
        while self._queue and len(batch) < BATCH and size + len(self._queue[0].body) <= BATCH_BYTES:
            batch.append(self._queue.popleft())
            size += len(batch[-1].body)
        return batch

    async def _store(self, some: Sequence[tuple[_Waiting, Report]]) -> None:
        """All in one transaction; when that fails, each in its own, so that none fails for another."""
        try:
            # The report's lines look back at the boot, which must be in the database by then.
            await self._journal.flush()
            stored = await self._database.run(self._store_all, some)
        except Exception as error:
            if len(some) == 1:
                some[0][0].fail(error)
                return
            for one in some:
                await self._store([one])
            return
        for (waiting, report), reported in zip(some, stored, strict=True):
            if not waiting.taken.done():
                waiting.taken.set_result((report, reported))

    def _store_all(self, store: Store, some: Sequence[tuple[_Waiting, Report]]) -> list[Reported]:
        return [self._store_report(store, report, waiting.address, waiting.now) for waiting, report in some]


def _check(bodies: Sequence[bytes]) -> list[Report | Exception]:
    found: list[Report | Exception] = []
    for body in bodies:
        try:
            found.append(parse_report(read_json(body)))
        except Exception as error:  # whatever it is, it is told to who sent it, and the others are not kept waiting
            found.append(error)
    return found
