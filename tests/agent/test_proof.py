"""When reading proves an erase and when it does not."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from metalbox.agent.erasemethods import METHODS
from metalbox.agent.passthrough import DriveError
from metalbox.agent.proof import Proof, why_not
from metalbox.agent.target import Target
from tests.agent.drives import SECTOR, Drive, SimulatedKernel, row

ZEROES, UNIFORM, CRYPTO = (METHODS[name] for name in ("overwrite", "nvme-format", "nvme-format-crypto"))


def proof(folder: Path, drive: Drive, *, full: bool = False) -> Proof:
    target = Target(SimulatedKernel(folder, drive), row(drive, "overwrite"), threading.Event())
    target.open()
    taken = Proof(target, "ab", 64, full=full)
    taken.take()
    return taken


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize(
    ("byte", "method", "passed"),
    [(0, ZEROES, True), (0xFF, ZEROES, False), (0, UNIFORM, True), (0xFF, UNIFORM, True), (0xFF, CRYPTO, True)],
)
def test_what_may_be_read_afterwards(byte: int, method: Any, passed: bool, full: bool, tmp_path: Path) -> None:
    drive = Drive("vda", "S1")
    taken = proof(tmp_path, drive, full=full)
    drive.medium[:] = bytes([byte]) * drive.size
    assert (taken.check(method)["result"] == "passed") is passed


def test_one_sector_of_old_data_is_never_overlooked_in_full(tmp_path: Path) -> None:
    for number, method in enumerate((ZEROES, UNIFORM)):
        drive = Drive("vda", "S1", size=16 << 20)
        taken = proof(tmp_path / str(number), drive, full=True)
        at = 5_000_192 // SECTOR * SECTOR
        drive.medium[:] = bytes(drive.size)
        drive.medium[at : at + SECTOR] = drive.original[at : at + SECTOR]
        verification = taken.check(method)
        assert verification["result"] == "failed" and verification["mismatches"][0]["offset"] // SECTOR == at // SECTOR
        assert f"at {verification['mismatches'][0]['offset']}" in why_not(verification)


def test_one_sector_of_old_data_is_never_overlooked_in_full_among_noise(tmp_path: Path) -> None:
    drive = Drive("vda", "S1", size=16 << 20)
    taken = proof(tmp_path, drive, full=True)
    at = 5_000_192 // SECTOR * SECTOR
    drive.medium[:] = drive.random.randbytes(drive.size)
    drive.medium[at : at + SECTOR] = drive.original[at : at + SECTOR]
    verification = taken.check(CRYPTO)
    assert (verification["result"], verification["unchanged"], verification["block"]) == ("failed", 1, SECTOR)


def test_a_partition_table_is_never_overlooked(tmp_path: Path) -> None:
    drive = Drive("vda", "S1")
    taken = proof(tmp_path, drive)
    drive.medium[:] = drive.random.randbytes(drive.size)
    drive.medium[512:520] = b"EFI PART"
    verification = taken.check(CRYPTO)
    assert verification["result"] == "failed" and why_not(verification) == "found after the erase: GPT at 512"


def test_nothing_done_is_seen_by_every_method(tmp_path: Path) -> None:
    drive = Drive("vda", "S1")
    taken = proof(tmp_path, drive)
    for method in METHODS.values():
        verification = taken.check(method)
        assert verification["result"] == "failed" and "same as before" in why_not(verification)
        assert verification["before_digest"] == verification["after_digest"]


def test_a_drive_that_takes_no_marker_proves_nothing(tmp_path: Path) -> None:
    drive = Drive("vda", "S1", "protected")
    drive.medium[:] = bytes(drive.size)
    with pytest.raises((DriveError, OSError)):
        proof(tmp_path, drive)
