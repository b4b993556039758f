"""What each disk can do about its data (`Erasing` of a report), asked by commands that change nothing.

A disk may hang whoever asks: `inventory.py` gives each its own thread and a deadline. What a disk does not answer stays
unknown, and that is an answer too.
"""

from __future__ import annotations

import contextlib
import re
from collections import Counter

from metalbox.agent import ata, holders, nvme, scsi, sysfs
from metalbox.agent.passthrough import READ_BYTES, Device, DriveError, Kernel

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

# How BMCs call the disks and CD drives that they make up. "Virtual" begins the product names of AMI, Dell and Huawei.
VIRTUAL_MEDIA = re.compile(
    r"^(ami virtual|american megatrends|idrac|avocent|dell virtual|hp virtual|hpe? ilo|ilo virtual|lenovo xcc|ibm rsa"
    r"|cisco virtual|supermicro virtual|ipmi virtual|insyde|atenintl|aten virtual|openbmc|raritan|peppercon"
    r"|linux (file-?(cd|stor)|scsi gadget)|file-cd gadget|virtual (floppy|cd|hd|disk ?0|media|usb))",
    re.IGNORECASE,
)
RATE_SECONDS, RATE_BYTES = 0.15, 64 << 20
ATA_WAYS, SCSI_WAYS = frozenset({"sata", "ide"}), frozenset({"sas", "scsi", "fc", "iscsi"})


def from_sysfs(kernel: Kernel, disk: dict[str, Any]) -> dict[str, Any]:
    """What /sys tells without opening the disk."""
    queue = kernel.root / "sys/class/block" / disk["name"] / "queue"
    most = sysfs.number(queue / "discard_max_bytes")
    names = block_names(disk)
    using = holders.holders(kernel.root, names) if names else ()
    return {
        "discard": None if most is None else most > 0,
        "write_protected": disk["read_only"],
        "holders": list(using),
        "multipath": any(holders.is_multipath(kernel.root, name) for name in names),
        "virtual_media": is_virtual_media(disk),
    }


def block_names(disk: dict[str, Any]) -> list[str]:
    """The block devices of a disk: its namespaces', or its own; none for an NVMe drive without namespaces."""
    if disk["transport"] == "nvme":
        return [namespace["name"] for namespace in disk["namespaces"]]
    return [disk["name"]]


def is_virtual_media(disk: dict[str, Any]) -> bool:
    """Whether a BMC or a USB gadget plays this disk."""
    return disk["transport"] in ("usb", "") and bool(VIRTUAL_MEDIA.match(disk["model"]))


def mark_multipath(disks: list[dict[str, Any]]) -> None:
    """Disks of which the World Wide Name is there twice are paths to one disk."""
    names = Counter(disk["wwn"] for disk in disks if disk["wwn"])
    for disk in disks:
        if names[disk["wwn"]] > 1 and disk["erasing"] is not None:
            disk["erasing"]["multipath"] = True


def ask(kernel: Kernel, disk: dict[str, Any]) -> dict[str, Any]:
    """All of `Erasing` for one disk. Raises OSError when it cannot even be opened."""
    facts = from_sysfs(kernel, disk)
    device = kernel.open(disk["name"])
    try:
        if disk["transport"] == "nvme":
            facts |= _ask_nvme(device, disk)
        elif disk["transport"] in ATA_WAYS:
            facts |= _ask_ata(device)
        elif disk["transport"] in SCSI_WAYS:
            facts |= _ask_scsi(device, facts)
        if disk["size_bytes"] and block_names(disk):
            facts["megabytes_per_second"] = measure(kernel, device, device.size())
    finally:
        device.close()
    return facts


def _ask_nvme(device: Device, disk: dict[str, Any]) -> dict[str, Any]:
    controller = nvme.identify_controller(device)
    spaces = [nvme.identify_namespace(device, space["nsid"]) for space in disk["namespaces"]]
    return {
        "nvme_sanitize": list(controller["sanitize"]),
        "nvme_format": list(controller["format"]),
        "discard_zeroes": bool(spaces) and all(space["discard_zeroes"] for space in spaces),
        "write_protected": disk["read_only"] or any(space["write_protected"] for space in spaces),
        "sanitizing": nvme_sanitizing(device) if controller["sanitize"] else "",
    }


def nvme_sanitizing(device: Device) -> str:
    """The word of `Erasing.sanitizing` from the Sanitize Status log."""
    try:
        state = nvme.sanitize_log(device).state
    except (DriveError, OSError):
        return ""
    return {nvme.IN_PROGRESS: "in progress", nvme.FAILED: "failed"}.get(state, "")


def _ask_ata(device: Device) -> dict[str, Any]:
    try:
        identity = ata.identify(device)
    except DriveError:
        return {}  # behind a RAID adapter, or a bridge, that does not pass ATA commands through
    facts: dict[str, Any] = {
        "ata_sanitize": list(identity.sanitize),
        "ata_security": identity.security,
        "ata_enhanced": identity.enhanced,
        "ata_enabled": identity.enabled,
        "ata_locked": identity.locked,
        "ata_frozen": identity.frozen,
        "ata_erase_minutes": identity.erase_minutes,
        "ata_enhanced_minutes": identity.enhanced_minutes,
        "discard_zeroes": identity.guarantees_zeroes,
        "sanitizing": "",
    }
    scale = identity.sector_bytes // 512
    with contextlib.suppress(DriveError, OSError):
        if native := ata.native_sectors(device, identity):
            facts["native_sectors"] = native * scale
    with contextlib.suppress(DriveError, OSError):
        if identity.has_dco:
            facts["dco_sectors"] = ata.configured_sectors(device) * scale
    if identity.is_sanitizing_known:
        try:
            state = ata.sanitize_status(device).state
        except (DriveError, OSError):
            state = ""
        facts["sanitizing"] = state if state in ("in progress", "failed") else ""
    return facts


def _ask_scsi(device: Device, facts: dict[str, Any]) -> dict[str, Any]:
    protected = scsi.is_write_protected(device)
    return {
        "scsi_sanitize": list(scsi.supported_sanitize(device)),
        "discard_zeroes": scsi.reads_zeroes_after_unmap(device),
        "write_protected": facts["write_protected"] or protected,
        "sanitizing": scsi.sanitizing(scsi.status(device)),
    }


def measure(kernel: Kernel, device: Device, size: int) -> int | None:
    """The reading rate in MB/s of the disk's beginning, by a short test; None when it cannot be read."""
    step = min(READ_BYTES, size)
    done, started = 0, kernel.clock()
    while done < RATE_BYTES and step and kernel.clock() - started < RATE_SECONDS:
        try:
            device.read(done if done + step <= size else 0, step)
        except OSError:
            return None
        done += step
    took = kernel.clock() - started
    return int(done / took / 1e6) or 1 if took > 0 and done else None
