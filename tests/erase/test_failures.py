"""Failures put into whole rounds, service and agent together: no false certificate, no disk touched too many, and `why`
names each.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from metalbox.erase.methods import Level
from metalbox.errors import Refused
from metalbox.lifecycle import BOOT_SECONDS, Event
from metalbox.orderrecords import Order
from tests import erasures
from tests.agent.drives import AtaDrive, Drive, NvmeDrive, ScsiDrive
from tests.erase.shelf import BAD, GOOD, SERIAL, Case, Older


def fields(order: Order) -> dict[str, Any]:
    """An order's members, for another like it."""
    return {name.name: getattr(order, name.name) for name in dataclasses.fields(order)}


Make = Callable[[Drive], Case]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    cases: list[Case] = []

    def begin(bad: Drive) -> Case:
        cases.append(Case(tmp_path, bad))
        return cases[-1]

    yield begin
    for case in cases:
        case.is_spared()
        case.kinds()
        case.site.store.close()


# What the drive does, on which kinds, and what `why` says of it. These drives take the order and do not fulfil it.
FAILS: dict[str, tuple[tuple[type[Drive], ...], tuple[str, ...]]] = {
    "fails": ((NvmeDrive, AtaDrive, ScsiDrive, Drive), ()),
    "lies": ((NvmeDrive, AtaDrive, ScsiDrive, Drive), ("the same as before the erase",)),
    "stale": ((NvmeDrive, AtaDrive, ScsiDrive, Drive), ("the same as before the erase",)),
    "one-sector": ((NvmeDrive, AtaDrive, ScsiDrive, Drive), ()),
    "vanishes": ((NvmeDrive, AtaDrive, ScsiDrive, Drive), ("No such device",)),
    "unreadable-after": ((NvmeDrive, AtaDrive, ScsiDrive, Drive), ("Input/output error",)),
    "stuck": ((NvmeDrive, AtaDrive, ScsiDrive), ("is not done after",)),
    "swapped": ((NvmeDrive, AtaDrive, ScsiDrive), ("OTHER",)),
    "resized": ((NvmeDrive, AtaDrive, ScsiDrive, Drive), ("bytes",)),
    "held": ((NvmeDrive, AtaDrive, ScsiDrive, Drive), ("Device or resource busy",)),
}
INJECTED = [(fault, kind) for fault, (kinds, _) in FAILS.items() for kind in kinds]


@pytest.mark.parametrize(("fault", "kind"), INJECTED, ids=[f"{fault}-{kind.__name__}" for fault, kind in INJECTED])
def test_what_a_drive_does_not_do(fault: str, kind: type[Drive], make: Make) -> None:
    case = make(kind("sda", BAD))
    case.wish()
    order = case.order()
    case.bad.faults.add(fault)
    case.bad.is_held = fault == "held"
    case.site.done(order, case.work(order))
    assert sorted(case.kinds()) == [f"drive {GOOD}", f"failure {BAD}"]
    case.names("fault-erase-failed", "1 of 2 disks were not erased", f"{BAD}: ", *FAILS[fault][1])


@pytest.mark.parametrize("kind", [NvmeDrive, AtaDrive, ScsiDrive])
def test_one_sector_that_is_as_it_was_is_found_wherever_it_is(kind: type[Drive], make: Make) -> None:
    case = make(kind("sda", BAD))
    case.wish(verify="full")
    order = case.order()
    erase = case.bad.erase

    def all_but_one(way: str) -> None:
        erase(way)
        place = 3_000 * 512
        case.bad.medium[place : place + 512] = case.bad.original[place : place + 512]

    case.bad.erase = all_but_one  # type: ignore[method-assign]
    case.site.done(order, case.work(order))
    assert sorted(case.kinds()) == [f"drive {GOOD}", f"failure {BAD}"]
    case.names("fault-erase-failed", f"{BAD}: ")


