"""Which disk is meant, and that the drive itself says so."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from metalbox.agent import target
from metalbox.agent.passthrough import DriveError
from tests.agent.drives import AtaDrive, NvmeDrive, ScsiDrive, SimulatedDevice, SimulatedKernel, row


def disk(**change: Any) -> dict[str, Any]:
    return {**ScsiDrive("sda", "S1").record(), **change}


def test_it_is_found_by_serial_and_wwn_whatever_its_kernel_name() -> None:
    wanted = row(ScsiDrive("sda", "S1"), "overwrite")
    assert target.find([disk(name="sdq"), disk(name="sda", serial="S2", wwn="0x9")], wanted)["name"] == "sdq"


@pytest.mark.parametrize(
    ("there", "words"),
    [
        ([], "not in this machine"),
        ([disk(wwn="0x9")], "WWN '0x9'"),
        ([disk(serial="S9")], "serial 'S9'"),
        ([disk(), disk(name="sdb")], "sda and sdb have the same name"),
        ([disk(), disk(name="sdb", serial="S9")], "sda and sdb have the same name"),
        ([disk(model="other")], "its model is 'other'"),
        ([disk(size_bytes=1)], "its size is 1"),
        ([disk(namespaces=[{"nsid": 2, "size_bytes": 1}])], "namespaces"),
    ],
)
def test_any_difference_is_told(there: list[dict[str, Any]], words: str) -> None:
    with pytest.raises(DriveError, match=words) as caught:
        target.find(there, row(ScsiDrive("sda", "S1"), "overwrite"))
    assert not caught.value.begun


def test_a_disk_without_any_name_is_never_meant() -> None:
    wanted = {**row(ScsiDrive("sda", ""), "overwrite"), "wwn": ""}
    with pytest.raises(DriveError, match="neither serial"):
        target.find([disk(serial="", wwn="")], wanted)


@pytest.mark.parametrize("kind", [NvmeDrive, AtaDrive, ScsiDrive])
def test_the_drive_is_asked_itself(kind: Any) -> None:
    for fault, is_it in (("", True), ("swapped", False)):
        drive = kind("sda", "S1", *([fault] if fault else []))
        drive.kernel = SimulatedKernel.__new__(SimulatedKernel)
        drive.kernel._time = 0.0
        opened = SimulatedDevice(drive, True)
        if is_it:
            target.confirm(opened, drive.record())
        else:
            with pytest.raises(DriveError, match="'OTHER'"):
                target.confirm(opened, drive.record())


def test_what_is_behind_sas_may_have_its_model_cut() -> None:
    drive = AtaDrive("sda", "S1")
    drive.kernel = SimulatedKernel.__new__(SimulatedKernel)
    drive.kernel._time = 0.0
    target.confirm(SimulatedDevice(drive, True), {**drive.record(), "model": "ACME Ata"})


def test_it_is_open_for_nobody_else_and_found_again(tmp_path: Path) -> None:
    drive = AtaDrive("sda", "S1")
    kernel = SimulatedKernel(tmp_path, drive)
    opened = target.Target(kernel, row(drive, "overwrite"), threading.Event())
    opened.open()
    with pytest.raises(OSError, match="busy"):
        kernel.open("sda", exclusive=True)
    drive.name = "sdx"
    opened.reopen()
    assert opened.devices[0].name == "sdx" and opened.told()["phase"] == "prepare"
    opened.close()
    assert not drive.is_held


def test_a_thread_that_was_given_up_does_nothing_more(tmp_path: Path) -> None:
    drive = AtaDrive("sda", "S1")
    given_up = target.Target(SimulatedKernel(tmp_path, drive), row(drive, "overwrite"), threading.Event())
    given_up.is_abandoned = True
    for step in (given_up.check, given_up.within, given_up.open):
        with pytest.raises(DriveError):
            step()
