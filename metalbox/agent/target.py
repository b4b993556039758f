"""One disk of an order: which it is, found anew and asked itself each time, and its devices open for nobody else."""

from __future__ import annotations

import threading
import time

from metalbox.agent import ata, capabilities, nvme, scsi
from metalbox.agent.disks import parse_device_identification
from metalbox.agent.passthrough import DriveError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from metalbox.agent.passthrough import Device, Kernel

COMMAND_SECONDS = 120.0  # any command that has no estimate of its own; a spin-up takes 10 to 30
ATA_WAYS, SCSI_WAYS = capabilities.ATA_WAYS, capabilities.SCSI_WAYS | {"usb"}


def label(row: dict[str, Any]) -> str:
    """How a disk is called in progress and sentences: its serial number, else its World Wide Name."""
    return str(row.get("serial") or row.get("wwn") or row.get("model") or "a disk without a name")


def find(disks: Sequence[dict[str, Any]], row: dict[str, Any]) -> dict[str, Any]:
    """The one disk that the row of an order names. Raises DriveError (not begun) with what is different."""
    serial, wwn = row["serial"], row["wwn"]
    if not serial and not wwn:
        raise DriveError("the order names this disk by neither serial number nor World Wide Name", begun=False)
    same = [disk for disk in disks if disk["serial"] == serial and disk["wwn"] == wwn]
    near = [disk for disk in disks if (serial and disk["serial"] == serial) or (wwn and disk["wwn"] == wwn)]
    if not same:
        there = "; ".join(f"{disk['name']} has serial {disk['serial']!r} and WWN {disk['wwn']!r}" for disk in near)
        raise DriveError(
            f"no disk has serial {serial!r} and WWN {wwn!r}: {there or 'it is not in this machine'}", begun=False
        )
    doubles = {disk["name"] for disk in [*same, *(disk for disk in near if wwn and disk["wwn"] == wwn)]}
    if len(doubles) > 1:
        raise DriveError(f"{' and '.join(sorted(doubles))} have the same name, {serial or wwn}", begun=False)
    disk = same[0]
    for key, what in (("model", "model"), ("size_bytes", "size")):
        if disk[key] != row[key]:
            raise DriveError(
                f"{disk['name']} ({label(row)}): its {what} is {disk[key]!r}, and the order says {row[key]!r}",
                begun=False,
            )
    _compare_namespaces(disk, row)
    return disk


def _compare_namespaces(disk: dict[str, Any], row: dict[str, Any]) -> None:
    there = {space["nsid"]: space for space in disk["namespaces"]}
    named = {space["nsid"]: space for space in row.get("namespaces") or ()}
    is_same = there.keys() == named.keys() and all(
        there[nsid]["size_bytes"] == named[nsid]["size_bytes"]
        and (not named[nsid].get("wwn") or there[nsid].get("wwn", "") == named[nsid]["wwn"])
        for nsid in named
    )
    if not is_same:
        raise DriveError(
            f"{disk['name']} ({label(row)}) has the namespaces {sorted(there)}, and the order says {sorted(named)}, "
            "or their sizes and names differ",
            begun=False,
        )


def confirm(device: Device, disk: dict[str, Any]) -> None:
    """Ask the drive itself who it is. Raises DriveError (not begun) when it is another; OSError."""
    way = disk["transport"]
    if way == "nvme":
        told = nvme.identify_controller(device)
        _same(disk, "serial", told["serial"])
        _same(disk, "model", told["model"])
        if told["manages_namespaces"]:
            hidden = set(nvme.allocated_namespaces(device)) - {space["nsid"] for space in disk["namespaces"]}
            if hidden:
                raise DriveError(f"the drive has namespaces that Linux does not see: {sorted(hidden)}", begun=False)
    elif way in ATA_WAYS:
        _confirm_ata(device, disk)
    elif way in SCSI_WAYS:
        _confirm_scsi(device, disk)


def _confirm_ata(device: Device, disk: dict[str, Any]) -> None:
    try:
        identity = ata.identify(device)
    except DriveError:
        _confirm_scsi(device, disk)
        return
    _same(disk, "serial", identity.facts.get("serial", ""))
    if disk["wwn"] and identity.facts.get("wwn"):
        _same(disk, "wwn", identity.facts["wwn"])
    model = identity.facts.get("model", "")
    if not model.startswith(disk["model"]):  # SCSI INQUIRY cuts a model after 16 characters
        _same(disk, "model", model)
    if identity.sectors * identity.sector_bytes != disk["size_bytes"]:
        told = identity.sectors * identity.sector_bytes
        raise DriveError(f"the drive says that it has {told} bytes, and the kernel {disk['size_bytes']}", begun=False)


