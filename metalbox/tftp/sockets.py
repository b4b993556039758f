"""Sockets of the TFTP server: the well-known port, and for each transfer a connected one on one of a few ports.

RFC 1350 §4 gives each transfer a port of its own choice, so that the pair of ports names it. Here 32 ports ("lanes")
are taken in turn. A connected socket costs a third less for each block than one that names its peer every time, and
hears that the peer closed its port; what a stranger sends to the same port falls to the lane's open socket, from
which he gets his ERROR 5. One port for all would do for the protocol, but some firmware asks again and again from one
and the same port (SLOF 2001, GRUB 25300, lpxelinux 49153): then only our port tells a late block of the last file from
one of this file.
"""

from __future__ import annotations

import contextlib
import errno
import resource
import socket
import struct

from metalbox.errors import StartError

Address = tuple[str, int]

# From <linux/in.h> and <linux/udp.h>; Python 3.11 has no names for them.
IP_PKTINFO = 8
IP_MTU = 14
UDP_SEGMENT = 103
IN_PKTINFO = struct.Struct("=I4s4s")  # interface, our address, destination address
# With 4096 transfers 128 sockets share a port, which the kernel looks through for each datagram: 0.3 us.
LANES = 32
# The kernel cuts one call into at most 64 datagrams (UDP_MAX_SEGMENTS) of together one IP packet.
MAX_SEGMENTS = 64
MAX_IP_PAYLOAD = 65507
# What the kernel says when the card, the route or the kernel itself cannot cut: EIO without checksum offload, EINVAL
# when a segment is larger than the MTU.
CANNOT_SEGMENT = frozenset({errno.EIO, errno.EINVAL, errno.EMSGSIZE, errno.ENOPROTOOPT, errno.EOPNOTSUPP})
MAX_DATAGRAM = 2048


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
    data, ancillary, _, source = sock.recvmsg(MAX_DATAGRAM, socket.CMSG_SPACE(IN_PKTINFO.size))
    for level, kind, value in ancillary:
        if level == socket.IPPROTO_IP and kind == IP_PKTINFO:
            _, ours, destination = IN_PKTINFO.unpack(value[: IN_PKTINFO.size])
            return data, source, socket.inet_ntoa(ours) if ours == destination else ""
    return data, source, ""


def answer(sock: socket.socket, datagram: bytes, local: str, client: Address) -> None:
    """Send from the address that was asked: a client takes no answer from another of ours. Raises OSError."""
    info = IN_PKTINFO.pack(0, socket.inet_aton(local), bytes(4))
    sock.sendmsg([datagram], [(socket.IPPROTO_IP, IP_PKTINFO, info)], 0, client)


def segment_into(sock: socket.socket, size: int) -> bool:
    """Let the kernel cut what is longer than `size` into datagrams; 0 ends it. False when it cannot."""
    try:
        sock.setsockopt(socket.IPPROTO_UDP, UDP_SEGMENT, size)
    except OSError:
        return False
    return True


def allow_descriptors(count: int) -> None:
    """Raise the soft limit of open files, which is 1024 by default, as far as the hard one lets us."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= count:
        return
    wanted = count if hard == resource.RLIM_INFINITY else min(count, hard)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))


class Lanes:
    """The ports of all transfers. Each has an open socket, for what comes from no client of ours."""

    def __init__(self, address: str) -> None:
        """Raises StartError."""
        self.sockets: list[socket.socket] = []
        self._next = 0
        try:
            for _ in range(LANES):
                sock = listen(address, 0)
                self.sockets.append(sock)
                # Only now, or the kernel might have chosen a port that somebody shares already.
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        except StartError:
            self.close()
            raise

    def connect(self, local: str, client: Address) -> tuple[socket.socket, int]:
        """A socket from the address `local` and the next lane to the client, and the MTU on the way. Raises OSError."""
        lane = self.sockets[self._next]
        self._next = (self._next + 1) % LANES
        sock = _udp()
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind((local, lane.getsockname()[1]))
            sock.connect(client)
            # Between the two calls a stranger could have put something into it.
            with contextlib.suppress(BlockingIOError):
                while True:
                    sock.recv(1)
            return sock, sock.getsockopt(socket.IPPROTO_IP, IP_MTU)
        except OSError:
            sock.close()
            raise

    def close(self) -> None:
        """Close the open sockets; those of transfers belong to the transfers."""
        for sock in self.sockets:
            sock.close()
        self.sockets.clear()


def _udp() -> socket.socket:
    return socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)


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
