"""What stands in the rack: specifications of machines. Touches nothing.

What works in QEMU 7.2 to 10.0 was measured: OVMF as Debian builds it has a driver of its own for virtio-net only (all
other models boot by QEMU's iPXE ROM instead), and the iPXE ROMs of pcnet and i82557b hang in an HTTP download.
"""

from __future__ import annotations

import errno
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

from metalbox.errors import InvalidValue
from metalbox.machine import Mac

# The agent's initramfs unpacks to some 130 MB; below 320 MB of memory the kernel writes "Initramfs unpacking failed"
# and boots on with files missing.
MEMORY_MIB = 512
MIB, GIB = 2**20, 2**30
# The size of disks that are full of data: small, for every byte of them is really written.
FILLED_BYTES = 128 * MIB
# Bytes in a second.
SLOW = 16 * MIB


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

    @property
    def is_direct(self) -> bool:
        """Whether QEMU is told of it past libvirt, which before 11 knows no NVMe, and no blkdebug at all."""
        return self.bus is Bus.NVME or bool(self.defects)


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
    if disk.speed and disk.is_direct:
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
