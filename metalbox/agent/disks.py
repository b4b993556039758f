"""Disks: every block device that holds data by itself, read from /sys.

None is opened here: a dead disk hangs whoever opens it. What must be asked of the disk itself is in `health.py`.
"""

from __future__ import annotations

import re
from pathlib import Path

from metalbox.agent import sysfs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

SECTOR = 512  # the unit of /sys/block/*/size, whatever the disk's own sectors are

# Kernel names of what is no disk: memory, views of other disks, optical drives, network blocks, and the small areas
# that an eMMC chip shows beside its disk.
NOT_A_DISK = re.compile(r"(loop|ram|zram|dm-|md|sr|fd|nbd|drbd|bcache|rbd|mtdblock)\d|mmcblk\d+(boot\d|rpmb|gp\d)")

# What a path in /sys/devices says of the way to the disk; the first that fits decides. A SAS, FC or iSCSI session is a
# device of its own between the controller and the disk.
PATH_TRANSPORTS = (
    (re.compile(r"/session\d+/"), "iscsi"),
    (re.compile(r"/rport-\d"), "fc"),
    (re.compile(r"/usb\d+/"), "usb"),
    (re.compile(r"/ata\d+/"), "sata"),
    (re.compile(r"/(end_device|expander)-\d"), "sas"),
)


def disks(root: Path) -> list[dict[str, Any]]:
    """Every disk; the namespaces of one NVMe controller or subsystem are one disk."""
    found = []
    nvme: dict[tuple[str, str, str], tuple[Path, list[Path]]] = {}
    for block in sysfs.entries(root / "sys/block"):
        real = block.resolve()
        if not _is_disk(block.name, real):
            continue
        if block.name.startswith("nvme"):
            nvme.setdefault(_nvme_identity(real.parent), (real.parent, []))[1].append(real)
        else:
            found.append(_disk(block.name, real, root))
    for controller in sysfs.entries(root / "sys/class/nvme"):
        # A controller whose namespaces were all deleted has no block device, and is a disk nevertheless.
        device = controller.resolve()
        nvme.setdefault(_nvme_identity(device), (device, []))
    return found + [_nvme_disk(device, blocks) for device, blocks in nvme.values()]


def _is_disk(name: str, real: Path) -> bool:
    if NOT_A_DISK.match(name) or sysfs.truth(real / "hidden"):
        return False
    if "/devices/virtual/" in str(real) and "nvme-subsystem" not in str(real):
        return False
    # An empty card reader or a BMC's virtual floppy: a slot, not a disk.
    return bool(sysfs.number(real / "size")) or not sysfs.truth(real / "removable")


def _geometry(real: Path) -> dict[str, Any]:
    return {
        "logical_sector_bytes": sysfs.number(real / "queue/logical_block_size"),
        "physical_sector_bytes": sysfs.number(real / "queue/physical_block_size"),
        "rotational": sysfs.truth(real / "queue/rotational"),
        "removable": sysfs.truth(real / "removable"),
        "read_only": sysfs.truth(real / "ro"),
    }


def _size(real: Path) -> int | None:
    sectors = sysfs.number(real / "size")
    return None if sectors is None else sectors * SECTOR


def _disk(name: str, real: Path, root: Path) -> dict[str, Any]:
    device = real / "device"
    identity = parse_identify(sysfs.text(root / "sys/class/ata_device" / _ata_device(real) / "id"))
    vendor, model = sysfs.text(device / "vendor"), sysfs.text(device / "model") or sysfs.text(device / "name")
    if vendor not in ("", "ATA") and not vendor.startswith("0x"):
        model = f"{vendor} {model}".strip()
    return {
        "name": name,
        "model": identity.get("model") or model,
        "serial": identity.get("serial") or _serial(real),
        "wwn": identity.get("wwn") or _wwn(device),
        "firmware": identity.get("firmware") or sysfs.text(device / "rev") or sysfs.text(device / "fwrev"),
        "size_bytes": _size(real),
        **_geometry(real),
        "transport": transport(name, str(real), vendor, is_parallel=identity.get("is_parallel", False)),
        "pci_address": sysfs.pci_address(real),
        "namespaces": [],
        "health": {},
        "erasing": None,
    }


def transport(name: str, path: str, vendor: str = "", *, is_parallel: bool = False) -> str:
    """The way to the disk, one of the words of `Disk.transport`; "" when the path does not tell."""
    if name.startswith("nvme"):
        return "nvme"
    if name.startswith("mmcblk"):
        return "mmc"
    if name.startswith("hd") or is_parallel:
        return "ide"
    for pattern, word in PATH_TRANSPORTS:
        if pattern.search(path):
            # SATA disks behind a SAS controller keep their own command set, which is what matters for erasing.
            return "sata" if word == "sas" and vendor == "ATA" else word
    if name.startswith("vd"):
        return "virtio"
    return "scsi" if re.search(r"/host\d+/target", path) else ""


