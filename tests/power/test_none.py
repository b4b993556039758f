"""The driver without a device: what it asks of people, and what it believes."""

from __future__ import annotations

import pytest

from metalbox.errors import BmcNotSupported, InvalidValue
from metalbox.power import Asked, Device, Endpoint, Mode, Power, PowerState, connect
from metalbox.power.none import NonePower
from tests.power.contract import Contract, Peer


class Person(Peer):
    """Someone who does what is asked and says so."""

    lacks = frozenset({"override"})
    devices = tuple(device for device in Device if device is not Device.NONE)
    guest_shuts_down = True

    def __init__(self) -> None:
        self._is_on = False
        self._starts = 0

    def endpoint(self) -> Endpoint:
        return Endpoint("none", "r1-07")

    def is_on(self) -> bool:
        return self._is_on

    def set_on(self, on: bool) -> None:
        self._starts += on and not self._is_on
        self._is_on = on

    def told(self, power: Power) -> None:
        assert isinstance(power, NonePower)
        power.told = PowerState.ON if self._is_on else PowerState.OFF

    def starts(self) -> int:
        return self._starts

    async def answer(self, power: Power) -> None:
        asked, power.asked = power.asked, None
        if asked is None:
            return
        if asked.verb == "cycle":
            self.set_on(False)
        self.set_on(asked.expects is PowerState.ON)
        self.told(power)


class TestNone(Contract):
    @pytest.fixture
    def peer(self) -> Peer:
        return Person()


async def test_what_nobody_said_is_unknown() -> None:
    power = connect(Endpoint("none", "r1-07"))
    with pytest.raises(BmcNotSupported, match="cannot tell whether r1-07 is on: nobody has said so yet"):
        await power.is_on()
    assert await power.state() is PowerState.UNKNOWN


@pytest.mark.parametrize("state", [PowerState.ON, PowerState.OFF])
async def test_what_was_said_is_believed(state: PowerState) -> None:
    power = connect(Endpoint("none", "", settings={"state": state, "machine": "r1-07"}))
    assert await power.state() is state


async def test_each_verb_is_a_sentence_for_the_timeline() -> None:
    power = connect(Endpoint("none", "r1-07"))
    said = []

    def heard() -> None:
        assert power.asked is not None
        said.append(power.asked)

    await power.on()
    heard()
    await power.off()
    heard()
    await power.off(graceful=True)
    heard()
    await power.cycle()
    heard()
    await power.boot_next(Device.PXE)
    heard()
    await power.boot_next(Device.DISK, mode=Mode.UEFI, once=False)
    heard()
    await power.identify()
    heard()
    assert said == [
        Asked("on", "Switch r1-07 on: press its power button.", PowerState.ON),
        Asked("off", "Switch r1-07 off: hold its power button down until it is off.", PowerState.OFF),
        Asked("off", "Shut r1-07 down from its operating system, or press its power button once.", PowerState.OFF),
        Asked("cycle", "Switch r1-07 off, wait ten seconds, and switch it on again.", PowerState.ON),
        Asked("boot_next", "When r1-07 starts, let it start from the network: press the key of its boot menu."),
        Asked("boot_next", "In the firmware's setup of r1-07, let it always start from its disk in UEFI mode."),
        Asked("identify", "Find r1-07 and mark it: it has no light that metalbox could switch."),
    ]


async def test_nothing_is_asked_when_it_is_so_already() -> None:
    power = connect(Endpoint("none", "r1-07", settings={"state": "on"}))
    await power.off()
    assert power.asked is not None
    await power.on()
    assert power.asked is None
    await power.boot_next(Device.NONE)
    assert power.asked is None


def test_a_state_that_is_none() -> None:
    with pytest.raises(InvalidValue, match="'broken' is no power state: write on, off, unknown"):
        connect(Endpoint("none", "r1-07", settings={"state": "broken"}))
