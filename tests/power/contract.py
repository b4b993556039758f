"""What every power driver must do, whatever it speaks: one set of cases, held against a peer that knows the truth.

    class TestMyDriver(Contract):
        @pytest.fixture
        def peer(self) -> Iterator[Peer]: ...

The peer stands behind the driver and tells from outside what really happened (libvirt, the wire, a person's hand). What
a driver cannot do is in `peer.lacks`; there the case is that it says so, never that the case is left out.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import time
from collections.abc import AsyncIterator, Callable

import pytest

from metalbox.errors import (
    BmcHung,
    BmcNotSupported,
    BmcRefused,
    BmcUnreachable,
    BmcWrongPassword,
    PowerError,
)
from metalbox.power import DRIVERS, VERBS, Credentials, Device, Endpoint, Mode, Power, PowerState, connect

# Looks like nothing else in a log, so that a search for it proves something.
SECRET = "Zq7-geheim-Xw"


class Peer:
    """The other side of one driver. Override what differs; the defaults are those of a complete BMC."""

    # Verbs that answer BmcNotSupported: is_on, off, cycle, override, and those of VERBS.
    lacks: frozenset[str] = frozenset()
    # Devices that boot_next takes, and those that it must refuse.
    devices: tuple[Device, ...] = (Device.PXE, Device.DISK)
    refused: tuple[Device, ...] = ()
    # Whether `once` and the lasting form are told apart when the override is read back (sushy-emulator: never once).
    knows_once = True
    # Whether the guest listens to the power button.
    guest_shuts_down = False
    # Seconds until the truth shows what the driver was told.
    patience = 60.0

    def endpoint(self) -> Endpoint:
        """The machine under test."""
        raise AssertionError("give the peer an endpoint")

    def is_on(self) -> bool:
        """The truth."""
        raise AssertionError("give the peer a truth")

    def set_on(self, on: bool) -> None:
        """Make it so, past the driver; at once."""
        raise AssertionError("give the peer a switch")

    def told(self, power: Power) -> None:
        """Let the driver hear what `set_on` did, where it has no way to look (none)."""

    def starts(self) -> object:
        """Something that is another value after each power-on (a process id, a count)."""
        raise AssertionError("give the peer a count of starts")

    def first_device(self) -> Device | None:
        """What the machine would boot first, by the peer's own knowledge; None: it cannot tell."""
        return None

    async def answer(self, power: Power) -> None:
        """Do what a person was asked for by the last verb, if anything."""

    def unknown_machine(self) -> Endpoint | None:
        """An endpoint that answers and does not have the machine."""
        return None

    def unreachable(self) -> Endpoint | None:
        """An endpoint at which nobody answers."""
        return None

    def wrong_password(self) -> Endpoint | None:
        """The machine under test, with SECRET for a password."""
        endpoint = self.endpoint()
        if endpoint.credentials is None:
            return None
        return dataclasses.replace(endpoint, credentials=Credentials(endpoint.credentials.user, SECRET))

    def hanging(self) -> Endpoint | None:
        """An endpoint that takes what is sent and never answers."""
        return None


