"""The small parsers of the packet path under 100,000 damaged packets each: nothing but what they say they raise."""

from __future__ import annotations

import contextlib
import tracemalloc
from collections.abc import Callable
from ipaddress import IPv6Address
from urllib.parse import parse_qsl

import pytest

from metalbox.boot import Asking
from metalbox.dhcp.frames import arp_probe, parse_arp, parse_udp, udp_frame
from metalbox.dhcp.relay import location_text, sub_options
from metalbox.errors import MalformedPacket
from metalbox.ra.packet import parse_solicitation
from tests.mutations import mutations

LINK_LOCAL = IPv6Address("fe80::5054:ff:feab:cdef")
SOLICITATION = bytes.fromhex("8500000000000000" + "0101525400abcdef")
FRAME = udp_frame((b"\2" * 6, b"\4" * 6), (bytes((192, 0, 2, 1)), bytes((192, 0, 2, 9))), (67, 68), b"x" * 300)
RELAY = bytes.fromhex("0106000400640107" + "02080006aabbccddeeff" + "0504c0000201")
QUERY = (
    b"mac=52-54-00-ab-cd-ef&uuid=4c4c4544-0042-3510-8054-b7c04f333732"
    b"&serial=LAB0001&arch=x86_64&platform=efi&ip=192.0.2.7"
)


def read_relay(data: bytes) -> None:
    for value in sub_options(data).values():
        assert location_text(value).isprintable()


def read_query(data: bytes) -> None:
    asking = Asking.parse(dict(parse_qsl(data.decode("utf-8", "replace"))))
    assert all(str(value).isprintable() for value in (asking.serial, asking.vendor, asking.arch))


@pytest.mark.parametrize(
    ("read", "seeds"),
    [
        (lambda data: parse_solicitation(data, LINK_LOCAL), [SOLICITATION, SOLICITATION[:8]]),
        (parse_udp, [FRAME[14:]]),
        (parse_arp, [arp_probe(b"\2" * 6, bytes((192, 0, 2, 9)))]),
        (read_relay, [RELAY]),
        (read_query, [QUERY]),
    ],
    ids=["router solicitation", "udp frame", "arp", "option 82", "introduction"],
)
def test_no_packet_raises_or_stays(read: Callable[[bytes], object], seeds: list[bytes]) -> None:
    for data in mutations(seeds, count=1000):
        with contextlib.suppress(MalformedPacket):
            read(data)
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    for data in mutations(seeds, seed=2, count=1000):
        with contextlib.suppress(MalformedPacket):
            read(data)
    grown = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert grown < 100_000
    for data in mutations(seeds, seed=3):
        with contextlib.suppress(MalformedPacket):
            read(data)
