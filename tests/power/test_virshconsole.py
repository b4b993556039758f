"""Consoles of real libvirt domains: a firmware that shows itself, a key that it obeys, and what cannot be had."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import NoReturn

import pytest

from metalbox.errors import BmcConsoleInUse, BmcNotSupported, BmcRefused, BmcUnreachable
from metalbox.lab import record, requirements
from metalbox.lab.machines import MachineSpec
from metalbox.lab.rack import Rack
from metalbox.power import Console, Endpoint, Power, connect, virshconsole
from metalbox.power.virshconsole import VirshConsole


@pytest.fixture(scope="module")
def rack() -> Iterator[Rack]:
    if reason := requirements.reason((requirements.ALWAYS, requirements.MACHINES)):
        pytest.skip(reason)
    folder = Path(tempfile.mkdtemp(prefix="mbc-"))
    rack = Rack(folder / "lab", mode="off", service="none", machines=(MachineSpec(name="one"),), owned=True)
    try:
        rack.up()
        yield rack
    finally:
        rack.down()
        if rack.directory.exists():
            record.remove(rack.directory)
        shutil.rmtree(folder)


@pytest.fixture
async def power(rack: Rack) -> AsyncIterator[Power]:
    uri = f"qemu:///system?socket={rack.hypervisor.home}/run/libvirt-sock"
    power = connect(Endpoint("libvirt", "one", settings={"uri": uri}))
    yield power
    await power.off()
    await power.close()


async def until(console: Console, text: bytes, seconds: float) -> bytes:
    data = b""
    async with asyncio.timeout(seconds):
        while text not in data:
            data += await console.read()
    return data


def virsh(rack: Rack, *command: str) -> None:
    subprocess.run(["virsh", "-q", "-c", rack.hypervisor.uri, *command], check=True, timeout=60)


async def end(console: Console) -> NoReturn:
    """Read what is left until the console raises."""
    while True:
        await asyncio.wait_for(console.read(), 60)


async def stand_still(rack: Rack, console: Console) -> None:
    """Stop the machine and read all that it wrote: only then does libvirt tell of a theft without fail."""
    virsh(rack, "suspend", "one")
    with pytest.raises(TimeoutError):
        while True:
            await asyncio.wait_for(console.read(), 1)


async def test_a_firmware_that_shows_itself(power: Power, rack: Rack) -> None:
    with pytest.raises(BmcRefused, match="not running"):
        await power.console()
    await power.on()
    first = await power.console()
    # What it wrote before somebody looked is gone.
    rack.reset("one")
    seen = await until(first, b"SeaBIOS", 90)
    assert b"Connected to domain" not in seen
    assert b"Escape character" not in seen
    with pytest.raises(BmcConsoleInUse, match="console session exists"):
        await power.console()
    await stand_still(rack, first)
    second = await power.console(force=True)
    with pytest.raises(BmcRefused, match="another client took the console"):
        await end(first)
    await first.close()
    virsh(rack, "resume", "one")
    rack.reset("one")
    await until(second, b"SeaBIOS", 90)
    # virsh's own escape is no key of the machine's, and does not end the console either.
    await second.write(b"\x1e")
    await second.write(b"\x02")
    with pytest.raises(BmcNotSupported):
        await second.send_break()
    await power.off()
    with pytest.raises(BmcRefused, match="ended"):
        await end(second)
    with pytest.raises(BmcRefused):
        await second.write(b"x")
    await second.close()
    await second.close()


async def test_a_theft_that_libvirt_does_not_tell_of(power: Power, rack: Rack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(virshconsole, "SILENCE_SECONDS", 0.2)
    await power.on()
    first = await power.console()
    assert isinstance(first, VirshConsole)
    # A silence is not an end.
    await stand_still(rack, first)
    # A virsh that does not run hears of nothing, like one that libvirt forgot.
    os.kill(first.pid, signal.SIGSTOP)
    thief = await power.console(force=True)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(first.read(), 3)
    await thief.close()
    with pytest.raises(BmcRefused, match="another client took the console"):
        await end(first)
    await first.close()
    # The look left nothing open.
    third = await power.console()
    assert isinstance(third, VirshConsole)
    os.kill(third.pid, signal.SIGSTOP)
    await power.off()
    with pytest.raises(BmcRefused, match="the machine was switched off"):
        await end(third)
    await third.close()


async def test_nobody_there_and_no_such_domain(power: Power, rack: Rack) -> None:
    with pytest.raises(BmcUnreachable, match="does not answer"):
        await connect(Endpoint("libvirt", "one", settings={"uri": "qemu:///system?socket=/nowhere"})).console()
    uri = f"qemu:///system?socket={rack.hypervisor.home}/run/libvirt-sock"
    with pytest.raises(BmcRefused, match="failed to get domain"):
        await connect(Endpoint("libvirt", "none-such", settings={"uri": uri})).console()
