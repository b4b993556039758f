"""Orders to switch machines, in the database: saved before anything is sent, and what came of them. No rules here."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import sqlalchemy as sa

from metalbox.power import Device, Mode, Override
from metalbox.power.orders import Kept, Outcome, PowerOrder, Verb, Write
from metalbox.schema import power_orders

# Kept of each machine once they are finished; the timeline tells of the others.
KEPT = 20


@dataclass(frozen=True, slots=True)
class SavedOrder:
    """One row. `outcome` is an Outcome as a dict; until `finished_at` is set nothing but `kept`, or {}."""

    id: int
    machine_id: int
    order: PowerOrder
    created_at: float
    finished_at: float | None
    outcome: Mapping[str, Any]

    @property
    def kept(self) -> Kept | None:
        """The override that is to be looked at after the boot."""
        return _kept(self.outcome)


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

    def with_kept(self) -> list[SavedOrder]:
        """Finished orders that have set an override for one boot which nobody has looked at since, oldest first."""
        has = power_orders.c.finished_at.is_not(None) & power_orders.c.outcome.contains('"kept": {', autoescape=True)
        query = sa.select(power_orders).where(has).order_by(power_orders.c.id)
        return [_from_row(row) for row in self._connection.execute(query)]

    def finished_after(self, machine_id: int, number: int) -> list[SavedOrder]:
        """The machine's finished orders from this one on, oldest first."""
        later = (power_orders.c.machine_id == machine_id) & (power_orders.c.id >= number)
        has = later & power_orders.c.finished_at.is_not(None)
        query = sa.select(power_orders).where(has).order_by(power_orders.c.id)
        return [_from_row(row) for row in self._connection.execute(query)]

    def forget_kept(self, number: int) -> None:
        """What an order had set for one boot was looked at, or is another order's now."""
        saved = self.get(number)
        if saved is not None and saved.finished_at is not None:
            values = {"outcome": json.dumps({**saved.outcome, "kept": None})}
            self._connection.execute(sa.update(power_orders).where(power_orders.c.id == number).values(values))

    def mark_sent(self, number: int, sent: Sequence[Write]) -> None:
        """What is about to leave, or has left, for the BMC."""
        values = {"sent": json.dumps([str(write) for write in sent])}
        self._connection.execute(sa.update(power_orders).where(power_orders.c.id == number).values(values))

    def mark_kept(self, number: int, kept: Kept) -> None:
        """What is about to be set for one boot, and what there was before."""
        values = {"outcome": json.dumps({"kept": asdict(kept)})}
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
    override = _override(json.loads(row.boot)) if row.boot else None
    sent, outcome = tuple(Write(word) for word in json.loads(row.sent)), json.loads(row.outcome)
    order = PowerOrder(Verb(row.verb), override, sent=sent, kept=_kept(outcome))
    return SavedOrder(row.id, row.machine_id, order, row.created_at, row.finished_at, outcome)


def _kept(outcome: Mapping[str, Any]) -> Kept | None:
    row = outcome.get("kept")
    if not row:
        return None
    return Kept(row["driver"], row["address"], _override(row["before"]), _override(row["found"]), row["at"])


def _override(row: Mapping[str, Any]) -> Override:
    return Override(Device(row["device"]), Mode(row["mode"]), row["once"])
