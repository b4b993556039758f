"""Whole Ethernet frames, built and read by hand: UDP to a client that has no address yet, and ARP. PURE.

The kernel sends UDP only to those whom it can ask by ARP, and a boot ROM does not answer before it has its ACK.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

ETHERTYPE_IPV4 = 0x0800
ETHERTYPE_ARP = 0x0806
BROADCAST_MAC = b"\xff" * 6

_ETHERNET = struct.Struct("!6s6sH")
_IPV4 = struct.Struct("!BBHHHBBH4s4s")
_UDP = struct.Struct("!HHHH")
_PSEUDO = struct.Struct("!4s4sBBH")
_ARP = struct.Struct("!HHBBH6s4s6s4s")

PROTOCOL_UDP = 17
TTL = 64
# RFC 6864: a datagram that may not be cut needs no identification.
DONT_FRAGMENT = 0x4000
ARP_REQUEST = 1


def checksum(data: bytes) -> int:
    """The Internet checksum (RFC 1071): the ones' complement of the ones' complement sum of all 16-bit words.

    The bytes taken as one large number leave, modulo 65535, that same sum: 65536 and 1 are equal there.
    """
    if len(data) % 2:
        data += b"\0"
    return -int.from_bytes(data, "big") % 0xFFFF


def udp_frame(
    macs: tuple[bytes, bytes], addresses: tuple[bytes, bytes], ports: tuple[int, int], payload: bytes
) -> bytes:
    """A UDP datagram in IPv4 in Ethernet. Each pair is (ours, theirs); addresses are 4 bytes."""
    source, target = addresses
    size = _UDP.size + len(payload)
    pseudo = _PSEUDO.pack(source, target, 0, PROTOCOL_UDP, size)
    bare = _UDP.pack(*ports, size, 0)
    # A sum of 0 is sent as 65535: 0 says that there is none (RFC 768).
    udp = _UDP.pack(*ports, size, checksum(pseudo + bare + payload) or 0xFFFF)
    total = _IPV4.size + size
    unsigned = _IPV4.pack(0x45, 0, total, 0, DONT_FRAGMENT, TTL, PROTOCOL_UDP, 0, source, target)
    ip = unsigned[:10] + checksum(unsigned).to_bytes(2, "big") + unsigned[12:]
    return _ETHERNET.pack(macs[1], macs[0], ETHERTYPE_IPV4) + ip + udp + payload


class Udp(NamedTuple):
    """A UDP datagram read from an IPv4 packet; addresses are 4 bytes."""

    source: bytes
    target: bytes
    source_port: int
    target_port: int
    payload: bytes


def parse_udp(packet: bytes) -> Udp | None:
    """Read an IPv4 packet without its link header; None for what is cut, a fragment, or not UDP.

    Checksums are not looked at: a neighbour on the same host leaves them to a network card that does not exist.
    """
    if len(packet) < _IPV4.size or packet[0] >> 4 != 4:
        return None
    header = _IPV4.unpack_from(packet)
    start = (packet[0] & 15) * 4
    total = min(header[2], len(packet))
    if header[6] != PROTOCOL_UDP or header[4] & 0x3FFF or start < _IPV4.size or start + _UDP.size > total:
        return None
    source_port, target_port, size, _ = _UDP.unpack_from(packet, start)
    if size < _UDP.size or start + size > total:
        return None
    return Udp(header[8], header[9], source_port, target_port, packet[start + _UDP.size : start + size])


def arp_probe(mac: bytes, address: bytes) -> bytes:
    """Ask who has `address` without saying who we are: sender address 0, so that nobody's ARP table changes (RFC 5227).

    The frame is filled up to Ethernet's 60 bytes.
    """
    arp = _ARP.pack(1, ETHERTYPE_IPV4, 6, 4, ARP_REQUEST, mac, bytes(4), bytes(6), address)
    return (_ETHERNET.pack(BROADCAST_MAC, mac, ETHERTYPE_ARP) + arp).ljust(60, b"\0")


def parse_arp(frame: bytes) -> tuple[bytes, bytes] | None:
    """The sender's (MAC, address) of an ARP frame with its Ethernet header; None for anything else or no address."""
    if len(frame) < _ETHERNET.size + _ARP.size:
        return None
    if _ETHERNET.unpack_from(frame)[2] != ETHERTYPE_ARP:
        return None
    hardware, protocol, mac_size, address_size, _, mac, address, _, _ = _ARP.unpack_from(frame, _ETHERNET.size)
    if (hardware, protocol, mac_size, address_size) != (1, ETHERTYPE_IPV4, 6, 4) or not any(address):
        return None
    return mac, address
