"""Each method's own rules; whole erases are in test_eraser.py."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from metalbox.agent import erasemethods
from metalbox.agent.erasemethods import METHODS, Status
from metalbox.agent.passthrough import DriveError
from metalbox.agent.target import Target
from metalbox.erase.methods import TABLE, Expected
from tests.agent.drives import AtaDrive, NvmeDrive, SimulatedKernel, row


def opened(folder: Path, drive: Any) -> Target:
    target = Target(SimulatedKernel(folder, drive), row(drive, "overwrite"), threading.Event())
    target.open()
    return target


def test_agent_and_plan_know_the_same_methods() -> None:
    assert set(METHODS) == {str(method) for method in TABLE}
    for method, known in TABLE.items():
        told = Expected.ZEROES if METHODS[method].zeroes else Expected.CHANGED
        assert told in known.expected, method


def test_a_drive_that_is_silent_for_a_moment_is_asked_again(tmp_path: Path) -> None:
    target = opened(tmp_path, NvmeDrive("nvme0n1", "S1"))
    answers: list[Status | OSError] = [
        Status("going", "", 0.25), OSError(5, "I/O"), OSError(5, "I/O"), Status("done", "status 0"),
    ]  # fmt: skip

    def ask() -> Status:
        answer = answers.pop(0)
        if isinstance(answer, OSError):
            raise answer
        return answer

    assert erasemethods.follow(target, "x", ask, 10.0) == "status 0" and target.percent == 25.0


def test_a_drive_that_stays_silent_has_failed(tmp_path: Path) -> None:
    target = opened(tmp_path, NvmeDrive("nvme0n1", "S1"))

    def ask() -> Status:
        raise OSError(5, "I/O")

    with pytest.raises(DriveError, match="does not tell its status any more"):
        erasemethods.follow(target, "x", ask, 10.0)


def test_a_drive_that_creeps_on_for_ever_has_failed(tmp_path: Path) -> None:
    target = opened(tmp_path, NvmeDrive("nvme0n1", "S1"))
    progress = iter(range(10**9))
    with pytest.raises(DriveError, match="is not done after"):
        erasemethods.follow(target, "x", lambda: Status("going", "log", next(progress) * 1e-6), 100.0)


def test_a_drive_that_stands_still_has_failed_long_before_its_limit(tmp_path: Path) -> None:
    target = opened(tmp_path, NvmeDrive("nvme0n1", "S1"))
    with pytest.raises(DriveError, match="has made no progress for 36"):
        erasemethods.follow(target, "x", lambda: Status("going", "log", 0.5), 36000.0)


def test_the_end_of_another_command_does_not_count(tmp_path: Path) -> None:
    drive = NvmeDrive("nvme0n1", "S1")
    target = opened(tmp_path, drive)
    drive.state, drive.command = "done", 4
    assert erasemethods.nvme_status(target.devices[0]).state == "done"
    assert erasemethods.nvme_status(target.devices[0], 2).state == "failed"


def test_a_drive_that_forgot_its_sanitize_has_failed(tmp_path: Path) -> None:
    for drive, status in (
        (NvmeDrive("nvme0n1", "S1"), erasemethods.nvme_status),
        (AtaDrive("sda", "S1"), erasemethods.ata_status),
    ):
        assert status(opened(tmp_path / drive.name, drive).devices[0]).state == "failed"


def test_limits() -> None:
    assert erasemethods.limit(None) == 86400 and erasemethods.limit(100) == 2100
