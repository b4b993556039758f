"""Who is who: the table of marks, life and death, and names."""

from __future__ import annotations

import pytest

from metalbox.identity import (
    ALIVE_SECONDS,
    GONE_SECONDS,
    Identity,
    choose,
    default_name,
    fits,
    in_conflict,
    same_uuid,
)
from metalbox.machine import Hardware, Mac, Machine, System, swap_uuid

UUID = "4c4c4544-0042-3510-8054-b7c04f333732"
OTHER = "4c4c4544-0043-3510-8054-b7c04f333732"
NONE = "03000200-0400-0500-0006-000700080009"
A, B, C, D = (Mac(f"52:54:00:00:00:0{number}") for number in (1, 2, 3, 4))


def machine(uuid: str, serial: str, *macs: Mac, id: int = 1, boot_id: str = "b1", seen: float = 0.0) -> Machine:
    hardware = Hardware(System(vendor="Dell", serial=serial, uuid=uuid))
    return Machine(id, f"m{id}", "discovered", uuid, serial, macs, hardware, boot_id=boot_id, last_seen=seen)


def who(uuid: str, serial: str, *macs: Mac, vendor: str = "Dell", boot_id: str = "b2") -> Identity:
    return Identity.of(uuid, serial, vendor, macs, boot_id)


@pytest.mark.parametrize(
    ("speaker", "verdict"),
    [
        (who(UUID, "ABC1234", A, B), True),
        (who(OTHER, "ABC1234", C, D), True),  # a new board with new ports, and the old serial
        (who(UUID, "ABC1234", C, D), True),  # new network cards
        (who("", "ABC1234"), True),
        (who(UUID, "XYZ9999", A, B), True),  # the serial was written anew
        (who(UUID, "XYZ9999", C, D), False),  # a batch of boards with one UUID
        (who(OTHER, "XYZ9999", A, B), False),  # both ports on one card, which was carried over
        (who(OTHER, "XYZ9999", A, C), False),
        (who(UUID, "", C, D), True),
        (who(swap_uuid(UUID), "", C, D), True),
        (who(OTHER, "", A, B), True),  # a new board that nobody gave a serial
        (who(OTHER, "", A, C), False),  # half a card's ports: another box
        (who(NONE, "To Be Filled By O.E.M.", A, C), True),
        (who(NONE, "To Be Filled By O.E.M.", C, D), False),
        (who(NONE, "ABC1234", C, vendor="HPE"), False),  # two vendors, one number
        (who(NONE, "abc1234", C, vendor=""), True),
    ],
)
def test_the_table_of_marks(speaker: Identity, verdict: bool) -> None:
    assert fits(speaker, machine(UUID, "ABC1234", A, B)) is verdict


def test_a_machine_without_marks_is_known_by_one_port() -> None:
    known = machine(NONE, "", A, B)
    assert fits(who("", "", A), known)
    assert fits(who(UUID, "ABC1234", A), known)
    assert not fits(who("", "", C), known)
    assert not fits(who(NONE, "0123456789", C), known)


def test_uuids_are_equal_in_both_byte_orders_and_placeholders_never() -> None:
    assert same_uuid(UUID, UUID) and same_uuid(UUID, swap_uuid(UUID))
    assert not same_uuid(UUID, OTHER)
    assert not same_uuid(NONE, NONE)
    assert not same_uuid("", "")


def test_who_is_alive_elsewhere_is_another_box() -> None:
    twin = machine(UUID, "", A, boot_id="b1", seen=1000.0)
    assert choose(who(UUID, "", B), [twin], 1000.0 + ALIVE_SECONDS) is None
    assert choose(who(UUID, "", B), [twin], 1001.0 + ALIVE_SECONDS) == twin
    # The same boot, or a port in common: it is itself.
    assert choose(who(UUID, "", B, boot_id="b1"), [twin], 1000.0) == twin
    assert choose(who(UUID, "", A, B), [twin], 1000.0) == twin


def test_the_best_marks_win() -> None:
    one, two = machine(UUID, "", A, id=1), machine(UUID, "", B, id=2, seen=50.0)
    assert choose(who(UUID, "", A), [one, two], 1000.0) == one
    assert choose(who(UUID, "", B, C), [one, two], 1000.0) == two
    assert choose(who(UUID, "", C), [one, two], 1000.0) == two
    serial = machine(OTHER, "ABC1234", D, id=3)
    assert choose(who(UUID, "ABC1234", A), [one, two, serial], 1000.0) == serial
    assert choose(who(UUID, "", A), [], 1000.0) is None


def test_a_conflict_needs_two_that_are_there() -> None:
    one, two = machine(UUID, "", A, seen=1000.0), machine(UUID, "", B, id=2, seen=1000.0)
    assert in_conflict([one, two], 1000.0 + GONE_SECONDS) == [one, two]
    assert in_conflict([one, two], 1001.0 + GONE_SECONDS) == []
    assert in_conflict([one], 1000.0) == []


@pytest.mark.parametrize(
    ("serial", "macs", "taken", "name"),
    [
        ("8FZC1P1", [A], set(), "8fzc1p1"),
        ("VMware-56 4d/01_x", [A], set(), "vmware-56-4d-01-x"),
        ("8FZC1P1", [A], {"8fzc1p1"}, "m-525400000001"),
        ("8FZC1P1", [A], {"8fzc1p1", "m-525400000001"}, "8fzc1p1-2"),
        ("8FZC1P1", [A], {"8fzc1p1", "m-525400000001", "8fzc1p1-2"}, "8fzc1p1-3"),
        ("Default string", [A], set(), "m-525400000001"),
        ("123", [A], set(), "m-525400000001"),
        ("....//....", [A], set(), "m-525400000001"),
        ("", [], set(), "m-4c4c45440042"),
        ("ÄÖÜ5551", [], set(), "5551"),
        ("x" * 50 + "yz1", [], set(), "x" * 48),
    ],
)
def test_names(serial: str, macs: list[Mac], taken: set[str], name: str) -> None:
    assert default_name(serial, macs, UUID, taken) == name
