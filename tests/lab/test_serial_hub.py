"""The serial line between a machine and its BMC: either end may come, go and come again."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator

import pytest

from metalbox.lab import serial_hub

# Of nobody else: programs that connect to 127.0.0.1 take their own ports there.
ADDRESS = "127.90.4.2"
Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@pytest.fixture
async def ports() -> AsyncIterator[tuple[int, int]]:
    """A line's two ports: the BMC's and the machine's."""
    with socket.socket() as one, socket.socket() as other:
        for free in (one, other):
            free.bind((ADDRESS, 0))
        near, far = one.getsockname()[1], other.getsockname()[1]
    hub = asyncio.create_task(serial_hub.serve([(ADDRESS, near, far)]))
    yield near, far
    hub.cancel()
    await asyncio.gather(hub, return_exceptions=True)


async def connect(port: int) -> Connection:
    async with asyncio.timeout(60):
        while True:
            try:
                return await asyncio.open_connection(ADDRESS, port)
            except ConnectionRefusedError:
                await asyncio.sleep(0)


async def read(connection: Connection, count: int) -> bytes:
    async with asyncio.timeout(60):
        return await connection[0].readexactly(count)


async def test_what_the_machine_writes_reaches_its_bmc_again_after_a_power_cycle(ports: tuple[int, int]) -> None:
    bmc = await connect(ports[0])
    for boot in (b"first", b"again"):
        machine = await connect(ports[1])
        machine[1].write(boot)
        assert await read(bmc, 5) == boot
        bmc[1].write(b"key")
        assert await read(machine, 3) == b"key"
        machine[1].close()
        await machine[1].wait_closed()
    bmc[1].close()


async def test_a_machine_writes_on_when_nobody_listens(ports: tuple[int, int]) -> None:
    machine = await connect(ports[1])
    async with asyncio.timeout(60):
        for _ in range(200):
            machine[1].write(b"x" * serial_hub.CHUNK)
            await machine[1].drain()
    machine[1].close()


async def test_a_new_connection_replaces_the_one_before(ports: tuple[int, int]) -> None:
    machine, old = await connect(ports[1]), await connect(ports[0])
    machine[1].write(b"a")
    assert await read(old, 1) == b"a"
    new = await connect(ports[0])
    async with asyncio.timeout(60):
        assert await old[0].read() == b""
    machine[1].write(b"b")
    assert await read(new, 1) == b"b"
    for connection in (machine, old, new):
        connection[1].close()
