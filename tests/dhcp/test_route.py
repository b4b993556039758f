from __future__ import annotations

import pytest

from metalbox.dhcp.options import Message
from metalbox.dhcp.packet import Packet
from metalbox.dhcp.route import Route, RouteKind, client_address, route
from tests.dhcp.desk import MAC, address, ask, number

RELAY, UNICAST, BROADCAST, LINK = RouteKind.RELAY, RouteKind.UNICAST, RouteKind.BROADCAST, RouteKind.LINK
DISCOVER, REQUEST, INFORM = Message.DISCOVER, Message.REQUEST, Message.INFORM
OFFER, ACK, NAK, BOOTP = Message.OFFER, Message.ACK, Message.NAK, Message.BOOTP

CLIENT = number("192.0.2.100")
OLD = number("192.0.2.77")
GIADDR = number("10.1.0.1")
ANY = ("0.0.0.0", 68)
FLAG = 0x8000
WANTS = {50: address("192.0.2.100")}
SOURCE_PORT = {82: bytes.fromhex("1300")}
ALL = Route(BROADCAST, "255.255.255.255", 68)
BY_RELAY = Route(RELAY, "10.1.0.1", 67)
TO_CLIENT = Route(UNICAST, "192.0.2.77", 68)
BY_LINK = Route(LINK, "192.0.2.100", 68, MAC)


@pytest.mark.parametrize(
    ("request_packet", "reply", "yiaddr", "source", "port", "expected"),
    [
        # The client is on our wire and has no address yet.
        (ask(DISCOVER), OFFER, CLIENT, ANY, 67, BY_LINK),
        (ask(DISCOVER, flags=FLAG), OFFER, CLIENT, ANY, 67, ALL),
        (ask(DISCOVER, flags=0x7FFF), OFFER, CLIENT, ANY, 67, BY_LINK),
        (ask(DISCOVER), OFFER, 0, ANY, 67, ALL),
        (ask(DISCOVER, ciaddr=OLD), OFFER, CLIENT, ANY, 67, BY_LINK),
        (ask(DISCOVER, htype=32, mac=b""), OFFER, CLIENT, ANY, 67, ALL),
        (ask(DISCOVER, htype=6), OFFER, CLIENT, ANY, 67, ALL),
        (ask(DISCOVER, mac=bytes(8)), OFFER, CLIENT, ANY, 67, ALL),
        (ask(REQUEST, more=WANTS), ACK, CLIENT, ANY, 67, BY_LINK),
        (ask(REQUEST, more=WANTS, flags=FLAG), ACK, CLIENT, ANY, 67, ALL),
        (ask(REQUEST, more=WANTS, ciaddr=OLD), ACK, CLIENT, ANY, 67, BY_LINK),
        # It has one: renewing, rebinding.
        (ask(REQUEST, ciaddr=OLD), ACK, OLD, ("192.0.2.77", 68), 67, TO_CLIENT),
        (ask(REQUEST, ciaddr=OLD, flags=FLAG), ACK, OLD, ("192.0.2.77", 68), 67, TO_CLIENT),
        # A refusal reaches a client whose address is wrong.
        (ask(REQUEST, more=WANTS), NAK, 0, ANY, 67, ALL),
        (ask(REQUEST, ciaddr=OLD), NAK, 0, ("192.0.2.77", 68), 67, ALL),
        (ask(REQUEST, more=WANTS, giaddr=GIADDR), NAK, 0, ("10.1.0.1", 67), 67, BY_RELAY),
        # Through a relay, whatever port it sent from, unless it asks for that port.
        (ask(DISCOVER, giaddr=GIADDR), OFFER, CLIENT, ("10.1.0.1", 67), 67, BY_RELAY),
        (ask(DISCOVER, giaddr=GIADDR, flags=FLAG), OFFER, CLIENT, ("10.1.0.1", 40000), 67, BY_RELAY),
        (ask(DISCOVER, giaddr=GIADDR), OFFER, 0, ("10.1.0.1", 67), 67, BY_RELAY),
        (ask(REQUEST, ciaddr=OLD, giaddr=GIADDR), ACK, OLD, ("10.1.0.1", 67), 67, BY_RELAY),
        (
            ask(DISCOVER, giaddr=GIADDR, more=SOURCE_PORT),
            OFFER,
            CLIENT,
            ("10.1.0.1", 40000),
            67,
            Route(RELAY, "10.1.0.1", 40000),
        ),
        # INFORM: to the client's own address, however it is told.
        (ask(INFORM, ciaddr=OLD), ACK, 0, ("192.0.2.77", 68), 67, TO_CLIENT),
        (ask(INFORM, ciaddr=OLD, giaddr=GIADDR), ACK, 0, ("10.1.0.1", 67), 67, TO_CLIENT),
        (ask(INFORM), ACK, 0, ("192.0.2.77", 68), 67, TO_CLIENT),
        (ask(INFORM, giaddr=GIADDR), ACK, 0, ("10.1.0.1", 67), 67, BY_RELAY),
        (ask(INFORM), ACK, 0, ANY, 67, ALL),
        # BOOTP.
        (ask(BOOTP), BOOTP, CLIENT, ANY, 67, BY_LINK),
        (ask(BOOTP, ciaddr=OLD), BOOTP, CLIENT, ANY, 67, BY_LINK),
        (ask(BOOTP, giaddr=GIADDR), BOOTP, CLIENT, ("10.1.0.1", 67), 67, BY_RELAY),
        # The PXE port: to the sender and its port, EDK2 4011, iPXE 68; never broadcast.
        (ask(REQUEST, ciaddr=OLD), ACK, 0, ("192.0.2.77", 4011), 4011, Route(UNICAST, "192.0.2.77", 4011)),
        (ask(REQUEST, ciaddr=OLD, flags=FLAG), ACK, 0, ("192.0.2.77", 68), 4011, TO_CLIENT),
        (ask(REQUEST, giaddr=GIADDR), ACK, 0, ("192.0.2.77", 4011), 4011, Route(UNICAST, "192.0.2.77", 4011)),
    ],
)
def test_route(
    request_packet: Packet, reply: Message, yiaddr: int, source: tuple[str, int], port: int, expected: Route
) -> None:
    assert route(request_packet, reply, yiaddr, source, port) == expected


def test_client_address() -> None:
    assert client_address(ask(REQUEST, ciaddr=OLD)) == OLD
    assert client_address(ask(INFORM, ciaddr=OLD)) == OLD
    assert client_address(ask(REQUEST, ciaddr=OLD, more=WANTS)) == 0
    assert client_address(ask(DISCOVER, ciaddr=OLD)) == 0
    assert client_address(ask(BOOTP, ciaddr=OLD)) == 0
