"""tftp.batch: what comes in one call, and who gets which answer in one."""

from __future__ import annotations

import ctypes
import errno
import socket
from collections.abc import Iterator

import pytest

from metalbox.tftp.batch import ROOM, Batch, client_of, key_of
from metalbox.tftp.content import Sheet, make_sheet
from tests.tftp.wire import ack

SHEET = make_sheet(1, 8, bytes(range(100)), is_end=True)
SEGMENT = 12


@pytest.fixture
def server() -> Iterator[socket.socket]:
    with udp() as sock:
        sock.setblocking(False)
        yield sock


@pytest.fixture
def clients() -> Iterator[list[socket.socket]]:
    socks = [udp() for _ in range(5)]
    yield socks
    for sock in socks:
        sock.close()


def udp() -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind(("127.0.0.1", 0))
    sock.settimeout(30)
    return sock


def at(sheet: Sheet, block: int, count: int = 1) -> list[int]:
    return [sheet.address + (block - 1) * SEGMENT, count * SEGMENT]


def test_keys_are_clients() -> None:
    assert key_of(("192.0.2.1", 2001)) == b"\x07\xd1\xc0\x00\x02\x01"
    assert client_of(key_of(("255.0.128.7", 65535))) == ("255.0.128.7", 65535)


def test_nothing_waits(server: socket.socket) -> None:
    assert Batch().receive(server.fileno()) == 0


def test_what_many_clients_sent_is_one_call(server: socket.socket, clients: list[socket.socket]) -> None:
    batch = Batch()
    for number, client in enumerate(clients):
        client.sendto(ack(number * 10_000), server.getsockname())
    assert batch.receive(server.fileno()) == 5
    assert batch.are_acks(5)
    expected = [(key_of(client.getsockname()), 0x40000 + n * 10_000) for n, client in enumerate(clients)]
    assert list(batch.words(5)) == expected
    assert batch.datagram(3) == (expected[3][0], ack(30_000))


def test_no_more_than_there_is_room_for(server: socket.socket, clients: list[socket.socket]) -> None:
    batch = Batch(slots=2)
    for client in clients:
        client.sendto(ack(1), server.getsockname())
    assert [batch.receive(server.fileno()) for _ in range(4)] == [2, 2, 1, 0]


@pytest.mark.parametrize("odd", [b"", b"\0\4\0", b"\0\4\0\1\0", b"\0\5\0\0stop\0", bytes(2000)])
def test_what_is_no_ack_is_not_taken_for_one(server: socket.socket, clients: list[socket.socket], odd: bytes) -> None:
    """Nor is what an earlier datagram left behind taken for a part of it."""
    batch = Batch()
    for client in clients:
        client.sendto(ack(1), server.getsockname())
    batch.receive(server.fileno())
    for client, data in zip(clients, (ack(1), odd, ack(2)), strict=False):
        client.sendto(data, server.getsockname())
    assert batch.receive(server.fileno()) == 3
    assert not batch.are_acks(3)
    assert [batch.datagram(n)[1] for n in range(3)] == [ack(1), odd[:ROOM], ack(2)]


def test_each_gets_his_own_answer(server: socket.socket, clients: list[socket.socket]) -> None:
    batch = Batch()
    for client in clients:
        client.sendto(ack(0), server.getsockname())
    batch.receive(server.fileno())
    batch.answer(1, [*at(SHEET, 3), *at(SHEET, 1), *at(SHEET, 13)])
    assert batch.send(server.fileno(), 1, 3) == 3
    assert [clients[n].recv(100) for n in (1, 2)] == [b"\0\3\0\3" + bytes(range(16, 24)), b"\0\3\0\1" + bytes(range(8))]
    assert clients[3].recv(100)[:8] == b"\0\3\0\x0d" + bytes(range(96, 100))
    assert batch.unsent(2) == b"\0\3\0\1" + bytes(range(8))
    for n in (0, 4):
        clients[n].setblocking(False)
        with pytest.raises(BlockingIOError):
            clients[n].recv(100)


def test_windows_are_cut_by_the_kernel_only_where_that_is_wanted(
    server: socket.socket, clients: list[socket.socket]
) -> None:
    batch = Batch()
    for _ in range(2):
        for client in clients[:3]:
            client.sendto(ack(0), server.getsockname())
        batch.receive(server.fileno())
        batch.answer(0, at(SHEET, 1, 4) * 3)
        batch.segment(0, SEGMENT)
        batch.segment(2, SEGMENT)
        batch.segment(2, 0)
        assert batch.segments[:3] == [SEGMENT, 0, 0]
        assert batch.send(server.fileno(), 0, 3) == 3
        assert [clients[0].recv(100)[:4] for _ in range(4)] == [b"\0\3" + n.to_bytes(2, "big") for n in (1, 2, 3, 4)]
        assert [len(clients[n].recv(100)) for n in (1, 2)] == [4 * SEGMENT] * 2


def test_a_full_buffer_is_no_error_and_a_refusal_is_one(server: socket.socket, clients: list[socket.socket]) -> None:
    batch = Batch()
    clients[0].sendto(ack(0), server.getsockname())
    batch.receive(server.fileno())
    large = ctypes.create_string_buffer(70_000)
    batch.answer(0, [ctypes.addressof(large), 70_000])
    with pytest.raises(OSError) as error:
        batch.send(server.fileno(), 0, 1)
    assert error.value.errno == errno.EMSGSIZE
