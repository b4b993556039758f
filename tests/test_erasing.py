"""Rounds of erasing on a real store: the order of their steps, every way to fail, crashes, restored copies, clocks."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from metalbox import inventory
from metalbox.erasing import ACCOUNT_SECONDS, Erasing
from metalbox.errors import Refused
from metalbox.identity import ALIVE_SECONDS
from metalbox.lifecycle import BOOT_SECONDS, Event
from metalbox.moves import RESTART_SECONDS, is_untouchable
from metalbox.power.orders import PowerOrder, Verb
from metalbox.rounds import Wish, from_facts
from metalbox.timeline import Kind
from tests.erasures import Site, disk, outcome, report, verification, wish

A, B = disk("A"), disk("B")


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    found = Site(tmp_path)
    found.report(A, B)
    yield found
    found.store.close()


def kinds(site: Site) -> list[str]:
    with site.store.transaction():
        rows = site.store.certificates.listing()
    return [f"{row['kind']} {row['serial']}".strip() for row in reversed(rows)]


def test_a_round_from_accept_to_available(site: Site) -> None:
    wish(site, Event.ACCEPT)
    (first,) = site.poll()
    assert first.verb == "report"
    site.report(A, B)
    (order,) = site.poll()
    assert order.verb == "erase"
    assert [row["serial"] for row in order.data["disks"]] == ["A", "B"]
    assert order.data["boot_id"] == "b1" and order.data["machine"]["serial"] == "SN1001"
    assert is_untouchable(site.store, site.machine, site.now) == ""
    site.claim(order)
    assert "its disks are being erased" in is_untouchable(site.store, site.machine, site.now)
    site.done(order, outcome(order))
    machine = site.machine
    assert (machine.state, machine.fault, machine.deadline_at) == ("available", None, 0.0)
    assert kinds(site) == ["drive A", "drive B", "machine"]
    with site.store.transaction():
        (off,) = site.store.power_orders.unfinished()
    assert str(off.order.verb) == "off"
    assert is_untouchable(site.store, machine, site.now) == ""
    assert site.poll() == []
    assert site.texts(Kind.LIFE)[-1] == "erasing -> available: 2 disks erased and verified"
    assert site.texts(Kind.ERASE)[-1] == "machine certificate 3 for sn1001"


def test_without_a_bmc_the_agent_switches_it_off(site: Site) -> None:
    site.care.has_power = False
    wish(site, Event.ACCEPT)
    order = site.erase_order(A, B)
    site.claim(order)
    site.done(order, outcome(order))
    assert site.machine.state == "available"
    (off,) = site.poll()
    assert off.verb == "power-off"
    site.claim(off)
    site.done(off, {"done": True})
    # It spoke a moment ago, and is gone all the same.
    wish(site, Event.ERASE)
    assert site.texts(Kind.LIFE)[-1] == "nothing is known that switches it: please start it from the network"


def test_an_order_to_switch_off_that_nobody_took_ends_with_the_next_round(site: Site) -> None:
    site.care.has_power = False
    wish(site, Event.ACCEPT)
    order = site.erase_order(A, B)
    site.claim(order)
    site.done(order, outcome(order))
    wish(site, Event.ERASE)
    assert [told.verb for told in site.poll()] == ["report"]


def test_a_machine_that_was_power_cycled_meanwhile_is_started(site: Site) -> None:
    with site.store.transaction():
        site.store.power_orders.insert(site.machine.id, PowerOrder(Verb.CYCLE), site.now + 1)
    assert wish(site, Event.ACCEPT).power_orders


def test_a_machine_that_was_seen_off_is_started(site: Site) -> None:
    site.care.off = True
    (number,) = wish(site, Event.ACCEPT).power_orders
    with site.store.transaction():
        saved = site.store.power_orders.get(number)
    assert saved is not None and str(saved.order.verb) == "cycle"


def test_the_account_comes_before_the_disks(site: Site) -> None:
    site.care.account = "ordered"
    wish(site, Event.ACCEPT)
    site.poll()
    site.report(A, B)
    (account,) = site.poll()
    assert account.verb == "bmc-account"
    with site.store.transaction():
        site.store.orders.finish(account.id, {}, site.now)
    assert site.poll() == []  # told as done, and not proved yet
    assert site.machine.state == "erasing"
    site.care.account = "failed: the table of users is full"
    assert [order.verb for order in site.poll()] == ["erase"]
    round_ = from_facts(site.machine.facts)
    assert round_ is not None and round_.account == "failed: the table of users is full"


def test_the_disks_do_not_wait_for_ever_for_a_login(site: Site) -> None:
    site.care.account = "ordered"
    wish(site, Event.ACCEPT)
    site.poll()
    site.report(A, B)
    (account,) = site.poll()
    assert site.poll(run="r1") == [account]
    with site.store.transaction():
        site.store.orders.finish(account.id, {}, site.now)
    assert site.poll() == []
    site.now += ACCOUNT_SECONDS
    assert [order.verb for order in site.poll()] == ["erase"]
    assert "its BMC's new account is not proved yet: the disks do not wait for it" in site.texts(Kind.LIFE)


def test_retire_and_retry_by_another_method(site: Site) -> None:
    both = {"erasing": {"ata_sanitize": ["block"], "write_protected": False}, "rotational": False}
    good, bad = disk("A", **both), disk("B", **both)
    site.report(good, bad)
    wish(site, Event.ADOPT)
    wish(site, Event.RETIRE)
    order = site.erase_order(good, bad)
    assert order.data["disks"][1]["methods"][0] == "ata-sanitize-block"
    site.claim(order)
    failed = {
        "result": "failed",
        "evidence": "sense 04/00",
        "attempts": [{"method": "ata-sanitize-block", "result": "failed"}],
    }
    site.done(order, outcome(order, B=failed))
    fault = site.machine.fault
    assert site.machine.state == "retiring"
    assert fault is not None and (fault.code, fault.text) == ("erase-failed", "1 of 2 disks were not erased")
    assert fault.evidence == ("B: the agent says 'failed': sense 04/00 (failure record 2)",)
    assert kinds(site) == ["drive A", "failure B"]
    assert site.poll() == []
    with pytest.raises(Refused, match="erasing of sn1001 has begun"):
        wish(site, Event.CANCEL)
    wish(site, Event.RETRY)
    again = site.erase_order(good, bad)
    methods = {row["serial"]: row["methods"] for row in again.data["disks"]}
    assert methods["A"][0] == "ata-sanitize-block" and "ata-sanitize-block" not in methods["B"]
    site.claim(again)
    site.done(again, outcome(again))
    assert site.machine.state == "retired"
    with pytest.raises(Refused, match="possible is: forget, hold, report, unhold"):
        wish(site, Event.RETRY)


LIES: dict[str, dict[str, Any]] = {
    "says nothing": {"result": ""},
    "failed": {"result": "failed", "evidence": "gone"},
    "refused": {"result": "refused", "evidence": "serial differs"},
    "another size": {"size_bytes": 10**9 - 512},
    "another model": {"model": "OTHER"},
    "another wwn": {"wwn": "0x1"},
    "a method that was not ordered": {"method": "ata-secure-erase"},
    "no verification": {"verification": {}},
}


@pytest.mark.parametrize("lie", LIES)
def test_no_certificate_for_what_does_not_hold(site: Site, lie: str) -> None:
    wish(site, Event.ACCEPT)
    order = site.erase_order(A, B)
    site.claim(order)
    site.done(order, outcome(order, B=LIES[lie]))
    assert site.machine.state == "erasing"
    fault = site.machine.fault
    assert fault is not None and fault.code == "erase-failed" and fault.evidence
    assert kinds(site)[0] == "drive A"
    assert not {"drive B", "machine"} & set(kinds(site))


@pytest.mark.parametrize(
    "wrong",
    [
        {"unchanged": 1},
        {"mismatches": [{"offset": 512}]},
        {"result": "failed"},
        {"seed": "00"},
        {"samples": 0},
        {"signatures": ["ext4"]},
        {"expected": "changed"},
    ],
)
def test_no_certificate_for_a_verification_that_does_not_hold(site: Site, wrong: dict[str, Any]) -> None:
    wish(site, Event.ACCEPT)
    order = site.erase_order(A, B)
    site.claim(order)
    site.done(order, outcome(order, B={"verification": verification(order.data, **wrong)}))
    assert (site.machine.state, bool(site.machine.fault)) == ("erasing", True)
    assert kinds(site) == ["drive A", "failure B"]


def test_an_agent_that_refuses_the_order_or_breaks(site: Site) -> None:
    wish(site, Event.ACCEPT)
    for said in ({"error": "the agent failed with ValueError: x"}, {"refused": "this is another machine"}):
        order = site.erase_order(A, B)
        site.claim(order)
        site.done(order, said)
        fault = site.machine.fault
        assert fault is not None and fault.text.startswith("the agent did not carry out the erase order")
        assert not {"drive A", "machine"} & set(kinds(site))
        wish(site, Event.RETRY)


def test_a_disk_that_came_or_went_since_the_confirmation_stops_it(site: Site) -> None:
    wish(site, Event.ACCEPT)
    for order in site.poll():
        assert order.verb == "report"
    site.report(A, disk("C"))
    assert site.poll() == []
    fault = site.machine.fault
    assert fault is not None and fault.code == "disks-changed"
    assert fault.evidence == (
        "the disk C (LAB DISK, 1 GB) would be erased, and nobody has confirmed that",
        "the disk B (LAB DISK, 1 GB) was to be erased, and is not there any more",
    )
    wish(site, Event.RETRY)
    assert [row["serial"] for row in site.erase_order(A, disk("C")).data["disks"]] == ["A", "C"]


def test_disks_that_cannot_be_erased_keep_the_machine_from_being_ready(site: Site) -> None:
    locked = disk("B", erasing={"write_protected": True})
    site.report(A, locked)
    wish(site, Event.ACCEPT)
    order = site.erase_order(A, locked)
    assert [row["serial"] for row in order.data["disks"]] == ["A"]
    site.claim(order)
    site.done(order, outcome(order))
    fault = site.machine.fault
    assert site.machine.state == "erasing"
    assert fault is not None and fault.text == "1 of 2 disks were not erased"
    assert "machine" not in kinds(site)


def test_a_disk_that_our_own_interrupted_erase_has_locked_is_erased_again(site: Site) -> None:
    able = {"ata_security": True, "ata_enhanced": True, "write_protected": False}
    disk_a = disk("A", rotational=True, erasing=able)
    site.report(disk_a)
    wish(site, Event.ACCEPT)
    order = site.erase_order(disk_a)
    assert any(word.startswith("ata-secure-erase") for word in order.data["disks"][0]["methods"])
    locked = {**disk_a, "erasing": {**able, "ata_enabled": True, "ata_locked": True}}
    # Before anything has begun, a locked disk is somebody else's.
    assert [row.verdict for row in site.steps.plan(site.report(locked), Wish()).disks] == ["refused"]
    site.report(disk_a)
    site.claim(order)
    site.report(locked, boot_id="b2")
    (again,) = site.poll("b2")
    assert [row["serial"] for row in again.data["disks"]] == ["A"]


def test_a_machine_without_disks_is_available_at_once(site: Site) -> None:
    site.report()
    wish(site, Event.ACCEPT)
    site.poll()
    site.report()
    assert [order.verb for order in site.poll()] == []
    assert site.machine.state == "available"


def test_an_agent_that_starts_again_begins_again(site: Site) -> None:
    wish(site, Event.ACCEPT)
    order = site.erase_order(A, B)
    site.claim(order)
    (again,) = site.poll(run="r2")
    assert (again.id, again.claimed_at) == (order.id, None)
    assert again.token != order.token
    with pytest.raises(Refused):
        site.done(order, outcome(order))
    site.claim(again, run="r2")
    site.done(again, outcome(again), run="r2")
    assert site.machine.state == "available"


def test_a_machine_that_was_started_anew_gets_another_order(site: Site) -> None:
    wish(site, Event.ACCEPT)
    order = site.erase_order(A, B)
    site.claim(order)
    site.report(A, B, boot_id="b2")
    (new,) = site.poll("b2")
    assert new.id != order.id and new.data["boot_id"] == "b2"
    site.done(order, outcome(order))
    assert kinds(site) == [] and site.machine.state == "erasing"
    assert site.machine.facts["begun"]
    with pytest.raises(Refused, match="has begun"):
        wish(site, Event.CANCEL)
    site.claim(new, "b2")
    site.done(new, outcome(new), "b2")
    assert site.machine.state == "available"
    assert kinds(site) == ["drive A", "drive B", "machine"]


def test_who_comes_too_late_is_stopped(site: Site) -> None:
    wish(site, Event.ACCEPT)
    order = site.erase_order(A, B)
    site.claim(order)
    deadline = site.machine.deadline_at
    assert deadline > site.now + 60
    with site.store.transaction():
        site.store.orders.set_progress(order.id, {"disks": {"A": {"left": 100_000}}})
        running = site.store.orders.get(order.id)
        assert running is not None
        site.erasing.progressed(site.store, running, site.now)
    assert site.machine.deadline_at > deadline
    site.erasing.tick(site.store, site.machine.deadline_at + 1)
    fault = site.machine.fault
    assert fault is not None and fault.code == "erase-late"
    site.done(order, outcome(order))
    assert kinds(site) == ["failure A", "failure B"] and site.machine.fault == fault
    for event in (Event.CANCEL, Event.RETRY, Event.CANCEL):
        if event is Event.RETRY:
            wish(site, event)
            continue
        with pytest.raises(Refused, match="has begun"):
            wish(site, event)


def test_an_agent_that_never_comes_is_started_three_times(site: Site) -> None:
    wish(site, Event.ACCEPT)
    begun = site.now
    starts = []
    for minute in range(1, int(BOOT_SECONDS / 60) + 2):
        for moved in site.erasing.tick(site.store, begun + 60 * minute):
            starts += [minute] * len(moved.power_orders)
    assert len(starts) == 3
    assert all(later - sooner >= RESTART_SECONDS / 60 for sooner, later in pairwise(starts))
    fault = site.machine.fault
    assert fault is not None and fault.code == "agent-late"
    assert site.erasing.tick(site.store, begun + 2 * BOOT_SECONDS) == []


def test_the_power_of_a_drive_at_work_is_never_cut(site: Site) -> None:
    wish(site, Event.ACCEPT)
    order = site.erase_order(A, B)
    site.claim(order)
    later = site.now + 400
    assert site.erasing.tick(site.store, later) == []
    site.care.off = True
    (moved,) = site.erasing.tick(site.store, later)
    with site.store.transaction():
        saved = site.store.power_orders.get(moved.power_orders[0])
    assert saved is not None and str(saved.order.verb) == "on"


def test_held_machines_are_not_late(site: Site) -> None:
    wish(site, Event.ACCEPT)
    order = site.erase_order(A, B)
    wish(site, Event.HOLD)
    assert site.erasing.tick(site.store, site.now + 10 * BOOT_SECONDS) == []
    with pytest.raises(Refused, match="may not begin: it is held"):
        site.claim(order)


def test_a_clock_that_jumps(site: Site) -> None:
    wish(site, Event.ACCEPT)
    site.erase_order(A, B)
    deadline = site.machine.deadline_at
    site.erasing.tick(site.store, site.now + 86_400, 86_400)
    assert site.machine.fault is None and site.machine.deadline_at == deadline + 86_400
    site.erasing.tick(site.store, site.now - 86_400, -2 * 86_400)
    fault = site.machine.fault
    assert fault is not None and fault.code == "clock"


def test_a_copy_of_the_database_does_not_erase_again(site: Site, tmp_path: Path) -> None:
    wish(site, Event.ACCEPT)
    site.poll()
    site.report(A, B)
    site.store.close()
    shutil.copy(tmp_path / "metalbox.db", tmp_path / "copy.db")
    site.open()
    (order,) = site.poll()
    assert order.verb == "erase"
    site.claim(order)
    site.done(order, outcome(order))
    assert site.machine.state == "available"
    site.store.close()
    shutil.copy(tmp_path / "copy.db", tmp_path / "metalbox.db")
    site.open()
    (moved,) = site.erasing.after_restart(site.store, site.now)
    assert moved.machine.fault is not None and moved.machine.fault.code == "restored"
    assert site.poll() == []
    assert site.erasing.after_restart(site.store, site.now) == []
    wish(site, Event.RETRY)
    again = site.erase_order(A, B)
    assert again.id > order.id


def test_a_crash_between_ledger_and_database_is_no_restored_copy(site: Site) -> None:
    wish(site, Event.ACCEPT)
    site.poll()
    site.report(A, B)
    # The ledger is on disk, and the transaction never ended.
    with pytest.raises(ZeroDivisionError), site.store.transaction():
        site.poll()
        raise ZeroDivisionError
    site.store.close()
    site.open()
    assert site.erasing.after_restart(site.store, site.now) == []
    order = site.erase_order(A, B)
    site.claim(order)
    site.done(order, outcome(order))
    assert site.machine.state == "available"


@pytest.mark.parametrize(
    ("problems", "pci", "sentence"),
    [
        (["disks: no answer within 30 s"], [], "the agent could not read the disks: no answer within 30 s"),
        (
            [],
            [{"address": "0000:03:00.0", "class_code": "010400", "vendor_id": "1000", "device_id": "005d"}],
            "the storage controller at 0000:03:00.0 (005d) has no driver in the agent: it may have disks",
        ),
    ],
)
def test_a_machine_whose_disks_may_be_hidden_is_not_available(
    site: Site, problems: list[str], pci: list[dict[str, Any]], sentence: str
) -> None:
    site.report()
    wish(site, Event.ACCEPT)
    site.poll()
    site.now += 1
    document = report()
    document["problems"] = problems
    document["hardware"]["pci"] = pci
    inventory.report(site.store, document, "192.0.2.100", site.now)
    site.poll()
    fault = site.machine.fault
    assert fault is not None and (fault.code, fault.evidence) == ("cannot-erase", (sentence,))
    assert site.machine.state == "erasing"


def test_nobody_is_silent_right_after_a_jump_of_the_clock(site: Site) -> None:
    wish(site, Event.ACCEPT)
    later = site.now + 86_400
    assert site.erasing.tick(site.store, later, 86_400) == []
    assert site.erasing.tick(site.store, later + 30) == []
    (moved,) = site.erasing.tick(site.store, later + ALIVE_SECONDS + 1)
    assert len(moved.power_orders) == 1


def test_what_a_poll_leads_to_is_told(site: Site) -> None:
    told: list[int] = []
    site.erasing = Erasing(site.steps, site.settings, site.ledger, site.key, lambda: "ab" * 16, told.append)
    site.report()
    wish(site, Event.ACCEPT)
    site.poll()
    assert told == []
    site.report()
    site.poll()
    assert (told, site.machine.state) == ([site.machine.id], "available")
