"""What agents may send, and what they are told when they send something else."""

from __future__ import annotations

import copy
import dataclasses
import json
import random
import tracemalloc
from typing import Any, cast

import pytest

from metalbox.errors import InvalidReport, InvalidValue
from metalbox.machine import Hardware
from metalbox.report import MAX_ITEMS, MAX_TEXT, Hello, parse_hardware, parse_hello, parse_report, read_json, show
from tests.reports import FULL, full, small


def put(path: str, value: Any) -> dict[str, Any]:
    """The full report with one value replaced; `path` like hardware.disks.1.size_bytes."""
    document = full()
    *way, last = [int(step) if step.isdecimal() else step for step in path.split(".")]
    place: Any = document
    for step in way:
        place = place[step]
    place[last] = value
    return document


def test_a_whole_report_is_read() -> None:
    report = parse_report(full())
    assert report.agent.boot_id == "b1"
    assert report.agent.booted_mac == "52:54:00:00:00:01"
    assert report.hardware.system.serial == "8FZC1P1"
    assert report.hardware.disks[0].health.power_on_hours == 1000
    assert report.hardware.disks[1].namespaces[0].nsid == 1
    assert report.hardware.nics[0].lldp is not None and report.hardware.nics[0].lldp.port_id == "Gi1/0/1"
    assert report.hardware.nics[1].lldp is None
    assert report.hardware.bmc is not None and report.hardware.bmc.channel == 1
    assert [device.device_id for device in report.hardware.gpus] == ["1eb8"]


def test_what_is_read_can_be_written_and_read_again() -> None:
    hardware = parse_report(full()).hardware
    assert parse_hardware(json.loads(json.dumps(dataclasses.asdict(hardware)))) == hardware
    assert parse_hardware(json.loads(json.dumps(dataclasses.asdict(Hardware())))) == Hardware()


def test_unknown_keys_and_missing_values_are_no_mistakes() -> None:
    document = full(mood="good")
    document["hardware"]["fans"] = [{"rpm": 9000}]
    document["hardware"]["disks"][0] = {"serial": "X", "colour": "grey", "size_bytes": None, "model": None}
    document["hardware"]["bmc"] = None
    report = parse_report(document)
    assert report.hardware.disks[0].size_bytes is None
    assert report.hardware.disks[0].model == ""
    assert report.hardware.bmc is None


def test_texts_are_cleaned() -> None:
    report = parse_report(put("hardware.system.product", "  Power\0Edge\x1b[31m\ud800 R610\n"))
    assert report.hardware.system.product == "Power Edge [31m  R610"


def test_marks_are_made_one_spelling() -> None:
    document = put("hardware.nics.0.mac", "52-54-00-AA-BB-CC")
    document["hardware"]["system"]["uuid"] = "4C4C4544-0042-3510-8054-B7C04F333732"
    report = parse_report(document)
    assert report.hardware.nics[0].mac == "52:54:00:aa:bb:cc"
    assert report.hardware.system.uuid == "4c4c4544-0042-3510-8054-b7c04f333732"
    assert parse_report(put("hardware.system.uuid", "Not Settable")).hardware.system.uuid == ""


SENTENCES = [
    ("version", 2, "version is 2, but this metalbox reads reports of version 1"),
    ("version", True, "version is True, but this metalbox reads reports of version 1"),
    ("agent", [], "agent: expected an object, got a list of 0 items"),
    ("agent.boot_id", "", "agent.boot_id: expected the kernel's boot id of 1 to 64 characters, got ''"),
    ("agent.uptime_seconds", float("nan"), "agent.uptime_seconds: expected seconds, got nan"),
    ("agent.uptime_seconds", float("inf"), "agent.uptime_seconds: expected seconds, got inf"),
    ("agent.uptime_seconds", 10**400, "agent.uptime_seconds: expected seconds, got a number of 1329 bits"),
    (
        "agent.booted_mac",
        "eth0",
        "agent.booted_mac: 'eth0' is not a MAC address: write it like 52:54:00:ab:cd:ef",
    ),
    ("hardware", None, "hardware: expected an object, got None"),
    ("hardware.disks", {}, "hardware.disks: expected a list, got an object with 0 keys"),
    ("hardware.disks.1", "sdb", "hardware.disks[1]: expected an object, got 'sdb'"),
    ("hardware.disks.1.size_bytes", "1 TB", "hardware.disks[1].size_bytes: expected a whole number, got '1 TB'"),
    ("hardware.disks.1.size_bytes", 1.5, "hardware.disks[1].size_bytes: expected a whole number, got 1.5"),
    ("hardware.disks.1.size_bytes", True, "hardware.disks[1].size_bytes: expected a whole number, got True"),
    (
        "hardware.disks.1.size_bytes",
        -1,
        "hardware.disks[1].size_bytes: expected a number from 0 to 9223372036854775807, got -1",
    ),
    (
        "hardware.disks.1.size_bytes",
        10**30000,
        "hardware.disks[1].size_bytes: expected a number from 0 to 9223372036854775807, got a number of 99658 bits",
    ),
    (
        "hardware.disks.1.namespaces.0.nsid",
        None,
        "hardware.disks[1].namespaces[0].nsid: a number is missing",
    ),
    ("hardware.disks.0.rotational", "yes", "hardware.disks[0].rotational: expected true or false, got 'yes'"),
    (
        "hardware.nics.1.mac",
        "zz:zz",
        "hardware.nics[1].mac: 'zz:zz' is not a MAC address: write it like 52:54:00:ab:cd:ef",
    ),
    ("hardware.nics.0.lldp.vlan", 4096, "hardware.nics[0].lldp.vlan: expected a number from 0 to 4095, got 4096"),
    ("hardware.system.serial", 7, "hardware.system.serial: expected a text, got 7"),
    (
        "hardware.system.serial",
        "x" * 5000,
        "hardware.system.serial: a text of 5000 characters, at most 1024 are taken: 'xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"
        "xxxxxxxxxxxxxxxxxxxxxxxx...",
    ),
    ("hardware.nics", [{}] * 1025, "hardware.nics: a list of 1025 items, at most 1024 are taken"),
    ("problems", ["a", 1], "problems[1]: expected a text, got 1"),
]


