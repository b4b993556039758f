"""SMBIOS tables made from dmidecode's text, so that the reader of bytes is proved on every machine of the corpus."""

from __future__ import annotations

import struct

from metalbox.agent.smbios import CHASSIS_TYPES, MEMORY_TYPES

Structures = list[tuple[int, dict[str, str]]]


class Entry:
    """One structure being filled in."""

    def __init__(self, kind: int, length: int) -> None:
        self.kind = kind
        self.data = bytearray(length)
        self.strings: list[str] = []

    def string(self, offset: int, text: str | None) -> None:
        if text and text != "Not Specified":
            self.strings.append(text)
            self.data[offset] = len(self.strings)

    def number(self, offset: int, form: str, value: int) -> None:
        struct.pack_into(form, self.data, offset, value)

    def build(self, handle: int) -> bytes:
        self.data[0], self.data[1] = self.kind, len(self.data)
        struct.pack_into("<H", self.data, 2, handle)
        text = b"".join(string.encode("ascii", "replace") + b"\0" for string in self.strings) or b"\0"
        return bytes(self.data) + text + b"\0"


def build_tables(structures: Structures) -> bytes:
    """The tables with an end mark, holding what the reader asks for."""
    makers = {0: bios, 1: system, 2: board, 3: chassis, 4: processor, 17: memory, 38: ipmi, 43: tpm}
    entries = [makers[kind](fields) for kind, fields in structures if kind in makers]
    entries.append(Entry(127, 4))
    return b"".join(entry.build(handle) for handle, entry in enumerate(entries))


def entry_point(tables: bytes, version: tuple[int, int] = (3, 4)) -> bytes:
    """A 64-bit entry point (DSP0134 5.2.2), as in dmidecode's dumps: the tables follow at offset 0x20."""
    raw = bytearray(struct.pack("<5sBBBBBBBIQ", b"_SM3_", 0, 24, *version, 0, 1, 0, len(tables), 0x20))
    raw[5] = -sum(raw) & 0xFF
    return bytes(raw)


def leading(text: str | None) -> int:
    digits = (text or "").split(" ")[0]
    return int(digits) if digits.isdigit() else 0


def bios(fields: dict[str, str]) -> Entry:
    entry = Entry(0, 26)
    for offset, name in ((4, "Vendor"), (5, "Version"), (8, "Release Date")):
        entry.string(offset, fields.get(name))
    return entry


def system(fields: dict[str, str]) -> Entry:
    entry = Entry(1, 27)
    for offset, name in ((4, "Manufacturer"), (5, "Product Name"), (6, "Version"), (7, "Serial Number")):
        entry.string(offset, fields.get(name))
    entry.string(0x19, fields.get("SKU Number"))
    digits = fields.get("UUID", "").replace("-", "")
    if len(digits) == 32:
        raw = bytes.fromhex(digits)
        entry.data[8:24] = raw[3::-1] + raw[5:3:-1] + raw[7:5:-1] + raw[8:]
    return entry


def board(fields: dict[str, str]) -> Entry:
    entry = Entry(2, 15)
    for offset, name in ((4, "Manufacturer"), (5, "Product Name"), (6, "Version"), (7, "Serial Number")):
        entry.string(offset, fields.get(name))
    entry.data[0x0D] = 0x0A if fields.get("Type") == "Motherboard" else 3
    return entry


def chassis(fields: dict[str, str]) -> Entry:
    entry = Entry(3, 22)
    for offset, name in ((4, "Manufacturer"), (6, "Version"), (7, "Serial Number"), (8, "Asset Tag")):
        entry.string(offset, fields.get(name))
    kind = fields.get("Type", "")
    entry.data[5] = (CHASSIS_TYPES.index(kind) if kind in CHASSIS_TYPES else 0) | 0x80
    return entry


def processor(fields: dict[str, str]) -> Entry:
    entry = Entry(4, 48)
    entry.data[5] = 3 if fields.get("Type") == "Central Processor" else 6
    for offset, name in ((4, "Socket Designation"), (7, "Manufacturer"), (0x10, "Version")):
        entry.string(offset, fields.get(name))
    entry.number(0x14, "<H", leading(fields.get("Max Speed")))
    entry.data[0x18] = 0x41 if fields.get("Status", "").startswith("Populated") else 0
    for short, extended, name in ((0x23, 0x2A, "Core Count"), (0x25, 0x2E, "Thread Count")):
        count = leading(fields.get(name))
        entry.data[short] = min(count, 0xFF)
        entry.number(extended, "<H", count)
    return entry


def memory(fields: dict[str, str]) -> Entry:
    entry = Entry(17, 92)
    size, _, unit = fields.get("Size", "").partition(" ")
    if fields.get("Size") == "Unknown":
        entry.number(0x0C, "<H", 0xFFFF)
    elif size.isdigit():
        kibibytes = int(size) << {"bytes": -10, "kB": 0, "MB": 10, "GB": 20, "TB": 30}[unit]
        if kibibytes % 1024:
            entry.number(0x0C, "<H", kibibytes | 0x8000)
        else:
            entry.number(0x0C, "<H", min(kibibytes >> 10, 0x7FFF))
            entry.number(0x1C, "<I", kibibytes >> 10)
    kind = fields.get("Type", "")
    entry.data[0x12] = MEMORY_TYPES.index(kind) if kind in MEMORY_TYPES else 0
    entry.number(0x15, "<H", leading(fields.get("Speed")))
    configured = fields.get("Configured Memory Speed") or fields.get("Configured Clock Speed")
    entry.number(0x20, "<H", leading(configured))
    for offset, name in (
        (0x10, "Locator"),
        (0x11, "Bank Locator"),
        (0x17, "Manufacturer"),
        (0x18, "Serial Number"),
        (0x1A, "Part Number"),
    ):
        entry.string(offset, fields.get(name))
    return entry


def ipmi(_fields: dict[str, str]) -> Entry:
    return Entry(38, 18)


def tpm(fields: dict[str, str]) -> Entry:
    entry = Entry(43, 31)
    major, _, minor = fields.get("Specification Version", "").partition(".")
    entry.data[8], entry.data[9] = int(major or 0), int(minor or 0)
    return entry
