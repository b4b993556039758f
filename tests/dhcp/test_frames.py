"""metalbox.dhcp.frames: whole frames, byte for byte, and scapy as a witness."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metalbox.dhcp.frames import arp_probe, checksum, parse_arp, parse_udp, udp_frame

OURS, THEIRS = bytes.fromhex("525400000001"), bytes.fromhex("525400abcdef")
SERVER, CLIENT = bytes((192, 0, 2, 1)), bytes((192, 0, 2, 100))


def slow_checksum(data: bytes) -> int:
    """RFC 1071 as it is printed."""
    total = sum(int.from_bytes(data[at : at + 2].ljust(2, b"\0"), "big") for at in range(0, len(data), 2))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total ^ 0xFFFF


@given(st.binary(max_size=600))
def test_checksum_is_that_of_the_rfc(data: bytes) -> None:
    # Both zeros of ones' complement arithmetic are the same number.
    assert checksum(data) % 0xFFFF == slow_checksum(data) % 0xFFFF


def test_a_frame_byte_for_byte() -> None:
    frame = udp_frame((OURS, THEIRS), (SERVER, CLIENT), (67, 68), b"hello")
    assert frame == bytes.fromhex(
        "525400abcdef 525400000001 08004500 0021 0000 4000 40 11 b666 c0000201 c00002640043 0044 000d 3715 68656c6c6f"
    )


@settings(deadline=None)  # importing scapy takes half a second
@given(st.binary(max_size=1472))
@pytest.mark.filterwarnings("default")
def test_scapy_reads_what_we_build(payload: bytes) -> None:
    from scapy.layers.inet import IP, UDP
    from scapy.layers.l2 import Ether

    frame = udp_frame((OURS, THEIRS), (SERVER, CLIENT), (67, 68), payload)
    read = Ether(frame)
    wanted = (read[IP].chksum, read[UDP].chksum)
    del read[IP].chksum, read[UDP].chksum
    again = Ether(bytes(read))
    assert (again[IP].chksum, again[UDP].chksum) == wanted
    assert parse_udp(frame[14:]) == (SERVER, CLIENT, 67, 68, payload)


def test_a_checksum_that_comes_out_as_zero_is_sent_as_ffff() -> None:
    bare = udp_frame((OURS, THEIRS), (SERVER, CLIENT), (67, 68), b"\0\0")
    filler = bare[40:42]
    assert udp_frame((OURS, THEIRS), (SERVER, CLIENT), (67, 68), filler)[40:42] == b"\xff\xff"


@pytest.mark.parametrize(
    "spoil",
    [
        lambda p: p[:19],
        lambda p: p[:27],
        lambda p: p[:-1],
        lambda p: b"\x65" + p[1:],
        lambda p: b"\x41" + p[1:],
        lambda p: b"\x4f" + p[1:],
        lambda p: p[:6] + b"\x20\x00" + p[8:],
        lambda p: p[:6] + b"\x00\x10" + p[8:],
        lambda p: p[:9] + b"\x06" + p[10:],
        lambda p: p[:24] + b"\x00\x07" + p[26:],
    ],
)
def test_what_is_no_whole_udp_datagram_is_none(spoil: object) -> None:
    assert callable(spoil)
    packet = udp_frame((OURS, THEIRS), (SERVER, CLIENT), (67, 68), b"hello")[14:]
    assert parse_udp(packet) is not None
    assert parse_udp(spoil(packet)) is None


@given(st.binary(max_size=80))
def test_any_bytes_are_read_without_an_exception(data: bytes) -> None:
    parse_udp(data)
    parse_arp(data)


def test_a_probe_byte_for_byte() -> None:
    assert arp_probe(OURS, CLIENT) == bytes.fromhex(
        "ffffffffffff 525400000001 08060001 0800 06 04 0001 525400000001 00000000 000000000000 c0000264" + "00" * 18
    )


def test_arp_tells_who_has_an_address() -> None:
    answer = bytes.fromhex(
        "525400000001 525400abcdef 0806 0001 0800 06 04 0002 525400abcdef c0000264 525400000001 00000000"
    )
    assert parse_arp(answer) == (THEIRS, CLIENT)
    assert parse_arp(arp_probe(OURS, CLIENT)) is None
    assert parse_arp(answer[:-1]) is None
    assert parse_arp(answer.replace(b"\x08\x06\x00\x01", b"\x08\x06\x00\x06")) is None
