"""DHCP on the wire: receives, asks the responder, makes leases durable, sends, and tells the journal.

One UDP socket for each interface and port. A wake-up takes all that waits in a socket; what needs no durable change
is answered at once, and all lease changes that came together are committed together before their answers leave. No
rule of the protocol lives here. Replies leave on the interface that the request came in by, those of one size to one
relay with one call.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Address
from typing import NamedTuple

from metalbox.config import Config, Mode
from metalbox.dhcp import datagrams, sockets
from metalbox.dhcp.express import Express, Expresses
from metalbox.dhcp.frames import udp_frame
from metalbox.dhcp.leases import Lease, LeaseChange, Leases
from metalbox.dhcp.options import MESSAGE_NAMES, Message
from metalbox.dhcp.packet import OPTIONS_AT, address_text, parse_packet
from metalbox.dhcp.probe import Probe
from metalbox.dhcp.responder import Arrival, Context, Exchange, Ignored, Route, RouteKind, respond
from metalbox.dhcp.rivals import Rivals
from metalbox.dhcp.route import BROADCAST, CLIENT_PORT, PXE_PORT, SERVER_PORT
from metalbox.dhcp.sockets import Interface
from metalbox.dhcp.telling import NOT_BOOTING, Filled, Telling, exchange_of
from metalbox.errors import MalformedPacket
from metalbox.journal import Journal
from metalbox.machine import Mac
from metalbox.presence import Presence

log = logging.getLogger("metalbox.dhcp")

Commit = Callable[[Sequence[LeaseChange]], Awaitable[None]]

# Taken from a socket in one wake-up, and answered before other work of the loop gets its turn (about 1 ms).
DRAIN = 1024
STEP = 128
# More than this many waiting means overload: then those go on who are half-way through, the others will ask again.
MAX_QUEUE = 1024
# Ways in which datagrams come in; a renewal has its client's address as source.
MAX_ARRIVALS = 4096
# Answers that wait for a commit; further requests stay in the queue until it is done.
MAX_WAITING = 4096
RETRY_SECONDS = 0.5
# Longer than any lock or checkpoint of a database on one machine takes.
GIVE_UP_SECONDS = 30.0
DISCOVER = b"\x35\x01\x01"
OTHER = "received: other"
RECEIVED = {number: f"received: {name}" for number, name in MESSAGE_NAMES.items()}
SENT = {number: f"sent: {name}" for number, name in MESSAGE_NAMES.items()}


@dataclass(slots=True, eq=False)
class _Port:
    """One socket. `link` sends whole frames on the same interface, None where that is not possible.

    `arrivals` remembers how datagrams came in: nearly all of a subnet's come alike. `express` is what was learned of
    their answers. `segments` is False once the kernel has refused to cut one call into many datagrams.
    """

    interface: Interface
    number: int
    sock: socket.socket
    link: socket.socket | None
    express: Expresses
    segments: bool = True
    arrivals: dict[bytes, Arrival] = field(default_factory=dict)


def _read_arrival(port: _Port, origin: bytes) -> Arrival:
    source, index, ours, target = datagrams.read_origin(origin)
    # The second is our address there, even for a broadcast; for a unicast the third is the same.
    return Arrival(port.interface.name, index, IPv4Address(ours), source, port.number, ours == target)


# Data, origin, the port that it came to, and when it was taken from there.
_Datagram = tuple[bytes, bytes, _Port, float]


class _Answer(NamedTuple):
    """A reply and what is needed to send and to record it."""

    data: bytes
    route: Route
    arrival: Arrival
    port: _Port
    started: float
    reply: int
    said: Exchange | Filled


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
        self._inbox = datagrams.Inbox()
        self._waiting: list[_Answer] = []
        self._changes: list[LeaseChange] = []
        self._is_committing = False
        self._wanted = asyncio.Event()
        self._telling = Telling(journal, self.counters)
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
            self._ports.append(_Port(interface, number, sock, link, Expresses(self.context, self._leases)))

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
        self._telling.tell(len(self._telling))
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
        inbox, queue, fileno, started = self._inbox, self._queue, port.sock.fileno(), time.perf_counter()
        try:
            for _ in range(DRAIN // inbox.count):
                received = inbox.receive(fileno)
                queue.extend([(data, origin, port, started) for data, origin in received])
                if len(received) < inbox.count:
                    break
        except OSError as error:
            # The interface went down or away; the socket tells it once.
            log.warning("%s: receiving failed: %s", port.interface.name, error.strerror)
            self.counters["receive failed"] += 1
        if inbox.cut:
            self.counters["ignored: malformed"] += inbox.cut
            inbox.cut = 0
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
            if spare > 0 and datagram[0].startswith(DISCOVER, OPTIONS_AT):
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
        now, queue, is_taught = time.time(), self._queue, False
        answers: list[_Answer] = []
        received: list[str] = []
        try:
            for _ in range(min(STEP, len(queue))):
                if len(self._waiting) >= MAX_WAITING:
                    break
                datagram = queue.popleft()
                data, origin, port, started = datagram
                express = port.express.answer(data, origin, now)
                if express is None:
                    # One lesson for each step: who invents new kinds of packets does not cost more than his answers.
                    is_taught = self._take(datagram, now, answers, received, may_learn=not is_taught) or is_taught
                else:
                    received.append(RECEIVED[express[1].message])
                    self._take_express(express, port, started, answers)
        finally:
            # Also after a bug in one answer, which the loop reports: the next one is somebody else's.
            self.counters.update(received)
            self._send_all(answers, now)
            if queue and len(self._waiting) < MAX_WAITING:
                self._is_stepping = True
                asyncio.get_running_loop().call_soon(self._step)

    def _take_express(self, express: Express, port: _Port, started: float, answers: list[_Answer]) -> None:
        data, plan, parts, lease, change = express
        route = plan.route
        if route.kind is RouteKind.LINK:
            route = Route(RouteKind.LINK, lease.address, CLIENT_PORT, parts[2])
        answer = _Answer(data, route, plan.arrival, port, started, plan.reply, (plan, parts, lease.number))
        if change is None:
            answers.append(answer)
        else:
            self._changes.append(change)
            self._waiting.append(answer)
            self._wanted.set()

    def _take(
        self, datagram: _Datagram, now: float, answers: list[_Answer], received: list[str], *, may_learn: bool
    ) -> bool:
        """Ask the responder; returns whether its answer was studied."""
        data, origin, port, started = datagram
        arrival = self._arrival(port, origin)
        try:
            packet = parse_packet(data)
        except MalformedPacket as error:
            self.counters["ignored: malformed"] += 1
            log.debug("%s: from %s:%d: %s", port.interface.name, *arrival.source, error)
            return False
        received.append(RECEIVED.get(packet.message, OTHER))
        outcome = respond(packet, arrival, self.context, self._leases, now)
        if outcome.change is not None:
            self._changes.append(outcome.change)
            self._wanted.set()
        if isinstance(outcome, Ignored):
            self._ignore(outcome, arrival, started, now)
            return False
        reply = outcome.exchange.reply or 0
        answer = _Answer(outcome.data, outcome.route, arrival, port, started, reply, outcome.exchange)
        # An ACK without a change of its own may rest on one that is not durable yet; the PXE port gives no leases.
        is_unsure = reply == Message.ACK and port.number == SERVER_PORT
        if outcome.change is not None or (is_unsure and (self._is_committing or self._changes)):
            self._waiting.append(answer)
            self._wanted.set()
        else:
            answers.append(answer)
        if may_learn:
            port.express.learn(data, origin, packet, arrival, outcome)
        return may_learn

    def _arrival(self, port: _Port, origin: bytes) -> Arrival:
        arrival = port.arrivals.get(origin)
        if arrival is None:
            if len(port.arrivals) >= MAX_ARRIVALS:
                port.arrivals.clear()
            arrival = port.arrivals[origin] = _read_arrival(port, origin)
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
                self._send_all(batch, time.time())
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
            exchange = exchange_of(answer.said)._replace(reply=None)
            self._record(exchange, exchange, answer.started, now, "lease not stored")
        self._wanted.set()

    # -- sending --------------------------------------------------------------------------------------------------

    def _send_all(self, answers: Iterable[_Answer], now: float) -> None:
        """Send answers, those alike together, and record what has left."""
        alike: dict[tuple[_Port, str, int, bytes, int], list[_Answer]] = {}
        for answer in answers:
            port, route = answer.port, answer.route
            if route.kind is RouteKind.LINK:
                if self._send_frame(answer):
                    self._sent([answer], now)
                    continue
                route = BROADCAST
            info = b""
            if len(port.interface.addresses) > 1:
                # From the very address that the client was told or has asked: iPXE's PXE port takes no other.
                info = datagrams.PKTINFO.pack(port.interface.index, answer.arrival.server_address.packed, bytes(4))
            key = (port, route.address, route.port, info, len(answer.data))
            group = alike.get(key)
            if group is None:
                alike[key] = [answer]
            else:
                group.append(answer)
        for (port, address, number, info, size), group in alike.items():
            count = datagrams.fitting(size)
            for at in range(0, len(group), count):
                self._send_alike(port, group[at : at + count], (address, number), info, now)

    def _send_alike(
        self, port: _Port, answers: list[_Answer], target: tuple[str, int], info: bytes, now: float
    ) -> None:
        if not self._ports:
            return
        if len(answers) > 1 and port.segments:
            try:
                datagrams.send_alike(port.sock, [answer.data for answer in answers], target, info)
            except OSError as error:
                # Whatever it is, each of them meets it again below.
                port.segments = error.errno not in datagrams.CANNOT_SEGMENT
            else:
                self._sent(answers, now)
                return
        for answer in answers:
            try:
                datagrams.send(port.sock, answer.data, target, info)
            except OSError as error:
                self.counters["send failed"] += 1
                log.warning("%s: cannot send to %s: %s", port.interface.name, target[0], error.strerror)
            else:
                self._sent([answer], now)

    def _send_frame(self, answer: _Answer) -> bool:
        data, route, arrival, port = answer[:4]
        if port.link is None:
            return False
        addresses = (arrival.server_address.packed, socket.inet_aton(route.address))
        frame = udp_frame((port.interface.mac, route.mac), addresses, (port.number, route.port), data)
        try:
            port.link.send(frame)
        except OSError as error:
            log.debug("%s: raw send failed, broadcasting: %s", arrival.interface, error.strerror)
            self.counters["raw send failed"] += 1
            return False
        return True

    # -- telling --------------------------------------------------------------------------------------------------

    def _sent(self, answers: Sequence[_Answer], now: float) -> None:
        self.counters.update([SENT.get(answer.reply, "sent: other") for answer in answers])
        for answer in answers:
            if answer.reply == Message.OFFER:
                self.probe.wanted.set()
            said = answer.said
            pattern = said if isinstance(said, Exchange) else said[0].pattern
            self._record(said, pattern, answer.started, now)

    def _ignore(self, outcome: Ignored, arrival: Arrival, started: float, now: float) -> None:
        word = "noted" if outcome.change is not None else "ignored"
        self.counters[f"{word}: {outcome.reason}"] += 1
        if log.isEnabledFor(logging.DEBUG):
            who = outcome.exchange.mac if outcome.exchange else "nobody"
            log.debug("%s: %s: %s %s (%s)", arrival.interface, who, word, outcome.reason, outcome.detail)
        if outcome.exchange is not None:
            self._record(outcome.exchange, outcome.exchange, started, now, outcome.reason)

    def _record(
        self, said: Exchange | Filled, pattern: Exchange, started: float, now: float, ignored: str = ""
    ) -> None:
        """Tell all who want to know. `pattern` has what does not depend on the client."""
        if isinstance(said, Exchange):
            mac, address = said.mac, said.address
        else:
            mac, address = Mac.from_bytes(said[1][2]), said[2]
        if not mac:
            return
        is_boot = pattern.client not in NOT_BOOTING
        # A DISCOVER's address is an offer that the client may not take.
        is_taken = pattern.message != Message.DISCOVER and pattern.reply != Message.NAK
        text = address_text(address) if is_taken else ""
        if text or is_boot:
            self._presence.saw(mac, text, now=now, booting=is_boot)
        if pattern.client == "bmc":
            self._heard_bmc(mac, text, pattern.vendor_class)
        # The daily talk of a site's own machines with its own server is not ours to remember.
        if ignored and pattern.mode != Mode.FULL and not is_boot and not self._presence.is_booting(mac, now):
            return
        self._telling.add(mac, said, ignored, int((time.perf_counter() - started) * 1e6), now)
