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
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Address
from typing import NamedTuple

from metalbox import mmsg
from metalbox.config import Config, Mode
from metalbox.dhcp import datagrams, sockets
from metalbox.dhcp.express import Expresses, Parts, Plan
from metalbox.dhcp.frames import udp_frame
from metalbox.dhcp.leases import Lease, LeaseChange, Leases
from metalbox.dhcp.options import MESSAGE_NAMES, Message
from metalbox.dhcp.packet import OPTIONS_AT, parse_packet
from metalbox.dhcp.probe import Probe
from metalbox.dhcp.responder import Arrival, Context, Exchange, Ignored, Route, RouteKind, respond
from metalbox.dhcp.rivals import Rivals
from metalbox.dhcp.route import BROADCAST, CLIENT_PORT, PXE_PORT, SERVER_PORT
from metalbox.dhcp.sockets import Interface
from metalbox.dhcp.telling import NOT_BOOTING, Telling
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
    exchange: Exchange


# An answer by plan: its bytes, what filled the holes, the lease, and when its request was taken.
_Prompt = tuple[bytes, Parts, Lease, float]


@dataclass(slots=True)
class _Batch:
    """Answers that leave together. Those of one plan are of one size and, but for LINK, go to one place."""

    answers: list[_Answer] = field(default_factory=list)
    prompts: dict[tuple[_Port, Plan], list[_Prompt]] = field(default_factory=dict)
    size: int = 0


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
        self._waiting = _Batch()
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
        self._waiting = _Batch()
        self._journal.ask(len(self._telling))
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
        now, queue, batch, is_taught = time.time(), self._queue, _Batch(), False
        try:
            for _ in range(min(STEP, len(queue))):
                if self._waiting.size >= MAX_WAITING:
                    break
                datagram = queue.popleft()
                data, origin, port, started = datagram
                express = port.express.answer(data, origin, now)
                if express is None:
                    # One lesson for each step: who invents new kinds of packets does not cost more than his answers.
                    is_taught = self._take(datagram, now, batch, may_learn=not is_taught) or is_taught
                    continue
                answer, plan, parts, lease, change = express
                target = batch
                if change is not None:
                    self._changes.append(change)
                    target = self._waiting
                    target.size += 1
                group = target.prompts.get((port, plan))
                if group is None:
                    group = target.prompts[(port, plan)] = []
                group.append((answer, parts, lease, started))
        finally:
            # Also after a bug in one answer, which the loop reports: the next one is somebody else's.
            if self._changes:
                self._wanted.set()
            self._send_all(batch, now)
            if queue and self._waiting.size < MAX_WAITING:
                self._is_stepping = True
                asyncio.get_running_loop().call_soon(self._step)

    def _take(self, datagram: _Datagram, now: float, batch: _Batch, *, may_learn: bool) -> bool:
        """Ask the responder; returns whether its answer was studied."""
        data, origin, port, started = datagram
        arrival = self._arrival(port, origin)
        try:
            packet = parse_packet(data)
        except MalformedPacket as error:
            self.counters["ignored: malformed"] += 1
            log.debug("%s: from %s:%d: %s", port.interface.name, *arrival.source, error)
            return False
        self.counters[RECEIVED.get(packet.message, OTHER)] += 1
        outcome = respond(packet, arrival, self.context, self._leases, now)
        if outcome.change is not None:
            self._changes.append(outcome.change)
        if isinstance(outcome, Ignored):
            self._ignore(outcome, arrival, started, now)
            return False
        answer = _Answer(outcome.data, outcome.route, arrival, port, started, outcome.exchange)
        # An ACK without a change of its own may rest on one that is not durable yet; the PXE port gives no leases.
        is_unsure = outcome.exchange.reply == Message.ACK and port.number == SERVER_PORT
        if outcome.change is not None or (is_unsure and (self._is_committing or self._changes)):
            self._waiting.answers.append(answer)
            self._waiting.size += 1
            self._wanted.set()
        else:
            batch.answers.append(answer)
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
            batch, self._waiting = self._waiting, _Batch()
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

    def _commit_failed(self, batch: _Batch, changes: list[LeaseChange], error: Exception) -> None:
        """No ACK leaves. The table in memory stands, and what it has more than the store is written with the next."""
        log.error("leases could not be stored, %d clients are not answered: %s", batch.size, error, exc_info=error)
        self.counters["commit failed"] += 1
        self.counters["ignored: lease not stored"] += batch.size
        newest: dict[tuple[str, str], Lease] = {}
        for change in (*changes, *self._changes):
            newest.update({(lease.subnet, lease.address): lease for lease in change.leases})
        self._changes = [LeaseChange((lease,)) for lease in newest.values()]
        now = time.time()
        said = [(answer.exchange, answer.started) for answer in batch.answers]
        for (_, plan), prompts in batch.prompts.items():
            self.counters[RECEIVED[plan.message]] += len(prompts)
            said += [(plan.exchange(parts, lease.number), started) for _, parts, lease, started in prompts]
        for exchange, started in said:
            self._record(exchange._replace(reply=None), started, now, "lease not stored")
        self._wanted.set()

    # -- sending --------------------------------------------------------------------------------------------------

    def _send_all(self, batch: _Batch, now: float) -> None:
        """Send answers, those of one plan together, and record what has left."""
        for (port, plan), prompts in batch.prompts.items():
            self.counters[RECEIVED[plan.message]] += len(prompts)
            self._send_prompts(port, plan, prompts, now)
        for data, route, arrival, port, started, exchange in batch.answers:
            if self._send_datagrams(port, arrival, route, [data]):
                self.counters[SENT.get(exchange.reply or 0, "sent: other")] += 1
                if exchange.reply == Message.OFFER:
                    self.probe.wanted.set()
                self._record(exchange, started, now)

    def _send_prompts(self, port: _Port, plan: Plan, prompts: list[_Prompt], now: float) -> None:
        if plan.route.kind is RouteKind.LINK:
            sent = [
                prompt
                for prompt in prompts
                if self._send_datagrams(
                    port, plan.arrival, Route(RouteKind.LINK, prompt[2].address, CLIENT_PORT, prompt[1][2]), [prompt[0]]
                )
            ]
        else:
            sent, count = [], mmsg.fitting(len(prompts[0][0]))
            for at in range(0, len(prompts), count):
                some = prompts[at : at + count]
                left = self._send_datagrams(port, plan.arrival, plan.route, [prompt[0] for prompt in some])
                sent += some if len(left) == len(some) else [some[index] for index in left]
        self._record_prompts(plan, sent, now)

    def _send_datagrams(self, port: _Port, arrival: Arrival, route: Route, payloads: list[bytes]) -> list[int]:
        """Send datagrams of one size to one place; returns which of them have left."""
        if not self._ports:
            return []
        if route.kind is RouteKind.LINK:
            if self._send_frame(port, arrival, route, payloads[0]):
                return [0]
            route = BROADCAST
        target, info = (route.address, route.port), b""
        if len(port.interface.addresses) > 1:
            # From the very address that the client was told or has asked: iPXE's PXE port takes no other.
            info = mmsg.PKTINFO.pack(port.interface.index, arrival.server_address.packed, bytes(4))
        if len(payloads) > 1 and port.segments:
            try:
                datagrams.send_alike(port.sock, payloads, target, info)
                return list(range(len(payloads)))
            except OSError as error:
                # Whatever it is, each of them meets it again below.
                port.segments = error.errno not in mmsg.CANNOT_SEGMENT
        left = []
        for index, data in enumerate(payloads):
            try:
                datagrams.send(port.sock, data, target, info)
                left.append(index)
            except OSError as error:
                self.counters["send failed"] += 1
                log.warning("%s: cannot send to %s: %s", arrival.interface, route.address, error.strerror)
        return left

    def _send_frame(self, port: _Port, arrival: Arrival, route: Route, data: bytes) -> bool:
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

    def _record_prompts(self, plan: Plan, sent: Sequence[_Prompt], now: float) -> None:
        pattern, is_offer = plan.pattern, plan.reply == Message.OFFER
        self.counters[SENT[plan.reply]] += len(sent)
        if is_offer:
            self.probe.wanted.set()
        is_boot = pattern.client not in NOT_BOOTING
        if is_boot or not is_offer:
            for _, _, lease, _ in sent:
                self._presence.saw(Mac(lease.mac), "" if is_offer else lease.address, now=now, booting=is_boot)
        if pattern.client == "bmc":
            for _, _, lease, _ in sent:
                self._heard_bmc(Mac(lease.mac), "" if is_offer else lease.address, pattern.vendor_class)
        ended = time.perf_counter()
        said = [(lease.mac, parts, lease.address, int((ended - started) * 1e6)) for _, parts, lease, started in sent]
        self._telling.add_alike(plan, said, now)

    def _ignore(self, outcome: Ignored, arrival: Arrival, started: float, now: float) -> None:
        word = "noted" if outcome.change is not None else "ignored"
        self.counters[f"{word}: {outcome.reason}"] += 1
        if log.isEnabledFor(logging.DEBUG):
            who = outcome.exchange.mac if outcome.exchange else "nobody"
            log.debug("%s: %s: %s %s (%s)", arrival.interface, who, word, outcome.reason, outcome.detail)
        if outcome.exchange is not None:
            self._record(outcome.exchange, started, now, outcome.reason)

    def _record(self, exchange: Exchange, started: float, now: float, ignored: str = "") -> None:
        """Tell all who want to know."""
        mac = exchange.mac
        if not mac:
            return
        is_boot = exchange.client not in NOT_BOOTING
        # A DISCOVER's address is an offer that the client may not take.
        is_taken = exchange.message != Message.DISCOVER and exchange.reply != Message.NAK
        address = exchange.address_text if is_taken else ""
        self._presence.saw(mac, address, now=now, booting=is_boot)
        if exchange.client == "bmc":
            self._heard_bmc(mac, address, exchange.vendor_class)
        # The daily talk of a site's own machines with its own server is not ours to remember.
        if ignored and exchange.mode != Mode.FULL and not is_boot and not self._presence.is_booting(mac, now):
            return
        self._telling.add(exchange, ignored, int((time.perf_counter() - started) * 1e6), now)
