"""What a disk says of its own wear and failures: NVMe's health log by ioctl, all others by smartctl where it is there.

Both ask the disk itself, so both may hang; `inventory.py` gives each disk its own thread and a deadline.
"""

from __future__ import annotations

import array
import fcntl
import json
import os
import struct

from metalbox.agent import command

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

SECONDS = 10.0  # a sleeping hard disk spins up in six to eight

# linux/nvme_ioctl.h: _IOWR('N', 0x41, struct nvme_passthru_cmd), 72 bytes.
NVME_IOCTL_ADMIN_CMD = 0xC0484E41
GET_LOG_PAGE, HEALTH_LOG, HEALTH_LOG_BYTES = 0x02, 0x02, 512
KELVIN = 273
# Critical warning bits: spare below threshold, reliability degraded, read-only, volatile backup failed. Bit 1, being
# too hot, is the room's fault.
FAILING_WARNINGS = 0b11101

# Normalised SMART values that count down from 100 as a solid state disk wears, by vendor, the surest first.
WEAR_ATTRIBUTES = (
    "Percent_Lifetime_Remain", "Media_Wearout_Indicator", "SSD_Life_Left", "Wear_Leveling_Count",
    "Percent_Life_Remaining", "Remaining_Lifetime_Perc", "Perc_Rated_Life_Remain",
)  # fmt: skip


def health(name: str) -> dict[str, Any]:
    """The health of one disk by its kernel name; {} when it does not say. Raises CommandFailed, OSError."""
    if name.startswith("nvme"):
        return parse_nvme_log(read_nvme_log(f"/dev/{name}"))
    smartctl = command.find("smartctl")
    if not smartctl:
        return {}
    # The exit code is a set of bits of which most mean "the disk is ill", not "smartctl failed": the text decides.
    _, output = command.run([smartctl, "--json", "--info", "--health", "--attributes", f"/dev/{name}"], SECONDS)
    return parse_smartctl(output)


def read_nvme_log(path: str) -> bytes:
    """Ask an NVMe controller or namespace for its SMART / Health Information log. Raises OSError."""
    page = array.array("B", bytes(HEALTH_LOG_BYTES))
    dwords = HEALTH_LOG_BYTES // 4 - 1
    # opcode, flags, reserved, nsid (all), cdw2, cdw3, metadata, address, metadata length, data length, cdw10..15,
    # timeout in ms, result
    request = struct.pack(
        "<BBHIIIQQIIIIIIIIII", GET_LOG_PAGE, 0, 0, 0xFFFFFFFF, 0, 0, 0, page.buffer_info()[0], 0, HEALTH_LOG_BYTES,
        dwords << 16 | HEALTH_LOG, 0, 0, 0, 0, 0, int(SECONDS * 1000), 0,
    )  # fmt: skip
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        status = fcntl.ioctl(descriptor, NVME_IOCTL_ADMIN_CMD, bytearray(request))
    finally:
        os.close(descriptor)
    if status:
        raise OSError(f"{path} answered Get Log Page with NVMe status {status:#x}")
    return page.tobytes()


def parse_nvme_log(log: bytes) -> dict[str, Any]:
    """The SMART / Health Information log (NVMe base 2.0, figure 207); {} when it is cut short."""
    if len(log) < HEALTH_LOG_BYTES:
        return {}
    warning, temperature, _spare, _threshold, used = struct.unpack_from("<BHBBB", log)
    return {
        "status": "failing" if warning & FAILING_WARNINGS else "ok",
        "wear_percent": used,
        "power_on_hours": int.from_bytes(log[128:144], "little"),
        "temperature_celsius": temperature - KELVIN if temperature else None,
        "media_errors": int.from_bytes(log[160:176], "little"),
    }


def parse_smartctl(output: bytes) -> dict[str, Any]:
    """The JSON of smartctl 7 for a disk of any kind; {} when it is none or the disk did not answer."""
    try:
        document = json.loads(output)
    except ValueError:
        return {}
    if not isinstance(document, dict):
        return {}
    passed = _at(document, "smart_status", "passed")
    found = {
        "status": {True: "ok", False: "failing"}.get(passed, "") if isinstance(passed, bool) else "",
        "wear_percent": _wear(document),
        "power_on_hours": _whole(_at(document, "power_on_time", "hours")),
        "temperature_celsius": _whole(_at(document, "temperature", "current")) or None,  # 0: SCSI without a sensor
        "media_errors": _media_errors(document),
    }
    return {} if all(value in ("", None) for value in found.values()) else found


def _at(document: Any, *keys: str) -> Any:
    for key in keys:
        document = document.get(key) if isinstance(document, dict) else None
    return document


def _whole(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _attributes(document: dict[str, Any]) -> dict[str, dict[str, Any]]:
    table = _at(document, "ata_smart_attributes", "table")
    rows = table if isinstance(table, list) else []
    return {row["name"]: row for row in rows if isinstance(row, dict) and isinstance(row.get("name"), str)}


def _wear(document: dict[str, Any]) -> int | None:
    """Per cent of the rated life used up; above 100 when the disk outlived it."""
    for path in (
        ("endurance_used", "current_percent"),
        ("nvme_smart_health_information_log", "percentage_used"),
        ("scsi_percentage_used_endurance_indicator",),
    ):
        if (used := _whole(_at(document, *path))) is not None:
            return used
    if _at(document, "rotation_rate") != 0:
        return None
    attributes = _attributes(document)
    for name in WEAR_ATTRIBUTES:
        left = _whole(attributes.get(name, {}).get("value"))
        if left is not None and 0 <= left <= 100:
            return 100 - left
    return None


def _media_errors(document: dict[str, Any]) -> int | None:
    """Errors that reached the reader of the data: NVMe's count, ATA attribute 187 or 198, SCSI's error counters."""
    errors = _whole(_at(document, "nvme_smart_health_information_log", "media_errors"))
    if errors is not None:
        return errors
    for row in sorted(_attributes(document).values(), key=lambda row: str(row.get("id"))):
        if row.get("id") in (187, 198):
            return _whole(_at(row, "raw", "value"))
    log = _at(document, "scsi_error_counter_log")
    if not isinstance(log, dict):
        return None
    return sum(_whole(_at(counter, "total_uncorrected_errors")) or 0 for counter in log.values())
