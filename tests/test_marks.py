"""Labels, owner and note of a machine: stored with one line of the timeline for each change."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from metalbox import inventory, marks
from metalbox.errors import InvalidValue, NotFound
from metalbox.labels import Changes
from metalbox.listing import Wanted, everything
from metalbox.machine import Mac, Machine
from metalbox.store import Store, sqlite_url
from tests.reports import full


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = Store.open(sqlite_url(tmp_path / "metalbox.db"))
    with opened.transaction():
        opened.machines.add(Machine(id=0, name="m1", state="discovered", macs=(Mac("52:54:00:00:00:01"),)))
    yield opened
    opened.close()


def told(store: Store) -> list[str]:
    machine = inventory.find(store, "m1")
    return [f"{entry.at:.0f} {entry.text}" for entry in inventory.timeline(store, machine, 100)]


def test_labels_are_stored_and_told(store: Store) -> None:
    marks.label(store, "m1", Changes({"rack": "r1", "pdu": "a"}), 1.0)
    marks.label(store, "52:54:00:00:00:01", Changes({"rack": "r2", "pdu": "a"}), 2.0)
    marks.label(store, "m1", Changes({}, ("rack", "none")), 3.0)
    assert inventory.find(store, "m1").labels == {"pdu": "a"}
    assert told(store) == [
        "1 label pdu: a",
        "1 label rack: r1",
        "2 label rack: r2, was r1",
        "3 label rack taken away, it was r2",
    ]
    (row,) = everything(store, Wanted())
    assert row["labels"] == {"pdu": "a"}


def test_owner_and_note(store: Store) -> None:
    marks.describe(store, "m1", 1.0, owner="ann", note="left fan rattles")
    marks.describe(store, "m1", 2.0, note="left fan\x1b[31m was\n changed " + "x" * 100)
    marks.describe(store, "m1", 3.0, owner="")
    machine = inventory.find(store, "m1")
    assert (machine.owner, machine.note) == ("", "left fan [31m was  changed " + "x" * 100)
    lines = told(store)
    assert lines[:2] == ["1 owner: ann", "1 note: left fan rattles"]
    assert lines[2].endswith(", was left fan rattles")
    assert lines[3] == "3 owner taken away, it was ann"
    with pytest.raises(InvalidValue, match="owner: at most 100 characters, this has 101"):
        marks.describe(store, "m1", 4.0, owner="x" * 101)


def test_nothing_is_stored_of_what_cannot_be(store: Store) -> None:
    with pytest.raises(NotFound, match="m9"):
        marks.label(store, "m9", Changes({"rack": "r1"}), 1.0)
    with pytest.raises(InvalidValue, match="64"):
        marks.label(store, "m1", Changes({f"k{number}": "v" for number in range(65)}), 1.0)
    assert told(store) == []


def test_they_outlive_reports(store: Store) -> None:
    machine = inventory.report(store, full(), "192.0.2.9", 1.0).machine
    marks.label(store, machine.name, Changes({"rack": "r1"}), 2.0)
    marks.describe(store, machine.name, 2.0, owner="ann", note="n")
    inventory.report(store, full(), "192.0.2.10", 3.0)
    after = inventory.find(store, machine.name)
    assert (after.labels, after.owner, after.note, after.address) == ({"rack": "r1"}, "ann", "n", "192.0.2.10")
