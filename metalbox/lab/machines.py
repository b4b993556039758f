"""What stands in the rack: specifications of machines, and the libvirt XML that makes them. Touches nothing.

What works in QEMU 7.2 to 10.0 was measured: OVMF as Debian builds it has a driver of its own for virtio-net only (all
other models boot by QEMU's iPXE ROM instead), and the iPXE ROMs of pcnet and i82557b hang in an HTTP download.
"""

from __future__ import annotations

import errno
import json
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape, quoteattr

from metalbox.errors import InvalidValue
from metalbox.machine import Mac

QEMU = Path("/usr/bin/qemu-system-x86_64")
OVMF = Path("/usr/share/OVMF")
# The agent's initramfs unpacks to some 130 MB; below 320 MB of memory the kernel writes "Initramfs unpacking failed"
# and boots on with files missing.
MEMORY_MIB = 512
MIB, GIB = 2**20, 2**30
# The size of disks that are full of data: small, for every byte of them is really written.
FILLED_BYTES = 128 * MIB
# Bytes in a second.
SLOW = 16 * MIB
# libvirt gives its own devices PCI slots from 1 upwards (31 on q35); without an address QEMU would take one of those.
FIRST_OWN_SLOT = 0x10


class Firmware(StrEnum):
    """How a machine starts."""

    BIOS = "bios"  # SeaBIOS and the iPXE option ROM that QEMU gives each NIC
    UEFI_PXE = "uefi-pxe"  # OVMF and its own PXE client
    UEFI_HTTP = "uefi-http"  # OVMF and its own HTTP Boot client
    SECURE_BOOT = "secure-boot"  # OVMF's PXE client, with Microsoft's keys enrolled


class Bus(StrEnum):
    """How a disk is attached."""

    NVME = "nvme"
    SATA = "sata"
    SCSI = "scsi"
    VIRTIO = "virtio"
    USB = "usb"  # a stick: removable


# What a machine's own disks are attached by.
BUILT_IN = (Bus.NVME, Bus.SATA, Bus.SCSI, Bus.VIRTIO)


class BmcKind(StrEnum):
    """The management processor of a machine."""

    NONE = "none"
    REDFISH = "redfish"  # sushy-tools' emulator
    IPMI = "ipmi"  # OpenIPMI's ipmi_sim, over LAN and, from inside the machine, KCS
    BOTH = "both"  # both of them at one address

    @property
    def has_redfish(self) -> bool:
        """Whether it speaks Redfish."""
        return self in (BmcKind.REDFISH, BmcKind.BOTH)

    @property
    def has_ipmi(self) -> bool:
        """Whether it speaks IPMI."""
        return self in (BmcKind.IPMI, BmcKind.BOTH)


class First(StrEnum):
    """What a machine's firmware tries first."""

    NETWORK = "network"
    DISK = "disk"


class Segment(StrEnum):
    """The wire a NIC is plugged into."""

    LOCAL = "local"  # where metalbox itself stands
    RELAYED = "relayed"  # behind a DHCP relay and router


NIC_MODELS: dict[Firmware, tuple[str, ...]] = {
    Firmware.BIOS: ("virtio", "e1000e", "e1000", "rtl8139", "vmxnet3"),
    Firmware.UEFI_PXE: ("virtio",),
    Firmware.UEFI_HTTP: ("virtio",),
    Firmware.SECURE_BOOT: ("virtio",),
}

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

MODELS = (
    ("Fjord Systems", "F110 Gen2"),
    ("Kestrel", "KX-2200"),
    ("Anvil Computing", "Rack One"),
    ("Borealis", "B4 Dense"),
)


@dataclass(frozen=True, slots=True)
class Nic:
    """One network port. `model` is libvirt's name of it."""

    mac: Mac
    model: str = "virtio"
    segment: Segment = Segment.LOCAL


class Failing(StrEnum):
    """What a disk with a defect fails to do; the words are blkdebug's."""

    READ = "read"
    WRITE = "write"
    FLUSH = "flush"


@dataclass(frozen=True, slots=True)
class Defect:
    """A place where a disk fails, every time (QEMU's blkdebug driver). `sector` counts 512 bytes; -1 is all of them."""

    what: Failing
    sector: int = -1
    errno: int = errno.EIO


