"""What is known of a round, at each of its steps on a real store."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from metalbox.evidence import LifeFacts
from metalbox.lifecycle import Event
from metalbox.lifefacts import life_facts
from metalbox.lives import APPROVAL_SECONDS
from metalbox.rounds import Wish
from tests.erasures import Site, disk

A, LOCKED = disk("A"), disk("L", erasing={"write_protected": True})


def facts(site: Site, said: Mapping[str, Any] | None = None, now: float = 0.0) -> LifeFacts:
    return life_facts(site.store, site.machine, True, lambda number: said, now or site.now)


def test_the_steps_of_a_round(tmp_path: Path) -> None:
    site = Site(tmp_path)
    site.report(A, LOCKED)
    assert facts(site) == LifeFacts(can_power=True)
    site.now += 1
    site.lives.wish(site.store, "sn1001", Event.ACCEPT, Wish(operator="alice"), site.now)
    (order,) = site.poll()
    found = facts(site)
    assert (found.verb, found.level, found.operator, found.waiting) == ("accept", "clear", "alice", ("report",))
    site.report(A, LOCKED)
    (order,) = site.poll()
    found = facts(site)
    assert (found.waiting, found.ordered_at, found.begun_at) == (("erase",), order.created_at, 0.0)
    assert [name for name, _ in found.refused] == ["L"]
    site.claim(order)
    found = facts(site, {"disks": {"A": {"percent": 5}}})
    assert found.begun_at == site.now and found.progress == {"disks": {"A": {"percent": 5}}}
    site.store.close()


def test_what_waits_for_a_second_person_does_so_for_a_day(tmp_path: Path) -> None:
    site = Site(tmp_path, per_hour=1)
    site.report(A)
    site.ledger.note_wish(site.now)
    site.lives.wish(site.store, "sn1001", Event.ACCEPT, Wish(operator="alice"), site.now)
    found = facts(site)
    assert (found.pending, found.pending_by, found.pending_at) == ("accept", "alice", site.now)
    assert facts(site, now=site.now + APPROVAL_SECONDS + 1).pending == ""
    site.store.close()
