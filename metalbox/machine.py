"""The nouns: what a machine is made of, as frozen dataclasses, and how a MAC and a UUID are read.

Nothing here knows where the facts come from or what is done with them. A value that no source gave is `None` (numbers,
truths) or "" (texts): absent is not zero. Sizes are bytes, speeds Mbit/s, times Unix seconds.
"""

from __future__ import annotations

import uuid as _uuid
from dataclasses import dataclass, field
from typing import Any

from metalbox.errors import InvalidValue


class Mac(str):
    """A hardware address as lower-case hex pairs with colons, `52:54:00:ab:cd:ef`; 1 to 20 bytes (InfiniBand has 20).

    A `str`, so that it can be a dictionary key, a column and JSON as it is; made only by `parse` and `from_bytes`.
    """

    __slots__ = ()

    @classmethod
    def parse(cls, text: str) -> Mac:
        """Read any usual spelling: `52-54-00-AB-CD-EF`, `5254.00ab.cdef`, `525400abcdef`. Raises InvalidValue."""
        digits = text.strip().lower()
        for separator in ":-.":
            digits = digits.replace(separator, "")
        try:
            raw = bytes.fromhex(digits)
        except ValueError:
            raw = b""
        if len(raw) not in (6, 8, 20) or " " in digits:
            raise InvalidValue(f"{text!r} is not a MAC address: write it like 52:54:00:ab:cd:ef")
        return cls.from_bytes(raw)

    @classmethod
    def from_bytes(cls, raw: bytes) -> Mac:
        """Name the bytes from the wire; `raw` is the address without padding."""
        return cls(raw.hex(":"))

    @property
    def raw(self) -> bytes:
        """The address as bytes."""
        return bytes.fromhex(self.replace(":", ""))

    @property
    def is_usable(self) -> bool:
        """False for the all-zero, broadcast and multicast addresses, which name nobody."""
        raw = self.raw
        return any(raw) and not raw[0] & 1


# UUIDs that firmware vendors left in place of a real one; each is shared by thousands of machines. Sources: the AMI and
# Phoenix defaults seen in captures of real boards, the Raspberry Pi 3 ROM (0x44 x 16), QEMU without -uuid (zero).
PLACEHOLDER_UUIDS = frozenset(
    {
        "00000000-0000-0000-0000-000000000000",
        "ffffffff-ffff-ffff-ffff-ffffffffffff",
        "03000200-0400-0500-0006-000700080009",
        "00020003-0004-0005-0006-000700080009",
        "44444444-4444-4444-4444-444444444444",
        "12345678-1234-5678-90ab-cddeefaabbcc",
        "00112233-4455-6677-8899-aabbccddeeff",
        "78563412-3412-7856-90ab-cddeefaabbcc",
    }
)

# Serial numbers that are none. Compared in lower case with spaces at the ends removed.
PLACEHOLDER_SERIALS = frozenset(
    {
        "",
        "0",
        "none",
        "n/a",
        "na",
        "null",
        "unknown",
        "default",
        "default string",
        "not specified",
        "not settable",
        "not available",
        "not applicable",
        "system serial number",
        "chassis serial number",
        "serial number",
        "to be filled by o.e.m.",
        "to be filled by o.e.m",
        "o.e.m.",
        "oem",
        "empty",
        "invalid",
        "undefined",
        "xxxxxxxx",
        "0123456789",
        "123456789",
        "1234567890",
        "....................",
    }
)


def parse_uuid(text: str) -> str:
    """Return an SMBIOS UUID in its lower-case text form. Raises InvalidValue."""
    try:
        return str(_uuid.UUID(text.strip()))
    except ValueError:
        raise InvalidValue(f"{text!r} is not a UUID: write it like 4c4c4544-0042-3510-8054-b7c04f333732") from None


def swap_uuid(uuid: str) -> str:
    """Return the same 16 bytes read in the other byte order of the first three fields.

    SMBIOS 2.6 stores them little-endian; U-Boot and VMware's BIOS send them in text order (DHCP option 97).
    """
    return str(_uuid.UUID(bytes_le=_uuid.UUID(uuid).bytes))


def uuid_from_option97(data: bytes) -> str:
    """Read DHCP option 97 (RFC 4578 section 2.3: type 0, then 16 bytes) as SMBIOS little-endian; "" if it is none."""
    if len(data) != 17 or data[0] != 0:
        return ""
    uuid = str(_uuid.UUID(bytes_le=data[1:]))
    return "" if is_placeholder_uuid(uuid) else uuid


