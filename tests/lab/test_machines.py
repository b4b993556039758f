"""The rack's machines: distinct in everything, the mix, and the XML that libvirt gets."""

from __future__ import annotations

import errno
import json
from pathlib import Path
from xml.etree import ElementTree

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
    domain_xml,
    from_json,
    mixed,
    to_json,
)
from metalbox.lab.network import BRIDGES
from metalbox.machine import Mac

QEMU = "{http://libvirt.org/schemas/domain/qemu/1.0}"
FOLDER = Path("/var/lib/metalbox/lab")


def xml_of(spec: MachineSpec) -> ElementTree.Element:
    return ElementTree.fromstring(domain_xml(spec, FOLDER, BRIDGES))


def arguments(root: ElementTree.Element) -> list[str]:
    return [row.attrib["value"] for row in root.iter(f"{QEMU}arg")]


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


def test_a_bios_machine_keeps_the_option_rom_and_writes_to_the_serial_port() -> None:
    root = xml_of(complete(mixed(1))[0])
    assert root.attrib["type"] == "qemu"
    assert root.find("os/loader") is None
    assert root.find("devices/interface/rom") is None
    log = root.find("devices/serial/log")
    assert log is not None
    assert log.attrib["file"] == str(FOLDER / "consoles" / "lab0001.log")


def test_a_uefi_machine_is_left_to_its_own_pxe_client() -> None:
    root = xml_of(complete(mixed(2))[1])
    rom = root.find("devices/interface/rom")
    assert rom is not None
    assert rom.attrib == {"enabled": "no"}
    assert "name=opt/org.tianocore/IPv6PXESupport,string=no" in arguments(root)
    assert "name=opt/org.tianocore/IPv4PXESupport,string=no" not in arguments(root)


def test_http_boot_comes_first_when_pxe_is_switched_off() -> None:
    (spec,) = complete([MachineSpec(firmware=Firmware.UEFI_HTTP)])
    assert "name=opt/org.tianocore/IPv4PXESupport,string=no" in arguments(xml_of(spec))


def test_secure_boot_has_the_enrolled_keys_and_smm() -> None:
    (spec,) = complete([MachineSpec(firmware=Firmware.SECURE_BOOT)])
    root = xml_of(spec)
    loader, smm = root.find("os/loader"), root.find("features/smm")
    assert loader is not None
    assert smm is not None
    assert (loader.attrib["secure"], loader.text) == ("yes", "/usr/share/OVMF/OVMF_CODE_4M.ms.fd")


def test_every_kind_of_disk_is_attached_with_its_serial() -> None:
    disks = tuple(Disk(f"D-{bus}", bus) for bus in (*Bus, *Bus))
    (spec,) = complete([MachineSpec(disks=disks)])
    root = xml_of(spec)
    assert [row.text for row in root.findall("devices/disk/serial")] == ["D-sata", "D-scsi", "D-virtio", "D-usb"] * 2
    targets = [row.attrib["dev"] for row in root.findall("devices/disk/target")]
    assert len(set(targets)) == len(targets)
    nvme = [argument for argument in arguments(root) if argument.startswith("nvme,serial=D-nvme")]
    assert [argument.rpartition("addr=")[2] for argument in nvme] == ["0x10", "0x15"]
    # A stick is removable, and not behind USB 1.1.
    assert [row.attrib.get("removable") for row in root.findall("devices/disk/target[@bus='usb']")] == ["on", "on"]
    assert [row.attrib["model"] for row in root.findall("devices/controller[@type='usb']")] == ["qemu-xhci"]


def test_full_disks_of_every_kind_in_every_machine() -> None:
    specs = complete(mixed(2, filled=True))
    assert [[disk.bus for disk in spec.disks] for spec in specs] == [list(Bus)] * 2
    assert {(disk.size, disk.fill) for spec in specs for disk in spec.disks} == {(FILLED_BYTES, "random")}
    assert len({disk.serial for spec in specs for disk in spec.disks}) == 10
    slow = [row.text for spec in specs for row in xml_of(spec).findall("devices/disk/iotune/total_bytes_sec")]
    assert slow == [str(SLOW)] * 2


def test_namespaces_and_defects_go_to_qemu() -> None:
    broken = (Defect(Failing.WRITE, 2048, errno.ENOSPC), Defect(Failing.READ))
    disks = (Disk("N", Bus.NVME, MIB, more=(2 * MIB,)), Disk("V", Bus.VIRTIO, MIB, defects=broken))
    (spec,) = complete([MachineSpec(disks=disks)])
    root = xml_of(spec)
    assert root.findall("devices/disk") == []
    words = arguments(root)
    nodes = {row["node-name"]: row for row in map(json.loads, (word for word in words if word.startswith("{")))}
    assert nodes["nvme0n2"]["file"]["filename"] == str(FOLDER / "disks" / "lab0001-N-n2.raw")
    assert "nvme-ns,drive=nvme0,bus=controller0,nsid=1,bootindex=2" in words
    assert "nvme-ns,drive=nvme0n2,bus=controller0,nsid=2" in words
    assert (nodes["virtio1"]["driver"], nodes["virtio1"]["image"]["driver"]) == ("blkdebug", "file")
    assert nodes["virtio1"]["inject-error"] == [
        {"event": "none", "iotype": "write", "errno": errno.ENOSPC, "sector": 2048},
        {"event": "none", "iotype": "write-zeroes", "errno": errno.ENOSPC, "sector": 2048},
        {"event": "none", "iotype": "read", "errno": errno.EIO},
    ]
    assert any(word.startswith("virtio-blk-pci,serial=V,drive=virtio1,bootindex=3,werror=report") for word in words)


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


def test_values_are_quoted() -> None:
    (spec,) = complete([MachineSpec(vendor="A & B <Ltd>")])
    entry = xml_of(spec).find("sysinfo/system/entry[@name='manufacturer']")
    assert entry is not None
    assert entry.text == "A & B <Ltd>"


def test_specifications_survive_json() -> None:
    odd = Disk("N", Bus.NVME, MIB, "random", (MIB,), (Defect(Failing.FLUSH, 7, errno.ENOSPC),))
    slow = Disk("S", Bus.SATA, speed=MIB)
    specs = complete([*mixed(4), MachineSpec(qemu_arguments=("-no-hpet",)), MachineSpec(disks=(odd, slow))], 768)
    assert tuple(from_json(json.loads(json.dumps(to_json(spec)))) for spec in specs) == specs
