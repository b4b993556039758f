"""Disks that are not there yet: Linux looks at USB storage one second after it was found (usb-storage.delay_use)."""

from __future__ import annotations

import time
from pathlib import Path

from metalbox.agent import sysfs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

MASS_STORAGE = "08"  # USB class codes, bInterfaceClass
DISK = "0"  # SCSI peripheral device type
# One that has not answered by then is broken, or has nothing to show.
SECONDS = 5.0
LOOK_SECONDS = 0.05


def wait(
    root: Path, clock: Callable[[], float] = time.monotonic, sleep: Callable[[float], None] = time.sleep
) -> list[str]:
    """Wait until all USB storage shows its disks, 5 seconds at most; the interfaces that still do not."""
    deadline = clock() + SECONDS
    while (late := pending(root)) and clock() < deadline:
        sleep(LOOK_SECONDS)
    return late


def pending(root: Path) -> list[str]:
    """USB storage that Linux has begun to use, and has found nothing in yet or no disk for what it found."""
    found = []
    for interface in sorted((root / "sys/bus/usb/devices").glob("*:*")):
        if sysfs.text(interface / "bInterfaceClass") != MASS_STORAGE or not list(interface.glob("host*")):
            continue
        units = list(interface.glob("host*/target*/*:*:*:*"))
        if not units or any(sysfs.text(unit / "type") == DISK and not list(unit.glob("block/*")) for unit in units):
            found.append(interface.name)
    return found
