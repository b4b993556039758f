"""What is known of a machine's round of erasing, for `why`: from its facts and its orders. Asks nobody."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from metalbox.evidence import LifeFacts
from metalbox.lifecycle import WORKING
from metalbox.lives import APPROVAL_SECONDS
from metalbox.machine import Machine
from metalbox.moves import ERASE
from metalbox.rounds import from_facts
from metalbox.store import Store


def life_facts(
    store: Store,
    machine: Machine,
    can_power: bool,
    progress: Callable[[int], Mapping[str, Any] | None],
    now: float,
) -> LifeFacts:
    """The facts of one machine. `progress` gives what an agent said last of an order, None when it said nothing."""
    with store.transaction():
        waiting = tuple(order.verb for order in store.orders.open_of(machine.id))
        order = store.orders.newest_of(machine.id, ERASE)
    round_ = from_facts(machine.facts) if machine.state in WORKING else None
    pending = machine.facts.get("pending") or {}
    if pending and now - pending["at"] > APPROVAL_SECONDS:
        pending = {}
    found = LifeFacts(
        can_power=can_power,
        waiting=waiting,
        pending=pending.get("event", ""),
        pending_by=pending["round"]["wish"]["operator"] if pending else "",
        pending_at=pending.get("at", 0.0),
    )
    if round_ is None:
        return found
    is_open = order is not None and order.done_at is None
    return LifeFacts(
        verb=round_.verb,
        level=str(round_.wish.level),
        operator=round_.wish.operator,
        at=round_.at,
        boots=round_.boots,
        can_power=can_power,
        waiting=waiting,
        ordered_at=order.created_at if order and is_open else 0.0,
        begun_at=order.claimed_at or 0.0 if order and is_open else 0.0,
        progress=(progress(order.id) or order.progress) if order and is_open else {},
        refused=tuple((row["serial"] or row["wwn"] or row["name"], row["reason"]) for row in order.data["refused"])
        if order and is_open
        else (),
        pending=found.pending,
        pending_by=found.pending_by,
        pending_at=found.pending_at,
    )
