"""What to answer to one DHCP message: `respond`, a pure function of packet, arrival, context, leases and time.

It reads like RFC 2131 section 4.3: one method for each message and, for REQUEST, for each state of the client.
"""

from __future__ import annotations

from ipaddress import IPv4Address
from typing import NamedTuple

from metalbox.config import Mode
from metalbox.dhcp import options
from metalbox.dhcp.bootfile import PXE_CLASS, BootAnswer, Style, boot_answer, boot_item, identify
from metalbox.dhcp.context import Arrival, Context, Network, lease_options
from metalbox.dhcp.exchange import Exchange
from metalbox.dhcp.leases import Client, Lease, LeaseChange, Leases, LeaseState
from metalbox.dhcp.options import Message
from metalbox.dhcp.packet import (
    BROADCAST_FLAG,
    COOKIE,
    HEADER,
    MIN_SIZE,
    OPTIONS_AT,
    REPLY_OP,
    REQUEST_OP,
    Packet,
    address_text,
    encode_option,
    fit_options,
    max_reply_size,
    printable,
)
from metalbox.dhcp.relay import CIRCUIT_ID, LINK_SELECTION, REMOTE_ID, SERVER_ID_OVERRIDE, location_text, sub_options
from metalbox.dhcp.route import PXE_PORT, Route, RouteKind, client_address, route
from metalbox.machine import Mac

__all__ = ["Arrival", "Context", "Exchange", "Ignored", "Network", "Reply", "Route", "RouteKind", "respond", "route"]

# RFC 1542 section 4.1.1: a relay drops what has made more hops than this; a loop may bring it to us all the same.
MAX_HOPS = 16
# A BOOTP client never renews and never says goodbye; a day is longer than any boot or installation.
BOOTP_SECONDS = 86400
# A client may ask for a shorter lease than ours (RFC 2131 section 3.3), but not for a storm of renewals.
MIN_LEASE_SECONDS = 60
# Message type, server identifier, lease time, subnet mask and the end must stand beside an echoed option 82.
ESSENTIAL_SIZE = 40
# Firmwares times networks; a client can invent architectures, so the memory has an end.
MAX_ANSWERS = 4096
NO_BOOT = BootAnswer("", 0, b"", b"", b"")
ASKS_FOR_ADDRESS = frozenset({Message.REQUEST, Message.DECLINE})
# Option 53, and the head of option 54.
MESSAGE_OPTIONS = {message: bytes((options.MESSAGE_TYPE, 1, message, options.SERVER_ID, 4)) for message in Message}
FROM_SERVERS = frozenset({Message.OFFER, Message.ACK, Message.NAK, Message.FORCERENEW})


class Reply(NamedTuple):
    """Send `data` along `route`, from the port the request came to, after `change` (when there is one) is durable."""

    data: bytes
    route: Route
    change: LeaseChange | None
    exchange: Exchange


class Ignored(NamedTuple):
    """Nothing is sent. `reason` is one of few constant texts, for counting; `detail` has the offending value.

    `change` (RELEASE, DECLINE) is to be made durable all the same. `exchange` is None when the packet names nobody.
    """

    reason: str
    detail: str = ""
    exchange: Exchange | None = None
    change: LeaseChange | None = None


def respond(packet: Packet, arrival: Arrival, context: Context, leases: Leases, now: float) -> Reply | Ignored:
    """Answer one message, or say why not. Changes nothing but `leases`."""
    if packet.op != REQUEST_OP or packet.message in FROM_SERVERS:
        return Ignored("not a client's message", packet.message_name)
    if packet.hops > MAX_HOPS:
        return Ignored("too many hops", str(packet.hops))
    turn = _Turn(packet, arrival, context, leases, now)
    if not turn.client.mac and not turn.client.client_id:
        return Ignored("neither hardware address nor client id", packet.chaddr.hex(":"))
    return turn.respond()


