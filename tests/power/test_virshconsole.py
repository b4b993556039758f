"""Consoles of real libvirt domains: a firmware that shows itself, a key that it obeys, and what cannot be had."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from metalbox.errors import BmcConsoleInUse, BmcNotSupported, BmcRefused, BmcUnreachable, PowerError
from metalbox.lab import record, requirements
from metalbox.lab.machines import MachineSpec
from metalbox.lab.rack import Rack
from metalbox.power import Console, Endpoint, Power, connect


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
    second = await power.console(force=True)
    with pytest.raises(PowerError):
        while True:
            await asyncio.wait_for(first.read(), 60)
    await first.close()
    rack.reset("one")
    await until(second, b"SeaBIOS", 90)
    # virsh's own escape is no key of the machine's, and does not end the console either.
    await second.write(b"\x1e")
    await second.write(b"\x02")
    with pytest.raises(BmcNotSupported):
        await second.send_break()
    await power.off()
    with pytest.raises(BmcRefused, match="ended"):
        while True:
            await asyncio.wait_for(second.read(), 60)
    with pytest.raises(BmcRefused):
        await second.write(b"x")
    await second.close()
    await second.close()


async def test_nobody_there_and_no_such_domain(power: Power, rack: Rack) -> None:
    with pytest.raises(BmcUnreachable, match="does not answer"):
        await connect(Endpoint("libvirt", "one", settings={"uri": "qemu:///system?socket=/nowhere"})).console()
    uri = f"qemu:///system?socket={rack.hypervisor.home}/run/libvirt-sock"
    with pytest.raises(BmcRefused, match="failed to get domain"):
        await connect(Endpoint("libvirt", "none-such", settings={"uri": uri})).console()