@dataclass(frozen=True, slots=True)
class Disk:
    """One disk. Its file is sparse and empty, or begins with what `fill` says: "random" fills all of it, else a path.

    `more` are the sizes of further namespaces, of NVMe only. Only NVMe and virtio can have defects, in their first
    namespace. `speed` bounds the bytes that a disk known to libvirt reads and writes in a second, 0 does not.
    """

    serial: str
    bus: Bus = Bus.VIRTIO
    size: int = 4 * GIB
    fill: str = ""
    more: tuple[int, ...] = ()
    defects: tuple[Defect, ...] = ()
    speed: int = 0


@dataclass(frozen=True, slots=True)
class MachineSpec:
    """One machine. What is left empty is filled from its number in the rack by `numbered`, each value distinct."""

    name: str = ""
    firmware: Firmware = Firmware.BIOS
    nics: tuple[Nic, ...] = ()
    disks: tuple[Disk, ...] = ()
    vendor: str = ""
    product: str = ""
    serial: str = ""
    uuid: str = ""
    asset: str = ""
    memory_mib: int = 0
    cpus: int = 1
    segment: Segment = Segment.LOCAL
    bmc: BmcKind = BmcKind.NONE
    qemu_arguments: tuple[str, ...] = field(default=())

    @property
    def mac(self) -> Mac:
        """The port it boots from."""
        return self.nics[0].mac