def is_placeholder_uuid(uuid: str) -> bool:
    """Whether this UUID, in either byte order, is one that firmware vendors leave in place of a real one."""
    if not uuid:
        return True
    return uuid in PLACEHOLDER_UUIDS or swap_uuid(uuid) in PLACEHOLDER_UUIDS


def is_placeholder_serial(serial: str) -> bool:
    """Whether this serial number says nothing: empty, "To Be Filled By O.E.M.", one repeated character, ..."""
    text = serial.strip().lower()
    return text in PLACEHOLDER_SERIALS or len(set(text)) < 2


@dataclass(frozen=True, slots=True)
class System:
    """SMBIOS types 1 to 3: who made the machine and what they call it."""

    vendor: str = ""
    product: str = ""
    version: str = ""
    serial: str = ""
    uuid: str = ""
    asset_tag: str = ""
    sku: str = ""
    chassis_type: str = ""
    chassis_serial: str = ""
    board_vendor: str = ""
    board_product: str = ""
    board_serial: str = ""


@dataclass(frozen=True, slots=True)
class Firmware:
    """How the machine starts: `mode` is "bios" or "uefi"; `tpm` is "2.0", "1.2" or "" for none."""

    mode: str = ""
    vendor: str = ""
    version: str = ""
    date: str = ""
    secure_boot: bool | None = None
    tpm: str = ""


@dataclass(frozen=True, slots=True)
class Cpu:
    """One processor socket. `mhz` is the nominal maximum."""

    socket: str = ""
    vendor: str = ""
    model: str = ""
    cores: int | None = None
    threads: int | None = None
    mhz: int | None = None


@dataclass(frozen=True, slots=True)
class Dimm:
    """One populated memory slot (SMBIOS type 17)."""

    locator: str = ""
    bank: str = ""
    size_bytes: int | None = None
    type: str = ""
    speed_mts: int | None = None
    manufacturer: str = ""
    part_number: str = ""
    serial: str = ""


@dataclass(frozen=True, slots=True)
class Namespace:
    """One NVMe namespace of a disk. `wwn` is its own World Wide Name (EUI-64, NGUID or UUID), "" when it has none."""

    nsid: int
    name: str = ""
    size_bytes: int | None = None
    wwn: str = ""


@dataclass(frozen=True, slots=True)
class Health:
    """What the disk says of itself: `status` is "ok", "failing" or "" when it does not say."""

    status: str = ""
    wear_percent: int | None = None
    power_on_hours: int | None = None
    temperature_celsius: int | None = None
    media_errors: int | None = None


@dataclass(frozen=True, slots=True)
class Erasing:
    """What a disk says that it can do about its data. Nothing here is believed when the result is verified.

    Methods are words of "crypto", "block", "overwrite" and "user-data". `discard_zeroes` is True only where the device
    guarantees zeroes after a discard. `native_sectors` and `dco_sectors` count 512-byte sectors up to the end that ATA
    can hide. `sanitizing` is "", "in progress" or "failed". `holders` are what uses the disk in the agent.
    """

    nvme_sanitize: tuple[str, ...] = ()
    nvme_format: tuple[str, ...] = ()
    ata_sanitize: tuple[str, ...] = ()
    ata_security: bool | None = None
    ata_enhanced: bool | None = None
    ata_enabled: bool | None = None
    ata_locked: bool | None = None
    ata_frozen: bool | None = None
    ata_erase_minutes: int | None = None
    ata_enhanced_minutes: int | None = None
    scsi_sanitize: tuple[str, ...] = ()
    discard: bool | None = None
    discard_zeroes: bool | None = None
    write_protected: bool | None = None
    native_sectors: int | None = None
    dco_sectors: int | None = None
    sanitizing: str = ""
    holders: tuple[str, ...] = ()
    multipath: bool | None = None
    virtual_media: bool | None = None
    megabytes_per_second: int | None = None


