"""NVMe admin commands and what their data mean (NVM Express Base 2.0, NVM Command Set 1.0)."""

from __future__ import annotations

import struct

from metalbox.agent.passthrough import Device, DriveError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

IDENTIFY, GET_LOG_PAGE, FORMAT_NVM, SANITIZE = 0x06, 0x02, 0x80, 0x84
SANITIZE_LOG, ALL_NAMESPACES = 0x81, 0xFFFFFFFF
SANITIZE_ACTIONS = {"block": 2, "overwrite": 3, "crypto": 4}
# Sanitize log byte of the estimated seconds for each way, where its deallocation is not asked for.
SANITIZE_ESTIMATES = {"overwrite": 8, "block": 12, "crypto": 16}
FORMAT_SETTINGS = {"user-data": 1, "crypto": 2}
COMPLETED, IN_PROGRESS, FAILED, COMPLETED_WITHOUT_DEALLOCATION = 1, 2, 3, 4
# Answers by which the controller says that it did not begin (status code type << 8 | status code).
NOT_BEGUN = {
    0x001: "Invalid Command Opcode",
    0x002: "Invalid Field in Command",
    0x00B: "Invalid Namespace or Format",
    0x00C: "Command Sequence Error",
    0x015: "Operation Denied",
    0x020: "Namespace is Write Protected",
    0x10A: "Invalid Format",
    0x10B: "Firmware Activation Requires Conventional Reset",
    0x111: "Firmware Activation Requires Controller Level Reset",
    0x123: "Sanitize Prohibited While Persistent Memory Region is Enabled",
}


class SanitizeLog:
    """The Sanitize Status log (81h). `progress` is 0 to 65536, `command` the CDW10 of the last Sanitize command."""

    def __init__(self, log: bytes) -> None:
        if len(log) < 20:
            raise DriveError(f"the sanitize log has {len(log)} bytes instead of 512")
        progress, status, self.command = struct.unpack_from("<HHI", log)
        self.state = status & 7
        self.progress = 65536 if self.state in (COMPLETED, COMPLETED_WITHOUT_DEALLOCATION) else progress
        self.raw = log[:20].hex()
        self._log = log

    def estimate(self, way: str) -> int | None:
        """The drive's own estimate in seconds for a way of sanitizing; None: not told."""
        seconds = int.from_bytes(self._log[SANITIZE_ESTIMATES[way] : SANITIZE_ESTIMATES[way] + 4], "little")
        return None if seconds in (0, 0xFFFFFFFF) else seconds


def expect(what: str, answer: tuple[int, bytes]) -> bytes:
    """The data of a command that succeeded. Raises DriveError."""
    status, data = answer
    if not status:
        return data
    code = status & 0x7FF
    name = NOT_BEGUN.get(code, "")
    raise DriveError(
        f"{what} was answered with NVMe status {status:#06x}{f' ({name})' if name else ''}", begun=code not in NOT_BEGUN
    )


def identify_controller(device: Device) -> dict[str, Any]:
    """Who the controller is and what it can: {serial, model, firmware, sanitize, format, manages_namespaces}."""
    data = expect("Identify Controller", device.nvme(IDENTIFY, cdw10=1, length=4096))
    return parse_controller(data)


def parse_controller(data: bytes) -> dict[str, Any]:
    """The Identify Controller data structure (CNS 01h)."""
    oacs = int.from_bytes(data[256:258], "little")
    fna = data[524]
    sanicap = int.from_bytes(data[328:332], "little")
    return {
        "serial": _ascii(data[4:24]),
        "model": _ascii(data[24:64]),
        "firmware": _ascii(data[64:72]),
        "sanitize": tuple(way for bit, way in enumerate(("crypto", "block", "overwrite")) if sanicap >> bit & 1),
        "format": (*(("crypto",) if fna >> 2 & 1 else ()), "user-data") if oacs >> 1 & 1 else (),
        "manages_namespaces": bool(oacs >> 3 & 1),
    }


def identify_namespace(device: Device, nsid: int) -> dict[str, Any]:
    """What a namespace says: {size_bytes, discard_zeroes, write_protected, format_bits, sector_bytes}."""
    data = expect(f"Identify Namespace {nsid}", device.nvme(IDENTIFY, nsid=nsid, cdw10=0, length=4096))
    return parse_namespace(data)


def parse_namespace(data: bytes) -> dict[str, Any]:
    """The Identify Namespace data structure (CNS 00h); `format_bits` are those of CDW10 that keep its format."""
    flbas, protection = data[26], data[29]
    index = flbas & 0xF | (flbas >> 5 & 3) << 4
    shift = data[128 + 4 * index + 2]
    keep = flbas & 0xF | (flbas >> 4 & 1) << 4 | (protection & 7) << 5 | (protection >> 3 & 1) << 8
    return {
        "size_bytes": int.from_bytes(data[0:8], "little") << shift,
        "sector_bytes": 1 << shift,
        "discard_zeroes": data[33] & 7 == 1,
        "write_protected": bool(data[99] & 1),
        "format_bits": keep | (flbas >> 5 & 3) << 12,
    }


def allocated_namespaces(device: Device) -> tuple[int, ...]:
    """Every namespace on the drive, attached to this controller or not (CNS 10h)."""
    data = expect("Identify allocated namespaces", device.nvme(IDENTIFY, cdw10=0x10, length=4096))
    return tuple(number for (number,) in struct.iter_unpack("<I", data) if number)


def sanitize_log(device: Device) -> SanitizeLog:
    """The state of the last or the running sanitize. Raises DriveError, OSError."""
    cdw10 = (512 // 4 - 1) << 16 | SANITIZE_LOG
    return SanitizeLog(
        expect("the sanitize log", device.nvme(GET_LOG_PAGE, nsid=ALL_NAMESPACES, cdw10=cdw10, length=512))
    )


def sanitize_command(way: str) -> int:
    """CDW10 of Sanitize in restricted mode (AUSE 0): nothing can be read until it succeeded. One pass overwrites."""
    return SANITIZE_ACTIONS[way] | (1 << 4 if way == "overwrite" else 0)


def sanitize(device: Device, way: str) -> None:
    """Begin to sanitize; the command ends at once. Overwriting writes zeroes. Raises DriveError, OSError."""
    expect(f"Sanitize ({way})", device.nvme(SANITIZE, cdw10=sanitize_command(way), cdw11=0))


def format_namespace(device: Device, nsid: int, way: str, keep: int, seconds: float) -> None:
    """Format one namespace as it is formatted now, with secure erase. Raises DriveError, OSError."""
    cdw10 = keep | FORMAT_SETTINGS[way] << 9
    expect(f"Format NVM ({way}) of namespace {nsid}", device.nvme(FORMAT_NVM, nsid=nsid, cdw10=cdw10, seconds=seconds))


def _ascii(raw: bytes) -> str:
    return raw.split(b"\0")[0].decode("ascii", "replace").strip()
