"""DHCP and BOOTP messages: bytes to `Packet` and back (RFC 951, RFC 2131 section 2, RFC 2132, RFC 3396).

Reading is lenient where real clients need it (PAD before option 53, no END, repeated options, overloaded fields) and
strict where a wrong guess could cost an address: a cut option makes the whole packet `MalformedPacket`.
Addresses are whole numbers here; `ipaddress` objects are made by those who show them to people.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass, field

from metalbox.dhcp.options import END, MAX_SIZE, MESSAGE_NAMES, MESSAGE_TYPE, OVERLOAD, PAD, RELAY_AGENT
from metalbox.errors import MalformedPacket

HEADER = struct.Struct("!BBBBIHHIIII16s64s128s")
COOKIE = b"\x63\x82\x53\x63"
OPTIONS_AT = HEADER.size + len(COOKIE)

REQUEST_OP = 1
REPLY_OP = 2
BROADCAST_FLAG = 0x8000

# "Linux in-kernel DHCP client silently ignores any packet smaller than this" (dnsmasq); it is the size of BOOTP.
MIN_SIZE = 300
# RFC 2131 section 2: what a client must accept without having said more, 576 bytes of IP, less IP and UDP headers.
DEFAULT_MAX_SIZE = 548
# One Ethernet frame. Boot ROMs do not put fragments together, and EDK2 announces 65280 in its requests.
LINK_MTU = 1500
IP_UDP_HEADERS = 28


@dataclass(slots=True)
class Packet:
    """One message. `sname` and `file` lack trailing zeros; `chaddr` is all 16 bytes; `options` are joined per RFC 3396.

    Options that came in overloaded `file` and `sname` stand in `options`, and the fields are then empty. `message` is
    option 53, or 0 for BOOTP. `has_cookie` is False for BOOTP of before RFC 1048, which has no options.
    """

    op: int = REQUEST_OP
    htype: int = 1
    hlen: int = 6
    hops: int = 0
    xid: int = 0
    secs: int = 0
    flags: int = 0
    ciaddr: int = 0
    yiaddr: int = 0
    siaddr: int = 0
    giaddr: int = 0
    chaddr: bytes = bytes(16)
    sname: bytes = b""
    file: bytes = b""
    options: dict[int, bytes] = field(default_factory=dict)
    message: int = 0
    has_cookie: bool = True

    @property
    def hardware_address(self) -> bytes:
        """The client's address without padding; empty for InfiniBand (RFC 4390)."""
        return self.chaddr[: self.hlen]

    @property
    def message_name(self) -> str:
        """DISCOVER, REQUEST, ...; BOOTP without option 53; the number for a type that the registry lacks."""
        return MESSAGE_NAMES.get(self.message, str(self.message))

    def address(self, code: int) -> int:
        """The option as one IPv4 address; 0 when it is absent or not 4 bytes long."""
        data = self.options.get(code, b"")
        return int.from_bytes(data, "big") if len(data) == 4 else 0

    def number(self, code: int) -> int:
        """The option as one unsigned number of any length up to 4 bytes; 0 when it is absent or longer."""
        data = self.options.get(code, b"")
        return int.from_bytes(data, "big") if len(data) <= 4 else 0

    def text(self, code: int) -> str:
        """The option as text without trailing zeros (RFC 2132 section 2); bytes that are not UTF-8 become U+FFFD."""
        return text_of(self.options.get(code, b""))


def text_of(data: bytes) -> str:
    """An option's text without trailing zeros (RFC 2132 section 2); bytes that are not UTF-8 become U+FFFD."""
    return data.rstrip(b"\0").decode("utf-8", "replace")


def printable(text: str) -> str:
    """The text, or "" where something in it cannot be shown."""
    return text if text.isprintable() else ""


