"""The disk that says so when it is started, as a file system, as a boot sector and as a PE image."""

from __future__ import annotations

import shutil
import struct
import subprocess
from pathlib import Path

import pytest

from metalbox.lab import bootable
from metalbox.lab.bootable import SECTOR


def chain(image: bytes, cluster: int) -> list[int]:
    """The clusters from this one on, by the FAT."""
    fat, found = image[SECTOR:], []
    while cluster < 0xFF8:
        found.append(cluster)
        pair = int.from_bytes(fat[cluster // 2 * 3 : cluster // 2 * 3 + 3], "little")
        cluster = pair >> 12 if cluster % 2 else pair & 0xFFF
    return found


def content(image: bytes, clusters: list[int]) -> bytes:
    first = 1 + 2 * bootable.SECTORS_PER_FAT + bootable.ROOT_ENTRIES * 32 // SECTOR
    return b"".join(image[(first + number - 2) * SECTOR :][:SECTOR] for number in clusters)


def find(folder: bytes, name: bytes) -> tuple[int, int]:
    """Cluster and size of an entry."""
    for place in range(0, len(folder), 32):
        if folder[place : place + 11] == name:
            cluster, size = struct.unpack_from("<HI", folder, place + 26)
            return int(cluster), int(size)
    raise AssertionError(name)


def test_the_program_is_where_uefi_looks() -> None:
    image = bootable.image()
    assert len(image) == bootable.SECTORS * SECTOR
    root = image[(1 + 2 * bootable.SECTORS_PER_FAT) * SECTOR :][: bootable.ROOT_ENTRIES * 32]
    efi = content(image, chain(image, find(root, b"EFI        ")[0]))
    boot = content(image, chain(image, find(efi, b"BOOT       ")[0]))
    cluster, size = find(boot, b"BOOTX64 EFI")
    assert content(image, chain(image, cluster))[:size] == bootable.efi_program()


def test_the_jumps_of_both_programs_land_where_they_should() -> None:
    for code in (bootable.boot_sector()[bootable.CODE_OFFSET :], bootable.efi_program()[SECTOR:]):
        loop = code.index(b"\xac\x84\xc0\x74")
        end = loop + 5 + code[loop + 4]
        assert code[end : end + 3] == b"\xf4\xeb\xfd", "the text's end leads to the halt"
        assert code[end - 2] == 0xEB
        assert end + struct.unpack("b", code[end - 1 : end])[0] == loop
        assert code[end + 3 :].startswith(b"\r\nmetalbox: started from disk\r\n\0")


def test_a_line_that_does_not_fit() -> None:
    assert bootable.boot_sector().endswith(b"\x55\xaa")
    with pytest.raises(ValueError, match="of 500 characters"):
        bootable.boot_sector("x" * 500)


def test_file_knows_them(tmp_path: Path) -> None:
    if shutil.which("file") is None:
        pytest.skip("there is no program `file`")
    (tmp_path / "disk").write_bytes(bootable.image())
    (tmp_path / "program").write_bytes(bootable.efi_program())
    said = subprocess.run(
        ["file", "-b", tmp_path / "disk", tmp_path / "program"], capture_output=True, text=True, check=True, timeout=60
    ).stdout
    assert "FAT (12 bit)" in said
    assert "PE32+ executable" in said and "EFI application" in said