class Contract:
    """The cases. A class of its own for each driver inherits them and gives a `peer`."""

    @pytest.fixture
    async def power(self, peer: Peer) -> AsyncIterator[Power]:
        """The driver before the peer's machine, which is off."""
        power = connect(peer.endpoint())
        _switch(peer, power, False)
        yield power
        await power.close()

    # -- power ---------------------------------------------------------------------------------------------------

    async def test_is_on_is_the_truth(self, peer: Peer, power: Power) -> None:
        if "is_on" in peer.lacks:
            with pytest.raises(BmcNotSupported):
                await power.is_on()
            assert await power.state() is PowerState.UNKNOWN
            return
        for on in (False, True, False):
            _switch(peer, power, on)
            assert await power.is_on() is on
            assert await power.state() is (PowerState.ON if on else PowerState.OFF)

    async def test_on_switches_on(self, peer: Peer, power: Power) -> None:
        await power.on()
        await peer.answer(power)
        await _until(peer.is_on, peer.patience)
        await _agrees(peer, power, True)

    async def test_on_leaves_alone_what_is_on(self, peer: Peer, power: Power) -> None:
        _switch(peer, power, True)
        before = peer.starts()
        await power.on()
        await peer.answer(power)
        await _agrees(peer, power, True)
        assert peer.is_on()
        assert peer.starts() == before

    async def test_off_switches_off(self, peer: Peer, power: Power) -> None:
        if "off" in peer.lacks:
            with pytest.raises(BmcNotSupported):
                await power.off()
            return
        _switch(peer, power, True)
        await power.off()
        await peer.answer(power)
        await _until(lambda: not peer.is_on(), peer.patience)
        await _agrees(peer, power, False)

    async def test_off_leaves_alone_what_is_off(self, peer: Peer, power: Power) -> None:
        if "off" in peer.lacks:
            return
        for graceful in (False, True):
            await power.off(graceful=graceful)
            await peer.answer(power)
            assert not peer.is_on()
            await _agrees(peer, power, False)

    async def test_graceful_off_asks_and_does_not_pull_the_plug(self, peer: Peer, power: Power) -> None:
        if "off" in peer.lacks:
            with pytest.raises(BmcNotSupported):
                await power.off(graceful=True)
            return
        _switch(peer, power, True)
        await power.off(graceful=True)
        await peer.answer(power)
        if peer.guest_shuts_down:
            await _until(lambda: not peer.is_on(), peer.patience)
            return
        deadline = time.monotonic() + 1
        while time.monotonic() < deadline:
            assert peer.is_on(), "a guest that does not listen was switched off"
            await asyncio.sleep(0.1)

    @pytest.mark.parametrize("was_on", [True, False], ids=["from on", "from off"])
    async def test_cycle_is_a_new_start(self, peer: Peer, power: Power, was_on: bool) -> None:
        if "cycle" in peer.lacks:
            with pytest.raises(BmcNotSupported):
                await power.cycle()
            return
        _switch(peer, power, was_on)
        before = peer.starts()
        await power.cycle()
        await peer.answer(power)
        await _until(lambda: peer.is_on() and peer.starts() != before, peer.patience)
        await _agrees(peer, power, True)

    # -- what boots next -----------------------------------------------------------------------------------------

    async def test_boot_next_is_read_back(self, peer: Peer, power: Power) -> None:
        if "boot_next" in peer.lacks:
            with pytest.raises(BmcNotSupported):
                await power.boot_next(Device.PXE)
            return
        if "override" in peer.lacks:
            with pytest.raises(BmcNotSupported):
                await power.override()
        for device in (*peer.devices, peer.devices[0]):
            for once in (True, False):
                await power.boot_next(device, once=once)
                if "override" not in peer.lacks:
                    override = await power.override()
                    assert override.device is device
                    assert override.once is once or not peer.knows_once
                assert peer.first_device() in (device, None)

    async def test_boot_next_none_clears(self, peer: Peer, power: Power) -> None:
        if "boot_next" in peer.lacks:
            return
        before = peer.first_device()
        await power.boot_next(peer.devices[-1])
        await power.boot_next(Device.NONE)
        if "override" not in peer.lacks:
            assert (await power.override()).device is Device.NONE
        assert peer.first_device() is before

    async def test_what_cannot_be_booted_is_refused_and_changes_nothing(self, peer: Peer, power: Power) -> None:
        for device in peer.refused:
            before = peer.first_device()
            with pytest.raises((BmcNotSupported, BmcRefused)) as caught:
                await power.boot_next(device, mode=Mode.KEEP)
            assert _is_sentence(str(caught.value))
            assert peer.first_device() is before

    async def test_an_override_needs_no_power(self, peer: Peer, power: Power) -> None:
        if "boot_next" in peer.lacks:
            return
        await power.boot_next(peer.devices[0])
        assert not peer.is_on()

    # -- the optional verbs --------------------------------------------------------------------------------------

    async def test_what_it_can_works_and_the_rest_is_said(self, peer: Peer, power: Power) -> None:
        assert power.can <= VERBS
        assert power.can.isdisjoint(peer.lacks)
        verbs: dict[str, Callable[[], object]] = {
            "identify": lambda: power.identify(1),
            "sensors": power.sensors,
            "event_log": power.event_log,
            "inventory": power.inventory,
        }
        for verb, call in verbs.items():
            if verb in power.can:
                await call()  # type: ignore[misc]
            else:
                with pytest.raises(BmcNotSupported, match=power.name):
                    await call()  # type: ignore[misc]

    # -- what goes wrong -----------------------------------------------------------------------------------------

    async def test_a_machine_that_it_does_not_have(self, peer: Peer) -> None:
        if (endpoint := peer.unknown_machine()) is not None:
            await _fails(endpoint, peer, BmcRefused)

    async def test_an_address_at_which_nobody_answers(self, peer: Peer) -> None:
        if (endpoint := peer.unreachable()) is not None:
            await _fails(endpoint, peer, BmcUnreachable)

    async def test_a_wrong_password(self, peer: Peer) -> None:
        if (endpoint := peer.wrong_password()) is not None:
            await _fails(endpoint, peer, BmcWrongPassword)

    async def test_a_caller_that_does_not_wait(self, peer: Peer, power: Power) -> None:
        """What hangs is given up when the caller's own time is over, and the next machine is not delayed."""
        endpoint = peer.hanging()
        if endpoint is None:
            return
        hung = connect(endpoint)
        started = time.monotonic()
        with pytest.raises((TimeoutError, BmcHung, BmcUnreachable)):
            async with asyncio.timeout(0.3):
                await _say(hung, peer)
        assert time.monotonic() - started < 15  # drivers of their own accord wait 20 s, or for ever
        await _say(power, peer)
        await hung.close()

    async def test_cancelling_leaves_the_driver_usable(self, peer: Peer, power: Power) -> None:
        task = asyncio.create_task(_say(power, peer))
        await asyncio.sleep(0.002)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        await _until_no_error(lambda: _say(power, peer), peer.patience)

    async def test_closing_twice(self, peer: Peer) -> None:
        unused = connect(peer.endpoint())
        await unused.close()
        await unused.close()
        used = connect(peer.endpoint())
        await _say(used, peer)
        await used.close()
        await used.close()

    async def test_nothing_shows_a_password(self, peer: Peer, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.DEBUG)
        endpoint = dataclasses.replace(
            peer.wrong_password() or peer.endpoint(), credentials=Credentials("operator", SECRET)
        )
        shown = [repr(endpoint), str(endpoint), repr(endpoint.credentials)]
        # A driver may refuse such credentials at the door; the sentence is searched too.
        with contextlib.suppress(Exception):
            power = connect(endpoint)
            shown += [repr(power), str(power)]
        try:
            power = connect(endpoint)
            await _say(power, peer)
            await power.close()
        except Exception as error:
            chain: BaseException | None = error
            while chain is not None:
                shown += [str(chain), repr(chain), str(getattr(chain, "evidence", ""))]
                chain = chain.__cause__ or chain.__context__
        for text in (*shown, caplog.text):
            assert SECRET not in text

    async def test_it_stands_in_the_table(self, peer: Peer, power: Power) -> None:
        row = DRIVERS[peer.endpoint().driver]
        assert power.name == row.name
        assert row.text


