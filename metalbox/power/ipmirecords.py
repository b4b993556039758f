"""The longer answers of a BMC: sensors (SDR), event log (SEL), field replaceable units (FRU), identity.

pyghmi decodes single records; the walks over the repositories are here, since pyghmi's never end with a BMC that
repeats itself, share one cache between all BMCs of a make, and stop at the first record that is wrong.
"""

from __future__ import annotations

import struct
import uuid
from dataclasses import dataclass, field
from typing import Any

from pyghmi.exceptions import PyghmiException
from pyghmi.ipmi import events, fru, sdr
from pyghmi.ipmi.private import constants

from metalbox.errors import BmcGarbage, BmcNotSupported, BmcRefused, InvalidValue
from metalbox.machine import Mac
from metalbox.power import BmcInventory, LogEntry, Sensor
from metalbox.power.ipmisession import PARSE_ERRORS, Refusal, Session

APPLICATION, SENSOR_EVENT, STORAGE, TRANSPORT = 0x06, 0x04, 0x0A, 0x0C
LAST_RECORD = 0xFFFF
NOT_PRESENT = frozenset({0xCB})
RESERVATION_CANCELLED = 0xC5
TOO_LONG = frozenset({0xC7, 0xC8, 0xC9, 0xCA, 0xFF})  # each of them is what some BMC says
BMC_ADDRESS = 0x20
# A timestamp below is the BMC's uptime before its clock was set (IPMI 2.0 section 37).
FIRST_REAL_TIME = 0x20000000
UNSPECIFIED_TIME = 0xFFFFFFFF
# What one answer may carry of a record: 32 bytes pass all transports; some BMCs want less.
CHUNK = 32
SMALLEST_CHUNK = 8
SEVERITIES = ((4, "critical"), (2, "critical"), (1, "warning"))  # pyghmi's bits: failed, critical, warning
UNITS = {"°C": "C", "°F": "F"}
# IANA's enterprise numbers, of those who sell servers: for BMCs whose FRU names nobody.
VENDORS = {
    2: "IBM",
    11: "HP",
    343: "Intel",
    674: "Dell",
    2623: "ASUSTeK",
    7244: "Quanta",
    10368: "Fujitsu",
    10876: "Supermicro",
    15370: "GIGABYTE",
    19046: "Lenovo",
    47196: "HPE",
}


class Entry(sdr.SDREntry):  # type: ignore[misc]
    """One record of the repository. In pyghmi, names in 6-bit ASCII never end and those in Latin-1 must be UTF-8."""

    def tlv_decode(self, tlv: int, data: bytearray) -> str:
        """Read a name by its type/length byte (section 43.15)."""
        kind = tlv >> 6
        if kind == 2:
            bits = int.from_bytes(bytes(data[: tlv & 0x1F]), "little")
            count = min(len(data), tlv & 0x1F) * 8 // 6
            return "".join(chr(0x20 + (bits >> (6 * place) & 0x3F)) for place in range(count)).rstrip()
        if kind == 3:
            return bytes(data[: tlv & 0x1F]).rstrip(b"\0 ").decode("latin-1")
        return str(super().tlv_decode(tlv, data))


@dataclass(slots=True)
class Repository:
    """The sensors that a BMC describes, in its order; keys as pyghmi's event decoder looks them up."""

    sensors: dict[str, Entry] = field(default_factory=dict)


class _Decoder:
    """What pyghmi's decoder of events wants of its command object."""

    _oem: _Decoder

    def __init__(self) -> None:
        self._oem = self

    def get_event_constants(self) -> Any:
        return constants

    def process_event(self, event: Any, ipmicmd: Any, record: Any) -> None:
        """Vendors' own events stay as they are."""


def read_sensors(session: Session) -> list[Sensor]:
    """Every sensor of the repository with its reading."""
    return [_read_sensor(session, entry) for entry in read_repository(session).sensors.values() if entry.readable]


def _read_sensor(session: Session, entry: Entry) -> Sensor:
    kind = str(entry.sensor_type).lower()
    silent = Sensor(entry.name, kind)
    if entry.sensor_owner != BMC_ADDRESS:
        return silent  # a satellite controller's, to be asked by a bridge; its number means another sensor here
    try:
        data = session.ask(SENSOR_EVENT, 0x2D, bytes([entry.sensor_number]), lun=entry.sensor_lun)
        reading = entry.decode_sensor_reading(session, data.ljust(4, b"\0"))
    except (BmcRefused, BmcNotSupported, PyghmiException, NotImplementedError, *PARSE_ERRORS):
        return silent
    if reading.unavailable:
        return silent
    has_value = reading.value is not None
    return Sensor(
        entry.name,
        kind,
        value=round(float(reading.value), 3) if has_value else None,
        unit=UNITS.get(reading.units, str(reading.units)).strip() if has_value else "",
        health=_severity(reading.health),
        states=tuple(map(str, reading.states)),
    )


