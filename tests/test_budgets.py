"""Power-ons within their budgets, from the configuration to the wire."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from metalbox import bmcaccounts
from metalbox.bmcmatch import Source, Told
from metalbox.config import PowerBudget
from metalbox.journal import Journal
from metalbox.machine import Mac, Machine
from metalbox.power.orders import Verb
from metalbox.store import Database, Store, sqlite_url
from metalbox.switchboard import Switchboard

# How much later than it left a packet may be heard here.
LATE_SECONDS = 0.3


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


async def test_two_racks_are_switched_on_within_their_budgets(budgeted: Switchboard, wire: socket.socket) -> None:
    """Seen on the wire: in no stretch of time is more of a rack woken than its budget lets it."""
    board = budgeted
    machines = await board._database.run(lambda store: two_racks(board, store, wire.getsockname()[1]))
    woken: dict[str, list[float]] = {"r0": [], "r1": []}

    async def listen() -> None:
        seen: set[bytes] = set()
        while len(seen) < len(machines):
            packet = await asyncio.get_running_loop().sock_recv(wire, 1500)
            if packet[6:12] not in seen:
                seen.add(packet[6:12])
                woken[f"r{packet[11] % 2}"].append(time.monotonic())

    listening = asyncio.create_task(listen())
    orders = [await board.worker.order(machine, Verb.ON) for machine in machines]
    await asyncio.wait_for(listening, 20)
    for number in orders:
        assert (await board.worker.wait(number, 10)).finished_at
    for times in woken.values():
        assert len(times) == 10
        for first in range(10):
            for last in range(first, 10):
                # A packet may be heard late on a busy computer, which brings it nearer to the next.
                assert last - first + 1 <= 2 + 1 + (times[last] - times[first] + LATE_SECONDS) * 5.0
    assert max(woken["r0"][0], woken["r1"][0]) < min(woken["r0"][-1], woken["r1"][-1]), "no rack waits for the other"
    lines = [entry.text for entry in board._journal.pending if "waits for its turn" in entry.text]
    assert len(lines) == 20 - 2 * 2
    assert lines[0] == "on waits for its turn to be switched on: it is the next"
