"""ATA commands inside SCSI's ATA PASS-THROUGH (16) (SAT-4), and what their data mean (ACS-4; HPA and DCO: ATA8-ACS)."""

from __future__ import annotations

from metalbox.agent import disks, scsi
from metalbox.agent.passthrough import Device, DriveError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

NON_DATA, PIO_IN, PIO_OUT = 3, 4, 5
CHECK_CONDITION = 0x20
IDENTIFY_DEVICE, SANITIZE_DEVICE = 0xEC, 0xB4
READ_NATIVE_MAX, READ_NATIVE_MAX_EXT, SET_MAX_EXT, SET_MAX = 0xF8, 0x27, 0x37, 0xF9
ACCESSIBLE_MAX, CONFIGURATION = 0x78, 0xB1
SET_PASSWORD, UNLOCK, ERASE_PREPARE, ERASE_UNIT, DISABLE_PASSWORD = 0xF1, 0xF2, 0xF3, 0xF4, 0xF6
STATUS_EXT, CONFIGURATION_RESTORE, CONFIGURATION_IDENTIFY = 0x0000, 0xC0, 0xC2
# Feature and the key that must stand in LBA, or a stray command would erase a disk.
SANITIZE_COMMANDS = {
    "crypto": (0x0011, 0x0000_4372_7970, 0),
    "block": (0x0012, 0x0000_426B_4572, 0),
    "overwrite": (0x0014, 0x4F57_0000_0000, 1),
}
# No secret: it is there only while an erase goes on, and known, so that whoever finds a drive that lost its power then
# can unlock it. (ATA takes 32 bytes.)
PASSWORD = b"metalbox".ljust(32, b"\0")
ERROR, ABORT = 0x01, 0x04


class Registers:
    """What an ATA command left in the registers: status, error, count, lba (48 bits), device."""

    def __init__(self, status: int, error: int, count: int, lba: int, device: int = 0) -> None:
        self.status = status
        self.error = error
        self.count = count
        self.lba = lba
        self.device = device

    def __str__(self) -> str:
        return f"status {self.status:02X}h, error {self.error:02X}h, count {self.count:04X}h, LBA {self.lba:012X}h"


def cdb(
    command: int,
    protocol: int,
    *,
    features: int = 0,
    count: int = 0,
    lba: int = 0,
    device: int = 0x40,
    wide: bool = True,
) -> bytes:
    """ATA PASS-THROUGH (16); data are one block of 512 bytes. `wide` is a 48-bit command (EXT)."""
    # T_DIR, BYT_BLOK, length in the count field. CK_COND asks for the registers also of a good end; not with data,
    # where libata of Linux 6.1 takes the DRQ bit that is left in the status for an error.
    transfer = {NON_DATA: CHECK_CONDITION, PIO_IN: 0x0E, PIO_OUT: 0x06}[protocol]
    low = [lba >> shift & 0xFF for shift in (0, 8, 16)]
    high = [lba >> shift & 0xFF for shift in (24, 32, 40)]
    if not wide:
        device |= lba >> 24 & 0xF
        high = [0, 0, 0]
    return bytes(
        [
            0x85, protocol << 1 | wide, transfer, features >> 8 & 0xFF if wide else 0,
            features & 0xFF, count >> 8 & 0xFF if wide else 0, count & 0xFF, high[0], low[0], high[1], low[1], high[2],
            low[2], device, command, 0,
        ]
    )  # fmt: skip


def parse_registers(sense: bytes) -> Registers | None:
    """The registers in sense data: the ATA Status Return descriptor, or SAT's fixed format; None: there are none."""
    if sense and sense[0] & 0x7F in (0x72, 0x73):
        for at, kind in scsi.descriptors(sense):
            if kind == 0x09 and at + 14 <= len(sense):
                field = sense[at : at + 14]
                lba = sum(field[place] << shift for place, shift in
                          ((7, 0), (9, 8), (11, 16), (6, 24), (8, 32), (10, 40)))  # fmt: skip
                return Registers(field[13], field[3], field[4] << 8 | field[5], lba, field[12])
    if len(sense) >= 18 and sense[0] & 0x7F in (0x70, 0x71):
        if any(sense[3:7]):
            return Registers(sense[4], sense[3], sense[6], sense[9] | sense[10] << 8 | sense[11] << 16, sense[5])
        # libata before Linux 6.10 writes the fixed format five bytes too far: status at 9, the lowest LBA byte at 17.
        if sense[9] and sense[2] & 0xF != scsi.ILLEGAL_REQUEST:
            return Registers(sense[9], sense[8], sense[11], sense[17], sense[10])
    return None


