"""Answers to packets of a kind that was answered before, by patching the earlier answer. PURE.

Two machines of one model send the same bytes but for who they are. What differs from packet to packet and only names
the client (transaction, seconds, hardware address, options 12, 50, 61 and 97, the port in option 82) are holes; all
other bytes must be equal to those of a packet that the responder has answered. Then its answer differs from that
one in the address and in the echoes of the holes only, so that nothing has to be decided again. The responder stays
the only one who knows the protocol: what has no plan goes to it, and so does whatever a plan cannot give.
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import dataclass
from struct import Struct
from typing import Any

from metalbox.config import Mode
from metalbox.dhcp import options
from metalbox.dhcp.bootfile import RASPBERRY_PI_3
from metalbox.dhcp.context import Arrival, Context
from metalbox.dhcp.exchange import Exchange
from metalbox.dhcp.leases import Client, Lease, LeaseChange, Leases
from metalbox.dhcp.options import Message
from metalbox.dhcp.packet import OPTIONS_AT, Packet, printable, text_of
from metalbox.dhcp.relay import CIRCUIT_ID, REMOTE_ID, location_text
from metalbox.dhcp.responder import Reply, lease_seconds
from metalbox.dhcp.route import SERVER_PORT, Route
from metalbox.dhcp.wording import describe
from metalbox.machine import Mac

# Kinds of firmware times relays; who invents kinds only makes us forget and learn anew.
MAX_PLANS = 512
# Plans that are tried for packets of one length that begin alike: models that differ further behind.
MAX_ALIKE = 8
# Packets of one kind have their first option, and the second one's code and length, in common.
HEAD = slice(OPTIONS_AT, OPTIONS_AT + 5)
HOLES = frozenset({options.HOST_NAME, options.REQUESTED_ADDRESS, options.CLIENT_ID, options.MACHINE_ID})
ECHOED = frozenset({options.CLIENT_ID, options.MACHINE_ID})
LOCATIONS = frozenset({CIRCUIT_ID, REMOTE_ID})
XID, SECONDS, HARDWARE, YOURS = slice(4, 8), slice(8, 10), slice(28, 34), slice(16, 20)
NOBODY = bytes(6)

# Where a hole begins and ends, and what it holds: an option's code, or that of a sub-option of option 82 plus 256.
Hole = tuple[int, int, int]
AGENT = 256
TALK = frozenset({options.HOST_NAME, AGENT + CIRCUIT_ID, AGENT + REMOTE_ID})
# Names in the journal of the last fields of a Client.
TOLD = ("hostname", "circuit_id", "remote_id")
Parts = tuple[bytes, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """One kind of packet and its answer.

    `constants` and `holes` take a packet apart: the first gives what must equal `expected`, the second the holes in
    their order. `requested` ... `machine_id` are places in there, -1 for what the packet has not. `pieces` joined are
    the answer, with the transaction, the address and the hardware address at 1, 3 and 5, and holes at `echoes`.
    `is_talkative` says whether it tells more of the client than its hardware address and client id. `key` is the
    beginning of its key in the journal, `data` and `sentence` are what that is told: the first without what the
    holes say, the second what stands before and after the address.
    """

    constants: Struct
    expected: Parts
    holes: Struct
    requested: int
    client_id: int
    hostname: int
    circuit_id: int
    remote_id: int
    machine_id: int
    pieces: tuple[bytes, ...]
    echoes: tuple[tuple[int, int], ...]
    subnet: str
    seconds: float
    reserved: Container[str]
    message: int
    reply: int
    route: Route
    arrival: Arrival
    pattern: Exchange
    is_talkative: bool
    key: str
    data: Mapping[str, Any]
    sentence: tuple[str, str]

    def client(self, mac: str, parts: Parts) -> Client:
        """Who asks."""
        client_id = parts[self.client_id].hex()
        if not self.is_talkative:
            return Client(mac, client_id)
        circuit_id, remote_id = parts[self.circuit_id], parts[self.remote_id]
        return Client(
            mac,
            client_id,
            printable(text_of(parts[self.hostname])),
            location_text(circuit_id) if circuit_id else self.pattern.circuit_id,
            location_text(remote_id) if remote_id else self.pattern.remote_id,
        )

    def write(self, parts: Parts, address: int) -> bytes:
        """The answer that gives this address."""
        pieces = [*self.pieces]
        pieces[1] = parts[0]
        pieces[3] = address.to_bytes(4, "big")
        pieces[5] = parts[2]
        for place, part in self.echoes:
            pieces[place] = parts[part]
        return b"".join(pieces)

    def exchange(self, parts: Parts, address: int) -> Exchange:
        """What this message tells, for the journal."""
        mac = Mac.from_bytes(parts[2])
        client = self.client(mac, parts)
        return self.pattern._replace(
            mac=mac,
            xid=int.from_bytes(parts[0], "big"),
            address=address,
            circuit_id=client.circuit_id,
            remote_id=client.remote_id,
            hostname=client.hostname,
            machine_id=parts[self.machine_id],
        )

    def told(self, parts: Parts) -> dict[str, str]:
        """What the journal's data has of the client, but for its addresses."""
        if not self.is_talkative:
            return {}
        return {name: value for name, value in zip(TOLD, self.client("", parts)[2:], strict=True) if value}


