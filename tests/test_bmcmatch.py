"""Whose BMC is it? Exactly one machine that all marks name, or none and the reason."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metalbox.bmcmatch import Candidate, Marks, Match, Place, is_same, match
from metalbox.machine import Mac, swap_uuid
from tests.reports import OTHER_UUID, PLACEHOLDER, UUID

A, B, C = (Mac(f"52:54:00:00:00:0{number}") for number in (1, 2, 3))
ONE = Candidate(1, "one", UUID, "AAAA1111", "Dell Inc.", (A,), (C,))
TWO = Candidate(2, "two", OTHER_UUID, "BBBB2222", "Supermicro", (B,))
TWIN = Candidate(3, "twin", UUID, "", "", ())


@pytest.mark.parametrize(
    ("marks", "machines", "found"),
    [
        (Marks(), [ONE], Match(None, "it tells no UUID, serial number or MAC")),
        (
            Marks(uuid=PLACEHOLDER, serial="Default string"),
            [ONE],
            Match(None, "it tells no UUID, serial number or MAC"),
        ),
        (Marks(uuid=UUID), [TWO], Match(None, "no machine has its UUID, serial number or MAC")),
        (Marks(uuid=UUID), [ONE, TWO], Match(1, "by its UUID")),
        (Marks(uuid=swap_uuid(UUID)), [ONE, TWO], Match(1, "by its UUID")),
        (Marks(serial=" aaaa1111 ", vendor="Dell"), [ONE, TWO], Match(1, "by its serial number")),
        (
            Marks(serial="AAAA1111", vendor="HPE"),
            [ONE, TWO],
            Match(None, "no machine has its UUID, serial number or MAC"),
        ),
        (Marks(mac=C), [ONE, TWO], Match(1, "by its MAC")),
        (Marks(macs=(B,)), [ONE, TWO], Match(2, "by its MAC")),
        (Marks(UUID, "AAAA1111", "", C), [ONE, TWO], Match(1, "by its UUID, serial number and MAC")),
        # Two machines under one UUID: another mark may tell.
        (Marks(uuid=UUID), [ONE, TWIN], Match(None, "its UUID is that of one and twin")),
        (Marks(uuid=UUID, serial="AAAA1111"), [ONE, TWIN], Match(1, "by its UUID and serial number")),
        # Marks that name different machines.
        (
            Marks(uuid=UUID, serial="BBBB2222"),
            [ONE, TWO],
            Match(None, "its UUID is that of one, but its serial number is that of two"),
        ),
        # A mark that speaks against the only one.
        (
            Marks(uuid=UUID, serial="CCCC3333"),
            [ONE],
            Match(None, "its UUID is that of one, but not its serial number CCCC3333"),
        ),
        (Marks(uuid=OTHER_UUID, mac=C), [ONE], Match(None, f"its MAC is that of one, but not its UUID {OTHER_UUID}")),
        # A new board in a box with its old serial number.
        (Marks(uuid=OTHER_UUID, serial="AAAA1111"), [ONE], Match(1, "by its serial number")),
    ],
)
def test_table(marks: Marks, machines: list[Candidate], found: Match) -> None:
    assert match(marks, machines) == found


def test_many_are_told_in_bounds() -> None:
    twins = [dataclasses.replace(TWIN, id=number, name=f"m{number}") for number in range(1, 9)]
    assert match(Marks(uuid=UUID), twins).reason == "its UUID is that of m1, m2, m3, m4, m5 and 3 more"


uuids = st.sampled_from(["", UUID, swap_uuid(UUID), OTHER_UUID, PLACEHOLDER])
serials = st.sampled_from(["", "AAAA1111", "aaaa1111", "BBBB2222", "Default string"])
vendors = st.sampled_from(["", "Dell Inc.", "Dell", "HPE", "Hewlett-Packard"])
mac = st.sampled_from([A, B, C, Mac("00:00:00:00:00:00")])
macs = st.lists(mac, max_size=2).map(tuple)
marks = st.builds(Marks, uuids, serials, vendors, st.none() | mac, macs)
machines = st.lists(st.builds(Candidate, st.just(0), st.just(""), uuids, serials, vendors, macs, macs), max_size=5).map(
    lambda rows: [dataclasses.replace(row, id=number, name=f"m{number}") for number, row in enumerate(rows, 1)]
)


@given(marks, machines, st.randoms())
def test_neither_order_nor_byte_order_matter(asked: Marks, known: list[Candidate], random: st.DataObject) -> None:
    found = match(asked, known)
    shuffled = list(known)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert match(asked, shuffled) == found
    if asked.uuid:
        assert match(dataclasses.replace(asked, uuid=swap_uuid(asked.uuid)), known).machine_id == found.machine_id


@given(marks, machines)
def test_a_machine_is_found_for_a_reason_and_nothing_speaks_against_it(asked: Marks, known: list[Candidate]) -> None:
    found = match(asked, known)
    assert found.reason
    if found.machine_id is None:
        return
    machine = known[found.machine_id - 1]
    # Alone it is found too, and without it nothing of what was said for it holds.
    assert match(asked, [machine]) == found
    for other in known:
        if other.id != machine.id:
            # A second one with the very same marks makes it ambiguous.
            assert match(asked, [*known, dataclasses.replace(machine, id=99, name="m99")]).machine_id is None


@given(marks, machines)
def test_a_stranger_changes_nothing(asked: Marks, known: list[Candidate]) -> None:
    stranger = Candidate(
        50, "m50", "11111111-2222-3333-4444-555555555555", "ZZZZ9999", "Acme", (Mac("02:00:00:00:00:01"),)
    )
    assert match(asked, [*known, stranger]) == match(asked, known)


def test_one_bmc_or_two() -> None:
    assert is_same(Place("192.0.2.1", mac=A), Place("192.0.2.9", mac=A))
    assert not is_same(Place("192.0.2.1", mac=A), Place("192.0.2.1", mac=B))
    assert is_same(Place("192.0.2.1", mac=A), Place("192.0.2.1"))
    assert is_same(Place("192.0.2.1", 8000), Place("192.0.2.1"))
    assert not is_same(Place("192.0.2.1", 8000), Place("192.0.2.1", 8001))
    assert not is_same(Place("192.0.2.1", system="1"), Place("192.0.2.1", system="2"))
    assert not is_same(Place(), Place())
    assert is_same(Place("192.0.2.1", machine_id=1), Place("192.0.2.2", machine_id=1))
    assert not is_same(Place("192.0.2.1", mac=A, machine_id=1), Place("192.0.2.2", mac=B, machine_id=1))


@given(st.builds(Place, st.sampled_from(["", "a", "b"]), st.sampled_from([0, 1, 2]), st.none() | mac), st.data())
def test_sameness_has_no_direction(one: Place, data: st.DataObject) -> None:
    other = data.draw(st.builds(Place, st.sampled_from(["", "a", "b"]), st.sampled_from([0, 1, 2]), st.none() | mac))
    assert is_same(one, other) == is_same(other, one)
