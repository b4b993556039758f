"""The methods of erasing: what each tells the drive, and how the drive's own end of it is waited for.

A method returns the drive's final status as text. It raises DriveError, with `begun` False only when the drive said
that it did not begin. None of them says that anything was erased: that is for `drivework.py` to find out by reading.
"""

from __future__ import annotations

import mmap
from dataclasses import dataclass

from metalbox.agent import ata, nvme, scsi
from metalbox.agent.capabilities import ATA_WAYS, SCSI_WAYS
from metalbox.agent.passthrough import CHUNK, DriveError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from metalbox.agent.passthrough import Device
    from metalbox.agent.target import Target

# How long a drive may take beyond what it or the plan estimates, and may stay without any progress.
PATIENCE, GRACE_SECONDS = 3.0, 1800.0
STUCK_SECONDS = 3600.0
SILENT_SECONDS = 60.0  # without an answer to a question for its status: some drives reset themselves at the end
POLL_SECONDS = (0.5, 5.0)
WRITE_SECONDS = 300.0  # one chunk: a disk that remaps bad sectors may be very slow, not that slow
DISCARD_BYTES = 1 << 30

# Shared by all disks: 4 MiB that nobody writes to.
_zeroes = mmap.mmap(-1, CHUNK)


@dataclass(frozen=True)
class Method:
    """One row: what does it, and whether zeroes are read after it; else `uniform` says that all blocks are alike."""

    run: Callable[[Target], str]
    zeroes: bool = False
    uniform: bool = False


@dataclass(frozen=True)
class Status:
    """A drive in the middle of it: "going", "done" or "failed"; progress from 0 to 1 where it is told."""

    state: str
    text: str
    progress: float | None = None


def limit(seconds: float | None) -> float:
    """How long something may take that is estimated to take so long; a day when there is no estimate."""
    return 86400.0 if seconds is None else seconds * PATIENCE + GRACE_SECONDS


def follow(target: Target, what: str, ask: Callable[[], Status], seconds: float | None) -> str:
    """Ask for the status until the drive says that it is done; the text of its last word. Raises DriveError."""
    kernel = target.kernel
    started = changed = answered = kernel.clock()
    last: float | None = None
    pause = min(max((seconds or 0.0) / 200, POLL_SECONDS[0]), POLL_SECONDS[1])
    while True:
        target.within(SILENT_SECONDS + 60.0)
        now = kernel.clock()
        try:
            status = ask()
        except (DriveError, OSError) as error:
            if now - answered > SILENT_SECONDS:
                raise DriveError(f"{what}: the drive does not tell its status any more: {error}") from None
        else:
            answered = now
            if status.state == "done":
                return status.text
            if status.state == "failed":
                raise DriveError(f"{what} failed: {status.text}")
            if status.progress != last:
                last, changed = status.progress, now
            if last is not None:
                target.percent = 100.0 * last
            _check_patience(what, now - started, now - changed, seconds, status.text)
        if target.is_cancelled:
            raise DriveError(f"cancelled; {what} goes on inside the drive, which cannot be stopped")
        kernel.wait(pause)


def _check_patience(what: str, took: float, still: float, seconds: float | None, text: str) -> None:
    if took > limit(seconds):
        raise DriveError(f"{what} is not done after {took:.0f} s: {text}")
    if still > max(STUCK_SECONDS, seconds or 0.0):
        raise DriveError(f"{what} has made no progress for {still:.0f} s: {text}")


def nvme_status(device: Device, command: int | None = None) -> Status:
    """Where a sanitize stands by the log; `command` is the CDW10 that it must be the end of."""
    log = nvme.sanitize_log(device)
    text = f"sanitize log {log.raw}"
    if log.state == nvme.IN_PROGRESS:
        return Status("going", text, log.progress / 65536)
    if log.state == nvme.FAILED:
        return Status("failed", text)
    if log.state not in (nvme.COMPLETED, nvme.COMPLETED_WITHOUT_DEALLOCATION):
        return Status("failed", f"the drive knows of no sanitize, {text}")
    if command is not None and log.command != command:
        return Status("failed", f"the log is of another command ({log.command:#x} instead of {command:#x}), {text}")
    return Status("done", text)