@pytest.mark.parametrize("change", ["serial", "size", "wwn", "model", "gone", "new"])
def test_a_disk_that_was_changed_between_order_and_claim(change: str, make: Make) -> None:
    """The report of the order named another disk than the one that is there when the agent looks."""
    case = make(ScsiDrive("sda", BAD))
    case.wish()
    order = case.order()
    if change == "serial":
        case.bad.serial = "OTHER"
    elif change == "size":
        case.bad.size -= 512
    elif change == "wwn":
        case.bad.wwn = "0x5000000000000099"
    elif change == "model":
        case.bad.model = "ANOTHER"
    elif change == "gone":
        case.bad.is_here = False
    else:
        new = AtaDrive("sde", "NEW", seed=9)
        new.kernel = case.shelf
        case.shelf.drives.append(new)
    case.site.done(order, case.work(order))
    if change == "new":
        assert new.writes == [] and bytes(new.medium) == new.original
        assert "machine" not in case.kinds()
        case.names("fault-erase-failed", "NEW: it was there, and the order did not name it")
        return
    assert case.bad.writes == [] and bytes(case.bad.medium) == case.bad.original
    assert f"drive {GOOD}" in case.kinds() and f"failure {BAD}" in case.kinds()
    case.names("fault-erase-failed", f"{BAD}: ")


def test_a_disk_that_was_swapped_between_plan_and_order(make: Make) -> None:
    case = make(ScsiDrive("sda", BAD))
    case.wish()
    assert [told.verb for told in case.site.poll()] == ["report"]
    case.bad.serial = "OTHER"
    case.report()
    assert case.site.poll() == []
    case.is_untouched()
    assert case.kinds() == []
    case.names("fault-disks-changed", "OTHER", BAD)


# What a drive says before anything begins, and `why` of a machine that cannot be ready for it.
HINDERED: dict[str, tuple[Drive, str]] = {
    "write protected": (ScsiDrive("sda", BAD, "protected"), "it is write protected"),
    "locked with a password": (Older("sda", BAD, "foreign-lock"), "it is locked with an ATA password"),
}


@pytest.mark.parametrize("what", HINDERED)
def test_a_disk_that_says_that_it_cannot_be_erased(what: str, make: Make) -> None:
    bad, words = HINDERED[what]
    case = make(bad)
    case.wish()
    case.round()
    assert bad.writes == [] and bytes(bad.medium) == bad.original
    assert sorted(case.kinds()) == [f"drive {GOOD}", f"failure {BAD}"]
    case.names("fault-erase-failed", f"{BAD}: it could not be erased: {words}")


@pytest.mark.parametrize("kind", [NvmeDrive, AtaDrive, ScsiDrive, Drive])
def test_a_disk_that_is_write_protected_and_does_not_say_so(kind: type[Drive], make: Make) -> None:
    case = make(kind("sda", BAD))
    case.wish()
    order = case.order()
    case.bad.faults.add("protected")
    case.site.done(order, case.work(order))
    if case.bad.is_gone():  # a sanitize does not ask for it
        assert case.kinds() == [f"drive {BAD}", f"drive {GOOD}", "machine"]
        return
    assert sorted(case.kinds()) == [f"drive {GOOD}", f"failure {BAD}"]
    case.names("fault-erase-failed", f"{BAD}: ")


@pytest.mark.parametrize(
    ("kind", "faults"),
    [
        (AtaDrive, ("hpa",)),
        (AtaDrive, ("dco",)),
        (Older, ("frozen",)),
        *((kind, (fault,)) for fault in ("sanitizing", "sanitize-failed", "refuses")
          for kind in (NvmeDrive, AtaDrive, ScsiDrive)),
    ],
)  # fmt: skip
def test_what_stands_in_the_way_and_can_be_moved(kind: type[Drive], faults: tuple[str, ...], make: Make) -> None:
    """Hidden areas, a frozen drive, a sanitize in progress or failed at boot, methods that are not taken."""
    case = make(kind("sda", BAD, *faults))
    case.wish()
    case.round()
    assert case.bad.is_gone(), "also what was hidden"
    assert case.kinds() == [f"drive {BAD}", f"drive {GOOD}", "machine"]
    assert case.why().code == "available"


