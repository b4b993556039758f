"""What comes before an erase; most of it is proved with whole orders in test_eraser.py."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from metalbox.agent import preparations
from metalbox.agent.passthrough import DriveError
from metalbox.agent.target import Target
from tests.agent.drives import AtaDrive, NvmeDrive, SimulatedKernel, row


class Awake(SimulatedKernel):
    """Cannot sleep."""

    def sleep(self, seconds: int) -> None:
        raise DriveError("this machine cannot suspend to memory", begun=False)


def test_nobody_sleeps_when_no_disk_is_frozen(tmp_path: Path) -> None:
    drives = [AtaDrive("sda", "S1"), NvmeDrive("nvme0n1", "S2")]
    kernel = SimulatedKernel(tmp_path, *drives)
    assert preparations.unfreeze(kernel, kernel.disks()) == {} and kernel.slept == 0


def test_a_machine_that_cannot_sleep_leaves_it_frozen_and_says_why(tmp_path: Path) -> None:
    kernel = Awake(tmp_path, AtaDrive("sda", "S1", "frozen"))
    (found,) = preparations.unfreeze(kernel, kernel.disks()).values()
    assert found["result"] == "failed" and "cannot suspend" in found["evidence"]


def test_a_failed_sanitize_without_another_in_the_order_is_a_failure(tmp_path: Path) -> None:
    drive = AtaDrive("sda", "S1", "sanitize-failed")
    target = Target(SimulatedKernel(tmp_path, drive), row(drive, "overwrite"), threading.Event())
    target.open()
    with pytest.raises(DriveError, match="names no other"):
        preparations.Preparations().open_up(target)
    assert drive.writes == []


def test_a_good_drive_needs_nothing(tmp_path: Path) -> None:
    drive = AtaDrive("sda", "S1")
    target = Target(SimulatedKernel(tmp_path, drive), row(drive, "overwrite"), threading.Event())
    target.open()
    done = preparations.Preparations()
    done.open_up(target)
    assert done.done == [] and drive.writes == []
