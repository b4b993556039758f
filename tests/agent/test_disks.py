"""Disks of real machines' /sys, of machines put together here, and the ways to them."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from metalbox.agent import disks
from tests.agent.snapshots import unpack, write

PCI = "sys/devices/pci0000:00/0000:00:1f.2"


def identify(model: str, serial: str, firmware: str, *, wwn: int = 0, words: dict[int, int] | None = None) -> str:
    """The 256 words of IDENTIFY DEVICE as /sys prints them: 16 columns, text with the first letter in the high byte."""
    table = [0] * 256
    for start, length, text in ((10, 10, serial), (23, 4, firmware), (27, 20, model)):
        raw = text.ljust(length * 2).encode()
        for at in range(length):
            table[start + at] = raw[2 * at] << 8 | raw[2 * at + 1]
    if wwn:
        table[87] = 0x4100
        table[108:112] = [wwn >> shift & 0xFFFF for shift in (48, 32, 16, 0)]
    for at, word in (words or {}).items():
        table[at] = word
    rows = [" ".join(f"{word:04x}" for word in table[at : at + 16]) for at in range(0, 256, 16)]
    return "\n".join(rows) + "\n"


def block(path: str, name: str, files: dict[str, str | bytes]) -> dict[str, str | bytes]:
    """A block device at a path in /sys, with the link in /sys/block."""
    device = {"size": "2048", "ro": "0", "removable": "0", "queue/rotational": "1", "queue/logical_block_size": "512",
              "queue/physical_block_size": "4096"}  # fmt: skip
    merged: dict[str, str | bytes] = {**device, **files}
    return {f"sys/block/{name}": f"->../../{path}"} | {f"{path}/{file}": value for file, value in merged.items()}


def only(root: Path) -> dict[str, Any]:
    (disk,) = disks.disks(root)
    return disk


@pytest.mark.parametrize(
    ("snapshot", "expected"),
    [
        ("linux-amd64-415ee03b8c4d1c4f07ae2e9d8b3d3d6d", [("nvme0n1", "nvme", 1024209543168, "0000:04:00.0")]),
        ("linux-amd64-61797caf7c0b6bca1725ad7975ed4773",
         [("sda", "sata", 256060514304, "0000:01:00.1"), ("sdb", "sata", 1000204886016, "0000:01:00.1"),
          ("sdc", "sata", 500107862016, "0000:01:00.1")]),
        ("linux-amd64-8581cf3a529e5d8b97ea876eade2f60d", [("sda", "scsi", 499558383616, "0000:03:00.0")]),
        ("linux-amd64-accel", [("vda", "virtio", 21474836480, "0000:04:00.0")]),
        ("linux-arm64-c288e0776090cd558ef793b2a4e61939", [("nvme0n1", "nvme", 8589934592, "0000:00:04.0")]),
    ],
)  # fmt: skip
def test_real_machines(snapshot: str, expected: list[tuple[str, str, int, str]], tmp_path: Path) -> None:
    found = disks.disks(unpack(snapshot, tmp_path))
    keys = ("name", "transport", "size_bytes", "pci_address")
    assert [tuple(disk[key] for key in keys) for disk in found] == expected


def test_fibre_channel_luns_of_a_mainframe(tmp_path: Path) -> None:
    found = disks.disks(unpack("linux-s390x-snapshot", tmp_path))
    assert len(found) == 16 and {disk["transport"] for disk in found} == {"fc"}


def test_a_sata_disk_is_told_whole(tmp_path: Path) -> None:
    path = f"{PCI}/ata3/host2/target2:0:0/2:0:0:0/block/sda"
    files = block(path, "sda", {"device/vendor": "ATA     ", "device/model": "QEMU HARDDISK", "device/rev": "2.5+"})
    files["sys/class/ata_device/dev3.0/id"] = identify(
        "Samsung SSD 860 EVO 1TB", "S3Z8NB0K123456A", "RVT02B6Q", wwn=0x5002538E40A1B2C3, words={76: 0x850E}
    )
    assert only(write(tmp_path, files)) == {
        "name": "sda",
        "model": "Samsung SSD 860 EVO 1TB",
        "serial": "S3Z8NB0K123456A",
        "wwn": "0x5002538e40a1b2c3",
        "firmware": "RVT02B6Q",
        "size_bytes": 1 << 20,
        "logical_sector_bytes": 512,
        "physical_sector_bytes": 4096,
        "rotational": True,
        "removable": False,
        "read_only": False,
        "transport": "sata",
        "pci_address": "0000:00:1f.2",
        "namespaces": [],
        "health": {},
        "erasing": None,
    }


def test_an_ide_disk_is_known_by_its_parallel_reset(tmp_path: Path) -> None:
    files = block(f"{PCI}/ata1/host0/target0:0:1/0:0:1:0/block/sda", "sda", {"device/vendor": "ATA"})
    files["sys/class/ata_device/dev1.1/id"] = identify("QEMU HARDDISK", "QM00002", "2.5+", words={93: 0x6001})
    disk = only(write(tmp_path, files))
    assert (disk["transport"], disk["serial"]) == ("ide", "QM00002")


def test_a_sas_disk_has_its_serial_and_name_in_vital_product_data(tmp_path: Path) -> None:
    path = f"{PCI}/host0/port-0:0/end_device-0:0/target0:0:0/0:0:0:0/block/sda"
    naa = bytes.fromhex("01030008" + "5000c500a1b2c3d4") + bytes.fromhex("61930008" + "5000c500a1b2c3d5")
    device: dict[str, str | bytes] = {
        "device/vendor": "SEAGATE ",
        "device/model": "ST4000NM0043    ",
        "device/rev": "MS03",
        "device/vpd_pg80": b"\0\x80\0\x14Z1Z5DWJK0000R5380000",
        "device/vpd_pg83": b"\0\x83\0\x18" + naa,
    }
    disk = only(write(tmp_path, block(path, "sda", device)))
    assert (disk["model"], disk["serial"], disk["wwn"]) == (
        "SEAGATE ST4000NM0043", "Z1Z5DWJK0000R5380000", "0x5000c500a1b2c3d4",
    )  # fmt: skip
    assert (disk["transport"], disk["firmware"]) == ("sas", "MS03")


def test_a_usb_stick_has_the_serial_of_its_usb_device(tmp_path: Path) -> None:
    usb = "sys/devices/pci0000:00/0000:00:14.0/usb2/2-1"
    files = block(f"{usb}/2-1:1.0/host6/target6:0:0/6:0:0:0/block/sdb", "sdb", {"removable": "1"})
    files |= {f"{usb}/bDeviceClass": "00", f"{usb}/serial": "4C530001", f"{usb}/../serial": "0000:00:14.0"}
    disk = only(write(tmp_path, files))
    assert (disk["transport"], disk["serial"], disk["removable"]) == ("usb", "4C530001", True)


def test_two_namespaces_are_one_disk_and_none_is_one_too(tmp_path: Path) -> None:
    first, second = f"{PCI}/0000:04:00.0/nvme/nvme0", f"{PCI}/0000:05:00.0/nvme/nvme1"
    files: dict[str, str | bytes] = {}
    for number in (1, 2):
        files |= block(f"{first}/nvme0n{number}", f"nvme0n{number}", {"nsid": str(number), "wwid": f"eui.0{number}"})
    files |= {
        f"{first}/serial": "S64GNE0R", f"{first}/model": "SAMSUNG MZQL2", f"{first}/firmware_rev": "GDC5602Q",
        f"{second}/serial": "PHLJ1234", f"{second}/model": "INTEL SSDPE2KX",
        "sys/class/nvme/nvme0": f"->../../../{first}", "sys/class/nvme/nvme1": f"->../../../{second}",
    }  # fmt: skip
    full, empty = disks.disks(write(tmp_path, files))
    assert (full["name"], full["serial"], full["wwn"], full["size_bytes"]) == ("nvme0n1", "S64GNE0R", "eui.01", 2 << 20)
    assert full["namespaces"] == [
        {"nsid": 1, "name": "nvme0n1", "size_bytes": 1 << 20, "wwn": "eui.01"},
        {"nsid": 2, "name": "nvme0n2", "size_bytes": 1 << 20, "wwn": "eui.02"},
    ]
    assert (empty["name"], empty["serial"], empty["size_bytes"], empty["namespaces"]) == ("nvme1", "PHLJ1234", 0, [])
    assert (full["pci_address"], empty["pci_address"]) == ("0000:04:00.0", "0000:05:00.0")


def test_a_drive_with_two_ports_is_one_disk(tmp_path: Path) -> None:
    """NVMe multipath: the namespace hangs on the subsystem, each port has a hidden node of its own."""
    subsystem = "sys/devices/virtual/nvme-subsystem/nvme-subsys0"
    files = block(f"{subsystem}/nvme0n1", "nvme0n1", {"nsid": "1"})
    files |= {f"{subsystem}/serial": "DUAL1", f"{subsystem}/model": "KIOXIA"}
    for number in (0, 1):
        path = f"{PCI}/0000:0{number + 4}:00.0/nvme/nvme{number}"
        files |= block(f"{path}/nvme0c{number}n1", f"nvme0c{number}n1", {"hidden": "1"})
        files |= {f"{path}/serial": "DUAL1", f"{path}/model": "KIOXIA"}
        files |= {f"sys/class/nvme/nvme{number}": f"->../../../{path}"}
        files |= {f"{subsystem}/nvme{number}": f"->../../../../../{path}"}
    disk = only(write(tmp_path, files))
    assert (disk["name"], disk["serial"], disk["pci_address"]) == ("nvme0n1", "DUAL1", "0000:04:00.0")


@pytest.mark.parametrize(
    ("path", "name", "files"),
    [
        ("sys/devices/virtual/block/loop0", "loop0", {}),
        ("sys/devices/virtual/block/dm-0", "dm-0", {}),
        ("sys/devices/virtual/block/md127", "md127", {}),
        ("sys/devices/virtual/block/zram0", "zram0", {}),
        (f"{PCI}/ata2/host1/target1:0:0/1:0:0:0/block/sr0", "sr0", {}),
        ("sys/devices/platform/floppy.0/block/fd0", "fd0", {}),
        (f"{PCI}/mmc_host/mmc0/mmc0:0001/block/mmcblk0/mmcblk0boot0", "mmcblk0boot0", {}),
        (f"{PCI}/usb1/1-3/1-3:1.0/host4/target4:0:0/4:0:0:0/block/sdb", "sdb", {"size": "0", "removable": "1"}),
    ],
)
def test_what_is_no_disk(path: str, name: str, files: dict[str, str | bytes], tmp_path: Path) -> None:
    assert disks.disks(write(tmp_path, block(path, name, files))) == []


@pytest.mark.parametrize(
    ("name", "path", "vendor", "word"),
    [
        ("sda", "/sys/devices/pci0000:00/0000:00:03.0/virtio0/host2/target2:0:0/2:0:0:0/block/sda", "QEMU", "scsi"),
        ("sda", "/sys/devices/platform/host3/session1/target3:0:0/3:0:0:0/block/sda", "LIO", "iscsi"),
        ("sda", "/x/0000:3b:00.0/host1/rport-1:0-2/target1:0:0/1:0:0:1/block/sda", "DGC", "fc"),
        ("sda", "/x/0000:3b:00.0/host0/port-0:0/expander-0:0/port-0:0:3/end_device-0:0:3/block/sda", "ATA", "sata"),
        ("mmcblk0", "/x/mmc_host/mmc0/mmc0:0001/block/mmcblk0", "", "mmc"),
        ("hda", "/x/ide0/0.0/block/hda", "", "ide"),
        ("pmem0", "/x/LNXSYSTM:00/ACPI0012:00/ndbus0/region0/namespace0.0/block/pmem0", "", ""),
    ],
)
def test_ways_to_a_disk(name: str, path: str, vendor: str, word: str) -> None:
    assert disks.transport(name, path, vendor) == word


def test_identify_data_that_is_none() -> None:
    assert disks.parse_identify("") == disks.parse_identify("zzzz") == disks.parse_identify("0000 " * 256) == {}


def test_damaged_vital_product_data_never_raises() -> None:
    rng = random.Random(83)
    for _ in range(20_000):
        name = disks.parse_device_identification(rng.randbytes(rng.randrange(64)))
        assert name == "" or name.startswith(("0x", "eui."))
