"""Many datagrams in few system calls: recvmmsg(2), and answers of one size to one place as one call (UDP_SEGMENT)."""

from __future__ import annotations

import ctypes
import socket
from collections.abc import Sequence

from metalbox import mmsg
from metalbox.mmsg import IP_PKTINFO, NAME_SIZE, PKTINFO, Iovec, Mmsghdr, Msghdr

# A message is at most one Ethernet frame, relays and all; what is longer comes cut and is malformed.
MAX_DATAGRAM = 4096
# One IP_PKTINFO: the header is a size, a level and a type.
CONTROL_SIZE = socket.CMSG_SPACE(PKTINFO.size)
CONTROL_LEN = socket.CMSG_LEN(PKTINFO.size)
ORIGIN_SIZE = NAME_SIZE + CONTROL_SIZE
_INFO_AT = NAME_SIZE + CONTROL_LEN - PKTINFO.size

# As a plain number: an IntFlag makes an object of each result.
_MSG_TRUNC = int(socket.MSG_TRUNC)

# The same fields as 32-bit numbers of one array.
_STRIDE = ctypes.sizeof(Mmsghdr) // 4
_SIZE_AT = Mmsghdr.size.offset // 4
_FLAGS_AT = Msghdr.flags.offset // 4


class Inbox:
    """Room for what one call brings; for all sockets of one thread."""

    def __init__(self, count: int = 64) -> None:
        self.count = count
        self.cut = 0
        self._data = bytearray(count * MAX_DATAGRAM)
        self._origins = bytearray(count * ORIGIN_SIZE)
        self._view = memoryview(self._data)
        self._headers = (Mmsghdr * count)()
        self._iovecs = (Iovec * count)()
        data = ctypes.addressof(ctypes.c_char.from_buffer(self._data))
        origins = ctypes.addressof(ctypes.c_char.from_buffer(self._origins))
        for index in range(count):
            self._iovecs[index] = Iovec(data + index * MAX_DATAGRAM, MAX_DATAGRAM)
            origin = origins + index * ORIGIN_SIZE
            iovec = ctypes.addressof(self._iovecs[index])
            self._headers[index].header = Msghdr(origin, NAME_SIZE, iovec, 1, origin + NAME_SIZE, CONTROL_SIZE, 0)
        # The kernel writes the sizes of names and control data over ours.
        self._pristine = bytes(self._headers)
        self._at = ctypes.addressof(self._headers)
        self._numbers = memoryview(self._headers).cast("B").cast("I")

    def receive(self, fileno: int) -> list[tuple[bytes, bytes]]:
        """Data and origin of what waits in a socket with IP_PKTINFO, at most `count`; raises OSError.

        The origin, read by `read_origin`, is bytes so that it can be a key. What was cut is left out and counted.
        """
        ctypes.memmove(self._at, self._pristine, len(self._pristine))
        found = mmsg.receive(fileno, self._at, self.count)
        numbers, view, origins = self._numbers, self._view, bytes(self._origins)
        received = []
        for index in range(found):
            at = index * _STRIDE
            if numbers[at + _FLAGS_AT] & _MSG_TRUNC:
                self.cut += 1
                continue
            start = index * MAX_DATAGRAM
            data = bytes(view[start : start + numbers[at + _SIZE_AT]])
            received.append((data, origins[index * ORIGIN_SIZE : (index + 1) * ORIGIN_SIZE]))
        return received


def read_origin(origin: bytes) -> tuple[tuple[str, int], int, bytes, bytes]:
    """The sender, the interface, our address on it, and the address that the datagram was sent to."""
    source = (socket.inet_ntoa(origin[4:8]), int.from_bytes(origin[2:4], "big"))
    index, ours, target = PKTINFO.unpack_from(origin, _INFO_AT)
    return source, index, ours, target


def send(sock: socket.socket, data: bytes, target: tuple[str, int], info: bytes = b"") -> None:
    """Send one datagram; `info` (PKTINFO) chooses our address. Raises OSError."""
    if info:
        sock.sendmsg([data], [(socket.IPPROTO_IP, IP_PKTINFO, info)], 0, target)
    else:
        sock.sendto(data, target)


def send_alike(sock: socket.socket, payloads: Sequence[bytes], target: tuple[str, int], info: bytes = b"") -> None:
    """Send datagrams of one size, at most `mmsg.fitting(size)`, with one call; all or none. Raises OSError."""
    ancillary: list[tuple[int, int, bytes]] = [mmsg.segment(len(payloads[0]))]
    if info:
        ancillary.append((socket.IPPROTO_IP, IP_PKTINFO, info))
    sock.sendmsg(payloads, ancillary, 0, target)
