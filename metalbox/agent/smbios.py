"""SMBIOS tables as the firmware leaves them (DMTF DSP0134): bytes in, the report's words out.

The binary tables are the first source: they need no program, and say the same in every locale. `dmidecode.py` reads the
other form. Firmware writes these tables carelessly, so every length is doubted and a field past the end is absent.
"""

from __future__ import annotations

import struct

TYPE_CHECKING = False
if TYPE_CHECKING:  # `typing` costs a tenth of the start time
    from typing import Any

# DSP0134 7.4.1, in dmidecode's spelling, as are all names below.
CHASSIS_TYPES = (
    "", "Other", "Unknown", "Desktop", "Low Profile Desktop", "Pizza Box", "Mini Tower", "Tower", "Portable", "Laptop",
    "Notebook", "Hand Held", "Docking Station", "All In One", "Sub Notebook", "Space-saving", "Lunch Box",
    "Main Server Chassis", "Expansion Chassis", "Sub Chassis", "Bus Expansion Chassis", "Peripheral Chassis",
    "RAID Chassis", "Rack Mount Chassis", "Sealed-case PC", "Multi-system", "CompactPCI", "AdvancedTCA", "Blade",
    "Blade Enclosing", "Tablet", "Convertible", "Detachable", "IoT Gateway", "Embedded PC", "Mini PC", "Stick PC",
)  # fmt: skip

# DSP0134 7.18.2.
MEMORY_TYPES = (
    "", "Other", "Unknown", "DRAM", "EDRAM", "VRAM", "SRAM", "RAM", "ROM", "Flash", "EEPROM", "FEPROM", "EPROM",
    "CDRAM", "3DRAM", "SDRAM", "SGRAM", "RDRAM", "DDR", "DDR2", "DDR2 FB-DIMM", "Reserved", "Reserved", "Reserved",
    "DDR3", "FBD2", "DDR4", "LPDDR", "LPDDR2", "LPDDR3", "LPDDR4", "Logical non-volatile device", "HBM", "HBM2",
    "DDR5", "LPDDR5", "HBM3",
)  # fmt: skip

# Older boards list the chip that holds the BIOS among the memory devices.
NOT_MEMORY = frozenset({"ROM", "Flash", "EEPROM", "FEPROM", "EPROM"})

MIB = 1 << 20


class Structure:
    """One table entry: its type, its handle, its formatted bytes (header included) and its strings."""

    __slots__ = ("data", "handle", "kind", "strings")

    def __init__(self, kind: int, handle: int, data: bytes, strings: list[str]) -> None:
        self.kind = kind
        self.handle = handle
        self.data = data
        self.strings = strings

    def byte(self, offset: int) -> int | None:
        """The byte at this offset; None past the end of the structure."""
        return self.data[offset] if offset < len(self.data) else None

    def word(self, offset: int) -> int | None:
        """The little-endian 16 bits at this offset; None past the end."""
        return int.from_bytes(self.data[offset : offset + 2], "little") if offset + 2 <= len(self.data) else None

    def double(self, offset: int) -> int | None:
        """The little-endian 32 bits at this offset; None past the end."""
        return int.from_bytes(self.data[offset : offset + 4], "little") if offset + 4 <= len(self.data) else None

    def string(self, offset: int) -> str:
        """The string whose number stands at this offset; "" for number 0 and for one that is not there."""
        index = self.byte(offset) or 0
        return self.strings[index - 1] if 0 < index <= len(self.strings) else ""


def parse_entry_point(data: bytes) -> tuple[int, int]:
    """The SMBIOS version (major, minor) that an entry point claims; (0, 0) when it is none."""
    if data.startswith(b"_SM3_") and len(data) >= 9:
        return data[7], data[8]
    if data.startswith(b"_SM_") and len(data) >= 8:
        return data[6], data[7]
    return 0, 0


def parse_tables(data: bytes) -> list[Structure]:
    """Cut the tables into structures. Stops at the end mark (type 127) or where the bytes no longer make sense."""
    structures: list[Structure] = []
    at = 0
    while at + 4 <= len(data):
        kind, length, handle = struct.unpack_from("<BBH", data, at)
        if length < 4 or at + length > len(data):
            break
        end = data.find(b"\0\0", at + length)
        if end < 0:
            end = len(data)
        strings = data[at + length : end].split(b"\0") if end > at + length else []
        structures.append(Structure(kind, handle, data[at : at + length], [_printable(raw) for raw in strings]))
        if kind == 127:
            break
        at = end + 2
    return structures


