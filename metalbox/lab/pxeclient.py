"""What machines of a simulated fleet put on the wire, when they ask again, and what their agents report. Pure.

The timers are those of the real programs: EDK2 waits 4, 8, 16 and 32 s for DHCP and 3 s, five times, for TFTP; iPXE
waits 1, 2, 4 and 8 s for DHCP. EDK2 asks for a file's size first, breaks that transfer off, and then asks for a window.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

COOKIE = b"\x63\x82\x53\x63"
DISCOVER, OFFER, REQUEST, ACK, NAK = 1, 2, 3, 5, 6
EDK2_DHCP, IPXE_DHCP = (4.0, 8.0, 16.0, 32.0), (1.0, 2.0, 4.0, 8.0, 8.0)
EDK2_TFTP = (3.0,) * 5
BLKSIZE, WINDOW = 1468, 4
HEADER, SHORTEST = 240, 300
_URL = re.compile(r"^\s*(kernel|initrd)\s.*?(http://\S+)", re.MULTILINE)
_PLACE = re.compile(r"http://([0-9.]+):?(\d*)(/\S*)")


class Phase(StrEnum):
    """The steps of a boot, in order."""

    ROM_DHCP = "rom dhcp"
    TFTP = "tftp"
    IPXE_DHCP = "ipxe dhcp"
    FIRST_SCRIPT = "first script"
    SCRIPT = "script"
    IMAGES = "kernel+initrd"
    REPORT = "report"


@dataclass(frozen=True, slots=True)
class Offer:
    """What a server's answer holds for a machine."""

    kind: int
    address: bytes
    server: bytes
    next_server: bytes
    file: str


def mac_of(number: int) -> bytes:
    """The address of machine `number`."""
    return b"\x52\x54\x42" + number.to_bytes(3, "big")


def uuid_of(number: int) -> str:
    """Its UUID, the one that its DHCP messages hold too."""
    return f"42000000-0000-0000-0000-0000{number:08x}"


def serial_of(number: int) -> str:
    """Its serial number."""
    return f"STORM{number:06d}"


def option(code: int, value: bytes) -> bytes:
    """One DHCP option."""
    return bytes((code, len(value))) + value


def dhcp(kind: int, number: int, xid: int, *, ipxe: bool, chosen: Offer | None = None) -> bytes:
    """A DISCOVER or, of an offer, a REQUEST. Answers are asked for as broadcasts: nobody has an address yet."""
    header = bytearray(HEADER)
    header[0:4] = 1, 1, 6, 0
    header[4:8] = xid.to_bytes(4, "big")
    header[10] = 0x80
    header[28:34] = mac_of(number)
    header[236:240] = COOKIE
    parts = [option(53, bytes([kind])), option(57, (1472).to_bytes(2, "big"))]
    if chosen is not None:
        parts += [option(50, chosen.address), option(54, chosen.server)]
    parts.append(option(55, bytes((1, 3, 6, 12, 15, 28, 43, 60, 66, 67, 97))))
    parts.append(option(97, b"\x00" + bytes.fromhex(uuid_of(number).replace("-", ""))))
    parts += [option(94, b"\x01\x03\x10"), option(93, b"\x00\x07"), option(60, b"PXEClient:Arch:00007:UNDI:003016")]
    if ipxe:
        parts += [option(77, b"iPXE"), option(175, bytes.fromhex("b105011af41000eb03010000170101220101130101"))]
    body = bytes(header) + b"".join(parts) + b"\xff"
    return body.ljust(SHORTEST, b"\0")


def read_dhcp(data: bytes) -> tuple[int, Offer] | None:
    """The transaction and what is in the answer; None for what is no answer."""
    if len(data) < HEADER + 4 or data[0] != 2 or data[236:240] != COOKIE:
        return None
    found: dict[int, bytes] = {}
    at = HEADER
    while at + 1 < len(data) and data[at] != 255:
        if data[at] == 0:
            at += 1
            continue
        found.setdefault(data[at], data[at + 2 : at + 2 + data[at + 1]])
        at += 2 + data[at + 1]
    file = found.get(67) or data[108:236].partition(b"\0")[0]
    kind = found.get(53, b"\0")[0]
    offer = Offer(kind, data[16:20], found.get(54, b""), data[20:24], file.rstrip(b"\0").decode("latin-1"))
    return int.from_bytes(data[4:8], "big"), offer


