"""Where a reply goes: one pure function after RFC 2131 section 4.1, RFC 8357 and what boot firmware accepts."""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple

from metalbox.dhcp.options import REQUESTED_ADDRESS, Message
from metalbox.dhcp.packet import BROADCAST_FLAG, Packet, address_text
from metalbox.dhcp.relay import source_port_wanted

SERVER_PORT = 67
CLIENT_PORT = 68
PXE_PORT = 4011


class RouteKind(StrEnum):
    """How the datagram travels."""

    RELAY = "relay"  # UDP to the relay agent
    UNICAST = "unicast"  # UDP to a client that answers ARP
    BROADCAST = "broadcast"  # UDP to 255.255.255.255 on the interface of arrival
    LINK = "link"  # one Ethernet frame to `mac`: the client does not answer ARP for `address` yet


class Route(NamedTuple):
    """Destination of a reply. `address` is dotted decimals; `mac` is filled for LINK only."""

    kind: RouteKind
    address: str
    port: int
    mac: bytes = b""


BROADCAST = Route(RouteKind.BROADCAST, "255.255.255.255", CLIENT_PORT)
# Frames are built for Ethernet only; InfiniBand and others get a broadcast.
ETHERNET = 1


def client_address(request: Packet) -> int:
    """The address that the client has and answers ARP for: `ciaddr`, where it means that.

    Clients of a BOOTP habit (U-Boot, ESP) leave an old address in `ciaddr` of a DISCOVER, or beside option 50.
    """
    if request.message in (Message.BOOTP, Message.DISCOVER):
        return 0
    if request.message == Message.REQUEST and REQUESTED_ADDRESS in request.options:
        return 0
    return request.ciaddr


def route(request: Packet, reply: Message, yiaddr: int, source: tuple[str, int], port: int) -> Route:
    """Choose the destination of a reply of type `reply` (BOOTP for BOOTP) that gives `yiaddr`.

    `source` is the request's sender, `port` ours that it came to (67 or 4011).
    """
    if port == PXE_PORT:
        # To where it came from: EDK2 asks from 4011 and ignores answers to 68, iPXE asks from 68 (both measured).
        return Route(RouteKind.UNICAST, source[0], source[1])
    ciaddr = client_address(request)
    if request.giaddr and not (request.message == Message.INFORM and ciaddr):
        return Route(RouteKind.RELAY, address_text(request.giaddr), _relay_port(request, source))
    if reply is Message.NAK:
        return BROADCAST
    if ciaddr:
        return Route(RouteKind.UNICAST, address_text(ciaddr), CLIENT_PORT)
    if request.message == Message.INFORM and source[0] != "0.0.0.0":
        # Windows and some BMCs leave ciaddr empty.
        return Route(RouteKind.UNICAST, source[0], CLIENT_PORT)
    if request.flags & BROADCAST_FLAG or not yiaddr or request.htype != ETHERNET or request.hlen != 6:
        return BROADCAST
    return Route(RouteKind.LINK, address_text(yiaddr), CLIENT_PORT, request.chaddr[:6])


def _relay_port(request: Packet, source: tuple[str, int]) -> int:
    """67, unless the relay asks for its own port (RFC 8357); BOOTP-era relays use 67 too."""
    return source[1] if source_port_wanted(request) else SERVER_PORT