def _ata_device(real: Path) -> str:
    """The name of this disk in /sys/class/ata_device, `dev<port>.<device>`; behind a port multiplier another digit."""
    match = re.search(r"/ata(\d+)/.*/\d+:(\d+):(\d+):\d+(?:/|$)", str(real))
    if not match:
        return "none"
    port, channel, target = match.groups()
    return f"dev{port}.{channel}.{target}" if channel != "0" else f"dev{port}.{target}"


def parse_identify(text: str) -> dict[str, Any]:
    """The IDENTIFY DEVICE data of an ATA disk (ACS-4 7.12), as /sys/class/ata_device/*/id prints its 256 words.

    Gives {model, serial, firmware, wwn, is_parallel}, or {} when the text is no such data.
    """
    try:
        words = [int(word, 16) for word in text.split()]
    except ValueError:
        return {}
    if len(words) != 256 or not any(words[27:47]):
        return {}
    raw = b"".join(word.to_bytes(2, "big") for word in words)
    has_wwn = words[87] & 0xC100 == 0x4100
    return {
        "serial": _ascii(raw[20:40]),
        "firmware": _ascii(raw[46:54]),
        "model": _ascii(raw[54:94]),
        "wwn": f"0x{raw[216:224].hex()}" if has_wwn and words[108] >> 12 == 5 else "",
        # Word 93 is the outcome of a parallel reset, word 76 the serial capabilities. QEMU fills 93 for both kinds.
        "is_parallel": bool(words[93]) and words[76] in (0, 0xFFFF),
    }


def _ascii(raw: bytes) -> str:
    return "".join(chr(byte) if 32 <= byte < 127 else " " for byte in raw).strip()


def _serial(real: Path) -> str:
    """The unit serial number: SCSI VPD page 80h, else what the MMC, virtio or USB layer shows."""
    page = sysfs.content(real / "device/vpd_pg80")
    if len(page) > 4 and (serial := _ascii(page[4 : 4 + int.from_bytes(page[2:4], "big")])):
        return serial
    own = sysfs.text(real / "serial") or sysfs.text(real / "device/serial")
    if own or "/usb" not in str(real):
        return own
    # The USB device is some folders above the disk; the host controller above it has a "serial" too, its PCI address.
    for folder in real.parents:
        if (folder / "bDeviceClass").exists():
            return sysfs.text(folder / "serial")
    return ""


def _wwn(device: Path) -> str:
    """The World Wide Name as lsblk writes it; "" for the vendor's own text, which repeats model and serial."""
    name = sysfs.text(device / "wwid")
    if name.startswith("naa."):
        return "0x" + name[4:].lower()
    if name.startswith(("eui.", "uuid.", "nvme.")):
        return name.lower()
    return parse_device_identification(sysfs.content(device / "vpd_pg83"))


def parse_device_identification(page: bytes) -> str:
    """The disk's own NAA or EUI-64 name in SCSI VPD page 83h (SPC-5 7.7.6); "" when there is none."""
    best = ""
    at = 4
    while at + 4 <= len(page):
        kind, length = page[at + 1], page[at + 3]
        value = page[at + 4 : at + 4 + length]
        if kind & 0x30 == 0 and len(value) == length and length:  # association: the logical unit, not the port
            if kind & 0x0F == 3:
                return f"0x{value.hex()}"
            if kind & 0x0F == 2:
                best = best or f"eui.{value.hex()}"
        at += 4 + length
    return best


def _nvme_identity(device: Path) -> tuple[str, str, str]:
    """What makes two namespaces, or the two ports of one drive, one disk: its serial; its place when it has none."""
    serial = sysfs.text(device / "serial")
    return serial, sysfs.text(device / "model"), "" if serial else str(device)


def _nvme_disk(device: Path, blocks: list[Path]) -> dict[str, Any]:
    """One record; `device` is the controller, or the subsystem where the kernel joins several controllers."""
    namespaces = [_namespace(block) for block in blocks]
    first = blocks[0] if blocks else None
    controllers = [entry for entry in sysfs.entries(device) if re.fullmatch(r"nvme\d+", entry.name)]
    return {
        "name": first.name if first else device.name,
        "model": sysfs.text(device / "model"),
        "serial": sysfs.text(device / "serial"),
        "wwn": _wwn(first) if first else "",
        "firmware": sysfs.text(device / "firmware_rev"),
        "size_bytes": sum(namespace["size_bytes"] or 0 for namespace in namespaces),
        **(_geometry(first) if first else {"rotational": False, "removable": False}),
        "transport": "nvme",
        "pci_address": sysfs.pci_address((controllers[0] if controllers else device).resolve()),
        "namespaces": namespaces,
        "health": {},
        "erasing": None,
    }


def _namespace(block: Path) -> dict[str, Any]:
    nsid = sysfs.number(block / "nsid")
    if nsid is None:
        match = re.search(r"n(\d+)$", block.name)
        nsid = int(match[1]) if match else 0
    return {"nsid": nsid, "name": block.name, "size_bytes": _size(block), "wwn": _wwn(block)}
