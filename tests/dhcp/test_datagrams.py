"""metalbox.dhcp.datagrams: what the kernel brings and takes in one call, on loopback."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from metalbox import mmsg
from metalbox.dhcp import datagrams
from metalbox.dhcp.datagrams import Inbox, read_origin


@contextmanager
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Who sends, and who receives with IP_PKTINFO."""
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as receiver,
    ):
        sender.bind(("127.0.0.1", 0))
        receiver.setsockopt(socket.IPPROTO_IP, mmsg.IP_PKTINFO, 1)
        receiver.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        receiver.bind(("127.0.0.1", 0))
        yield sender, receiver


def test_all_that_waits_comes_in_order_with_its_origin() -> None:
    inbox = Inbox(8)
    with pair() as (sender, receiver):
        assert inbox.receive(receiver.fileno()) == []
        sent = [bytes([number]) * number for number in range(11)]
        for data in sent:
            sender.sendto(data, receiver.getsockname())
        first = inbox.receive(receiver.fileno())
        rest = inbox.receive(receiver.fileno())
        assert [data for data, _ in first] == sent[:8]
        assert [data for data, _ in rest] == sent[8:]
        (origin,) = {origin for _, origin in (*first, *rest)}
        loopback = socket.inet_aton("127.0.0.1")
        assert read_origin(origin) == (sender.getsockname(), socket.if_nametoindex("lo"), loopback, loopback)
        assert inbox.receive(receiver.fileno()) == []


def test_what_is_too_long_is_left_out_and_counted() -> None:
    inbox = Inbox(8)
    with pair() as (sender, receiver):
        for size in (10, datagrams.MAX_DATAGRAM, datagrams.MAX_DATAGRAM + 1, 20):
            sender.sendto(bytes(size), receiver.getsockname())
        assert [len(data) for data, _ in inbox.receive(receiver.fileno())] == [10, datagrams.MAX_DATAGRAM, 20]
        assert inbox.cut == 1


def test_an_error_of_the_socket_is_raised() -> None:
    with pytest.raises(OSError, match="Bad file descriptor") as caught:
        Inbox(2).receive(-1)
    assert caught.value.errno == errno.EBADF


def test_one_call_is_many_datagrams() -> None:
    inbox = Inbox(64)
    with pair() as (sender, receiver):
        sent = [bytes([number]) * 300 for number in range(mmsg.fitting(300))]
        assert len(sent) == 64
        datagrams.send_alike(sender, sent, receiver.getsockname())
        assert [data for data, _ in inbox.receive(receiver.fileno())] == sent


@pytest.mark.parametrize("together", [False, True])
def test_our_address_is_chosen(together: bool) -> None:
    inbox = Inbox(4)
    with pair() as (_, receiver), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        info = mmsg.PKTINFO.pack(0, socket.inet_aton("127.0.0.7"), bytes(4))
        if together:
            datagrams.send_alike(sender, [b"a", b"b"], receiver.getsockname(), info)
        else:
            datagrams.send(sender, b"a", receiver.getsockname(), info)
        received = inbox.receive(receiver.fileno())
        assert {read_origin(origin)[0][0] for _, origin in received} == {"127.0.0.7"}
        assert len(received) == 1 + together


@pytest.mark.parametrize("size", [0, 1, 300, 1023, 1024, 1472, 40_000])
def test_how_many_fit(size: int) -> None:
    count = mmsg.fitting(size)
    assert 1 <= count <= 64 and count * size <= 65507
    assert count == 64 or (count + 1) * size > 65507