def facts(structures: list[Structure], version: tuple[int, int] = (3, 0)) -> dict[str, Any]:
    """What the structures say: {system, firmware, cpus, dimms, tpm, has_bmc}, keyed as the report is."""
    first: dict[int, Structure] = {}
    for structure in structures:
        # Of several boards (blades, risers) the motherboard is the one to name.
        if structure.kind not in first or (structure.kind == 2 and structure.byte(0x0D) == 0x0A != first[2].byte(0x0D)):
            first[structure.kind] = structure
    return {
        "system": _system(first, version),
        "firmware": _firmware(first.get(0)),
        "cpus": [_cpu(item) for item in structures if item.kind == 4 and _is_populated_cpu(item)],
        "dimms": [dimm for item in structures if item.kind == 17 and (dimm := _dimm(item))],
        "tpm": _tpm(first.get(43)),
        "has_bmc": 38 in first,
    }


def _system(first: dict[int, Structure], version: tuple[int, int]) -> dict[str, Any]:
    empty = Structure(0, 0, b"", [])
    system, board, chassis = first.get(1, empty), first.get(2, empty), first.get(3, empty)
    chassis_kind = (chassis.byte(5) or 0) & 0x7F  # the top bit tells of a lock
    return {
        "vendor": system.string(4),
        "product": system.string(5),
        "version": system.string(6),
        "serial": system.string(7),
        "uuid": format_uuid(system.data[8:24], version),
        "asset_tag": chassis.string(8),
        "sku": system.string(0x19),
        "chassis_type": CHASSIS_TYPES[chassis_kind] if chassis_kind < len(CHASSIS_TYPES) else "",
        "chassis_serial": chassis.string(7),
        "board_vendor": board.string(4),
        "board_product": board.string(5),
        "board_serial": board.string(7),
    }


def format_uuid(raw: bytes, version: tuple[int, int]) -> str:
    """The UUID as text; "" for the two values that mean absent (DSP0134 7.2.1).

    The first three fields are little-endian since SMBIOS 2.6; dmidecode and Linux read older tables in text order.
    """
    if len(raw) != 16 or raw in (b"\0" * 16, b"\xff" * 16):
        return ""
    if version >= (2, 6):
        raw = raw[3::-1] + raw[5:3:-1] + raw[7:5:-1] + raw[8:]
    digits = raw.hex()
    return "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))


def _firmware(bios: Structure | None) -> dict[str, Any]:
    if bios is None:
        return {"vendor": "", "version": "", "date": ""}
    return {"vendor": bios.string(4), "version": bios.string(5), "date": bios.string(8)}


def _is_populated_cpu(item: Structure) -> bool:
    is_central = item.byte(5) in (3, None)
    return is_central and bool((item.byte(0x18) or 0) & 0x40)


def _cpu(item: Structure) -> dict[str, Any]:
    return {
        "socket": item.string(4),
        "vendor": item.string(7),
        "model": " ".join(item.string(0x10).split()),
        "cores": _count(item, 0x23, 0x2A),
        "threads": _count(item, 0x25, 0x2E),
        "mhz": item.word(0x14) or None,
    }


def _count(item: Structure, short: int, extended: int) -> int | None:
    """A count of up to 254; 255 sends the reader to the 16-bit field that SMBIOS 3.0 added (DSP0134 7.5.6)."""
    count = item.byte(short)
    if count == 0xFF:
        count = item.word(extended) or count
    return count or None


def _dimm(item: Structure) -> dict[str, Any] | None:
    size = _dimm_bytes(item)
    kind = item.byte(0x12) or 0
    name = MEMORY_TYPES[kind] if kind < len(MEMORY_TYPES) else ""
    if size == 0 or name in NOT_MEMORY:
        return None
    return {
        "locator": item.string(0x10),
        "bank": item.string(0x11),
        "size_bytes": size,
        "type": name,
        "speed_mts": _speed(item, 0x15, 0x54) or _speed(item, 0x20, 0x58),
        "manufacturer": item.string(0x17),
        "part_number": item.string(0x1A),
        "serial": item.string(0x18),
    }


def _dimm_bytes(item: Structure) -> int | None:
    """DSP0134 7.18.1: 0 is an empty slot, 0xffff unknown, 0x7fff sends to the extended size, bit 15 means KiB."""
    size = item.word(0x0C)
    if size is None:
        return 0
    if size == 0xFFFF:
        return None
    if size == 0x7FFF:
        return ((item.double(0x1C) or 0) & 0x7FFFFFFF) * MIB
    return (size & 0x7FFF) << 10 if size & 0x8000 else size * MIB


def _speed(item: Structure, short: int, extended: int) -> int | None:
    speed = item.word(short)
    if speed == 0xFFFF:
        speed = item.double(extended)
    return speed or None


def _tpm(device: Structure | None) -> str:
    """DSP0134 7.44: bytes 8 and 9 are the version of the TPM specification."""
    if device is None:
        return ""
    major, minor = device.byte(8), device.byte(9)
    return f"{major}.{minor}" if (major, minor) in ((1, 2), (2, 0)) else ""


def _printable(raw: bytes) -> str:
    """Text as dmidecode shows it: what is not printable ASCII becomes a dot."""
    return "".join(chr(byte) if 32 <= byte < 127 else "." for byte in raw).strip()
