"""Network ports: physical ones only, with the address burnt into them, from /sys and the ethtool ioctl."""

from __future__ import annotations

import array
import contextlib
import fcntl
import re
import socket
import struct
from pathlib import Path

from metalbox.agent import sysfs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

# linux/sockios.h and linux/ethtool.h.
SIOCETHTOOL = 0x8946
ETHTOOL_GDRVINFO = 0x03
ETHTOOL_GPERMADDR = 0x20
MAX_ADDRESS = 32

# ARPHRD_ETHER and ARPHRD_INFINIBAND (linux/if_arp.h); tunnels, CAN and the like have other numbers.
PORT_TYPES = (1, 32)
UNKNOWN_SPEED = 0xFFFFFFFF


def port_names(root: Path) -> list[str]:
    """The kernel names of the physical ports."""
    return [entry.name for entry in sysfs.entries(root / "sys/class/net") if _is_port(entry)]


def nics(root: Path, ask: Callable[[str], dict[str, str]] | None = None) -> list[dict[str, Any]]:
    """One record per physical port. `ask` tells what only the driver knows: see `ask_driver`."""
    return [_nic(root / "sys/class/net" / name, ask(name) if ask else {}) for name in port_names(root)]


def _is_port(entry: Path) -> bool:
    real = entry.resolve()
    if "/devices/virtual/" in str(real) or entry.name == "lo":
        return False
    if sysfs.number(entry / "type") not in (*PORT_TYPES, None):
        return False
    if (entry / "device/physfn").exists():
        return False  # an SR-IOV virtual function; its physical function is in the list
    # The BMC's USB network (IBM and Lenovo IMM/XCC, Dell iDRAC, AMI) shows the same made-up address in many machines.
    # A USB adapter that someone plugged in has an address of its maker.
    return not ("/usb" in str(real) and _is_local(sysfs.text(entry / "address")))


def _is_local(mac: str) -> bool:
    return bool(re.match(r".[2367abef]", mac, re.IGNORECASE))


def _nic(entry: Path, told: dict[str, str]) -> dict[str, Any]:
    speed = sysfs.number(entry / "speed")
    return {
        "mac": told.get("mac") or sysfs.text(entry / "bonding_slave/perm_hwaddr") or sysfs.text(entry / "address"),
        "name": entry.name,
        "driver": told.get("driver") or sysfs.link_name(entry / "device/driver"),
        "firmware": told.get("firmware", ""),
        "speed_mbps": speed if speed is not None and 0 < speed < UNKNOWN_SPEED else None,
        "link": sysfs.truth(entry / "carrier"),
        "pci_address": sysfs.pci_address(entry.resolve()),
        "lldp": None,
    }


def ask_driver(name: str) -> dict[str, str]:
    """The permanent address, driver and firmware of a port, {mac, driver, firmware}; what fails is left out."""
    told: dict[str, str] = {}
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as descriptor:
        with contextlib.suppress(OSError):
            told.update(parse_driver_info(_ethtool(descriptor, name, struct.pack("=I192x", ETHTOOL_GDRVINFO))))
        with contextlib.suppress(OSError):
            request = struct.pack(f"=II{MAX_ADDRESS}x", ETHTOOL_GPERMADDR, MAX_ADDRESS)
            told["mac"] = parse_permanent_address(_ethtool(descriptor, name, request))
    return told


def _ethtool(descriptor: socket.socket, name: str, request: bytes) -> bytes:
    """One SIOCETHTOOL call: struct ifreq is the port's name and a pointer to the request, which the driver fills."""
    buffer = array.array("B", request)
    fcntl.ioctl(descriptor, SIOCETHTOOL, struct.pack("16sP16x", name.encode()[:15], buffer.buffer_info()[0]))
    return buffer.tobytes()


def parse_driver_info(data: bytes) -> dict[str, str]:
    """struct ethtool_drvinfo: the number of the command, then driver, version, firmware version of 32 bytes each."""
    if len(data) < 100:
        return {}
    driver, _version, firmware = (_text(data[at : at + 32]) for at in (4, 36, 68))
    return {"driver": driver, "firmware": "" if firmware in ("N/A", "n/a") else firmware}


def parse_permanent_address(data: bytes) -> str:
    """struct ethtool_perm_addr: the command, the size, the address; "" for the zeros of a driver that has none."""
    if len(data) < 8:
        return ""
    size = struct.unpack_from("=I", data, 4)[0]
    raw = data[8 : 8 + size]
    return raw.hex(":") if any(raw) and len(raw) == size and size <= MAX_ADDRESS else ""


def _text(raw: bytes) -> str:
    return raw.split(b"\0")[0].decode("ascii", "replace").strip()
