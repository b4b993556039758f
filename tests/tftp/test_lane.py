"""tftp.lane: many clients' windows in few calls, right at every edge, also without room and without segmentation."""

from __future__ import annotations

import errno
import select
import socket
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest

from metalbox.tftp.batch import Batch, key_of
from metalbox.tftp.content import Shelf
from metalbox.tftp.lane import LANE_TRANSFERS, NEVER, Lane, Lanes, Transfer
from metalbox.tftp.packet import build_data, parse_request
from metalbox.tftp.session import Limits, Session
from metalbox.tftp.sockets import Address
from tests.tftp.wire import ack, rrq

DATA = Random(1).randbytes(1_000_000)
SO_NO_CHECK = 11


class CountingBatch(Batch):
    """Counts system calls."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[str] = Counter()

    def receive(self, fileno: int) -> int:
        self.calls["receive"] += 1
        return super().receive(fileno)

    def send(self, fileno: int, slot: int, count: int) -> int:
        self.calls["send"] += 1
        return super().send(fileno, slot, count)


class Client:
    """Takes everything that came, and acknowledges the whole."""

    def __init__(self) -> None:
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        self.socket.bind(("127.0.0.1", 0))
        self.address: Address = self.socket.getsockname()
        self.got: list[bytes] = []

    def take(self) -> int:
        before = len(self.got)
        while True:
            try:
                self.got.append(self.socket.recv(65536))
            except BlockingIOError:
                return len(self.got) - before

    def ack(self, lane: Lane, block: int | None = None) -> None:
        self.socket.sendto(ack(len(self.got) if block is None else block), ("127.0.0.1", lane.port))


class Owner:
    """What the server does, but for time and the timeline."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "f"
        self.path.write_bytes(DATA)
        self.shelf = Shelf()
        self.counters: Counter[str] = Counter()
        self.batch = CountingBatch()
        self.lane = Lane("127.0.0.1", self.batch, self, self.counters)
        self.clients: list[Client] = []
        self.strangers: list[tuple[Address, bytes]] = []
        self.errors: list[tuple[Address, int]] = []
        self.thought: Counter[Address] = Counter()

    def begin(self, *, segmentation: bool = True, blksize: int = 1000, **options: int) -> tuple[Client, Transfer]:
        client, content = Client(), self.shelf.open(self.path)
        session = Session(parse_request(rrq(blksize=blksize, **options)), content, Limits(65000, 64), 0.0)
        transfer = Transfer(session, content, self.lane, client.address, key_of(client.address), b"", "f")
        if segmentation and session.windowsize > 1:
            transfer.segment = session.segment
        session.start(0.0)
        self.lane.transfers[transfer.key] = transfer
        self.clients.append(client)
        return client, transfer

    def pump(self) -> int:
        assert select.select([self.lane.socket], [], [], 60)[0]
        count = self.lane.pump(time.monotonic)
        if not count:
            self.lane.listen()
        return count

    def on_packet(self, transfer: Transfer, data: bytes, now: float) -> None:
        self.thought[transfer.client] += 1
        for buffer in transfer.session.received(data, now):
            self.lane.answer(transfer, buffer)
        transfer.run()

    def on_stranger(self, lane: Lane, client: Address, data: bytes) -> None:
        self.strangers.append((client, data))

    def on_error(self, transfer: Transfer, number: int) -> None:
        self.errors.append((transfer.client, number))

    def close(self) -> None:
        self.lane.close()
        for client in self.clients:
            client.socket.close()
        for transfer in self.lane.transfers.values():
            transfer.content.close()


@pytest.fixture
def owner(tmp_path: Path) -> Iterator[Owner]:
    it = Owner(tmp_path)
    yield it
    it.close()


def finish(owner: Owner, client: Client, transfer: Transfer) -> None:
    """Fetch the rest."""
    while transfer.session.outcome is None:
        client.ack(owner.lane)
        owner.pump()
        client.take()
    expected = build_data(1, transfer.session.blksize, DATA, is_end=True)
    assert b"".join(client.got) == expected


@pytest.mark.parametrize("windowsize", [1, 4, 16])
def test_the_windows_of_many_clients_are_two_calls(owner: Owner, windowsize: int) -> None:
    pairs = [owner.begin(windowsize=windowsize) for _ in range(20)]
    for client, _ in pairs:
        client.ack(owner.lane)
    owner.pump()  # from here on the transfers run by themselves
    owner.batch.calls.clear()
    owner.thought.clear()
    for _ in range(10):
        for client, _ in pairs:
            assert client.take() == windowsize
            client.ack(owner.lane)
        assert owner.pump() == 20
    assert owner.batch.calls == {"receive": 10, "send": 10}
    assert not owner.thought
    for client, transfer in pairs:
        transfer.settle()
        blocks = 10 * transfer.window
        assert (transfer.session.acked, transfer.session.sent) == (blocks, blocks + transfer.window)
        client.take()
        assert b"".join(client.got) == build_data(1, 1000, DATA[: 1000 * (blocks + transfer.window)], is_end=False)


