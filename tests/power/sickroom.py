"""Simulated machines with BMCs that are sick in every way that the fault bench knows. In process, by the loop's clock.

`Box` is the machine: it notes every command that it carried out and how many were in flight at once. `SickPower` is one
driver's way to it; its faults are told verb by verb.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

from metalbox.errors import PowerError
from metalbox.power import Credentials, Device, Endpoint, Mode, Override, Power
from metalbox.power.desk import ERRORS

# Beyond the codes of PowerError: what a fault may be.
NEVER = "never answers"
DONE_THEN_HUNG = "does it and never answers"
IGNORES = "says yes and does nothing"
STUBBORN = "does not even end when cancelled"
CRASH = "the driver has a bug"


@dataclass(eq=False)
class Box:
    """A machine. `lag`: seconds until a switch shows; `latency`: of each command; `lies`: what power reads always."""

    is_on: bool = False
    override: Override = field(default_factory=Override)
    lag: float = 0.0
    latency: float = 0.01
    stubborn: float = 600.0  # how long a command that is STUBBORN does not end
    lies: dict[str, bool] = field(default_factory=dict)  # by driver
    deaf: bool = False  # its operating system does not listen to graceful stops
    sticky: bool = False  # every override stays
    idle: int = 0  # switches to the state that it was in
    done: list[str] = field(default_factory=list)  # what the hardware carried out, in order
    asked: list[tuple[str, str]] = field(default_factory=list)  # (driver, verb), each command that arrived
    flights: int = 0
    most_flights: int = 0
    ended_at: float = -1.0
    shortest_gap: float = 1e9

    def switch(self, to: bool, verb: str) -> None:
        self.done.append(verb)
        self.idle += verb != "cycle" and self.is_on is to
        loop = asyncio.get_running_loop()
        if self.lag:
            loop.call_later(self.lag, setattr, self, "is_on", to)
        else:
            self.is_on = to


class SickPower(Power):
    """One driver's way to a box."""

    def __init__(self, name: str, box: Box, faults: dict[str, list[str]]) -> None:
        self.name = name
        self.can = frozenset({"boot_next", "identify"})
        self.box = box
        self.faults = faults
        self.closed = False

    async def _arrive(self, verb: str) -> str:
        """One command: count it, take its time, play its fault. Returns what shall go wrong about doing it."""
        assert not self.closed, "a driver's object is not used after close"
        box, loop = self.box, asyncio.get_running_loop()
        box.asked.append((self.name, verb))
        box.flights += 1
        box.most_flights = max(box.most_flights, box.flights)
        if box.ended_at >= 0:
            box.shortest_gap = min(box.shortest_gap, loop.time() - box.ended_at)
        try:
            await asyncio.sleep(box.latency)
            faults = self.faults.get(verb) or self.faults.get("*") or []
            # The last fault of a list stays; "" is none.
            fault = (faults.pop(0) if len(faults) > 1 else faults[0]) if faults else ""
            if fault in ERRORS:
                raise ERRORS[fault](f"{self.name} says {fault}", evidence="password is hunter2")
            if fault == CRASH:
                raise KeyError("hunter2")
            if fault == NEVER:
                await asyncio.Event().wait()
            if fault == STUBBORN:
                await _stubborn(box.stubborn)
            return fault
        finally:
            box.flights -= 1
            box.ended_at = loop.time()

    async def _finish(self, fault: str) -> None:
        if fault == DONE_THEN_HUNG:
            await asyncio.sleep(1e9)

    async def is_on(self) -> bool:
        await self._arrive("is_on")
        return self.box.lies.get(self.name, self.box.is_on)

    async def on(self) -> None:
        fault = await self._arrive("on")
        if fault != IGNORES:
            self.box.switch(True, "on")
        await self._finish(fault)

    async def off(self, *, graceful: bool = False) -> None:
        fault = await self._arrive("off_graceful" if graceful else "off")
        if fault != IGNORES and not (graceful and self.box.deaf):
            self.box.switch(False, "off")
        await self._finish(fault)

    async def cycle(self) -> None:
        fault = await self._arrive("cycle")
        if fault != IGNORES:
            self.box.switch(True, "cycle")
        await self._finish(fault)

    async def boot_next(self, device: Device, *, mode: Mode = Mode.KEEP, once: bool = True) -> None:
        fault = await self._arrive("boot_next")
        if fault != IGNORES:
            self.box.override = Override(device, mode, once and not self.box.sticky)
            self.box.done.append(f"boot {device}")

    async def override(self) -> Override:
        await self._arrive("override")
        return self.box.override

    async def identify(self, seconds: int = 15) -> None:
        await self._arrive("identify")

    async def close(self) -> None:
        self.closed = True


async def _stubborn(seconds: float) -> None:
    loop = asyncio.get_running_loop()
    until = loop.time() + seconds
    while loop.time() < until:
        try:
            await asyncio.sleep(until - loop.time())
        except asyncio.CancelledError:
            continue


class Ward:
    """Many boxes, and the `connect` that a Front takes. Faults by (address, driver): {verb or "*": [fault, ...]}."""

    def __init__(self) -> None:
        self.boxes: dict[str, Box] = defaultdict(Box)
        self.faults: dict[tuple[str, str], dict[str, list[str]]] = defaultdict(dict)
        self.made = 0

    def connect(self, endpoint: Endpoint) -> Power:
        self.made += 1
        return SickPower(endpoint.driver, self.boxes[endpoint.address], self.faults[endpoint.address, endpoint.driver])


def endpoints(
    address: str = "b1", drivers: Sequence[str] = ("redfish", "ipmi"), password: str = "hunter2"
) -> list[Endpoint]:
    """A machine's ways: the given drivers at one address."""
    return [Endpoint(driver, address, credentials=Credentials("metalbox", password)) for driver in drivers]


def code_of(error: BaseException) -> str:
    """The code of a PowerError."""
    assert isinstance(error, PowerError), error
    return error.code
