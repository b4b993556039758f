"""tftp.packet: whole datagrams, from captures and by the RFCs."""

from __future__ import annotations

import pytest

from metalbox.errors import MalformedPacket
from metalbox.tftp.packet import (
    Ack,
    Error,
    ErrorCode,
    Opcode,
    Request,
    build_data,
    build_error,
    build_oack,
    netascii,
    parse_reply,
    parse_request,
    printable,
)

EDK2 = b"\0\1snponly.efi\0octet\0tsize\x000\0blksize\x001468\0windowsize\x004\0"


def test_the_request_of_edk2() -> None:
    options = ((b"tsize", b"0"), (b"blksize", b"1468"), (b"windowsize", b"4"))
    assert parse_request(EDK2) == Request(Opcode.RRQ, "snponly.efi", "octet", options)


@pytest.mark.parametrize(
    ("data", "request_"),
    [
        (b"\0\1a\0octet\0", Request(Opcode.RRQ, "a", "octet")),
        (b"\0\1a\0OcTeT\0", Request(Opcode.RRQ, "a", "octet")),
        (b"\0\1a\0octet", Request(Opcode.RRQ, "a", "octet")),
        (b"\0\1a\0octet\0blksize\x001024", Request(Opcode.RRQ, "a", "octet", ((b"blksize", b"1024"),))),
        (b"\0\1a\0octet\0blksize\0", Request(Opcode.RRQ, "a", "octet")),
        (b"\0\1a\0octet\0BLKSIZE\x008\0blksize\x009\0", Request(Opcode.RRQ, "a", "octet", ((b"BLKSIZE", b"8"),))),
        (b"\0\1\xffa\xff\0octet\0", Request(Opcode.RRQ, "\xffa\xff", "octet")),
        (b"\0\1\0octet\0", Request(Opcode.RRQ, "", "octet")),
        (b"\0\2a\0netascii\0", Request(Opcode.WRQ, "a", "netascii")),
        (b"\0\1a\0octet\0\0\0\0\0", Request(Opcode.RRQ, "a", "octet")),
    ],
)
def test_requests(data: bytes, request_: Request) -> None:
    assert parse_request(data) == request_


@pytest.mark.parametrize(
    "data", [b"", b"\0", b"\0\1", b"\0\1a", b"\0\1a\0", b"\0\3\0\1x", b"\0\4\0\0", b"\1\1a\0octet\0"]
)
def test_what_is_no_request(data: bytes) -> None:
    with pytest.raises(MalformedPacket):
        parse_request(data)


@pytest.mark.parametrize(
    ("data", "reply"),
    [
        (b"\0\4\0\0", Ack(0)),
        (b"\0\4\xff\xff", Ack(65535)),
        (b"\0\4\0\7padding of a short frame", Ack(7)),
        (b"\0\5\0\x08User aborted the transfer\0", Error(8, "User aborted the transfer")),
        (b"\0\5\0\0", Error(0, "")),
        (b"\0\5\x12\x34no end\x1b[2J", Error(0x1234, "no end?[2J")),
    ],
)
def test_replies(data: bytes, reply: Ack | Error) -> None:
    assert parse_reply(data) == reply


@pytest.mark.parametrize("data", [b"", b"\0\4", b"\0\4\0", b"\0\3\0\1", b"\0\6a\0b\0", b"\4\0\0\1", EDK2])
def test_what_is_no_reply(data: bytes) -> None:
    with pytest.raises(MalformedPacket):
        parse_reply(data)


def test_answers() -> None:
    assert build_error(ErrorCode.NOT_FOUND, "file not found") == b"\0\5\0\1file not found\0"
    assert len(build_error(ErrorCode.UNDEFINED, "x" * 500)) == 4 + 127 + 1
    assert build_oack([(b"tsize", 1048576), (b"BlkSize", 1468)]) == b"\0\6tsize\x001048576\0BlkSize\x001468\0"


def test_data_lies_block_behind_block() -> None:
    assert build_data(1, 4, b"abcdef", is_end=True) == b"\0\3\0\1abcd\0\3\0\2ef"
    assert build_data(1, 4, b"abcd", is_end=True) == b"\0\3\0\1abcd\0\3\0\2"
    assert build_data(1, 4, b"abcd", is_end=False) == b"\0\3\0\1abcd"
    assert build_data(1, 4, b"", is_end=True) == b"\0\3\0\1"


def test_the_number_rolls_over_to_zero() -> None:
    assert build_data(65535, 1, b"abc", is_end=False) == b"\0\3\xff\xffa\0\3\0\0b\0\3\0\1c"


def test_netascii() -> None:
    assert netascii(b"a\nb\rc\r\n") == b"a\r\nb\r\0c\r\0\r\n"


def test_printable() -> None:
    assert printable("a\x1b\xff\n~ ") == "a???~ "
