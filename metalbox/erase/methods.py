"""The table of methods: what each needs of a disk, how far it reaches on which medium, what is read afterwards. PURE.

Where the standards leave room, the weaker answer is taken: a certificate may say too little, never too much.
NIST SP 800-88 Rev. 2 (2025) names the levels and leaves the techniques to IEEE 2883-2022, which knows the sanitize
commands of each interface. Techniques that only the tables of Rev. 1 (2014, appendix A) list are called by its name.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from metalbox.machine import Disk, Erasing


class Level(StrEnum):
    """How hard the data must be to bring back (NIST SP 800-88): by the disk's own interface, or in a laboratory."""

    CLEAR = "clear"
    PURGE = "purge"

    def reaches(self, wanted: Level) -> bool:
        """Whether this level is as good as the wanted one, or better."""
        return self is Level.PURGE or wanted is Level.CLEAR


class Method(StrEnum):
    """The ways to erase, strongest first: the order in which they are tried."""

    NVME_SANITIZE_CRYPTO = "nvme-sanitize-crypto"
    NVME_SANITIZE_BLOCK = "nvme-sanitize-block"
    NVME_SANITIZE_OVERWRITE = "nvme-sanitize-overwrite"
    NVME_FORMAT_CRYPTO = "nvme-format-crypto"
    NVME_FORMAT = "nvme-format"
    ATA_SANITIZE_CRYPTO = "ata-sanitize-crypto"
    ATA_SANITIZE_BLOCK = "ata-sanitize-block"
    ATA_SANITIZE_OVERWRITE = "ata-sanitize-overwrite"
    ATA_SECURE_ERASE_ENHANCED = "ata-secure-erase-enhanced"
    ATA_SECURE_ERASE = "ata-secure-erase"
    SCSI_SANITIZE_CRYPTO = "scsi-sanitize-crypto"
    SCSI_SANITIZE_BLOCK = "scsi-sanitize-block"
    SCSI_SANITIZE_OVERWRITE = "scsi-sanitize-overwrite"
    DISCARD = "discard"
    OVERWRITE = "overwrite"

    @property
    def is_firmwares(self) -> bool:
        """Whether the disk erases itself, and can tell a status of its own at the end."""
        return self not in (Method.DISCARD, Method.OVERWRITE)


class Medium(StrEnum):
    """What the bytes are on. A disk that does not tell is taken for flash, of which less can be promised."""

    MAGNETIC = "magnetic"
    FLASH = "flash"
    VIRTUAL = "virtual"


class Expected(StrEnum):
    """What is read from the disk after a method, where it was done."""

    ZEROES = "zeroes"
    PATTERN = "pattern"
    CHANGED = "changed"


SANITIZE = frozenset(
    {
        Method.NVME_SANITIZE_CRYPTO,
        Method.NVME_SANITIZE_BLOCK,
        Method.NVME_SANITIZE_OVERWRITE,
        Method.ATA_SANITIZE_CRYPTO,
        Method.ATA_SANITIZE_BLOCK,
        Method.ATA_SANITIZE_OVERWRITE,
        Method.SCSI_SANITIZE_CRYPTO,
        Method.SCSI_SANITIZE_BLOCK,
        Method.SCSI_SANITIZE_OVERWRITE,
    }
)
SECURITY = frozenset({Method.ATA_SECURE_ERASE, Method.ATA_SECURE_ERASE_ENHANCED})

NVME = frozenset({"nvme"})
ATA = frozenset({"sata", "ide"})
# An ATA disk behind a SAS controller answers SCSI commands that the controller translates (SAT).
SCSI = frozenset({"sas", "scsi", "fc", "iscsi", "usb", "sata"})
ANY = frozenset({"nvme", "sata", "ide", "sas", "scsi", "fc", "iscsi", "usb", "virtio", "mmc", ""})

_SANITIZE = "IEEE 2883-2022"
_REVISION_1 = "by the technique of Rev. 1"
_BOTH = (Level.PURGE, Level.PURGE)
_MAGNETIC_ONLY = (Level.PURGE, Level.CLEAR)
_NEVER = (Level.CLEAR, Level.CLEAR)
_CHANGED = (Expected.CHANGED, Expected.ZEROES)
_WRITTEN = (Expected.ZEROES, Expected.PATTERN)


@dataclass(frozen=True, slots=True)
class Row:
    """One method. `levels` are what it reaches on magnetic media and on flash; `expected` what may be read afterwards.

    `word` says by which document it reaches Purge, for the certificate; `does` is one clause for people.
    """

    transports: frozenset[str]
    levels: tuple[Level, Level]
    expected: tuple[Expected, ...]
    word: str
    does: str


