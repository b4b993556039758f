"""The rack's machines: distinct in everything, and the mix."""

from __future__ import annotations

import errno
import json

import pytest

from metalbox.errors import InvalidValue
from metalbox.lab.machines import (
    BUILT_IN,
    FILLED_BYTES,
    GIB,
    MIB,
    NIC_MODELS,
    SLOW,
    Bus,
    Defect,
    Disk,
    Failing,
    Firmware,
    MachineSpec,
    Nic,
    Segment,
    complete,
    from_json,
    mixed,
    to_json,
)
from metalbox.machine import Mac


def test_a_mix_has_both_firmwares_every_disk_and_nic_and_nothing_twice() -> None:
    specs = complete(mixed(20))
    assert [spec.firmware for spec in specs[:4]] == [Firmware.BIOS, Firmware.UEFI_PXE] * 2
    assert {spec.nics[0].model for spec in specs if spec.firmware is Firmware.BIOS} == set(NIC_MODELS[Firmware.BIOS])
    assert {disk.bus for spec in specs for disk in spec.disks} == set(BUILT_IN)
    for values in (
        [spec.name for spec in specs],
        [spec.serial for spec in specs],
        [spec.uuid for spec in specs],
        [spec.asset for spec in specs],
        [spec.mac for spec in specs],
        [spec.disks[0].serial for spec in specs],
        [spec.disks[0].size for spec in specs],
    ):
        assert len(set(values)) == len(specs)


def test_the_same_rack_again_has_the_same_machines() -> None:
    assert complete(mixed(4)) == complete(mixed(4))


def test_what_is_given_is_kept() -> None:
    disks = (Disk("A", Bus.SATA, GIB), Disk("B", Bus.NVME, 2 * GIB))
    (spec,) = complete([MachineSpec(name="db1", serial="S1", disks=disks, segment=Segment.RELAYED, cpus=2)])
    assert (spec.name, spec.serial, spec.disks, spec.cpus) == ("db1", "S1", disks, 2)
    assert spec.nics[0].segment is Segment.RELAYED


def test_a_nic_that_the_firmware_cannot_drive_is_refused() -> None:
    nic = Nic(Mac.parse("52:54:00:00:00:01"), "e1000e")
    with pytest.raises(InvalidValue, match="a uefi-pxe machine cannot boot from a e1000e NIC"):
        complete([MachineSpec(firmware=Firmware.UEFI_PXE, nics=(nic,))])


def test_two_machines_with_one_name_are_refused() -> None:
    with pytest.raises(InvalidValue, match="'a'"):
        complete([MachineSpec(name="a"), MachineSpec(name="a")])


def test_full_disks_of_every_kind_in_every_machine() -> None:
    specs = complete(mixed(2, filled=True))
    assert [[disk.bus for disk in spec.disks] for spec in specs] == [list(Bus)] * 2
    assert {(disk.size, disk.fill) for spec in specs for disk in spec.disks} == {(FILLED_BYTES, "random")}
    assert len({disk.serial for spec in specs for disk in spec.disks}) == 10
    assert [disk.speed for spec in specs for disk in spec.disks if disk.speed] == [SLOW] * 2


@pytest.mark.parametrize(
    ("disk", "words"),
    [
        (Disk("A", Bus.SATA, more=(MIB,)), "the disk A is not NVMe: it has no namespaces"),
        (Disk("C", Bus.NVME, speed=MIB), "the disk C cannot be slowed down"),
        (Disk("B", Bus.USB, defects=(Defect(Failing.READ),)), "the disk B is usb: only NVMe and virtio"),
    ],
)
def test_what_no_such_disk_can_have_is_refused(disk: Disk, words: str) -> None:
    with pytest.raises(InvalidValue, match=words):
        complete([MachineSpec(disks=(disk,))])


def test_specifications_survive_json() -> None:
    odd = Disk("N", Bus.NVME, MIB, "random", (MIB,), (Defect(Failing.FLUSH, 7, errno.ENOSPC),))
    slow = Disk("S", Bus.SATA, speed=MIB)
    specs = complete([*mixed(4), MachineSpec(qemu_arguments=("-no-hpet",)), MachineSpec(disks=(odd, slow))], 768)
    assert tuple(from_json(json.loads(json.dumps(to_json(spec)))) for spec in specs) == specs
