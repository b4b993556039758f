"""Sockets of the TFTP server: the well-known port, and the ports that transfers have in common.

RFC 1350 §4 names a transfer by a pair of ports. A port of ours serves many clients, so that what comes from all of them
is read with one call (see `lane`). A client that asks again from the same port of its own, as some firmware does (SLOF
2001, GRUB 25300, lpxelinux 49153), gets another one of ours: only by it a late block of the last file is told from one
of this file.
"""

from __future__ import annotations

import contextlib
import errno
import resource
import socket
import struct

from metalbox.errors import StartError
from metalbox.mmsg import IP_PKTINFO, PKTINFO

Address = tuple[str, int]

# From <linux/in.h>; Python 3.11 has no names for them.
IP_RECVERR = 11
IP_MTU = 14
_EXTENDED_ERROR = struct.Struct("=IBBBBII")  # struct sock_extended_err: errno, origin, type, code, padding, info, data
MAX_DATAGRAM = 2048
# ACKs of 128 clients, of which each takes up to 2.3 KiB in the kernel. What is above net.core.rmem_max is cut.
RECEIVE_BUFFER = 4 * 1024 * 1024
# More would only wait in the queue of the card.
SEND_BUFFER = 1024 * 1024
MAX_ERRORS = 64


def listen(address: str, port: int) -> socket.socket:
    """Open the well-known port. Raises StartError."""
    sock = _udp()
    try:
        sock.setsockopt(socket.IPPROTO_IP, IP_PKTINFO, 1)
        sock.bind((address, port))
    except OSError as error:
        sock.close()
        raise StartError(_why_not(error, address, port)) from None
    return sock


def receive(sock: socket.socket) -> tuple[bytes, Address, str]:
    """A datagram, its source, and our address to which it was sent; "" when it was sent to all. Raises OSError."""
    data, ancillary, _, source = sock.recvmsg(MAX_DATAGRAM, socket.CMSG_SPACE(PKTINFO.size))
    for level, kind, value in ancillary:
        if level == socket.IPPROTO_IP and kind == IP_PKTINFO:
            _, ours, destination = PKTINFO.unpack(value[: PKTINFO.size])
            return data, source, socket.inet_ntoa(ours) if ours == destination else ""
    return data, source, ""


def answer(sock: socket.socket, datagram: bytes, local: str, client: Address) -> None:
    """Send from the address that was asked: a client takes no answer from another of ours. Raises OSError."""
    info = PKTINFO.pack(0, socket.inet_aton(local), bytes(4))
    sock.sendmsg([datagram], [(socket.IPPROTO_IP, IP_PKTINFO, info)], 0, client)


def open_pair(local: str) -> tuple[socket.socket, socket.socket]:
    """Two sockets on one free port of our address. The first receives all that comes to it, and hears by `errors` of
    clients that closed their port; the second only sends. Raises OSError.

    What waits for a dead machine's MAC, and what other hosts are made to ask for in our name, fills the buffer of the
    second, while answers to clients that live leave by the first.
    """
    first, second = _udp(), _udp()
    try:
        first.setsockopt(socket.IPPROTO_IP, IP_RECVERR, 1)
        first.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
        first.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
        # Only then may the port be shared, or the kernel might choose one that somebody shares already.
        first.bind((local, 0))
        for sock in (first, second):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        second.bind(first.getsockname())
        # It takes only what comes from its peer, which is nobody; Linux lets it send to everybody all the same.
        second.connect(first.getsockname())
        # From here on nobody else can take the port.
        for sock in (first, second):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
    except OSError:
        first.close()
        second.close()
        raise
    return first, second


def errors(sock: socket.socket) -> list[tuple[Address, int]]:
    """What ICMP said of datagrams that were sent: to whom they went, and an errno (ECONNREFUSED: nobody listens)."""
    found: list[tuple[Address, int]] = []
    with contextlib.suppress(OSError):
        while len(found) < MAX_ERRORS:
            _, ancillary, _, client = sock.recvmsg(0, 256, socket.MSG_ERRQUEUE | socket.MSG_DONTWAIT)
            for level, kind, value in ancillary:
                if level == socket.IPPROTO_IP and kind == IP_RECVERR and client:
                    found.append((client, _EXTENDED_ERROR.unpack_from(value)[0]))
    return found


class Paths:
    """The ways from one of our addresses."""

    def __init__(self, local: str) -> None:
        """Raises OSError."""
        self._probe = _udp()
        try:
            self._probe.bind((local, 0))
        except OSError:
            self._probe.close()
            raise

    def mtu(self, client: Address) -> int:
        """The MTU on the way to the client. Raises OSError when there is none."""
        self._probe.connect(client)
        return self._probe.getsockopt(socket.IPPROTO_IP, IP_MTU)

    def close(self) -> None:
        """Nothing is sent by it."""
        self._probe.close()


def allow_descriptors(count: int) -> None:
    """Raise the soft limit of open files, which is 1024 by default, as far as the hard one lets us."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= count:
        return
    wanted = count if hard == resource.RLIM_INFINITY else min(count, hard)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))


def _udp() -> socket.socket:
    return socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)


def _why_not(error: OSError, address: str, port: int) -> str:
    match error.errno:
        case errno.EADDRINUSE:
            return f"UDP port {port} is taken: another TFTP server runs here (`ss -ulnp sport = :{port}` names it)"
        case errno.EACCES | errno.EPERM:
            return f"UDP port {port} may not be opened: run as root or with CAP_NET_BIND_SERVICE"
        case errno.EADDRNOTAVAIL:
            return f"{address} is not an address of this host, so TFTP cannot listen there"
        case _:
            return f"TFTP cannot listen on UDP {address}:{port}: {error.strerror}"
