"""A round of erasing as it goes on by itself: whenever the machine's agent asks, an order is done, or time goes by.

First a fresh report, then an account on the machine's BMC, then the erase order, made from that report and only for
disks that a person has confirmed; then the proofs. Called in the database's thread; nothing here waits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from metalbox import certificates, orders, rounds
from metalbox.certificaterecords import Signer
from metalbox.config import Erase
from metalbox.erase.methods import SECURITY, Method
from metalbox.erase.order import from_order, to_order
from metalbox.erase.plan import Verdict
from metalbox.errors import Refused
from metalbox.identity import ALIVE_SECONDS
from metalbox.ledger import Ledger
from metalbox.lifecycle import WORKING, Event, State, may_erase, step
from metalbox.machine import Fault, Machine
from metalbox.moves import ACCOUNT, ERASE, RESTORED, Move, Moved, Steps
from metalbox.orderrecords import Order
from metalbox.rounds import (
    Round,
    disk_count,
    failed_methods,
    from_facts,
    outcome_fault,
    promise,
    surprises,
    to_facts,
    unread,
)
from metalbox.store import Store
from metalbox.timeline import Entry, Kind

# From the order to the agent's claim: it looks at every disk again before that.
CLAIM_SECONDS = 600.0
# What a limit is multiplied with before a machine is called late: drives slow down when they are hot or worn.
PATIENCE = 2.0
# How long the disks wait for a login with the new account of the BMC; it is tried on beside them.
ACCOUNT_SECONDS = 120.0
# A drive that says that it needs longer is not believed: 30 days, for 30 TB at 12 MB/s.
MAX_LEFT_SECONDS = 30 * 86_400.0
# A clock that was set back by more than this is no drift.
CLOCK_SECONDS = 300.0


class Erasing:
    """The steps of a round. `draw` gives unguessable hexadecimal texts."""

    def __init__(
        self,
        steps: Steps,
        settings: Erase,
        ledger: Ledger,
        signer: Signer,
        draw: Callable[[], str],
        went_on: Callable[[int], None] = lambda number: None,
    ) -> None:
        """`went_on` is told of each machine whose state or power is another's affair by now, before it is saved."""
        self._went_on = went_on
        # After a jump of the clock nobody counts as silent before everybody had the time to speak.
        self._silent_after = 0.0
        self._steps = steps
        self._settings = settings
        self._ledger = ledger
        self._signer = signer
        self._draw = draw

    def poll(self, store: Store, boot_id: str, run: str, draw: Callable[[], str], now: float) -> list[Order]:
        """What this run of an agent shall do now; the place where a round goes on. Raises NotFound."""
        with store.transaction():
            numbers = store.machines.ids_by_boot_id(boot_id)
            if numbers and store.machines.state(numbers[0]) in WORKING:
                machine = store.machines.get(numbers[0])
                assert machine is not None
                self._proceed(store, machine, now)
            return orders.for_run(store, boot_id, run, draw, now)

    def _proceed(self, store: Store, machine: Machine, now: float) -> None:
        """The next step of the round of a machine whose agent asks."""
        round_ = from_facts(machine.facts)
        if may_erase(machine) or round_ is None:
            return
        waiting = store.orders.open_of(machine.id)
        erase = next((order for order in waiting if order.verb == ERASE), None)
        if erase is not None and erase.claimed_at is None and (strange := self._strange(machine, round_, erase)):
            move = Move(machine, now)
            self._disks_changed(store, move, strange)
            self._end(store, move)
            return
        for order in waiting:
            if order.verb == ERASE and order.data["boot_id"] != machine.boot_id:
                # Nothing of what another boot of the machine has done counts.
                machine = self._void(store, machine, order, now)
                waiting.remove(order)
                break
        if waiting:
            return
        if machine.reported_at < round_.at:
            store.orders.add(machine.id, Event.REPORT, now)
            return
        move = Move(machine, now)
        if not round_.account:
            account = self._steps.care.order_account(store, machine.id, now)
            round_ = replace(round_, account="ordered" if account else "not needed")
            machine = replace(machine, facts={**machine.facts, rounds.FACT: to_facts(round_)})
            store.machines.save(machine)
            move.machine = machine
            if account is not None:
                return
        elif round_.account == "ordered":
            state = self._steps.care.account_state(store, machine.id)
            account = store.orders.newest_of(machine.id, ACCOUNT)
            done_at = account.done_at if account else None
            if state == "ordered" and (done_at is None or now - done_at < ACCOUNT_SECONDS):
                return
            if state == "ordered":
                state = "not proved in time"
                move.tell(Kind.LIFE, "its BMC's new account is not proved yet: the disks do not wait for it")
            round_ = replace(round_, account=state)
            machine = replace(machine, facts={**machine.facts, rounds.FACT: to_facts(round_)})
            store.machines.save(machine)
            move.machine = machine
        self._order_erase(store, move, round_)
        self._end(store, move)

    def _end(self, store: Store, move: Move) -> None:
        move.done(store)
        self._went_on(move.machine.id)

    def _strange(self, machine: Machine, round_: Round, order: Order) -> list[str]:
        """What a report that came after the order says against it."""
        if machine.reported_at <= order.created_at:
            return []
        found = self._steps.plan(machine, round_.wish, round_.failed)
        return [*found.problems, *surprises(round_.confirmed, found.of(Verdict.ERASE))]

    def _disks_changed(self, store: Store, move: Move, strange: Sequence[str]) -> None:
        text = "its disks are not those that were confirmed: `metalbox retry` shows them and asks again"
        self._steps.fail(store, move, Event.ERASE_FAILED, Fault("disks-changed", text, move.now, tuple(strange)))

    def _void(self, store: Store, machine: Machine, order: Order, now: float) -> Machine:
        """Close the order of a boot that has ended; the next one begins with another look at the disks."""
        has_begun = order.claimed_at is not None
        store.orders.finish(order.id, {"closed": "the machine was started anew"}, now)
        if has_begun:
            machine = replace(machine, facts={**machine.facts, "begun": True})
            store.machines.save(machine)
        move = Move(machine, now)
        begun = ", after it had begun" if has_begun else ""
        move.tell(
            Kind.ERASE, f"the machine was started anew{begun}: its disks are looked at again", {"order": order.id}
        )
        move.done(store)
        return machine

    def _order_erase(self, store: Store, move: Move, round_: Round) -> None:
        """Make the order, or say why there is none. The disks are those of the newest report."""
        machine, now, said = move.machine, move.now, round_.wish
        found = self._steps.plan(machine, said, round_.failed)
        to_erase = found.of(Verdict.ERASE)
        strange = [*found.problems, *surprises(round_.confirmed, to_erase)]
        if missing := unread(machine):
            fault = Fault("cannot-erase", "its disks could not all be read", now, tuple(missing))
            self._steps.fail(store, move, Event.ERASE_FAILED, fault)
        elif strange:
            self._disks_changed(store, move, strange)
        elif not to_erase and (refused := found.of(Verdict.REFUSED)):
            lines = tuple(f"{disk.key or disk.name}: {disk.reason}" for disk in refused)
            fault = Fault("cannot-erase", f"{disk_count(len(refused))} cannot be erased", now, lines)
            self._steps.fail(store, move, Event.ERASE_FAILED, fault)
        elif not to_erase:
            done = step(State(machine.state), Event.ERASED)
            self._steps.go(store, move, Event.ERASED, done, "it has no disk that is to be erased")
        else:
            data = to_order(
                found,
                seed=self._draw(),
                verify=said.verify,
                machine={"uuid": machine.uuid, "serial": machine.serial, "macs": list(machine.macs)},
                boot_id=machine.boot_id,
                issued_at=int(now),
                samples=self._settings.samples,
                parallel=self._settings.parallel,
            )
            order = store.orders.add(machine.id, ERASE, now, data, above=self._ledger.last_order)
            self._ledger.note_order(order.id, store.orders.counter(ERASE))
            store.orders.count(ERASE, order.id)
            store.machines.set_deadline(machine.id, now + CLAIM_SECONDS)
            text = f"ordered to erase {disk_count(len(to_erase))} (level {said.level}): {promise(found)}"
            move.tell(Kind.ERASE, text, {"order": order.id, "level": str(said.level)})

    def claimed(self, store: Store, order: Order, now: float) -> list[Entry]:
        """The agent begins with an erase order, and has the time that the disks need. Raises Refused."""
        machine = store.machines.get(order.machine_id)
        assert machine is not None
        if why_not := may_erase(machine):
            raise Refused(f"order {order.id} may not begin: {why_not}")
        round_ = from_facts(machine.facts)
        if round_ is None or (strange := self._strange(machine, round_, order)):
            raise Refused(f"order {order.id} may not begin: {'; '.join(strange) if round_ else 'nobody wished it'}")
        self._ledger.note_begun(order.id)
        self._note_locks(store, machine, order)
        is_full = order.data["verify"] == "full"
        seconds = from_order(order.data).limit_seconds(full=is_full, parallel=order.data["parallel"])
        store.machines.set_deadline(order.machine_id, now + CLAIM_SECONDS + PATIENCE * seconds)
        return []

    def _note_locks(self, store: Store, machine: Machine, order: Order) -> None:
        """Remember which disks an interruption may leave locked: only those are opened again as our own."""
        known = set(machine.facts.get("locked", ()))
        able = [row for row in order.data["disks"] if SECURITY & {Method(word) for word in row["methods"]}]
        locked = known | {row["serial"] or row["wwn"] for row in able}
        if locked != known:
            store.machines.save(replace(machine, facts={**machine.facts, "locked": sorted(locked)}))

    def progressed(self, store: Store, order: Order, now: float) -> list[Entry]:
        """News of an erase order: what the drives say of the time they still need moves the deadline."""
        disks = order.progress.get("disks")
        rows = [row for row in disks.values() if isinstance(row, dict)] if isinstance(disks, dict) else []
        told = [row["left"] for row in rows if isinstance(row.get("left"), int | float)]
        left = [float(seconds) for seconds in told if 0 <= seconds <= MAX_LEFT_SECONDS]
        machine = store.machines.get(order.machine_id)
        until = now + CLAIM_SECONDS + PATIENCE * max(left, default=0.0)
        if machine is not None and left and until > machine.deadline_at + 60.0:
            store.machines.set_deadline(machine.id, until)
        return []

    def erase_done(self, store: Store, order: Order, now: float) -> list[Entry]:
        """An agent has done its erase order: proofs are issued for what is proven, all else is a fault."""
        machine = store.machines.get(order.machine_id)
        assert machine is not None, order.machine_id
        round_ = from_facts(machine.facts)
        if round_ is None or machine.state not in WORKING:
            return []
        move = Move(machine, now)
        issued = self._issue(store, move, round_, order)
        if certificates.is_whole(issued):
            count = sum(document["kind"] == "drive" for document in issued)
            text = f"{disk_count(count)} erased and verified"
            self._steps.go(store, move, Event.ERASED, step(State(machine.state), Event.ERASED), text)
        else:
            round_ = replace(round_, failed=failed_methods(round_.failed, order.outcome, issued))
            move.machine = replace(machine, facts={**machine.facts, rounds.FACT: to_facts(round_)})
            self._steps.fail(store, move, Event.ERASE_FAILED, outcome_fault(order.outcome, issued, now))
        self._end(store, move)
        return move.entries

    def tick(self, store: Store, now: float, clock_jump: float = 0.0) -> list[Moved]:
        """Look at all machines at work: who is late, who must be started. The wall clock has jumped by `clock_jump`."""
        done = []
        if clock_jump:
            self._silent_after = now + ALIVE_SECONDS
        with store.transaction():
            for number in store.machines.ids_at_work(sorted(WORKING)):
                machine = store.machines.get(number)
                assert machine is not None
                if clock_jump and machine.deadline_at:
                    machine = replace(machine, deadline_at=machine.deadline_at + clock_jump)
                    store.machines.set_deadline(number, machine.deadline_at)
                move = Move(machine, now)
                self._look(store, move)
                done.append(move.done(store))
        return [moved for moved in done if moved.entries or moved.power_orders]

    def _look(self, store: Store, move: Move) -> None:
        machine, now = move.machine, move.now
        round_ = from_facts(machine.facts)
        if round_ is None or machine.held:
            return
        if round_.at > now + CLOCK_SECONDS:
            text = "this host's clock was set back behind the order: nobody can say how old it is"
            self._steps.fail(store, move, Event.TIMEOUT, Fault("clock", text, now))
        elif machine.deadline_at and now > machine.deadline_at:
            self._record_late(store, move, round_)
            self._steps.fail(store, move, Event.TIMEOUT, self._late(store, machine, now))
        elif now >= self._silent_after and now - machine.last_seen > ALIVE_SECONDS:
            self._steps.start_agent(store, move, round_)

    def _record_late(self, store: Store, move: Move, round_: Round) -> None:
        """What was begun and did not end is on record as not erased."""
        order = store.orders.newest_of(move.machine.id, ERASE)
        if order is not None and order.done_at is None and order.claimed_at is not None:
            self._issue(store, move, round_, replace(order, outcome={"error": "it did not end in its time"}))

    def _issue(self, store: Store, move: Move, round_: Round, order: Order) -> list[dict[str, Any]]:
        operator = " and ".join(filter(None, (round_.wish.operator, round_.wish.approved_by)))
        issued = certificates.issue(store, self._signer, order, move.machine, operator, move.now)
        for document in issued:
            drive = document.get("drive") or {}
            name = drive.get("serial") or drive.get("wwn") or move.machine.name
            what = "failure record" if document["kind"] == "failure" else f"{document['kind']} certificate"
            data = {"certificate": document["number"], "kind": document["kind"], "drive": name}
            move.tell(Kind.ERASE, f"{what} {document['number']} for {name}", data)
        return issued

    def _late(self, store: Store, machine: Machine, now: float) -> Fault:
        order = store.orders.newest_of(machine.id, ERASE)
        if order is not None and order.done_at is None and order.claimed_at is not None:
            minutes = (now - order.claimed_at) / 60
            return Fault("erase-late", f"the erasing did not end in its time; it began {minutes:.0f} minutes ago", now)
        return Fault("agent-late", "its agent did not come to erase the disks in time", now)

    def after_restart(self, store: Store, now: float) -> list[Moved]:
        """Called once, before anything is served: a database older than the ledger is a copy that was restored."""
        done = []
        with store.transaction():
            if not self._ledger.knows_more_than(store.orders.counter(ERASE)):
                return []
            for number in store.machines.ids_at_work(sorted(WORKING)):
                machine = store.machines.get(number)
                assert machine is not None
                move = Move(machine, now)
                text = (
                    f"the database is a copy from before erase order {self._ledger.last_order}: what it holds for open"
                    " may be done, and the machine in use; look at it before `metalbox retry`"
                )
                self._steps.fail(store, move, Event.TIMEOUT, Fault("restored", text, now))
                done.append(move.done(store))
            store.orders.count(ERASE, self._ledger.last_order)
            store.orders.count(RESTORED, int(now))
        return done
