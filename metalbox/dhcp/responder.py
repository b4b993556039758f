"""What to answer to one DHCP message: `respond`, a pure function of packet, arrival, context, leases and time."""

from __future__ import annotations

from typing import NamedTuple

from metalbox.dhcp.context import Arrival, Context, Network
from metalbox.dhcp.exchange import Exchange
from metalbox.dhcp.leases import LeaseChange, Leases
from metalbox.dhcp.packet import Packet
from metalbox.dhcp.route import Route, RouteKind, route

__all__ = ["Arrival", "Context", "Exchange", "Ignored", "Network", "Reply", "Route", "RouteKind", "respond", "route"]


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
    """Answer one message, or say why not."""
    raise NotImplementedError
