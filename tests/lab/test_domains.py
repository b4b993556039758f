"""The domains of the rack's machines: the XML that libvirt gets, and QEMU's arguments in it."""

from __future__ import annotations

import errno
import json
from pathlib import Path
from xml.etree import ElementTree

from metalbox.lab.domains import domain_xml
from metalbox.lab.machines import MIB, SLOW, Bus, Defect, Disk, Failing, Firmware, MachineSpec, complete, mixed
from metalbox.lab.network import BRIDGES

QEMU = "{http://libvirt.org/schemas/domain/qemu/1.0}"
FOLDER = Path("/var/lib/metalbox/lab")


def xml_of(spec: MachineSpec) -> ElementTree.Element:
    return ElementTree.fromstring(domain_xml(spec, FOLDER, BRIDGES))


def arguments(root: ElementTree.Element) -> list[str]:
    return [row.attrib["value"] for row in root.iter(f"{QEMU}arg")]


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


def test_a_slow_disk_is_slowed_down() -> None:
    specs = complete(mixed(2, filled=True))
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


def test_values_are_quoted() -> None:
    (spec,) = complete([MachineSpec(vendor="A & B <Ltd>")])
    entry = xml_of(spec).find("sysinfo/system/entry[@name='manufacturer']")
    assert entry is not None
    assert entry.text == "A & B <Ltd>"
