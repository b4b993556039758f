"""Disks for the tests of erasing: one of each kind as agents report them, and any disk at all."""

from __future__ import annotations

from hypothesis import strategies as st

from metalbox.machine import Disk, Erasing, Namespace

NVME = Disk(
    name="nvme0n1",
    model="SAMSUNG MZQL23T8HCLS-00A07",
    serial="S64HNE0R500123",
    wwn="eui.36344830525001230025384500000001",
    firmware="GDC5602Q",
    size_bytes=3_840_755_982_336,
    rotational=False,
    removable=False,
    read_only=False,
    transport="nvme",
    pci_address="0000:c1:00.0",
    namespaces=(Namespace(1, "nvme0n1", 3_840_755_982_336, "eui.36344830525001230025384500000001"),),
    erasing=Erasing(nvme_sanitize=("crypto", "block"), nvme_format=("crypto", "user-data"), megabytes_per_second=2000),
)
HDD = Disk(
    name="sda",
    model="ST4000NM0035-1V4107",
    serial="ZC1AAAAA",
    wwn="0x5000c500a0000001",
    firmware="TN03",
    size_bytes=4_000_787_030_016,
    rotational=True,
    removable=False,
    read_only=False,
    transport="sata",
    erasing=Erasing(
        ata_security=True,
        ata_enhanced=True,
        ata_frozen=True,
        ata_erase_minutes=430,
        ata_enhanced_minutes=430,
        megabytes_per_second=180,
    ),
)
VIRTIO = Disk(
    name="vda",
    serial="lab-1",
    size_bytes=64 * 2**20,
    rotational=True,
    transport="virtio",
    erasing=Erasing(discard=True, megabytes_per_second=500),
)

words = st.sampled_from(("", "A1", "B2", "a1", "0x5000c50000000001", "naa.5000c50000000001", "0000", "C3"))
flags = st.sampled_from((None, False, True))
actions = st.lists(st.sampled_from(("crypto", "block", "overwrite", "user-data")), unique=True, max_size=4).map(tuple)
sectors = st.one_of(st.none(), st.integers(0, 2**40))
erasings = st.builds(
    Erasing,
    nvme_sanitize=actions,
    nvme_format=actions,
    ata_sanitize=actions,
    ata_security=flags,
    ata_enhanced=flags,
    ata_enabled=flags,
    ata_locked=flags,
    ata_frozen=flags,
    ata_erase_minutes=st.one_of(st.none(), st.integers(0, 600)),
    ata_enhanced_minutes=st.one_of(st.none(), st.integers(0, 600)),
    scsi_sanitize=actions,
    discard=flags,
    discard_zeroes=flags,
    write_protected=flags,
    native_sectors=sectors,
    dco_sectors=sectors,
    sanitizing=st.sampled_from(("", "in progress", "failed")),
    holders=st.sampled_from(((), ("md127",), ("dm-0", "swap"))),
    multipath=flags,
    virtual_media=flags,
    megabytes_per_second=st.one_of(st.none(), st.integers(0, 9000)),
)
disks = st.builds(
    Disk,
    name=st.sampled_from(("sda", "sdb", "nvme0n1", "vda", "sr0", "mmcblk0", "mmcblk0boot0", "")),
    model=st.sampled_from(("", "ST4000", "QEMU HARDDISK", "Virtual Media")),
    serial=words,
    wwn=words,
    size_bytes=st.one_of(st.none(), st.integers(0, 2**45)),
    rotational=flags,
    removable=flags,
    read_only=flags,
    transport=st.sampled_from(("nvme", "sata", "sas", "scsi", "virtio", "usb", "iscsi", "fc", "mmc", "ide", "")),
    pci_address=st.sampled_from(("", "0000:01:00.0")),
    namespaces=st.sampled_from(((), (Namespace(1, "nvme0n1", 5, "eui.01"), Namespace(2, "nvme0n2", None)))),
    erasing=st.one_of(st.none(), erasings),
)
