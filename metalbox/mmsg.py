"""Many datagrams in one system call: recvmmsg(2) and sendmmsg(2), which Python does not offer, and UDP_SEGMENT.

The first two are called in the C library without giving up the interpreter's lock, because the sockets do not block: a
lock that is given up for each call is taken by another thread and must be waited for.
"""

from __future__ import annotations

import ctypes
import errno
import os
import socket
import struct

# From <linux/in.h> and <linux/udp.h>; Python 3.11 has no names for them.
IP_PKTINFO = 8
UDP_SEGMENT = 103
NAME_SIZE = 16  # struct sockaddr_in
PKTINFO = struct.Struct("=I4s4s")  # struct in_pktinfo: interface, our address there, destination address
_SEGMENT = struct.Struct("=H")
# The kernel cuts one message into at most 64 datagrams (UDP_MAX_SEGMENTS) of together one IP packet.
_MAX_SEGMENTS = 64
_MAX_IP_PAYLOAD = 65507
# What it says when the card, the route or the kernel itself cannot cut: EIO without checksum offload, EINVAL when a
# segment is larger than the MTU.
CANNOT_SEGMENT = frozenset({errno.EIO, errno.EINVAL, errno.EMSGSIZE, errno.ENOPROTOOPT, errno.EOPNOTSUPP})

_DONTWAIT = int(socket.MSG_DONTWAIT)  # an enum costs more than the call's other arguments together
_NOT_NOW = (errno.EAGAIN, errno.EINTR)

_libc = ctypes.PyDLL(None, use_errno=True)
_recvmmsg = _libc.recvmmsg
_recvmmsg.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_uint, ctypes.c_int, ctypes.c_void_p)
_sendmmsg = _libc.sendmmsg
_sendmmsg.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_uint, ctypes.c_int)


class Iovec(ctypes.Structure):
    """struct iovec: an address and a length in bytes."""

    _fields_ = (("base", ctypes.c_void_p), ("size", ctypes.c_size_t))


class Msghdr(ctypes.Structure):
    """struct msghdr, as Linux and glibc have it on 64 bits (recvmsg(2))."""

    _fields_ = (
        ("name", ctypes.c_void_p),
        ("name_size", ctypes.c_uint32),
        ("iov", ctypes.c_void_p),
        ("iov_count", ctypes.c_size_t),
        ("control", ctypes.c_void_p),
        ("control_size", ctypes.c_size_t),
        ("flags", ctypes.c_int),
    )


class Mmsghdr(ctypes.Structure):
    """struct mmsghdr: a message, and how many bytes of it came or went."""

    _fields_ = (("header", Msghdr), ("size", ctypes.c_uint32))


def receive(fileno: int, at: int, count: int) -> int:
    """Fill at most `count` structs mmsghdr at an address; how many were filled, 0 when nothing waits. Raises OSError.

    The error may be about an earlier datagram that was sent from the socket.
    """
    return _done(_recvmmsg(fileno, at, count, _DONTWAIT, None))


def send(fileno: int, at: int, count: int) -> int:
    """Send `count` messages at an address; returns how many left, fewer when the buffer is full.

    Raises OSError about the first of them.
    """
    return _done(_sendmmsg(fileno, at, count, _DONTWAIT))


def segment(size: int) -> tuple[int, int, bytes]:
    """The control message by which the kernel cuts what is sent into datagrams of `size` bytes."""
    return socket.IPPROTO_UDP, UDP_SEGMENT, _SEGMENT.pack(size)


def fitting(size: int) -> int:
    """How many datagrams of this size one message is cut into at most."""
    return min(_MAX_SEGMENTS, _MAX_IP_PAYLOAD // max(size, 1))


def _done(found: int) -> int:
    if found >= 0:
        return found
    number = ctypes.get_errno()
    if number in _NOT_NOW:
        return 0
    raise OSError(number, os.strerror(number))
