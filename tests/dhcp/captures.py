"""A reader of capture files for the tests: pcap, pcapng and snoop in; the UDP datagrams over IPv4 out."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from tests.corpus import corpus

DHCP_PORTS = frozenset({67, 68, 4011})
ETHERNET, RAW_IP, LINUX_COOKED = 1, 101, 113

# Of hex/: what is DHCPv6, and what is cut off before its DHCP begins.
NOT_DHCPV4 = ("Solicit", "solicit-example", "pkt6", "6-example", "CableLabs", "2xRSOO", "udp-header")


class Datagram(NamedTuple):
    """One UDP datagram and where it was found."""

    where: str
    source: tuple[str, int]
    target: tuple[str, int]
    payload: bytes


def frames(data: bytes) -> Iterator[tuple[int, bytes]]:
    """The link type and bytes of each frame."""
    if data[:8] == b"snoop\0\0\0":
        at = 16
        while at + 24 <= len(data):
            _, kept, record = struct.unpack_from("!III", data, at)
            yield ETHERNET, data[at + 24 : at + 24 + kept]
            at += record
    elif data[:4] == b"\x0a\x0d\x0d\x0a":
        yield from _pcapng_frames(data)
    elif data[:4] in (b"\xd4\xc3\xb2\xa1", b"\x4d\x3c\xb2\xa1", b"\xa1\xb2\xc3\xd4", b"\xa1\xb2\x3c\x4d"):
        order = "<" if data[0] in (0xD4, 0x4D) else ">"
        link = struct.unpack_from(order + "I", data, 20)[0] & 0xFFFF
        at = 24
        while at + 16 <= len(data):
            kept = struct.unpack_from(order + "I", data, at + 8)[0]
            yield link, data[at + 16 : at + 16 + kept]
            at += 16 + kept


def _pcapng_frames(data: bytes) -> Iterator[tuple[int, bytes]]:
    order = "<" if data[8:12] == b"\x4d\x3c\x2b\x1a" else ">"
    links: list[int] = []
    at = 0
    while at + 12 <= len(data):
        kind, size = struct.unpack_from(order + "II", data, at)
        if kind == 1:
            links.append(struct.unpack_from(order + "H", data, at + 8)[0])
        elif kind == 6:
            interface, _, _, kept = struct.unpack_from(order + "IIII", data, at + 8)
            yield links[interface], data[at + 28 : at + 28 + kept]
        at += size


def datagram(link: int, frame: bytes, where: str) -> Datagram | None:
    """The UDP datagram in one frame, cut to the length that its header tells; None for anything else."""
    at = {ETHERNET: 12, LINUX_COOKED: 14}.get(link)
    if at is not None:
        while frame[at : at + 2] in (b"\x81\x00", b"\x88\xa8"):
            at += 4
        if frame[at : at + 2] != b"\x08\x00":
            return None
        at += 2
    elif link == RAW_IP:
        at = 0
    else:
        return None
    ip = frame[at:]
    # Not IPv4, not UDP, or not the first fragment.
    if len(ip) < 28 or ip[0] >> 4 != 4 or ip[9] != 17 or struct.unpack_from("!H", ip, 6)[0] & 0x1FFF:
        return None
    udp = ip[(ip[0] & 15) * 4 :]
    if len(udp) < 8:
        return None
    source, target, size = struct.unpack_from("!HHH", udp)
    return Datagram(where, (_dotted(ip[12:16]), source), (_dotted(ip[16:20]), target), udp[8:size])


def _dotted(raw: bytes) -> str:
    return ".".join(map(str, raw))


def dhcp_datagrams() -> list[Datagram]:
    """Everything on the DHCP ports in pcap/ and lab/, and the single messages of hex/."""
    found: list[Datagram] = []
    for folder in ("pcap", "lab"):
        for path in sorted(corpus(folder).rglob("*")):
            if path.suffix in (".pcap", ".pcapng", ".snoop"):
                found += _of_capture(path)
    for path in sorted(corpus("hex").iterdir()):
        if path.suffix in (".hex", ".dat", ".pkt4") and not any(mark in path.name for mark in NOT_DHCPV4):
            found.append(_of_hex(path))
    return found


def _of_capture(path: Path) -> Iterator[Datagram]:
    for number, (link, frame) in enumerate(frames(path.read_bytes()), 1):
        found = datagram(link, frame, f"{path.parent.name}/{path.name}#{number}")
        if found and (found.source[1] in DHCP_PORTS or found.target[1] in DHCP_PORTS):
            yield found


def _of_hex(path: Path) -> Datagram:
    data = bytes.fromhex(path.read_text().strip())
    where = f"hex/{path.name}"
    for link in (ETHERNET, LINUX_COOKED):
        found = datagram(link, data, where)
        if found:
            return found
    return Datagram(where, ("0.0.0.0", 68), ("255.255.255.255", 67), data)
