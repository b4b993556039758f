"""Listens to what other DHCP servers offer to our machines: when one boots the wrong thing, this names who told it.

Only broadcasts and frames to this host come by here; what a switch carries from another server to one machine does not.
Boot firmware asks for broadcasts (EDK2 always, iPXE when it has an address), so that most boots are seen.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections import Counter, OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from ipaddress import IPv4Address
from typing import Any

from metalbox.config import Mode
from metalbox.dhcp import sockets
from metalbox.dhcp.context import Context
from metalbox.dhcp.frames import ETHERTYPE_IPV4, parse_udp
from metalbox.dhcp.options import BOOT_FILE, SERVER_ID, VENDOR_CLASS, Message
from metalbox.dhcp.packet import REPLY_OP, Packet, address_text, parse_packet
from metalbox.dhcp.sockets import Interface
from metalbox.errors import MalformedPacket
from metalbox.journal import Journal, Kind
from metalbox.machine import Mac
from metalbox.presence import Presence

log = logging.getLogger("metalbox.dhcp")

DRAIN = 256
# Servers remembered for the status page; more than this are made up.
MAX_SERVERS = 256


@dataclass(frozen=True, slots=True)
class Rival:
    """The last offer seen from another server, and how many there were. `is_proxy`: a boot file and no address."""

    server: str
    interface: str
    mac: str
    address: str
    next_server: str
    boot_file: str
    is_proxy: bool
    first_seen: float
    last_seen: float
    offers: int


def read_offer(packet: Packet, source: str, interface: str, now: float) -> Rival | None:
    """What another server's message offers; None when it is no offer (a BOOTP reply is one)."""
    if packet.op != REPLY_OP or packet.message not in (Message.BOOTP, Message.OFFER):
        return None
    file = packet.text(BOOT_FILE) or packet.file.decode("utf-8", "replace")
    is_boot_class = packet.text(VENDOR_CLASS).startswith(("PXEClient", "HTTPClient"))
    return Rival(
        server=address_text(packet.address(SERVER_ID)) or source,
        interface=interface,
        mac=Mac.from_bytes(packet.hardware_address),
        address=address_text(packet.yiaddr),
        next_server=address_text(packet.siaddr),
        boot_file=file if file.isprintable() else "",
        is_proxy=not packet.yiaddr and is_boot_class,
        first_seen=now,
        last_seen=now,
        offers=1,
    )


class Rivals:
    """Watches every interface; `table` has the servers seen, by address and interface."""

    def __init__(self, context: Context, journal: Journal, presence: Presence, interfaces: Sequence[Interface]) -> None:
        self.counters: Counter[str] = Counter()
        self.table: OrderedDict[tuple[str, str], Rival] = OrderedDict()
        self._own = context.own
        self._journal = journal
        self._presence = presence
        self._interfaces = [interface for interface in interfaces if interface.is_ethernet]
        # Where we give addresses, any other server is news; beside the site's own server only boots matter.
        self._full = {
            interface.name
            for interface in interfaces
            if any(network.mode is Mode.FULL for network in context.attached[interface.name])
        }
        self._sockets: list[socket.socket] = []

    def open(self) -> None:
        """Open the sockets. Without the right to, nothing is seen, with a warning."""
        loop = asyncio.get_running_loop()
        for interface in self._interfaces:
            try:
                sock = sockets.open_packet(interface, ETHERTYPE_IPV4, cooked=True, code=sockets.TO_DHCP_CLIENTS)
            except OSError as error:
                log.warning("%s: other DHCP servers are not watched: %s", interface.name, error.strerror)
                continue
            self._sockets.append(sock)
            loop.add_reader(sock, self._readable, sock, interface.name)

    def close(self) -> None:
        """Stop listening."""
        for sock in self._sockets:
            asyncio.get_running_loop().remove_reader(sock)
            sock.close()
        self._sockets.clear()

    def _readable(self, sock: socket.socket, interface: str) -> None:
        loop = asyncio.get_running_loop()
        for _ in range(DRAIN):
            try:
                data = sock.recv(4096)
            except BlockingIOError:
                return
            except OSError as error:
                log.debug("%s: watching failed: %s", interface, error.strerror)
                return
            # After the readers of this turn: the DISCOVER it answers, which says that the machine boots, may wait too.
            loop.call_soon(self.see, data, interface, time.time())

    def see(self, data: bytes, interface: str, now: float) -> None:
        """Take in one IPv4 packet to port 68."""
        udp = parse_udp(data)
        if udp is None or int.from_bytes(udp.source, "big") in self._own:
            return
        try:
            packet = parse_packet(udp.payload)
        except MalformedPacket as error:
            self.counters["malformed"] += 1
            log.debug("%s: another server's message: %s", interface, error)
            return
        offer = read_offer(packet, str(IPv4Address(udp.source)), interface, now)
        if offer is not None:
            self.counters["offers"] += 1
            self._remember(offer)
            self._tell(offer, now)

    def _remember(self, offer: Rival) -> None:
        key = (offer.server, offer.interface)
        before = self.table.pop(key, None)
        if before is None:
            log.log(
                logging.WARNING if offer.boot_file or offer.interface in self._full else logging.INFO,
                "%s: another DHCP server answers: %s",
                offer.interface,
                describe_offer(offer),
            )
            self.table[key] = offer
            if len(self.table) > MAX_SERVERS:
                self.table.popitem(last=False)
        else:
            self.table[key] = replace(offer, first_seen=before.first_seen, offers=before.offers + 1)

    def _tell(self, offer: Rival, now: float) -> None:
        if not offer.mac:
            return
        mac = Mac(offer.mac)
        if not (offer.boot_file or offer.interface in self._full or self._presence.is_booting(mac, now)):
            return
        data: dict[str, Any] = {
            "server": offer.server,
            "next_server": offer.next_server,
            "boot_file": offer.boot_file,
            "is_proxy": offer.is_proxy,
            "interface": offer.interface,
        }
        key = f"{offer.server}:{offer.boot_file}"
        self._journal.record(Kind.RIVAL, describe_offer(offer), now=now, mac=mac, key=key, data=data)


def describe_offer(offer: Rival) -> str:
    """One sentence: who offered what."""
    parts = []
    if offer.address:
        parts.append(f"address {offer.address}")
    if offer.boot_file:
        where = f" from {offer.next_server}" if offer.next_server and "://" not in offer.boot_file else ""
        parts.append(f"boot file {offer.boot_file}{where}")
    kind = "proxyDHCP" if offer.is_proxy else "DHCP"
    return f"{kind} server {offer.server} offered {' and '.join(parts) or 'nothing to boot'}"