def execute(
    device: Device, what: str, command: bytes, *, send: bytes = b"", length: int = 0, seconds: float = 60.0
) -> tuple[Registers, bytes]:
    """One ATA command to its end. Raises OSError, DriveError: not begun when the drive aborted it."""
    answer = device.scsi(command, send=send, length=length, seconds=seconds)
    registers = parse_registers(answer.sense)
    if answer.host or answer.status not in (0, 2):
        raise DriveError(f"{what} ended with SCSI status {answer.status:02X}h, host status {answer.host:02X}h")
    if registers is None:
        scsi.expect(what, answer)
        if not length and not send:
            raise DriveError(f"{what}: the adapter does not give the drive's registers back, its end is unknown")
        registers = Registers(0x50, 0, 0, 0)
    if registers.status & (ERROR | 0x20):
        raise DriveError(f"{what} was answered with {registers}", begun=not registers.error & ABORT)
    return registers, answer.data


def identify(device: Device) -> Identity:
    """IDENTIFY DEVICE. Raises DriveError, OSError."""
    command = cdb(IDENTIFY_DEVICE, PIO_IN, count=1, wide=False)
    _, data = execute(device, "IDENTIFY DEVICE", command, length=512)
    if len(data) < 512:
        raise DriveError(f"IDENTIFY DEVICE gave {len(data)} bytes instead of 512")
    return Identity(data)


class Identity:
    """IDENTIFY DEVICE data (ACS-4 7.12) as far as erasing needs it."""

    def __init__(self, data: bytes) -> None:
        words = [data[at] | data[at + 1] << 8 for at in range(0, 512, 2)]
        self.words = words
        self.facts: dict[str, Any] = disks.parse_identify(" ".join(f"{word:04x}" for word in words))
        has_48_bits = words[83] & 0x0400
        narrow = words[60] | words[61] << 16
        self.sectors = sum(words[100 + at] << 16 * at for at in range(4)) if has_48_bits else narrow
        self.has_48_bits = bool(has_48_bits)
        step = words[106]
        has_size = step & 0xD000 == 0x5000
        self.sector_bytes = 2 * (words[117] | words[118] << 16) if has_size else 512
        self.has_hpa = bool(words[82] & 0x0400)
        self.has_dco = bool(words[83] & 0x0800)
        self.has_accessible_max = bool(words[119] & 0x0100) and words[119] & 0xC000 == 0x4000
        self.sanitize = _sanitize_words(words[59])
        self.is_sanitizing_known = bool(words[59] & 0x1000)
        self.guarantees_zeroes = bool(words[169] & 1) and words[69] & 0x4020 == 0x4020
        security = words[128] if words[82] & 2 or words[128] & 1 else 0
        self.security = bool(security & 1)
        self.enabled, self.locked, self.frozen = (bool(security & bit) for bit in (2, 4, 8))
        self.attempts_exceeded, self.enhanced = bool(security & 0x10), bool(security & 0x20)
        self.erase_minutes, self.enhanced_minutes = minutes(words[89]), minutes(words[90])


def _sanitize_words(word: int) -> tuple[str, ...]:
    if not word & 0x1000 or word == 0xFFFF:
        return ()
    return tuple(way for bit, way in ((13, "crypto"), (15, "block"), (14, "overwrite")) if word >> bit & 1)


def minutes(word: int) -> int | None:
    """Words 89 and 90: with bit 15 set 15 bits count, else 8, in units of two minutes; None: not told."""
    value = word & 0x7FFF if word & 0x8000 else word & 0xFF
    return value * 2 or None


def native_sectors(device: Device, identity: Identity) -> int | None:
    """Sectors up to the end that the drive itself knows; None when it has neither HPA nor an accessible maximum."""
    if identity.has_accessible_max:
        registers, _ = execute(device, "GET NATIVE MAX ADDRESS EXT", cdb(ACCESSIBLE_MAX, NON_DATA))
        return registers.lba + 1
    if not identity.has_hpa:
        return None
    if identity.has_48_bits:
        registers, _ = execute(device, "READ NATIVE MAX ADDRESS EXT", cdb(READ_NATIVE_MAX_EXT, NON_DATA))
        return registers.lba + 1
    registers, _ = execute(device, "READ NATIVE MAX ADDRESS", cdb(READ_NATIVE_MAX, NON_DATA, wide=False))
    return (registers.lba & 0xFFFFFF | (registers.device & 0xF) << 24) + 1


