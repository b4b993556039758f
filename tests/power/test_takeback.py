"""Taking back what was set for one boot: one reading, a write only where it is still set, and that write read back."""

from __future__ import annotations

import pytest

from metalbox.errors import BmcNotObeyed
from metalbox.power import Device, Endpoint, Mode, Override, Power
from metalbox.power.orders import Kept
from metalbox.power.polite import Front
from metalbox.power.takeback import Fate, take_back
from tests.power.clockwork import turn, turned_clock

PLACE = Endpoint("ipmi", "192.0.2.50")
PXE = Override(Device.PXE, Mode.BIOS, False)


class Bmc(Power):
    """Counts what it is asked; a deaf one takes orders and keeps what it has."""

    name = "ipmi"
    can = frozenset({"boot_next"})

    def __init__(self, *, deaf: bool = False) -> None:
        self.set = PXE
        self.deaf = deaf
        self.told: list[str] = []

    async def override(self) -> Override:
        self.told.append("read")
        return self.set

    async def boot_next(self, device: Device, *, mode: Mode = Mode.KEEP, once: bool = True) -> None:
        self.told.append(f"set {device}")
        if not self.deaf:
            self.set = Override(device, mode, once)


def kept(before: Override | None = None, *, address: str = "192.0.2.50") -> Kept:
    return Kept("ipmi", address, before or Override(), PXE, 0.0)


def taken(bmc: Bmc, what: Kept) -> Fate:
    async def story() -> Fate:
        front = Front(connect=lambda endpoint: bmc, clock=turned_clock())
        return await take_back(front, 1, [PLACE], what)

    return turn(story())


def test_what_is_still_set_is_taken_back_and_read_back() -> None:
    bmc = Bmc()
    assert taken(bmc, kept()) is Fate.TAKEN_BACK
    assert bmc.told == ["read", "set none", "read"]
    bmc = Bmc()
    assert taken(bmc, kept(Override(Device.DISK, Mode.BIOS, False))) is Fate.TAKEN_BACK
    assert bmc.set == Override(Device.DISK, Mode.BIOS, False)
    bmc = Bmc()
    taken(bmc, kept(Override(Device.DISK, Mode.BIOS, True)))
    assert bmc.set.device is Device.NONE, "what was set for one boot, long ago, is not set again"


def test_nothing_is_written_where_something_else_is_set() -> None:
    for other in (Override(), Override(Device.PXE, Mode.UEFI, False), Override(Device.PXE, Mode.BIOS, True)):
        bmc = Bmc()
        bmc.set = other
        assert taken(bmc, kept()) is Fate.GONE
        assert bmc.told == ["read"]


def test_a_bmc_that_is_not_known_any_more_is_not_asked() -> None:
    bmc = Bmc()
    assert taken(bmc, kept(address="192.0.2.51")) is Fate.GONE
    assert bmc.told == []


def test_a_bmc_that_takes_it_and_keeps_it_is_not_believed() -> None:
    with pytest.raises(BmcNotObeyed, match="told none and still has pxe"):
        taken(Bmc(deaf=True), kept())