def numbered(spec: MachineSpec, number: int, memory_mib: int = MEMORY_MIB) -> MachineSpec:
    """Fill in what `spec` leaves open, for the machine at place `number` (from 1). Raises InvalidValue."""
    models = NIC_MODELS[spec.firmware]
    mac = Mac.from_bytes(bytes((0x52, 0x54, 0x00, 0x6D, number >> 8, number & 0xFF)))
    vendor, product = MODELS[number % len(MODELS)]
    bus = BUILT_IN[(number - 1) % len(BUILT_IN)]
    if spec.bmc.has_redfish and bus is Bus.NVME:
        bus = Bus.SATA
    nics = spec.nics or (Nic(mac, models[(number - 1) // 2 % len(models)], spec.segment),)
    if nics[0].model not in models:
        raise InvalidValue(
            f"a {spec.firmware} machine cannot boot from a {nics[0].model} NIC: its firmware drives {', '.join(models)}"
        )
    for disk in spec.disks:
        _check_disk(disk)
    return replace(
        spec,
        name=spec.name or f"lab{number:04d}",
        nics=nics,
        disks=spec.disks or (Disk(f"LABDISK{number:04d}", bus, (3 + number) * GIB),),
        vendor=spec.vendor or vendor,
        product=spec.product or product,
        serial=spec.serial or f"LAB{number:04d}",
        uuid=spec.uuid or str(uuid.uuid5(uuid.NAMESPACE_DNS, f"machine-{number}.lab.metalbox.invalid")),
        asset=spec.asset or f"AT-{number:04d}",
        memory_mib=spec.memory_mib or memory_mib,
    )


def _check_disk(disk: Disk) -> None:
    if disk.more and disk.bus is not Bus.NVME:
        raise InvalidValue(f"the disk {disk.serial} is not NVMe: it has no namespaces")
    if disk.defects and disk.bus not in (Bus.NVME, Bus.VIRTIO):
        raise InvalidValue(f"the disk {disk.serial} is {disk.bus}: only NVMe and virtio disks can have defects")
    if disk.speed and _is_direct(disk):
        raise InvalidValue(f"the disk {disk.serial} cannot be slowed down: libvirt is not told of it")


def mixed(count: int, *, with_bmcs: bool = False, filled: bool = False) -> tuple[MachineSpec, ...]:
    """Return `count` machines, BIOS and UEFI in turn; completed, they have NICs and disks of every kind in turn.

    `with_bmcs` gives every firmware an IPMI BMC and a Redfish BMC in turn; `filled` gives every machine a disk of each
    kind and a USB stick, all small and full of random bytes.
    """
    kinds = (Firmware.BIOS, Firmware.UEFI_PXE)
    bmcs = (BmcKind.IPMI, BmcKind.REDFISH, BmcKind.REDFISH, BmcKind.IPMI)
    return tuple(
        MachineSpec(
            firmware=kinds[place % 2],
            bmc=bmcs[place % 4] if with_bmcs else BmcKind.NONE,
            disks=full_disks(f"{place + 1:04d}") if filled else (),
        )
        for place in range(count)
    )


def full_disks(number: str, size: int = FILLED_BYTES) -> tuple[Disk, ...]:
    """A disk of each kind and a USB stick, full of random bytes; `number` makes their serial numbers distinct.

    The SATA disk is slow, as such disks are: so that there is something to see.
    """
    return tuple(
        Disk(f"{bus.upper()}{number}", bus, size, "random", speed=SLOW if bus is Bus.SATA else 0)
        for bus in (*BUILT_IN, Bus.USB)
    )


def complete(specs: Sequence[MachineSpec], memory_mib: int = MEMORY_MIB) -> tuple[MachineSpec, ...]:
    """Number the machines and check that no two share what must be one machine's own. Raises InvalidValue."""
    done = tuple(numbered(spec, place, memory_mib) for place, spec in enumerate(specs, 1))
    names = [spec.name for spec in done]
    macs = [str(nic.mac) for spec in done for nic in spec.nics]
    # A BMC names its machine by this UUID, and libvirt has no two domains with one.
    uuids = [spec.uuid for spec in done if spec.bmc is not BmcKind.NONE]
    for value in (*names, *macs, *uuids):
        if names.count(value) > 1 or macs.count(value) > 1 or uuids.count(value) > 1:
            raise InvalidValue(f"two machines of the rack have {value!r}: each needs its own")
    return done


def disk_path(directory: Path, spec: MachineSpec, disk: Disk, namespace: int = 1) -> Path:
    """Where a disk's content lies; each further namespace of an NVMe disk has a file of its own."""
    suffix = f"-n{namespace}" if namespace > 1 else ""
    return directory / "disks" / f"{spec.name}-{disk.serial}{suffix}.raw"


def console_path(directory: Path, spec: MachineSpec) -> Path:
    """Where everything that a machine writes to its serial console is kept."""
    return directory / "consoles" / f"{spec.name}.log"


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


def _is_direct(disk: Disk) -> bool:
    """Whether QEMU is told of a disk past libvirt, which before 11 knows no NVMe, and no blkdebug at all."""
    return disk.bus is Bus.NVME or bool(disk.defects)


def _disks(spec: MachineSpec, directory: Path, first: First) -> list[str]:
    """The disks that libvirt is told of."""
    rows = []
    letters: dict[str, int] = {}
    for place, disk in enumerate(spec.disks):
        if _is_direct(disk):
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
        if _is_direct(disk):
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


def to_json(spec: MachineSpec) -> dict[str, Any]:
    """A specification as plain values, read back by `from_json`."""
    return {
        "name": spec.name,
        "firmware": spec.firmware,
        "nics": [[nic.mac, nic.model, nic.segment] for nic in spec.nics],
        "disks": [_disk_row(disk) for disk in spec.disks],
        "vendor": spec.vendor,
        "product": spec.product,
        "serial": spec.serial,
        "uuid": spec.uuid,
        "asset": spec.asset,
        "memory_mib": spec.memory_mib,
        "cpus": spec.cpus,
        "segment": spec.segment,
        "bmc": spec.bmc,
        "qemu_arguments": list(spec.qemu_arguments),
    }


def from_json(row: dict[str, Any]) -> MachineSpec:
    """The specification that `to_json` wrote."""
    return MachineSpec(
        **{
            **row,
            "firmware": Firmware(row["firmware"]),
            "nics": tuple(Nic(Mac(mac), model, Segment(segment)) for mac, model, segment in row["nics"]),
            "disks": tuple(_disk(*values) for values in row["disks"]),
            "segment": Segment(row["segment"]),
            "bmc": BmcKind(row["bmc"]),
            "qemu_arguments": tuple(row["qemu_arguments"]),
        }
    )


def _disk_row(disk: Disk) -> list[Any]:
    defects = [[defect.what, defect.sector, defect.errno] for defect in disk.defects]
    return [disk.serial, disk.bus, disk.size, disk.fill, list(disk.more), defects, disk.speed]


def _disk(serial: str, bus: str, size: int, fill: str, more: list[int], defects: list[Any], speed: int) -> Disk:
    found = tuple(Defect(Failing(what), sector, number) for what, sector, number in defects)
    return Disk(serial, Bus(bus), size, fill, tuple(more), found, speed)
