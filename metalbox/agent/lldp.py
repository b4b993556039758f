"""LLDP (IEEE 802.1AB): which switch port is at the other end of each cable.

A switch speaks every 30 s, so nobody waits for it: the listener runs beside everything else and says when it learnt
something new.
"""

from __future__ import annotations

import contextlib
import ipaddress
import socket
import struct
import threading
import time
from pathlib import Path

from metalbox.agent import command, sysfs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

ETHERTYPE = 0x88CC
# 802.1AB table 7-1: nearest bridge, nearest non-TPMR bridge, nearest customer bridge.
GROUPS = tuple(bytes.fromhex(f"0180c20000{last}") for last in ("0e", "03", "00"))

# linux/if_packet.h.
SOL_PACKET, PACKET_ADD_MEMBERSHIP, PACKET_OUTGOING = 263, 1, 4
PACKET_MR_MULTICAST, PACKET_MR_ALLMULTI = 0, 2

CHASSIS, PORT, PORT_DESCRIPTION, SYSTEM_NAME, ORGANISATION = 1, 2, 4, 5, 127
IEEE_802_1_PORT_VLAN = b"\x00\x80\xc2\x01"
JOIN_SECONDS = 5.0  # a port that appears later is listened to after this time at most
FORGET_SECONDS = 130.0  # the usual time to live, 120 s, and a little
MAX_NEIGHBOURS = 64  # on one port; a hub or a noisy test cannot make the table grow


def parse_frame(frame: bytes) -> dict[str, Any] | None:
    """Read an Ethernet frame into the report's words; None when it is no LLDP frame with a chassis and a port.

    A shutdown frame (time to live 0) is None as well: the neighbour says that it goes away.
    """
    at = 12
    if frame[at : at + 2] in (b"\x81\x00", b"\x88\xa8"):
        at += 4
    if frame[at : at + 2] != ETHERTYPE.to_bytes(2, "big"):
        return None
    neighbour: dict[str, Any] = {
        "chassis_id": "",
        "port_id": "",
        "port_description": "",
        "system_name": "",
        "vlan": None,
    }
    elements = list(_elements(frame, at + 2))
    if [kind for kind, _ in elements[:3]] != [CHASSIS, PORT, 3]:
        return None  # the three mandatory elements come first, in this order (802.1AB 9.2.7.1)
    if not any(elements[2][1][:2]):
        return None
    for kind, value in elements:
        if kind == CHASSIS:
            neighbour["chassis_id"] = _identity(value, mac=4, network=5)
        elif kind == PORT:
            neighbour["port_id"] = _identity(value, mac=3, network=4)
        elif kind == PORT_DESCRIPTION:
            neighbour["port_description"] = _text(value)
        elif kind == SYSTEM_NAME:
            neighbour["system_name"] = _text(value)
        elif kind == ORGANISATION and value[:4] == IEEE_802_1_PORT_VLAN and len(value) >= 6:
            vlan = int.from_bytes(value[4:6], "big")
            neighbour["vlan"] = vlan if 0 < vlan < 4095 else None
    return neighbour if neighbour["chassis_id"] and neighbour["port_id"] else None


def _elements(frame: bytes, at: int) -> Iterable[tuple[int, bytes]]:
    """The elements in order: 7 bits of type, 9 of length, the value. Ends at type 0 or where one is cut off."""
    while at + 2 <= len(frame):
        head = int.from_bytes(frame[at : at + 2], "big")
        kind, length = head >> 9, head & 0x1FF
        if kind == 0 or at + 2 + length > len(frame):
            return
        yield kind, frame[at + 2 : at + 2 + length]
        at += 2 + length


def _identity(value: bytes, mac: int, network: int) -> str:
    """A chassis or port id: its first byte says whether it is a MAC, a network address or a text."""
    kind, raw = value[:1], value[1:]
    if kind == bytes([mac]) and len(raw) == 6:
        return raw.hex(":")
    if kind == bytes([network]) and len(raw) in (5, 17):
        with contextlib.suppress(ValueError):
            return str(ipaddress.ip_address(raw[1:]))
    text = _text(raw)
    return raw.hex(":") if not text or "\ufffd" in text else text