# The answer, its plan, what filled the holes, the lease that it gives, and its change of the store.
Express = tuple[bytes, Plan, Parts, Lease, LeaseChange | None]


class Expresses:
    """What one port has learned. Forgets all when it is too much."""

    def __init__(self, context: Context, leases: Leases) -> None:
        self._context = context
        self._leases = leases
        self._plans: dict[tuple[bytes, int, bytes], list[Plan]] = {}
        self._count = 0

    def answer(self, data: bytes, origin: bytes, now: float) -> Express | None:
        """Answer a packet of a known kind that came in by `origin`; None when the responder is to be asked."""
        for plan in self._plans.get((origin, len(data), data[HEAD]), ()):
            if plan.constants.unpack(data) == plan.expected:
                break
        else:
            return None
        parts = (*plan.holes.unpack(data), b"")
        raw = parts[2]
        mac = raw.hex(":")
        if raw[0] & 1 or raw == NOBODY or raw.startswith(RASPBERRY_PI_3) or mac in plan.reserved:
            return None
        client = plan.client(mac, parts)
        requested = int.from_bytes(parts[plan.requested], "big")
        if plan.message == Message.DISCOVER:
            lease = self._leases.offer(plan.subnet, client, requested, now)
            if lease is None:
                return None
            return plan.write(parts, lease.number), plan, parts, lease, None
        bound = self._leases.bind(plan.subnet, client, requested, plan.seconds, now)
        if bound is None:
            return None
        return plan.write(parts, requested), plan, parts, *bound

    def learn(self, data: bytes, origin: bytes, packet: Packet, arrival: Arrival, outcome: Reply) -> None:
        """Remember how a packet was answered, if that is the same for all who send such."""
        if not is_general(packet, arrival, self._context, outcome):
            return
        plan = make_plan(data, packet, arrival, outcome, self._context, self._leases)
        if plan is None:
            return
        if self._count >= MAX_PLANS:
            self._plans.clear()
            self._count = 0
        alike = self._plans.setdefault((origin, len(data), data[HEAD]), [])
        if len(alike) >= MAX_ALIKE:
            alike.pop(0)
            self._count -= 1
        alike.append(plan)
        self._count += 1


def is_general(packet: Packet, arrival: Arrival, context: Context, outcome: Reply) -> bool:
    """Whether the answer follows from the constants: an offer, or an ACK to who has chosen us, in full service."""
    exchange = outcome.exchange
    if exchange.mode != Mode.FULL or arrival.port != SERVER_PORT or not packet.has_cookie:
        return False
    if (packet.htype, packet.hlen) != (1, 6) or packet.chaddr.startswith(RASPBERRY_PI_3):
        return False
    if not packet.giaddr and len(context.attached.get(arrival.interface, ())) > 1:
        # The requested address may decide the network.
        return False
    given = packet.options
    if len(given.get(options.REQUESTED_ADDRESS, bytes(4))) != 4:
        return False
    if packet.message == Message.DISCOVER:
        return exchange.reply == Message.OFFER
    has_chosen = options.SERVER_ID in given and options.REQUESTED_ADDRESS in given
    return packet.message == Message.REQUEST and has_chosen and exchange.reply == Message.ACK


