"""DHCP on the wire: receives, asks the responder, makes leases durable, sends, and tells the journal.

One UDP socket for each interface and port. A wake-up takes all that waits in a socket; what needs no durable change
is answered at once, and all lease changes that came together are committed together before their answers leave. No
rule of the protocol lives here. Replies leave on the interface that the request came in by.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Address
from typing import NamedTuple

from metalbox.config import Config, Mode
from metalbox.dhcp import sockets
from metalbox.dhcp.frames import udp_frame
from metalbox.dhcp.leases import Lease, LeaseChange, Leases
from metalbox.dhcp.options import MESSAGE_NAMES, Message
from metalbox.dhcp.packet import OPTIONS_AT, parse_packet
from metalbox.dhcp.probe import Probe
from metalbox.dhcp.responder import Arrival, Context, Exchange, Ignored, Reply, RouteKind, respond
from metalbox.dhcp.rivals import Rivals
from metalbox.dhcp.route import BROADCAST, PXE_PORT, SERVER_PORT
from metalbox.dhcp.sockets import Interface
from metalbox.dhcp.wording import describe
from metalbox.errors import MalformedPacket
from metalbox.journal import Journal, Kind
from metalbox.machine import Mac
from metalbox.presence import Presence

log = logging.getLogger("metalbox.dhcp")

Commit = Callable[[Sequence[LeaseChange]], Awaitable[None]]

# A message is at most one Ethernet frame, relays and all; what is longer comes cut and is malformed.
MAX_DATAGRAM = 4096
# Taken from a socket in one wake-up, and answered before other work of the loop gets its turn (about 5 ms).
DRAIN = 1024
STEP = 128
# More than this many waiting means overload: then those go on who are half-way through, the others will ask again.
MAX_QUEUE = 1024
# Ways in which datagrams come in; a renewal has its client's address as source.
MAX_ARRIVALS = 4096
# Exchanges not yet in the journal; they wait for a moment without packets, and the oldest are given up before packets.
MAX_UNTOLD = 8192
# Answers that wait for a commit; further requests stay in the queue until it is done.
MAX_WAITING = 4096
RETRY_SECONDS = 0.5
# Longer than any lock or checkpoint of a database on one machine takes.
GIVE_UP_SECONDS = 30.0
# Clients that are an operating system or a BMC; all others are in a boot.
NOT_BOOTING = frozenset({"os", "bmc"})
DISCOVER = b"\x35\x01\x01"
RECEIVED = {number: f"received: {name}" for number, name in MESSAGE_NAMES.items()}
SENT = {number: f"sent: {name}" for number, name in MESSAGE_NAMES.items()}


@dataclass(slots=True, eq=False)
class _Port:
    """One socket. `link` sends whole frames on the same interface, None where that is not possible.

    `arrivals` remembers how datagrams came in: nearly all of a subnet's come alike.
    """

    interface: Interface
    number: int
    sock: socket.socket
    link: socket.socket | None
    arrivals: dict[tuple[bytes, tuple[str, int]], Arrival] = field(default_factory=dict)


def _read_arrival(port: _Port, info: bytes, source: tuple[str, int]) -> Arrival:
    interface = port.interface
    if len(info) != sockets.PKTINFO.size:
        return Arrival(interface.name, interface.index, interface.address, source, port.number, False)
    # The second is our address there, even for a broadcast; for a unicast the third is the same.
    index, ours, target = sockets.PKTINFO.unpack(info)
    return Arrival(interface.name, index, IPv4Address(ours), source, port.number, ours == target)


class _Datagram(NamedTuple):
    data: bytes
    info: list[tuple[int, int, bytes]]
    source: tuple[str, int]
    port: _Port
    started: float


class _Answer(NamedTuple):
    """A reply and what is needed to send and to record it."""

    reply: Reply
    arrival: Arrival
    port: _Port
    started: float


class _Told(NamedTuple):
    """An exchange on its way to the journal; put into words when no packet waits."""

    exchange: Exchange
    ignored: str
    micros: int
    now: float


class DhcpServer:
    """All of DHCP on the given interfaces. `open` it, `run` it in a task group, `close` it."""

    def __init__(
        self,
        config: Config,
        leases: Leases,
        journal: Journal,
        presence: Presence,
        commit: Commit,
        *,
        interfaces: Sequence[Interface],
        boot_files: Collection[str],
        known: Callable[[Mac], bool],
        heard_bmc: Callable[[Mac, str, str], None] = lambda mac, address, vendor_class: None,
        give_up_seconds: float = GIVE_UP_SECONDS,
    ) -> None:
        """`interfaces` are those of `sockets.choose_interfaces`; `commit` returns when the changes are durable.

        `boot_files` are the plain names of the boot files at hand; `known` tells in `reservations` mode whether a
        machine may have an address. `heard_bmc` is told of a BMC by its vendor class: MAC, address or "", class.
        """
        self.counters: Counter[str] = Counter()
        self._config = config
        self._leases = leases
        self._journal = journal
        self._presence = presence
        self._commit = commit
        self._heard_bmc = heard_bmc
        self._give_up_seconds = give_up_seconds
        self._interfaces = list(interfaces)
        attached = {interface.name: interface.addresses for interface in interfaces}
        self.context = Context.from_config(config, attached, boot_files, known)
        self._ports: list[_Port] = []
        self._links: list[socket.socket] = []
        self._queue: deque[_Datagram] = deque()
        self._is_stepping = False
        self._waiting: list[_Answer] = []
        self._changes: list[LeaseChange] = []
        self._is_committing = False
        self._wanted = asyncio.Event()
        self._untold: deque[_Told] = deque()
        self.probe = Probe(self.context, leases, journal, self._interfaces, config.dhcp.decline_seconds)
        self.rivals = Rivals(self.context, journal, presence, self._interfaces)

    # -- opening and closing --------------------------------------------------------------------------------------

    def open(self) -> None:
        """Open all sockets, or none: raises StartError with one sentence. Needs a running loop."""
        if not self._serves_anyone():
            log.info("dhcp: every subnet is off, no port is opened")
            return
        try:
            for interface in self._interfaces:
                self._open_interface(interface)
        except BaseException:
            self.close()
            raise
        loop = asyncio.get_running_loop()
        for port in self._ports:
            loop.add_reader(port.sock, self._readable, port)
        self.rivals.open()
        if self._config.dhcp.probe:
            self.probe.open()

    def _serves_anyone(self) -> bool:
        attached = (network for networks in self.context.attached.values() for network in networks)
        return any(network.mode is not Mode.OFF for network in (*self.context.networks, *attached))

    def _open_interface(self, interface: Interface) -> None:
        share = self._config.dhcp.share_port
        link: socket.socket | None = None
        if interface.is_ethernet:
            try:
                link = sockets.open_packet(interface, 0)
                self._links.append(link)
            except OSError as error:
                log.warning("%s: no raw socket (%s): clients get broadcasts", interface.name, error.strerror)
        for number in (SERVER_PORT, PXE_PORT):
            sock = sockets.open_udp(interface, number, share=share)
            self._ports.append(_Port(interface, number, sock, link))

    def close(self) -> None:
        """Stop listening. Answers that wait for a commit are not sent: their clients ask again."""
        for port in self._ports:
            # A socket that was opened and then a later one failed has no reader yet.
            asyncio.get_running_loop().remove_reader(port.sock)
            port.sock.close()
        for link in self._links:
            link.close()
        self._ports.clear()
        self._links.clear()
        self._queue.clear()
        self._waiting.clear()
        self._tell()
        self.probe.close()
        self.rivals.close()

    @property
    def listening(self) -> list[str]:
        """One line for each socket."""
        return [self._describe(port) for port in self._ports]

    def _describe(self, port: _Port) -> str:
        interface = port.interface
        name = "DHCP" if port.number == SERVER_PORT else "PXE"
        networks = self.context.attached[interface.name]
        modes = ", ".join(f"{network.name} {network.mode}" for network in networks)
        return f"{name} on {interface.name} {interface.address} UDP port {port.number} ({modes})"

    # -- receiving ------------------------------------------------------------------------------------------------

    def _readable(self, port: _Port) -> None:
        recvmsg, queue, started = port.sock.recvmsg, self._queue, time.perf_counter()
        for _ in range(DRAIN):
            try:
                data, info, flags, source = recvmsg(MAX_DATAGRAM, sockets.PKTINFO_SPACE)
            except BlockingIOError:
                break
            except OSError as error:
                # The interface went down or away; the socket tells it once.
                log.warning("%s: receiving failed: %s", port.interface.name, error.strerror)
                self.counters["receive failed"] += 1
                break
            if flags & socket.MSG_TRUNC:
                self.counters["ignored: malformed"] += 1
                continue
            queue.append(_Datagram(data, info, source, port, started))
        if len(queue) > MAX_QUEUE:
            self._shed()
        if not self._is_stepping:
            self._step()

    def _shed(self) -> None:
        """Too much waits: give up the oldest DISCOVERs. They repeat; a REQUEST has half of the work behind it."""
        spare = len(self._queue) - MAX_QUEUE
        kept: deque[_Datagram] = deque()
        for datagram in self._queue:
            # Nearly every client puts option 53 first. One that does not is kept.
            if spare > 0 and datagram.data.startswith(DISCOVER, OPTIONS_AT):
                spare -= 1
            else:
                kept.append(datagram)
        self.counters["ignored: overload"] += len(self._queue) - len(kept)
        while len(kept) > 4 * MAX_QUEUE:
            kept.popleft()
            self.counters["ignored: overload"] += 1
        self._queue = kept

    def _step(self) -> None:
        """Answer some of what waits, and come back for the rest."""
        self._is_stepping = False
        now = time.time()
        try:
            for _ in range(min(STEP, len(self._queue))):
                if len(self._waiting) >= MAX_WAITING:
                    return
                self._take(self._queue.popleft(), now)
        finally:
            # Also after a bug in one answer, which the loop reports: the next one is somebody else's.
            if self._queue and len(self._waiting) < MAX_WAITING:
                self._is_stepping = True
                asyncio.get_running_loop().call_soon(self._step)
            elif not self._queue:
                self._tell()

    def _take(self, datagram: _Datagram, now: float) -> None:
        data, _, source, port, started = datagram
        try:
            packet = parse_packet(data)
        except MalformedPacket as error:
            self.counters["ignored: malformed"] += 1
            log.debug("%s: from %s:%d: %s", port.interface.name, *source, error)
            return
        self.counters[RECEIVED.get(packet.message, "received: other")] += 1
        arrival = self._arrival(datagram)
        outcome = respond(packet, arrival, self.context, self._leases, now)
        if outcome.change is not None:
            self._changes.append(outcome.change)
            self._wanted.set()
        if isinstance(outcome, Ignored):
            self._ignore(outcome, arrival, started, now)
            return
        answer = _Answer(outcome, arrival, port, started)
        # An ACK without a change of its own may rest on one that is not durable yet; the PXE port gives no leases.
        is_unsure = outcome.exchange.reply == Message.ACK and port.number == SERVER_PORT
        if outcome.change is not None or (is_unsure and (self._is_committing or self._changes)):
            self._waiting.append(answer)
            self._wanted.set()
        else:
            self._send(answer, now)

    def _arrival(self, datagram: _Datagram) -> Arrival:
        port = datagram.port
        # IP_PKTINFO is the only thing we asked the kernel for.
        info = datagram.info[0][2] if datagram.info else b""
        key = (info, datagram.source)
        arrival = port.arrivals.get(key)
        if arrival is None:
            if len(port.arrivals) >= MAX_ARRIVALS:
                port.arrivals.clear()
            arrival = port.arrivals[key] = _read_arrival(port, info, datagram.source)
        return arrival

    # -- committing -----------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Make changes durable and send what waits for them, until cancelled. Raises when that fails for long."""
        if not self._ports:
            return
        async with asyncio.TaskGroup() as group:
            group.create_task(self._commit_all())
            if self._config.dhcp.probe:
                group.create_task(self.probe.run())

    async def _commit_all(self) -> None:
        failing_since = 0.0
        while True:
            await self._wanted.wait()
            self._wanted.clear()
            batch, self._waiting = self._waiting, []
            changes, self._changes = self._changes, []
            self._is_committing = True
            try:
                if changes:
                    await self._commit(changes)
            except Exception as error:
                failing_since = failing_since or time.monotonic()
                self._commit_failed(batch, changes, error)
                if time.monotonic() - failing_since >= self._give_up_seconds:
                    raise
                await asyncio.sleep(RETRY_SECONDS)
            else:
                failing_since = 0.0
                self._is_committing = False
                now = time.time()
                for answer in batch:
                    self._send(answer, now)
            if not self._is_stepping:
                self._step()

    def _commit_failed(self, batch: Sequence[_Answer], changes: list[LeaseChange], error: Exception) -> None:
        """No ACK leaves. The table in memory stands, and what it has more than the store is written with the next."""
        log.error("leases could not be stored, %d clients are not answered: %s", len(batch), error, exc_info=error)
        self.counters["commit failed"] += 1
        self.counters["ignored: lease not stored"] += len(batch)
        newest: dict[tuple[str, str], Lease] = {}
        for change in (*changes, *self._changes):
            newest.update({(lease.subnet, lease.address): lease for lease in change.leases})
        self._changes = [LeaseChange((lease,)) for lease in newest.values()]
        now = time.time()
        for answer in batch:
            exchange = answer.reply.exchange._replace(reply=None)
            self._record(Ignored("lease not stored", str(error), exchange), answer.arrival, answer.started, now)
        self._wanted.set()

    # -- sending --------------------------------------------------------------------------------------------------

    def _send(self, answer: _Answer, now: float) -> None:
        reply, arrival, port, _ = answer
        route = reply.route
        if not self._ports:
            return
        try:
            if route.kind is not RouteKind.LINK or not self._send_frame(answer):
                where = route if route.kind is not RouteKind.LINK else BROADCAST
                self._send_datagram(port, arrival, reply.data, (where.address, where.port))
        except OSError as error:
            self.counters["send failed"] += 1
            log.warning("%s: cannot send to %s: %s", arrival.interface, route.address, error.strerror)
            return
        exchange = reply.exchange
        self.counters[SENT.get(exchange.reply or 0, "sent: other")] += 1
        if exchange.reply == Message.OFFER:
            self.probe.wanted.set()
        self._record(reply, arrival, answer.started, now)

    def _send_frame(self, answer: _Answer) -> bool:
        reply, arrival, port, _ = answer
        if port.link is None:
            return False
        route = reply.route
        addresses = (arrival.server_address.packed, socket.inet_aton(route.address))
        frame = udp_frame((port.interface.mac, route.mac), addresses, (port.number, route.port), reply.data)
        try:
            port.link.send(frame)
        except OSError as error:
            log.debug("%s: raw send failed, broadcasting: %s", arrival.interface, error.strerror)
            self.counters["raw send failed"] += 1
            return False
        return True

    def _send_datagram(self, port: _Port, arrival: Arrival, data: bytes, target: tuple[str, int]) -> None:
        if len(port.interface.addresses) < 2:
            port.sock.sendto(data, target)
            return
        # From the very address that the client was told or has asked: iPXE's PXE port takes no other.
        info = sockets.PKTINFO.pack(port.interface.index, arrival.server_address.packed, bytes(4))
        port.sock.sendmsg([data], [(socket.IPPROTO_IP, sockets.IP_PKTINFO, info)], 0, target)

    # -- telling --------------------------------------------------------------------------------------------------

    def _ignore(self, outcome: Ignored, arrival: Arrival, started: float, now: float) -> None:
        word = "noted" if outcome.change is not None else "ignored"
        self.counters[f"{word}: {outcome.reason}"] += 1
        if log.isEnabledFor(logging.DEBUG):
            who = outcome.exchange.mac if outcome.exchange else "nobody"
            log.debug("%s: %s: %s %s (%s)", arrival.interface, who, word, outcome.reason, outcome.detail)
        self._record(outcome, arrival, started, now)

    def _record(self, outcome: Reply | Ignored, arrival: Arrival, started: float, now: float) -> None:
        exchange = outcome.exchange
        if exchange is None or not exchange.mac:
            return
        mac = exchange.mac
        is_boot = exchange.client not in NOT_BOOTING
        # A DISCOVER's address is an offer that the client may not take.
        is_taken = exchange.message != Message.DISCOVER and exchange.reply != Message.NAK
        self._presence.saw(mac, exchange.address_text if is_taken else "", now=now, booting=is_boot)
        if exchange.client == "bmc":
            self._heard_bmc(mac, exchange.address_text if is_taken else "", exchange.vendor_class)
        ignored = outcome.reason if isinstance(outcome, Ignored) else ""
        # The daily talk of a site's own machines with its own server is not ours to remember.
        if ignored and exchange.mode != Mode.FULL and not is_boot and not self._presence.is_booting(mac, now):
            return
        self._untold.append(_Told(exchange, ignored, int((time.perf_counter() - started) * 1e6), now))
        if len(self._untold) > MAX_UNTOLD:
            self._untold.popleft()
            self.counters["not in the timeline"] += 1

    def _tell(self) -> None:
        """Write what happened into the journal."""
        while self._untold:
            exchange, ignored, micros, now = self._untold.popleft()
            data = exchange.data(ignored)
            data["micros"] = micros
            text = describe(exchange, ignored)
            self._journal.record(Kind.DHCP, text, now=now, mac=exchange.mac, key=exchange.key, data=data)
            log.log(logging.DEBUG if exchange.client in NOT_BOOTING else logging.INFO, "%s: %s", exchange.mac, text)
