"""Random lives: wishes, agents, faults, swapped disks, crashes, repeats, jumps of time, restored copies, in any order.

What must hold at every moment: only disks that a person was shown are written to, by an order of a machine at work; a
certificate is made only of a drive whose bytes are gone; a machine rests as erased only when all disks of the order
are; erase orders are open only on machines at work; the chain of certificates is whole.
"""

from __future__ import annotations

import random
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from metalbox.erase.document import verify, verify_chain
from metalbox.erase.methods import Level
from metalbox.errors import MetalboxError, NotFound, Refused
from metalbox.lifecycle import DESTRUCTIVE, FACTS, WORKING, Event
from metalbox.machine import Machine
from metalbox.orderrecords import Order
from tests.agent.drives import MIB, Drive, ScsiDrive
from tests.erase.shelf import GOOD, SERIAL, Case

WISHES = sorted(set(Event) - FACTS)
FAULTS = ["lies", "fails", "stale", "one-sector", "unreadable-after", "refuses", "protected", "sanitize-failed", "held"]
SIZE = 2 * MIB
RESTED = frozenset({"available", "retired"})


class Walk:
    """One machine, one service, and everything that may happen to them."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.random = random.Random(seed)
        self.folder = folder
        folder.mkdir()
        self.case = Case(folder, ScsiDrive("sda", "D0", size=SIZE), size=SIZE, per_hour=10_000)
        self.site = self.case.site
        self.boot = self.run_number = self.drives = 0
        self.told: list[Order] = []
        self.outcomes: list[tuple[Order, dict[str, Any], str, str]] = []
        self.removed: list[tuple[Drive, int]] = []
        self.kept: set[str] = set()
        self.shown: set[str] = set()
        self.copied: set[str] = set()
        self.documents = 0
        self.trace: list[str] = []
        self.seen: Counter[str] = Counter()
        self.say()

    def step(self) -> None:
        """Something happens, and whatever must hold still does."""
        what = self.random.choices(list(WEIGHTS), list(WEIGHTS.values()))[0]
        self.trace.append(what)
        getattr(self, what)()
        self.nothing_else_is_touched()
        self.erase_orders_are_open_on_machines_at_work_only()

    def end(self) -> None:
        """The chain is whole, and every document is sound."""
        rows = self.listing()
        self.seen.update(row["kind"] for row in rows)
        with self.site.store.transaction():
            chain = [self.site.store.certificates.get(row["number"]) or {} for row in rows]
        assert verify_chain(chain, complete=True) == []
        assert [verify(document, self.site.key.public) for document in chain] == [[]] * len(chain)
        self.site.store.close()

    @property
    def agent(self) -> tuple[str, str]:
        """The boot and the run that speak now."""
        return f"b{self.boot}", f"r{self.run_number}"

    @property
    def machine(self) -> Machine | None:
        try:
            return self.site.machine
        except NotFound:
            return None

    def say(self) -> None:
        self.case.report(self.agent[0])

    # people

    def somebody_wishes(self, event: Event | None = None) -> None:
        event = event or self.random.choice(WISHES)
        level = self.random.choice((Level.CLEAR, Level.CLEAR, Level.PURGE))
        try:
            self.case.wish(event, level=level)
        except MetalboxError:
            return
        if event is Event.FORGET:
            self.kept.clear()
        if event in DESTRUCTIVE:
            self.shown = {disk.serial for disk in self.site.machine.hardware.disks}

    def somebody_wants_it_erased(self) -> None:
        self.somebody_wishes(
            self.random.choice((Event.ACCEPT, Event.ERASE, Event.RELEASE, Event.RETRY, Event.RETRY, Event.UNHOLD))
        )

    def somebody_keeps_a_disk(self) -> None:
        serial, is_kept = self.random.choice((self.case.bad.serial, GOOD)), self.random.random() < 0.4
        try:
            self.site.lives.keep(self.site.store, SERIAL, serial, is_kept, "bob", self.site.now)
        except MetalboxError:
            return
        (self.kept.add if is_kept else self.kept.discard)(serial)

    def its_owner_writes(self) -> None:
        if self.machine is None or self.machine.state != "deployed":
            return
        for drive in (self.case.bad, self.case.good):
            drive.medium[:] = drive.random.randbytes(len(drive.medium))
            drive.original = bytes(drive.medium)

    # the machine

    def it_reports(self) -> None:
        self.say()

    def it_is_started_anew(self) -> None:
        self.boot += 1
        self.run_number += 1
        for drive in (self.case.bad, self.case.good):
            drive.is_held = False
        self.say()

    def its_agent_starts_anew(self) -> None:
        self.run_number += 1

    def a_drive_gets_a_fault(self) -> None:
        fault = self.random.choice(FAULTS)
        self.case.bad.faults.add(fault)
        self.case.bad.is_held = fault == "held"
        if fault == "sanitize-failed":
            self.case.bad.state = "failed"

    def the_drive_is_mended(self) -> None:
        drive = self.case.bad
        drive.faults.clear()
        drive.shown, drive.is_here, drive.is_held = None, True, False

    def the_drive_is_exchanged(self) -> None:
        self.drives += 1
        old, new = self.case.bad, ScsiDrive("sda", f"D{self.drives}", size=SIZE, seed=10 + self.drives)
        self.removed.append((old, len(old.writes)))
        new.kernel = self.case.shelf
        self.case.shelf.drives[self.case.shelf.drives.index(old)] = new
        self.case.bad = new

    # agent and service

    def the_agent_asks(self) -> None:
        try:
            told = self.site.poll(*self.agent)
        except MetalboxError:
            return
        for order in told:
            if order.verb == "report":
                self.say()
            elif order.verb == "erase":
                self.told.append(order)

    def the_agent_works(self) -> None:
        """On an order that it was told now, or ever."""
        if not self.told:
            return
        order = self.random.choice((*self.told[-2:], *self.told[-1:] * 3))
        drives = {drive.serial: drive for drive in self.case.shelf.drives}
        before = {serial: len(drive.writes) for serial, drive in drives.items()}
        claims: list[Machine] = []

        def claimed() -> None:
            claims.append(self.site.machine)

        try:
            outcome = self.case.work(order, *self.agent, claimed=claimed)
        except (NotFound, Refused):
            outcome = {}
        written = {serial for serial, drive in drives.items() if len(drive.writes) > before[serial]}
        if written:
            (machine,) = claims
            assert machine.state in WORKING and machine.fault is None and not machine.held and not machine.conflict
            assert written <= {row["serial"] for row in order.data["disks"]}
            assert written <= self.shown and not written & self.kept
        if outcome:
            self.outcomes.append((order, outcome, *self.agent))

    def an_outcome_comes(self) -> None:
        """Sooner or later, once or twice."""
        if not self.outcomes:
            return
        order, outcome, boot, run = self.random.choice((*self.outcomes[-2:], *self.outcomes[-1:] * 3))
        before = self.machine
        try:
            self.site.done(order, outcome, boot, run)
        except MetalboxError:
            return
        after = self.machine
        drives = {drive.serial: drive for drive in (self.case.bad, self.case.good)}
        for row in self.listing()[: len(self.listing()) - self.documents]:
            if row["kind"] == "drive" and row["serial"] in drives:
                assert drives[row["serial"]].is_gone(), row
        self.documents = len(self.listing())
        if before and after and before.state in WORKING and after.state in RESTED:
            named = {row["serial"] for row in order.data["disks"]}
            assert named and all(drives[serial].is_gone() for serial in named if serial in drives)

    def time_goes_by(self) -> None:
        self.site.now += 60 * self.random.choice((1, 1, 5, 5, 30, 90, 3000))
        self.site.erasing.tick(self.site.store, self.site.now)

    def the_clock_jumps(self) -> None:
        hours = self.random.choice((-30, -1, 1, 30))
        self.site.now = max(1000.0, self.site.now + 3600 * hours)
        self.site.erasing.tick(self.site.store, self.site.now, 3600.0 * hours)

    def the_service_is_killed(self) -> None:
        self.site.store.close()
        self.site.open()
        self.site.erasing.after_restart(self.site.store, self.site.now)

    def the_service_is_killed_before_it_could_commit(self) -> None:
        what = self.random.choice(("poll", "report", "wish"))
        try:
            with self.site.store.transaction():
                if what == "poll":
                    self.site.poll(*self.agent)
                elif what == "report":
                    self.say()
                else:
                    self.case.wish(Event.ACCEPT)
                raise ZeroDivisionError
        except (ZeroDivisionError, MetalboxError):
            pass
        self.the_service_is_killed()

    def the_database_is_copied(self) -> None:
        self.site.store.close()
        shutil.copy(self.folder / "metalbox.db", self.folder / "copy.db")
        self.copied = self.shown
        self.site.open()

    def the_copy_is_restored(self) -> None:
        """No agent tells again what the service has confirmed to it."""
        if not (self.folder / "copy.db").exists():
            return
        self.site.store.close()
        shutil.copy(self.folder / "copy.db", self.folder / "metalbox.db")
        self.site.open()
        self.site.erasing.after_restart(self.site.store, self.site.now)
        self.outcomes.clear()
        self.shown = self.copied
        self.documents = len(self.listing())
        self.kept = set(machine.facts.get("keep", ())) if (machine := self.machine) else set()

    def listing(self) -> list[dict[str, Any]]:
        with self.site.store.transaction():
            return self.site.store.certificates.listing()

    # what always holds

    def nothing_else_is_touched(self) -> None:
        self.case.is_spared()
        assert all(len(drive.writes) == count for drive, count in self.removed)

    def erase_orders_are_open_on_machines_at_work_only(self) -> None:
        machine = self.machine
        if machine is None:
            return
        with self.site.store.transaction():
            verbs = [order.verb for order in self.site.store.orders.open_of(machine.id)]
        assert "erase" not in verbs or (machine.state in WORKING and machine.fault is None), machine
        assert verbs.count("erase") <= 1


# How often each of them happens: what leads on more than what hinders, or few walks would come to an end.
WEIGHTS = {
    "somebody_wants_it_erased": 14,
    "the_agent_asks": 50,
    "the_agent_works": 25,
    "an_outcome_comes": 20,
    "somebody_wishes": 4,
    "somebody_keeps_a_disk": 1,
    "its_owner_writes": 3,
    "it_reports": 3,
    "it_is_started_anew": 2,
    "its_agent_starts_anew": 2,
    "a_drive_gets_a_fault": 5,
    "the_drive_is_mended": 8,
    "the_drive_is_exchanged": 2,
    "time_goes_by": 3,
    "the_clock_jumps": 1,
    "the_service_is_killed": 4,
    "the_service_is_killed_before_it_could_commit": 3,
    "the_database_is_copied": 1,
    "the_copy_is_restored": 1,
}


@pytest.mark.parametrize("first", [0, 8, 16])
def test_what_must_hold_holds_whatever_happens(first: int, tmp_path: Path) -> None:
    seen: Counter[str] = Counter()
    for seed in range(first, first + 8):
        walk = Walk(tmp_path / str(seed), seed)
        try:
            for _ in range(200):
                walk.step()
            walk.end()
        except BaseException as error:
            error.add_note(f"seed {seed}, step {len(walk.trace)}, the last: {', '.join(walk.trace[-25:])}")
            raise
        finally:
            walk.site.store.close()
        seen += walk.seen
    assert seen["machine"] and seen["drive"] and seen["failure"], "the walks do not come far enough to prove anything"
