"""What goes into the agent's image: architectures, kernel modules, tools, the part of Python that the agent runs on.

Tables only. A name that a kernel or suite does not have is left out and named in the manifest.
"""

from __future__ import annotations

from dataclasses import dataclass

from metalbox.errors import BuildError


@dataclass(frozen=True, slots=True)
class Architecture:
    """One kind of machine. `name` is the folder in URLs and on disk, `debian` the word in package names."""

    name: str
    debian: str
    triplet: str
    loader: str  # the program interpreter, as the ABI fixes it

    @property
    def modules(self) -> dict[str, tuple[str, ...]]:
        """Group → modules wanted."""
        return {**MODULES, **(ARM64_MODULES if self.name == "arm64" else {})}

    @property
    def kernel_package(self) -> str:
        return f"linux-image-{self.debian}"


ARCHITECTURES = {
    "x86_64": Architecture("x86_64", "amd64", "x86_64-linux-gnu", "usr/lib64/ld-linux-x86-64.so.2"),
    "arm64": Architecture("arm64", "arm64", "aarch64-linux-gnu", "usr/lib/ld-linux-aarch64.so.1"),
}


def architecture(name: str) -> Architecture:
    """By any of its names (x86_64, amd64, aarch64, ...). Raises BuildError."""
    for arch in ARCHITECTURES.values():
        if name in (arch.name, arch.debian, arch.triplet.split("-", maxsplit=1)[0]):
            return arch
    raise BuildError(f"cannot build for {name!r}: known are {', '.join(ARCHITECTURES)}")


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


# No Fibre Channel, iSCSI or NVMe over fabrics: a disk that other machines may share is not ours to see, let alone to
# erase.
MODULES: dict[str, tuple[str, ...]] = {
    "Intel NICs": _words("e100 e1000 e1000e igb igbvf igc ixgbe ixgbevf i40e iavf ice"),
    "Broadcom NICs": _words("b44 bnx2 bnx2x bnxt_en tg3"),
    "Mellanox NICs": _words("mlx4_core mlx4_en mlx5_core"),
    "Realtek NICs": _words("r8169 8139cp 8139too r8152 realtek"),
    "other server NICs": _words(
        "atlantic be2net cxgb4 enic ena forcedeth hinic nfp qed qede qlcnic sfc sky2 alx atl1c amd_xgbe"
    ),
    "USB NICs": _words("cdc_ether cdc_ncm rndis_host ax88179_178a asix"),
    "virtual NICs": _words("virtio_net vmxnet3 hv_netvsc xen_netfront"),
    "VLANs and packets": ("8021q", "af_packet"),
    "NVMe": ("nvme", "vmd"),
    "SATA": _words("ahci ata_piix ata_generic sata_mv sata_nv sata_sil sata_sil24 sata_svw"),
    "SAS adapters and RAID": _words(
        "3w_9xxx 3w_sas aacraid aic7xxx aic94xx arcmsr esas2r hpsa hptiop isci megaraid_mbox "
        "megaraid_sas mpi3mr mpt3sas mptsas mptspi mvsas mvumi pm80xx smartpqi sym53c8xx"
    ),
    "virtual disks": _words("virtio_blk virtio_scsi virtio_pci virtio_mmio vmw_pvscsi hv_storvsc xen_blkfront"),
    "disks": _words("sd_mod sr_mod sg ses usb_storage uas mmc_block sdhci_pci sdhci_acpi"),
    "md, device mapper": _words("dm_mod dm_mirror dm_snapshot dm_raid raid0 raid1 raid10 raid456 linear"),
    "IPMI": _words("ipmi_si ipmi_ssif ipmi_devintf ipmi_msghandler acpi_ipmi i2c_i801 i2c_piix4"),
    "USB and keyboards": _words("xhci_pci xhci_hcd ehci_pci ohci_pci uhci_hcd usbhid hid_generic atkbd i8042"),
    "firmware": _words("efivarfs qemu_fw_cfg tpm_tis tpm_crb virtio_rng virtio_console hv_vmbus"),
}

ARM64_MODULES: dict[str, tuple[str, ...]] = {
    "arm64 NICs": _words("hns3 hclge nicvf nicpf thunder_bgx xgene_enet macb mvneta mvpp2 stmmac dwmac_generic"),
    "arm64 disks": _words("ahci_platform hisi_sas_v3_hw"),
}

# Folders of the kernel package that no module above, nor its dependencies, can come from: not even unpacked.
KERNEL_SKIP = tuple(
    f"./*lib/modules/*/kernel/{folder}"
    for folder in (
        "sound",
        "drivers/media",
        "drivers/gpu",
        "drivers/iio",
        "drivers/staging",
        "drivers/net/wireless",
        "drivers/infiniband",
        "drivers/isdn",
        "fs/ocfs2",
        "fs/ceph",
    )
)

