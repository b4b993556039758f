"""One step in a machine's life as it is saved: the new state, the lines of the timeline and the actions, all at once.

Used by the verbs (lives.py) and by what goes on without any (erasing.py); called inside the store's transaction.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from metalbox import rounds
from metalbox.erase.methods import Method
from metalbox.erase.plan import Plan, Verdict, plan
from metalbox.identity import ALIVE_SECONDS
from metalbox.lifecycle import BOOT_SECONDS, WORKING, Action, Event, State, Step, step
from metalbox.machine import Fault, Machine
from metalbox.orderrecords import Order
from metalbox.power import Device, Override
from metalbox.power.orders import PowerOrder, Verb
from metalbox.rounds import Round, Wish, from_facts, to_facts
from metalbox.store import Store
from metalbox.timeline import Entry, Kind

ERASE, ACCOUNT, POWER_OFF = "erase", "bmc-account", "power-off"
# The counter that holds when a copy of the database was found to have been restored (Unix time); 0 is never.
RESTORED = "restored"
# A machine whose agent is silent for so long is started (again); a server's firmware needs up to 15 minutes.
RESTART_SECONDS = 1200.0
# What ends whatever runs on a machine.
CUTS = frozenset({Verb.OFF, Verb.SOFT_OFF, Verb.CYCLE, Verb.RESET})
# An agent that has begun to switch its machine off may speak for so long.
OFF_SECONDS = 10.0
# Starts by us in one round; then a person must look.
MAX_BOOTS = 3


class Care(Protocol):
    """What the lives need of the power part; called in the database's thread."""

    def can_power(self, store: Store, machine_id: int) -> bool: ...
    def is_off(self, machine_id: int, since: float = 0.0) -> bool: ...
    def order_account(self, store: Store, machine_id: int, now: float) -> Order | None: ...
    def account_state(self, store: Store, machine_id: int) -> str: ...


@dataclass(frozen=True, slots=True)
class Moved:
    """What a verb has done: the machine as it is now (as it was, when it is gone), its lines, what to wake."""

    machine: Machine
    entries: tuple[Entry, ...] = ()
    power_orders: tuple[int, ...] = ()
    wake: str = ""
    pending: str = ""
    is_gone: bool = False


@dataclass(slots=True)
class Move:
    """A step that is being made: collects what `Moved` tells."""

    machine: Machine
    now: float
    entries: list[Entry] = field(default_factory=list)
    power_orders: list[int] = field(default_factory=list)
    wake: str = ""

    def tell(self, kind: Kind, text: str, data: dict[str, Any] | None = None) -> None:
        self.entries.append(Entry(0, self.now, self.now, 1, kind, None, self.machine.id, text, data or {}))

    def done(self, store: Store) -> Moved:
        store.events.save(self.entries)
        machine = store.machines.get(self.machine.id) or self.machine
        return Moved(machine, tuple(self.entries), tuple(self.power_orders), self.wake)


