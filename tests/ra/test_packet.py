"""metalbox.ra.packet: solicitations in, null advertisements out."""

from __future__ import annotations

from ipaddress import IPv6Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metalbox.errors import MalformedPacket
from metalbox.ra.packet import build_null_advertisement, mac_of_eui64, parse_solicitation

LINK_LOCAL = IPv6Address("fe80::5054:ff:feab:cdef")
PRIVATE = IPv6Address("fe80::1234:5678:9abc:def0")
UNSPECIFIED = IPv6Address("::")
BARE = bytes.fromhex("8500 0000 00000000")
OPTION = bytes.fromhex("0101 525400abcdef")


def test_the_option_tells_the_mac() -> None:
    assert parse_solicitation(BARE + OPTION, PRIVATE) == "52:54:00:ab:cd:ef"
    other = bytes.fromhex("0e02") + bytes(14)
    assert parse_solicitation(BARE + other + OPTION, PRIVATE) == "52:54:00:ab:cd:ef"


def test_the_address_tells_the_mac() -> None:
    assert parse_solicitation(BARE, LINK_LOCAL) == "52:54:00:ab:cd:ef"
    assert parse_solicitation(BARE, PRIVATE) is None
    assert parse_solicitation(BARE, UNSPECIFIED) is None
    assert mac_of_eui64(LINK_LOCAL) == "52:54:00:ab:cd:ef"


@pytest.mark.parametrize(
    ("data", "source"),
    [
        (b"", PRIVATE),
        (BARE[:7], PRIVATE),
        (b"\x86" + BARE[1:], PRIVATE),
        (b"\x85\x01" + BARE[2:], PRIVATE),
        (BARE + b"\x01", PRIVATE),
        (BARE + b"\x01\x00" + bytes(6), PRIVATE),
        (BARE + OPTION[:-1], PRIVATE),
        (BARE + OPTION, UNSPECIFIED),
    ],
)
def test_what_a_router_must_drop(data: bytes, source: IPv6Address) -> None:
    with pytest.raises(MalformedPacket):
        parse_solicitation(data, source)


@given(st.binary(max_size=64))
def test_no_bytes_raise_anything_else(data: bytes) -> None:
    try:
        parse_solicitation(BARE[:4] + data, PRIVATE)
    except MalformedPacket as error:
        assert str(error)


def test_the_advertisement_byte_for_byte() -> None:
    null = "8600 0000 00 00 0000 00000000 00000000"
    assert build_null_advertisement(bytes.fromhex("525400000001")) == bytes.fromhex(null + "0101 525400000001")
    assert build_null_advertisement(b"") == bytes.fromhex(null)
