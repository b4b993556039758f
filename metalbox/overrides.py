"""Overrides that were set for one boot are looked at after that boot, and taken back where the BMC has kept them.

The row of the order knows what was set, so that a restart of the service forgets nothing. A BMC that forgets by itself
is asked once; only what is still exactly as it was set is taken back (metalbox.power.takeback).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from sqlalchemy.exc import DBAPIError

from metalbox.errors import MetalboxError
from metalbox.journal import Journal, Kind
from metalbox.power import Device, Endpoint
from metalbox.power.orders import Kept, Outcome, Write
from metalbox.power.polite import Front
from metalbox.power.takeback import Fate
from metalbox.power.verify import describe
from metalbox.powerrecords import SavedOrder
from metalbox.store import Database, Store

log = logging.getLogger("metalbox.power")

LOOK_SECONDS = 5.0
# A machine that starts from its disk says nothing to us. Servers with much memory need ten minutes until they boot.
QUIET_SECONDS = 900.0
# After it was set, a machine that we did not switch on may still be in the boot of before.
OLD_BOOT_SECONDS = 600.0
FIRST_PAUSE_SECONDS = 60.0
TRIES = 6
# The BMC has said that it never will.
FINAL = frozenset({"not-supported", "licence"})

Endpoints = Callable[[Store, int], Sequence[Endpoint]]


@dataclass(frozen=True, slots=True)
class Pending:
    """An override that is to be looked at. `started_at` is when the machine was switched on since, None: not yet."""

    order: int
    kept: Kept
    started_at: float | None = None
    alive_at: float = 0.0
    tries: int = 0
    not_before: float = 0.0

    def is_due(self, now: float) -> bool:
        """Whether the boot that it was for has been seen, or must be over."""
        if now < self.not_before:
            return False
        if self.started_at is None:
            return self.alive_at > self.kept.at + OLD_BOOT_SECONDS
        return self.alive_at > self.started_at or now > self.started_at + QUIET_SECONDS


class Overrides:
    """What is to be looked at, by machine."""

    def __init__(
        self, database: Database, front: Front, journal: Journal, endpoints: Endpoints, now: Callable[[], float]
    ) -> None:
        self._database = database
        self._front = front
        self._journal = journal
        self._endpoints = endpoints
        self._now = now
        self._pending: dict[int, Pending] = {}
        # Machines for which an order is being carried out that may set another override.
        self._ordered: dict[int, int] = {}

    async def run(self) -> None:
        """Look at what is due, until cancelled; `load` comes first."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            try:
                await self.look()
            except DBAPIError as error:
                log.error("overrides cannot be looked at: %s", error.orig)

    async def load(self) -> None:
        """Take up what an earlier life has set."""
        self._pending = await self._database.run(_load)

    def alive(self, machine_id: int) -> None:
        """The machine asked what to boot, or its agent has reported."""
        pending = self._pending.get(machine_id)
        if pending is not None:
            self._pending[machine_id] = replace(pending, alive_at=self._now())

    def switched_on(self, machine_id: int) -> None:
        """The machine is seen to be on after it was off."""
        pending = self._pending.get(machine_id)
        if pending is not None and pending.started_at is None:
            self._pending[machine_id] = replace(pending, started_at=self._now())

    def begin(self, machine_id: int) -> None:
        """An order that may set another override is carried out now; `finish` ends that."""
        self._ordered[machine_id] = self._ordered.get(machine_id, 0) + 1

    def end(self, machine_id: int) -> None:
        """It has come to its end."""
        self._ordered[machine_id] -= 1
        if not self._ordered[machine_id]:
            del self._ordered[machine_id]

    def inherit(self, machine_id: int, outcome: Outcome) -> Outcome:
        """What was there before is not what an order before this one has left there."""
        pending, kept = self._pending.get(machine_id), outcome.kept
        if pending is None or kept is None or kept.before != pending.kept.found:
            return outcome
        return replace(outcome, kept=replace(kept, before=pending.kept.before))

    async def finished(self, saved: SavedOrder, outcome: Outcome) -> None:
        """An order has come to its end and is saved: remember what it has set, or that the boot begins."""
        machine_id, boot = saved.machine_id, saved.order.boot
        pending = self._pending.get(machine_id)
        is_for_all = boot is not None and (not boot.once or boot.device is Device.NONE)
        if pending is not None and (outcome.kept is not None or is_for_all):
            await self._forget(machine_id, pending)
        if outcome.kept is not None:
            self._pending[machine_id] = Pending(saved.id, outcome.kept)
            if outcome.kept.before == outcome.kept.found:
                await self._forget(machine_id, self._pending[machine_id])
        if {Write.ON, Write.CYCLE} & set(outcome.writes):
            self.switched_on(machine_id)

    async def look(self) -> None:
        """Take back what is due."""
        now = self._now()
        due = [machine_id for machine_id, pending in self._pending.items() if pending.is_due(now)]
        await asyncio.gather(*(self._look_at(machine_id, self._pending[machine_id]) for machine_id in due))

    async def _look_at(self, machine_id: int, pending: Pending) -> None:
        def wanted() -> bool:
            now = self._pending.get(machine_id)
            return now is not None and now.order == pending.order and machine_id not in self._ordered

        try:
            endpoints = await self._database.run(self._endpoints, machine_id)
            fate = await self._front.take_back(machine_id, endpoints, pending.kept, wanted=wanted)
        except MetalboxError as error:
            await self._failed(machine_id, pending, error)
            return
        if not wanted():
            return
        if fate is Fate.TAKEN_BACK:
            was, now = describe(pending.kept.found), describe(pending.kept.undone)
            text = f"{pending.kept.driver} had kept {was} after the boot that it was set for: it is {now} again"
            self._tell(machine_id, text, pending)
        await self._forget(machine_id, pending)

    async def _failed(self, machine_id: int, pending: Pending, error: MetalboxError) -> None:
        tries = pending.tries + 1
        if tries < TRIES and getattr(error, "code", "") not in FINAL:
            pause = FIRST_PAUSE_SECONDS * 2.0**pending.tries
            current = self._pending.get(machine_id)
            if current is not None and current.order == pending.order:
                self._pending[machine_id] = replace(current, tries=tries, not_before=self._now() + pause)
            return
        was = describe(pending.kept.found)
        self._tell(
            machine_id, f"warning: {was} may still be set for all boots and could not be taken back: {error}", pending
        )
        await self._forget(machine_id, pending)

    async def _forget(self, machine_id: int, pending: Pending) -> None:
        if (current := self._pending.get(machine_id)) is not None and current.order == pending.order:
            del self._pending[machine_id]
        await self._database.run(lambda store: store.power_orders.forget_kept(pending.order))

    def _tell(self, machine_id: int, text: str, pending: Pending) -> None:
        data = {"order": pending.order, "by": pending.kept.driver}
        self._journal.record(Kind.POWER, text, now=self._now(), machine_id=machine_id, data=data)


def _load(store: Store) -> dict[int, Pending]:
    found: dict[int, Pending] = {}
    for saved in store.power_orders.with_kept():
        if saved.kept is None or saved.kept.before == saved.kept.found:
            store.power_orders.forget_kept(saved.id)
            continue
        if (older := found.get(saved.machine_id)) is not None:
            store.power_orders.forget_kept(older.order)
        found[saved.machine_id] = Pending(saved.id, saved.kept)
    for machine_id, pending in found.items():
        for later in store.power_orders.finished_after(machine_id, pending.order):
            if {Write.ON, Write.CYCLE} & set(later.outcome.get("writes", ())):
                machine = store.machines.get(machine_id)
                alive = machine.reported_at if machine else 0.0
                found[machine_id] = replace(pending, started_at=later.finished_at, alive_at=alive)
                break
    return found
