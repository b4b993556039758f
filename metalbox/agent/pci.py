"""PCI functions, and their names where the image has pci.ids."""

from __future__ import annotations

from pathlib import Path

from metalbox.agent import sysfs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

NAME_FILES = ("usr/share/misc/pci.ids", "usr/share/hwdata/pci.ids")


def functions(root: Path) -> list[dict[str, Any]]:
    """Every PCI function of the machine, by address."""
    found = [_function(entry) for entry in sysfs.entries(root / "sys/bus/pci/devices")]
    names = _read_names(root, {(item["vendor_id"], item["device_id"]) for item in found})
    for item in found:
        item["vendor"] = names.get((item["vendor_id"], ""), "")
        item["device"] = names.get((item["vendor_id"], item["device_id"]), "")
    return found


def _function(entry: Path) -> dict[str, Any]:
    return {
        "address": entry.name,
        "class_code": _digits(sysfs.text(entry / "class"), 6),
        "vendor_id": _digits(sysfs.text(entry / "vendor"), 4),
        "device_id": _digits(sysfs.text(entry / "device"), 4),
        "driver": sysfs.link_name(entry / "driver"),
    }


def _digits(text: str, count: int) -> str:
    return text.lower().removeprefix("0x").zfill(count) if text else ""


def _read_names(root: Path, wanted: set[tuple[str, str]]) -> dict[tuple[str, str], str]:
    for name in NAME_FILES:
        try:
            with open(root / name, encoding="utf-8", errors="replace") as lines:
                return find_names(lines, wanted)
        except OSError:
            continue
    return {}


def find_names(lines: Iterable[str], wanted: set[tuple[str, str]]) -> dict[tuple[str, str], str]:
    """The names in pci.ids of these (vendor, device), and of each vendor under (vendor, ""). Ids are four hex digits.

    The file has a line `8086  Intel Corporation` for a vendor, below it a tab and `1533  I210 ...` for each device,
    below that two tabs for subsystems; the classes at the end begin with `C `.
    """
    vendors = {vendor for vendor, _ in wanted}
    names: dict[tuple[str, str], str] = {}
    vendor = ""
    for line in lines:
        if line[:1] == "\t":
            if vendor and line[1:2] != "\t" and (vendor, line[1:5]) in wanted:
                names[vendor, line[1:5]] = line[5:].strip()
        elif line[:1] not in ("#", "\n", ""):
            vendor = line[:4] if line[:4] in vendors and line[4:5] == " " else ""
            if vendor:
                names[vendor, ""] = line[4:].strip()
    return names
