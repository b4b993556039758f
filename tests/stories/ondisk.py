"""What stands on disks: md members, LVM physical volumes, file systems made from their formats; and what is left of it.

blkid(8) takes what is written here for real, checksums included (`name`).
"""

from __future__ import annotations

import hashlib
import os
import struct
import subprocess
import zlib
from collections.abc import Iterable
from pathlib import Path

BLOCK, SECTOR, MIB = 4096, 512, 1 << 20
MD_MAGIC, MD_OFFSET, MD_ROLES = 0xA92B4EFC, 4096, 2
LVM_CRC_START = 0xF597A6CF


def md_member(path: Path, role: int, array: bytes) -> None:
    """Write a superblock of version 1.2 (linux/raid/md_p.h, struct mdp_superblock_1) of a RAID1 of two."""
    sectors = path.stat().st_size // SECTOR - 2048
    head = struct.pack("<IIII16s32s", MD_MAGIC, 1, 0, 0, array, b"rack:0")
    head += struct.pack("<QIIQII", 0, 1, 0, sectors, 0, 2) + bytes(28)
    disk = struct.pack("<QQQQII16sBBHI", 2048, sectors, 8, 0, role, 0, os.urandom(16), 0, 0, 0, 0)
    tail = struct.pack("<QQQII32s", 0, 17, 0xFFFFFFFFFFFFFFFF, 0, MD_ROLES, b"")
    block = bytearray(head.ljust(128, b"\0") + disk.ljust(64, b"\0") + tail + struct.pack("<HH", 0, 1))
    total = sum(struct.unpack(f"<{len(block) // 4}I", block))
    struct.pack_into("<I", block, 216, (total & 0xFFFFFFFF) + (total >> 32) & 0xFFFFFFFF)
    _write(path, MD_OFFSET, bytes(block))


def lvm_volume(path: Path) -> None:
    """Write the label of a physical volume (lvm2, lib/format_text/layout.h) into the second sector."""
    size = path.stat().st_size
    header = b"x" * 32 + struct.pack("<Q", size)
    areas = struct.pack("<QQ", MIB, 0) + bytes(16) + struct.pack("<QQ", BLOCK, MIB - BLOCK) + bytes(16)
    body = (struct.pack("<I8s", 32, b"LVM2 001") + header + areas).ljust(SECTOR - 20, b"\0")
    # A CRC-32 that begins with its own value and is not inverted at the end.
    checksum = zlib.crc32(body, LVM_CRC_START ^ 0xFFFFFFFF) ^ 0xFFFFFFFF
    _write(path, SECTOR, struct.pack("<8sQI", b"LABELONE", 1, checksum) + body)


def ext4(path: Path) -> None:
    """Make a file system over the file, which keeps what it has elsewhere."""
    subprocess.run(["mkfs.ext4", "-q", "-F", "-E", "nodiscard", str(path)], check=True, timeout=60)


def name(path: Path) -> str:
    """What blkid takes the content for, "" for nothing."""
    argv = ["blkid", "-p", "-o", "value", "-s", "TYPE", str(path)]
    return subprocess.run(argv, capture_output=True, text=True, check=False, timeout=30).stdout.strip()


def _write(path: Path, offset: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(data)


def digest(path: Path) -> str:
    """SHA-256 of all bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def blocks(paths: Iterable[Path]) -> set[bytes]:
    """Digests of all 4 KiB blocks of some files that are not empty."""
    found = set()
    for path in paths:
        with path.open("rb") as file:
            while block := file.read(BLOCK):
                if block.strip(b"\0"):
                    found.add(hashlib.blake2b(block, digest_size=12).digest())
    return found


def is_empty(path: Path) -> bool:
    """Whether all bytes are zero."""
    with path.open("rb") as file:
        return not any(block.strip(b"\0") for block in iter(lambda: file.read(MIB), b""))
