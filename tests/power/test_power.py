"""The protocol itself: the table of drivers, and what a driver says that lacks a verb."""

from __future__ import annotations

import importlib
import pkgutil
import subprocess
import sys

import pytest

import metalbox.power
from metalbox import errors
from metalbox.errors import BmcNotSupported, BmcUnreachable, InvalidValue, PowerError
from metalbox.power import DRIVERS, VERBS, Credentials, Device, Endpoint, Power, PowerState, connect


class Mute(Power):
    """A driver that can nothing."""

    name = "mute"


class Deaf(Mute):
    async def is_on(self) -> bool:
        raise BmcUnreachable("nobody answers at 192.0.2.9")


async def test_a_driver_says_what_it_lacks() -> None:
    mute = Mute()
    for call, sentence in (
        (mute.is_on(), "the driver mute cannot tell whether the machine is on"),
        (mute.on(), "the driver mute cannot switch a machine on"),
        (mute.off(graceful=True), "the driver mute cannot switch a machine off"),
        (mute.cycle(), "the driver mute cannot switch a machine off and on"),
        (mute.boot_next(Device.PXE), "the driver mute cannot set what the machine boots next"),
        (mute.override(), "the driver mute cannot tell what the machine boots next"),
        (mute.identify(), "the driver mute cannot blink the machine's light"),
        (mute.sensors(), "the driver mute cannot read sensors"),
        (mute.event_log(), "the driver mute cannot read an event log"),
        (mute.inventory(), "the driver mute cannot say what machine this is"),
    ):
        with pytest.raises(BmcNotSupported) as caught:
            await call
        assert str(caught.value) == sentence
    await mute.close()
    assert mute.can == frozenset()
    assert mute.asked is None


async def test_the_state_is_unknown_only_where_nobody_can_tell() -> None:
    assert await Mute().state() is PowerState.UNKNOWN
    with pytest.raises(BmcUnreachable):
        await Deaf().state()


def test_a_driver_that_is_not_there() -> None:
    with pytest.raises(InvalidValue, match="no power driver 'ilo': write one of redfish, ipmi, none, wol, libvirt"):
        connect(Endpoint("ilo", "192.0.2.9"))


def test_a_setting_that_is_not_there() -> None:
    with pytest.raises(InvalidValue, match="the driver libvirt has no setting url: it knows uri"):
        connect(Endpoint("libvirt", "a", settings={"url": "qemu:///system"}))


def test_drivers_are_loaded_when_asked_for() -> None:
    code = "import sys, metalbox.power as p; p.connect(p.Endpoint('none', 'a')); print(' '.join(sys.modules))"
    loaded = set(
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    )
    assert "metalbox.power.none" in loaded
    assert not loaded & {"metalbox.power.ipmi", "metalbox.power.redfish", "pyghmi", "sushy", "asyncio"}


def test_the_table_names_modules_that_are_there() -> None:
    present = {f"metalbox.power.{info.name}" for info in pkgutil.iter_modules(metalbox.power.__path__)}
    for row in DRIVERS.values():
        if row.module in present:
            assert callable(importlib.import_module(row.module).connect)
    assert "boot_next" in VERBS


def test_a_password_is_in_no_repr() -> None:
    endpoint = Endpoint("ipmi", "192.0.2.9", credentials=Credentials("admin", "geheim"), settings={"kg": "geheim"})
    assert repr(endpoint.credentials) == "Credentials(user='admin')"
    assert "geheim" not in repr(endpoint)
    assert endpoint in {endpoint}


def test_each_failure_has_a_word_of_its_own() -> None:
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, PowerError)]
    codes = [kind.code for kind in kinds]
    assert len(set(codes)) == len(codes) == 12
    assert BmcUnreachable("nobody answers", evidence="no route to host").evidence == "no route to host"
