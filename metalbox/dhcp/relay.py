"""The relay agent's option 82 (RFC 3046) and what we read from it: the network, the server identifier, the location."""

from __future__ import annotations

from metalbox.dhcp.options import RELAY_AGENT
from metalbox.dhcp.packet import Packet

CIRCUIT_ID = 1
REMOTE_ID = 2
LINK_SELECTION = 5  # RFC 3527
SERVER_ID_OVERRIDE = 11  # RFC 5107
RELAY_SOURCE_PORT = 19  # RFC 8357


def sub_options(data: bytes) -> dict[int, bytes]:
    """The sub-options of option 82, or of any option built alike; what is cut is left out."""
    found: dict[int, bytes] = {}
    at = 0
    while at + 2 <= len(data):
        end = at + 2 + data[at + 1]
        if end > len(data):
            break
        found.setdefault(data[at], data[at + 2 : end])
        at = end
    return found


def source_port_wanted(packet: Packet) -> bool:
    """Whether the relay wants replies on the UDP port it sent from (RFC 8357)."""
    data = packet.options.get(RELAY_AGENT)
    return data is not None and RELAY_SOURCE_PORT in sub_options(data)


def location_text(data: bytes) -> str:
    """A circuit or remote id for people: its text if it is one, Cisco's two encodings spelled out, else hex pairs."""
    if len(data) == 6 and data[:2] == b"\x00\x04":
        return f"vlan {data[2] << 8 | data[3]} module {data[4]} port {data[5]}"
    if len(data) == 8 and data[:2] == b"\x00\x06":
        return data[2:].hex(":")
    stripped = data.rstrip(b"\0")
    if stripped and stripped.isascii() and stripped.decode().isprintable():
        return stripped.decode()
    return data.hex(":")
