"""Carries out saved orders: an order is on disk before anything is sent, and each command is on disk before it leaves.

After a crash what was unfinished is taken up where the machine is (metalbox.power.orders says what is sent next, from
the state that is read then); an order older than ABANDON_SECONDS is given up instead, because its reason may be gone.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace

from metalbox.errors import NotFound, Refused
from metalbox.journal import Journal, Kind
from metalbox.machine import Machine
from metalbox.overrides import Overrides
from metalbox.power import Endpoint, Override, PowerState
from metalbox.power.orders import Kept, Outcome, PowerOrder, Verb, Write
from metalbox.power.polite import Front
from metalbox.powerrecords import SavedOrder
from metalbox.steadfast import Steadfast
from metalbox.store import Database, Store

log = logging.getLogger("metalbox.power")

# A restart of the service takes a second, of its host some minutes. After longer someone will have helped himself.
ABANDON_SECONDS = 900.0

Endpoints = Callable[[Store, int], Sequence[Endpoint]]


class Worker:
    """Takes orders, carries them out one machine beside the other, remembers what came of them."""

    def __init__(
        self,
        database: Database,
        front: Front,
        journal: Journal,
        endpoints: Endpoints,
        now: Callable[[], float] = time.time,
    ) -> None:
        """`endpoints` gives the ways to a machine's power, the secrets opened, in the database's thread."""
        # Who orders is told when the database fails; what was accepted is seen through.
        self._plain = database
        database = self._database = Steadfast(database)
        self._front = front
        self._journal = journal
        self._endpoints = endpoints
        self._now = now
        self._queue: asyncio.Queue[int] = asyncio.Queue()
        self._finished: dict[int, asyncio.Event] = {}
        self._begun: set[int] = set()
        self.overrides = Overrides(database, front, journal, endpoints, now)

    @property
    def counters(self) -> Counter[str]:
        """How often the database failed."""
        return self._database.counters

    async def order(self, machine: Machine, verb: Verb, boot: Override | None = None) -> int:
        """Save an order and return its id; it is begun at once. Raises Refused."""
        if machine.conflict:
            raise Refused(f"nothing may be ordered on {machine.name} while it is in conflict: {machine.conflict}")
        number = await self._plain.run(_save, machine.id, PowerOrder(verb, boot), self._now(), self._endpoints)
        what = _words(verb, boot)
        self._journal.record(
            Kind.POWER, f"ordered: {what}", now=self._now(), machine_id=machine.id, data={"order": number, "verb": verb}
        )
        self._queue.put_nowait(number)
        return number

    def begin(self, number: int) -> None:
        """Carry out an order that was saved together with something else."""
        self._queue.put_nowait(number)

    async def wait(self, number: int, seconds: float) -> SavedOrder:
        """The order as it stands when it is finished, or after `seconds`. Raises NotFound."""
        saved = await self._saved(number)
        if saved.finished_at is not None:
            return saved
        # Also what an earlier life left: `run` comes to it.
        event = self._finished.setdefault(number, asyncio.Event())
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await event.wait()
        return await self._saved(number)

    async def _saved(self, number: int) -> SavedOrder:
        saved = await self._plain.run(lambda store: store.power_orders.get(number))
        if saved is None:
            raise NotFound(f"there is no order {number}: only the newest of each machine are kept")
        return saved

    async def run(self) -> None:
        """Take up what an earlier life left, then carry out what comes, until cancelled."""
        await self.overrides.load()
        for left in await self._database.run(lambda store: store.power_orders.unfinished()):
            self._queue.put_nowait(left.id)
        async with asyncio.TaskGroup() as group:
            group.create_task(self.overrides.run(), name="overrides")
            while True:
                number = await self._queue.get()
                group.create_task(self._carry_out(number), name=f"order {number}")

    async def _carry_out(self, number: int) -> None:
        # One that came while those of an earlier life were read is in the queue twice.
        if number in self._begun:
            return
        self._begun.add(number)
        try:
            saved = await self._database.run(lambda store: store.power_orders.get(number))
            if saved is not None and saved.finished_at is None:
                await self._see_through(saved)
        finally:
            self._begun.discard(number)

    async def _see_through(self, saved: SavedOrder) -> None:
        self.overrides.begin(saved.machine_id)
        try:
            await self._finish(saved, await self._outcome(saved))
        finally:
            self.overrides.end(saved.machine_id)
        event = self._finished.pop(saved.id, None)
        if event is not None:
            event.set()

    async def _outcome(self, saved: SavedOrder) -> Outcome:
        age = self._now() - saved.created_at
        # A clock that was set back makes an order look as if it were to come: that is no reason to forget it.
        if age > ABANDON_SECONDS and not saved.order.sent:
            return Outcome(False, PowerState.UNKNOWN, f"given up: it was ordered {age:.0f} s ago", "abandoned")
        return self.overrides.inherit(saved.machine_id, await self._send(saved))

    async def _finish(self, saved: SavedOrder, outcome: Outcome) -> None:
        now = self._now()
        await self._database.run(lambda store: store.power_orders.finish(saved.id, outcome, now))
        await self.overrides.finished(saved, outcome)
        self._tell(saved, outcome, now)

    async def _send(self, saved: SavedOrder) -> Outcome:
        sent = list(saved.order.sent)

        async def about_to_send(write: Write) -> None:
            sent.append(write)
            await self._database.run(lambda store: store.power_orders.mark_sent(saved.id, sent))

        async def about_to_set(kept: Kept) -> None:
            await self._database.run(lambda store: store.power_orders.mark_kept(saved.id, kept))

        def waits(before: int) -> None:
            others = f"{before} other{'s are' if before != 1 else ' is'} before it" if before else "it is the next"
            text = f"{_words(saved.order.verb, saved.order.boot)} waits for its turn to be switched on: {others}"
            data = {"order": saved.id, "before": before}
            self._journal.record(Kind.POWER, text, now=self._now(), machine_id=saved.machine_id, data=data)

        try:
            # By its labels as they are now, not as they were when it was ordered.
            endpoints, labels = await self._database.run(self._subject, saved.machine_id)
            order = replace(saved.order, labels=labels)
            return await self._front.power(
                saved.machine_id, endpoints, order, saved=about_to_send, waits=waits, sets=about_to_set
            )
        except Refused as error:
            # The vault does not open its password.
            return Outcome(False, PowerState.UNKNOWN, str(error), "refused")
        except Exception as error:
            # One order's bug must not take down the others, nor be taken up again and again after each restart.
            log.exception("order %d failed", saved.id)
            return Outcome(False, PowerState.UNKNOWN, f"failed: {type(error).__name__}", "bug")

    def _subject(self, store: Store, machine_id: int) -> tuple[Sequence[Endpoint], Mapping[str, str]]:
        machine = store.machines.get(machine_id)
        return self._endpoints(store, machine_id), machine.labels if machine else {}

    def _tell(self, saved: SavedOrder, outcome: Outcome, now: float) -> None:
        what = _words(saved.order.verb, saved.order.boot)
        data = {"order": saved.id, **asdict(replace(outcome, attempts=outcome.attempts[-5:]))}
        data["power"] = str(data.pop("state"))
        if outcome.done and {Write.ON, Write.CYCLE} & set(outcome.writes):
            # A boot begins here, for those who cut up the time that it takes.
            data["state"] = "on"
        for warning in outcome.warnings:
            self._journal.record(
                Kind.POWER,
                f"warning: {warning.text}",
                now=now,
                machine_id=saved.machine_id,
                data={"code": warning.code},
            )
        self._journal.record(Kind.POWER, f"{what}: {outcome.text}", now=now, machine_id=saved.machine_id, data=data)


def _save(store: Store, machine_id: int, order: PowerOrder, now: float, endpoints: Endpoints) -> int:
    if not endpoints(store, machine_id):
        raise Refused("nothing is known that switches this machine: add its BMC with `metalbox bmc add`")
    return store.power_orders.insert(machine_id, order, now)


def _words(verb: Verb, boot: Override | None) -> str:
    how = f" with {boot.device} {'once' if boot.once else 'from now on'}" if boot else ""
    return f"{verb}{how}"