class Steps:
    """How steps are saved. `version` is that of this metalbox, whose agent is the one that is wanted."""

    def __init__(self, care: Care, version: str) -> None:
        self.care = care
        self._version = version

    def plan(self, machine: Machine, said: Wish, failed: Mapping[str, tuple[str, ...]] | None = None) -> Plan:
        """What would be done to each disk of the last report."""
        disks = machine.hardware.disks
        # A kept disk that was taken out is no reason to refuse the others.
        keep = [*said.keep, *rounds.present(disks, (*said.kept, *machine.facts.get("keep", ())))]
        tried = {key: [Method(word) for word in methods] for key, methods in (failed or {}).items()}
        # An ATA erase of ours that was interrupted leaves its disk locked with a password that the agent knows.
        ours = machine.facts.get("locked", ())
        found = plan(disks, said.level, keep=keep, named=said.named, failed=tried, ours=ours)
        # Who has failed by every method is tried by all of them again: a retry was asked for.
        if hopeless := {disk.key for disk in found.of(Verdict.REFUSED)} & set(tried):
            left = {key: methods for key, methods in tried.items() if key not in hopeless}
            found = plan(disks, said.level, keep=keep, named=said.named, failed=left, ours=ours)
        return replace(found, problems=(*found.problems, *rounds.unread(machine)))

    def has_begun(self, store: Store, machine: Machine, round_: Round | None) -> bool:
        order = store.orders.newest_of(machine.id, ERASE)
        since = round_.at if round_ else 0.0
        begun = machine.facts.get("begun", False)
        return bool(begun) or (order is not None and order.created_at >= since and order.claimed_at is not None)

    def fail(self, store: Store, move: Move, event: Event, fault: Fault) -> None:
        found = step(State(move.machine.state), event)
        self.go(store, move, event, found, fault.text, fault=fault)

    def go(
        self,
        store: Store,
        move: Move,
        event: Event,
        found: Step,
        text: str,
        *,
        round_: Round | None = None,
        fault: Fault | None = None,
        held: str = "",
    ) -> None:
        """Save the machine in its new state with all that is to be done about it."""
        machine, actions = move.machine, found.actions
        before = from_facts(machine.facts)
        state = found.state or State(before.origin if before else machine.state)
        data: dict[str, Any] = {"event": str(event), "from": machine.state, "to": str(state)}
        if Action.FAULT in actions and fault is not None:
            data["fault"] = dataclasses.asdict(fault)
        if Action.FORGET in actions:
            # Nothing may stay in its timeline that names a row which is not there any more.
            move.tell(Kind.LIFE, text, data)
            store.events.save(move.entries)
            move.entries.clear()
            store.machines.delete(machine.id)
            return
        facts = dict(machine.facts)
        if round_ is not None:
            facts[rounds.FACT] = to_facts(round_)
            facts.pop("pending", None)
            if event is not Event.RETRY:
                facts.pop("begun", None)
        if Action.FAULT in actions:
            facts["begun"] = self.has_begun(store, machine, before)
        changed = state != machine.state
        if changed:
            facts.pop("pending", None)  # it was wished of a machine in another state
        move.machine = replace(
            machine,
            state=state,
            facts=facts,
            fault=fault if Action.FAULT in actions else None if Action.CLEAR_FAULT in actions else machine.fault,
            held=held if Action.HOLD in actions else "" if Action.UNHOLD in actions else machine.held,
            state_since=move.now if changed else machine.state_since,
            deadline_at=self._deadline(store, move, state, actions),
        )
        store.machines.save(move.machine)
        way = f"{machine.state} -> {state}: " if changed else ""
        move.tell(Kind.LIFE, f"{way}{text}", data)
        self._act(store, move, actions, text, round_)

    def _deadline(self, store: Store, move: Move, state: State, actions: tuple[Action, ...]) -> float:
        """By when the machine must have left its new state; 0.0 is never."""
        machine = move.machine
        if Action.WORK in actions:
            return move.now + BOOT_SECONDS if self.care.can_power(store, machine.id) else 0.0
        if state not in WORKING or state != machine.state or Action.FAULT in actions:
            return 0.0
        if Action.UNHOLD in actions and machine.deadline_at:
            return max(machine.deadline_at, move.now + BOOT_SECONDS)  # nobody was late while it was held
        return machine.deadline_at

    def _act(self, store: Store, move: Move, actions: tuple[Action, ...], text: str, round_: Round | None) -> None:
        """Write down what is to be done for the new state."""
        machine = move.machine
        if Action.CLOSE_ORDERS in actions:
            for order in store.orders.open_of(machine.id):
                store.orders.finish(order.id, {"closed": text[:200]}, move.now)
        if Action.ORDER_REPORT in actions:
            store.orders.add(machine.id, Event.REPORT, move.now)
        if Action.WORK in actions and round_ is not None:
            for order in store.orders.open_of(machine.id):
                if order.verb == POWER_OFF:
                    # Whoever boots now would be switched off in the middle of it.
                    store.orders.finish(order.id, {"closed": text[:200]}, move.now)
            self.start_agent(store, move, round_)
        if Action.POWER_OFF in actions:
            self.power_off(store, move)

    def start_agent(self, store: Store, move: Move, round_: Round) -> None:
        """Have the agent on the machine: the one that runs, else a new one by way of its BMC, else a person's hand."""
        machine, now = move.machine, move.now
        if machine.conflict:
            return  # nobody knows which of the two boxes would be switched
        is_current = machine.facts.get("agent", {}).get("version") == self._version
        if is_current and self._is_there(store, machine, now):
            move.wake = machine.boot_id
            return
        if round_.boots >= MAX_BOOTS or (round_.boots and now - round_.booted_at < RESTART_SECONDS):
            return
        order = store.orders.newest_of(machine.id, ERASE)
        is_erasing = order is not None and order.done_at is None and order.claimed_at is not None
        if is_erasing and not self.care.is_off(machine.id):
            # Never cut the power of a drive that may be in the middle of it; the deadline decides.
            return
        if self.care.can_power(store, machine.id):
            verb = Verb.ON if is_erasing else Verb.CYCLE
            number = store.power_orders.insert(machine.id, PowerOrder(verb, Override(Device.PXE)), now)
            move.power_orders.append(number)
            round_ = replace(round_, boots=round_.boots + 1, booted_at=now)
            move.tell(Kind.POWER, f"ordered: {verb} with pxe once, to have the agent on it", {"order": number})
        elif not round_.asked:
            round_ = replace(round_, asked=True)
            move.tell(Kind.LIFE, "nothing is known that switches it: please start it from the network", {"ask": "boot"})
        else:
            return
        move.machine = replace(machine, facts={**machine.facts, rounds.FACT: to_facts(round_)})
        store.machines.save(move.machine)

    def _is_there(self, store: Store, machine: Machine, now: float) -> bool:
        """Whether an agent runs on it, as far as is known: one that spoke lately, and was not switched off since."""
        if not machine.boot_id or now - machine.last_seen > ALIVE_SECONDS:
            return False
        if self.care.is_off(machine.id, machine.last_seen):
            return False
        newest = store.power_orders.newest(machine.id)
        if newest is not None and newest.created_at >= machine.last_seen and newest.order.verb in CUTS:
            return False
        order = store.orders.newest_of(machine.id, POWER_OFF)
        is_going = (
            order is not None and order.claimed_at is not None and machine.last_seen < order.claimed_at + OFF_SECONDS
        )
        return not is_going

    def power_off(self, store: Store, move: Move) -> None:
        """It rests switched off: by its BMC, else by its agent."""
        machine = move.machine
        if why_not := machine.conflict or (machine.held and f"it is held ({machine.held})"):
            move.tell(Kind.LIFE, f"it is left switched on: {why_not}")
        elif self.care.can_power(store, machine.id):
            number = store.power_orders.insert(machine.id, PowerOrder(Verb.OFF), move.now)
            move.power_orders.append(number)
            move.tell(Kind.POWER, "ordered: off", {"order": number})
        else:
            order = store.orders.add(machine.id, POWER_OFF, move.now)
            move.wake = machine.boot_id
            move.tell(Kind.POWER, "its agent was asked to switch it off", {"order": order.id})


def is_untouchable(store: Store, machine: Machine, now: float) -> str:
    """Return why this machine's power must not be cut now, as a sentence, or ""."""
    order = store.orders.newest_of(machine.id, ERASE)
    if order is None or order.done_at is not None or order.claimed_at is None or machine.state not in WORKING:
        return ""
    if machine.fault is not None or now > machine.deadline_at:
        return ""
    minutes = max(1, round((machine.deadline_at - now) / 60))
    return (
        f"its disks are being erased since {(now - order.claimed_at) / 60:.0f} minutes: a drive may be lost when its "
        f"power is cut; it has {minutes} minutes left, or add --force"
    )
