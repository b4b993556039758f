"""Power-ons within their budgets, from the configuration to the wire."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from metalbox import bmcaccounts
from metalbox.bmcmatch import Source, Told
from metalbox.config import PowerBudget
from metalbox.journal import Journal
from metalbox.machine import Mac, Machine
from metalbox.power.desk import Clock
from metalbox.power.orders import Verb
from metalbox.store import Database, Store, sqlite_url
from metalbox.switchboard import Switchboard


@pytest.fixture
def wire() -> Iterator[socket.socket]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        sock.setblocking(False)
        yield sock


def two_racks(board: Switchboard, store: Store, port: int) -> list[Machine]:
    """Twenty machines that are woken by packets to this port."""
    for number in range(1, 21):
        mac = f"52:54:00:00:00:{number:02x}"
        labels = {"rack": f"r{number % 2}"}
        store.machines.add(Machine(id=0, name=f"m{number}", state="discovered", macs=(Mac(mac),), labels=labels))
        told = Told(Source.OPERATOR, address=mac, port=port, drivers=("wol",))
        bmcaccounts.add(store, board.vault, told, 1.0, settings={"broadcast": "127.0.0.1"}, machine_id=number)
    return [machine for number in range(1, 21) if (machine := store.machines.get(number))]


@pytest.fixture
async def budgeted(tmp_path: Path) -> AsyncIterator[Switchboard]:
    """Each rack has 5 power-ons a second, 2 at once."""
    database = Database(Store.open(sqlite_url(tmp_path / "metalbox.db")))
    board = Switchboard(database, Journal(), tmp_path, (PowerBudget("rack", 5.0, 2),))
    working = asyncio.create_task(board.worker.run())
    yield board
    working.cancel()
    with suppress(asyncio.CancelledError):
        await working
    await board.close()
    await database.close()


class HandClock:
    """Stands still until it is moved."""

    def __init__(self) -> None:
        self.now = 0.0
        self._moved = asyncio.Event()

    def move(self, seconds: float) -> None:
        self.now += seconds
        moved, self._moved = self._moved, asyncio.Event()
        moved.set()

    async def sleep(self, seconds: float) -> None:
        until = self.now + seconds
        while self.now < until:
            await self._moved.wait()


async def test_two_racks_are_switched_on_within_their_budgets(budgeted: Switchboard, wire: socket.socket) -> None:
    """Seen on the wire: at no moment was more of a rack woken than its budget lets it."""
    board = budgeted
    clock = HandClock()
    board.front.turnstile._clock = Clock(tick=lambda: clock.now, sleep=clock.sleep)
    machines = await board._database.run(lambda store: two_racks(board, store, wire.getsockname()[1]))
    woken: dict[str, set[bytes]] = {"r0": set(), "r1": set()}

    def allowed() -> int:
        return min(10, 2 + int(clock.now * 5.0))

    async def listen() -> None:
        while True:
            packet = await asyncio.get_running_loop().sock_recv(wire, 1500)
            rack = woken[f"r{packet[11] % 2}"]
            rack.add(packet[6:12])
            assert len(rack) <= allowed()

    listening = asyncio.create_task(listen())

    async def until(true: Callable[[], bool]) -> None:
        async with asyncio.timeout(60):
            while not true():
                await asyncio.wait({listening}, timeout=0.002)
                if listening.done():
                    listening.result()

    orders = [await board.worker.order(machine, Verb.ON) for machine in machines]
    await until(lambda: len(board.front.turnstile.waiting) == 20 - 2 * 2)
    while clock.now < 1.75:
        # No rack waits for the other.
        await until(lambda: len(woken["r0"]) == len(woken["r1"]) == allowed())
        clock.move(0.25)
    for number in orders:
        assert (await board.worker.wait(number, 60)).finished_at
    await until(lambda: len(woken["r0"]) == len(woken["r1"]) == 10)
    listening.cancel()
    lines = [entry.text for entry in board._journal.pending if "waits for its turn" in entry.text]
    assert len(lines) == 20 - 2 * 2
    assert lines[0] == "on waits for its turn to be switched on: it is the next"
