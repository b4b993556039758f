"""Looks ahead by ARP whether the addresses that will be offered next are in use already (RFC 2131 section 3.1).

The questions go out before anyone wants the address, so no offer ever waits for them: a server that asks first costs
every new machine up to three seconds, and iPXE repeats after one. An address that answers is not given away.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from ipaddress import IPv4Address

from metalbox.config import Mode
from metalbox.dhcp import sockets
from metalbox.dhcp.context import Context, Network
from metalbox.dhcp.frames import ETHERTYPE_ARP, arp_probe, parse_arp
from metalbox.dhcp.leases import Client, Leases, LeaseState
from metalbox.dhcp.sockets import Interface
from metalbox.journal import Journal, Kind
from metalbox.machine import Mac

log = logging.getLogger("metalbox.dhcp")

# How far we look ahead, and how often at most: enough for 600 new machines a second.
AHEAD = 32
PAUSE_SECONDS = 0.05
# A look at the next addresses also when nobody asked for one, and the time after which an answer of silence is old.
IDLE_SECONDS = 5.0
FRESH_SECONDS = 60.0
# Frames taken in one wake-up; ARP is broadcast, so a large network always talks.
DRAIN = 256


class Probe:
    """Sends the questions and listens to the answers, on every interface with a network in full mode."""

    def __init__(
        self,
        context: Context,
        leases: Leases,
        journal: Journal,
        interfaces: Sequence[Interface],
        rest_seconds: float,
    ) -> None:
        """An address found in use rests for `rest_seconds`, then it may be asked for again."""
        self.counters: Counter[str] = Counter()
        # Set it when addresses were offered: the next ones come into sight.
        self.wanted = asyncio.Event()
        self._leases = leases
        self._journal = journal
        self._rest_seconds = rest_seconds
        self._networks: list[tuple[Interface, Network]] = [
            (interface, network)
            for interface in interfaces
            if interface.is_ethernet
            for network in context.attached[interface.name]
            if network.mode is Mode.FULL
        ]
        self._sockets: dict[str, socket.socket] = {}
        # Address to when it was asked for and in which network.
        self._asked: dict[int, tuple[float, str]] = {}

    def open(self) -> None:
        """Open the sockets and ask once. Without the right to, the look-ahead is off, with a warning."""
        loop = asyncio.get_running_loop()
        for interface, _ in self._networks:
            if interface.name in self._sockets:
                continue
            try:
                sock = sockets.open_packet(interface, ETHERTYPE_ARP)
            except OSError as error:
                log.warning("%s: addresses are not probed before use: %s", interface.name, error.strerror)
                continue
            self._sockets[interface.name] = sock
            loop.add_reader(sock, self._readable, sock)
        self.ask(time.time())

    def close(self) -> None:
        """Stop listening."""
        for sock in self._sockets.values():
            asyncio.get_running_loop().remove_reader(sock)
            sock.close()
        self._sockets.clear()

    async def run(self) -> None:
        """Ask whenever addresses were offered, and now and then, until cancelled."""
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(IDLE_SECONDS):
                    await self.wanted.wait()
            self.wanted.clear()
            self.ask(time.time())
            await asyncio.sleep(PAUSE_SECONDS)

    def ask(self, now: float) -> None:
        """Send the questions for the next addresses of each network, except those asked a short while ago."""
        # In the order of asking: the oldest first.
        while self._asked and now - next(iter(self._asked.values()))[0] >= FRESH_SECONDS:
            del self._asked[next(iter(self._asked))]
        for interface, network in self._networks:
            sock = self._sockets.get(interface.name)
            if sock is None:
                continue
            for address in self._leases.candidates(network.name, AHEAD, now):
                if address not in self._asked:
                    self._asked[address] = (now, network.name)
                    self._ask(sock, interface, address)

    def _ask(self, sock: socket.socket, interface: Interface, address: int) -> None:
        try:
            sock.send(arp_probe(interface.mac, address.to_bytes(4, "big")))
            self.counters["asked"] += 1
        except OSError as error:
            # The interface is down for now, or its queue full: asked again when the answer would be old.
            self.counters["ask failed"] += 1
            log.debug("%s: ARP probe failed: %s", interface.name, error.strerror)

    def _readable(self, sock: socket.socket) -> None:
        now = time.time()
        for _ in range(DRAIN):
            try:
                frame = sock.recv(128)
            except BlockingIOError:
                return
            except OSError as error:
                log.debug("ARP: receiving failed: %s", error.strerror)
                return
            sender = parse_arp(frame)
            if sender is None:
                continue
            address = int.from_bytes(sender[1], "big")
            if address in self._asked:
                self._found(address, Mac.from_bytes(sender[0]), now)

    def _found(self, address: int, mac: Mac, now: float) -> None:
        """Someone speaks with an address that we meant to give away. The client that got it meanwhile may."""
        _, network = self._asked.pop(address)
        lease = self._leases.find(network, Client(mac))
        if lease is not None and lease.number == address:
            return
        self._leases.mark_in_use(address, now + self._rest_seconds, now)
        self.counters["in use"] += 1
        shown = str(IPv4Address(address))
        text = f"uses {shown}, an address of our pool, without a lease"
        log.warning("%s: %s", mac, text)
        data = {"address": shown, "state": LeaseState.IN_USE.value}
        self._journal.record(Kind.LEASE, text, now=now, mac=mac, key=f"in use:{shown}", data=data)
