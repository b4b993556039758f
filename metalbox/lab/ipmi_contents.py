"""What is inside of an IPMI BMC of the rack, as ipmi_sim's commands (ipmi_sim_cmd(5)): who the machine is, two sensors.

The FRU areas are those of the IPMI Platform Management FRU Information Storage Definition 1.0, the sensors' records
those of the IPMI 2.0 specification, section 43.1.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from metalbox.lab.machines import MachineSpec

BMC = 0x20
FRU_SIZE = 512
ENGLISH = 0x19
RACK_MOUNT = 0x17
# 8-bit ASCII, and the end of an area's fields.
TEXT, END = 0xC0, 0xC1
DEVICE_ID, MAKER, PRODUCT = 0x23, 0x1291, 0xF02
LOG_ENTRIES = 1000
# Supported and enabled, for assertion and deassertion.
NO_EVENTS = "0" * 15


@dataclass(frozen=True, slots=True)
class Gauge:
    """A sensor with a value and upper limits. `entity` is table 43-13's number; a value is `factor` times its byte."""

    name: str
    kind: int  # table 42-3
    unit: int  # table 43-15
    entity: int
    value: int
    limits: tuple[int, int, int]  # not critical, critical, beyond recovery
    factor: int = 1


GAUGES = (
    Gauge("CPU Temp", kind=0x01, unit=1, entity=0x03, value=41, limits=(85, 90, 95)),
    Gauge("Fan 1", kind=0x04, unit=18, entity=0x1D, value=60, limits=(240, 245, 250), factor=100),
)


def commands(spec: MachineSpec) -> str:
    """The program that ipmi_sim runs at its start."""
    return "\n".join(
        (
            f"mc_setbmc {BMC:#x}",
            f"mc_add {BMC:#x} 0 no-device-sdrs {DEVICE_ID:#x} 9 8 0x9f {MAKER:#x} {PRODUCT:#x} persist_sdr",
            f"sel_enable {BMC:#x} {LOG_ENTRIES} 0x0a",
            f"mc_set_guid {BMC:#x} {guid(spec.uuid)}",
            *(line for number, gauge in enumerate(GAUGES, 1) for line in _sensor(number, gauge)),
            f"mc_add_fru_data {BMC:#x} 0 {FRU_SIZE} data {_words(fru(spec))}",
            f"mc_enable {BMC:#x}",
            "",
        )
    )


def guid(text: str) -> str:
    """A UUID as BMCs tell it: in SMBIOS' order of bytes, the first three fields with the lowest first."""
    return uuid.UUID(text).bytes_le.hex()


def fru(spec: MachineSpec) -> bytes:
    """The machine's maker, model, serial and asset tag as its chassis, board and product areas."""
    chassis = _area(bytes((RACK_MOUNT,)), ("", f"{spec.serial}C"))
    board = _area(bytes((ENGLISH, 0, 0, 0)), (spec.vendor, spec.product, f"{spec.serial}B", "", ""))
    product = _area(bytes((ENGLISH,)), (spec.vendor, spec.product, "", "", spec.serial, spec.asset, ""))
    header = bytes((1, 0, 1, 1 + len(chassis) // 8, 1 + (len(chassis) + len(board)) // 8, 0, 0))
    return _summed(header) + chassis + board + product


def _area(start: bytes, fields: Iterable[str]) -> bytes:
    """One area: version, length in units of 8 bytes, fields with their type and length, padding, sum."""
    body = start + b"".join(map(_field, fields)) + bytes((END,))
    length = -(-(len(body) + 3) // 8)
    return _summed((bytes((1, length)) + body).ljust(length * 8 - 1, b"\0"))


def _field(text: str) -> bytes:
    # A text of one byte would read as the end of the fields.
    data = text.encode("ascii", "replace")[:63]
    data = data + b" " if len(data) == 1 else data
    return bytes((TEXT | len(data),)) + data


def _summed(data: bytes) -> bytes:
    return data + bytes((-sum(data) & 0xFF,))


def _sensor(number: int, gauge: Gauge) -> Sequence[str]:
    low = "0x00 0x00 0x00"
    high = _words(bytes(reversed(gauge.limits)))
    return (
        f"sensor_add {BMC:#x} 0 {number:#x} {gauge.kind:#x} 0x01",
        f"sensor_set_value {BMC:#x} 0 {number:#x} {gauge.value:#x} 0",
        f"sensor_set_event_support {BMC:#x} 0 {number:#x} enable scanning none {' '.join([NO_EVENTS] * 4)}",
        f"sensor_set_threshold {BMC:#x} 0 {number:#x} readable 111000 {high} {low}",
        f"main_sdr_add {BMC:#x} {_words(sensor_record(number, gauge))}",
    )


def sensor_record(number: int, gauge: Gauge) -> bytes:
    """Full Sensor Record (43.1): an unsigned threshold sensor whose upper limits can be read."""
    name = gauge.name.encode("ascii")
    not_critical, critical, beyond = gauge.limits
    key = bytes((BMC, 0, number))
    body = bytes((gauge.entity, 1, 0x01, 0x04, gauge.kind, 0x01))
    masks = bytes((0, 0, 0, 0x70, 0x38, 0))
    units = bytes((0, gauge.unit, 0, 0, gauge.factor, 0, 0, 0, 0, 0, 0))
    ranges = bytes((gauge.value, not_critical, 0, 0xFF, 0, beyond, critical, not_critical, 0, 0, 0, 1, 1, 0, 0, 0))
    rest = key + body + masks + units + ranges + bytes((TEXT | len(name),)) + name
    return bytes((0, 0, 0x51, 0x01, len(rest))) + rest


def _words(data: bytes) -> str:
    return " ".join(f"{byte:#04x}" for byte in data)