def _severity(bits: int) -> str:
    return next((word for bit, word in SEVERITIES if bits & bit), "ok")


def read_repository(session: Session) -> Repository:
    """Walk over the sensor data repository, or over the BMC's device SDRs where it has none (section 33)."""
    device = session.ask(APPLICATION, 0x01)
    maker, product = int.from_bytes(device[6:9], "little"), int.from_bytes(device[9:11], "little")
    if device[5] & 0x02:
        netfn, reserve, get = STORAGE, 0x22, 0x23
    elif device[1] & 0x80:
        netfn, reserve, get = SENSOR_EVENT, 0x22, 0x21
    else:
        raise BmcNotSupported(f"{session.where} describes no sensors", evidence=f"device support {device[5]:#04x}")
    found = Repository()
    record, seen = 0, set[int]()
    while record != LAST_RECORD:
        if record in seen:
            raise BmcGarbage(f"the sensor records of {session.where} go round in a circle", evidence=f"at {record:#x}")
        seen.add(record)
        try:
            record, data = _read_record(session, netfn, reserve, get, record)
        except Refusal as error:
            if record == 0 and error.completion in NOT_PRESENT:
                break  # an empty repository
            raise
        try:
            entry = Entry(bytearray(data), constants, False, maker, product)
            if entry.sdrtype == sdr.TYPE_SENSOR:
                found.sensors[f"{entry.sensor_owner}.{entry.sensor_number}.{entry.sensor_lun}"] = entry
        except (NotImplementedError, *PARSE_ERRORS):
            continue  # one record that nobody understands; the others are worth having
    return found


def _read_record(session: Session, netfn: int, reserve: int, get: int, record: int) -> tuple[int, bytes]:
    """One record in pieces: the next record's number and the bytes. A cancelled reservation is renewed."""
    chunk, cancelled = CHUNK, 0
    reservation = session.ask(netfn, reserve)[:2]
    data, length, following = b"", 5, LAST_RECORD
    while len(data) < length:
        size = min(chunk, length - len(data))
        request = reservation + struct.pack("<HBB", record, len(data), size)
        try:
            answer = session.ask(netfn, get, request)
        except Refusal as error:
            if error.completion == RESERVATION_CANCELLED and cancelled < 5:
                cancelled += 1
                reservation = session.ask(netfn, reserve)[:2]
                continue
            if error.completion in TOO_LONG and chunk > SMALLEST_CHUNK:
                chunk //= 2
                continue
            raise
        if len(answer) < 3:
            raise BmcGarbage(f"{session.where} sends sensor records without content", evidence=answer.hex(" "))
        following = int.from_bytes(answer[:2], "little")
        data += answer[2:]
        length = 5 + data[4] if len(data) >= 5 else 5
    return following, data


def read_event_log(session: Session) -> list[LogEntry]:
    """The whole log, oldest first. The names of sensors come from the repository, where there is one."""
    session.ask(STORAGE, 0x40)  # Get SEL Info: says that there is a log
    try:
        repository = read_repository(session)
    except (BmcNotSupported, BmcRefused, BmcGarbage):
        repository = Repository()
    decoder = _Decoder()
    handler = events.EventHandler(repository, decoder)
    entries: list[LogEntry] = []
    record, seen = 0, set[int]()
    while record != LAST_RECORD:
        if record in seen:
            raise BmcGarbage(f"the event log of {session.where} goes round in a circle", evidence=f"at {record:#x}")
        seen.add(record)
        try:
            answer = session.ask(STORAGE, 0x43, struct.pack("<HHBB", 0, record, 0, 0xFF), unsupported=NOT_PRESENT)
        except BmcNotSupported:
            break  # the log is empty, or was cleared while it was read
        if len(answer) < 18:
            raise BmcGarbage(f"{session.where} sends event records that are cut short", evidence=answer.hex(" "))
        record = int.from_bytes(answer[:2], "little")
        entries.append(_log_entry(handler, answer[2:18]))
    return entries


