"""One disk's outcome, whatever happened to it; whole orders are in test_eraser.py."""

from __future__ import annotations

import threading
from pathlib import Path

from metalbox.agent.drivework import DriveWork
from metalbox.agent.target import Target
from tests.agent.drives import AtaDrive, Drive, SimulatedKernel, order, row


def work(folder: Path, drive: Drive, *methods: str) -> DriveWork:
    wanted = row(drive, *methods)
    return DriveWork(Target(SimulatedKernel(folder, drive), wanted, threading.Event()), order(wanted), [drive.name])


def test_an_outcome_tells_everything(tmp_path: Path) -> None:
    outcome = work(tmp_path, AtaDrive("sda", "S1"), "ata-sanitize-block").run()
    assert outcome | {"verification": None, "seconds": 0} == {
        "serial": "S1", "wwn": "0x5000000000000001", "model": "ACME AtaDrive", "firmware": "1.0",
        "size_bytes": 3 << 20, "name": "sda", "transport": "sata", "result": "erased", "method": "ata-sanitize-block",
        "attempts": [{"method": "ata-sanitize-block", "result": "done", "seconds": 100,
                      "evidence": "status 50h, error 00h, count 8000h, LBA 00000000FFFFh"}],
        "preparations": [], "started_at": 1_700_001_000, "seconds": 0,
        "firmware_status": "status 50h, error 00h, count 8000h, LBA 00000000FFFFh", "verification": None,
        "evidence": "",
    }  # fmt: skip
    assert outcome["seconds"] == 100 and outcome["verification"]["regions"]["first"] == 1


def test_nothing_written_is_refused_and_something_written_is_failed(tmp_path: Path) -> None:
    drive = AtaDrive("sda", "S1", "held")
    refused = work(tmp_path / "1", drive, "overwrite").run()
    assert refused["result"] == "refused" and "busy" in refused["evidence"] and drive.writes == []
    failed = work(tmp_path / "2", AtaDrive("sda", "S1", "vanishes"), "overwrite").run()
    assert failed["result"] == "failed" and "No such device" in failed["evidence"]


def test_no_method_taken_is_failed(tmp_path: Path) -> None:
    outcome = work(tmp_path, AtaDrive("sda", "S1", "refuses"), "ata-sanitize-block", "ata-sanitize-crypto").run()
    assert outcome["result"] == "failed" and len(outcome["attempts"]) == 2 and outcome["verification"] is None