TABLE: dict[Method, Row] = {
    # NVMe Base 2.0 section 5.24 and 8.21: acts on the whole NVM subsystem, spare blocks included, and resumes by
    # itself after a loss of power. Crypto is reported (SANICAP bit 0) only where all user data is encrypted.
    Method.NVME_SANITIZE_CRYPTO: Row(NVME, _BOTH, _CHANGED, f"{_SANITIZE} sanitize, cryptographic erase", "new key"),
    Method.NVME_SANITIZE_BLOCK: Row(NVME, _BOTH, _CHANGED, f"{_SANITIZE} sanitize, block erase", "erases every block"),
    # Overwriting flash by the drive: the spare cells that wear levelling holds back are the drive's own affair.
    Method.NVME_SANITIZE_OVERWRITE: Row(
        NVME,
        _MAGNETIC_ONLY,
        (Expected.PATTERN, *_CHANGED),
        f"{_SANITIZE} sanitize, overwrite",
        "the drive writes over all",
    ),
    # Rev. 1 table A-8 lists Format NVM with a secure erase setting as Purge. SES 2 is offered by FNA bit 2.
    Method.NVME_FORMAT_CRYPTO: Row(
        NVME, _BOTH, _CHANGED, f"Format NVM, cryptographic erase, {_REVISION_1} table A-8", "new key"
    ),
    Method.NVME_FORMAT: Row(
        NVME, _BOTH, _CHANGED, f"Format NVM, user data erase, {_REVISION_1} table A-8", "erases user data"
    ),
    # ACS-4 section 4.18, SANITIZE DEVICE: reaches reallocated sectors, goes on after a loss of power.
    Method.ATA_SANITIZE_CRYPTO: Row(ATA, _BOTH, _CHANGED, f"{_SANITIZE} sanitize, cryptographic erase", "new key"),
    Method.ATA_SANITIZE_BLOCK: Row(ATA, _BOTH, _CHANGED, f"{_SANITIZE} sanitize, block erase", "erases every block"),
    # Rev. 1 lists it for magnetic disks (table A-5), not for flash (table A-8).
    Method.ATA_SANITIZE_OVERWRITE: Row(
        ATA,
        _MAGNETIC_ONLY,
        (Expected.PATTERN, *_CHANGED),
        f"{_SANITIZE} sanitize, overwrite",
        "the drive writes over all",
    ),
    # SECURITY ERASE UNIT. Enhanced mode also reaches reallocated sectors, and is Purge for magnetic disks in Rev. 1
    # table A-5; for flash both modes are only Clear there. The normal mode leaves reallocated sectors as they are.
    Method.ATA_SECURE_ERASE_ENHANCED: Row(
        ATA, _MAGNETIC_ONLY, _CHANGED, f"ATA enhanced secure erase, {_REVISION_1} table A-5", "secure erase, enhanced"
    ),
    Method.ATA_SECURE_ERASE: Row(ATA, _NEVER, _CHANGED, "", "secure erase"),
    # SBC-4 section 5.27 (SANITIZE): as its relatives above.
    Method.SCSI_SANITIZE_CRYPTO: Row(SCSI, _BOTH, _CHANGED, f"{_SANITIZE} sanitize, cryptographic erase", "new key"),
    Method.SCSI_SANITIZE_BLOCK: Row(SCSI, _BOTH, _CHANGED, f"{_SANITIZE} sanitize, block erase", "erases every block"),
    Method.SCSI_SANITIZE_OVERWRITE: Row(
        SCSI,
        _MAGNETIC_ONLY,
        (Expected.PATTERN, *_CHANGED),
        f"{_SANITIZE} sanitize, overwrite",
        "the drive writes over all",
    ),
    # No document lists discarding as such. Read back as zeroes, it is what Clear asks for: nothing comes back through
    # the disk's own interface.
    Method.DISCARD: Row(ANY, _NEVER, (Expected.ZEROES,), "", "discards all, and zeroes are guaranteed"),
    # Reaches what the host can address: no reallocated sector, no spare cell (Rev. 1 tables: Clear).
    Method.OVERWRITE: Row(ANY, _NEVER, _WRITTEN, "", "the host writes over all"),
}

