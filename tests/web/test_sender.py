"""The thread that sends files: real sockets and files, and a clock that the test can put forward."""

from __future__ import annotations

import asyncio
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from metalbox.web.conditional import Part
from metalbox.web.sender import NICE, PIECE, TRICKLE, Sender, Transfer
from metalbox.web.turns import LOOK_SECONDS
from tests.descriptors import opened

SIZE = 3 * PIECE + 12345
TICK = 0.01
PATIENCE = 60.0


@dataclass
class Clock:
    """Time as it goes while the sender looks at it, which it does at every tick: a host that stalls makes none."""

    at: float = 0.0
    seen: float = field(default_factory=time.monotonic)

    def __call__(self) -> float:
        now = time.monotonic()
        self.at += min(now - self.seen, 2 * TICK)
        self.seen = now
        return self.at


@dataclass
class Bench:
    """A sender with one place, and the clients' ends of its connections."""

    sender: Sender
    path: Path
    ahead: float = 0.0
    clients: list[socket.socket] = field(default_factory=list)

    def begin(self, *, is_big: bool = True, start: int = 0, stop: int = SIZE) -> tuple[Transfer, socket.socket]:
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        theirs.settimeout(PATIENCE)
        self.clients.append(theirs)
        part = Part(start, stop, SIZE, 200)
        return self.sender.begin(ours, self.path.open("rb", 0), part, is_big=is_big), theirs


@contextmanager
def made(path: Path, places: int) -> Iterator[Bench]:
    path.write_bytes(os.urandom(SIZE))
    clock = Clock()
    found = Bench(Sender(places, lambda: clock() + found.ahead, tick_seconds=TICK), path)
    try:
        yield found
    finally:
        found.sender.close()
        for client in found.clients:
            client.close()


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    with made(tmp_path / "image", places=1) as found:
        yield found


def drain(client: socket.socket, size: int) -> bytes:
    found = bytearray()
    while len(found) < size and (chunk := client.recv(1 << 20)):
        found += chunk
    return bytes(found)


async def end(transfer: Transfer) -> str:
    return await asyncio.wait_for(transfer.finished, PATIENCE)


