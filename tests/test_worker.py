"""Orders: on disk before anything is sent, taken up after a crash, given up when they are old."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.exc import OperationalError

from metalbox.errors import NotFound, Refused
from metalbox.journal import Journal
from metalbox.listing import Wanted, everything
from metalbox.machine import Machine
from metalbox.power import Device, Endpoint, Mode, Override, Power
from metalbox.power.desk import Clock
from metalbox.power.orders import PowerOrder, Verb, Write
from metalbox.power.polite import Front, Manners
from metalbox.store import Database, Store, sqlite_url
from metalbox.worker import ABANDON_SECONDS, Worker

NOW = 1_800_000_000.0
QUICK = Manners(gap=0.0, first_pause=0.01, on=2.0, off=2.0, override=0.5)


class Box(Power):
    """A machine that obeys; `blocks` holds it up before it switches, as a crash would."""

    name = "redfish"
    can = frozenset({"boot_next"})

    def __init__(self) -> None:
        self.power = False
        self.boot = Override()
        self.done: list[str] = []
        self.blocks: asyncio.Event | None = None
        self.held = asyncio.Event()

    async def is_on(self) -> bool:
        return self.power

    async def on(self) -> None:
        if self.blocks is not None:
            self.held.set()
            await self.blocks.wait()
        self.done.append("on")
        self.power = True

    async def off(self, *, graceful: bool = False) -> None:
        self.done.append("off")
        self.power = False

    async def cycle(self) -> None:
        self.done.append("cycle")

    async def boot_next(self, device: Device, *, mode: Mode = Mode.KEEP, once: bool = True) -> None:
        self.done.append(f"boot {device}")
        self.boot = Override(device, mode, once)

    async def override(self) -> Override:
        return self.boot


class Bench:
    """A database on disk, one machine in it, and the box that it is."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.box = Box()
        self.now = NOW
        self.endpoints = [Endpoint("redfish", "192.0.2.50")]

    @asynccontextmanager
    async def life(self) -> AsyncIterator[tuple[Worker, Database, Machine]]:
        """One run of the service; leaving it is a stop in the middle of whatever is going on."""
        database = Database(Store.open(sqlite_url(self.folder / "metalbox.db")))
        clock = Clock(now=lambda: self.now)
        front = Front(connect=lambda endpoint: self.box, manners=QUICK, clock=clock)
        worker = Worker(database, front, Journal(), lambda store, number: self.endpoints, lambda: self.now)
        machine = await database.run(_machine)
        task = asyncio.create_task(worker.run())
        try:
            yield worker, database, machine
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
            await front.close()
            await database.close()


def _machine(store: Store) -> Machine:
    found = everything(store, Wanted())
    if not found:
        store.machines.add(Machine(id=0, name="m1", state="discovered", serial="S1", first_seen=NOW, last_seen=NOW))
    machine = store.machines.get(1)
    assert machine is not None
    return machine


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


async def test_an_order_is_carried_out_and_remembered(bench: Bench) -> None:
    async with bench.life() as (worker, _, machine):
        number = await worker.order(machine, Verb.ON, Override(Device.PXE))
        saved = await worker.wait(number, 60)
    assert saved.finished_at is not None
    assert saved.outcome["done"] is True
    assert bench.box.done == ["boot pxe", "on"]


async def test_what_was_sent_is_on_disk_before_it_leaves(bench: Bench) -> None:
    bench.box.blocks = asyncio.Event()
    async with bench.life() as (worker, database, machine):
        number = await worker.order(machine, Verb.ON)
        while True:
            saved = await database.run(lambda store: store.power_orders.get(number))
            assert saved is not None
            if saved.order.sent:
                break
            await asyncio.sleep(0.01)
        assert saved.order.sent == (Write.ON,)
        assert bench.box.done == []


async def test_after_a_crash_it_goes_on_where_the_machine_is(bench: Bench) -> None:
    """Killed between the command's save and its effect; and again after the effect: switched on once in all."""
    bench.box.blocks = asyncio.Event()
    async with bench.life() as (worker, _, machine):
        number = await worker.order(machine, Verb.CYCLE)
        await asyncio.wait_for(bench.box.held.wait(), 60)
    assert bench.box.done == []
    bench.box.blocks = None
    async with bench.life() as (worker, _, _):
        saved = await worker.wait(number, 60)
        assert saved.outcome["done"] is True
    assert bench.box.done == ["on"]
    async with bench.life() as (worker, database, _):
        assert await database.run(lambda store: store.power_orders.unfinished()) == []
    assert bench.box.done == ["on"]


