"""PCI functions of real machines, and their names."""

from __future__ import annotations

from pathlib import Path

import pytest

from metalbox.agent import pci
from tests.agent.snapshots import unpack, write

IDS = """\
# a comment
10de  NVIDIA Corporation
\t20b5  GA100 [A100 PCIe 80GB]
\t\t10de 1533  a subsystem
\t2331  GH100 [H100 PCIe]
8086  Intel Corporation
\t1533  I210 Gigabit Network Connection
C 03  Display controller
\t00  VGA compatible controller
"""


@pytest.mark.parametrize(
    ("snapshot", "count", "gpus"),
    [
        ("linux-amd64-accel-nvidia", 29, {"10de"}),
        ("linux-amd64-61797caf7c0b6bca1725ad7975ed4773", 43, {"1002", "10de"}),
        ("linux-amd64-8581cf3a529e5d8b97ea876eade2f60d", 82, {"102b"}),
    ],
)
def test_real_machines(snapshot: str, count: int, gpus: set[str], tmp_path: Path) -> None:
    found = pci.functions(unpack(snapshot, tmp_path))
    assert len(found) == count
    assert all(len(item["class_code"]) == 6 and len(item["vendor_id"]) == 4 for item in found)
    displays = {item["vendor_id"] for item in found if item["class_code"].startswith("03")}
    assert displays & gpus


def test_a_function_has_its_names(tmp_path: Path) -> None:
    device = "sys/bus/pci/devices/0000:3b:00.0"
    files: dict[str, str | bytes] = {
        f"{device}/class": "0x030200\n",
        f"{device}/vendor": "0x10de\n",
        f"{device}/device": "0x2331\n",
        f"{device}/driver": "->../../../bus/pci/drivers/nouveau",
        "usr/share/misc/pci.ids": IDS,
    }
    assert pci.functions(write(tmp_path, files)) == [
        {
            "address": "0000:3b:00.0",
            "class_code": "030200",
            "vendor_id": "10de",
            "device_id": "2331",
            "driver": "nouveau",
            "vendor": "NVIDIA Corporation",
            "device": "GH100 [H100 PCIe]",
        }
    ]


def test_names_of_subsystems_and_classes_are_not_taken_for_devices() -> None:
    wanted = {("10de", "20b5"), ("8086", "1533"), ("ffff", "0000")}
    assert pci.find_names(IDS.splitlines(keepends=True), wanted) == {
        ("10de", ""): "NVIDIA Corporation",
        ("10de", "20b5"): "GA100 [A100 PCIe 80GB]",
        ("8086", ""): "Intel Corporation",
        ("8086", "1533"): "I210 Gigabit Network Connection",
    }


def test_no_pci_at_all(tmp_path: Path) -> None:
    assert pci.functions(tmp_path) == []
