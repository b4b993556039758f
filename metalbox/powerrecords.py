"""Orders to switch machines, in the database: saved before anything is sent, and what came of them. No rules here."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import sqlalchemy as sa

from metalbox.power import Device, Mode, Override
from metalbox.power.orders import Outcome, PowerOrder, Verb, Write
from metalbox.schema import power_orders

# Kept of each machine once they are finished; the timeline tells of the others.
KEPT = 20


@dataclass(frozen=True, slots=True)
class SavedOrder:
    """One row. `outcome` is an Outcome as a dict, {} until `finished_at` is set."""

    id: int
    machine_id: int
    order: PowerOrder
    created_at: float
    finished_at: float | None
    outcome: Mapping[str, Any]


class PowerOrders:
    """The queries, on a connection whose transactions are the store's."""

    def __init__(self, connection: sa.Connection) -> None:
        self._connection = connection

    def insert(self, machine_id: int, order: PowerOrder, now: float) -> int:
        """Save an order; returns its id."""
        row = {
            "machine_id": machine_id,
            "verb": str(order.verb),
            "boot": json.dumps(asdict(order.boot)) if order.boot else "",
            "sent": "[]",
            "created_at": now,
            "finished_at": None,
            "outcome": "{}",
        }
        done = self._connection.execute(sa.insert(power_orders).values(row).returning(power_orders.c.id))
        return int(done.scalar_one())

    def get(self, number: int) -> SavedOrder | None:
        """One order, None when there is none with this id."""
        row = self._connection.execute(sa.select(power_orders).where(power_orders.c.id == number)).first()
        return _from_row(row) if row else None

    def newest(self, machine_id: int) -> SavedOrder | None:
        """The order that was given last for this machine."""
        of_machine = sa.select(power_orders).where(power_orders.c.machine_id == machine_id)
        row = self._connection.execute(of_machine.order_by(power_orders.c.id.desc()).limit(1)).first()
        return _from_row(row) if row else None

    def unfinished(self) -> list[SavedOrder]:
        """What was still to be done, oldest first."""
        query = sa.select(power_orders).where(power_orders.c.finished_at.is_(None)).order_by(power_orders.c.id)
        return [_from_row(row) for row in self._connection.execute(query)]

    def mark_sent(self, number: int, sent: Sequence[Write]) -> None:
        """What is about to leave, or has left, for the BMC."""
        values = {"sent": json.dumps([str(write) for write in sent])}
        self._connection.execute(sa.update(power_orders).where(power_orders.c.id == number).values(values))

    def finish(self, number: int, outcome: Outcome, now: float) -> None:
        """What came of it; older finished orders of the same machine are forgotten."""
        values = {"finished_at": now, "outcome": json.dumps(asdict(outcome))}
        done = sa.update(power_orders).where(power_orders.c.id == number).values(values)
        machine = self._connection.execute(done.returning(power_orders.c.machine_id)).scalar_one()
        of_machine = (power_orders.c.machine_id == machine) & power_orders.c.finished_at.is_not(None)
        newest = sa.select(power_orders.c.id).where(of_machine).order_by(power_orders.c.id.desc()).limit(KEPT)
        old = sa.delete(power_orders).where(of_machine & power_orders.c.id.not_in(newest.scalar_subquery()))
        self._connection.execute(old)


def _from_row(row: sa.Row[Any]) -> SavedOrder:
    boot = json.loads(row.boot) if row.boot else None
    override = Override(Device(boot["device"]), Mode(boot["mode"]), boot["once"]) if boot else None
    order = PowerOrder(Verb(row.verb), override, sent=tuple(Write(word) for word in json.loads(row.sent)))
    return SavedOrder(row.id, row.machine_id, order, row.created_at, row.finished_at, json.loads(row.outcome))
