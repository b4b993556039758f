"""Messages through two real sockets, many in one call."""

from __future__ import annotations

import ctypes
import errno
import socket

import pytest

from metalbox import mmsg
from metalbox.mmsg import NAME_SIZE, Iovec, Mmsghdr, Msghdr

COUNT, ROOM = 8, 64


class Messages:
    """Room for COUNT messages with their senders, in one array."""

    def __init__(self) -> None:
        self.data = [ctypes.create_string_buffer(ROOM) for _ in range(COUNT)]
        self.names = [ctypes.create_string_buffer(NAME_SIZE) for _ in range(COUNT)]
        self.iovecs = (Iovec * COUNT)()
        self.headers = (Mmsghdr * COUNT)()
        for n in range(COUNT):
            self.iovecs[n] = Iovec(ctypes.addressof(self.data[n]), ROOM)
            iovec = ctypes.addressof(self.iovecs[n])
            self.headers[n].header = Msghdr(ctypes.addressof(self.names[n]), NAME_SIZE, iovec, 1, None, 0, 0)
        self.at = ctypes.addressof(self.headers)


def bound() -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind(("127.0.0.1", 0))
    return sock


def test_many_come_and_go_back_to_whom_they_came_from() -> None:
    messages = Messages()
    with bound() as server, bound() as one, bound() as other:
        assert mmsg.receive(server.fileno(), messages.at, COUNT) == 0
        for sock, text in ((one, b"first"), (other, b"second"), (one, b"third")):
            sock.sendto(text, server.getsockname())
        assert mmsg.receive(server.fileno(), messages.at, COUNT) == 3
        told = [messages.data[n].raw[: messages.headers[n].size] for n in range(3)]
        assert told == [b"first", b"second", b"third"]
        for n in range(3):
            messages.iovecs[n].size = messages.headers[n].size
        assert mmsg.send(server.fileno(), messages.at, 3) == 3
        for sock, texts in ((one, [b"first", b"third"]), (other, [b"second"])):
            sock.settimeout(60)
            assert [sock.recv(ROOM) for _ in texts] == texts


def test_the_first_that_cannot_be_sent_is_an_error() -> None:
    messages = Messages()
    with bound() as server, pytest.raises(OSError, match="Invalid argument") as caught:
        mmsg.send(server.fileno(), messages.at, 1)  # to nobody: the name is empty
    assert caught.value.errno == errno.EINVAL
