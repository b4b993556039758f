"""Random lives: wishes, reports, agents that lie, die and come back, crashes anywhere. What must hold always, holds."""

from __future__ import annotations

import contextlib
import random
from pathlib import Path
from typing import Any

import pytest

from metalbox.errors import MetalboxError
from metalbox.lifecycle import WORKING, Event
from metalbox.orderrecords import Order
from metalbox.rounds import Wish, from_facts
from tests.erasures import Site, disk, outcome

WISHES = [event for event in Event if event not in (Event.REPORTED, Event.ERASED, Event.ERASE_FAILED, Event.TIMEOUT)]
DISKS = [disk("A"), disk("B"), disk("C")]


class Walk:
    """One machine with disks and an agent, and everybody who does something to it at random."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.chance = random.Random(seed)
        self.site = Site(folder, per_hour=100_000)
        self.boots = 0
        self.runs = 0
        self.present = list(DISKS[:2])
        self.told: dict[int, Order] = {}
        self.begun: set[int] = set()
        self.reboot()

    # What may happen.

    def reboot(self) -> None:
        self.boots += 1
        self.restart_agent()
        self.site.report(*self.present, boot_id=self.boot_id)

    def restart_agent(self) -> None:
        self.runs += 1
        self.told.clear()
        self.begun.clear()

    @property
    def boot_id(self) -> str:
        return f"boot{self.boots}"

    @property
    def run(self) -> str:
        return f"run{self.runs}"

    def poll(self) -> None:
        for order in self.site.poll(self.boot_id, self.run):
            if order.verb == "report":
                self.site.report(*self.present, boot_id=self.boot_id)
            elif order.verb == "erase":
                self.told[order.id] = order
            else:
                self.site.claim(order, self.boot_id, self.run)
                self.site.done(order, {"done": True}, self.boot_id, self.run)

    def begin(self) -> None:
        for order in list(self.told.values()):
            with contextlib.suppress(MetalboxError):
                self.site.claim(order, self.boot_id, self.run)
                self.begun.add(order.id)
                self.check_order(order)

    def end(self) -> None:
        for number in list(self.begun):
            order = self.told[number]
            rows: dict[str, Any] = {}
            if self.chance.random() < 0.4:
                wrong: list[dict[str, Any]] = [
                    {"result": "failed", "evidence": "x"},
                    {"verification": {}},
                    {"size_bytes": 1},
                ]
                rows = {order.data["disks"][0]["serial"]: self.chance.choice(wrong)}
            with contextlib.suppress(MetalboxError):
                self.site.done(order, outcome(order, **rows), self.boot_id, self.run)
            self.begun.discard(number)

    def say_old_things(self) -> None:
        """A packet of long ago, from another boot."""
        for order in list(self.told.values()):
            with pytest.raises(MetalboxError):
                self.site.claim(order, self.boot_id, f"{self.run}-copy")

    def wish(self) -> None:
        said = Wish(operator="alice", force=self.chance.random() < 0.1)
        with contextlib.suppress(MetalboxError):
            self.site.lives.wish(self.site.store, "sn1001", self.chance.choice(WISHES), said, self.site.now)

    def change_disks(self) -> None:
        self.present = [one for one in DISKS if self.chance.random() < 0.7]

    def tick(self) -> None:
        self.site.now += self.chance.choice((10, 100, 2000, 90_000))
        self.site.erasing.tick(self.site.store, self.site.now)

    def crash(self) -> None:
        self.site.store.close()
        self.site.open()
        assert self.site.erasing.after_restart(self.site.store, self.site.now) == []

    # What must hold.

    def check_order(self, order: Order) -> None:
        """An agent has just been allowed to begin."""
        machine = self.site.machine
        assert machine.state in WORKING and machine.fault is None and not machine.held and not machine.conflict
        assert order.data["boot_id"] == machine.boot_id == self.boot_id
        round_ = from_facts(machine.facts)
        assert round_ is not None and order.created_at >= round_.at
        confirmed = {mark[0] for mark in round_.confirmed}
        assert {row["serial"] for row in order.data["disks"]} == confirmed

    def check(self) -> None:
        with contextlib.suppress(MetalboxError):
            machine = self.site.machine
            with self.site.store.transaction():
                waiting = [order for order in self.site.store.orders.open_of(machine.id) if order.verb == "erase"]
            assert len(waiting) <= 1
            if machine.state not in WORKING or machine.fault is not None:
                assert waiting == []
            if machine.state == "available":
                entries = [text for text in self.site.texts() if "-> available" in text]
                assert entries, "available without a word"

    def step(self) -> None:
        acts = [self.poll] * 6 + [self.begin] * 4 + [self.end] * 4 + [self.wish] * 5 + [self.tick, self.crash]
        acts += [self.reboot, self.restart_agent, self.say_old_things, self.change_disks]
        act = self.chance.choice(acts)
        try:
            act()
        except MetalboxError:
            # The agent of a machine that was forgotten is asked to report.
            self.site.report(*self.present, boot_id=self.boot_id)
        self.check()


@pytest.mark.parametrize("seed", range(24))
def test_random_lives(tmp_path: Path, seed: int) -> None:
    walk = Walk(tmp_path, seed)
    for _ in range(120):
        walk.step()
    with walk.site.store.transaction():
        certificates = walk.site.store.certificates.listing()
    for row in certificates:
        if row["kind"] == "machine":
            assert any(one["kind"] == "drive" for one in certificates)
    walk.site.store.close()


def test_random_lives_reach_what_they_should(tmp_path: Path) -> None:
    """The walk above would prove nothing if it never erased anything."""
    states: set[str] = set()
    kinds: set[str] = set()
    for seed in range(8):
        (tmp_path / str(seed)).mkdir()
        walk = Walk(tmp_path / str(seed), seed)
        for _ in range(120):
            walk.step()
            with contextlib.suppress(MetalboxError):
                states.add(walk.site.machine.state)
        with walk.site.store.transaction():
            kinds |= {row["kind"] for row in walk.site.store.certificates.listing()}
        walk.site.store.close()
    assert states == {"discovered", "rejected", "erasing", "available", "deployed", "retiring", "retired"}
    assert kinds == {"drive", "machine", "failure"}
