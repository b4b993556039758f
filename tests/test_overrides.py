"""Overrides for one boot: taken back after it where the BMC keeps them, and left alone where that would be wrong."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from metalbox.errors import BmcHung, BmcNotSupported
from metalbox.journal import Journal
from metalbox.overrides import OLD_BOOT_SECONDS, QUIET_SECONDS, TRIES
from metalbox.power import Device, Mode, Override
from metalbox.power.orders import Verb
from metalbox.worker import Worker
from tests.test_worker import Bench, Box

PXE = Override(Device.PXE, Mode.KEEP, True)
DISK = Override(Device.DISK, Mode.KEEP, True)
KEPT_PXE = Override(Device.PXE, Mode.KEEP, False)


class Keeper(Box):
    """A BMC that keeps what it was told for one boot, as sushy-tools and ipmi_sim do."""

    async def boot_next(self, device: Device, *, mode: Mode = Mode.KEEP, once: bool = True) -> None:
        await super().boot_next(device, mode=mode, once=False)


class Room:
    """One machine with a BMC, a service beside it, and a clock that is turned by hand."""

    def __init__(self, bench: Bench, box: Box) -> None:
        bench.box = box
        self.bench = bench
        self.box = box
        self.journal = Journal()

    @asynccontextmanager
    async def life(self) -> AsyncIterator[Worker]:
        async with self.bench.life() as (worker, _, machine):
            self.worker, self.machine, self.journal = worker, machine, worker._journal
            await worker.overrides.load()
            yield worker

    async def order(self, verb: Verb, boot: Override | None = None) -> None:
        saved = await self.worker.wait(await self.worker.order(self.machine, verb, boot), 60)
        assert saved.outcome.get("done"), saved

    async def later(self, seconds: float, *, alive: bool = False) -> list[str]:
        """What is told and done when so much time has passed; `alive`: then the machine asked what to boot."""
        self.bench.now += seconds
        if alive:
            self.worker.overrides.alive(self.machine.id)
            self.bench.now += 1
        told, done = len(self.journal.pending), len(self.box.done)
        await self.worker.overrides.look()
        return [entry.text for entry in self.journal.pending[told:]] + self.box.done[done:]


@pytest.fixture
def room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Room:
    # Nobody looks by himself, in the middle of a look of ours.
    monkeypatch.setattr("metalbox.overrides.LOOK_SECONDS", 3600.0)
    return Room(Bench(tmp_path), Keeper())


async def test_it_is_taken_back_after_the_boot_and_not_before(room: Room) -> None:
    async with room.life():
        await room.order(Verb.ON, PXE)
        assert await room.later(60) == []
        assert await room.later(1, alive=True) == [
            "redfish had kept pxe, always after the boot that it was set for: it is none again",
            "boot none",
        ]
        assert room.box.boot.device is Device.NONE
        assert await room.later(QUIET_SECONDS + 1, alive=True) == [], "once"


async def test_a_bmc_that_forgets_by_itself_is_asked_once_and_told_nothing(room: Room) -> None:
    room.bench.box = room.box = box = Box()
    async with room.life():
        await room.order(Verb.ON, PXE)
        box.boot = Override()
        assert await room.later(1, alive=True) == []
        box.boot = KEPT_PXE
        assert await room.later(QUIET_SECONDS + 1, alive=True) == []


async def test_what_somebody_else_has_set_is_left_alone(room: Room) -> None:
    async with room.life():
        await room.order(Verb.ON, PXE)
        room.box.boot = Override(Device.BIOS, Mode.KEEP, True)
        assert await room.later(1, alive=True) == []
        assert room.box.boot.device is Device.BIOS


async def test_what_was_set_for_all_boots_comes_back(room: Room) -> None:
    room.box.boot = Override(Device.DISK, Mode.KEEP, False)
    async with room.life():
        await room.order(Verb.ON, PXE)
        assert (await room.later(1, alive=True))[-1] == "boot disk"
        assert room.box.boot == Override(Device.DISK, Mode.KEEP, False)


async def test_a_machine_that_starts_from_its_disk_says_nothing(room: Room) -> None:
    async with room.life():
        await room.order(Verb.BOOT_NEXT, DISK)
        assert await room.later(QUIET_SECONDS * 3) == [], "it was not switched on since"
        await room.order(Verb.CYCLE)
        assert await room.later(QUIET_SECONDS) == []
        assert (await room.later(1))[-1] == "boot none"


async def test_the_boot_of_before_does_not_count(room: Room) -> None:
    """Nobody has switched it on since through us: who asks at once is still in the boot of before."""
    async with room.life():
        await room.order(Verb.BOOT_NEXT, PXE)
        assert await room.later(10, alive=True) == []
        assert await room.later(OLD_BOOT_SECONDS) == []
        assert (await room.later(1, alive=True))[-1] == "boot none"


async def test_the_newest_order_counts_and_remembers_what_was_there_first(room: Room) -> None:
    async with room.life():
        await room.order(Verb.BOOT_NEXT, DISK)
        await room.order(Verb.CYCLE)
        await room.order(Verb.BOOT_NEXT, DISK)
        assert await room.later(OLD_BOOT_SECONDS - 1, alive=True) == [], "the second one waits for its own boot"
        await room.order(Verb.CYCLE, PXE)
        assert (await room.later(1, alive=True))[-1] == "boot none"
        assert await room.later(QUIET_SECONDS * 2, alive=True) == []


async def test_an_order_for_all_boots_is_not_taken_back(room: Room) -> None:
    async with room.life():
        await room.order(Verb.ON, PXE)
        await room.order(Verb.BOOT_NEXT, KEPT_PXE)
        assert await room.later(QUIET_SECONDS + 1, alive=True) == []
        assert room.box.boot == KEPT_PXE


async def test_a_restart_forgets_nothing(room: Room) -> None:
    async with room.life():
        await room.order(Verb.BOOT_NEXT, PXE)
        await room.order(Verb.CYCLE)
    async with room.life():
        assert await room.later(60) == []
        assert (await room.later(1, alive=True))[-1] == "boot none"
    async with room.life():
        assert await room.later(QUIET_SECONDS + 1, alive=True) == []


async def test_killed_between_the_override_and_the_power_on(room: Room) -> None:
    """The order is taken up again, sets the override again, and knows what there was before the first time."""
    room.box.blocks = asyncio.Event()
    async with room.life() as worker:
        number = await worker.order(room.machine, Verb.ON, PXE)
        await asyncio.wait_for(room.box.held.wait(), 60)
    assert room.box.done == ["boot pxe"]
    room.box.blocks = None
    async with room.life() as worker:
        assert (await worker.wait(number, 60)).outcome["done"]
        assert (await room.later(1, alive=True))[-1] == "boot none"


async def test_a_bmc_that_does_not_answer_is_asked_again_and_then_told_of(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def hangs() -> Override:
        raise BmcHung("192.0.2.50 does not answer")

    async with room.life():
        await room.order(Verb.ON, PXE)
        with monkeypatch.context() as patch:
            patch.setattr(room.box, "override", hangs)
            assert await room.later(1, alive=True) == []
            assert await room.later(30) == []
            told = [line for _ in range(TRIES) for line in await room.later(4000)]
        (line,) = told
        assert line.startswith("warning: pxe, always may still be set for all boots and could not be taken back: 192.0")


async def test_a_bmc_that_cannot_is_told_of_at_once(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    async def cannot(device: Device, *, mode: Mode = Mode.KEEP, once: bool = True) -> None:
        raise BmcNotSupported("this BMC cannot take a boot override back")

    async with room.life():
        await room.order(Verb.ON, PXE)
        monkeypatch.setattr(room.box, "boot_next", cannot)
        (line,) = await room.later(1, alive=True)
        assert line.endswith("could not be taken back: this BMC cannot take a boot override back")
        assert await room.later(QUIET_SECONDS, alive=True) == []