@pytest.mark.parametrize("segmentation", [True, False])
@pytest.mark.parametrize(
    ("blksize", "windowsize"), [(1000, 1), (1000, 4), (999, 7), (1468, 16), (512, 64), (1468, 64), (40_000, 3), (64, 5)]
)
def test_a_file_arrives_whole(owner: Owner, blksize: int, windowsize: int, segmentation: bool) -> None:
    client, transfer = owner.begin(blksize=blksize, windowsize=windowsize, segmentation=segmentation)
    finish(owner, client, transfer)
    windows = -(-len(client.got) // windowsize)
    if windows > 100 and segmentation:
        assert owner.thought[client.address] < windows / 8  # most go without a thought


def test_more_than_65535_blocks(owner: Owner) -> None:
    client, transfer = owner.begin(blksize=8, windowsize=7)
    finish(owner, client, transfer)
    assert len(client.got) > 100_000 and owner.thought[client.address] < 1000


def test_what_is_not_expected_is_thought_about_and_disturbs_nobody(owner: Owner) -> None:
    pairs = [owner.begin(windowsize=4) for _ in range(6)]
    for _ in range(3):
        for client, _ in pairs:
            client.take()
            client.ack(owner.lane)
        owner.pump()
    stranger = Client()
    owner.clients.append(stranger)
    for n, (client, _) in enumerate(pairs):
        client.take()
        match n:
            case 1:
                client.ack(owner.lane, 10)  # two of four were lost
            case 3:
                stranger.ack(owner.lane, 8)
                client.ack(owner.lane)
            case 4:
                client.socket.sendto(b"\0\5\0\0stop\0", ("127.0.0.1", owner.lane.port))
            case _:
                client.ack(owner.lane)
    owner.thought.clear()
    assert owner.pump() == 7
    assert owner.strangers == [(stranger.address, ack(8))]
    assert [client.take() for client, _ in pairs] == [4, 4, 4, 4, 0, 4]
    assert pairs[1][0].got[-4:] == pairs[0][0].got[10:14]
    assert pairs[4][1].session.heard_error
    assert pairs[1][1].session.retransmits == 2


def test_an_ack_of_what_has_not_left_yet(owner: Owner) -> None:
    """Someone who guesses the future may have it, in his own transfer; what he is sent stays right."""
    client, transfer = owner.begin(windowsize=4)
    for block in range(0, 4 * 62, 4):
        client.ack(owner.lane, block)
    while select.select([owner.lane.socket], [], [], 0)[0]:
        owner.pump()
    client.take()
    assert b"".join(client.got) == build_data(1, 1000, DATA, is_end=True)[: len(client.got) * 1004]
    assert transfer.session.outcome is None


def test_what_has_no_room_leaves_later(owner: Owner) -> None:
    pairs = [owner.begin(windowsize=16) for _ in range(20)]
    for client, transfer in pairs:
        transfer.session.received(ack(0), 0.0)
        transfer.run()
        client.ack(owner.lane, 16)
    # On the loopback a datagram is with its receiver at once; only what the kernel says is imitated.
    calls = iter([7, 0])
    real = owner.batch.send
    owner.batch.send = lambda fileno, slot, count: real(fileno, slot, n) if (n := next(calls)) else 0  # type: ignore[method-assign]
    assert owner.pump() == 20
    assert len(owner.lane.held) == 13 and owner.counters["waited for room"] == 1
    owner.shelf = Shelf()  # the memory of the sheets may be gone meanwhile
    for _, transfer in pairs:
        transfer.sheet = None
    assert owner.lane.answer(pairs[0][1], b"\0\5\0\0after what waits\0")
    assert owner.lane.resume() and not owner.lane.held
    expected = build_data(17, 1000, DATA[16_000:32_000], is_end=False)
    for client, _ in pairs:
        client.take()
        assert b"".join(client.got[:16]) == expected
    assert pairs[0][0].got[16:] == [b"\0\5\0\0after what waits\0"]


@pytest.mark.parametrize(("windowsize", "segmentation"), [(64, True), (8, False)])
def test_a_window_in_parts_has_no_room(owner: Owner, windowsize: int, segmentation: bool) -> None:
    """What is held is in the parts that it is sent in."""
    client, transfer = owner.begin(blksize=1468, windowsize=windowsize, segmentation=segmentation)
    owner.lane.held.append((client.address, b"\0\5\0\0something before\0", 0))
    client.ack(owner.lane, 0)
    assert owner.pump() == 1
    assert client.take() == 0
    assert owner.lane.resume()
    client.take()
    assert client.got.pop(0) == b"\0\5\0\0something before\0"
    assert b"".join(client.got) == build_data(1, 1468, DATA[: 1468 * windowsize], is_end=False)
    assert {len(data) for data in client.got} == {1472}
    finish(owner, client, transfer)


def test_a_bug_in_one_batch_does_not_reach_the_next(owner: Owner) -> None:
    """Answers of a batch that was given up are addresses of who knows what, for clients of other slots."""
    pairs = [owner.begin() for _ in range(3)]
    for client, _ in pairs:
        client.ack(owner.lane)
    owner.pump()
    real = owner.on_packet

    def broken(transfer: Transfer, data: bytes, now: float) -> None:
        raise ZeroDivisionError

    owner.on_packet = broken  # type: ignore[method-assign]
    for n, (client, _) in enumerate(pairs):
        client.take()
        client.ack(owner.lane, 7 if n == 1 else 1)
    with pytest.raises(ZeroDivisionError):
        owner.pump()
    owner.on_packet = real  # type: ignore[method-assign]
    pairs[2][0].ack(owner.lane)
    owner.pump()
    assert [client.take() for client, _ in pairs] == [0, 0, 1]
    assert pairs[2][0].got[-1] == build_data(2, 1000, DATA[1000:2000], is_end=False)


def test_a_kernel_that_does_not_cut(owner: Owner) -> None:
    """It refuses where checksums are switched off. What could not be cut is sent one by one, and the file is whole."""
    client, transfer = owner.begin(windowsize=4)
    for _ in range(3):
        client.ack(owner.lane)
        owner.pump()
        client.take()
    owner.lane.socket.setsockopt(socket.SOL_SOCKET, SO_NO_CHECK, 1)
    finish(owner, client, transfer)
    assert owner.counters == {"without segmentation": 1}
    assert transfer.session.retransmits == 0 and transfer.expected == NEVER
    second, other = owner.begin(windowsize=4)
    finish(owner, second, other)
    assert owner.counters == {"without segmentation": 2}


def test_a_client_that_closed_its_port_is_heard_of(owner: Owner) -> None:
    pairs = [owner.begin() for _ in range(3)]
    for client, _ in pairs:
        client.ack(owner.lane)
    owner.pump()
    for client, _ in pairs:
        client.take()
        client.ack(owner.lane)
    pairs[1][0].socket.close()
    owner.pump()
    if not owner.errors:
        owner.pump()
    assert owner.errors == [(pairs[1][0].address, errno.ECONNREFUSED)]
    assert [pairs[n][0].take() for n in (0, 2)] == [1, 1]
    assert owner.counters == {}
    assert not select.select([owner.lane.socket], [], [], 0)[0]  # nothing goes on waking us


def test_lanes_are_filled_one_after_the_other(tmp_path: Path) -> None:
    opened: list[Lane] = []
    owner = Owner(tmp_path)
    lanes = Lanes(owner, owner.counters, opened.append)
    for n in range(LANE_TRANSFERS + 1):
        lane = lanes.choose("127.0.0.1", key_of(("192.0.2.1", 1000 + n)))
        lane.transfers[b"%d" % n] = None  # type: ignore[assignment]
    assert [len(lane.transfers) for lane in opened] == [LANE_TRANSFERS, 1]
    assert lanes.choose("127.0.0.2", key_of(("192.0.2.1", 1000))).socket.getsockname()[0] == "127.0.0.2"
    assert lanes.mtu("127.0.0.1", ("127.0.0.1", 9)) >= 65535
    assert len(lanes.all()) == 3
    lanes.close()
    owner.close()


def test_a_client_that_asks_from_one_port_meets_another_of_ours_each_time(tmp_path: Path) -> None:
    opened: list[Lane] = []
    owner = Owner(tmp_path)
    lanes = Lanes(owner, owner.counters, opened.append)
    slof = [lanes.choose("127.0.0.1", key_of(("192.0.2.1", 2001))).port for _ in range(12)]
    assert all(len(set(slof[n : n + 4])) == 4 for n in range(9)) and len(opened) == 4
    assert {lanes.choose("127.0.0.1", key_of(("192.0.2.1", 50_000 + n))).port for n in range(12)} == {opened[0].port}
    lanes.close()
    owner.close()
