"""tftp.sockets: lanes, and who gets which datagram."""

from __future__ import annotations

import select
import socket
from collections.abc import Iterator

import pytest

from metalbox.errors import StartError
from metalbox.tftp import sockets
from metalbox.tftp.sockets import LANES, Lanes


@pytest.fixture
def lanes() -> Iterator[Lanes]:
    it = Lanes("0.0.0.0")
    yield it
    it.close()


def udp() -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind(("127.0.0.1", 0))
    sock.settimeout(30)
    return sock


def wait_for(sock: socket.socket) -> socket.socket:
    assert select.select([sock], [], [], 30)[0]
    return sock


def test_the_lanes_are_taken_in_turn(lanes: Lanes) -> None:
    with udp() as client:
        connected = [lanes.connect("127.0.0.1", client.getsockname())[0] for _ in range(LANES + 1)]
        ports = [sock.getsockname()[1] for sock in connected]
        assert len(set(ports)) == LANES and ports[0] == ports[-1]
        for sock in connected:
            sock.close()


def test_each_client_reaches_its_own_socket_and_a_stranger_the_lane(lanes: Lanes) -> None:
    clients = [udp() for _ in range(2 * LANES)]
    connected = [lanes.connect("127.0.0.1", client.getsockname())[0] for client in clients]
    for number, (client, sock) in enumerate(zip(clients, connected, strict=True)):
        client.sendto(b"%d" % number, sock.getsockname())
        assert wait_for(sock).recv(10) == b"%d" % number
    with udp() as stranger:
        stranger.sendto(b"hello", connected[5].getsockname())
        data, source, local = sockets.receive(wait_for(lanes.sockets[5]))
        assert (data, source, local) == (b"hello", stranger.getsockname(), "127.0.0.1")
        sockets.answer(lanes.sockets[5], b"who?", local, source)
        assert stranger.recvfrom(10) == (b"who?", connected[5].getsockname())
    for sock in [*clients, *connected]:
        sock.close()


def test_the_mtu_of_the_way_is_known(lanes: Lanes) -> None:
    with udp() as client:
        sock, mtu = lanes.connect("127.0.0.1", client.getsockname())
        assert mtu >= 65535
        sock.close()


def test_a_closed_port_is_heard_of(lanes: Lanes) -> None:
    client = udp()
    sock, _ = lanes.connect("127.0.0.1", client.getsockname())
    client.close()
    sock.send(b"x")
    with pytest.raises(ConnectionRefusedError):
        wait_for(sock).recv(10)
    sock.close()


def test_segments(lanes: Lanes) -> None:
    with udp() as client:
        sock, _ = lanes.connect("127.0.0.1", client.getsockname())
        if not sockets.segment_into(sock, 100):
            pytest.skip("this kernel has no UDP_SEGMENT")
        sock.send(bytes(250))
        assert [len(client.recv(500)) for _ in range(3)] == [100, 100, 50]
        assert sockets.segment_into(sock, 0)
        sock.send(bytes(250))
        assert len(client.recv(500)) == 250
        sock.close()


@pytest.mark.parametrize(
    ("address", "sentence"),
    [("198.51.100.77", "198.51.100.77 is not an address of this host, so TFTP cannot listen there")],
)
def test_why_not(address: str, sentence: str) -> None:
    with pytest.raises(StartError) as error:
        sockets.listen(address, 0)
    assert str(error.value) == sentence
    with pytest.raises(StartError):
        Lanes(address)
