"""The lap: everybody once, the sick at nobody's cost, nobody asked in a burst."""

from __future__ import annotations

import asyncio
from zlib import crc32

import pytest

from metalbox.power import Endpoint, PowerState
from metalbox.power.orders import Observation
from metalbox.power.patrol import OUTSIDE, Lap, Machines, Patrol
from metalbox.power.polite import Front, Key
from tests.power.clockwork import START, turn, turned_clock
from tests.power.sickroom import NEVER, STUBBORN, Ward, endpoints

Change = tuple[Key, Observation, Observation]


def hall(ward: Ward, well: int, sick: dict[str, int]) -> Machines:
    """So many machines: those well answer in 20 ms, the sick are spread among them."""
    machines: dict[Key, list[Endpoint]] = {}
    for number in range(well):
        machines[f"w{number}"] = endpoints(f"w{number}")
        ward.boxes[f"w{number}"].latency = 0.02
    for fault, count in sick.items():
        for number in range(count):
            address = f"{fault}{number}"
            machines[address] = endpoints(address)
            for driver in ("redfish", "ipmi"):
                ward.faults[address, driver]["*"] = [fault]
    names = sorted(machines, key=lambda name: crc32(str(name).encode()))
    return {name: machines[name] for name in names}


def patrol_of(ward: Ward, machines: Machines, changes: list[Change] | None = None) -> Patrol:
    async def known() -> Machines:
        return machines

    def seen(machine: Key, before: Observation, after: Observation) -> None:
        if changes is not None:
            changes.append((machine, before, after))

    return Patrol(Front(connect=ward.connect, clock=turned_clock()), known, seen)


def test_a_thousand_with_fifty_sick_keep_to_the_period_lap_after_lap() -> None:
    async def story() -> list[Lap]:
        ward = Ward()
        machines = hall(ward, 950, {NEVER: 25, STUBBORN: 5, "unreachable": 20})
        patrol = patrol_of(ward, machines)
        laps = [await patrol.lap(machines) for _ in range(6)]
        ages = [patrol._front.observation(f"w{number}").age(patrol._front.clock.now()) for number in range(950)]
        assert all(age is not None and age <= 30.0 for age in ages)
        assert all(box.most_flights <= 1 for box in ward.boxes.values())
        return laps

    for lap in turn(story()):
        assert lap.seconds <= 30.0
        assert (lap.machines, lap.answered + lap.skipped + lap.failed) == (1000, 1000)
        assert lap.answered == 950


def test_more_sick_ones_than_places_cost_the_healthy_nothing() -> None:
    async def story() -> None:
        ward = Ward()
        machines = hall(ward, 500, {NEVER: OUTSIDE - 20})
        patrol = patrol_of(ward, machines)
        lap = await patrol.lap(machines)
        assert lap.seconds <= 30.0 and lap.answered == 500

    turn(story())


def test_starts_are_spread_and_an_idle_lap_waits_for_its_period() -> None:
    async def story() -> None:
        ward = Ward()
        machines = hall(ward, 10, {})
        patrol = patrol_of(ward, machines)
        task = asyncio.create_task(patrol.run())
        await asyncio.sleep(61)
        await asyncio.sleep(15)
        assert [len(ward.boxes[f"w{number}"].asked) for number in range(10)] == [3] * 10
        first = [ward.boxes[f"w{number}"].ended_at for number in range(10)]
        assert max(first) - min(first) == pytest.approx(15.0 * 0.9, abs=0.1)
        assert patrol.last is not None and patrol.last.seconds == pytest.approx(15.0 * 0.9, abs=0.5)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await patrol._front.close()

    turn(story())


def test_changes_are_told_once() -> None:
    async def story() -> None:
        ward, changes = Ward(), list[Change]()
        machines = hall(ward, 1, {})
        patrol = patrol_of(ward, machines, changes)
        for _ in range(3):
            await patrol.lap(machines)
        ward.boxes["w0"].is_on = True
        for _ in range(2):
            await patrol.lap(machines)
        ward.faults["w0", "redfish"]["*"] = ward.faults["w0", "ipmi"]["*"] = ["unreachable"]
        for _ in range(5):
            await patrol.lap(machines)
        told = [(before.state, after.state, after.code) for _, before, after in changes]
        off, on = PowerState.OFF, PowerState.ON
        assert told == [(PowerState.UNKNOWN, off, ""), (off, on, ""), (on, on, "unreachable")]

    turn(story())


def test_a_bmc_that_an_order_speaks_to_is_left_alone_and_the_silent_are_not_asked() -> None:
    async def story() -> None:
        ward = Ward()
        ward.boxes["w0"].latency = 60.0
        machines: Machines = {1: endpoints("w0"), 2: [Endpoint("none", "rack 4")], 3: [Endpoint("wol", "w3")]}
        patrol = patrol_of(ward, machines)
        order = asyncio.create_task(
            patrol._front.ask(1, machines[1], "is_on", lambda power: power.is_on(), seconds=100)
        )
        await asyncio.sleep(1)
        lap = await patrol.lap(machines)
        assert (lap.machines, lap.skipped, lap.answered, lap.seconds) == (1, 1, 0, 0.0)
        assert await order is False

    turn(story())


def test_the_service_stops_in_the_middle_of_a_lap() -> None:
    async def story() -> None:
        ward = Ward()
        machines = hall(ward, 5, {NEVER: 20})
        patrol = patrol_of(ward, machines)
        task = asyncio.create_task(patrol.run())
        await asyncio.sleep(12)
        loop = asyncio.get_running_loop()
        started = loop.time()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await patrol._front.close()
        assert loop.time() - started < 5.0
        assert sum(box.flights for box in ward.boxes.values()) == 0
        assert loop.time() - START < 20

    turn(story())
