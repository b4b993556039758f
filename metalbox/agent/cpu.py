"""Processors per socket and the size of memory: the kernel's view first, SMBIOS for the names printed on the board.

The kernel knows how many cores can be used (SMBIOS counts those that the setup switched off, and QEMU names every
processor after its machine type); SMBIOS knows which socket it is, and on arm64 the only readable model.
"""

from __future__ import annotations

import re
from pathlib import Path

from metalbox.agent import sysfs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

# MIDR_EL1: implementer, then part, as /proc/cpuinfo on arm64 shows them in place of names.
ARM_VENDORS = {
    0x41: "ARM", 0x42: "Broadcom", 0x43: "Cavium", 0x46: "Fujitsu", 0x48: "HiSilicon", 0x4E: "NVIDIA",
    0x50: "APM", 0x51: "Qualcomm", 0x61: "Apple", 0xC0: "Ampere",
}  # fmt: skip
ARM_PARTS = {
    (0x41, 0xD03): "Cortex-A53", (0x41, 0xD07): "Cortex-A57", (0x41, 0xD08): "Cortex-A72", (0x41, 0xD0B): "Cortex-A76",
    (0x41, 0xD0C): "Neoverse-N1", (0x41, 0xD40): "Neoverse-V1", (0x41, 0xD42): "Cortex-A78AE",
    (0x41, 0xD49): "Neoverse-N2", (0x41, 0xD4F): "Neoverse-V2", (0x43, 0x0AF): "ThunderX2",
    (0x48, 0xD01): "Kunpeng 920", (0xC0, 0xAC3): "Ampere-1",
}  # fmt: skip


def parse_cpuinfo(text: str) -> list[dict[str, str]]:
    """The processors of /proc/cpuinfo, each as its fields. Blocks without a processor number are left out."""
    blocks = []
    for block in re.split(r"\n\s*\n", text):
        fields = {}
        for line in block.splitlines():
            name, colon, value = line.partition(":")
            if colon:
                fields[name.strip()] = value.strip()
        if fields.get("processor", "").isdigit():
            blocks.append(fields)
    return blocks


def parse_meminfo(text: str) -> int | None:
    """The bytes of memory that the kernel manages (`MemTotal`), somewhat less than is plugged in."""
    match = re.search(r"^MemTotal:\s+(\d+) kB", text, re.MULTILINE)
    return int(match[1]) << 10 if match else None


def memory_bytes(root: Path, dimms: list[dict[str, Any]]) -> int | None:
    """What is plugged in, or, where SMBIOS lists no DIMM, what the kernel manages."""
    plugged = sum(dimm["size_bytes"] or 0 for dimm in dimms)
    return plugged or parse_meminfo(sysfs.text(root / "proc/meminfo"))


def cpus(root: Path, smbios_cpus: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One record per populated socket, in the order of the kernel's package numbers."""
    packages: dict[str, list[dict[str, str]]] = {}
    for fields in parse_cpuinfo(sysfs.text(root / "proc/cpuinfo")):
        packages.setdefault(_package(root, fields), []).append(fields)
    if not packages or (len(packages) != len(smbios_cpus) and "model name" not in next(iter(packages.values()))[0]):
        # arm64 kernels without topology put each core into a package of its own: there only SMBIOS counts sockets.
        everything = [fields for group in packages.values() for fields in group]
        return smbios_cpus or ([_cpu(root, everything, {})] if everything else [])
    named = smbios_cpus if len(packages) == len(smbios_cpus) else [{}] * len(packages)
    order = sorted(packages, key=lambda package: (len(package), package))
    return [_cpu(root, packages[package], printed) for package, printed in zip(order, named, strict=True)]


def _package(root: Path, fields: dict[str, str]) -> str:
    package = sysfs.text(_topology(root, fields) / "physical_package_id")
    return package if package.isdigit() else fields.get("physical id", "0")


def _topology(root: Path, fields: dict[str, str]) -> Path:
    return root / "sys/devices/system/cpu" / f"cpu{fields['processor']}" / "topology"


def _cpu(root: Path, group: list[dict[str, str]], printed: dict[str, Any]) -> dict[str, Any]:
    head = group[0] if group else {}
    vendor, model = _arm_name(head)
    cores = {_core(root, fields) for fields in group}
    return {
        "socket": printed.get("socket", ""),
        "vendor": head.get("vendor_id") or vendor or printed.get("vendor", ""),
        "model": " ".join((head.get("model name") or printed.get("model") or model).split()),
        "cores": len(cores) or None,
        "threads": len(group) or None,
        "mhz": _megahertz(root, head) or printed.get("mhz"),
    }


def _core(root: Path, fields: dict[str, str]) -> tuple[str, str]:
    """What is one core: the id within its die (the die matters on packages made of several)."""
    topology = _topology(root, fields)
    core = sysfs.text(topology / "core_id") or fields.get("core id") or fields["processor"]
    return sysfs.text(topology / "die_id"), core


def _megahertz(root: Path, fields: dict[str, str]) -> int | None:
    folder = root / "sys/devices/system/cpu" / f"cpu{fields.get('processor', '0')}" / "cpufreq"
    kilohertz = sysfs.number(folder / "cpuinfo_max_freq")
    return kilohertz // 1000 if kilohertz else None


def _arm_name(fields: dict[str, str]) -> tuple[str, str]:
    try:
        implementer, part = int(fields["CPU implementer"], 0), int(fields["CPU part"], 0)
    except (KeyError, ValueError):
        return "", ""
    return ARM_VENDORS.get(implementer, ""), ARM_PARTS.get((implementer, part), "")