def _text(raw: bytes) -> str:
    text = raw.rstrip(b"\0").decode("utf-8", "replace").strip()
    return "".join(character if character.isprintable() else " " for character in text)[:255]


class Neighbours:
    """What each port has heard lately. `changed` is set whenever that is news; `now` is in seconds of any clock."""

    def __init__(self) -> None:
        self._heard: dict[str, dict[tuple[str, str], tuple[float, dict[str, Any]]]] = {}
        self._lock = threading.Lock()
        self.changed = threading.Event()

    def hear(self, port: str, frame: bytes, now: float) -> None:
        """Take in one frame from this port, and forget who was not heard there for long."""
        neighbour = parse_frame(frame)
        if neighbour is None:
            return
        key = neighbour["chassis_id"], neighbour["port_id"]
        with self._lock:
            before = self._heard.get(port, {})
            heard = {name: item for name, item in before.items() if now - item[0] < FORGET_SECONDS}
            if key in heard or len(heard) < MAX_NEIGHBOURS:
                heard[key] = now, neighbour
            self._heard[port] = heard
            is_news = {name: item[1] for name, item in before.items()} != {
                name: item[1] for name, item in heard.items()
            }
        if is_news:
            self.changed.set()

    def of(self, port: str) -> dict[str, Any] | None:
        """The neighbour to name for this port: a named system rather than a port that speaks for itself.

        Adapters with LLDP of their own (ConnectX) and BMCs that share a port are heard beside the switch. The choice
        is by content, so that frames taking turns do not look like a cable being moved again and again.
        """
        with self._lock:
            heard = [item for _, item in self._heard.get(port, {}).values()]
        return min(heard, key=lambda item: (not item["system_name"], item["chassis_id"], item["port_id"]), default=None)


def release_from_firmware(root: Path) -> None:
    """Make Intel X710 adapters pass LLDP on: their firmware swallows it (i40e; until the next reset of the adapter)."""
    folder = root / "sys/kernel/debug"
    if not (root / "sys/bus/pci/drivers/i40e").is_dir():
        return
    if not (folder / "i40e").is_dir():
        with contextlib.suppress(command.CommandFailed):
            command.run([command.find("mount"), "-t", "debugfs", "debugfs", str(folder)], 5.0)
    for adapter in sysfs.entries(folder / "i40e"):
        with contextlib.suppress(OSError):
            (adapter / "command").write_text("lldp stop")


def open_listener() -> socket.socket:
    """A socket that receives LLDP from every port. Raises OSError (it takes root)."""
    listener = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.htons(ETHERTYPE))
    listener.settimeout(JOIN_SECONDS)
    return listener


def join(listener: socket.socket, port: str) -> None:
    """Have this port's adapter pass the LLDP groups on."""
    with contextlib.suppress(OSError):
        index = socket.if_nametoindex(port)
        requests = [struct.pack("@iHH8s", index, PACKET_MR_MULTICAST, 6, group) for group in GROUPS]
        # Some adapters cannot filter link-local groups by themselves.
        requests.append(struct.pack("@iHH8s", index, PACKET_MR_ALLMULTI, 0, b""))
        for request in requests:
            listener.setsockopt(SOL_PACKET, PACKET_ADD_MEMBERSHIP, request)


def listen(listener: socket.socket, neighbours: Neighbours, ports: Callable[[], Iterable[str]]) -> None:
    """Hear frames on these ports until the socket is closed. Runs in a thread of its own."""
    joined: set[str] = set()
    while listener.fileno() >= 0:
        for port in set(ports()) - joined:
            join(listener, port)
            joined.add(port)
        try:
            frame, (name, _protocol, direction, *_rest) = listener.recvfrom(2048)
        except TimeoutError:
            continue
        except OSError:
            time.sleep(0.1)  # ENETDOWN: one of the ports went down; the others are still heard
            continue
        if direction != PACKET_OUTGOING:
            neighbours.hear(name, frame, time.monotonic())
