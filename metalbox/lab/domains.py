"""The libvirt domain that a machine of the rack becomes, with what QEMU is told past libvirt. Touches nothing."""

from __future__ import annotations

import json
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape, quoteattr

from metalbox.lab.machines import (
    BmcKind,
    Bus,
    Defect,
    Failing,
    Firmware,
    MachineSpec,
    Segment,
    console_path,
    disk_path,
)

QEMU = Path("/usr/bin/qemu-system-x86_64")
OVMF = Path("/usr/share/OVMF")
# libvirt gives its own devices PCI slots from 1 upwards (31 on q35); without an address QEMU would take one of those.
FIRST_OWN_SLOT = 0x10

# Settings of OVMF from outside ("no"). A boot entry that fails costs 63 s, and PXEv6 comes before HTTP Boot.
FW_CFG: dict[Firmware, tuple[str, ...]] = {
    Firmware.BIOS: (),
    Firmware.UEFI_PXE: ("IPv6PXESupport",),
    Firmware.UEFI_HTTP: ("IPv4PXESupport", "IPv6PXESupport"),
    Firmware.SECURE_BOOT: ("IPv6PXESupport",),
}

# libvirt before 11 knows no NVMe disks, and sushy-tools moves to the front only what libvirt knows. It numbers those
# from 1, and QEMU refuses to start with two devices at one place.
LAST_PLACE = 100
# Where an IPMI BMC serves its machine, at its own address.
KCS_PORT = 9002
SERIAL_PORT = 9004


class First(StrEnum):
    """What a machine's firmware tries first."""

    NETWORK = "network"
    DISK = "disk"


def domain_xml(
    spec: MachineSpec,
    directory: Path,
    bridges: dict[Segment, str],
    *,
    first: First = First.NETWORK,
    ipmi: str = "",
) -> str:
    """Return the libvirt domain of a machine whose files lie under `directory`.

    `ipmi` is the address of its IPMI BMC, which has the other ends of its KCS and of its serial port.
    """
    log = quoteattr(str(console_path(directory, spec)))
    devices = [
        f"<emulator>{QEMU}</emulator>",
        *_disks(spec, directory, first),
        *_nics(spec, bridges, first),
        f"<serial {_serial_source(ipmi)}<log file={log} append='on'/><target port='0'/></serial>",
        "<memballoon model='none'/>",
    ]
    return "\n".join(
        (
            "<domain type='qemu' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>",
            f"<name>{escape(spec.name)}</name>",
            "" if spec.bmc is BmcKind.NONE else f"<uuid>{spec.uuid}</uuid>",
            f"<memory unit='MiB'>{spec.memory_mib}</memory><vcpu>{spec.cpus}</vcpu>",
            _smbios(spec),
            _os(spec, directory),
            "<cpu mode='custom'><model>qemu64</model></cpu>",
            "<on_poweroff>destroy</on_poweroff><on_reboot>restart</on_reboot><on_crash>destroy</on_crash>",
            "<devices>",
            *devices,
            "</devices>",
            _command_line(spec, directory, first, ipmi),
            "</domain>",
        )
    )


def _serial_source(ipmi: str) -> str:
    """The start of the <serial> element: what is at the line's other end beside the log."""
    if not ipmi:
        return "type='pty'>"
    return (
        f"type='tcp'><source mode='connect' host='{ipmi}' service='{SERIAL_PORT}'>"
        "<reconnect enabled='yes' timeout='1'/></source><protocol type='raw'/>"
    )


def _smbios(spec: MachineSpec) -> str:
    rows = (("manufacturer", spec.vendor), ("product", spec.product), ("serial", spec.serial))
    system = "".join(f"<entry name='{name}'>{escape(value)}</entry>" for name, value in rows)
    chassis = (
        f"<entry name='manufacturer'>{escape(spec.vendor)}</entry><entry name='serial'>{escape(spec.serial)}C</entry>"
        f"<entry name='asset'>{escape(spec.asset)}</entry>"
    )
    return f"<sysinfo type='smbios'><system>{system}</system><chassis>{chassis}</chassis></sysinfo>"


def _os(spec: MachineSpec, directory: Path) -> str:
    if spec.firmware is Firmware.BIOS:
        kind, loader = "pc", "<bios useserial='yes'/>"
        features = "<acpi/><apic/>"
    else:
        is_secure = spec.firmware is Firmware.SECURE_BOOT
        kind, suffix = "q35", ".ms" if is_secure else ""
        nvram = directory / "disks" / f"{spec.name}.nvram"
        loader = (
            f"<loader readonly='yes' secure='{'yes' if is_secure else 'no'}' type='pflash'>"
            f"{OVMF}/OVMF_CODE_4M{suffix}.fd</loader>"
            f"<nvram template='{OVMF}/OVMF_VARS_4M{suffix}.fd'>{escape(str(nvram))}</nvram>"
        )
        features = "<acpi/><apic/>" + ("<smm state='on'/>" if is_secure else "")
    boot = f"<os><type arch='x86_64' machine='{kind}'>hvm</type>{loader}<smbios mode='sysinfo'/></os>"
    return f"{boot}\n<features>{features}</features>"


def _disk_order(place: int, first: First) -> int:
    """Where the firmware tries the disk at `place` (from 0): in turn, after the boot port or before it."""
    return place + (2 if first is First.NETWORK else 1)