def make_plan(
    data: bytes, packet: Packet, arrival: Arrival, outcome: Reply, context: Context, leases: Leases
) -> Plan | None:
    """The plan for packets like this one; None where an option is repeated or overloaded."""
    asked, told = find_holes(data, HOLES), find_holes(outcome.data, ECHOED)
    network = context.network_of(outcome.exchange.address)
    if asked is None or told is None or network is None:
        return None
    reserved = leases.reserved(network.name)
    if outcome.exchange.mac in reserved:
        return None
    places = {code: index for index, (_, _, code) in enumerate(asked, 3)}
    holes = [(*_ends(XID), 0), (*_ends(SECONDS), 0), (*_ends(HARDWARE), 0), *asked]
    constants, parts = _cut(len(data), holes)
    fixed = [(*_ends(XID), 0), (*_ends(YOURS), 0), (*_ends(HARDWARE), 0)]
    echoes = [hole for hole in told if hole[2] in places]
    pieces, at = [], 0
    for start, end, _ in (*fixed, *echoes):
        pieces += [outcome.data[at:start], outcome.data[start:end]]
        at = end
    pieces.append(outcome.data[at:])
    said = outcome.exchange
    bare = said._replace(address=0, hostname="", circuit_id="", remote_id="")
    before, _, after = describe(said, address="\0").partition("\0")
    return Plan(
        constants=constants,
        expected=constants.unpack(data),
        holes=parts,
        requested=places.get(options.REQUESTED_ADDRESS, -1),
        client_id=places.get(options.CLIENT_ID, -1),
        hostname=places.get(options.HOST_NAME, -1),
        circuit_id=places.get(AGENT + CIRCUIT_ID, -1),
        remote_id=places.get(AGENT + REMOTE_ID, -1),
        machine_id=places.get(options.MACHINE_ID, -1),
        pieces=tuple(pieces),
        echoes=tuple((7 + 2 * index, places[code]) for index, (_, _, code) in enumerate(echoes)),
        subnet=network.name,
        seconds=lease_seconds(packet, network),
        reserved=reserved,
        message=packet.message,
        reply=outcome.exchange.reply or 0,
        route=outcome.route,
        arrival=arrival,
        pattern=outcome.exchange,
        is_talkative=any((said.hostname, said.circuit_id, said.remote_id)) or bool(TALK & places.keys()),
        key=f"{said.client}:{said.port}:",
        data=bare.data(),
        sentence=(before, after),
    )


def find_holes(data: bytes, wanted: frozenset[int]) -> list[Hole] | None:
    """Where these options and the port in option 82 lie; None when a code is repeated or something is overloaded."""
    found: list[Hole] = []
    seen: set[int] = set()
    at, size = OPTIONS_AT, len(data)
    while at < size and data[at] != options.END:
        code = data[at]
        if code == options.PAD:
            at += 1
            continue
        start, end = at + 2, at + 2 + data[at + 1]
        if code in seen or code == options.OVERLOAD or end > size:
            return None
        seen.add(code)
        if code in wanted and end > start:
            found.append((start, end, code))
        elif code == options.RELAY_AGENT:
            inside = _find_locations(data, start, end)
            if inside is None:
                return None
            found += inside
        at = end
    return found


def _find_locations(data: bytes, at: int, end: int) -> list[Hole] | None:
    """The circuit and remote id inside of option 82; None when it is cut or has one of them twice."""
    found: list[Hole] = []
    while at < end:
        if at + 2 > end or at + 2 + data[at + 1] > end:
            return None
        code, start, at = data[at], at + 2, at + 2 + data[at + 1]
        if code in LOCATIONS:
            if any(hole[2] == AGENT + code for hole in found):
                return None
            if at > start:
                found.append((start, at, AGENT + code))
    return found


def _ends(part: slice) -> tuple[int, int]:
    return part.start, part.stop


def _cut(size: int, holes: list[Hole]) -> tuple[Struct, Struct]:
    """What unpacks the bytes around the holes, and what unpacks the holes."""
    constants, parts, at = ["="], ["="], 0
    for start, end, _ in holes:
        constants.append(f"{start - at}s{end - start}x")
        parts.append(f"{start - at}x{end - start}s")
        at = end
    constants.append(f"{size - at}s")
    parts.append(f"{size - at}x")
    return Struct("".join(constants)), Struct("".join(parts))