@dataclass(frozen=True, slots=True)
class Disk:
    """One block device that holds data by itself (no partition, no device-mapper, no loop).

    `transport` is one of nvme, sata, sas, scsi, virtio, usb, iscsi, fc, mmc, ide or "". `name` is the kernel's name
    of the moment; `serial` and `wwn` are what stays.
    """

    name: str = ""
    model: str = ""
    serial: str = ""
    wwn: str = ""
    firmware: str = ""
    size_bytes: int | None = None
    logical_sector_bytes: int | None = None
    physical_sector_bytes: int | None = None
    rotational: bool | None = None
    removable: bool | None = None
    read_only: bool | None = None
    transport: str = ""
    pci_address: str = ""
    namespaces: tuple[Namespace, ...] = ()
    health: Health = field(default_factory=Health)
    erasing: Erasing | None = None


@dataclass(frozen=True, slots=True)
class Lldp:
    """The switch port at the other end of a cable, as it announces itself (IEEE 802.1AB)."""

    chassis_id: str = ""
    port_id: str = ""
    port_description: str = ""
    system_name: str = ""
    vlan: int | None = None


@dataclass(frozen=True, slots=True)
class Nic:
    """One network port. `mac` is the permanent address where the driver tells it."""

    mac: str = ""
    name: str = ""
    driver: str = ""
    firmware: str = ""
    speed_mbps: int | None = None
    link: bool | None = None
    pci_address: str = ""
    lldp: Lldp | None = None


@dataclass(frozen=True, slots=True)
class Pci:
    """One PCI function. `class_code` is six hex digits, the ids four; names come from pci.ids where present."""

    address: str = ""
    class_code: str = ""
    vendor_id: str = ""
    device_id: str = ""
    vendor: str = ""
    device: str = ""
    driver: str = ""

    @property
    def is_gpu(self) -> bool:
        """Display controllers (class 03) and processing accelerators (class 12)."""
        return self.class_code[:2] in ("03", "12")


@dataclass(frozen=True, slots=True)
class Bmc:
    """The management processor as seen from inside the machine (IPMI Get LAN Configuration)."""

    address: str = ""
    mac: str = ""
    channel: int | None = None
    firmware: str = ""
    vendor: str = ""
    address_source: str = ""


@dataclass(frozen=True, slots=True)
class Hardware:
    """All that the agent can tell of one machine."""

    system: System = field(default_factory=System)
    firmware: Firmware = field(default_factory=Firmware)
    architecture: str = ""
    memory_bytes: int | None = None
    cpus: tuple[Cpu, ...] = ()
    dimms: tuple[Dimm, ...] = ()
    disks: tuple[Disk, ...] = ()
    nics: tuple[Nic, ...] = ()
    pci: tuple[Pci, ...] = ()
    bmc: Bmc | None = None

    @property
    def gpus(self) -> tuple[Pci, ...]:
        """The display controllers and accelerators among the PCI functions."""
        return tuple(device for device in self.pci if device.is_gpu)

    @property
    def macs(self) -> tuple[Mac, ...]:
        """The usable hardware addresses of all ports, in the order reported, each once."""
        seen: dict[Mac, None] = {}
        for nic in self.nics:
            try:
                mac = Mac.parse(nic.mac)
            except InvalidValue:
                continue
            if mac.is_usable:
                seen[mac] = None
        return tuple(seen)


@dataclass(frozen=True, slots=True)
class Fault:
    """What went wrong in a machine's state, beside it: nothing is ordered until someone decides. `at` is Unix time."""

    code: str
    text: str
    at: float = 0.0
    evidence: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Machine:
    """One physical box and what we know of it.

    `id` is ours and never changes; `name` is what people type. `macs` are all addresses it was ever seen with,
    newest report first. `conflict` is "" or the sentence why this machine may not be ordered about.
    `location` is the relay's option 82 or the switch port, as text. `boot_id` is the kernel boot of the agent that
    spoke last, `last_seen` the time it did. `labels`, `owner` and `note` are an operator's words; `held` is "" or why
    it is in maintenance. It is in its state since `state_since`, and by `deadline_at` (0.0: never) must have left it.
    """

    id: int
    name: str
    state: str
    uuid: str = ""
    serial: str = ""
    macs: tuple[Mac, ...] = ()
    hardware: Hardware = field(default_factory=Hardware)
    location: str = ""
    conflict: str = ""
    address: str = ""
    boot_id: str = ""
    first_seen: float = 0.0
    last_seen: float = 0.0
    reported_at: float = 0.0
    facts: dict[str, Any] = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)
    owner: str = ""
    note: str = ""
    held: str = ""
    fault: Fault | None = None
    state_since: float = 0.0
    deadline_at: float = 0.0