def set_native(device: Device, identity: Identity) -> int:
    """Give the whole disk free, for good, and return its sectors. Raises DriveError, OSError."""
    sectors = native_sectors(device, identity)  # SET MAX is taken only right after READ NATIVE MAX
    if sectors is None:
        raise DriveError("the drive has no host protected area to remove", begun=False)
    last = sectors - 1
    if identity.has_accessible_max:
        execute(device, "SET ACCESSIBLE MAX ADDRESS EXT", cdb(ACCESSIBLE_MAX, NON_DATA, features=1, lba=last))
    elif identity.has_48_bits:
        execute(device, "SET MAX ADDRESS EXT", cdb(SET_MAX_EXT, NON_DATA, count=1, lba=last))
    else:
        execute(device, "SET MAX ADDRESS", cdb(SET_MAX, NON_DATA, count=1, lba=last, wide=False))
    return sectors


def configured_sectors(device: Device) -> int:
    """Sectors without a device configuration overlay (DEVICE CONFIGURATION IDENTIFY words 3 to 6)."""
    command = cdb(CONFIGURATION, PIO_IN, features=CONFIGURATION_IDENTIFY, count=1, wide=False)
    _, data = execute(device, "DEVICE CONFIGURATION IDENTIFY", command, length=512)
    return int.from_bytes(data[6:14], "little") + 1


def restore_configuration(device: Device) -> None:
    """DEVICE CONFIGURATION RESTORE: the drive as it was made. Raises DriveError, OSError."""
    command = cdb(CONFIGURATION, NON_DATA, features=CONFIGURATION_RESTORE, wide=False)
    execute(device, "DEVICE CONFIGURATION RESTORE", command)


class SanitizeStatus:
    """SANITIZE STATUS EXT: `state` is "", "in progress", "failed" or "frozen"; `progress` is of 65536."""

    def __init__(self, registers: Registers) -> None:
        is_refused = registers.status & ERROR
        reason = registers.lba & 0xFF
        self.raw = str(registers)
        self.progress = registers.lba & 0xFFFF
        self.completed = not is_refused and bool(registers.count & 0x8000)
        if is_refused:
            self.state = "failed" if reason == 1 else "frozen" if reason == 3 else "unknown"
        elif registers.count & 0x4000:
            self.state = "in progress"
        else:
            self.state = "frozen" if registers.count & 0x2000 else ""


def sanitize_status(device: Device) -> SanitizeStatus:
    """How the last or the running sanitize stands. Raises DriveError, OSError."""
    answer = device.scsi(cdb(SANITIZE_DEVICE, NON_DATA, features=STATUS_EXT))
    registers = parse_registers(answer.sense)
    if registers is None or answer.host:
        raise DriveError("SANITIZE STATUS EXT: the adapter does not give the drive's registers back")
    return SanitizeStatus(registers)


def sanitize(device: Device, way: str) -> None:
    """Begin to sanitize; the command ends at once. Overwriting: one pass of zeroes. Raises DriveError, OSError."""
    features, key, count = SANITIZE_COMMANDS[way]
    execute(device, f"SANITIZE DEVICE ({way})", cdb(SANITIZE_DEVICE, NON_DATA, features=features, count=count, lba=key))


def security_block(flags: int) -> bytes:
    """The 512 bytes of a security command: word 0 the flags, words 1 to 16 our password, as the user's."""
    return flags.to_bytes(2, "little") + PASSWORD + bytes(512 - 34)


def security(device: Device, command: int, what: str, *, flags: int = 0, seconds: float = 60.0) -> None:
    """SECURITY SET PASSWORD, UNLOCK, ERASE UNIT or DISABLE PASSWORD. Raises DriveError, OSError."""
    request = cdb(command, PIO_OUT, count=1, wide=False)
    execute(device, what, request, send=security_block(flags), seconds=seconds)


def security_erase(device: Device, *, enhanced: bool, seconds: float) -> None:
    """SECURITY ERASE PREPARE and ERASE UNIT; returns when the drive is done. Raises DriveError, OSError."""
    execute(device, "SECURITY ERASE PREPARE", cdb(ERASE_PREPARE, NON_DATA, wide=False))
    security(device, ERASE_UNIT, "SECURITY ERASE UNIT", flags=2 if enhanced else 0, seconds=seconds)


def clear_password(device: Device) -> str:
    """Take our password off a drive that has it; "" when it has none afterwards, else why it still has one."""
    try:
        identity = identify(device)
        if identity.locked:
            security(device, UNLOCK, "SECURITY UNLOCK")
        if identity.enabled:
            security(device, DISABLE_PASSWORD, "SECURITY DISABLE PASSWORD")
            identity = identify(device)
    except (DriveError, OSError) as error:
        return f"the drive may still be locked: {error}"
    return "the drive still has a password" if identity.enabled else ""
