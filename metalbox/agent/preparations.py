"""What must come before an erase: holders stopped, hidden areas given free, a running sanitize awaited, unlocking."""

from __future__ import annotations

from metalbox.agent import ata, capabilities, holders, scsi
from metalbox.agent.erasemethods import METHODS, Status, ata_status, follow, nvme_status, scsi_status
from metalbox.agent.passthrough import DriveError
from metalbox.agent.target import ATA_WAYS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence
    from typing import Any

    from metalbox.agent.passthrough import Device, Kernel
    from metalbox.agent.target import Target

SLEEP_SECONDS = 10
RETURN_SECONDS = 120.0  # disks spin up one after the other when a machine wakes


class Preparations:
    """What was done before the erase of one disk, for its outcome."""

    def __init__(self) -> None:
        self.done: list[dict[str, str]] = []

    def note(self, what: str, evidence: str, result: str = "done") -> None:
        """Remember one."""
        self.done.append({"what": what, "result": result, "evidence": evidence})

    def stop_holders(self, target: Target, erased: Collection[str]) -> None:
        """Stop what uses the disk. Raises DriveError (not begun)."""
        names = capabilities.block_names(target.disk)
        if not holders.holders(target.kernel.root, names):
            return
        try:
            stopped = holders.stop(target.kernel, names, erased)
        except DriveError as error:
            self.note("stop-holders", str(error), "failed")
            raise DriveError(str(error), begun=False) from None
        self.note("stop-holders", ", ".join(stopped))

    def open_up(self, target: Target) -> None:
        """Everything that the open drive needs before its data can be read. Raises DriveError, OSError."""
        if target.disk["transport"] in ATA_WAYS:
            self._unlock(target)
        self._end_sanitize(target)
        if target.disk["transport"] in ATA_WAYS:
            self._remove_hidden(target)

    def _unlock(self, target: Target) -> None:
        """Take off the password that an erase of ours left on a drive that lost its power then; it is no secret."""
        try:
            identity = ata.identify(target.devices[0])
        except DriveError:
            return
        if not identity.enabled and not identity.locked:
            return
        left = ata.clear_password(target.devices[0])
        self.note("clear-password", left or "the password of an interrupted erase", "failed" if left else "done")
        if left and identity.locked:
            raise DriveError(f"the drive is locked with a password that is not ours: {left}", begun=False)

    def _end_sanitize(self, target: Target) -> None:
        """Wait for a sanitize that goes on, and end the failure mode of one that failed by another sanitize."""
        ask = _status_of(target)
        if ask is None:
            return
        if (state := _sanitizing(target)) == "in progress":
            try:
                self.note("wait-sanitize", follow(target, "the sanitize that goes on", ask, target.seconds))
            except DriveError as error:
                self.note("wait-sanitize", str(error), "failed")
                target.check()
            state = _sanitizing(target)
        if state == "failed":
            self._sanitize_again(target, ask())

    def _sanitize_again(self, target: Target, status: Status) -> None:
        ways = [word for word in target.row["methods"] if "-sanitize-" in word and word in METHODS]
        if not ways:
            self.note("wait-sanitize", status.text, "failed")
            raise DriveError(f"its last sanitize failed, and the order names no other: {status.text}")
        target.check()
        self.note("end-failed-sanitize", f"{status.text}; {ways[0]}: {METHODS[ways[0]].run(target)}")

    def _remove_hidden(self, target: Target) -> None:
        """Give the host protected area and what a configuration overlay hides free, whether the plan knew or not."""
        device = target.devices[0]
        try:
            identity = ata.identify(device)
        except DriveError:
            return
        if "remove-dco" in target.row["preparations"] or _overlaid(device, identity):
            self._native(target, identity)
            ata.restore_configuration(device)
            self.note("remove-dco", "DEVICE CONFIGURATION RESTORE")
            identity = ata.identify(device)
        self._native(target, identity)

    def _native(self, target: Target, identity: ata.Identity) -> None:
        device = target.devices[0]
        try:
            sectors = ata.native_sectors(device, identity)
        except DriveError:
            return  # security frozen or without the feature: the methods say what they make of it
        if sectors is None or sectors <= identity.sectors:
            return
        ata.set_native(device, identity)
        size = sectors * identity.sector_bytes
        target.kernel.rescan(device.name)
        for _ in range(20):
            if device.size() == size:
                break
            target.kernel.wait(0.5)
        target.disk["size_bytes"] = size
        target.reopen()
        self.note("remove-hpa", f"from {identity.sectors} to {sectors} sectors")


def _overlaid(device: Device, identity: ata.Identity) -> bool:
    """Whether a configuration overlay hides sectors, also when the report did not say so."""
    if not identity.has_dco:
        return False
    try:
        native = ata.native_sectors(device, identity)
        return ata.configured_sectors(device) > max(native or 0, identity.sectors)
    except (DriveError, OSError):
        return False  # frozen, or no overlay after all


def _status_of(target: Target) -> Callable[[], Status] | None:
    way = target.disk["transport"]
    device = target.devices[0]
    if way == "nvme":
        return lambda: nvme_status(device)
    if way in ATA_WAYS:
        return lambda: ata_status(device)
    return (lambda: scsi_status(device)) if way in capabilities.SCSI_WAYS else None


def _sanitizing(target: Target) -> str:
    """The word of `Erasing.sanitizing`; "" also for a drive that cannot sanitize."""
    device, way = target.devices[0], target.disk["transport"]
    try:
        if way == "nvme":
            return capabilities.nvme_sanitizing(device)
        if way not in ATA_WAYS:
            return scsi.sanitizing(scsi.status(device))
        return ata.sanitize_status(device).state if ata.identify(device).is_sanitizing_known else ""
    except (DriveError, OSError):
        return ""


def frozen(kernel: Kernel, disk: dict[str, Any]) -> bool:
    """Whether the firmware has frozen the security of an ATA disk."""
    try:
        device = kernel.open(disk["name"])
    except OSError:
        return False
    try:
        return ata.identify(device).frozen
    except (DriveError, OSError):
        return False
    finally:
        device.close()


def unfreeze(kernel: Kernel, disks: Sequence[dict[str, Any]]) -> dict[tuple[str, str], dict[str, str]]:
    """Let the machine sleep once, which takes the freeze off its disks; the preparation of each frozen one by name.

    Called before any disk is touched. A disk that stays frozen keeps its other methods.
    """
    cold = [disk for disk in disks if disk["transport"] in ATA_WAYS and frozen(kernel, disk)]
    if not cold:
        return {}
    evidence = "slept in memory"
    try:
        kernel.sleep(SLEEP_SECONDS)
        deadline = kernel.clock() + RETURN_SECONDS
        while not _are_back(kernel, cold) and kernel.clock() < deadline:
            kernel.wait(1.0)
    except DriveError as error:
        evidence = str(error)
    now = {(disk["serial"], disk["wwn"]): disk for disk in kernel.disks()}
    found: dict[tuple[str, str], dict[str, str]] = {}
    for disk in cold:
        again = now.get((disk["serial"], disk["wwn"]))
        still = again is None or frozen(kernel, again)
        found[disk["serial"], disk["wwn"]] = {
            "what": "unfreeze",
            "result": "failed" if still else "done",
            "evidence": f"still frozen: {evidence}" if still else evidence,
        }
    return found


def _are_back(kernel: Kernel, disks: Sequence[dict[str, Any]]) -> bool:
    there = {(disk["serial"], disk["wwn"]) for disk in kernel.disks()}
    return all((disk["serial"], disk["wwn"]) in there for disk in disks)
