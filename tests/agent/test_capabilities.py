"""What simulated drives of every kind tell of themselves, and what the server reads of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from metalbox.agent import capabilities
from metalbox.report import parse_hardware
from tests.agent.drives import AtaDrive, Drive, NvmeDrive, ScsiDrive, SimulatedKernel
from tests.agent.snapshots import write


def told(folder: Path, drive: Drive) -> dict[str, Any]:
    kernel = SimulatedKernel(folder, drive)
    facts = capabilities.ask(kernel, drive.record())
    (disk,) = parse_hardware({"disks": [{**drive.record(), "erasing": facts}]}).disks
    assert disk.erasing and set(facts) <= set(type(disk.erasing).__slots__)
    assert drive.writes == [] and bytes(drive.medium) == drive.original
    return facts


def test_a_nvme_drive(tmp_path: Path) -> None:
    facts = told(tmp_path, NvmeDrive("nvme0n1", "S1"))
    assert facts["nvme_sanitize"] == ["crypto", "block", "overwrite"] and facts["nvme_format"] == [
        "crypto",
        "user-data",
    ]
    assert facts["discard_zeroes"] is True and facts["sanitizing"] == "" and facts["write_protected"] is False


def test_an_ata_drive(tmp_path: Path) -> None:
    facts = told(tmp_path, AtaDrive("sda", "S1", "frozen"))
    assert facts["ata_sanitize"] == ["crypto", "block", "overwrite"] and facts["discard_zeroes"] is True
    assert (facts["ata_security"], facts["ata_enhanced"], facts["ata_frozen"], facts["ata_locked"]) == (
        True, True, True, False,
    )  # fmt: skip
    assert (facts["ata_erase_minutes"], facts["native_sectors"]) == (2, 6144) and "dco_sectors" not in facts


@pytest.mark.parametrize(("fault", "key"), [("hpa", "native_sectors"), ("dco", "dco_sectors")])
def test_hidden_sectors_are_told(fault: str, key: str, tmp_path: Path) -> None:
    assert told(tmp_path, AtaDrive("sda", "S1", fault))[key] == 8192


def test_a_scsi_drive(tmp_path: Path) -> None:
    facts = told(tmp_path, ScsiDrive("sda", "S1", "protected"))
    assert facts["scsi_sanitize"] == ["crypto", "block", "overwrite"]
    assert facts["write_protected"] is True and facts["discard_zeroes"] is True


@pytest.mark.parametrize("kind", [NvmeDrive, AtaDrive, ScsiDrive])
@pytest.mark.parametrize(("fault", "word"), [("sanitizing", "in progress"), ("sanitize-failed", "failed")])
def test_an_unfinished_sanitize_is_told(kind: type[Drive], fault: str, word: str, tmp_path: Path) -> None:
    assert told(tmp_path, kind("sda", "S1", fault))["sanitizing"] == word


def test_a_plain_disk_tells_what_sys_knows(tmp_path: Path) -> None:
    write(tmp_path, {"sys/class/block/vda/queue/discard_max_bytes": "2147450880"})
    facts = told(tmp_path, Drive("vda", "S1"))
    assert facts["discard"] is True and "discard_zeroes" not in facts and facts["holders"] == []


def test_the_reading_rate_is_measured(tmp_path: Path) -> None:
    class Turned(SimulatedKernel):
        def clock(self) -> float:
            self.wait(0.01)
            return self._time

    drive = Drive("vda", "S1", size=4 << 20)
    kernel = Turned(tmp_path, drive)
    rate = capabilities.measure(kernel, kernel.open("vda"), drive.size)
    assert rate and 50 < rate < 500
    drive.is_here = False
    assert capabilities.measure(kernel, kernel_open(drive), drive.size) is None


def kernel_open(drive: Drive) -> Any:
    from tests.agent.drives import SimulatedDevice

    return SimulatedDevice(drive, False)


@pytest.mark.parametrize(
    ("transport", "model", "virtual"),
    [
        ("usb", "AMI Virtual HDISK0", True),
        ("usb", "iDRAC Virtual Floppy", True),
        ("usb", "Linux File-Stor Gadget", True),
        ("usb", "Virtual Media", True),
        ("usb", "SanDisk Ultra", False),
        ("sata", "Virtual HD", False),
    ],
)
def test_virtual_media(transport: str, model: str, virtual: bool) -> None:
    assert capabilities.is_virtual_media({"transport": transport, "model": model}) is virtual


def test_one_name_by_two_paths() -> None:
    disks: list[dict[str, Any]] = [
        {"wwn": wwn, "erasing": {"multipath": False}} for wwn in ("0x5", "0x5", "0x6", "", "")
    ]
    capabilities.mark_multipath(disks)
    assert [disk["erasing"]["multipath"] for disk in disks] == [True, True, False, False, False]
