"""The list of machines, in pages: each machine once, and no page costs more with more machines."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import pytest

from metalbox.errors import InvalidValue
from metalbox.labels import read_selector
from metalbox.listing import FIELDS, Wanted, everything, page
from metalbox.machine import Fault, Mac, Machine
from metalbox.store import Store, sqlite_url
from tests.counting import cost


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store.open(sqlite_url(tmp_path / "db"))
    yield store
    store.close()


def fill(store: Store, count: int, first: int = 0) -> None:
    with store.transaction():
        for n in range(first, first + count):
            macs = tuple(Mac.from_bytes(bytes([2, port]) + n.to_bytes(4, "big")) for port in (1, 0))
            labels = {"rack": f"r{n % 3}"} if n % 4 else {}
            state = ("discovered", "available")[n % 2]
            store.machines.add(Machine(0, f"m{n:05d}", state, f"u{n}", f"S{n:05d}", macs, labels=labels))


def names(store: Store, wanted: Wanted, size: int) -> list[str]:
    found: list[str] = []
    after, first = "", True
    while first or after:
        part = page(store, wanted, after, size)
        found += [row["name"] for row in part.rows]
        after, first = part.following, False
    return found


@pytest.mark.parametrize("size", [1, 7, 20, 21, 1000])
def test_pages_of_any_size_are_the_whole_list(store: Store, size: int) -> None:
    assert names(store, Wanted(), size) == []
    fill(store, 20)
    whole = [row["name"] for row in everything(store, Wanted())]
    assert whole == sorted(whole)
    assert len(whole) == 20
    assert names(store, Wanted(), size) == whole
    for wanted, expected in (
        (Wanted(state="available"), whole[1::2]),
        (Wanted(query="s00013"), ["m00013"]),
        (Wanted(query="02-01-00-00-00-0B"), ["m00011"]),
        (Wanted(query="u1"), ["m00001", *whole[10:]]),
        (Wanted(terms=read_selector("rack=r1")), [name for n, name in enumerate(whole) if n % 3 == 1 and n % 4]),
        (Wanted(terms=read_selector("!rack")), whole[::4]),
        (Wanted(terms=read_selector("rack!=r1,rack")), [x for n, x in enumerate(whole) if n % 3 != 1 and n % 4]),
        (Wanted(query="nothing"), []),
    ):
        assert names(store, wanted, size) == expected, wanted


def test_a_label_is_told_from_one_that_looks_like_it(store: Store) -> None:
    with store.transaction():
        for name, labels in (("a", {"rack": "r1"}), ("b", {"rack": "R1"}), ("c", {"x": "r1"}), ("d", {"x.rack": "r1"})):
            store.machines.add(Machine(0, name, "discovered", labels=labels))
    assert [row["name"] for row in everything(store, Wanted(terms=read_selector("rack=r1")))] == ["a"]
    assert [row["name"] for row in everything(store, Wanted(terms=read_selector("rack=r_")))] == []


def test_only_what_is_asked_for_is_told_in_the_usual_order(store: Store) -> None:
    fill(store, 2)
    (whole, _) = everything(store, Wanted())
    assert tuple(whole) == FIELDS
    assert whole["macs"] == [Mac("02:01:00:00:00:00"), Mac("02:00:00:00:00:00")]
    for name in FIELDS:
        (row, _) = everything(store, Wanted.read("", "", (), name))
        assert row == {key: whole[key] for key in FIELDS if key in ("name", name)}
    (row, _) = everything(store, Wanted.read("", "", (), "state, id"))
    assert list(row) == ["id", "name", "state"]
    assert Wanted.read("", "", (), "").fields == FIELDS
    with pytest.raises(InvalidValue, match="fields: there is no 'hardware', but id, name, "):
        Wanted.read("", "", (), "name,hardware")


def test_what_is_not_in_the_table_as_it_is_told(store: Store) -> None:
    fill(store, 1)
    (machine,) = everything(store, Wanted())
    assert (machine["fault"], machine["last_seen"]) == (None, 0.0)
    fault = Fault("erase-failed", "its disk failed", 5.0, ("a line",))
    with store.transaction():
        found = store.machines.get(machine["id"])
        assert found is not None
        store.machines.save(dataclasses.replace(found, fault=fault))
        store.machines.saw(machine["id"], 99.0)
    (machine,) = everything(store, Wanted.read("", "", (), "fault,last_seen"))
    told = {"code": "erase-failed", "text": "its disk failed", "at": 5.0, "evidence": ["a line"]}
    assert machine == {"name": "m00000", "fault": told, "last_seen": 99.0}


@pytest.mark.parametrize(
    "wanted", [Wanted(), Wanted(query="nothing"), Wanted(state="deployed"), Wanted(terms=read_selector("rack=r9"))]
)
def test_a_page_costs_the_same_however_many_machines_there_are(store: Store, wanted: Wanted) -> None:
    fill(store, 200)
    page(store, wanted, "m00050", 50)
    with cost(store) as few:
        page(store, wanted, "m00050", 50)
    fill(store, 1800, first=200)
    with cost(store) as many:
        page(store, wanted, "m00050", 50)
    assert many.statements == few.statements
    assert len(many.statements) <= 4
    assert many.instructions <= 1.2 * few.instructions + 200