@pytest.mark.parametrize(("path", "value", "sentence"), SENTENCES, ids=lambda value: show(value)[:40])
def test_mistakes_are_named_with_path_and_value(path: str, value: Any, sentence: str) -> None:
    with pytest.raises(InvalidReport) as caught:
        parse_report(put(path, value))
    assert str(caught.value) == sentence


@pytest.mark.parametrize("document", [None, [], "x", 1, {}, {"version": 1}, {"version": 1, "agent": {"boot_id": "b"}}])
def test_what_is_no_report_is_refused(document: Any) -> None:
    with pytest.raises(InvalidReport):
        parse_report(document)


def test_a_report_that_names_nobody_is_refused() -> None:
    with pytest.raises(InvalidReport, match="nothing tells which machine it is"):
        parse_report(small(boot_id="b", uuid="00000000-0000-0000-0000-000000000000", serial="To be filled by O.E.M."))
    parse_report(small(boot_id="b", serial="ABC1234"))
    parse_report(small("52:54:00:00:00:01", boot_id="b"))


def test_hello() -> None:
    word = parse_hello({"boot_id": "b", "macs": ["52:54:00:00:00:01", "00:00:00:00:00:00", ""], "uptime_seconds": 3})
    assert word == Hello("b", ("52:54:00:00:00:01",), "", "", 3.0)  # type: ignore[arg-type]
    with pytest.raises(InvalidReport, match=r"macs\[0\]: expected a text, got 7"):
        parse_hello({"boot_id": "b", "macs": [7]})


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"\xff", b"NaN", b'{"a": Infinity}', b"[" * 100_000, b'{"a":' * 50_000, b"1" * 10_000, b"\0", b"'a'"],
    ids=lambda body: repr(body[:12]),
)
def test_what_is_no_json_is_one_clear_error(body: bytes) -> None:
    with pytest.raises(InvalidValue, match="the body is"):
        read_json(body)


def test_any_value_is_shown_short() -> None:
    for value in ("x" * 10**6, 10**30000, -(10**30000), {"a": 1}, [1] * 1000, None, 1.5, "\ud800", b"x" * 500):
        assert len(show(value)) <= 64


# One mutation of a report: values that hurt, at any place.
HOSTILE: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2**31, 2**63, 2**64, 10**100, -(10**400), 0.5, -0.0, 1e308, float("inf"),
    float("nan"), "", "x", "\0", "\ud800", "\u202e", "x" * (MAX_TEXT + 1), "52:54:00:00:00:01", "ff:ff:ff:ff:ff:ff",
    [], {}, [[]], [None], {"": None}, [{}] * 3, {"size_bytes": {}}, "00000000-0000-0000-0000-000000000000",
    [[[[[[[[[[[[[[[[]]]]]]]]]]]]]]]],
)  # fmt: skip


def mutate(document: Any, chance: random.Random) -> Any:
    place, holder, key = document, cast(Any, None), cast(Any, None)
    while isinstance(place, dict | list) and place and chance.random() < 0.85:
        holder = place
        key = chance.choice(list(place)) if isinstance(place, dict) else chance.randrange(len(place))
        place = place[key]
    if holder is None:
        return chance.choice(HOSTILE)
    match chance.randrange(5):
        case 0:
            del holder[key]
        case 1 if isinstance(holder, list):
            holder.extend([copy.deepcopy(place)] * chance.randrange(1, 20))
        case 2 if isinstance(holder, dict):
            holder[chance.choice(["x", "", "size_bytes", "mac", "uuid", "name"])] = place
        case 3 if isinstance(place, str):
            holder[key] = place[: chance.randrange(len(place) + 1)] + chance.choice(["", "\0", "\ud800", "é", "'"])
        case _:
            holder[key] = chance.choice(HOSTILE)
    return document


def test_a_hundred_thousand_mutated_reports_raise_nothing_else_and_leave_nothing_behind() -> None:
    chance = random.Random(20261121)
    text = json.dumps(FULL)
    verdicts = {True: 0, False: 0}

    def one() -> None:
        document = json.loads(text)
        for _ in range(chance.choice((1, 1, 2, 5))):
            document = mutate(document, chance)
        try:
            hardware = parse_report(document).hardware
        except InvalidReport as error:
            assert 0 < len(str(error)) < 400
            verdicts[False] += 1
        else:
            # What is taken can be stored.
            json.dumps(dataclasses.asdict(hardware)).encode()
            verdicts[True] += 1

    for _ in range(5_000):
        one()
    tracemalloc.start()
    before = tracemalloc.take_snapshot()
    for _ in range(2_000):
        one()
    growth = sum(row.size_diff for row in tracemalloc.take_snapshot().compare_to(before, "filename"))
    tracemalloc.stop()
    for _ in range(93_000):
        one()
    assert verdicts[True] > 10_000
    assert verdicts[False] > 10_000
    assert growth < 300_000, f"2,000 reports left {growth} bytes behind"


def test_limits_hold_for_every_list_of_the_report() -> None:
    for name in ("cpus", "dimms", "disks", "nics", "pci"):
        with pytest.raises(InvalidReport, match=f"at most {MAX_ITEMS[name]} are taken"):
            parse_report(put(f"hardware.{name}", [{}] * (MAX_ITEMS[name] + 1)))