def test_a_drive_that_loses_its_power_in_a_secure_erase(make: Make) -> None:
    """It is locked with our own password after that, and the next order opens and erases it."""
    case = make(Older("sda", BAD))
    case.wish()
    order = case.order()
    assert order.data["disks"][0]["methods"][0] == "ata-secure-erase-enhanced"
    case.bad.faults.add("reset")
    case.site.done(order, case.work(order))
    assert sorted(case.kinds()) == [f"drive {GOOD}", f"failure {BAD}"]
    case.names("fault-erase-failed", f"{BAD}: ")
    case.bad.faults.clear()
    case.wish(Event.RETRY)
    case.round()
    assert case.kinds()[2:] == [f"drive {BAD}", f"drive {GOOD}", "machine"]


def test_an_agent_that_is_killed_and_comes_again_as_another_run(make: Make) -> None:
    case = make(ScsiDrive("sda", BAD))
    case.wish()
    order = case.order()
    case.work(order)  # and dies before it can tell
    again = case.order(run="r2")
    assert again.id == order.id and again.token != order.token
    case.site.done(again, case.work(again, run="r2"), run="r2")
    assert case.kinds() == [f"drive {BAD}", f"drive {GOOD}", "machine"]
    assert case.why().code == "available"


def test_an_agent_that_is_killed_and_never_comes_again(make: Make) -> None:
    case = make(ScsiDrive("sda", BAD))
    case.wish()
    order = case.order()
    case.site.claim(order)
    assert case.why().doing == "in state erasing, its disks are being erased"
    case.site.now = case.site.machine.deadline_at + 1
    case.site.erasing.tick(case.site.store, case.site.now)
    assert case.kinds() == [f"failure {BAD}", f"failure {GOOD}"]
    case.names("fault-erase-late", "it began")
    case.is_untouched()


def test_power_that_is_lost_in_the_middle_of_it(make: Make) -> None:
    """Another boot looks at the disks anew; the old order's outcome proves nothing, whoever brings it."""
    case = make(ScsiDrive("sda", BAD))
    case.wish()
    order = case.order()
    outcome = case.work(order)
    case.report("b2")
    written = len(case.bad.writes)
    assert "for the boot 'b1'" in case.work(order, "b2")["refused"]
    assert len(case.bad.writes) == written
    again = case.order("b2")
    assert again.id != order.id
    case.site.done(order, outcome)
    assert case.kinds() == []
    case.site.done(again, case.work(again, "b2"), "b2")
    assert case.kinds() == [f"drive {BAD}", f"drive {GOOD}", "machine"]


def test_a_network_that_is_cut_while_the_agent_goes_on(make: Make) -> None:
    case = make(ScsiDrive("sda", BAD))
    case.wish()
    order = case.order()
    outcome = case.work(order)
    for minute in range(10):
        assert case.site.erasing.tick(case.site.store, case.site.now + 60 * minute) == [], "its power is not cut"
    case.site.now += 600
    found = case.why()
    (work,) = [one for one in (found, *found.also) if one.code == "erasing"]
    assert work.advice == ("do not cut its power: the drives may be at work without the agent",)
    case.site.done(order, outcome)
    assert case.kinds() == [f"drive {BAD}", f"drive {GOOD}", "machine"]


STEPS = ("wished", "report ordered", "reported", "erase ordered", "claimed", "worked", "done")