def select_network(
    packet: Packet, arrival: Arrival, context: Context, agent: dict[int, bytes]
) -> tuple[Network | None, bool]:
    """The client's network, and whether its option 118 (RFC 3011) decided that.

    The relay's word on the link (RFC 3527) comes before the client's, and that before the relay's own address. What
    a client sends us directly through routers, a renewal or a question to the PXE port, tells its network by itself.
    """
    link = agent.get(LINK_SELECTION, b"")
    if len(link) == 4:
        return context.network_of(int.from_bytes(link, "big")), False
    chosen = packet.address(options.SUBNET_SELECTION) if options.SUBNET_SELECTION in packet.options else 0
    if chosen and (network := context.network_of(chosen)):
        return network, True
    if packet.giaddr:
        return context.network_of(packet.giaddr), False
    if arrival.unicast:
        address = client_address(packet) or int(IPv4Address(arrival.source[0]))
        if address and (network := context.network_of(address)):
            return network, False
    networks = context.attached.get(arrival.interface, ())
    if len(networks) > 1:
        wanted = packet.ciaddr or packet.address(options.REQUESTED_ADDRESS)
        for network in networks:
            if network.first <= wanted <= network.last:
                return network, False
    return (networks[0] if networks else None), False


def lease_seconds(packet: Packet, network: Network) -> int:
    """For how long the client gets its address: as it asks, within limits."""
    if options.LEASE_TIME not in packet.options:
        return network.lease_seconds
    asked = packet.number(options.LEASE_TIME) or network.lease_seconds
    return min(max(asked, MIN_LEASE_SECONDS), network.lease_seconds)