def _nvme_sanitize(way: str) -> Callable[[Target], str]:
    def run(target: Target) -> str:
        device = target.devices[0]
        told = nvme.sanitize_log(device).estimate(way)
        seconds = max(told or 0, target.seconds or 0) or None
        nvme.sanitize(device, way)
        return follow(target, f"Sanitize ({way})", lambda: nvme_status(device, nvme.sanitize_command(way)), seconds)

    return run


def _nvme_format(way: str) -> Callable[[Target], str]:
    def run(target: Target) -> str:
        done: list[str] = []
        seconds = limit(target.seconds)
        for device, nsid in zip(target.devices, target.nsids, strict=True):
            keep = nvme.identify_namespace(device, nsid)["format_bits"]
            target.within(seconds + 60.0)
            try:
                nvme.format_namespace(device, nsid, way, keep, seconds)
            except DriveError as error:
                raise DriveError(str(error), begun=error.begun or bool(done)) from None
            done.append(f"namespace {nsid}: status 0x0000")
        return "Format NVM " + ", ".join(done)

    return run


def ata_status(device: Device) -> Status:
    """Where a sanitize stands by SANITIZE STATUS EXT."""
    status = ata.sanitize_status(device)
    if status.state == "in progress":
        return Status("going", status.raw, status.progress / 65536)
    if status.state or not status.completed:
        return Status("failed", f"{status.state or 'not completed'}, {status.raw}")
    return Status("done", status.raw)


def _ata_sanitize(way: str) -> Callable[[Target], str]:
    def run(target: Target) -> str:
        device = target.devices[0]
        ata.sanitize(device, way)
        return follow(target, f"SANITIZE DEVICE ({way})", lambda: ata_status(device), target.seconds)

    return run


def _ata_secure_erase(enhanced: bool) -> Callable[[Target], str]:
    def run(target: Target) -> str:
        device = target.devices[0]
        identity = ata.identify(device)
        for is_so, why in (
            (not identity.security, "has no security feature set"),
            (enhanced and not identity.enhanced, "has no enhanced erase"),
            (identity.frozen, "is frozen by the firmware"),
            (identity.locked or identity.enabled, "has a password already"),
            (identity.attempts_exceeded, "counts too many attempts"),
        ):
            if is_so:
                raise DriveError(f"the drive {why}", begun=False)
        told = identity.enhanced_minutes if enhanced else identity.erase_minutes
        seconds = limit(max(60.0 * (told or 0), target.seconds or 0.0) or None)
        try:
            ata.security(device, ata.SET_PASSWORD, "SECURITY SET PASSWORD")
            target.within(seconds + 60.0)
            ata.security_erase(device, enhanced=enhanced, seconds=seconds)
        except (DriveError, OSError) as error:
            target.within(SILENT_SECONDS)
            left = ata.clear_password(device)
            begun = not isinstance(error, DriveError) or error.begun or bool(left)
            raise DriveError(f"{error}{'; ' + left if left else ''}", begun=begun) from None
        after = ata.identify(device)
        text = f"IDENTIFY DEVICE word 128 {after.words[128]:04X}h"
        if after.enabled or after.locked:
            left = ata.clear_password(device)
            raise DriveError(f"the drive kept its password, so it did not end the erase: {text}; {left or 'cleared'}")
        return text

    return run


def scsi_status(device: Device) -> Status:
    """Where a sanitize stands by REQUEST SENSE, and TEST UNIT READY at its end."""
    sense = scsi.status(device)
    text = f"REQUEST SENSE {sense}"
    word = scsi.sanitizing(sense)
    if word == "in progress":
        return Status("going", text, None if sense.progress is None else sense.progress / 65536)
    if word == "failed":
        return Status("failed", text)
    ready = scsi.is_ready(device)
    word = scsi.sanitizing(ready)
    if word == "in progress" or ready.key == 6:  # a unit attention is told once
        return Status("going", str(ready))
    return Status("failed" if ready.key else "done", f"{text}, TEST UNIT READY {ready}")


