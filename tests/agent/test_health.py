"""Wear and failures as 170 real drives told them to smartctl, and NVMe's own log."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest

from metalbox.agent import health
from tests.corpus import ROOT, corpus

SAMPLES = sorted(
    path
    for folder, pattern in (
        ("smartctl_exporter", "*.json"),
        ("scrutiny-models", "*.json"),
        ("ironlib", "**/smartctl/*.json"),
    )
    for path in (ROOT / "hw" / folder).glob(pattern)
)
KEYS = {"status", "wear_percent", "power_on_hours", "temperature_celsius", "media_errors"}


def parse(*parts: str) -> dict[str, Any]:
    return health.parse_smartctl(corpus("hw", *parts).read_bytes())


@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: "/".join(path.parts[-2:]))
def test_every_sample_is_read(path: Path) -> None:
    raw = path.read_bytes()
    found = health.parse_smartctl(raw)
    assert found == {} or set(found) == KEYS
    document = json.loads(raw)
    if isinstance(document, dict) and "smart_status" in document:
        assert found["status"] == ("ok" if document["smart_status"]["passed"] else "failing")
    if isinstance(document, dict) and "power_on_time" in document:
        assert found["power_on_hours"] == document["power_on_time"]["hours"]


@pytest.mark.parametrize(
    ("sample", "status", "wear", "hours", "celsius", "errors"),
    [
        ("scrutiny-models/smart-nvme-failed.json", "ok", 3, 12798, 35, 7),  # failed by Scrutiny's limits, not its own
        ("scrutiny-models/smart-fail2.json", "failing", None, 65592, 25, 0),
        ("scrutiny-models/smart-scsi.json", "ok", None, 43549, 34, 0),
        ("smartctl_exporter/nvme-null-Micron_7300_MTFDHBE3T2TDG-nvme0.json", "ok", 0, 3820, 38, 0),
        ("ironlib/dell/r6515/smartctl/sda.json", "ok", 0, 306, 49, 0),
    ],
)
def test_known_drives(
    sample: str, status: str, wear: int | None, hours: int | None, celsius: int | None, errors: int | None
) -> None:
    assert parse(*sample.split("/")) == {
        "status": status,
        "wear_percent": wear,
        "power_on_hours": hours,
        "temperature_celsius": celsius,
        "media_errors": errors,
    }


def test_a_worn_ata_drive() -> None:
    rows = [{"id": 177, "name": "Wear_Leveling_Count", "value": 88}, {"id": 187, "name": "Uncorr", "raw": {"value": 3}}]
    document = {"rotation_rate": 0, "ata_smart_attributes": {"table": rows}, "smart_status": {"passed": False}}
    found = health.parse_smartctl(json.dumps(document).encode())
    assert found == {
        "status": "failing",
        "wear_percent": 12,
        "power_on_hours": None,
        "temperature_celsius": None,
        "media_errors": 3,
    }


@pytest.mark.parametrize(
    "output",
    [b"", b"[]", b"null", b"smartctl 7.3", b'{"smart_status": []}', b'{"ata_smart_attributes": {"table": [1, {}]}}',
     b'{"scsi_error_counter_log": {"read": 1}, "temperature": {"current": true}}'],
)  # fmt: skip
def test_output_that_says_nothing(output: bytes) -> None:
    found = health.parse_smartctl(output)
    assert found == {} or found["status"] == ""


def nvme_log(warning: int = 0, kelvin: int = 311, used: int = 7) -> bytes:
    log = bytearray(512)
    struct.pack_into("<BHBBB", log, 0, warning, kelvin, 100, 10, used)
    log[128:144] = (3820).to_bytes(16, "little")
    log[160:176] = (2).to_bytes(16, "little")
    return bytes(log)


def test_the_nvme_log() -> None:
    assert health.parse_nvme_log(nvme_log()) == {
        "status": "ok",
        "wear_percent": 7,
        "power_on_hours": 3820,
        "temperature_celsius": 38,
        "media_errors": 2,
    }
    assert health.parse_nvme_log(nvme_log(warning=0b00010))["status"] == "ok"  # too hot
    assert health.parse_nvme_log(nvme_log(warning=0b00100))["status"] == "failing"
    assert health.parse_nvme_log(nvme_log(kelvin=0))["temperature_celsius"] is None
    assert health.parse_nvme_log(b"\0" * 511) == {}


def test_a_file_that_is_no_nvme_device(tmp_path: Path) -> None:
    path = tmp_path / "nvme0n1"
    path.touch()
    with pytest.raises(OSError):
        health.read_nvme_log(str(path))