# How emulated and rented disks call themselves. Their storage belongs to a hypervisor, with its own copies, snapshots
# and spare cells: whatever such a disk says that it did, it speaks only of what the guest can see.
VIRTUAL_MODELS = (
    "qemu",
    "vmware",
    "vbox",
    "virtual disk",
    "virtual hd",
    "msft virtual",
    "virtio",
    "xensrc",
    "amazon elastic block store",
    "persistentdisk",
    "nvme_card-pd",
)


def medium(disk: Disk) -> Medium:
    """What the disk's bytes are on."""
    model = disk.model.lower()
    if disk.transport == "virtio" or any(word in model for word in VIRTUAL_MODELS):
        return Medium.VIRTUAL
    return Medium.MAGNETIC if disk.rotational is True else Medium.FLASH


def level_of(method: Method, on: Medium) -> Level:
    """The level that a method reaches on this medium."""
    magnetic, flash = TABLE[method].levels
    return {Medium.MAGNETIC: magnetic, Medium.FLASH: flash, Medium.VIRTUAL: Level.CLEAR}[on]


def term(method: Method, on: Medium) -> str:
    """The standards' term for what is reached, as it stands in a certificate."""
    if level_of(method, on) is Level.CLEAR:
        return "NIST SP 800-88r2 Clear"
    return f"NIST SP 800-88r2 Purge ({TABLE[method].word})"


def reported(disk: Disk) -> tuple[Method, ...]:
    """The methods that this disk says it has and that make sense on its medium, strongest first."""
    told = disk.erasing
    if told is None:
        return ()
    return tuple(
        method for method in Method if disk.transport in TABLE[method].transports and _is_told(method, told, disk)
    )


def _is_told(method: Method, told: Erasing, disk: Disk) -> bool:
    family, _, action = method.rpartition("-")
    if method in SANITIZE:
        offered = {
            "nvme-sanitize": told.nvme_sanitize,
            "ata-sanitize": told.ata_sanitize,
            "scsi-sanitize": told.scsi_sanitize,
        }
        # Block erase is for media that are erased in blocks; a magnetic disk that offers it is not believed.
        return action in offered[family] and not (action == "block" and medium(disk) is Medium.MAGNETIC)
    # A password that somebody has set is needed for erasing too (ACS-4 section 4.17), and we do not have it.
    is_open = told.ata_security is True and not told.ata_enabled and not told.ata_locked
    return {
        Method.NVME_FORMAT_CRYPTO: "crypto" in told.nvme_format,
        Method.NVME_FORMAT: "user-data" in told.nvme_format,
        Method.ATA_SECURE_ERASE_ENHANCED: is_open and told.ata_enhanced is True,
        Method.ATA_SECURE_ERASE: is_open,
        Method.DISCARD: told.discard is True and told.discard_zeroes is True,
        Method.OVERWRITE: True,
    }[method]


# Writing rates that are taken when none was measured, MB/s: what slow disks of each kind do on their inner tracks or
# with a full cache.
RATES = {Medium.MAGNETIC: 120, Medium.FLASH: 300, Medium.VIRTUAL: 100}
# Times that do not depend on the size, seconds: a new key and its reset; the erase of all blocks, which vendors state
# with up to some minutes; the discard of a large disk in pieces; samples before and after, with the rest of a visit.
KEY_SECONDS = 30
BLOCK_SECONDS = 180
DISCARD_SECONDS = 60
VISIT_SECONDS = 20
# ACS-4 words 89 and 90: the largest value means "more than that".
MORE_THAN_MINUTES = 508


def rate(disk: Disk) -> int:
    """Bytes that the disk can write in a second, measured or presumed."""
    told = disk.erasing.megabytes_per_second if disk.erasing else None
    return (told or RATES[medium(disk)]) * 1_000_000


def seconds(method: Method, disk: Disk) -> float:
    """About how long a method takes on this disk, samples included."""
    writing = (disk.size_bytes or 0) / rate(disk)
    told = disk.erasing or Erasing()
    if method in SECURITY:
        enhanced = method is Method.ATA_SECURE_ERASE_ENHANCED
        minutes = told.ata_enhanced_minutes if enhanced else told.ata_erase_minutes
        length = writing if minutes is None else minutes * 60
        if minutes is not None and minutes >= MORE_THAN_MINUTES:
            length = max(length, writing)
    elif method in (Method.OVERWRITE, *(m for m in SANITIZE if m.endswith("overwrite"))):
        length = writing
    elif method is Method.DISCARD:
        length = DISCARD_SECONDS
    else:
        length = KEY_SECONDS if method.endswith("crypto") else BLOCK_SECONDS
    return round(length + VISIT_SECONDS, 1)