@pytest.mark.parametrize("step", STEPS)
def test_a_service_that_is_killed_after_each_step(step: str, make: Make) -> None:
    """Whatever is not committed has not happened; what is, is found again and goes to the same end, once."""
    case = make(ScsiDrive("sda", BAD))
    site = case.site

    def die(now: str) -> None:
        if now == step:
            site.store.close()
            site.open()
            assert site.erasing.after_restart(site.store, site.now) == []

    case.wish()
    die("wished")
    assert [told.verb for told in site.poll()] == ["report"]
    die("report ordered")
    case.report()
    die("reported")
    (order,) = site.poll()
    die("erase ordered")
    (order,) = site.poll()
    outcome = case.work(order, claimed=lambda: die("claimed"))
    die("worked")
    site.done(order, outcome)
    die("done")
    assert case.kinds() == [f"drive {BAD}", f"drive {GOOD}", "machine"]
    site.done(order, outcome)  # its answer was lost
    assert case.kinds() == [f"drive {BAD}", f"drive {GOOD}", "machine"]
    assert case.why().code == "available"


def test_a_token_that_is_replayed(make: Make) -> None:
    case = make(ScsiDrive("sda", BAD))
    case.wish()
    order = case.order()
    outcome = case.work(order)
    case.site.done(order, outcome)
    case.wish(Event.ERASE)
    later = case.order()
    written = len(case.bad.writes)
    for replayed in (order, Order(**{**fields(later), "token": order.token})):
        with pytest.raises(Refused):
            case.work(replayed)
    assert len(case.bad.writes) == written
    with pytest.raises(Refused):
        case.site.done(Order(**{**fields(later), "token": order.token}), outcome)
    assert case.kinds() == [f"drive {BAD}", f"drive {GOOD}", "machine"]
    found = case.why()
    assert (found.code, found.doing) == ("prepares", "in state erasing, its agent compares the disks with the order")


@pytest.mark.parametrize("mark", ["uuid", "serial", "macs", "boot_id"])
def test_an_order_for_another_machine_or_boot(mark: str, make: Make) -> None:
    case = make(ScsiDrive("sda", BAD))
    case.wish()
    order = case.order()
    foreign: dict[str, Any] = {
        "uuid": "11111111-2222-3333-4444-555555555555", "serial": "SN9999", "macs": ["52:54:00:00:00:99"],
    }  # fmt: skip
    said = {"boot_id": "b9"} if mark == "boot_id" else {"machine": {mark: foreign[mark]}}
    outcome = case.work(Order(**{**fields(order), "data": {**order.data, **said}}))
    case.is_untouched()
    case.site.done(order, outcome)
    case.is_untouched()
    assert case.kinds() == [f"failure {BAD}", f"failure {GOOD}"]
    case.names("fault-erase-failed", "the agent did not carry out the erase order")


def test_two_machines_with_one_uuid(make: Make) -> None:
    """The second one reports while the first one's order waits: nobody gets it."""
    case = make(ScsiDrive("sda", BAD))
    case.wish()
    case.order()
    case.site.report(erasures.disk("C"), boot_id="b9", mac="52:54:00:00:00:77", serial=SERIAL)
    assert case.site.poll() == [] and case.site.poll("b9") == []
    found = case.why()
    assert found.code == "duplicate-uuid" and found.advice
    with pytest.raises(Refused, match="UUID"):
        case.wish(Event.RETRY)
    case.is_untouched()
    assert case.kinds() == []


def test_a_machine_whose_agent_never_comes(make: Make) -> None:
    case = make(ScsiDrive("sda", BAD))
    case.wish()
    for minute in range(1, int(BOOT_SECONDS / 60) + 2):
        case.site.erasing.tick(case.site.store, case.site.now + 60 * minute)
    case.names("fault-agent-late", "did not come")
    case.is_untouched()


def test_a_level_that_a_disk_does_not_reach(make: Make) -> None:
    case = make(Drive("vda", BAD))
    case.wish(level=Level.PURGE)
    case.round()
    case.names("fault-erase-failed", f"{BAD}: it could not be erased: no method reaches purge: it is a virtual disk")
    assert case.bad.writes == [] and sorted(case.kinds()) == [f"drive {GOOD}", f"failure {BAD}"]