def _confirm_scsi(device: Device, disk: dict[str, Any]) -> None:
    try:
        serial = scsi.serial(device)
        name = parse_device_identification(scsi.inquiry(device, 0x83))
    except DriveError:
        return  # no such pages: only what the kernel knows names this disk
    # Behind USB the kernel's serial number is the bridge's, not the disk's.
    if serial and disk["transport"] != "usb":
        _same(disk, "serial", serial)
    if name and disk["wwn"]:
        _same(disk, "wwn", name)


def _same(disk: dict[str, Any], key: str, told: str) -> None:
    if told != disk[key]:
        raise DriveError(
            f"{disk['name']}: asked for its {key} the drive says {told!r}, and the kernel {disk[key]!r}", begun=False
        )


class Target:
    """One disk while it is erased: open devices, one for each namespace, and how far it is."""

    def __init__(self, kernel: Kernel, row: dict[str, Any], cancelled: threading.Event) -> None:
        self.kernel = kernel
        self.row = row
        self.disk: dict[str, Any] = {}
        self.devices: list[Device] = []
        self.phase, self.method, self.percent = "prepare", "", 0.0
        self.seconds: float | None = None  # estimate of the plan for the method that runs
        self.started = kernel.clock()
        self.ended: float | None = None
        self.busy_until = time.monotonic() + COMMAND_SECONDS
        self.is_abandoned = False
        self._cancelled = cancelled

    @property
    def nsids(self) -> list[int]:
        """The namespaces of `devices`, in their order."""
        return [space["nsid"] for space in self.disk["namespaces"]]

    @property
    def sizes(self) -> list[int]:
        """The bytes of each of `devices`."""
        if self.disk["transport"] == "nvme":
            return [space["size_bytes"] for space in self.disk["namespaces"]]
        return [self.disk["size_bytes"]]

    @property
    def is_cancelled(self) -> bool:
        """Whether the order was taken back, or the thread was given up."""
        return self._cancelled.is_set() or self.is_abandoned

    def check(self) -> None:
        """Raises DriveError when the work should end."""
        if self.is_cancelled:
            raise DriveError("cancelled")

    def within(self, seconds: float = COMMAND_SECONDS) -> None:
        """The next step takes no longer than this, by the real clock; else the disk is given up by who watches."""
        if self.is_abandoned:
            raise DriveError("given up because a command did not end")
        self.busy_until = time.monotonic() + seconds

    def open(self, row: dict[str, Any] | None = None) -> None:
        """Find the disk, open it exclusively and ask it who it is. Raises DriveError (not begun), OSError."""
        self.close()
        self.within()
        self.disk = find(self.kernel.disks(), row or self.row)
        names = capabilities.block_names(self.disk)
        if not names:
            raise DriveError("the drive has no namespace: nothing on it can be read to prove an erase", begun=False)
        try:
            for name in names:
                self.devices.append(self.kernel.open(name, exclusive=True))
            for device, size in zip(self.devices, self.sizes, strict=True):
                confirm(device, self.disk)
                if device.size() != size:
                    raise DriveError(f"/dev/{device.name} has {device.size()} bytes, and /sys says {size}", begun=False)
        except BaseException:
            self.close()
            raise

    def reopen(self) -> None:
        """Open the same disk again, whatever its kernel name is now."""
        self.open({**self.row, "size_bytes": self.disk["size_bytes"], "namespaces": self.disk["namespaces"]})

    def close(self) -> None:
        """Give all devices back."""
        for device in self.devices:
            device.close()
        self.devices = []

    def told(self) -> dict[str, Any]:
        """How far it is, as progress says it."""
        now = self.ended if self.ended is not None else self.kernel.clock()
        took = now - self.started
        left = None
        if self.phase == "erase" and self.seconds:
            left = round(self.seconds * (1 - min(self.percent, 100.0) / 100))
        return {
            "method": self.method,
            "phase": self.phase,
            "percent": round(self.percent, 1),
            "seconds": round(took),
            "left": left,
        }
