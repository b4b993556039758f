"""Every DHCP message of the corpus: read, written again as an equal message, and answered or ignored with a reason."""

from __future__ import annotations

from collections import Counter

import pytest

from metalbox.config import parse
from metalbox.dhcp.options import Message
from metalbox.dhcp.packet import build_packet, parse_packet
from metalbox.dhcp.responder import Ignored, Reply
from metalbox.errors import MalformedPacket
from tests.dhcp.captures import Datagram, dhcp_datagrams
from tests.dhcp.desk import Desk

# What is not DHCP at all: two crash reproducers of tcpdump, and a fuzzer's seed whose first byte is 0x21.
MALFORMED = {
    "pcap/tcpdump-bootp_asan-2.pcap#1": "11 bytes are too few",
    "pcap/tcpdump-bootp_asan.pcap#1": "48 bytes are too few",
    "hex/kea-fuzz-dhcp-payload-only.pkt4": "op 33 is neither",
}
MODES = {
    "proxy": "subnets: [{subnet: 0.0.0.0/0, mode: proxy}]",
    "full": "subnets: [{subnet: 0.0.0.0/0, mode: full, pools: [10.200.0.0-10.200.255.255]}]",
    "reservations": "subnets: [{subnet: 0.0.0.0/0, mode: reservations, pools: [10.200.0.0-10.200.255.255]}]",
    "off": "subnets: [{subnet: 0.0.0.0/0, mode: off}]",
}


@pytest.fixture(scope="module")
def messages() -> list[Datagram]:
    return dhcp_datagrams()


def is_sound(message: Datagram) -> bool:
    return message.where not in MALFORMED


def test_the_corpus_is_read_whole(messages: list[Datagram]) -> None:
    names = Counter(parse_packet(message.payload).message_name for message in messages if is_sound(message))
    assert names == {
        "ACK": 362,
        "DISCOVER": 264,
        "INFORM": 252,
        "OFFER": 135,
        "REQUEST": 135,
        "RELEASE": 10,
        "LEASEQUERY": 9,
        "LEASEACTIVE": 8,
        "BOOTP": 7,
        "NAK": 5,
        "DECLINE": 3,
        "LEASEUNKNOWN": 1,
    }


def test_what_is_no_dhcp_is_told_so(messages: list[Datagram]) -> None:
    found = {}
    for message in messages:
        if not is_sound(message):
            with pytest.raises(MalformedPacket) as error:
                parse_packet(message.payload)
            found[message.where] = str(error.value)
    assert found.keys() == MALFORMED.keys()
    assert all(found[where].startswith(text) for where, text in MALFORMED.items())


def test_each_message_is_written_as_an_equal_one(messages: list[Datagram]) -> None:
    for message in filter(is_sound, messages):
        packet = parse_packet(message.payload)
        assert parse_packet(build_packet(packet)) == packet, message.where


@pytest.mark.parametrize("mode", MODES)
def test_each_message_is_answered_or_ignored_with_a_reason(mode: str, messages: list[Datagram]) -> None:
    desk = Desk(parse(MODES[mode]), interfaces={"eth0": "192.0.2.1/24"})
    reasons: Counter[str] = Counter()
    for message in filter(is_sound, messages):
        packet = parse_packet(message.payload)
        port = 4011 if message.target[1] == 4011 else 67
        unicast = message.target[0] != "255.255.255.255"
        desk.now += 1
        result = desk.send(packet, message.source, port, unicast)
        if isinstance(result, Ignored):
            assert result.reason, message.where
            reasons[result.reason] += 1
            continue
        assert isinstance(result, Reply)
        answer = parse_packet(result.data)
        assert (answer.op, answer.xid, answer.chaddr) == (2, packet.xid, packet.chaddr), message.where
        assert len(result.data) >= 300
        assert answer.options.get(82) == packet.options.get(82), message.where
        assert answer.options.get(97) == packet.options.get(97), message.where
        if mode == "proxy":
            assert answer.message == (Message.ACK if port == 4011 else Message.OFFER)
            assert answer.file and answer.siaddr, message.where
        reasons["answered"] += 1
    assert reasons == EXPECTED[mode]


# The count of each outcome, so that a change of behaviour towards any client of the corpus shows itself.
EXPECTED: dict[str, dict[str, int]] = {
    "proxy": {
        "not a client's message": 511,
        "proxy mode gives no address": 369,
        "answered": 200,
        "not a boot client": 98,
        "message type not served": 6,
        "neither hardware address nor client id": 5,
        "no boot file for this architecture": 2,
    },
    "full": {
        "answered": 561,
        "not a client's message": 511,
        "client chose another server": 84,
        "unknown client reboots": 14,
        "unknown client rebinds": 8,
        "message type not served": 6,
        "neither hardware address nor client id": 5,
        "release of no lease": 2,
    },
    "reservations": {
        "unknown machine": 669,
        "not a client's message": 511,
        "message type not served": 6,
        "neither hardware address nor client id": 5,
    },
    "off": {
        "subnet is off": 675,
        "not a client's message": 511,
        "neither hardware address nor client id": 5,
    },
}