def read_request(name: str, *, is_probe: bool) -> bytes:
    """EDK2's RRQ: with `tsize` to learn the size, else for the file itself."""
    words = [name, "octet"]
    if is_probe:
        words += ["tsize", "0"]
    words += ["blksize", str(BLKSIZE), "windowsize", str(WINDOW)]
    return b"\x00\x01" + b"".join(word.encode() + b"\0" for word in words)


def granted(oack: bytes) -> dict[str, int]:
    """The options of an OACK."""
    words = oack[2:].split(b"\0")
    return {key.decode().lower(): int(value) for key, value in zip(words[::2], words[1::2], strict=False) if value}


def script_query(number: int, address: str) -> str:
    """What the first script adds to the URL of the second (ipxe/first.ipxe.j2)."""
    mac = mac_of(number).hex("-")
    return (
        f"?mac={mac}&uuid={uuid_of(number)}&arch=x86_64&platform=efi&ip={address}&loader=ipxe-1.21.1"
        f"&serial={serial_of(number)}&asset=&vendor=metalbox&product=simulated"
    )


def hello(number: int) -> dict[str, Any]:
    """An agent's first word."""
    mac = mac_of(number).hex(":")
    return {
        "boot_id": f"storm-{number}", "macs": [mac], "uuid": uuid_of(number), "serial": serial_of(number),
        "uptime_seconds": 3.0,
    }  # fmt: skip


def report(number: int, address: str) -> dict[str, Any]:
    """A usual server as its agent tells it, some 8 KB: two CPUs, 16 DIMMs, 4 disks, 4 ports, 40 PCI functions."""
    serial, own = serial_of(number), mac_of(number)
    macs = [bytes((*own[:2], own[2] + port, *own[3:])).hex(":") for port in range(4)]
    return {
        "version": 1,
        "agent": {"version": "0.1.0", "boot_id": f"storm-{number}", "uptime_seconds": 8.0, "kernel": "6.1.0-amd64",
                  "address": address, "interface": "eth0", "booted_mac": macs[0]},
        "hardware": {
            "system": {"vendor": "metalbox", "product": "simulated", "serial": serial, "uuid": uuid_of(number)},
            "firmware": {"mode": "uefi", "vendor": "EDK II", "version": "2022.11", "secure_boot": False},
            "architecture": "x86_64",
            "memory_bytes": 16 << 35,
            "cpus": [{"socket": f"CPU{at}", "model": "EPYC 7302", "cores": 16, "threads": 32, "mhz": 3000}
                     for at in (1, 2)],
            "dimms": [{"locator": f"DIMM_{at}", "size_bytes": 1 << 35, "type": "DDR4", "speed_mts": 3200,
                       "vendor": "Samsung", "serial": f"{serial}M{at}"} for at in range(16)],
            "disks": [{"name": f"nvme{at}n1", "model": "MZQL21T9HCJR", "serial": f"{serial}D{at}", "transport": "nvme",
                       "size_bytes": 1920383410176, "logical_sector_bytes": 512, "rotational": False,
                       "health": {"status": "ok", "power_on_hours": 1000, "temperature_celsius": 31}}
                      for at in range(4)],
            "nics": [{"mac": mac, "name": f"eth{at}", "driver": "ice", "link": at == 0, "speed_mbps": 25000}
                     for at, mac in enumerate(macs)],
            "pci": [{"address": f"0000:{at:02x}:00.0", "class_code": "060400", "vendor_id": "1022",
                     "device_id": "1483"} for at in range(40)],
            "bmc": None,
        },
        "problems": [],
    }  # fmt: skip


def images(script: str) -> list[str]:
    """The URLs of kernel and initrd that a script names, in order."""
    return [url for _, url in _URL.findall(script)]


def place(url: str) -> tuple[str, int, str]:
    """Address, port and path. Raises ValueError for what is no URL with an address."""
    match = _PLACE.fullmatch(url)
    if match is None:
        raise ValueError(f"{url!r} is no http URL with an address")
    return match[1], int(match[2] or 80), match[3]
