"""The table of methods against what the standards say, row by row, and estimates."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from metalbox.agent import erasemethods, eraser
from metalbox.erase.methods import (
    SANITIZE,
    SECURITY,
    TABLE,
    Expected,
    Level,
    Medium,
    Method,
    level_of,
    medium,
    reported,
    seconds,
    term,
)
from metalbox.erase.plan import Preparation
from metalbox.machine import Disk, Erasing

M = Method
EVERYTHING = Erasing(
    nvme_sanitize=("crypto", "block", "overwrite"),
    nvme_format=("crypto", "user-data"),
    ata_sanitize=("crypto", "block", "overwrite"),
    ata_security=True,
    ata_enhanced=True,
    scsi_sanitize=("crypto", "block", "overwrite"),
    discard=True,
    discard_zeroes=True,
)
# NIST SP 800-88 Rev. 1 tables A-5 (ATA magnetic), A-6 (SCSI magnetic), A-8 (flash: ATA, SCSI, NVMe).
PURGES_FLASH = {
    M.NVME_SANITIZE_CRYPTO, M.NVME_SANITIZE_BLOCK, M.NVME_FORMAT_CRYPTO, M.NVME_FORMAT,
    M.ATA_SANITIZE_CRYPTO, M.ATA_SANITIZE_BLOCK, M.SCSI_SANITIZE_CRYPTO, M.SCSI_SANITIZE_BLOCK,
}  # fmt: skip
PURGES_MAGNETIC_TOO = {
    M.ATA_SANITIZE_OVERWRITE, M.SCSI_SANITIZE_OVERWRITE, M.NVME_SANITIZE_OVERWRITE, M.ATA_SECURE_ERASE_ENHANCED,
}  # fmt: skip


def test_every_method_has_a_row() -> None:
    assert set(TABLE) == set(Method)
    assert {m for m in Method if not m.is_firmwares} == {M.DISCARD, M.OVERWRITE}
    assert {m for m in Method if "sanitize" in m} == SANITIZE
    assert {m for m in Method if "secure" in m} == SECURITY


@pytest.mark.parametrize("method", Method)
def test_levels(method: Method) -> None:
    assert (level_of(method, Medium.FLASH) is Level.PURGE) == (method in PURGES_FLASH)
    assert (level_of(method, Medium.MAGNETIC) is Level.PURGE) == (method in PURGES_FLASH | PURGES_MAGNETIC_TOO)
    assert level_of(method, Medium.VIRTUAL) is Level.CLEAR


@pytest.mark.parametrize("method", Method)
@pytest.mark.parametrize("on", Medium)
def test_terms_say_the_level_that_is_reached(method: Method, on: Medium) -> None:
    word = term(method, on)
    assert word.startswith(f"NIST SP 800-88r2 {str(level_of(method, on)).capitalize()}")
    # A technique that only the withdrawn revision lists is called by it.
    assert ("Rev. 1" in word) == (level_of(method, on) is Level.PURGE and method not in SANITIZE)


def test_levels_in_words() -> None:
    assert Level.PURGE.reaches(Level.CLEAR)
    assert Level.PURGE.reaches(Level.PURGE)
    assert Level.CLEAR.reaches(Level.CLEAR)
    assert not Level.CLEAR.reaches(Level.PURGE)


@pytest.mark.parametrize(
    ("disk", "on"),
    [
        (Disk(transport="sata", rotational=True, model="ST4000NM0035"), Medium.MAGNETIC),
        (Disk(transport="sata", rotational=False, model="MZ7LH480"), Medium.FLASH),
        (Disk(transport="sas", rotational=None), Medium.FLASH),
        (Disk(transport="virtio", rotational=True), Medium.VIRTUAL),
        (Disk(transport="nvme", rotational=False, model="QEMU NVMe Ctrl"), Medium.VIRTUAL),
        (Disk(transport="scsi", rotational=True, model="VMware Virtual disk"), Medium.VIRTUAL),
        (Disk(transport="nvme", model="Amazon Elastic Block Store"), Medium.VIRTUAL),
    ],
)
def test_media(disk: Disk, on: Medium) -> None:
    assert medium(disk) is on


def test_what_a_disk_tells_is_what_is_tried_strongest_first() -> None:
    nvme = Disk(transport="nvme", rotational=False, erasing=EVERYTHING)
    assert reported(nvme) == (
        M.NVME_SANITIZE_CRYPTO, M.NVME_SANITIZE_BLOCK, M.NVME_SANITIZE_OVERWRITE, M.NVME_FORMAT_CRYPTO, M.NVME_FORMAT,
        M.DISCARD, M.OVERWRITE,
    )  # fmt: skip
    ide = Disk(transport="ide", rotational=True, erasing=EVERYTHING)
    # Block erase on a magnetic disk is nonsense.
    assert reported(ide) == (
        M.ATA_SANITIZE_CRYPTO, M.ATA_SANITIZE_OVERWRITE, M.ATA_SECURE_ERASE_ENHANCED, M.ATA_SECURE_ERASE,
        M.DISCARD, M.OVERWRITE,
    )  # fmt: skip
    assert reported(Disk(transport="virtio", erasing=EVERYTHING)) == (M.DISCARD, M.OVERWRITE)
    assert reported(Disk(transport="sata", erasing=Erasing())) == (M.OVERWRITE,)
    assert reported(Disk(transport="sata")) == ()


@pytest.mark.parametrize(
    "told",
    [
        Erasing(ata_security=True, ata_enhanced=True, ata_enabled=True),
        Erasing(ata_security=True, ata_enhanced=True, ata_locked=True),
        Erasing(ata_security=None, ata_enhanced=True),
        Erasing(discard=True, discard_zeroes=None),
        Erasing(discard=None, discard_zeroes=True),
    ],
)
def test_what_needs_a_password_or_guarantees_nothing_is_not_offered(told: Erasing) -> None:
    assert reported(Disk(transport="sata", erasing=told)) == (M.OVERWRITE,)


def test_only_known_contents_prove_what_the_host_has_written() -> None:
    assert TABLE[M.DISCARD].expected == (Expected.ZEROES,)
    assert Expected.CHANGED not in TABLE[M.OVERWRITE].expected
    assert all(Expected.CHANGED in TABLE[m].expected for m in Method if m.is_firmwares)


def test_estimates() -> None:
    told = Erasing(megabytes_per_second=200, ata_erase_minutes=90, ata_enhanced_minutes=2)
    disk = Disk(transport="sata", rotational=True, size_bytes=4 * 10**12, erasing=told)
    assert seconds(M.OVERWRITE, disk) == 20_020
    assert seconds(M.ATA_SANITIZE_OVERWRITE, disk) == 20_020
    assert seconds(M.ATA_SECURE_ERASE, disk) == 5_420
    assert seconds(M.ATA_SECURE_ERASE_ENHANCED, disk) == 140
    assert seconds(M.ATA_SANITIZE_CRYPTO, disk) == 50
    assert seconds(M.ATA_SANITIZE_BLOCK, disk) == 200
    assert seconds(M.DISCARD, disk) == 80
    # 508 minutes means "more than that" (ACS-4): a large disk takes what writing it takes.
    slow = Disk(transport="sata", rotational=True, size_bytes=20 * 10**12, erasing=Erasing(ata_erase_minutes=508))
    assert seconds(M.ATA_SECURE_ERASE, slow) == pytest.approx(20 * 10**12 / 120e6 + 20, abs=0.1)
    assert seconds(M.OVERWRITE, Disk(transport="virtio", size_bytes=10**9)) == 30


def test_the_readmes_table_is_this_one() -> None:
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    rows = re.findall(r"^\| ([a-z-]+) \| (\w+) \| (\w+) \| (\w+) \|$", readme, re.MULTILINE)
    assert rows == [(m, *(str(level_of(m, on)) for on in Medium)) for m in Method]


def test_the_agent_knows_the_same_methods_and_preparations() -> None:
    assert set(erasemethods.METHODS) == {str(method) for method in Method}
    for word, theirs in erasemethods.METHODS.items():
        expected = Expected.ZEROES if theirs.zeroes else Expected.CHANGED
        assert expected in TABLE[Method(word)].expected, word
    assert set(eraser.KNOWN_PREPARATIONS) == {str(preparation) for preparation in Preparation}
