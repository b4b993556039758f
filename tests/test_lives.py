"""The verbs on a real store: what each does, refuses and leaves behind; the rules for new machines; two persons."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from metalbox import inventory
from metalbox.config import AcceptRule, Policy
from metalbox.erase.methods import Level
from metalbox.errors import NotFound, Refused
from metalbox.lifecycle import Event
from metalbox.lives import APPROVAL_SECONDS, RULES_REST_SECONDS
from metalbox.rounds import Wish, from_facts
from metalbox.timeline import Kind
from tests.erasures import Site, disk, report, wish

A, B = disk("A"), disk("B")


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    found = Site(tmp_path)
    found.report(A, B)
    yield found
    found.store.close()


def test_adopt_and_reject_touch_nothing(site: Site) -> None:
    moved = wish(site, Event.ADOPT, reason="runs the billing")
    assert (moved.machine.state, moved.power_orders, moved.wake) == ("deployed", (), "")
    assert site.poll() == []
    assert site.texts(Kind.LIFE) == ["discovered -> deployed: adopt, by alice (runs the billing)"]
    with pytest.raises(Refused, match="erase is not possible in state deployed; possible is: forget, hold, release"):
        wish(site, Event.ERASE)


def test_rejected_machines_come_back_when_reconsidered(site: Site) -> None:
    assert wish(site, Event.REJECT).machine.state == "rejected"
    site.report(A, B)
    assert site.machine.state == "rejected"
    assert wish(site, Event.RECONSIDER).machine.state == "discovered"


def test_accept_uses_the_agent_that_runs(site: Site) -> None:
    moved = wish(site, Event.ACCEPT)
    assert (moved.machine.state, moved.wake, moved.power_orders) == ("erasing", "b1", ())
    assert moved.machine.deadline_at > site.now
    round_ = from_facts(moved.machine.facts)
    assert round_ is not None and [mark[0] for mark in round_.confirmed] == ["A", "B"]
    assert site.texts(Kind.LIFE) == [
        "discovered -> erasing: accept at level clear, by alice: A by overwrite, B by overwrite"
    ]


def test_accept_starts_the_agent_where_none_is_heard_of(site: Site) -> None:
    site.now += 3600
    moved = wish(site, Event.ACCEPT)
    (number,) = moved.power_orders
    with site.store.transaction():
        saved = site.store.power_orders.get(number)
    assert saved is not None
    assert (str(saved.order.verb), str(saved.order.boot and saved.order.boot.device)) == ("cycle", "pxe")


def test_without_a_bmc_a_person_is_asked(site: Site) -> None:
    site.care.has_power = False
    site.now += 3600
    moved = wish(site, Event.ACCEPT)
    assert (moved.power_orders, moved.machine.deadline_at) == ((), 0.0)
    assert site.texts(Kind.LIFE)[-1] == "nothing is known that switches it: please start it from the network"


def test_what_was_shown_must_be_what_is_done(site: Site) -> None:
    with pytest.raises(Refused, match="not those that you were shown"):
        wish(site, Event.ACCEPT, disks=("A",))
    with pytest.raises(Refused, match="no disk of this machine has the serial number or WWN 'Z'"):
        wish(site, Event.ACCEPT, keep=("Z",))
    assert site.machine.state == "discovered"
    wish(site, Event.ACCEPT, disks=("B", "A"))


def test_kept_disks_are_never_in_a_plan(site: Site) -> None:
    site.lives.keep(site.store, "sn1001", "a", True, "alice", site.now)
    wish(site, Event.ACCEPT)
    round_ = from_facts(site.machine.facts)
    assert round_ is not None and [mark[0] for mark in round_.confirmed] == ["B"]
    with pytest.raises(Refused, match="is kept already"):
        site.lives.keep(site.store, "sn1001", "A", True, "alice", site.now)
    with pytest.raises(Refused, match="has no disk 'Q'"):
        site.lives.keep(site.store, "sn1001", "Q", True, "alice", site.now)
    site.lives.keep(site.store, "sn1001", "A", False, "alice", site.now)
    assert site.machine.facts["keep"] == []
    # A kept disk that was taken out of the machine is in nobody's way.
    site.lives.keep(site.store, "sn1001", "A", True, "alice", site.now)
    site.report(B)
    assert [row.key for row in site.steps.plan(site.machine, Wish()).disks] == ["B"]


def test_hold_keeps_everything_away(site: Site) -> None:
    wish(site, Event.ACCEPT)
    wish(site, Event.HOLD, reason="a fan is being changed")
    assert site.machine.held == "a fan is being changed"
    assert site.poll() == []
    with pytest.raises(Refused, match=r"is held \(a fan is being changed\): `metalbox unhold sn1001` first"):
        wish(site, Event.RETRY)
    wish(site, Event.UNHOLD)
    assert [order.verb for order in site.poll()] == ["report"]


def test_cancel_leads_back_while_nothing_has_begun(site: Site) -> None:
    wish(site, Event.ADOPT)
    wish(site, Event.RELEASE)
    order = site.erase_order(A, B)
    assert wish(site, Event.CANCEL).machine.state == "deployed"
    with pytest.raises(Refused, match="closed"):
        site.claim(order)
    wish(site, Event.RELEASE)
    site.claim(site.erase_order(A, B))
    with pytest.raises(Refused, match="has begun and cannot be undone"):
        wish(site, Event.CANCEL)


def test_forget_leaves_nothing_that_another_machine_could_inherit(site: Site) -> None:
    number = site.machine.id
    moved = wish(site, Event.FORGET)
    assert moved.machine.id == number
    with pytest.raises(NotFound):
        inventory.find(site.store, "sn1001")
    again = site.report(A, B)
    assert again.facts.get("round") is None
    assert "forget" not in " ".join(site.texts(Kind.LIFE))


def test_a_twin_is_not_ordered_about(site: Site) -> None:
    site.report(A, boot_id="b2", mac="52:54:00:00:00:0c", serial="SN2002")
    with pytest.raises(Refused, match="while it is in conflict"):
        wish(site, Event.ACCEPT)
    assert site.machine.state == "discovered"


def test_beyond_the_hourly_limit_a_second_person_must_agree(tmp_path: Path) -> None:
    site = Site(tmp_path, per_hour=1)
    site.report(A)
    site.ledger.note_wish(site.now)
    moved = wish(site, Event.ACCEPT, level=Level.CLEAR)
    assert moved.machine.state == "discovered"
    assert "a second person must say `metalbox approve sn1001`" in moved.pending
    with pytest.raises(Refused, match="alice wished it: a second person must approve it"):
        site.lives.approve(site.store, "sn1001", "alice", site.now)
    moved = site.lives.approve(site.store, "sn1001", "bob", site.now)
    assert moved.machine.state == "erasing"
    assert site.texts(Kind.LIFE)[-1].startswith(
        "discovered -> erasing: accept at level clear, by alice, approved by bob"
    )
    with pytest.raises(Refused, match="nothing waits for an approval"):
        site.lives.approve(site.store, "sn1001", "bob", site.now)
    site.store.close()


def test_an_approval_comes_too_late_and_never_for_other_disks(tmp_path: Path) -> None:
    site = Site(tmp_path, per_hour=1)
    site.report(A)
    site.ledger.note_wish(site.now)
    wish(site, Event.ACCEPT)
    with pytest.raises(Refused, match="nothing waits"):
        site.lives.approve(site.store, "sn1001", "bob", site.now + APPROVAL_SECONDS + 1)
    site.report(A, B)
    site.lives.approve(site.store, "sn1001", "bob", site.now)
    for order in site.poll():
        assert order.verb == "report"
        site.report(A, B)
    assert site.poll() == []
    fault = site.machine.fault
    assert fault is not None and fault.code == "disks-changed"
    assert fault.evidence == ("the disk B (LAB DISK, 1 GB) would be erased, and nobody has confirmed that",)
    site.store.close()


RULES = (
    AcceptRule(name="mine", policy=Policy.ADOPT, serials=("SN7", "sn1001")),
    AcceptRule(name="others", policy=Policy.ACCEPT, vendor="QE*"),
)


def test_rules_decide_on_new_machines_with_their_reason(tmp_path: Path) -> None:
    site = Site(tmp_path, rules=RULES)
    assert site.report(A).state == "deployed"
    assert site.texts(Kind.LIFE) == ["discovered -> deployed: adopt, by rule (rule mine: serial number SN1001)"]
    other = site.report(A, boot_id="b2", mac="52:54:00:00:00:0c", serial="SN2002")
    assert other.state == "discovered"
    entries = inventory.timeline(site.store, other, 100)
    (line,) = [entry.text for entry in entries if entry.kind is Kind.LIFE]
    assert line.startswith(
        "left to a person: rule others: vendor QEMU is QE* says accept, but nothing may be ordered on"
    )
    site.store.close()


def test_a_rule_accepts_with_its_own_level_and_only_once(tmp_path: Path) -> None:
    rules = (AcceptRule(policy=Policy.ACCEPT, location="*", serials=("SN1001",), level=Level.CLEAR),)
    site = Site(tmp_path, rules=rules)
    assert site.report(A).state == "discovered"  # its location is not known, so the rule does not fit
    site.store.close()
    (tmp_path / "two").mkdir()
    site = Site(tmp_path / "two", rules=(AcceptRule(policy=Policy.ACCEPT, serials=("SN1001",), level=Level.PURGE),))
    assert site.report(A).state == "erasing"
    round_ = from_facts(site.machine.facts)
    assert round_ is not None and (round_.wish.level, round_.wish.operator) == (Level.PURGE, "rule")
    site.store.close()


def test_after_a_copy_was_restored_no_rule_erases(tmp_path: Path) -> None:
    """What is new to the copy may have been accepted after it was made, and be in use since."""
    site = Site(tmp_path, rules=(AcceptRule(name="all", policy=Policy.ACCEPT, vendor="*"),))
    site.ledger.note_order(7, 6)
    site.erasing.after_restart(site.store, site.now)
    site.report(A)
    assert site.machine.state == "discovered"
    assert site.texts(Kind.LIFE)[-1].endswith(
        "says accept, but the database is a copy that was restored: a machine that is new to it may be in use"
    )
    wish(site, Event.FORGET)
    site.now += RULES_REST_SECONDS
    site.report(A)
    assert site.machine.state == "erasing"
    site.store.close()


def test_nothing_is_wished_of_disks_that_could_not_be_read(site: Site) -> None:
    document = report(boot_id="b1")
    document["problems"] = ["disks: no answer within 30 s"]
    inventory.report(site.store, document, "192.0.2.100", site.now)
    with pytest.raises(Refused, match="the agent could not read the disks: no answer within 30 s"):
        wish(site, Event.ACCEPT)
    assert site.ledger.wished(site.now) == 0


def test_a_machine_in_conflict_is_not_switched(site: Site) -> None:
    wish(site, Event.ACCEPT)
    site.report(A, boot_id="b2", mac="52:54:00:00:00:0c", serial="SN2002")
    assert site.machine.conflict
    for moved in site.erasing.tick(site.store, site.now + 600):
        assert moved.power_orders == ()
