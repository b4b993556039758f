"""The whole inventory: of snapshots, of this machine, and with collectors that hang or break."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path

import pytest

from metalbox.agent import bmc, disks, dmidecode, health, lldp, nics
from metalbox.agent.inventory import Inventory
from metalbox.report import parse_report
from tests.agent.snapshots import unpack, write
from tests.agent.tables import build_tables
from tests.agent.test_dmidecode import DUMPS
from tests.agent.test_lldp import frame
from tests.agent.test_nics import PCI, port

AGENT = {"boot_id": "0f6b8a1c-1f79-4498-ac0f-a71f5fd9eb54", "version": "0.1.0", "uptime_seconds": 12.5}
SNAPSHOTS = (
    "linux-amd64-415ee03b8c4d1c4f07ae2e9d8b3d3d6d",
    "linux-amd64-61797caf7c0b6bca1725ad7975ed4773",
    "linux-amd64-8581cf3a529e5d8b97ea876eade2f60d",
    "linux-amd64-accel",
    "linux-amd64-accel-nvidia",
    "linux-arm64-c288e0776090cd558ef793b2a4e61939",
    "linux-s390x-snapshot",
)


@pytest.mark.parametrize("snapshot", SNAPSHOTS)
def test_the_server_takes_the_report_of_every_snapshot(snapshot: str, tmp_path: Path) -> None:
    root = unpack(snapshot, tmp_path)
    text = DUMPS[0].read_text(errors="replace")
    write(root, {"sys/firmware/dmi/tables/DMI": build_tables([*dmidecode.parse(text), (1, {})])})
    write(root, port(f"{PCI}/net/eth7", "eth7", {}))
    hardware, problems = Inventory(root).collect()
    report = parse_report(json.loads(json.dumps({"version": 1, "agent": AGENT, "hardware": hardware})))
    assert problems == []
    assert len(report.hardware.disks) == len(hardware["disks"]) > 0
    assert report.hardware.dimms and report.hardware.cpus and report.hardware.system.product


def test_every_key_of_a_record_is_one_that_the_server_reads(tmp_path: Path) -> None:
    """A misspelt key would be ignored by the server, and its fact lost in silence."""
    root = unpack("linux-amd64-415ee03b8c4d1c4f07ae2e9d8b3d3d6d", tmp_path)
    text = DUMPS[0].read_text(errors="replace")
    write(root, {"sys/firmware/dmi/tables/DMI": build_tables(dmidecode.parse(text))})
    write(root, port(f"{PCI}/net/eth7", "eth7", {}))
    neighbours = lldp.Neighbours()
    neighbours.hear("eth7", frame(vlan=7), 0.0)
    hardware, _ = Inventory(root, neighbours).collect()
    hardware["bmc"] = {**bmc.parse_device_id(b""), "channel": 1, "address": "", "mac": "", "address_source": ""}
    read = parse_report({"version": 1, "agent": AGENT, "hardware": hardware}).hardware
    assert set(hardware) == set(type(read).__slots__)
    assert set(hardware["system"]) == set(type(read.system).__slots__)
    assert set(hardware["firmware"]) == set(type(read.firmware).__slots__)
    assert read.bmc and set(hardware["bmc"]) == set(type(read.bmc).__slots__)
    for name in ("cpus", "dimms", "disks", "nics", "pci"):
        assert set(hardware[name][0]) == set(type(getattr(read, name)[0]).__slots__), name
    assert set(hardware["disks"][0]["namespaces"][0]) == set(type(read.disks[0].namespaces[0]).__slots__)
    assert set(health.parse_nvme_log(bytes(512))) == set(type(read.disks[0].health).__slots__)
    assert read.nics[0].lldp and set(hardware["nics"][0]["lldp"]) == set(type(read.nics[0].lldp).__slots__)


def test_this_machine() -> None:
    hardware, problems = Inventory().collect()
    assert hardware["architecture"] and hardware["memory_bytes"] and all(problem for problem in problems)


class OthersFirst:
    """The clock of the inventory: who looks at it finds at their end all collectors but the disks'."""

    def monotonic(self) -> float:
        for thread in threading.enumerate():
            if thread.name in ("smbios", "network ports", "PCI devices", "BMC"):
                thread.join(60)
        return time.monotonic()


def test_a_collector_that_hangs_costs_its_part_only(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    release = threading.Event()
    monkeypatch.setattr(disks, "disks", lambda _root: release.wait() and [])
    monkeypatch.setattr("metalbox.agent.inventory.time", OthersFirst())
    inventory = Inventory(write(tmp_path, port(f"{PCI}/net/eth0", "eth0", {})), seconds=0.3)
    # It hangs until the end of the test: that this returns at all is the first that is shown.
    hardware, problems = inventory.collect()
    assert hardware["disks"] == [] and hardware["nics"][0]["name"] == "eth0"
    assert problems[0] == "disks: no answer within 0.3 s"
    _, again = inventory.collect()
    assert again[0] == "disks: still waiting since an earlier report"
    release.set()


def test_a_collector_with_a_bug_costs_its_part_only(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def broken(_root: Path, _ask: object) -> None:
        raise KeyError("speed")

    monkeypatch.setattr(nics, "nics", broken)
    _, problems = Inventory(tmp_path).collect()
    assert problems[0] == "network ports: the agent failed with KeyError: 'speed'"