def _scsi_sanitize(way: str) -> Callable[[Target], str]:
    def run(target: Target) -> str:
        device = target.devices[0]
        scsi.sanitize(device, way)
        return follow(target, f"SANITIZE ({way})", lambda: scsi_status(device), target.seconds)

    return run


def _guarantees_zeroes(target: Target) -> bool:
    """Whether the drive itself promises zeroes after a discard, asked now."""
    way, device = target.disk["transport"], target.devices[0]
    if way == "nvme":
        pairs = zip(target.devices, target.nsids, strict=True)
        return all(nvme.identify_namespace(one, nsid)["discard_zeroes"] for one, nsid in pairs)
    if way in ATA_WAYS:
        return ata.identify(device).guarantees_zeroes
    return way in SCSI_WAYS and bool(scsi.reads_zeroes_after_unmap(device))


def _discard(target: Target) -> str:
    if not _guarantees_zeroes(target):
        raise DriveError("the drive does not guarantee zeroes after a discard", begun=False)
    total = sum(target.sizes)
    done = 0
    for device, size in zip(target.devices, target.sizes, strict=True):
        for offset in range(0, size, DISCARD_BYTES):
            target.check()
            target.within(WRITE_SECONDS)
            length = min(DISCARD_BYTES, size - offset)
            try:
                device.discard(offset, length)
            except OSError as error:
                raise DriveError(f"discarding at {offset}: {error.strerror or error}", begun=bool(done)) from None
            done += length
            target.percent = 100.0 * done / total
        target.within(WRITE_SECONDS)
        device.sync()
    return f"{done} bytes discarded without an error"


def _overwrite(target: Target) -> str:
    total = sum(target.sizes)
    done = 0
    for device, size in zip(target.devices, target.sizes, strict=True):
        whole = size - size % CHUNK
        for offset in range(0, whole, CHUNK):
            target.check()
            target.within(WRITE_SECONDS)
            _write(device, offset, _zeroes)
            done += CHUNK
            target.percent = 100.0 * done / total
        if size > whole:
            target.check()
            _write(device, whole, memoryview(_zeroes)[: size - whole])
            done += size - whole
        target.within(WRITE_SECONDS)
        device.sync()
    return f"{done} bytes written and flushed without an error"


def _write(device: Device, offset: int, data: mmap.mmap | memoryview) -> None:
    try:
        device.write(offset, data)
    except OSError as error:
        raise DriveError(f"writing at {offset}: {error.strerror or error}") from None


METHODS: dict[str, Method] = {
    "nvme-sanitize-crypto": Method(_nvme_sanitize("crypto")),
    "nvme-sanitize-block": Method(_nvme_sanitize("block"), uniform=True),
    "nvme-sanitize-overwrite": Method(_nvme_sanitize("overwrite"), uniform=True),
    "nvme-format-crypto": Method(_nvme_format("crypto")),
    "nvme-format": Method(_nvme_format("user-data"), uniform=True),
    "ata-sanitize-crypto": Method(_ata_sanitize("crypto")),
    "ata-sanitize-block": Method(_ata_sanitize("block"), uniform=True),
    "ata-sanitize-overwrite": Method(_ata_sanitize("overwrite"), zeroes=True),
    # Vendors' patterns; drives that encrypt change their key, and give zeroes only where nothing was ever written.
    "ata-secure-erase-enhanced": Method(_ata_secure_erase(True)),
    "ata-secure-erase": Method(_ata_secure_erase(False), uniform=True),
    "scsi-sanitize-crypto": Method(_scsi_sanitize("crypto")),
    "scsi-sanitize-block": Method(_scsi_sanitize("block"), uniform=True),
    "scsi-sanitize-overwrite": Method(_scsi_sanitize("overwrite"), zeroes=True),
    "discard": Method(_discard, zeroes=True),
    "overwrite": Method(_overwrite, zeroes=True),
}