async def test_an_old_order_is_given_up(bench: Bench) -> None:
    async with bench.life() as (_, database, machine):
        number = await database.run(lambda store: store.power_orders.insert(machine.id, PowerOrder(Verb.ON), NOW))
    bench.now = NOW + ABANDON_SECONDS + 1
    async with bench.life() as (worker, _, _):
        saved = await worker.wait(number, 60)
    assert saved.outcome["code"] == "abandoned"
    assert bench.box.done == []


async def test_a_machine_that_nothing_switches(bench: Bench) -> None:
    bench.endpoints = []
    async with bench.life() as (worker, database, machine):
        with pytest.raises(Refused, match=r"metalbox bmc add"):
            await worker.order(machine, Verb.ON)
        assert await database.run(lambda store: store.power_orders.unfinished()) == []


async def test_a_machine_in_conflict(bench: Bench) -> None:
    async with bench.life() as (worker, _, machine):
        twin = Machine(id=machine.id, name="m1", state="discovered", conflict="it has the same UUID as m2")
        with pytest.raises(Refused, match="in conflict"):
            await worker.order(twin, Verb.OFF)


async def test_an_order_that_is_not_there(bench: Bench) -> None:
    async with bench.life() as (worker, _, _):
        with pytest.raises(NotFound, match="there is no order 77"):
            await worker.wait(77, 0)


async def test_a_database_that_fails_for_a_while(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing leaves that is not on disk, and the order is carried out when the disk has room again."""
    monkeypatch.setattr("metalbox.steadfast.FIRST_SECONDS", 0.01)
    async with bench.life() as (worker, database, machine):
        number = await worker.order(machine, Verb.ON)
        whole, asked, enough = database.run, 0, asyncio.Event()

        async def full(*args: Any, **kwargs: Any) -> Any:
            nonlocal asked
            asked += 1
            if asked >= 12 and bench.box.done:
                enough.set()
            if asked % 4:
                raise OperationalError("UPDATE", {}, Exception("database or disk is full"))
            return await whole(*args, **kwargs)

        with monkeypatch.context() as patch:
            patch.setattr(database, "run", full)
            async with asyncio.timeout(60):
                await enough.wait()
        saved = await worker.wait(number, 60)
        assert saved.outcome["done"] is True
        assert worker.counters["database failed"] >= 9
        asked = 0
        with monkeypatch.context() as patch:
            patch.setattr(database, "run", full)
            with pytest.raises(OperationalError):
                await worker.order(machine, Verb.OFF)
    assert bench.box.done == ["on"]


async def test_a_password_that_does_not_open(bench: Bench) -> None:
    """It costs this order, and neither the others nor the service."""
    async with bench.life() as (worker, _, machine):
        first = await worker.order(machine, Verb.ON)
        whole = worker._endpoints

        def sealed(store: Store, number: int) -> list[Endpoint]:
            raise Refused("the secret of BMC 1 is damaged")

        worker._endpoints = sealed
        saved = await worker.wait(first, 60)
        worker._endpoints = whole
        assert (saved.outcome["code"], saved.outcome["text"]) == ("refused", "the secret of BMC 1 is damaged")
        assert (await worker.wait(await worker.order(machine, Verb.ON), 60)).outcome["done"] is True


async def test_a_bug_in_one_order_stops_no_other(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(*args: Any, **kwargs: Any) -> Any:
        raise ZeroDivisionError

    async with bench.life() as (worker, _, machine):
        with monkeypatch.context() as patch:
            patch.setattr(Front, "power", broken)
            first = await worker.wait(await worker.order(machine, Verb.ON), 60)
        second = await worker.wait(await worker.order(machine, Verb.ON), 60)
    assert first.outcome["code"] == "bug"
    assert second.outcome["done"] is True


async def test_an_order_that_comes_while_the_service_starts_is_carried_out_once(bench: Bench) -> None:
    async with bench.life() as (worker, _, machine):
        numbers = [await worker.order(machine, Verb.RESET) for _ in range(3)]
        for number in numbers:
            assert (await worker.wait(number, 60)).outcome["done"]
    assert bench.box.done == ["on", "cycle", "cycle"]
