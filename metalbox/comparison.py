"""What is different between two reports of one machine. PURE.

Parts are told apart by what is printed on them (a disk's serial, a port's MAC, a memory slot), never by the kernel's
names, which change places from boot to boot. A value that one of the reports does not know is no difference.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from metalbox.machine import Bmc, Cpu, Dimm, Disk, Firmware, Hardware, Lldp, Namespace, Nic, Pci, System


@dataclass(frozen=True, slots=True)
class Change:
    """One difference. `field` is a path like `disks[S3Z9NB0K].firmware`; None stands for "was not there"."""

    field: str
    before: Any
    after: Any
    text: str


# What is compared of each part. Names of the moment (sda, eth0), drivers and meters that only ever run are left out.
COMPARED: Mapping[type, tuple[str, ...]] = {
    System: tuple(field.name for field in dataclasses.fields(System)),
    Firmware: tuple(field.name for field in dataclasses.fields(Firmware)),
    Cpu: ("model", "cores", "threads"),
    Dimm: ("size_bytes", "type", "speed_mts", "manufacturer", "part_number", "serial"),
    Disk: ("model", "firmware", "size_bytes", "logical_sector_bytes", "read_only", "transport"),
    Namespace: ("size_bytes",),
    Nic: ("firmware", "speed_mbps", "link"),
    Lldp: ("chassis_id", "port_id", "system_name", "vlan"),
    Pci: ("vendor_id", "device_id"),
    Bmc: ("address", "mac", "channel", "firmware", "vendor"),
}


def changes(before: Hardware, after: Hardware) -> list[Change]:
    """Return the differences in the order of the report's parts."""
    return [
        *_fields("system", "the system's", before.system, after.system),
        *_fields("firmware", "the firmware's", before.firmware, after.firmware),
        *_value("architecture", "the architecture", before.architecture, after.architecture),
        *_value("memory_bytes", "the memory", before.memory_bytes, after.memory_bytes),
        *_parts("cpus", "processor", before.cpus, after.cpus, lambda cpu: cpu.socket, lambda cpu: cpu.model),
        *_parts("dimms", "memory module", before.dimms, after.dimms, _slot, _dimm_name),
        *_parts("disks", "disk", before.disks, after.disks, _disk_key, _disk_name, _disk_inside),
        *_parts("nics", "network port", before.nics, after.nics, lambda nic: nic.mac, _nic_name, _nic_inside),
        *_parts("pci", "PCI device", before.pci, after.pci, lambda pci: pci.address, _pci_name),
        *_bmc(before.bmc, after.bmc),
    ]


def size(count: int | None) -> str:
    """A number of bytes for people; powers of 1000 for what is no power of two, as disks are sold."""
    if count is None:
        return "unknown size"
    base, units = (
        (1024, ("B", "KiB", "MiB", "GiB", "TiB")) if count % 1048576 == 0 else (1000, ("B", "kB", "MB", "GB", "TB"))
    )
    value = float(count)
    unit = 0
    while value >= base and unit < len(units) - 1:
        value /= base
        unit += 1
    return f"{value:.3g} {units[unit]}" if value < 1000 else f"{value:.0f} {units[unit]}"


def _said(name: str, value: Any) -> str:
    if value in (None, ""):
        return "nothing"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return size(value) if name.endswith("size_bytes") or name == "memory_bytes" else str(value)


def _value(field: str, what: str, before: Any, after: Any) -> list[Change]:
    if before == after or before is None or after is None:
        return []
    name = field.rpartition(".")[2]
    text = f"{what} changed from {_said(name, before)} to {_said(name, after)}"
    return [Change(field, before, after, text)]


def _fields(path: str, whose: str, before: Any, after: Any) -> list[Change]:
    found = []
    for name in COMPARED[type(after)]:
        words = name.removesuffix("_bytes").replace("_", " ")
        found += _value(f"{path}.{name}", f"{whose} {words}", getattr(before, name), getattr(after, name))
    return found


Inside = Callable[[str, str, Any, Any], list[Change]]


def _parts(
    path: str,
    what: str,
    before: Iterable[Any],
    after: Iterable[Any],
    key: Callable[[Any], str],
    name: Callable[[Any], str],
    inside: Inside | None = None,
) -> list[Change]:
    """Compare two lists of parts by key; parts with an equal key are compared in their order."""
    old, new = _keyed(before, key), _keyed(after, key)
    found = []
    for mark, part in old.items():
        if mark not in new:
            found.append(Change(f"{path}[{mark}]", name(part), None, f"the {what} {_named(mark, name(part))} is gone"))
    for mark, part in new.items():
        if mark not in old:
            found.append(Change(f"{path}[{mark}]", None, name(part), f"the {what} {_named(mark, name(part))} is new"))
            continue
        found += _fields(f"{path}[{mark}]", f"the {what} {mark}'s", old[mark], part)
        if inside is not None:
            found += inside(f"{path}[{mark}]", f"the {what} {mark}", old[mark], part)
    return found


def _keyed(parts: Iterable[Any], key: Callable[[Any], str]) -> dict[str, Any]:
    table: dict[str, Any] = {}
    for part in parts:
        mark = key(part) or "?"
        number = 2
        while mark in table:
            mark = f"{key(part) or '?'}#{number}"
            number += 1
        table[mark] = part
    return table


def _named(mark: str, name: str) -> str:
    return f"{mark} ({name})" if name and name != mark else mark


def _slot(dimm: Dimm) -> str:
    return f"{dimm.locator} {dimm.bank}".strip()


def _dimm_name(dimm: Dimm) -> str:
    return " ".join(part for part in (size(dimm.size_bytes), dimm.manufacturer, dimm.part_number, dimm.serial) if part)


def _disk_key(disk: Disk) -> str:
    # Virtual disks may have neither: then place and size must do.
    return disk.serial or disk.wwn or f"{disk.model} {disk.pci_address} {size(disk.size_bytes)}".strip()


def _disk_name(disk: Disk) -> str:
    return " ".join(part for part in (disk.model, size(disk.size_bytes)) if part)


def _disk_inside(path: str, whose: str, before: Disk, after: Disk) -> list[Change]:
    found = _value(f"{path}.health.status", f"{whose}'s health", before.health.status, after.health.status)
    return found + _parts(
        f"{path}.namespaces",
        "namespace",
        before.namespaces,
        after.namespaces,
        lambda n: str(n.nsid),
        lambda n: size(n.size_bytes),
    )


def _nic_name(nic: Nic) -> str:
    return nic.driver


def _nic_inside(path: str, whose: str, before: Nic, after: Nic) -> list[Change]:
    # A port whose neighbour was not heard this time says nothing: LLDP is sent every 30 s only.
    if before.lldp is None or after.lldp is None:
        return []
    return _fields(f"{path}.lldp", f"{whose}'s switch", before.lldp, after.lldp)


def _pci_name(pci: Pci) -> str:
    return f"{pci.vendor} {pci.device}".strip() or f"{pci.vendor_id}:{pci.device_id}"


def _bmc(before: Bmc | None, after: Bmc | None) -> list[Change]:
    if before is None and after is None:
        return []
    if before is None and after is not None:
        return [Change("bmc", None, after.address, f"the BMC {after.address} is new")]
    if after is None and before is not None:
        return [Change("bmc", before.address, None, f"the BMC {before.address} is gone")]
    return _fields("bmc", "the BMC's", before, after)
