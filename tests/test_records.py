"""Machines and orders, in and out of the database."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from metalbox.listing import Wanted, everything
from metalbox.machine import Disk, Hardware, Mac, Machine, Nic
from metalbox.records import MAX_BIGINT, dump, storable
from metalbox.report import parse_report
from metalbox.store import Store, sqlite_url
from tests.reports import UUID, full

A, B = Mac("52:54:00:00:00:01"), Mac("52:54:00:00:00:02")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = Store.open(sqlite_url(tmp_path / "metalbox.db"))
    yield opened
    opened.close()


def whole() -> Machine:
    hardware = parse_report(full()).hardware
    return Machine(
        0, "m1", "discovered", UUID, "8FZC1P1", (B, A), hardware, "rack 1", "why not", "192.0.2.5", "b1", 1.5, 2.5,
        2.25, {"agent": {"kernel": "6.1"}, "problems": ["é"]},
    )  # fmt: skip


def test_a_machine_comes_back_as_it_was(store: Store) -> None:
    with store.transaction():
        stored = store.machines.add(whole())
    with store.transaction():
        assert store.machines.get(stored.id) == stored
        assert store.machines.get(stored.id + 1) is None


def test_a_mac_belongs_to_whom_it_was_given_last(store: Store) -> None:
    with store.transaction():
        one = store.machines.add(Machine(0, "one", "discovered", macs=(A, B)))
        two = store.machines.add(Machine(0, "two", "discovered", macs=(B,)))
        assert store.machines.owners([A, B]) == {A: one.id, B: two.id}
        assert store.machines.names_of([one.id], [A, B, Mac("52:54:00:00:00:03")]) == {
            one.id: "one",
            A: "one",
            B: "two",
        }
        store.machines.save(Machine(one.id, "one", "discovered", macs=(B, A)))
        found = store.machines.get(one.id)
        assert found is not None and found.macs == (B, A)


def test_when_an_agent_spoke_is_kept_in_memory_until_it_is_stored(store: Store, tmp_path: Path) -> None:
    with store.transaction():
        number = store.machines.add(whole()).id
    changes = store.connection.exec_driver_sql("SELECT total_changes()").scalar()
    for now in (10.0, 20.0):
        store.machines.saw(number, now)
        with store.transaction():
            found = store.machines.get(number)
            assert found is not None and found.last_seen == now
            assert everything(store, Wanted())[0]["last_seen"] == now
    assert store.connection.exec_driver_sql("SELECT total_changes()").scalar() == changes
    store.save_seen()
    with store.transaction():
        found = store.machines.get(number)
    assert found is not None and found.last_seen == 20.0


def test_more_bytes_than_a_column_holds_are_no_failure(store: Store) -> None:
    disks = tuple(Disk(serial=str(number), size_bytes=2**63 - 1) for number in range(3))
    with store.transaction():
        store.machines.add(Machine(0, "huge", "discovered", hardware=Hardware(disks=disks, nics=(Nic(mac=A),))))
        assert everything(store, Wanted())[0]["disk_bytes"] == MAX_BIGINT


def test_what_is_searched_is_text_and_no_pattern(store: Store) -> None:
    with store.transaction():
        store.machines.add(whole())
        assert [row["name"] for row in everything(store, Wanted(query="M1"))] == ["m1"]
        for query in ("%", "_1", "'; DROP TABLE machines; --", "m1 "[:1] + "\\1"):
            assert everything(store, Wanted(query=query)) == [], query


@pytest.mark.parametrize(
    ("text", "stored"), [("plain", "plain"), ("a\0b", "a b"), ("é\ud800", "é?"), ("\x1b[1m", "\x1b[1m")]
)
def test_texts_that_databases_refuse(text: str, stored: str) -> None:
    assert storable(text) == stored


def test_json_of_anything() -> None:
    assert dump({"path": Path("/x"), "mac": A, "text": "\0\ud800"}) == (
        '{"path":"/x","mac":"52:54:00:00:00:01","text":"\\u0000\\ud800"}'
    )


def test_json_of_dataclasses_is_that_of_their_fields() -> None:
    hardware = parse_report(full()).hardware
    assert json.loads(dump(hardware)) == json.loads(json.dumps(dataclasses.asdict(hardware)))
