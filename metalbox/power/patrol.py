"""The lap over all BMCs: every machine's power state, read once in each period.

Starts are spread over the period, so that the network and we see a drizzle and not a burst. Few are asked at a time;
one that does not answer at once gives its place to the next and waits outside. BMCs that an order speaks to are left
alone.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

from metalbox.power import Endpoint
from metalbox.power.orders import BLIND, Observation
from metalbox.power.polite import Front, Key

log = logging.getLogger("metalbox.power")

Machines = Mapping[Key, Sequence[Endpoint]]
Seen = Callable[[Key, Observation, Observation], None]

PERIOD_SECONDS = 30.0
# The part of the period over which starts are spread; the rest is for those that are slow.
SPREAD = 0.5
PLACES = 32
# Who has not answered after this gives its place back. Healthy BMCs answer in 5 to 500 ms.
PROMPT_SECONDS = 1.0
# Who waits outside holds a socket or a thread; beyond this they keep their places, and the lap becomes longer.
OUTSIDE = 256


@dataclass(frozen=True, slots=True)
class Lap:
    """What one lap came to. `skipped`: an order or the last lap was still speaking to the BMC."""

    seconds: float
    machines: int
    answered: int
    failed: int
    skipped: int


class Patrol:
    """Goes round all the time. `seen` is called with (machine, before, after) when state or failure changed."""

    def __init__(
        self,
        front: Front,
        machines: Callable[[], Awaitable[Machines]],
        seen: Seen,
        *,
        period: float = PERIOD_SECONDS,
        spread: float = SPREAD,
        places: int = PLACES,
    ) -> None:
        self.last: Lap | None = None
        self._front = front
        self._machines = machines
        self._seen = seen
        self._period = period
        self._spread = spread
        self._places = asyncio.Semaphore(places)
        self._outside = 0

    async def run(self) -> None:
        """Laps until cancelled, a new one each period; one that took longer is followed at once."""
        clock = self._front.clock
        while True:
            started = clock.tick()
            machines = await self._machines()
            await self._front.keep_only(machines)
            self.last = lap = await self.lap(machines)
            if lap.seconds > self._period:
                log.warning("a lap over %d BMCs took %.0f s of %.0f s", lap.machines, lap.seconds, self._period)
            await clock.sleep(max(0.0, started + self._period - clock.tick()))

    async def lap(self, machines: Machines) -> Lap:
        """Ask everybody once. Ends when all have answered or failed; cancelling stops those in flight."""
        clock = self._front.clock
        started = clock.tick()
        asked = {key: found for key, found in machines.items() if any(e.driver not in BLIND for e in found)}
        pause = self._period * self._spread / max(1, len(asked))
        results: list[asyncio.Task[bool]] = []
        skipped = 0
        async with asyncio.TaskGroup() as group:
            for number, (machine, endpoints) in enumerate(asked.items()):
                ahead = started + number * pause - clock.tick()
                if ahead > 0:
                    await clock.sleep(ahead)
                if self._front.busy(machine, endpoints):
                    skipped += 1
                    continue
                await self._places.acquire()
                results.append(group.create_task(self._visit(machine, endpoints)))
        answered = sum(task.result() for task in results)
        return Lap(clock.tick() - started, len(asked), answered, len(results) - answered, skipped)

    async def _visit(self, machine: Key, endpoints: Sequence[Endpoint]) -> bool:
        """Ask one, holding a place as long as it is prompt. Whether it answered."""
        before = self._front.observation(machine)
        asking = asyncio.ensure_future(self._front.observe(machine, endpoints))
        outside = False
        try:
            await asyncio.wait({asking}, timeout=PROMPT_SECONDS)
            if not asking.done() and self._outside < OUTSIDE:
                outside = True
                self._outside += 1
                self._places.release()
            after = await asking
        finally:
            if not asking.done():
                asking.cancel()
                await asyncio.wait({asking}, timeout=PROMPT_SECONDS)
            if outside:
                self._outside -= 1
            else:
                self._places.release()
        if (before.state, before.code, before.source == "") != (after.state, after.code, after.source == ""):
            self._seen(machine, before, after)
        return after.code == ""