def _switch(peer: Peer, power: Power, on: bool) -> None:
    peer.set_on(on)
    peer.told(power)


async def _say(power: Power, peer: Peer) -> None:
    """The least that each driver can be asked."""
    if "is_on" in peer.lacks:
        await power.on()
    else:
        await power.state()


async def _agrees(peer: Peer, power: Power, on: bool) -> None:
    """What the driver reads becomes what the peer knows; some BMCs show a change a moment later."""
    if "is_on" in peer.lacks:
        return
    deadline = time.monotonic() + peer.patience
    while await power.is_on() is not on:
        assert time.monotonic() < deadline, f"the driver does not see that the machine is {'on' if on else 'off'}"
        await asyncio.sleep(0.05)


async def _fails(endpoint: Endpoint, peer: Peer, kind: type[PowerError]) -> None:
    power = connect(endpoint)
    try:
        with pytest.raises(kind) as caught:
            await asyncio.wait_for(_say(power, peer), 60)
        assert _is_sentence(str(caught.value))
        assert caught.value.code == kind.code
        assert SECRET not in str(caught.value) + caught.value.evidence
    finally:
        await power.close()


def _is_sentence(text: str) -> bool:
    return len(text.split()) >= 4


async def _until(true: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, f"not so within {seconds:g} s"
        await asyncio.sleep(0.05)


async def _until_no_error(call: Callable[[], object], seconds: float) -> None:
    """A call that was cancelled in a thread may hold its BMC a little longer (metalbox.power.threads)."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            await call()  # type: ignore[misc]
            return
        except BmcHung:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.05)