def _log_entry(handler: Any, record: bytes) -> LogEntry:
    number = f"{int.from_bytes(record[:2], 'little'):04x}"
    try:
        event = handler._sel_decode(record)
    except PARSE_ERRORS:
        event = {}
    timecode = event.get("timecode", 0)
    at = float(timecode) if FIRST_REAL_TIME <= timecode < UNSPECIFIED_TIME else None
    if not event.get("event"):
        return LogEntry(number, f"record of type {record[2]:#04x}: {record[7:].hex(' ')}", at)
    text = str(event["event"])
    if event.get("event_data"):
        text += f" ({event['event_data']})"
    sensor = str(event.get("component") or "")
    severity = _severity(event.get("severity", 0))
    kind = str(event.get("component_type") or "")
    said = ": ".join(part for part in (sensor or kind, text) if part)
    return LogEntry(number, said, at, severity, sensor)


def read_inventory(session: Session, channel: int | None = None) -> BmcInventory:
    """Who the BMC is: device ID, FRU 0, GUID, and the MAC of its LAN channel (default: the one that answers)."""
    device = session.ask(APPLICATION, 0x01)
    unit = _fru(session)
    vendor = _text(unit, "Manufacturer", "Board manufacturer")
    return BmcInventory(
        vendor=vendor or VENDORS.get(int.from_bytes(device[6:9], "little"), ""),
        model=_text(unit, "Product name", "Board product name"),
        serial=_text(unit, "Serial Number", "Chassis serial number", "Board serial number"),
        uuid=_uuid(session),
        firmware=f"{device[2] & 0x7F}.{device[3]:02x}",
        bmc_mac=_mac(session, session.currentchannel if channel is None else channel),
    )


def _fru(session: Session) -> dict[str, Any]:
    """The fields of FRU 0, empty where there is none or where it does not keep to its own format."""
    try:
        # Padded: in pyghmi one area that ends too early costs the others, too.
        return dict(fru.FRU(rawdata=_fru_data(session) + bytes(256)).info or {})
    except (BmcRefused, BmcNotSupported, PyghmiException, *PARSE_ERRORS):
        return {}


def _fru_data(session: Session) -> bytes:
    """Section 34. pyghmi reads 224 bytes at once and takes only some of the codes that say "too long" for that."""
    area = session.ask(STORAGE, 0x10, b"\0")
    size, unit = int.from_bytes(area[:2], "little"), 2 if area[2] & 1 else 1
    data, chunk = b"", CHUNK
    while len(data) < size:
        request = struct.pack("<BHB", 0, len(data) // unit, min(chunk, size - len(data)) // unit)
        try:
            answer = session.ask(STORAGE, 0x11, request)
        except Refusal as error:
            if error.completion not in TOO_LONG or chunk <= SMALLEST_CHUNK:
                raise
            chunk //= 2
            continue
        if len(answer) < 2:
            break
        data += answer[1:]
    return data


def _text(unit: dict[str, Any], *names: str) -> str:
    for name in names:
        value = unit.get(name)
        if isinstance(value, bytes | bytearray):
            value = bytes(value).rstrip(b"\0\xff ").decode("latin-1")
        if value and str(value).strip():
            return str(value).strip()
    return ""


def _uuid(session: Session) -> str:
    try:
        data = session.ask(APPLICATION, 0x37)
    except (BmcRefused, BmcNotSupported):
        return ""
    return decode_guid(data) if len(data) == 16 and any(data) else ""


def decode_guid(data: bytes) -> str:
    """Get System GUID as the SMBIOS UUID it should equal.

    Section 22.14 wants all 16 bytes reversed; most BMCs send SMBIOS order (three little-endian fields), some that of
    RFC 4122. The first order that gives a version and variant of RFC 4122 is taken, as ipmitool does; SMBIOS
    order if none does.
    """
    orders = (uuid.UUID(bytes_le=data), uuid.UUID(bytes=data), uuid.UUID(bytes=data[::-1]))
    fitting = (one for one in orders if one.variant == uuid.RFC_4122 and one.version in range(1, 6))
    return str(next(fitting, orders[0]))


def _mac(session: Session, channel: int) -> Mac | None:
    try:
        data = session.ask(TRANSPORT, 0x02, bytes([channel & 0x0F, 5, 0, 0]))
        return Mac.from_bytes(data[1:7]) if any(data[1:7]) else None
    except (BmcRefused, BmcNotSupported, InvalidValue):
        return None
