"""Processors and memory of real machines' /proc and /sys."""

from __future__ import annotations

from pathlib import Path

import pytest

from metalbox.agent import cpu
from tests.agent.snapshots import unpack, write
from tests.corpus import corpus

PRINTED = {"socket": "CPU1", "vendor": "QEMU", "model": "pc-i440fx", "cores": 9, "threads": 9, "mhz": 2000}


@pytest.mark.parametrize(
    ("snapshot", "vendor", "model", "sockets"),
    [
        ("linux-amd64-8581cf3a529e5d8b97ea876eade2f60d", "GenuineIntel", "Intel(R) Xeon(R) CPU L5640 @ 2.27GHz",
         [(6, 12), (6, 12)]),
        ("linux-amd64-61797caf7c0b6bca1725ad7975ed4773", "AuthenticAMD", "AMD Ryzen 5 1600 Six-Core Processor",
         [(6, 12)]),
        ("linux-amd64-415ee03b8c4d1c4f07ae2e9d8b3d3d6d", "GenuineIntel", "12th Gen Intel(R) Core(TM) i7-1270P",
         [(12, 16)]),  # four fast cores with two threads each, eight slow ones
        ("linux-arm64-c288e0776090cd558ef793b2a4e61939", "ARM", "Neoverse-N1", [(1, 1)]),
    ],
)  # fmt: skip
def test_real_machines(snapshot: str, vendor: str, model: str, sockets: list[tuple[int, int]], tmp_path: Path) -> None:
    found = cpu.cpus(unpack(snapshot, tmp_path), [])
    assert [(item["vendor"], item["model"]) for item in found] == [(vendor, model)] * len(sockets)
    assert [(item["cores"], item["threads"]) for item in found] == sockets


@pytest.mark.parametrize("snapshot", ["linux-amd64-offlineCPUs", "linux-s390x-snapshot", "linux-amd64-accel"])
def test_odd_machines_do_not_raise(snapshot: str, tmp_path: Path) -> None:
    assert isinstance(cpu.cpus(unpack(snapshot, tmp_path), []), list)


def test_sockets_are_named_by_smbios_and_counted_by_the_kernel(tmp_path: Path) -> None:
    root = write(tmp_path, {"proc/cpuinfo": corpus("hw", "ipa-samples", "PROC_CPUINFO_OUTPUT.txt").read_text()})
    (found,) = cpu.cpus(root, [PRINTED])
    assert found["socket"] == "CPU1" and found["mhz"] == 2000
    assert found["model"] == "AMD EPYC 7282 16-Core Processor" and found["vendor"] == "AuthenticAMD"
    assert found["cores"] == found["threads"] < 9


def test_on_arm_smbios_counts_the_sockets(tmp_path: Path) -> None:
    cores = "".join(f"processor\t: {n}\nCPU implementer\t: 0xc0\nCPU part\t: 0xac3\n\n" for n in range(4))
    files: dict[str, str | bytes] = {"proc/cpuinfo": cores}
    files |= {f"sys/devices/system/cpu/cpu{n}/topology/physical_package_id": str(36 + n) for n in range(4)}
    root = write(tmp_path, files)
    printed = {**PRINTED, "vendor": "Ampere", "model": "AmpereOne A192-32X", "cores": 4}
    assert cpu.cpus(root, [printed]) == [printed]
    assert cpu.cpus(root, [])[0]["cores"] == 4


def test_no_cpuinfo_at_all(tmp_path: Path) -> None:
    assert cpu.cpus(tmp_path, []) == []
    assert cpu.cpus(tmp_path, [PRINTED]) == [PRINTED]


def test_memory_is_what_is_plugged_in(tmp_path: Path) -> None:
    root = write(tmp_path, {"proc/meminfo": "MemTotal:       16318480 kB\nMemFree: 1 kB\n"})
    assert cpu.memory_bytes(root, [{"size_bytes": 1 << 33}, {"size_bytes": None}]) == 1 << 33
    assert cpu.memory_bytes(root, []) == 16318480 << 10
    assert cpu.memory_bytes(tmp_path / "none", []) is None
