"""SCSI commands and what their data mean (SPC-5, SBC-4): sense, INQUIRY, SANITIZE, READ CAPACITY (16)."""

from __future__ import annotations

from metalbox.agent.passthrough import Device, DriveError, ScsiAnswer

INQUIRY, TEST_UNIT_READY, REQUEST_SENSE, MODE_SENSE, SANITIZE = 0x12, 0x00, 0x03, 0x1A, 0x48
READ_CAPACITY_16 = bytes([0x9E, 0x10, *bytes(8), 0, 0, 0, 32, 0, 0])
SANITIZE_ACTIONS = {"overwrite": 1, "block": 2, "crypto": 3}
IMMEDIATE = 0x80
RECOVERED, NOT_READY, MEDIUM_ERROR, ILLEGAL_REQUEST, DATA_PROTECT = 1, 2, 3, 5, 7
# (ASC, ASCQ)
SANITIZE_IN_PROGRESS, SANITIZE_FAILED = (0x04, 0x1B), (0x31, 0x03)


class Sense:
    """Sense data of either format: key, ASC and ASCQ, and `progress` of 65536 where it is told."""

    def __init__(self, raw: bytes) -> None:
        self.raw = raw
        self.key, self.code = 0, (0, 0)
        self.progress: int | None = None
        kind = raw[0] & 0x7F if raw else 0
        if kind in (0x70, 0x71) and len(raw) >= 14:
            self.key, self.code = raw[2] & 0xF, (raw[12], raw[13])
            if len(raw) >= 18 and raw[15] & 0x80 and self.key in (0, NOT_READY):
                self.progress = int.from_bytes(raw[16:18], "big")
        elif kind in (0x72, 0x73) and len(raw) >= 8:
            self.key, self.code = raw[1] & 0xF, (raw[2], raw[3])
            for at, descriptor in descriptors(raw):
                if descriptor == 0x02 and raw[at + 4] & 0x80:
                    self.progress = int.from_bytes(raw[at + 5 : at + 7], "big")

    def __str__(self) -> str:
        return f"sense key {self.key:X}h, {self.code[0]:02X}h/{self.code[1]:02X}h"


def descriptors(raw: bytes) -> list[tuple[int, int]]:
    """Where each descriptor of descriptor-format sense begins, and its type; whole ones only."""
    found = []
    at = 8
    while at + 2 <= len(raw) and at + 2 + raw[at + 1] <= len(raw):
        if raw[at] == 0x02 and raw[at + 1] < 6:
            break
        found.append((at, raw[at]))
        at += 2 + raw[at + 1]
    return found


def expect(what: str, answer: ScsiAnswer) -> bytes:
    """The data of a command that succeeded. Raises DriveError: not begun on ILLEGAL REQUEST and DATA PROTECT."""
    if answer.host or answer.status not in (0, 2) or (answer.status == 2 and not answer.sense):
        raise DriveError(f"{what} ended with status {answer.status:02X}h, host status {answer.host:02X}h")
    sense = Sense(answer.sense)
    if answer.status == 0 or sense.key == RECOVERED:
        return answer.data
    raise DriveError(f"{what} was answered with {sense}", begun=sense.key not in (ILLEGAL_REQUEST, DATA_PROTECT))


def inquiry(device: Device, page: int = -1) -> bytes:
    """Standard INQUIRY data, or a page of vital product data. Raises DriveError, OSError."""
    cdb = bytes([INQUIRY, page >= 0, max(page, 0), 0, 252, 0])
    return expect(f"INQUIRY{f' page {page:02X}h' if page >= 0 else ''}", device.scsi(cdb, length=252))


def serial(device: Device) -> str:
    """The unit serial number (VPD page 80h)."""
    page = inquiry(device, 0x80)
    return page[4 : 4 + int.from_bytes(page[2:4], "big")].decode("ascii", "replace").replace("\0", " ").strip()


def supported_sanitize(device: Device) -> tuple[str, ...]:
    """The ways of SANITIZE that REPORT SUPPORTED OPERATION CODES tells of; () when the drive does not know either."""
    found = []
    for way in ("crypto", "block", "overwrite"):
        cdb = bytes([0xA3, 0x0C, 0x02, SANITIZE, 0, SANITIZE_ACTIONS[way], 0, 0, 0, 64, 0, 0])
        try:
            data = expect("REPORT SUPPORTED OPERATION CODES", device.scsi(cdb, length=64))
        except DriveError:
            return ()
        if len(data) > 1 and data[1] & 7 in (3, 5):
            found.append(way)
    return tuple(found)


def reads_zeroes_after_unmap(device: Device) -> bool | None:
    """LBPRZ with LBPME of READ CAPACITY (16); None when the drive does not know the command."""
    try:
        data = expect("READ CAPACITY (16)", device.scsi(READ_CAPACITY_16, length=32))
    except DriveError:
        return None
    return len(data) >= 15 and data[14] & 0xC0 == 0xC0


def is_write_protected(device: Device) -> bool | None:
    """The WP bit of MODE SENSE (6); None when the drive does not tell."""
    try:
        data = expect("MODE SENSE", device.scsi(bytes([MODE_SENSE, 0, 0x3F, 0, 252, 0]), length=252))
    except DriveError:
        return None
    return bool(data[2] & 0x80) if len(data) >= 4 else None


def sanitize(device: Device, way: str) -> None:
    """Begin to sanitize; the command ends at once (IMMED). Overwriting writes zeroes once. Raises DriveError."""
    parameters = bytes([1, 0, 0, 4, 0, 0, 0, 0]) if way == "overwrite" else b""
    cdb = bytes([SANITIZE, IMMEDIATE | SANITIZE_ACTIONS[way], 0, 0, 0, 0, 0, 0, len(parameters), 0])
    expect(f"SANITIZE ({way})", device.scsi(cdb, send=parameters))


def status(device: Device) -> Sense:
    """What REQUEST SENSE tells now: a sanitize's progress, its failure, or nothing. Raises DriveError, OSError."""
    return Sense(expect("REQUEST SENSE", device.scsi(bytes([REQUEST_SENSE, 0, 0, 0, 252, 0]), length=252)))


def is_ready(device: Device) -> Sense:
    """TEST UNIT READY: sense with key 0 when the drive takes commands for its medium."""
    answer = device.scsi(bytes(6))
    if answer.host or answer.status not in (0, 2):
        raise DriveError(f"TEST UNIT READY ended with status {answer.status:02X}h, host status {answer.host:02X}h")
    return Sense(answer.sense if answer.status else b"")


def sanitizing(sense: Sense) -> str:
    """ "in progress", "failed" or "" of a drive with this sense."""
    return {SANITIZE_IN_PROGRESS: "in progress", SANITIZE_FAILED: "failed"}.get(sense.code, "")
