from __future__ import annotations

import pytest
from scapy.layers.dhcp import BOOTP, DHCP

from metalbox.dhcp.packet import (
    Packet,
    address_text,
    build_packet,
    encode_option,
    encode_options,
    fit_options,
    max_reply_size,
    parse_packet,
)
from metalbox.errors import MalformedPacket

MAC = bytes.fromhex("525400770034")
HEAD = bytes.fromhex("01010600 39a8b0c2 0004 8000") + bytes(16) + MAC + bytes(10) + bytes(192)
COOKIE = bytes.fromhex("63825363")


def packet(options: str, sname: bytes = b"", file: bytes = b"") -> bytes:
    head = HEAD[:44] + sname.ljust(64, b"\0") + file.ljust(128, b"\0")
    return head + COOKIE + bytes.fromhex(options)


def test_a_discover_is_read_whole() -> None:
    data = packet("350101 3d0701525400770034 37040103060f ff", file=b"boot.scr.uimg")
    assert parse_packet(data) == Packet(
        op=1,
        htype=1,
        hlen=6,
        hops=0,
        xid=0x39A8B0C2,
        secs=4,
        flags=0x8000,
        chaddr=MAC + bytes(10),
        file=b"boot.scr.uimg",
        options={53: b"\x01", 61: b"\x01" + MAC, 55: b"\x01\x03\x06\x0f"},
        message=1,
    )


def test_a_packet_is_written_whole() -> None:
    asked = Packet(xid=0x39A8B0C2, secs=4, flags=0x8000, chaddr=MAC + bytes(10), options={61: b"\x01"}, message=3)
    assert build_packet(asked) == (packet("350103 3d0101 ff")).ljust(300, b"\0")


def test_scapy_reads_what_we_write() -> None:
    options = {53: b"\x02", 54: bytes([192, 0, 2, 1]), 67: b"snponly.efi", 82: b"\x01\x02ab", 60: b"PXEClient"}
    ours = Packet(op=2, xid=7, yiaddr=0xC0000264, siaddr=0xC0000201, chaddr=MAC + bytes(10), options=options, message=2)
    theirs = BOOTP(build_packet(ours))
    assert (theirs.op, theirs.xid, theirs.yiaddr, theirs.siaddr) == (2, 7, "192.0.2.100", "192.0.2.1")
    assert theirs[DHCP].options[:5] == [
        ("message-type", 2),
        ("server_id", "192.0.2.1"),
        ("boot-file-name", b"snponly.efi"),
        ("vendor_class_id", b"PXEClient"),
        ("relay_agent_information", theirs[DHCP].options[4][1]),
    ]


@pytest.mark.parametrize(
    "options",
    ["350101 0c0161 ff", "350101 0c0161", "00 00 350101 00 0c0161 ff 990100", "0c0161 350101 ff 0c"],
    ids=["usual", "no end", "pads", "message type last, rubbish after the end"],
)
def test_options_as_clients_write_them(options: str) -> None:
    found = parse_packet(packet(options))
    assert (found.options, found.message) == ({53: b"\x01", 12: b"a"}, 1)


def test_repeated_options_are_joined() -> None:
    assert parse_packet(packet("350101 0c0161 3d0101 0c026263 ff")).options[12] == b"abc"
    long = bytes(range(256)) * 3
    assert parse_packet(packet((b"\x35\x01\x01" + encode_option(61, long)).hex())).options[61] == long


@pytest.mark.parametrize(
    ("value", "joined", "sname", "file"),
    [
        ("340101", b"1-file", b"\x0c\x07-sname!\xff", b""),
        ("340102", b"1-sname!", b"", b"\x0c\x05-file\xff"),
        ("340103", b"1-file-sname!", b"", b""),
    ],
)
def test_overloaded_fields_follow_the_options(value: str, joined: bytes, sname: bytes, file: bytes) -> None:
    data = packet(f"350101 {value} 0c0131 ff", sname=b"\x0c\x07-sname!\xff", file=b"\x0c\x05-file\xff")
    found = parse_packet(data)
    assert (found.options, found.sname, found.file) == ({53: b"\x01", 12: joined}, sname, file)
    assert parse_packet(build_packet(found)) == found


def test_an_overload_inside_of_an_overloaded_field_is_nothing() -> None:
    found = parse_packet(packet("350101 340101 ff", sname=b"name", file=b"\x34\x01\x02\xff"))
    assert (found.options, found.sname) == ({53: b"\x01"}, b"name")


def test_bootp_of_old_has_no_options() -> None:
    found = parse_packet(HEAD + bytes(64))
    assert (found.message, found.has_cookie, found.options, found.message_name) == (0, False, {}, "BOOTP")
    assert build_packet(found) == HEAD + bytes(64)
    assert parse_packet(HEAD).has_cookie is False
    assert parse_packet(packet("0c0161 ff")).message_name == "BOOTP"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "0 bytes are too few for DHCP, which has at least 236"),
        (HEAD[:-1], "235 bytes are too few for DHCP, which has at least 236"),
        (b"\x03" + HEAD[1:], "op 3 is neither a request (1) nor a reply (2)"),
        (HEAD[:2] + b"\x11" + HEAD[3:], "a hardware address of 17 bytes does not fit into chaddr, which has 16"),
        (packet("350101 0c"), "option 12 at byte 243 has no length"),
        (packet("350101 0c056162"), "option 12 at byte 243 is cut: 3 of its bytes are missing"),
        (packet("3500 ff"), "option 53 (message type) is empty"),
        (packet("350101 340101 ff", file=b"\x0c\xff"), "option 12 at byte 0 is cut: 129 of its bytes are missing"),
    ],
)
def test_malformed(data: bytes, message: str) -> None:
    with pytest.raises(MalformedPacket) as error:
        parse_packet(data)
    assert str(error.value) == message


def test_option_82_is_written_last() -> None:
    assert encode_options({82: b"a", 12: b"b"}) == bytes.fromhex("0c0162 520161")


def test_values_of_options() -> None:
    found = Packet(options={50: b"\xc0\x00\x02\x01", 54: b"\x01", 57: b"\x05\xdc", 51: bytes(5), 12: b"h\xff\0\0"})
    assert (found.address(50), found.address(54), found.address(118)) == (0xC0000201, 0, 0)
    assert (found.number(57), found.number(51), found.number(58)) == (1500, 0, 0)
    assert (found.text(12), found.text(60)) == ("h\ufffd", "")
    assert (Packet(hlen=6, chaddr=MAC + bytes(10)).hardware_address, Packet(message=99).message_name) == (MAC, "99")


@pytest.mark.parametrize(
    ("announced", "size"), [("", 548), ("0000", 548), ("0240", 548), ("0241", 549), ("05dc", 1472), ("ff00", 1472)]
)
def test_max_reply_size(announced: str, size: int) -> None:
    options = {57: bytes.fromhex(announced)} if announced else {}
    assert max_reply_size(Packet(options=options)) == size


def test_what_fits_keeps_its_order_and_its_pads() -> None:
    options = bytes.fromhex("0c0161 3c0262630000 0f03646566")
    assert fit_options(options, 100) == options
    assert fit_options(options, 9) == bytes.fromhex("0c0161 3c0262630000")
    assert fit_options(options, 8) == bytes.fromhex("0c0161 0f03646566")
    split = encode_option(61, bytes(300))
    assert fit_options(split + b"\x0c\x01a", 303) == b"\x0c\x01a"


def test_address_text() -> None:
    assert (address_text(0xC0000264), address_text(0xFFFFFFFF), address_text(0)) == (
        "192.0.2.100",
        "255.255.255.255",
        "",
    )
