"""Reading the small files of /sys and /proc: one value each, often absent, sometimes refusing to be read."""

from __future__ import annotations

import re
from pathlib import Path

# Domains have four digits, five behind an Intel VMD controller (`10000:e1:00.0`).
PCI_ADDRESS = re.compile(r"(?<![0-9a-f])[0-9a-f]{4,5}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7](?![0-9a-f])")


def content(path: Path) -> bytes:
    """The file's bytes; b"" when it is absent or the driver refuses (EINVAL from a port that is down, EIO, EACCES)."""
    try:
        return path.read_bytes()
    except OSError:
        return b""


def text(path: Path) -> str:
    """The file's text without the padding that SCSI and firmware leave around it; "" when it cannot be read."""
    return content(path).decode("utf-8", "replace").replace("\0", " ").strip()


def number(path: Path) -> int | None:
    """The file's integer, decimal or 0x hexadecimal; None when there is none."""
    try:
        return int(text(path), 0)
    except ValueError:
        return None


def truth(path: Path) -> bool | None:
    """The file's 0 or 1; None when there is neither."""
    value = number(path)
    return None if value is None else bool(value)


def link_name(path: Path) -> str:
    """The last part of where a symbolic link points (`driver`, `subsystem`); "" when there is no link."""
    try:
        return path.readlink().name
    except OSError:
        return ""


def entries(folder: Path) -> list[Path]:
    """The folder's entries by name, shorter names first so that sda, sdb, ..., sdaa; none when there is no folder."""
    try:
        return sorted(folder.iterdir(), key=lambda path: (len(path.name), path.name))
    except OSError:
        return []


def pci_address(path: Path) -> str:
    """The PCI function nearest to this device, read from its path in /sys/devices; "" when it hangs on none."""
    found = PCI_ADDRESS.findall(str(path))
    return found[-1] if found else ""
