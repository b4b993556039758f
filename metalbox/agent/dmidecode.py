"""The text that `dmidecode` prints, read into the same facts that `smbios.py` reads from the tables.

The second source, for kernels without /sys/firmware/dmi/tables, and the form in which hardware dumps are published.
"""

from __future__ import annotations

import re

from metalbox.agent.smbios import MEMORY_TYPES, NOT_MEMORY

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

ABSENT = frozenset({"Not Specified", "Not Present", "<BAD INDEX>", "Not Settable", "Not Available"})

_HANDLE = re.compile(r"Handle 0x[0-9A-Fa-f]+, DMI type (\d+)")
_SIZE = re.compile(r"(\d+) ([kKMGT]?)i?[bB](?:ytes)?\b")
_SHIFTS = {"": 0, "k": 10, "K": 10, "M": 20, "G": 30, "T": 40}


def parse(text: str) -> list[tuple[int, dict[str, str]]]:
    """The structures in the order printed: (type, {field: value}). Lists below a field are left out."""
    structures: list[tuple[int, dict[str, str]]] = []
    fields: dict[str, str] | None = None
    for line in text.splitlines():
        if match := _HANDLE.match(line):
            fields = {}
            structures.append((int(match[1]), fields))
        elif fields is not None and re.match(r"(?:\t| {8})\S", line):
            name, colon, value = line.strip().partition(":")
            if colon:
                fields.setdefault(name, value.strip())
    return structures


def facts(text: str) -> dict[str, Any]:
    """What the text says: {system, firmware, cpus, dimms, tpm, has_bmc}, keyed as the report is."""
    structures = parse(text)
    first: dict[int, dict[str, str]] = {}
    for kind, fields in structures:
        is_motherboard = kind == 2 and fields.get("Type") == "Motherboard" != first.get(2, {}).get("Type")
        if kind not in first or is_motherboard:
            first[kind] = fields
    tpm = _value(first.get(43, {}), "Specification Version")
    return {
        "system": _system(first.get(1, {}), first.get(2, {}), first.get(3, {})),
        "firmware": _firmware(first.get(0, {})),
        "cpus": [_cpu(fields) for kind, fields in structures if kind == 4 and _is_populated_cpu(fields)],
        "dimms": [dimm for kind, fields in structures if kind == 17 and (dimm := _dimm(fields))],
        "tpm": tpm if tpm in ("1.2", "2.0") else "",
        "has_bmc": 38 in first,
    }


def _value(fields: dict[str, str], name: str) -> str:
    value = fields.get(name, "")
    return "" if value in ABSENT or value.startswith("<OUT OF SPEC>") else value


def _number(fields: dict[str, str], name: str) -> int | None:
    match = re.match(r"\d+", fields.get(name, ""))
    return (int(match[0]) or None) if match else None


def _system(system: dict[str, str], board: dict[str, str], chassis: dict[str, str]) -> dict[str, Any]:
    uuid = _value(system, "UUID").lower()
    return {
        "vendor": _value(system, "Manufacturer"),
        "product": _value(system, "Product Name"),
        "version": _value(system, "Version"),
        "serial": _value(system, "Serial Number"),
        "uuid": uuid if re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", uuid) else "",
        "asset_tag": _value(chassis, "Asset Tag"),
        "sku": _value(system, "SKU Number"),
        "chassis_type": _value(chassis, "Type"),
        "chassis_serial": _value(chassis, "Serial Number"),
        "board_vendor": _value(board, "Manufacturer"),
        "board_product": _value(board, "Product Name"),
        "board_serial": _value(board, "Serial Number"),
    }


def _firmware(bios: dict[str, str]) -> dict[str, Any]:
    return {
        "vendor": _value(bios, "Vendor"),
        "version": _value(bios, "Version"),
        "date": _value(bios, "Release Date"),
    }


def _is_populated_cpu(fields: dict[str, str]) -> bool:
    return fields.get("Type") in ("Central Processor", None) and fields.get("Status", "").startswith("Populated")


def _cpu(fields: dict[str, str]) -> dict[str, Any]:
    return {
        "socket": _value(fields, "Socket Designation"),
        "vendor": _value(fields, "Manufacturer"),
        "model": " ".join(_value(fields, "Version").split()),
        "cores": _number(fields, "Core Count"),
        "threads": _number(fields, "Thread Count"),
        "mhz": _number(fields, "Max Speed"),
    }


def _dimm(fields: dict[str, str]) -> dict[str, Any] | None:
    kind = fields.get("Type", "")
    size = fields.get("Size", "")
    match = _SIZE.match(size)
    if kind in NOT_MEMORY or (match is None and size != "Unknown") or (match and not int(match[1])):
        return None
    return {
        "locator": _value(fields, "Locator"),
        "bank": _value(fields, "Bank Locator"),
        "size_bytes": int(match[1]) << _SHIFTS[match[2]] if match else None,
        "type": kind if kind in MEMORY_TYPES else "",
        "speed_mts": _number(fields, "Speed")
        or _number(fields, "Configured Memory Speed")
        or _number(fields, "Configured Clock Speed"),
        "manufacturer": _value(fields, "Manufacturer"),
        "part_number": _value(fields, "Part Number"),
        "serial": _value(fields, "Serial Number"),
    }