async def test_the_bytes_of_the_part_in_pieces_of_a_bounded_size(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    real = os.sendfile

    def spy(out: int, file: int, offset: int, count: int) -> int:
        asked.append(count)
        return real(out, file, offset, count)

    monkeypatch.setattr(os, "sendfile", spy)
    transfer, client = bench.begin(start=5, stop=SIZE - 7)
    assert await asyncio.to_thread(drain, client, SIZE - 12) == bench.path.read_bytes()[5 : SIZE - 7]
    assert await end(transfer) == ""
    assert (transfer.sent, transfer.waited) == (SIZE - 12, 0.0)
    assert max(asked) <= PIECE


async def test_the_thread_begins_with_the_first_file_and_ends_with_the_service(bench: Bench) -> None:
    before = set(threading.enumerate())

    def names() -> list[str]:
        found = set(threading.enumerate()) - before
        return [thread.name for thread in found if thread.name == "metalbox-sender"]

    assert names() == []
    transfer, _ = bench.begin()
    waiting, _ = bench.begin()
    assert names() == ["metalbox-sender"]
    thread = bench.sender._thread
    assert thread is not None
    while not transfer.sent:
        await asyncio.to_thread(drain, bench.clients[0], 1)
    assert os.getpriority(os.PRIO_PROCESS, thread.native_id or 0) == min(19, os.getpriority(os.PRIO_PROCESS, 0) + NICE)
    await asyncio.to_thread(bench.sender.close)
    assert names() == []
    assert await end(transfer) == await end(waiting) == "the service stops"
    bench.sender.drop(waiting)
    with pytest.raises(ConnectionError, match="the service stops"):
        bench.begin()
    bench.sender = Sender(1)


def test_a_service_that_is_nice_itself_has_a_thread_that_is_nicer(bench: Bench) -> None:
    """To go back to a lower value is for root, and a thread that fails in that sends nothing."""
    found: list[int] = []

    async def send() -> int:
        transfer, client = bench.begin(is_big=False, stop=1)
        assert len(await asyncio.to_thread(drain, client, 1)) == 1 and await end(transfer) == ""
        assert bench.sender._thread is not None
        return os.getpriority(os.PRIO_PROCESS, bench.sender._thread.native_id or 0)

    def serve() -> None:
        own = threading.get_native_id()
        os.setpriority(os.PRIO_PROCESS, own, os.getpriority(os.PRIO_PROCESS, own) + 2)
        found.append(asyncio.run(send()))

    # The niceness is this thread's alone, and ends with it.
    service = threading.Thread(target=serve)
    service.start()
    service.join(PATIENCE)
    assert found == [min(19, os.getpriority(os.PRIO_PROCESS, 0) + 2 + NICE)]


async def test_who_waits_gets_a_trickle_and_then_its_turn(bench: Bench) -> None:
    first, first_client = bench.begin()
    second, second_client = bench.begin()
    begun = await asyncio.to_thread(drain, second_client, 3 * TRICKLE)
    assert second.is_waiting
    assert not first.is_waiting
    assert second.sent % TRICKLE == 0
    bench.ahead = LOOK_SECONDS / 2
    await asyncio.to_thread(drain, first_client, SIZE)
    assert await end(first) == ""
    rest = await asyncio.to_thread(drain, second_client, SIZE - len(begun))
    assert begun + rest == bench.path.read_bytes()
    assert await end(second) == ""
    assert first.waited == 0.0
    assert second.waited > LOOK_SECONDS / 2


async def test_small_files_have_no_turn(bench: Bench) -> None:
    bench.begin()
    small, client = bench.begin(is_big=False)
    assert await asyncio.to_thread(drain, client, SIZE) == bench.path.read_bytes()
    assert await end(small) == ""


@pytest.mark.parametrize("who", ["holder", "in line"])
async def test_a_client_that_leaves_frees_its_place(bench: Bench, who: str) -> None:
    holder, holders_client = bench.begin()
    waiting, waiting_client = bench.begin()
    leaving, client = (holder, holders_client) if who == "holder" else (waiting, waiting_client)
    client.close()
    assert await end(leaving) != ""
    staying, client = (waiting, waiting_client) if who == "holder" else (holder, holders_client)
    assert len(await asyncio.to_thread(drain, client, SIZE)) == SIZE
    assert await end(staying) == ""
    assert len(bench.sender.turns) == 0


async def test_a_stalled_client_holds_its_place_no_longer_than_somebody_waits_for_it(bench: Bench) -> None:
    stalled, stalled_client = bench.begin()
    other, client = bench.begin()
    await asyncio.to_thread(drain, client, 1)
    bench.ahead = LOOK_SECONDS
    await asyncio.to_thread(drain, client, SIZE - 1)
    assert await end(other) == ""
    # Nothing is lost for the one that stalled: it goes on when it is read again.
    assert await asyncio.to_thread(drain, stalled_client, SIZE) == bench.path.read_bytes()
    assert await end(stalled) == ""


async def test_a_dropped_transfer_frees_its_place_and_its_descriptors(bench: Bench) -> None:
    before = opened()
    for _ in range(20):
        transfer, client = bench.begin()
        bench.sender.drop(transfer)
        assert await end(transfer) == "dropped"
        bench.sender.drop(transfer)
        client.close()
    assert not opened() - before
    transfer, client = bench.begin()
    assert len(await asyncio.to_thread(drain, client, SIZE)) == SIZE
    assert await end(transfer) == ""


async def test_a_file_that_became_shorter_ends_with_an_error(bench: Bench) -> None:
    transfer, client = bench.begin(stop=SIZE + 10)
    assert len(await asyncio.to_thread(drain, client, SIZE)) == SIZE
    assert await end(transfer) == "the file has become shorter"
    assert transfer.sent == SIZE


async def test_a_fault_in_the_thread_breaks_transfers_off_and_the_next_one_is_served(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    first, client = bench.begin()
    # The fault is for the second: after one the turns are others.
    await asyncio.to_thread(drain, client, 1)
    with monkeypatch.context() as patch:
        patch.setattr(bench.sender.turns, "come", lambda now: 1 / 0)
        second, _ = bench.begin()
        assert await end(first) == await end(second) == "the sender has failed"
    assert "the sender of files has failed" in caplog.text
    third, client = bench.begin()
    assert len(await asyncio.to_thread(drain, client, SIZE)) == SIZE
    assert await end(third) == ""