def parse_packet(data: bytes) -> Packet:
    """Read one UDP payload. Raises MalformedPacket."""
    if len(data) < HEADER.size:
        raise MalformedPacket(f"{len(data)} bytes are too few for DHCP, which has at least {HEADER.size}")
    op, htype, hlen, hops, xid, secs, flags, ciaddr, yiaddr, siaddr, giaddr, chaddr, sname, file = HEADER.unpack_from(
        data
    )
    if op not in (REQUEST_OP, REPLY_OP):
        raise MalformedPacket(f"op {op} is neither a request (1) nor a reply (2)")
    if hlen > 16:
        raise MalformedPacket(f"a hardware address of {hlen} bytes does not fit into chaddr, which has 16")
    options: dict[int, bytes] = {}
    message = 0
    has_cookie = data[HEADER.size : OPTIONS_AT] == COOKIE
    if has_cookie:
        _read_options(data, OPTIONS_AT, options)
        overload = options.pop(OVERLOAD, None)
        # RFC 2131 section 4.1: first the options field, then file, then sname.
        if overload:
            if overload[0] & 1:
                _read_options(file, 0, options)
                file = b""
            if overload[0] & 2:
                _read_options(sname, 0, options)
                sname = b""
            options.pop(OVERLOAD, None)
        if MESSAGE_TYPE in options:
            if not options[MESSAGE_TYPE]:
                raise MalformedPacket("option 53 (message type) is empty")
            message = options[MESSAGE_TYPE][0]
    sname, file = sname.rstrip(b"\0"), file.rstrip(b"\0")
    return Packet(
        op,
        htype,
        hlen,
        hops,
        xid,
        secs,
        flags,
        ciaddr,
        yiaddr,
        siaddr,
        giaddr,
        chaddr,
        sname,
        file,
        options,
        message,
        has_cookie,
    )


def _read_options(data: bytes, at: int, options: dict[int, bytes]) -> None:
    """Add the options of one field to `options`, joining repeats (RFC 3396 section 5)."""
    size = len(data)
    while at < size:
        code = data[at]
        if code == END:
            return
        if code == PAD:
            at += 1
            continue
        start = at + 2
        if start > size:
            raise MalformedPacket(f"option {code} at byte {at} has no length")
        at = start + data[at + 1]
        if at > size:
            raise MalformedPacket(f"option {code} at byte {start - 2} is cut: {at - size} of its bytes are missing")
        if code in options:
            options[code] += data[start:at]
        else:
            options[code] = data[start:at]


def encode_option(code: int, data: bytes) -> bytes:
    """One option; longer than 255 bytes as adjacent parts of the same code (RFC 3396 section 6)."""
    if len(data) <= 255:
        return bytes((code, len(data))) + data
    parts = [data[at : at + 255] for at in range(0, len(data), 255)]
    return b"".join(bytes((code, len(part))) + part for part in parts)


def encode_options(options: Mapping[int, bytes]) -> bytes:
    """All options in their order, option 82 last (RFC 3046 section 2.1), without END."""
    encoded = [encode_option(code, data) for code, data in options.items() if code != RELAY_AGENT]
    if RELAY_AGENT in options:
        encoded.append(encode_option(RELAY_AGENT, options[RELAY_AGENT]))
    return b"".join(encoded)


def build_packet(packet: Packet) -> bytes:
    """The bytes of a packet, at least 300 long. `message` is written as option 53 where `options` lack it."""
    header = HEADER.pack(
        packet.op,
        packet.htype,
        packet.hlen,
        packet.hops,
        packet.xid,
        packet.secs,
        packet.flags,
        packet.ciaddr,
        packet.yiaddr,
        packet.siaddr,
        packet.giaddr,
        packet.chaddr,
        packet.sname,
        packet.file,
    )
    if not packet.has_cookie:
        return header.ljust(MIN_SIZE, b"\0")
    options = packet.options
    if packet.message and MESSAGE_TYPE not in options:
        options = {MESSAGE_TYPE: bytes((packet.message,)), **options}
    return (header + COOKIE + encode_options(options) + b"\xff").ljust(MIN_SIZE, b"\0")


def max_reply_size(packet: Packet) -> int:
    """How many bytes of DHCP the client takes: its option 57 less headers, at least 548, at most one Ethernet frame."""
    if MAX_SIZE not in packet.options:
        return DEFAULT_MAX_SIZE
    announced = packet.number(MAX_SIZE)
    if announced <= DEFAULT_MAX_SIZE + IP_UDP_HEADERS:
        return DEFAULT_MAX_SIZE
    return min(announced, LINK_MTU) - IP_UDP_HEADERS


def fit_options(options: bytes, room: int) -> bytes:
    """Those encoded options, in their order, that fit into `room` bytes; the parts of a split option stay together."""
    kept: list[bytes] = []
    at = 0
    while at < len(options):
        start = at
        code = options[at]
        while at < len(options) and options[at] == code:
            at += 2 + options[at + 1]
        while at < len(options) and options[at] == PAD:
            at += 1
        if at - start <= room:
            kept.append(options[start:at])
            room -= at - start
    return b"".join(kept)


def address_text(address: int) -> str:
    """Dotted decimals; "" for 0.0.0.0, which in DHCP means none."""
    if not address:
        return ""
    return f"{address >> 24}.{address >> 16 & 255}.{address >> 8 & 255}.{address & 255}"
