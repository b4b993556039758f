"""A disk that says so when it is started, by BIOS or UEFI: to see whether firmware obeyed. Touches nothing.

One image for both: a FAT12 file system (Microsoft FAT specification, 1.44 MB layout) whose boot sector is BIOS's
program, with \\EFI\\BOOT\\BOOTX64.EFI, where UEFI looks on a disk (UEFI 2.10 section 3.5.1.1). Either program writes a
line to the first serial port and halts.
"""

from __future__ import annotations

import struct

LINE = "metalbox: started from disk"
SECTOR = 512
SECTORS = 2880
SECTORS_PER_FAT = 9
ROOT_ENTRIES = 224
# 0xFFx ends a chain, and a FAT begins with the medium's byte.
FAT_END = 0xFFF
MEDIUM = 0xF0
DIRECTORY = 0x10
# The serial port's line status, whose bit 5 is set when it takes a byte, and its data register.
STATUS, DATA = 0x03FD, 0x03F8
LOAD_ADDRESS = 0x7C00
CODE_OFFSET = 0x3E
IMAGE_BASE, ENTRY = 0, 0x1000


def image(line: str = LINE) -> bytes:
    """The disk's first 1.44 MB."""
    program = efi_program(line)
    clusters = -(-len(program) // SECTOR)
    # Cluster 2 is \EFI, 3 is \EFI\BOOT, the program follows.
    chain = [MEDIUM | 0xF00, FAT_END, FAT_END, FAT_END, *range(5, 4 + clusters), FAT_END]
    fat = _fat12(chain).ljust(SECTORS_PER_FAT * SECTOR, b"\0")
    root = _entry("EFI", 2, DIRECTORY).ljust(ROOT_ENTRIES * 32, b"\0")
    efi = _entry(".", 2, DIRECTORY) + _entry("..", 0, DIRECTORY) + _entry("BOOT", 3, DIRECTORY)
    boot = _entry(".", 3, DIRECTORY) + _entry("..", 2, DIRECTORY)
    boot += _entry("BOOTX64 EFI", 4, 0x20, len(program))
    data = efi.ljust(SECTOR, b"\0") + boot.ljust(SECTOR, b"\0") + program
    return (boot_sector(line) + fat + fat + root + data).ljust(SECTORS * SECTOR, b"\0")


def boot_sector(line: str = LINE) -> bytes:
    """The file system's parameters with BIOS's program behind them."""
    parameters = struct.pack(
        "<3s8sHBHBHHBHHHIIBBBI11s8s",
        b"\xeb\x3c\x90",  # jmp to the code
        b"METALBOX",
        SECTOR,
        1,  # sectors in a cluster
        1,  # reserved: this one
        2,  # FATs
        ROOT_ENTRIES,
        SECTORS,
        MEDIUM,
        SECTORS_PER_FAT,
        18,
        2,
        0,
        0,
        0x80,
        0,
        0x29,
        0x6D62,
        b"METALBOX   ",
        b"FAT12   ",
    )
    assert len(parameters) == CODE_OFFSET
    write = _write(b"\xba")
    # xor ax, ax; mov ds, ax; mov si, text; cld
    start = b"\x31\xc0\x8e\xd8\xbe" + struct.pack("<H", LOAD_ADDRESS + CODE_OFFSET + 8 + len(write)) + b"\xfc"
    code = parameters + start + write + _text(line)
    if len(code) > SECTOR - 2:
        raise ValueError(f"a line of {len(line)} characters does not fit into a boot sector")
    return code.ljust(SECTOR - 2, b"\0") + b"\x55\xaa"


def efi_program(line: str = LINE) -> bytes:
    """A PE32+ image (Microsoft PE format) for x86-64 with one section, at home at every address."""
    write = _write(b"\x66\xba")
    # lea rsi, [rip + text]; cld
    code = b"\x48\x8d\x35" + struct.pack("<i", 1 + len(write)) + b"\xfc" + write + _text(line)
    size = -(-len(code) // SECTOR) * SECTOR
    dos = b"MZ".ljust(0x3C, b"\0") + struct.pack("<I", 0x40)
    # x86-64, one section, 240 bytes of optional header; executable, knows addresses above 2 GB.
    coff = b"PE\0\0" + struct.pack("<HHIIIHH", 0x8664, 1, 0, 0, 0, 240, 0x0022)
    optional = struct.pack("<HBBIIIII", 0x20B, 0, 0, size, 0, 0, ENTRY, ENTRY)
    optional += struct.pack(
        "<QIIHHHHHHIIIIHH", IMAGE_BASE, 0x1000, SECTOR, 0, 0, 0, 0, 0, 0, 0, 0x2000, SECTOR, 0, 10, 0
    )
    # No stack or heap of its own, and sixteen directories with nothing in them.
    optional += struct.pack("<QQQQII", 0, 0, 0, 0, 0, 16) + bytes(16 * 8)
    section = struct.pack("<8sIIIIIIHHI", b".text", len(code), ENTRY, size, SECTOR, 0, 0, 0, 0, 0x60000020)
    return (dos + coff + optional + section).ljust(SECTOR, b"\0") + code.ljust(size, b"\0")


def _text(line: str) -> bytes:
    return f"\r\n{line}\r\n".encode("ascii") + b"\0"


def _write(load_dx: bytes) -> bytes:
    """Machine code that writes the text at (r)si and halts for ever; `load_dx` is `mov dx, imm16` in its mode."""
    wait = load_dx + struct.pack("<H", STATUS) + b"\xec\xa8\x20\x74\xfb"  # in al, dx; test al, 0x20; jz back to in
    send = load_dx + struct.pack("<H", DATA) + b"\x88\xe0\xee"  # mov al, ah; out dx, al
    rest = b"\x88\xc4" + wait + send  # mov ah, al
    # lodsb; test al, al; jz to the end; ...; jmp to lodsb; hlt; jmp to hlt
    body = b"\xac\x84\xc0\x74" + bytes([len(rest) + 2]) + rest
    return body + b"\xeb" + struct.pack("b", -(len(body) + 2)) + b"\xf4\xeb\xfd"


def _entry(name: str, cluster: int, attributes: int, size: int = 0) -> bytes:
    return struct.pack("<11sB14sHI", name.encode("ascii").ljust(11), attributes, bytes(14), cluster, size)


def _fat12(entries: list[int]) -> bytes:
    """Entries of 12 bits, two in three bytes."""
    packed = bytearray()
    for place in range(0, len(entries), 2):
        low, high = entries[place], entries[place + 1] if place + 1 < len(entries) else 0
        packed += (low | high << 12).to_bytes(3, "little")
    return bytes(packed)
