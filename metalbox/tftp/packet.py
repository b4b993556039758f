"""TFTP datagrams: bytes to values and back (RFC 1350, options by RFC 2347). Pure.

Only what a read-only server meets is parsed: requests on the well-known port, ACK and ERROR on a transfer's port.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum

from metalbox.errors import MalformedPacket

# RFC 2347 allows a request 512 octets. What is longer is read all the same, up to one Ethernet frame.
MAX_REQUEST = 1472
HEADER_BYTES = 4
# Error texts beyond this are cut: some ROMs print into a buffer of one line.
MAX_MESSAGE = 127


class Opcode(IntEnum):
    """The first two bytes of every datagram."""

    RRQ = 1
    WRQ = 2
    DATA = 3
    ACK = 4
    ERROR = 5
    OACK = 6


class ErrorCode(IntEnum):
    """RFC 1350 appendix I, and 8 from RFC 2347."""

    UNDEFINED = 0
    NOT_FOUND = 1
    ACCESS_VIOLATION = 2
    DISK_FULL = 3
    ILLEGAL_OPERATION = 4
    UNKNOWN_TID = 5
    FILE_EXISTS = 6
    NO_SUCH_USER = 7
    OPTION_REFUSED = 8


@dataclass(frozen=True, slots=True)
class Request:
    """RRQ or WRQ. `name` holds each byte as the character of that number (Latin-1); `mode` is in lower case.

    `options` are as sent, in their order and spelling; of a repeated option only the first is kept.
    """

    opcode: Opcode
    name: str
    mode: str
    options: tuple[tuple[bytes, bytes], ...] = ()


@dataclass(frozen=True, slots=True)
class Ack:
    """`block` is the 16-bit number on the wire."""

    block: int


@dataclass(frozen=True, slots=True)
class Error:
    """`code` may be one that RFC 1350 does not know; `message` is cut to printable ASCII."""

    code: int
    message: str


def parse_request(data: bytes) -> Request:
    """Read what came to the well-known port. Raises MalformedPacket.

    The NUL after the last string may be missing: the end of the datagram says as much.
    """
    opcode = int.from_bytes(data[:2], "big")
    if opcode not in (Opcode.RRQ, Opcode.WRQ):
        raise MalformedPacket(f"opcode {opcode} is not a request")
    strings = data[2:MAX_REQUEST].split(b"\0")
    if len(strings) < 2 or not strings[1]:
        raise MalformedPacket("a request without a mode")
    if strings[-1] == b"":
        strings.pop()
    options: dict[bytes, tuple[bytes, bytes]] = {}
    for name, value in zip(strings[2::2], strings[3::2], strict=False):
        options.setdefault(name.lower(), (name, value))
    options.pop(b"", None)
    mode = strings[1].decode("latin-1").lower()
    return Request(Opcode(opcode), strings[0].decode("latin-1"), mode, tuple(options.values()))


def parse_reply(data: bytes) -> Ack | Error:
    """Read what a client may send to a transfer's port. Raises MalformedPacket."""
    opcode = int.from_bytes(data[:2], "big")
    if len(data) < HEADER_BYTES:
        raise MalformedPacket(f"{len(data)} bytes are no TFTP packet")
    number = int.from_bytes(data[2:4], "big")
    if opcode == Opcode.ACK:
        return Ack(number)
    if opcode == Opcode.ERROR:
        return Error(number, printable(data[4:].split(b"\0", 1)[0].decode("latin-1"))[:MAX_MESSAGE])
    raise MalformedPacket(f"opcode {opcode} has no place in a read")


def printable(text: str) -> str:
    """The text with everything but printable ASCII shown as a question mark: fit for a log and a terminal."""
    return "".join(c if " " <= c <= "~" else "?" for c in text)


def build_error(code: ErrorCode, message: str) -> bytes:
    """An ERROR datagram; the message is for the person before the screen."""
    text = message.encode("ascii", "replace")[:MAX_MESSAGE]
    return b"\0\5" + code.to_bytes(2, "big") + text + b"\0"


def build_oack(options: Iterable[tuple[bytes, int]]) -> bytes:
    """An OACK datagram (RFC 2347)."""
    return b"\0\6" + b"".join(b"%b\0%d\0" % option for option in options)


def build_data(first: int, blksize: int, content: bytes, *, is_end: bool) -> bytes:
    """Lay DATA datagrams one behind the other: the blocks from number `first` on (counted from 1, never wrapped).

    Each is `blksize` + 4 bytes long, but for the last of the file (`is_end`), which is shorter, and empty when
    the content fills its blocks. The 16-bit number rolls over from 65535 to 0: RFC 1350 does not say, GRUB, EDK2,
    iPXE and the peers all do it.
    """
    parts: list[bytes | memoryview] = []
    view = memoryview(content)
    end = len(content) + 1 if is_end else len(content)
    for offset in range(0, end, blksize):
        parts += (b"\0\3" + (first & 0xFFFF).to_bytes(2, "big"), view[offset : offset + blksize])
        first += 1
    return b"".join(parts)


def netascii(content: bytes) -> bytes:
    """Text for the mode `netascii` (RFC 764): LF becomes CR LF, a CR by itself CR NUL."""
    return content.replace(b"\r", b"\r\0").replace(b"\n", b"\r\n")