class _Turn:
    """One message on its way to an answer."""

    __slots__ = (
        "agent",
        "arrival",
        "client",
        "context",
        "echoes_selection",
        "firmware",
        "leases",
        "mac",
        "network",
        "now",
        "packet",
        "server",
        "server_id",
    )

    def __init__(self, packet: Packet, arrival: Arrival, context: Context, leases: Leases, now: float) -> None:
        self.packet = packet
        self.arrival = arrival
        self.context = context
        self.leases = leases
        self.now = now
        given = packet.options
        self.agent = sub_options(given[options.RELAY_AGENT]) if options.RELAY_AGENT in given else {}
        raw = packet.chaddr[: packet.hlen]
        # Neither the zero address nor a multicast address names a client.
        self.mac = Mac(raw.hex(":")) if raw and not raw[0] & 1 and any(raw) else Mac("")
        self.client = Client(
            self.mac,
            given[options.CLIENT_ID].hex() if options.CLIENT_ID in given else "",
            printable(packet.text(options.HOST_NAME)) if options.HOST_NAME in given else "",
            location_text(self.agent[CIRCUIT_ID]) if CIRCUIT_ID in self.agent else "",
            location_text(self.agent[REMOTE_ID]) if REMOTE_ID in self.agent else "",
        )
        self.firmware = identify(packet)
        network, self.echoes_selection = select_network(packet, arrival, context, self.agent)
        self.network = network
        self.server = (network.server if network else 0) or int(arrival.server_address)
        override = self.agent.get(SERVER_ID_OVERRIDE, b"")
        self.server_id = int.from_bytes(override, "big") if len(override) == 4 else self.server

    # -- which conversation ---------------------------------------------------------------------------------------

    def respond(self) -> Reply | Ignored:
        network = self.network
        if network is None:
            return self.ignore("no subnet for this client", address_text(self.packet.giaddr or self.packet.ciaddr))
        if network.mode is Mode.OFF:
            return self.ignore("subnet is off", network.name)
        if self.packet.message > Message.INFORM:
            return self.ignore("message type not served", self.packet.message_name)
        if network.mode is Mode.PROXY:
            return self.pxe_port(network) if self.arrival.port == PXE_PORT else self.proxy(network)
        if network.mode is Mode.RESERVATIONS and not self.is_known(network):
            return self.ignore("unknown machine", self.mac)
        if self.arrival.port == PXE_PORT:
            return self.pxe_port(network)
        return self.serve(network)

    def is_known(self, network: Network) -> bool:
        return self.leases.reservation(network.name, self.mac) is not None or self.context.known(self.mac)

    def pxe_port(self, network: Network) -> Reply | Ignored:
        """A boot client that has its address asks what to boot (PXE 2.1 section 2.2.4)."""
        if self.packet.message not in (Message.REQUEST, Message.INFORM):
            return self.ignore("not a question for the PXE port", self.packet.message_name)
        if self.firmware.vendor_class != PXE_CLASS:
            return self.ignore("not a PXE client on the PXE port", self.packet.text(options.VENDOR_CLASS))
        boot = self.boot(network)
        if boot is None:
            return self.ignore("no boot file for this architecture", str(self.firmware.arch))
        address = self.packet.ciaddr
        item = boot_item(self.packet)
        if item:
            # Intel's ROM, which has picked an item from a menu, was answered like this by all that it was seen with.
            return self.reply(Message.ACK, address, boot, boot.options + item)
        return self.reply(Message.ACK, 0, boot, boot.options, ciaddr=address)

    def proxy(self, network: Network) -> Reply | Ignored:
        """Beside the site's DHCP server: offers a boot file and no address."""
        if self.packet.message not in (Message.BOOTP, Message.DISCOVER):
            return self.ignore("proxy mode gives no address", self.packet.message_name)
        if self.packet.message == Message.BOOTP or not self.firmware.boots:
            return self.ignore("not a boot client", self.packet.text(options.VENDOR_CLASS))
        boot = self.boot(network)
        if boot is None:
            # An offer without a file would cost the machine seconds of questions to the PXE port.
            return self.ignore("no boot file for this architecture", str(self.firmware.arch))
        return self.reply(Message.OFFER, 0, boot, boot.options)

    def serve(self, network: Network) -> Reply | Ignored:
        match self.packet.message:
            case Message.DISCOVER:
                return self.discover(network)
            case Message.REQUEST:
                return self.request(network)
            case Message.RELEASE:
                return self.release(network)
            case Message.DECLINE:
                return self.decline(network)
            case Message.INFORM:
                return self.inform(network)
            case _:
                return self.bootp(network)

    # -- full service ---------------------------------------------------------------------------------------------

    def discover(self, network: Network) -> Reply | Ignored:
        requested = self.packet.address(options.REQUESTED_ADDRESS)
        lease = self.leases.offer(network.name, self.client, requested, self.now)
        if lease is None:
            return self.ignore("pool exhausted", network.name)
        return self.give(network, Message.OFFER, lease, None)

    def request(self, network: Network) -> Reply | Ignored:
        """Tell the client's state by options 50 and 54 and ciaddr (RFC 2131 section 4.3.2)."""
        requested = self.packet.address(options.REQUESTED_ADDRESS)
        if options.SERVER_ID in self.packet.options:
            return self.selecting(network, requested or self.packet.ciaddr)
        if requested:
            return self.init_reboot(network, requested)
        if self.packet.ciaddr:
            return self.renewing(network, self.packet.ciaddr)
        return self.ignore("request without an address")

    def selecting(self, network: Network, address: int) -> Reply | Ignored:
        if not self.chose_us():
            self.leases.withdraw(network.name, self.client, self.now)
            return self.ignore("client chose another server", address_text(self.packet.address(options.SERVER_ID)))
        return self.bind(network, address) or self.nak("this address is not yours to have")

    def init_reboot(self, network: Network, address: int) -> Reply | Ignored:
        if not network.first <= address <= network.last:
            return self.nak("this address is of another network")
        expected = self.expected(network)
        if expected == address:
            return self.bind(network, address) or self.nak("this address is not yours any more")
        if expected or self.context.authoritative:
            return self.nak("your address is another")
        # RFC 2131 section 4.3.2: without a record the server MUST remain silent.
        return self.ignore("unknown client reboots", address_text(address))

    def renewing(self, network: Network, address: int) -> Reply | Ignored:
        """RENEWING comes by unicast from the client itself: it had the address from us, even if we forgot.

        REBINDING is broadcast to all servers, also by way of a relay, which then sends it by unicast.
        """
        is_from_client = self.arrival.unicast and not self.packet.giaddr
        if is_from_client or self.expected(network) == address:
            return self.bind(network, address) or self.nak("this address is not yours any more")
        if self.context.authoritative:
            return self.nak("this address is not from here")
        return self.ignore("unknown client rebinds", address_text(address))

    def release(self, network: Network) -> Ignored:
        if options.SERVER_ID in self.packet.options and not self.chose_us():
            return self.ignore("client chose another server", address_text(self.packet.address(options.SERVER_ID)))
        change = self.leases.release(network.name, self.client, self.packet.ciaddr, self.now)
        if change is None:
            # A relay may send its own copy of what it also routed.
            return self.ignore("release of no lease", address_text(self.packet.ciaddr))
        return self.ignore("released", address_text(self.packet.ciaddr), change)

    def decline(self, network: Network) -> Ignored:
        if not self.chose_us():
            return self.ignore("client chose another server", address_text(self.packet.address(options.SERVER_ID)))
        address = self.packet.address(options.REQUESTED_ADDRESS)
        change = self.leases.decline(network.name, self.client, address, self.now)
        if change is None:
            return self.ignore("decline of no lease", address_text(address))
        return self.ignore("declined", address_text(address), change)

    def inform(self, network: Network) -> Reply:
        """The client has an address of its own and wants the rest (RFC 2131 section 4.3.5): no lease is looked at."""
        boot = self.boot(network) or NO_BOOT
        return self.reply(Message.ACK, 0, boot, boot.options + network.options, ciaddr=self.packet.ciaddr)

    def bootp(self, network: Network) -> Reply | Ignored:
        lease = self.leases.offer(network.name, self.client, 0, self.now)
        bound = lease and self.leases.bind(network.name, self.client, lease.number, BOOTP_SECONDS, self.now)
        if not bound:
            return self.ignore("pool exhausted", network.name)
        lease, change = bound
        boot = self.boot(network) or NO_BOOT
        body = boot.options + network.options + self.hostname(network)
        return self.reply(Message.BOOTP, lease.number, boot, body, change=change)

    def chose_us(self) -> bool:
        chosen = self.packet.address(options.SERVER_ID)
        return chosen in (self.server_id, self.server) or chosen in self.context.own

    def expected(self, network: Network) -> int:
        """The address that is this client's by reservation or by a lease once acknowledged; 0 when there is none."""
        reservation = self.leases.reservation(network.name, self.mac)
        if reservation is not None:
            return int(reservation.address)
        lease = self.leases.find(network.name, self.client)
        return 0 if lease is None or lease.state is LeaseState.OFFERED else lease.number

    def bind(self, network: Network, address: int) -> Reply | None:
        seconds = lease_seconds(self.packet, network)
        bound = self.leases.bind(network.name, self.client, address, seconds, self.now)
        return self.give(network, Message.ACK, *bound) if bound else None

    # -- writing --------------------------------------------------------------------------------------------------

    def hostname(self, network: Network) -> bytes:
        reservation = self.leases.reservation(network.name, self.mac)
        if reservation is None or not reservation.hostname:
            return b""
        return encode_option(options.HOST_NAME, reservation.hostname.encode())

    def boot(self, network: Network) -> BootAnswer | None:
        """What to load, remembered by all that decides it: few firmwares, few networks."""
        firmware, context = self.firmware, self.context
        if firmware.client in ("os", "bmc"):
            return None
        is_full = network.mode is not Mode.PROXY
        style = Style(is_full, network.is_pxe10, self.arrival.port == PXE_PORT, is_full and context.no_proxy_wait)
        key = (firmware, style, self.server)
        answer = context.answers.get(key)
        if answer is None:
            answer = boot_answer(firmware, style, self.server, context.http_port, context.boot_names)
            if answer is not None and len(context.answers) < MAX_ANSWERS:
                context.answers[key] = answer
        return answer

    def give(self, network: Network, message: Message, lease: Lease, change: LeaseChange | None) -> Reply:
        """OFFER or ACK of a lease."""
        seconds = lease_seconds(self.packet, network)
        times = network.lease_options if seconds == network.lease_seconds else lease_options(seconds)
        boot = self.boot(network) or NO_BOOT
        body = times + boot.options + network.options + self.hostname(network)
        # RFC 2131 table 3: ciaddr of an ACK is that of the REQUEST.
        ciaddr = client_address(self.packet) if message is Message.ACK else 0
        return self.reply(message, lease.number, boot, body, ciaddr=ciaddr, change=change)

    def nak(self, text: str) -> Reply:
        return self.reply(Message.NAK, 0, NO_BOOT, encode_option(options.MESSAGE_TEXT, text.encode()))

    def reply(
        self,
        message: Message,
        yiaddr: int,
        boot: BootAnswer,
        body: bytes,
        *,
        ciaddr: int = 0,
        change: LeaseChange | None = None,
    ) -> Reply:
        packet = self.packet
        flags = packet.flags
        if packet.giaddr and not yiaddr:
            # So that the relay broadcasts what it could only send to 0.0.0.0: a refusal, for which RFC 2131 section
            # 4.3.2 demands it, and a proxy's offer.
            flags |= BROADCAST_FLAG
        header = HEADER.pack(
            REPLY_OP,
            packet.htype,
            packet.hlen,
            0,
            packet.xid,
            0,
            flags,
            ciaddr,
            yiaddr,
            boot.siaddr,
            packet.giaddr,
            packet.chaddr,
            boot.sname,
            boot.file,
        )
        if packet.has_cookie:
            data = header + COOKIE + self.options(message, body) + b"\xff"
        else:
            data = header
        if len(data) < MIN_SIZE:
            data = data.ljust(MIN_SIZE, b"\0")
        where = route(packet, message, yiaddr, self.arrival.source, self.arrival.port)
        return Reply(data, where, change, self.exchange(message, yiaddr or ciaddr, boot.name))

    def options(self, message: Message, body: bytes) -> bytes:
        """All options, as many as fit: the most important first, option 82 last with its room kept (RFC 3046)."""
        given = self.packet.options
        head = MESSAGE_OPTIONS[message] + self.server_id.to_bytes(4, "big") if message else b""
        echoes = b""
        if options.CLIENT_ID in given:
            # RFC 6842 section 3.
            echoes = encode_option(options.CLIENT_ID, given[options.CLIENT_ID])
        if options.MACHINE_ID in given:
            echoes += encode_option(options.MACHINE_ID, given[options.MACHINE_ID])
        if self.echoes_selection:
            echoes += encode_option(options.SUBNET_SELECTION, given[options.SUBNET_SELECTION])
        encoded = head + echoes + body
        agent = encode_option(options.RELAY_AGENT, given[options.RELAY_AGENT]) if options.RELAY_AGENT in given else b""
        room = max_reply_size(self.packet) - OPTIONS_AT - 1
        if len(encoded) + len(agent) > room:
            if len(agent) > room - ESSENTIAL_SIZE:
                agent = b""
            encoded = fit_options(head + body + echoes, room - len(agent))
        return encoded + agent

    def ignore(self, reason: str, detail: str = "", change: LeaseChange | None = None) -> Ignored:
        packet = self.packet
        address = packet.address(options.REQUESTED_ADDRESS) if packet.message in ASKS_FOR_ADDRESS else 0
        return Ignored(reason, detail, self.exchange(None, address or packet.ciaddr, ""), change)

    def exchange(self, reply: Message | None, address: int, boot_file: str) -> Exchange:
        packet, arrival, given = self.packet, self.arrival, self.packet.options
        return Exchange(
            self.mac,
            packet.xid,
            self.firmware.client,
            self.firmware.arch,
            packet.message,
            reply,
            self.network.mode if self.network else "",
            arrival.port,
            arrival.interface,
            address,
            packet.address(options.SERVER_ID) if options.SERVER_ID in given else 0,
            packet.giaddr,
            self.client.circuit_id,
            self.client.remote_id,
            boot_file,
            packet.text(options.VENDOR_CLASS) if options.VENDOR_CLASS in given else "",
            self.client.hostname,
            given.get(options.MACHINE_ID, b""),
        )
