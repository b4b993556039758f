"""tftp.sockets: two sockets on one port, who gets which datagram, and what ICMP says."""

from __future__ import annotations

import errno
import select
import socket

import pytest

from metalbox.errors import StartError
from metalbox.tftp import sockets


def udp() -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind(("127.0.0.1", 0))
    sock.settimeout(30)
    return sock


def wait_for(sock: socket.socket) -> socket.socket:
    assert select.select([sock], [], [], 30)[0]
    return sock


def test_the_first_of_a_pair_hears_everybody_and_both_speak_from_one_port() -> None:
    first, second = sockets.open_pair("127.0.0.1")
    with first, second, udp() as client:
        for sock in (first, second):
            sock.sendto(b"hello", client.getsockname())
            data, source = client.recvfrom(10)
            assert (data, source) == (b"hello", first.getsockname())
            client.sendto(b"and you", source)
            assert wait_for(first).recvfrom(10) == (b"and you", client.getsockname())
            with pytest.raises(BlockingIOError):
                second.recv(10)


def test_nobody_else_gets_the_port() -> None:
    first, second = sockets.open_pair("127.0.0.1")
    with first, second, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as thief:
        thief.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with pytest.raises(OSError) as error:
            thief.bind(first.getsockname())
        assert error.value.errno == errno.EADDRINUSE


def test_a_pair_needs_an_address_of_ours() -> None:
    with pytest.raises(OSError) as error:
        sockets.open_pair("198.51.100.77")
    assert error.value.errno == errno.EADDRNOTAVAIL


@pytest.mark.parametrize("which", [0, 1])
def test_a_closed_port_is_heard_of_by_the_first(which: int) -> None:
    pair = sockets.open_pair("127.0.0.1")
    with pair[0], pair[1]:
        client = udp()
        gone = client.getsockname()
        client.close()
        pair[which].sendto(b"x", gone)
        wait_for(pair[0])
        assert sockets.errors(pair[0]) == [(gone, errno.ECONNREFUSED)]
        assert sockets.errors(pair[0]) == []


def test_the_mtu_of_the_way_is_known() -> None:
    paths = sockets.Paths("127.0.0.1")
    assert paths.mtu(("127.0.0.1", 9)) >= 65535
    assert paths.mtu(("127.0.0.2", 10)) >= 65535
    paths.close()


def test_an_answer_comes_from_the_address_that_was_asked() -> None:
    with sockets.listen("0.0.0.0", 0) as server, udp() as client:
        client.sendto(b"hello", ("127.0.0.7", server.getsockname()[1]))
        data, source, local = sockets.receive(wait_for(server))
        assert (data, source, local) == (b"hello", client.getsockname(), "127.0.0.7")
        sockets.answer(server, b"who?", local, source)
        assert client.recvfrom(10) == (b"who?", ("127.0.0.7", server.getsockname()[1]))


def test_why_not() -> None:
    with pytest.raises(StartError) as error:
        sockets.listen("198.51.100.77", 0)
    assert str(error.value) == "198.51.100.77 is not an address of this host, so TFTP cannot listen there"