# package -> programs, found in usr/sbin or usr/bin. No lvm2 (6 MB with its libraries): without udev no volume group is
# ever activated here, so no logical volume holds a disk. No iproute2: busybox has an `ip`, and the agent needs none.
TOOLS: dict[str, tuple[str, ...]] = {
    "busybox": ("busybox",),
    "kmod": ("kmod",),
    "nvme-cli": ("nvme",),
    "hdparm": ("hdparm",),
    "sg3-utils": tuple(
        f"sg_{name}"
        for name in _words("format sanitize inq vpd opcodes unmap write_same readcap raw luns modes logs turs requests")
    ),
    "smartmontools": ("smartctl",),
    "ipmitool": ("ipmitool",),
    "dmidecode": ("dmidecode",),
    "kexec-tools": ("kexec",),
    "util-linux": _words("blkdiscard wipefs lsblk blkid blockdev lscpu"),
    "mdadm": ("mdadm",),
    "dmsetup": ("dmsetup",),
}
KMOD_LINKS = ("modprobe", "insmod", "rmmod", "lsmod", "depmod", "modinfo")
# package -> files taken as they are.
DATA: dict[str, tuple[str, ...]] = {"pci.ids": ("usr/share/misc/pci.ids",)}
# Loaded by dlopen, so no NEEDED entry names them: glibc takes the first for pthread_exit, newer kmod the others.
EXTRA_LIBRARIES = ("libgcc_s.so.1", "libzstd.so.1", "liblzma.so.5")
LIBRARY_PACKAGES = ("libgcc-s1", "libzstd1", "liblzma5")
PYTHON_PACKAGES = ("python3", "libpython3-stdlib")
# What the builder itself runs, for the builder's own architecture.
BUILD_TOOLS = ("python3", "kmod", "busybox", "zstd")

PYTHON_DROPPED_FOLDERS = frozenset(
    _words(
        "test tests idlelib tkinter turtledemo lib2to3 pydoc_data ensurepip distutils __pycache__ curses dbm sqlite3 "
        "venv wsgiref xmlrpc __phello__ _pyrepl"
    )
)
PYTHON_DROPPED_FILES = frozenset(
    _words(
        "antigravity.py this.py turtle.py pydoc.py doctest.py cgi.py cgitb.py pickletools.py LICENSE.txt "
        "smtplib.py smtpd.py nntplib.py imaplib.py poplib.py telnetlib.py ftplib.py mailbox.py sndhdr.py aifc.py "
        "sunau.py wave.py imghdr.py chunk.py nturl2path.py webbrowser.py pdb.py profile.py cProfile.py pstats.py "
        "_aix_support.py _osx_support.py mailcap.py crypt.py msilib xdrlib.py uu.py _pydecimal.py _pyio.py "
        "sitecustomize.py plistlib.py modulefinder.py pyclbr.py tabnanny.py optparse.py fileinput.py"
    )
)
# lib-dynload modules whose libraries (sqlite, ncurses, Kerberos by way of NIS) the agent has no use for.
PYTHON_DROPPED_EXTENSIONS = (
    "_sqlite3",
    "_curses",
    "_dbm",
    "_gdbm",
    "_crypt",
    "_test",
    "_xx",
    "xx",
    "_tkinter",
    "readline",
    "nis",
    "ossaudiodev",
    "audioop",
    "_codecs_cn",
    "_codecs_hk",
    "_codecs_jp",
    "_codecs_kr",
    "_codecs_tw",
    "_codecs_iso2022",
)
PYTHON_ENCODINGS = frozenset(
    _words(
        "__init__ aliases ascii latin_1 iso8859_1 utf_8 utf_8_sig utf_16 utf_16_be utf_16_le utf_32 "
        "utf_32_be utf_32_le idna punycode cp437 cp1252 hex_codec base64_codec raw_unicode_escape unicode_escape "
        "undefined charmap"
    )
)

# Firmware of NICs and storage adapters, for sources that offer non-free-firmware. Only files that a module of the image
# names are taken from them.
FIRMWARE_PACKAGES = (
    "firmware-bnx2",
    "firmware-bnx2x",
    "firmware-realtek",
    "firmware-misc-nonfree",
    "firmware-netronome",
    "firmware-qlogic",
)

SHELL_FILES = {
    "etc/passwd": "root:x:0:0:root:/root:/bin/sh\n_lldpd:x:101:101::/run/lldpd:/bin/false\n",
    "etc/group": "root:x:0:\n_lldpd:x:101:\n",
    "etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\n",
    "etc/hosts": "127.0.0.1 localhost\n::1 localhost\n",
    "etc/hostname": "metalbox-agent\n",
}
FOLDERS = ("dev", "proc", "sys", "run", "tmp", "root", "mnt", "etc", "var/log", "var/lib")
