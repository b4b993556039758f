"""The longer answers: what is decoded from them, and BMCs whose records are wrong."""

from __future__ import annotations

import struct
import uuid
from collections.abc import Callable
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metalbox.errors import BmcGarbage, BmcNotSupported, PowerError
from metalbox.power.ipmirecords import decode_guid, read_event_log, read_inventory, read_repository, read_sensors
from metalbox.power.ipmisession import Session, completion_error
from tests.power.ipmi_peers import FRU, sensor_record

DEVICE = bytes.fromhex("20 01 09 08 02 9f 7c2a00 0100")  # Supermicro's enterprise number, with an SDR repository
Answer = Callable[[bytes], bytes | int]


class Told:
    """A session that answers from a table: (netfn, command) to the data, or to a completion code."""

    where = "bmc port 623"
    currentchannel = 1

    def __init__(self, **more: Answer | bytes | int) -> None:
        self.table: dict[str, Answer | bytes | int] = {"06_01": DEVICE, **more}
        self.asked: list[str] = []

    def ask(self, netfn: int, command: int, data: bytes = b"", *, unsupported: Any = frozenset(), **_: Any) -> bytes:
        key = f"{netfn:02x}_{command:02x}"
        self.asked.append(key)
        answer = self.table.get(key, 0xC1)
        if callable(answer):
            answer = answer(data)
        if isinstance(answer, int):
            raise completion_error(self.where, netfn, command, answer, unsupported)
        return answer


Table = dict[str, Answer | bytes | int]


def told(**more: Answer | bytes | int) -> Session:
    return cast(Session, Told(**more))


def repository(*records: bytes, most: int = 255, circle: bool = False) -> Table:
    """Answers to the commands that read a repository which gives at most `most` bytes at once."""
    cancelled = iter([True])

    def get(data: bytes) -> bytes | int:
        reservation, number, offset, size = (int(value) for value in struct.unpack("<HHBB", data))
        assert reservation == 0x0101
        if next(cancelled, False):
            return 0xC5
        if size > most:
            return 0xCA
        last = number + 1 == len(records)
        following: int = (0 if circle else 0xFFFF) if last else number + 1
        return struct.pack("<H", following) + records[number][offset : offset + size]

    return {"0a_22": b"\x01\x01", "0a_23": get}


READS: Table = {"04_2d": b"\x18\xc0\x00\x00"}
NAMED = sensor_record(9, "Fan", 4, 18)
# "IPMI" in 6-bit ASCII, the example of section 43.16.
SIX_BIT = NAMED[:-4] + bytes([0x83, 0x29, 0xDC, 0xA6])
LATIN_1 = NAMED[:-4] + bytes([0xC4]) + "Lüft".encode("latin-1")


@pytest.mark.parametrize("most", [255, 16, 8])
def test_a_repository_in_pieces(most: int) -> None:
    records = [sensor_record(number, f"Sensor {number}", 1, 1) for number in range(1, 5)]
    found = read_repository(told(**repository(*records, most=most)))
    assert [entry.name for entry in found.sensors.values()] == [f"Sensor {number}" for number in range(1, 5)]


def test_names_in_every_encoding() -> None:
    assert len(SIX_BIT) == len(NAMED)
    for record, name in ((NAMED, "Fan"), (SIX_BIT, "IPMI"), (LATIN_1, "Lüft")):
        whole = record[:4] + bytes([len(record) - 5]) + record[5:]
        assert [entry.name for entry in read_repository(told(**repository(whole))).sensors.values()] == [name]


def test_one_record_that_nobody_understands_costs_only_itself() -> None:
    broken = bytes([0, 0, 0x51, 1, 3, 1, 2, 3])
    future = bytes([0, 0, 0x99, 1, 3, 1, 2, 3])
    found = read_repository(told(**repository(broken, NAMED, future)))
    assert [entry.name for entry in found.sensors.values()] == ["Fan"]


def test_records_in_a_circle() -> None:
    with pytest.raises(BmcGarbage, match="go round in a circle"):
        read_repository(told(**repository(NAMED, NAMED, circle=True)))


def test_a_repository_that_is_always_cancelled() -> None:
    with pytest.raises(PowerError, match="refused a command"):
        table: Table = {"0a_22": b"\x01\x01", "0a_23": 0xC5}
        read_repository(told(**table))


def test_a_bmc_without_repository() -> None:
    with pytest.raises(BmcNotSupported, match="describes no sensors"):
        read_sensors(told(**{"06_01": DEVICE[:5] + b"\0" + DEVICE[6:]}))


@pytest.mark.parametrize(
    ("reading", "value", "health", "states"),
    [
        (b"\x18\xc0\x00", 24.0, "ok", ()),
        (b"\xa8\xc0\x18", 168.0, "critical", ("upper non-critical threshold", "upper critical threshold")),
        (b"\x94\xc0\x08", 148.0, "warning", ("upper non-critical threshold",)),
        (b"\x18\xe0\x00", None, "", ()),  # reading unavailable
        (b"\x18\x80\x00", None, "", ()),  # scanning disabled
        (b"\x18\xc0", 24.0, "ok", ()),  # cut short, as section 35.14 allows
        (b"\x18", None, "", ()),
        (0xCB, None, "", ()),
    ],
)
def test_a_reading(reading: bytes | int, value: float | None, health: str, states: tuple[str, ...]) -> None:
    (sensor,) = read_sensors(told(**repository(sensor_record(1, "Inlet", 1, 1)), **{"04_2d": reading}))
    assert (sensor.name, sensor.kind) == ("Inlet", "temperature")
    assert (sensor.value, sensor.health, sensor.states) == (value, health, states)
    assert sensor.unit == ("C" if value is not None else "")


