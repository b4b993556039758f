"""The verbs of a machine's life: accept, erase, release and the others, and the site's rules for new machines.

As in inventory.py each loads, asks the pure grammar (lifecycle.py), and saves state, timeline and actions in one
transaction; orders to agents and to BMCs are rows, carried out afterwards and safe to repeat. Nothing here waits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from metalbox import rounds
from metalbox.acceptance import choose
from metalbox.config import AcceptRule, Erase, Policy
from metalbox.erase.plan import Verdict
from metalbox.errors import Refused
from metalbox.inventory import find, order_report
from metalbox.ledger import Ledger
from metalbox.lifecycle import DESTRUCTIVE, WORKING, Action, Event, State, wish
from metalbox.machine import Disk, Machine
from metalbox.moves import ERASE, RESTORED, Move, Moved, Steps
from metalbox.rounds import (
    Marks,
    Round,
    Wish,
    by,
    from_facts,
    identity,
    person,
    promise,
    settled,
    to_facts,
    words,
)
from metalbox.store import Store
from metalbox.timeline import Kind

# A wish beyond the hourly limit waits so long for a second person.
APPROVAL_SECONDS = 24 * 3600.0
# After a copy of the database was restored no rule erases a machine for so long: it may have been accepted, and given
# away, after the copy was made. By then whoever misses a machine has said so.
RULES_REST_SECONDS = 30 * 86_400.0


class Lives:
    """The verbs."""

    def __init__(self, steps: Steps, settings: Erase, rules: Sequence[AcceptRule], ledger: Ledger) -> None:
        self._steps = steps
        self._settings = settings
        self._rules = rules
        self._ledger = ledger

    def wish(self, store: Store, name: str, event: Event, said: Wish, now: float) -> Moved:
        """Do what a person wants of a machine. Raises NotFound, Refused with the state and what would be legal."""
        with store.transaction():
            machine = find(store, name)
            if event is Event.REPORT:
                order_report(store, name, now)
                return Moved(machine, wake=machine.boot_id)
            return self._wish(store, machine, event, said, now)

    def approve(self, store: Store, name: str, operator: str, now: float) -> Moved:
        """Grant as a second person what was wished beyond the hourly limit. Raises NotFound, Refused."""
        with store.transaction():
            machine = find(store, name)
            pending = machine.facts.get("pending")
            if not pending or now - pending["at"] > APPROVAL_SECONDS:
                raise Refused(f"nothing waits for an approval on {machine.name}")
            first = from_facts({rounds.FACT: pending["round"]})
            assert first is not None
            if person(first.wish.operator) == person(operator):
                raise Refused(f"{operator} wished it: a second person must approve it")
            facts = {key: value for key, value in machine.facts.items() if key != "pending"}
            machine = replace(machine, facts=facts)
            store.machines.save(machine)
            said = replace(first.wish, approved_by=operator)
            return self._wish(store, machine, Event(pending["event"]), said, now, first.confirmed)

    def _wish(
        self, store: Store, machine: Machine, event: Event, said: Wish, now: float, confirmed: Marks | None = None
    ) -> Moved:
        """`confirmed` are the disks that somebody was shown earlier."""
        before = from_facts(machine.facts)
        said = settled(event, said, before)
        found = wish(machine, event, has_begun=self._steps.has_begun(store, machine, before), force=said.force)
        move = Move(machine, now)
        text = words(event, said)
        count = self._ledger.wished(now) if event in DESTRUCTIVE and not said.approved_by else 0
        if count >= self._settings.per_hour:
            return self._pend(store, move, event, said, before, count)
        round_ = None
        if Action.WORK in found.actions:
            round_ = self._new_round(machine, event, said, before, now)
            if confirmed is not None:
                round_ = replace(round_, confirmed=confirmed)
            text += f": {promise(self._steps.plan(machine, said, round_.failed))}"
            self._ledger.note_wish(now)
        held = said.reason or f"by {said.operator or 'someone'}"
        self._steps.go(store, move, event, found, text, round_=round_, held=held)
        return replace(move.done(store), is_gone=Action.FORGET in found.actions)

    def _pend(self, store: Store, move: Move, event: Event, said: Wish, before: Round | None, count: int) -> Moved:
        sentence = (
            f"{count} machines were sent to be erased within the last hour, and {self._settings.per_hour} are allowed"
            f" (erase.per_hour): a second person must say `metalbox approve {move.machine.name}`"
        )
        row = to_facts(self._new_round(move.machine, event, said, before, move.now))
        pending = {"event": str(event), "at": move.now, "round": row}
        store.machines.save(replace(move.machine, facts={**move.machine.facts, "pending": pending}))
        move.tell(Kind.LIFE, f"{words(event, said)}: waits for a second person; {sentence}", {"event": str(event)})
        return replace(move.done(store), pending=sentence)

    def _new_round(self, machine: Machine, event: Event, said: Wish, before: Round | None, now: float) -> Round:
        origin, failed = machine.state, {}
        if event is Event.RETRY and before is not None:
            # The same round in other words: what it is for stays, and where the machine came from.
            origin, failed = before.origin, dict(before.failed)
        shown = self._steps.plan(machine, said, failed)
        if shown.problems:
            raise Refused("; ".join(shown.problems))
        to_erase = shown.of(Verdict.ERASE)
        if said.disks is not None and set(said.disks) != {disk.key for disk in to_erase}:
            raise Refused(f"the disks of {machine.name} are not those that you were shown: look at the plan once more")
        marks = tuple(identity(disk) for disk in to_erase)
        return Round(str(event), now, origin, said, marks, failed)

    def keep(self, store: Store, name: str, serial: str, is_kept: bool, operator: str, now: float) -> Moved:
        """Say that a disk is never to be erased, or that it may be again. Raises NotFound, Refused."""
        with store.transaction():
            machine = find(store, name)
            known = rounds.disks_named(machine.hardware.disks, serial)
            kept = list(machine.facts.get("keep", ()))
            if is_kept and len(known) != 1:
                raise Refused(f"{machine.name} has no disk {serial!r}" if not known else f"{serial!r} is several disks")
            mark = (known[0].serial or known[0].wwn) if known else serial
            if is_kept == (mark in kept):
                raise Refused(f"the disk {mark} of {machine.name} is {'' if is_kept else 'not '}kept already")
            kept = [*kept, mark] if is_kept else [other for other in kept if other != mark]
            if is_kept:
                machine = self._spare(store, machine, known[0], now)
            store.machines.save(replace(machine, facts={**machine.facts, "keep": kept}))
            move = Move(machine, now)
            what = "is kept: it will not be erased" if is_kept else "is not kept any more: it will be erased"
            move.tell(Kind.LIFE, f"the disk {mark} {what}{by(operator)}", {"disk": mark, "keep": is_kept})
            return move.done(store)

    def _spare(self, store: Store, machine: Machine, disk: Disk, now: float) -> Machine:
        """Take a disk out of the round that goes on. Raises Refused when it is too late for that."""
        order = store.orders.newest_of(machine.id, ERASE)
        if order is not None and order.done_at is None:
            if order.claimed_at is not None and any(
                (row["serial"], row["wwn"]) == (disk.serial, disk.wwn) for row in order.data["disks"]
            ):
                raise Refused(f"the erasing of the disk {disk.serial or disk.wwn} has begun and cannot be undone")
            if order.claimed_at is None:
                store.orders.finish(order.id, {"closed": "a disk of it is to be kept"}, now)
        round_ = from_facts(machine.facts)
        if round_ is None or machine.state not in WORKING:
            return machine
        left = tuple(mark for mark in round_.confirmed if mark != identity(disk))
        return replace(machine, facts={**machine.facts, rounds.FACT: to_facts(replace(round_, confirmed=left))})

    def reported(self, store: Store, machine_id: int, is_new: bool, now: float) -> Moved | None:
        """A machine has reported: apply the site's rules to one that is new. None when there is nothing to do."""
        if not is_new or not self._rules:
            return None
        with store.transaction():
            machine = store.machines.get(machine_id)
            if machine is None or machine.state != State.DISCOVERED:
                return None
            chosen = choose(machine, self._rules)
            move = Move(machine, now)
            if chosen.policy is Policy.MANUAL:
                move.tell(Kind.LIFE, f"left to a person: {chosen.reason}", {"policy": str(chosen.policy)})
                return move.done(store)
            restored = store.orders.counter(RESTORED)
            if chosen.policy is Policy.ACCEPT and restored and now < restored + RULES_REST_SECONDS:
                why_not = "the database is a copy that was restored: a machine that is new to it may be in use"
                move.tell(Kind.LIFE, f"left to a person: {chosen.reason} says accept, but {why_not}")
                return move.done(store)
            said = Wish(
                chosen.level or self._settings.level, self._settings.verify, operator="rule", reason=chosen.reason
            )
            try:
                return self._wish(store, machine, Event(str(chosen.policy)), said, now)
            except Refused as error:
                move.tell(Kind.LIFE, f"left to a person: {chosen.reason} says {chosen.policy}, but {error}")
                return move.done(store)