def _disks(spec: MachineSpec, directory: Path, first: First) -> list[str]:
    """The disks that libvirt is told of."""
    rows = []
    letters: dict[str, int] = {}
    for place, disk in enumerate(spec.disks):
        if disk.is_direct:
            continue
        prefix = "vd" if disk.bus is Bus.VIRTIO else "sd"
        letter = chr(ord("a") + letters.setdefault(prefix, 0))
        letters[prefix] += 1
        removable = " removable='on'" if disk.bus is Bus.USB else ""
        slow = f"<iotune><total_bytes_sec>{disk.speed}</total_bytes_sec></iotune>" if disk.speed else ""
        rows.append(
            "<disk type='file' device='disk'><driver name='qemu' type='raw' discard='unmap'/>"
            f"<source file={quoteattr(str(disk_path(directory, spec, disk)))}/>"
            f"<target dev='{prefix}{letter}' bus='{disk.bus}'{removable}/>"
            f"{slow}<serial>{escape(disk.serial)}</serial><boot order='{_disk_order(place, first)}'/></disk>"
        )
    if any(disk.bus is Bus.USB for disk in spec.disks):
        # The USB 1.1 controller that libvirt takes otherwise moves 1 MB/s.
        rows.append("<controller type='usb' model='qemu-xhci'/>")
    if any(disk.bus is Bus.SCSI for disk in spec.disks):
        rows.append("<controller type='scsi' model='virtio-scsi'/>")
    return rows


def _nics(spec: MachineSpec, bridges: dict[Segment, str], first: First) -> list[str]:
    # Without its option ROM (romfile=) the NIC is left to OVMF's own PXE client.
    rom = "" if spec.firmware is Firmware.BIOS else "<rom enabled='no'/>"
    boot, empty = f"<boot order='{1 if first is First.NETWORK else 1 + len(spec.disks)}'/>", ""
    return [
        f"<interface type='bridge'><mac address='{nic.mac}'/><source bridge='{bridges[nic.segment]}'/>"
        f"<model type='{nic.model}'/>{boot if place == 0 else empty}{rom}</interface>"
        for place, nic in enumerate(spec.nics)
    ]


def _command_line(spec: MachineSpec, directory: Path, first: First, ipmi: str) -> str:
    # libvirt wants its own UUID of a domain to be unique; the machine's may be a copy, as with some boards.
    arguments = ["-smbios", f"type=1,uuid={spec.uuid}"]
    bus = "pci.0" if spec.firmware is Firmware.BIOS else "pcie.0"
    for name in FW_CFG[spec.firmware]:
        arguments += ["-fw_cfg", f"name=opt/org.tianocore/{name},string=no"]
    for place, disk in enumerate(spec.disks):
        if disk.is_direct:
            order = LAST_PLACE + place if spec.bmc.has_redfish else _disk_order(place, first)
            where = f"bus={bus},addr={FIRST_OWN_SLOT + place:#x}"
            arguments += _direct_disk(spec, directory, place, where, order)
    if ipmi:
        arguments += ["-chardev", f"socket,id=bmc0wire,host={ipmi},port={KCS_PORT},reconnect=2"]
        arguments += ["-device", "ipmi-bmc-extern,id=bmc0,chardev=bmc0wire"]
        arguments += ["-device", "isa-ipmi-kcs,bmc=bmc0,ioport=0xca2,irq=5"]
    arguments += spec.qemu_arguments
    rows = "".join(f"<qemu:arg value={quoteattr(argument)}/>" for argument in arguments)
    return f"<qemu:commandline>{rows}</qemu:commandline>"


def _direct_disk(spec: MachineSpec, directory: Path, place: int, where: str, order: int) -> list[str]:
    """QEMU's arguments for the disk at `place`, which libvirt is not told of."""
    disk, arguments = spec.disks[place], []
    names = [f"{disk.bus}{place}" + (f"n{number}" if number > 1 else "") for number in range(1, 2 + len(disk.more))]
    for number, name in enumerate(names, 1):
        path = disk_path(directory, spec, disk, number)
        arguments += ["-blockdev", json.dumps(_node(name, path, disk.defects if number == 1 else ()))]
    if disk.bus is Bus.VIRTIO:
        # QEMU would stop the machine when its disk is full.
        answer = "werror=report,rerror=report"
        device = f"virtio-blk-pci,serial={disk.serial},drive={names[0]},bootindex={order},{answer},{where}"
        return [*arguments, "-device", device]
    if not disk.more:
        return [*arguments, "-device", f"nvme,serial={disk.serial},drive={names[0]},bootindex={order},{where}"]
    arguments += ["-device", f"nvme,id=controller{place},serial={disk.serial},{where}"]
    for number, name in enumerate(names, 1):
        boots = f",bootindex={order}" if number == 1 else ""
        arguments += ["-device", f"nvme-ns,drive={name},bus=controller{place},nsid={number}{boots}"]
    return arguments


def _node(name: str, path: Path, defects: Sequence[Defect]) -> dict[str, Any]:
    """A block node of QEMU: the file, with blkdebug before it when it has defects."""
    file = {"driver": "file", "filename": str(path), "discard": "unmap"}
    if not defects:
        return {"driver": "raw", "node-name": name, "discard": "unmap", "file": file}
    rules = []
    for defect in defects:
        # A write of zeroes is a kind of its own in QEMU, and fails in the same places.
        kinds = ("write", "write-zeroes") if defect.what is Failing.WRITE else (str(defect.what),)
        where = {} if defect.sector < 0 else {"sector": defect.sector}
        rules += [{"event": "none", "iotype": kind, "errno": defect.errno, **where} for kind in kinds]
    return {"driver": "blkdebug", "node-name": name, "discard": "unmap", "image": file, "inject-error": rules}