def test_a_satellites_sensor_is_not_read_as_the_bmcs() -> None:
    record = bytearray(sensor_record(1, "Power supply", 8, 6))
    record[5] = 0xB0
    session = Told(**repository(bytes(record)), **{"04_2d": b"\x18\xc0\x00"})
    (sensor,) = read_sensors(cast(Session, session))
    assert (sensor.name, sensor.value) == ("Power supply", None)
    assert "04_2d" not in session.asked


def log(*records: bytes, circle: bool = False) -> Table:
    def get(data: bytes) -> bytes | int:
        number = int.from_bytes(data[2:4], "little")
        if not records:
            return 0xCB
        following = number + 1 if number + 1 < len(records) else 0 if circle else 0xFFFF
        return struct.pack("<H", following) + records[number]

    return {"0a_40": bytes(14), "0a_43": get}


def event(number: int, at: int, *rest: int) -> bytes:
    return struct.pack("<HBI", number, 2, at) + bytes([0x20, 0, 4, *rest])


def test_an_event_log() -> None:
    records = (
        event(1, 1_700_000_000, 0x01, 0x01, 0x01, 0x57, 0xA0, 0x90),
        event(2, 1_700_000_060, 0x01, 0x01, 0x81, 0x57, 0xA0, 0x90),
        event(3, 77, 0x08, 0x02, 0x6F, 0x03, 0xFF, 0xFF),
        event(4, 0xFFFFFFFF, 0x12, 0x05, 0x6F, 0x01, 0xFF, 0xFF),
    )
    entries = read_event_log(told(**log(*records), **repository(sensor_record(1, "Inlet", 1, 1))))
    assert [(one.id, one.at, one.severity) for one in entries] == [
        ("0001", 1_700_000_000.0, "warning"),
        ("0002", 1_700_000_060.0, "ok"),
        ("0003", None, "critical"),
        ("0004", None, "ok"),
    ]
    assert [one.text for one in entries[:3]] == [
        "Inlet: Upper non-critical",
        "Inlet: Upper non-critical deasserted",
        "Sensor 32.2.0: Power input lost",
    ]


def test_an_empty_log_and_none_at_all() -> None:
    assert read_event_log(told(**log())) == []
    with pytest.raises(BmcNotSupported):
        read_event_log(told())


def test_a_log_in_a_circle() -> None:
    with pytest.raises(BmcGarbage, match="go"):
        read_event_log(told(**log(event(1, 0, 1, 1, 1, 0, 0, 0), circle=True)))


def test_a_log_cut_short() -> None:
    with pytest.raises(BmcGarbage, match="cut short"):
        read_event_log(told(**{"0a_40": bytes(14), "0a_43": b"\xff\xff\x01"}))


@given(st.binary(min_size=16, max_size=16))
def test_no_record_breaks_the_log(record: bytes) -> None:
    (entry,) = read_event_log(told(**log(record)))
    assert entry.text
    assert entry.id == f"{int.from_bytes(record[:2], 'little'):04x}"


@given(st.binary(max_size=80))
def test_no_record_breaks_the_repository(data: bytes) -> None:
    record = bytes([0, 0, 0x51, 1, len(data)]) + data
    session = told(**repository(record, NAMED), **READS)
    assert "Fan" in [sensor.name for sensor in read_sensors(session)]


def fru(data: bytes, most: int = 255, words: bool = False) -> Table:
    unit = 2 if words else 1

    def read(request: bytes) -> bytes | int:
        _, offset, count = struct.unpack("<BHB", request)
        if count * unit > most:
            return 0xC8
        return bytes([count]) + data[offset * unit : (offset + count) * unit]

    return {"0a_10": struct.pack("<HB", len(data), words), "0a_11": read}


@pytest.mark.parametrize(("most", "words"), [(255, False), (8, False), (255, True)])
def test_a_fru_in_pieces(most: int, words: bool) -> None:
    told_by = read_inventory(told(**fru(bytes.fromhex(FRU) + bytes(16), most, words)))
    assert (told_by.vendor, told_by.model, told_by.serial) == ("MetalBox", "Board", "SN01")


def test_an_inventory_of_a_bmc_that_says_little() -> None:
    bare = read_inventory(told())
    assert (bare.vendor, bare.model, bare.serial, bare.uuid, bare.bmc_mac) == ("Supermicro", "", "", "", None)
    assert bare.firmware == "9.08"


@given(st.binary(max_size=300))
def test_no_fru_breaks_the_inventory(data: bytes) -> None:
    assert read_inventory(told(**fru(data))).firmware == "9.08"


def test_the_mac_of_the_channel() -> None:
    def lan(request: bytes) -> bytes:
        assert request[1:] == b"\x05\0\0"
        return b"\x11" + bytes([2, 0, 0, 0, 0, request[0]])

    assert str(read_inventory(told(**{"0c_02": lan})).bmc_mac) == "02:00:00:00:00:01"
    assert str(read_inventory(told(**{"0c_02": lan}), 8).bmc_mac) == "02:00:00:00:00:08"


def test_a_guid_in_three_orders() -> None:
    machine = uuid.UUID("9f3c1d52-6f0e-4b8e-9d1a-52b0c7a7e411")
    assert decode_guid(machine.bytes_le) == str(machine)
    assert decode_guid(machine.bytes) == str(machine)
    # Reversed, some look right in an order before theirs; this one does not.
    other = uuid.UUID("9f3c1d52-6f0e-4b8e-9dfa-52b0c7a7e411")
    assert decode_guid(other.bytes[::-1]) == str(other)
    assert decode_guid(bytes(range(1, 17))) == "04030201-0605-0807-090a-0b0c0d0e0f10"
