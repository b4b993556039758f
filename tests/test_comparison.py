"""What counts as a difference between two reports."""

from __future__ import annotations

from typing import Any

import pytest

from metalbox.comparison import changes, size
from metalbox.report import parse_report
from tests.reports import FULL, full


def differences(change: Any) -> list[tuple[str, Any, Any, str]]:
    before, after = full(), full()
    change(after["hardware"])
    found = changes(parse_report(before).hardware, parse_report(after).hardware)
    return [(found.field, found.before, found.after, found.text) for found in found]


def test_the_same_report_is_no_change() -> None:
    assert differences(lambda hardware: None) == []


def test_names_of_the_moment_and_meters_are_no_change() -> None:
    def change(hardware: Any) -> None:
        hardware["disks"][0]["name"], hardware["disks"][1]["name"] = "sdb", "nvme1n1"
        hardware["disks"].reverse()
        hardware["nics"].reverse()
        hardware["nics"][0]["name"] = "eth7"
        hardware["dimms"].reverse()
        hardware["pci"].reverse()
        hardware["disks"][1]["health"] = {"status": "ok", "power_on_hours": 2000, "temperature_celsius": 50}
        hardware["nics"][1]["driver"] = "bnx2x"

    assert differences(change) == []


def test_what_one_report_does_not_know_is_no_change() -> None:
    def change(hardware: Any) -> None:
        hardware["memory_bytes"] = None
        hardware["disks"][0]["size_bytes"] = None
        hardware["nics"][0]["lldp"] = None
        hardware["firmware"]["secure_boot"] = None

    assert differences(change) == []


def _disk_exchanged(hardware: Any) -> None:
    hardware["disks"][0] = {"serial": "NEW1", "model": "ST1000", "size_bytes": 1000204886016}


def _card_exchanged(hardware: Any) -> None:
    hardware["nics"][1]["mac"] = "52:54:00:00:00:03"


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (
            _disk_exchanged,
            [
                ("disks[9XF0AAAA]", "ST9500620NS 500 GB", None, "the disk 9XF0AAAA (ST9500620NS 500 GB) is gone"),
                ("disks[NEW1]", None, "ST1000 1 TB", "the disk NEW1 (ST1000 1 TB) is new"),
            ],
        ),
        (
            _card_exchanged,
            [
                ("nics[52:54:00:00:00:02]", "bnx2", None, "the network port 52:54:00:00:00:02 (bnx2) is gone"),
                ("nics[52:54:00:00:00:03]", None, "bnx2", "the network port 52:54:00:00:00:03 (bnx2) is new"),
            ],
        ),
        (
            lambda hardware: hardware["firmware"].update(version="6.7.0"),
            [("firmware.version", "6.6.0", "6.7.0", "the firmware's version changed from 6.6.0 to 6.7.0")],
        ),
        (
            lambda hardware: hardware["firmware"].update(secure_boot=True),
            [("firmware.secure_boot", False, True, "the firmware's secure boot changed from no to yes")],
        ),
        (
            lambda hardware: hardware.update(memory_bytes=68719476736),
            [("memory_bytes", 51539607552, 68719476736, "the memory changed from 48 GiB to 64 GiB")],
        ),
        (
            lambda hardware: hardware["dimms"].pop(),
            [("dimms[DIMM_A2]", "8 GiB A2", None, "the memory module DIMM_A2 (8 GiB A2) is gone")],
        ),
        (
            lambda hardware: hardware["dimms"][0].update(serial="A9"),
            [("dimms[DIMM_A1].serial", "A1", "A9", "the memory module DIMM_A1's serial changed from A1 to A9")],
        ),
        (
            lambda hardware: hardware["disks"][0]["health"].update(status="failing"),
            [
                (
                    "disks[9XF0AAAA].health.status",
                    "ok",
                    "failing",
                    "the disk 9XF0AAAA's health changed from ok to failing",
                )
            ],
        ),
        (
            lambda hardware: hardware["disks"][1]["namespaces"].append({"nsid": 2, "size_bytes": 1000000000}),
            [("disks[PHLJ9].namespaces[2]", None, "1 GB", "the namespace 2 (1 GB) is new")],
        ),
        (
            lambda hardware: hardware["nics"][0]["lldp"].update(port_id="Gi1/0/2"),
            [
                (
                    "nics[52:54:00:00:00:01].lldp.port_id",
                    "Gi1/0/1",
                    "Gi1/0/2",
                    "the network port 52:54:00:00:00:01's switch port id changed from Gi1/0/1 to Gi1/0/2",
                )
            ],
        ),
        (
            lambda hardware: hardware["nics"][1].update(link=True),
            [
                (
                    "nics[52:54:00:00:00:02].link",
                    False,
                    True,
                    "the network port 52:54:00:00:00:02's link changed from no to yes",
                )
            ],
        ),
        (
            lambda hardware: hardware["pci"].pop(),
            [("pci[0000:03:00.0]", "10de:1eb8", None, "the PCI device 0000:03:00.0 (10de:1eb8) is gone")],
        ),
        (
            lambda hardware: hardware["bmc"].update(firmware="2.93"),
            [("bmc.firmware", "2.92", "2.93", "the BMC's firmware changed from 2.92 to 2.93")],
        ),
        (
            lambda hardware: hardware.update(bmc=None),
            [("bmc", "192.0.2.200", None, "the BMC 192.0.2.200 is gone")],
        ),
        (
            lambda hardware: hardware["cpus"][0].update(model="Xeon X5670"),
            [
                (
                    "cpus[CPU1].model",
                    "Xeon X5650",
                    "Xeon X5670",
                    "the processor CPU1's model changed from Xeon X5650 to Xeon X5670",
                )
            ],
        ),
        (
            lambda hardware: hardware["system"].update(asset_tag="A-17"),
            [("system.asset_tag", "", "A-17", "the system's asset tag changed from nothing to A-17")],
        ),
    ],
)
def test_differences(change: Any, expected: list[tuple[str, Any, Any, str]]) -> None:
    assert differences(change) == expected


def test_parts_without_a_mark_are_counted() -> None:
    two = [{"size_bytes": 2**30}, {"size_bytes": 2**30}]
    assert differences(lambda hardware: hardware.update(disks=hardware["disks"] + two)) == [
        ("disks[1 GiB]", None, "1 GiB", "the disk 1 GiB is new"),
        ("disks[1 GiB#2]", None, "1 GiB", "the disk 1 GiB#2 (1 GiB) is new"),
    ]
    assert full() == FULL


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (512, "512 B"),
        (4096, "4.1 kB"),
        (500107862016, "500 GB"),
        (1000204886016, "1 TB"),
        (8589934592, "8 GiB"),
        (51539607552, "48 GiB"),
        (1649267441664, "1.5 TiB"),
        (2**63 - 1, "9223372 TB"),
        (None, "unknown size"),
    ],
)
def test_sizes(count: int | None, text: str) -> None:
    assert size(count) == text
