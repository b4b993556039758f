"""Router solicitations read, null router advertisements built (RFC 4861 sections 4.1 and 4.2). PURE."""

from __future__ import annotations

import struct
from ipaddress import IPv6Address

from metalbox.errors import MalformedPacket
from metalbox.machine import Mac

ROUTER_SOLICITATION = 133
ROUTER_ADVERTISEMENT = 134
SOURCE_LINK_LAYER = 1

_HEADER = struct.Struct("!BBHI")
_ADVERTISEMENT = struct.Struct("!BBHBBHII")


def parse_solicitation(data: bytes, source: IPv6Address) -> Mac | None:
    """The MAC that asks for a router: from its option, else from an EUI-64 source; None when neither tells it.

    Raises MalformedPacket for what RFC 4861 section 6.1.1 tells routers to drop. The kernel has checked the checksum.
    """
    if len(data) < _HEADER.size:
        raise MalformedPacket(f"{len(data)} bytes are too few for a router solicitation, which has at least 8")
    kind, code, _, _ = _HEADER.unpack_from(data)
    if kind != ROUTER_SOLICITATION or code:
        raise MalformedPacket(f"ICMPv6 type {kind} code {code} is not a router solicitation")
    found: Mac | None = None
    at = _HEADER.size
    while at < len(data):
        # Lengths are in units of 8 bytes; 0 would never end.
        size = data[at + 1] * 8 if at + 1 < len(data) else 0
        if not size or at + size > len(data):
            raise MalformedPacket(f"option {data[at]} at byte {at} of a router solicitation is cut")
        if data[at] == SOURCE_LINK_LAYER and size == 8:
            found = Mac.from_bytes(data[at + 2 : at + 8])
        at += size
    if source.is_unspecified:
        if found is not None:
            raise MalformedPacket("a router solicitation from :: must not tell a link-layer address")
        return None
    return found or mac_of_eui64(source)


def mac_of_eui64(address: IPv6Address) -> Mac | None:
    """The MAC inside an address made from one (RFC 4291 appendix A), else None."""
    raw = address.packed[8:]
    if raw[3:5] != b"\xff\xfe":
        return None
    return Mac.from_bytes(bytes((raw[0] ^ 2,)) + raw[1:3] + raw[5:])


def build_null_advertisement(mac: bytes) -> bytes:
    """An advertisement that says nothing: no router (lifetime 0), no prefix, no hop limit, no times.

    It ends the wait of whoever asked and changes nothing for anyone else. `mac` (6 bytes, ours, or empty) spares the
    receiver a question. The kernel writes the checksum.
    """
    header = _ADVERTISEMENT.pack(ROUTER_ADVERTISEMENT, 0, 0, 0, 0, 0, 0, 0)
    return header + bytes((SOURCE_LINK_LAYER, 1)) + mac if len(mac) == 6 else header
