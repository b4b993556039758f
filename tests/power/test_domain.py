"""Definitions of libvirt domains: whole orders before and after, in each of the ways that libvirt has to write them."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Callable

import pytest

from metalbox.errors import BmcGarbage, BmcNotSupported, BmcRefused
from metalbox.power import Device, Mode, Override
from metalbox.power.domain import Domain

DISK = "<disk type='file' device='disk'><target dev='vda' bus='virtio'/>{}</disk>"
SECOND = "<disk type='file' device='disk'><target dev='sdb' bus='sata'/>{}</disk>"
CD = "<disk type='file' device='cdrom'><target dev='sda' bus='sata'/>{}</disk>"
NIC = "<interface type='bridge'><mac address='52:54:00:00:00:0{}'/>{}</interface>"
HOST = "<hostdev mode='subsystem' type='pci'>{}</hostdev>"


def boot(order: int) -> str:
    return f"<boot order='{order}'/>"


def definition(*devices: str, os: str = "", more: str = "") -> Domain:
    return Domain(
        "<domain type='qemu' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'><name>guest</name>"
        f"<os><type arch='x86_64' machine='pc'>hvm</type>{os}</os>"
        f"<devices><emulator>/usr/bin/qemu</emulator>{''.join(devices)}</devices>{more}</domain>"
    )


def order(domain: Domain) -> list[str]:
    """What is tried in turn, read with another eye: the targets and MACs by their number, or the words below <os>."""
    root = ET.fromstring(domain.text())
    if words := [element.attrib["dev"] for element in root.findall("os/boot")]:
        return words
    numbered: dict[int, str] = {}
    for element in root.findall("devices/*"):
        number = element.find("boot")
        if number is not None:
            name = element.find("target") if element.tag == "disk" else element.find("mac")
            key = int(number.attrib["order"])
            assert key not in numbered, "libvirt refuses two devices with one number"
            numbered[key] = element.tag if name is None else name.get("dev") or name.attrib["address"][-2:]
    return [numbered[key] for key in sorted(numbered)]


def by_device() -> Domain:
    return definition(DISK.format(boot(3)), CD.format(boot(2)), NIC.format(1, boot(1)), NIC.format(2, ""))


def by_word() -> Domain:
    return definition(
        DISK.format(""),
        CD.format(""),
        NIC.format(1, ""),
        os="<boot dev='hd'/><boot dev='network'/><bootmenu enable='no'/>",
    )


@pytest.mark.parametrize(
    ("device", "expected"),
    [
        (Device.PXE, ["01", "sda", "vda"]),
        (Device.DISK, ["vda", "01", "sda"]),
        (Device.CDROM, ["sda", "01", "vda"]),
    ],
)
def test_the_order_at_the_devices(device: Device, expected: list[str]) -> None:
    domain = by_device()
    domain.set_override(device, Mode.KEEP, once=True)
    assert order(domain) == expected
    assert Domain(domain.text()).override == Override(device, Mode.BIOS, True)


@pytest.mark.parametrize(
    ("device", "expected"),
    [
        (Device.PXE, ["network", "hd"]),
        (Device.DISK, ["hd", "network"]),
        (Device.CDROM, ["cdrom", "hd", "network"]),
    ],
)
def test_the_order_below_os(device: Device, expected: list[str]) -> None:
    domain = by_word()
    domain.set_override(device, Mode.BIOS, once=False)
    assert order(domain) == expected
    assert Domain(domain.text()).override == Override(device, Mode.BIOS, False)
    assert "bootmenu" in domain.text()


@pytest.mark.parametrize("make", [by_device, by_word], ids=["at the devices", "below os"])
def test_clearing_gives_back_the_owners_own_order_whatever_was_set_between(make: Callable[[], Domain]) -> None:
    domain = make()
    before = ET.canonicalize(domain.text())
    for device in (Device.DISK, Device.CDROM, Device.PXE):
        domain.set_override(device, Mode.KEEP, once=True)
        domain = Domain(domain.text())
    domain.set_override(Device.NONE, Mode.KEEP, once=True)
    assert ET.canonicalize(domain.text()) == before
    assert domain.override == Override()
    domain.clear_override()
    assert ET.canonicalize(domain.text()) == before


def test_metadata_of_others_is_kept() -> None:
    domain = definition(
        NIC.format(1, ""), DISK.format(""), more="<metadata><o:x xmlns:o='urn:other' y='1'/></metadata>"
    )
    domain.set_override(Device.PXE, Mode.KEEP, once=True)
    domain.clear_override()
    assert 'y="1"' in domain.text()


def test_a_domain_without_any_order_gets_its_none_back() -> None:
    domain = definition(DISK.format(""), NIC.format(1, ""))
    domain.set_override(Device.PXE, Mode.KEEP, once=True)
    assert order(domain) == ["network"]
    domain.clear_override()
    assert order(domain) == []


def test_a_device_that_came_after_the_override_keeps_out_of_the_way() -> None:
    domain = definition(HOST.format(boot(1)), DISK.format(boot(2)), NIC.format(1, ""))
    domain.set_override(Device.PXE, Mode.KEEP, once=True)
    assert order(domain) == ["01", "hostdev", "vda"]


def nvme(index: int, *devices: str) -> Domain:
    arguments = f"<qemu:arg value='-device'/><qemu:arg value='nvme,drive=d,bootindex={index},addr=0x10'/>"
    return definition(*devices, more=f"<qemu:commandline>{arguments}</qemu:commandline>")


def test_disks_of_qemus_own_command_line_are_disks() -> None:
    domain = nvme(2, NIC.format(1, boot(1)))
    domain.set_override(Device.DISK, Mode.KEEP, once=True)
    assert '<boot order="3"' in domain.text()  # behind the disk at 2
    domain.set_override(Device.PXE, Mode.KEEP, once=True)
    assert '<boot order="1"' in domain.text()
    first = nvme(1, NIC.format(1, boot(2)))
    with pytest.raises(BmcRefused, match="gives bootindex 1 to a disk of its own"):
        first.set_override(Device.PXE, Mode.KEEP, once=True)
    mixed = nvme(100, NIC.format(1, boot(1)), DISK.format(boot(2)))
    mixed.set_override(Device.DISK, Mode.KEEP, once=True)
    assert order(mixed) == ["vda", "01"]
    assert '<boot order="101"' in mixed.text()


def test_the_boot_indexes_of_the_running_qemu() -> None:
    def alias(name: str) -> str:
        return f"<alias name='{name}'/>"

    live = definition(
        DISK.format(alias("virtio-disk0")),
        SECOND.format(alias("sata0-0-1")),
        NIC.format(1, alias("net0")),
        NIC.format(2, alias("net1")),
    )
    numbered = definition(DISK.format(boot(2)), SECOND.format(""), NIC.format(1, ""), NIC.format(2, boot(1)))
    assert numbered.boot_indexes(live) == {"virtio-disk0": 2, "sata0-0-1": -1, "net0": -1, "net1": 1}
    words = definition(
        DISK.format(""), SECOND.format(""), NIC.format(1, ""), NIC.format(2, ""),
        os="<boot dev='network'/><boot dev='hd'/>",
    )  # fmt: skip
    assert words.boot_indexes(live) == {"virtio-disk0": 2, "sata0-0-1": -1, "net0": 1, "net1": -1}


@pytest.mark.parametrize(
    ("device", "mode", "error", "sentence"),
    [
        (Device.HTTP, Mode.KEEP, BmcNotSupported, "libvirt has no boot device http: it knows pxe, disk, cdrom"),
        (Device.BIOS, Mode.KEEP, BmcNotSupported, "libvirt has no boot device bios"),
        (Device.DISK, Mode.UEFI, BmcNotSupported, "guest has bios firmware, and libvirt cannot start it with uefi"),
        (Device.CDROM, Mode.KEEP, BmcRefused, "guest cannot start from cdrom: its definition has no such device"),
    ],
)
def test_what_cannot_be_set_changes_nothing(device: Device, mode: Mode, error: type[Exception], sentence: str) -> None:
    domain = definition(DISK.format(boot(2)), NIC.format(1, boot(1)))
    domain.set_override(Device.DISK, Mode.KEEP, once=True)
    before = domain.text()
    with pytest.raises(error, match=sentence):
        domain.set_override(device, mode, once=True)
    assert domain.text() == before


@pytest.mark.parametrize(
    ("os", "mode"),
    [
        ("<loader readonly='yes' type='pflash'>/usr/share/OVMF/OVMF_CODE_4M.fd</loader>", Mode.UEFI),
        ("<loader type='rom'>/usr/share/seabios/bios.bin</loader>", Mode.BIOS),
        ("", Mode.BIOS),
    ],
)
def test_the_firmware(os: str, mode: Mode) -> None:
    assert definition(os=os).mode is mode


def test_the_firmware_that_libvirt_chooses_itself() -> None:
    assert Domain("<domain><os firmware='efi'><type>hvm</type></os></domain>").mode is Mode.UEFI


def test_who_the_machine_is() -> None:
    system = "".join(
        f"<entry name='{name}'>{value}</entry>"
        for name, value in (("manufacturer", "Kestrel"), ("product", "KX-2200"), ("serial", "LAB0001"))
    )
    more = (
        f"<uuid>11111111-2222-3333-4444-555555555555</uuid><sysinfo type='smbios'><system>{system}</system></sysinfo>"
    )
    inventory = definition(NIC.format(1, ""), NIC.format(2, ""), more=more).inventory()
    assert (inventory.vendor, inventory.model, inventory.serial) == ("Kestrel", "KX-2200", "LAB0001")
    assert inventory.uuid == "11111111-2222-3333-4444-555555555555"
    assert inventory.macs == ("52:54:00:00:00:01", "52:54:00:00:00:02")
    argument = "type=1,uuid=AAAAAAAA-2222-3333-4444-555555555555"
    own = f"<qemu:commandline><qemu:arg value='-smbios'/><qemu:arg value='{argument}'/></qemu:commandline>"
    assert definition(more=more + own).inventory().uuid == "aaaaaaaa-2222-3333-4444-555555555555"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "is no XML"),
        ("<domain>", "is no XML"),
        ("<network/>", "libvirt gave <network> where a domain was expected"),
    ],
)
def test_what_is_no_domain(text: str, sentence: str) -> None:
    with pytest.raises(BmcGarbage, match=sentence):
        Domain(text)


def test_metadata_that_someone_has_broken() -> None:
    mark = "<metadata><m:override xmlns:m='urn:metalbox:power:1' device='floppy'/></metadata>"
    with pytest.raises(BmcGarbage, match="the metadata of guest names the device 'floppy'"):
        _ = definition(more=mark).override
