"""Answers the router solicitation of a machine in a boot with a null advertisement, and nobody else's.

iPXE of 2019, which Debian and many network cards ship, waits 16 s for a router after it has its DHCP lease; any
advertisement ends that. We give no address, no prefix and no route, so an IPv6 network beside us does not change.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
import struct
import time
from collections import Counter
from collections.abc import Sequence
from ipaddress import IPv6Address
from pathlib import Path
from typing import NamedTuple

from metalbox.dhcp.sockets import Interface
from metalbox.errors import MalformedPacket
from metalbox.journal import Journal, Kind
from metalbox.machine import Mac
from metalbox.presence import Presence
from metalbox.ra.packet import ROUTER_SOLICITATION, build_null_advertisement, parse_solicitation

log = logging.getLogger("metalbox.ra")

ALL_NODES = "ff02::1"
ALL_ROUTERS = "ff02::2"
# linux/icmpv6.h; a set bit blocks a type.
ICMPV6_FILTER = 1
# RFC 4861 section 6.1.1: less means that it came through a router, from somebody else's network.
HOP_LIMIT = 255
DRAIN = 64
# Firmware asks for an IPv6 router and a DHCP server at once, and the first of the two may come first. So whoever is
# not known to boot is looked at again, this many seconds later each time.
LOOK_AGAIN_SECONDS = (0.05, 0.2, 0.75, 2.0)
MAX_LOOKING = 1024


class _Question(NamedTuple):
    interface: Interface
    sock: socket.socket
    source: str
    mac: Mac
    looks: int


class RouterAdvertiser:
    """One raw ICMPv6 socket for each interface. An interface without IPv6 is left out, with a warning."""

    def __init__(self, interfaces: Sequence[Interface], journal: Journal, presence: Presence) -> None:
        self.counters: Counter[str] = Counter()
        self._interfaces = [interface for interface in interfaces if interface.is_ethernet]
        self._journal = journal
        self._presence = presence
        self._sockets: dict[str, socket.socket] = {}
        self._looking: set[asyncio.TimerHandle] = set()

    def open(self) -> None:
        """Open what can be opened. Never fails: a machine without this boots all the same, later."""
        loop = asyncio.get_running_loop()
        for interface in self._interfaces:
            try:
                sock = open_router_socket(interface)
            except OSError as error:
                log.warning("%s: router solicitations are not answered: %s", interface.name, error.strerror)
                continue
            self._sockets[interface.name] = sock
            loop.add_reader(sock, self._readable, sock, interface)

    def close(self) -> None:
        """Stop listening."""
        for handle in self._looking:
            handle.cancel()
        self._looking.clear()
        for sock in self._sockets.values():
            asyncio.get_running_loop().remove_reader(sock)
            sock.close()
        self._sockets.clear()

    @property
    def listening(self) -> list[str]:
        """One line for each socket."""
        return [f"RA on {name} ICMPv6 (null advertisement to machines in a boot)" for name in self._sockets]

    def _readable(self, sock: socket.socket, interface: Interface) -> None:
        for _ in range(DRAIN):
            try:
                data, info, _, source = sock.recvmsg(1500, socket.CMSG_SPACE(4))
            except BlockingIOError:
                return
            except OSError as error:
                log.debug("%s: receiving failed: %s", interface.name, error.strerror)
                return
            hops = next((struct.unpack("=i", value)[0] for _, kind, value in info if len(value) == 4), 0)
            if hops != HOP_LIMIT:
                self.counters["ignored: from another network"] += 1
                continue
            self._solicited(data, source[0].partition("%")[0], sock, interface)

    def _solicited(self, data: bytes, source: str, sock: socket.socket, interface: Interface) -> None:
        try:
            mac = parse_solicitation(data, IPv6Address(source))
        except MalformedPacket as error:
            self.counters["ignored: malformed"] += 1
            log.debug("%s: from %s: %s", interface.name, source, error)
            return
        if mac is None:
            self.counters["ignored: no hardware address"] += 1
            return
        self._consider(_Question(interface, sock, source, mac, 0))

    def _consider(self, question: _Question) -> None:
        now = time.time()
        if self._presence.is_booting(question.mac, now):
            self._answer(question, now)
        elif question.looks == len(LOOK_AGAIN_SECONDS) or len(self._looking) >= MAX_LOOKING:
            self.counters["ignored: not in a boot"] += 1
        else:
            self._look_again(question)

    def _look_again(self, question: _Question) -> None:
        def look() -> None:
            self._looking.discard(handle)
            self._consider(question._replace(looks=question.looks + 1))

        handle = asyncio.get_running_loop().call_later(LOOK_AGAIN_SECONDS[question.looks], look)
        self._looking.add(handle)

    def _answer(self, question: _Question, now: float) -> None:
        interface, sock, source, mac, _ = question
        try:
            sock.sendto(build_null_advertisement(interface.mac), (source, 0, 0, interface.index))
        except OSError as error:
            self.counters["send failed"] += 1
            log.warning("%s: cannot answer the router solicitation of %s: %s", interface.name, mac, error.strerror)
            return
        self.counters["sent"] += 1
        text = "asks for an IPv6 router: told that there is none, so that it need not wait"
        log.debug("%s: %s", mac, text)
        data = {"interface": interface.name, "address": source}
        self._journal.record(Kind.RA, text, now=now, mac=mac, key="solicitation", data=data)


def open_router_socket(interface: Interface) -> socket.socket:
    """A socket that receives the router solicitations of one interface. Raises OSError (IPv6 off, not permitted)."""
    # The kernel opens the socket all the same, and then neither receives nor sends on it.
    switch = Path("/proc/sys/net/ipv6/conf", interface.name, "disable_ipv6")
    if switch.exists() and switch.read_text().strip() == "1":
        raise OSError(errno.EAFNOSUPPORT, "IPv6 is disabled there")
    kind = socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
    sock = socket.socket(socket.AF_INET6, kind, socket.IPPROTO_ICMPV6)
    try:
        blocked = bytearray(b"\xff" * 32)
        blocked[ROUTER_SOLICITATION // 32 * 4 : ROUTER_SOLICITATION // 32 * 4 + 4] = struct.pack(
            "=I", 0xFFFFFFFF ^ 1 << ROUTER_SOLICITATION % 32
        )
        sock.setsockopt(socket.IPPROTO_ICMPV6, ICMPV6_FILTER, bytes(blocked))
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, interface.name.encode() + b"\0")
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS, HOP_LIMIT)
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, HOP_LIMIT)
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVHOPLIMIT, 1)
        group = socket.inet_pton(socket.AF_INET6, ALL_ROUTERS) + struct.pack("=I", interface.index)
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, group)
    except OSError:
        sock.close()
        raise
    return sock
