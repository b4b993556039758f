"""Orders to agents in the database: rows <-> dataclasses, and the queries. No rules live here.

The caller holds the transaction (`Store.transaction`); nothing here begins or ends one.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa

from metalbox.schema import counters, orders


@dataclasses.dataclass(frozen=True, slots=True)
class Order:
    """What the agent of a machine shall do. `run` is the run of the agent that it was told to last, `token` its secret.

    `claimed_at` is when that agent said that it begins, `done_at` when it is known to be done, None before.
    """

    id: int
    machine_id: int
    verb: str
    created_at: float
    done_at: float | None = None
    data: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    run: str = ""
    token: str = dataclasses.field(default="", repr=False)
    claimed_at: float | None = None
    progress: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    outcome: Mapping[str, Any] = dataclasses.field(default_factory=dict)


class Orders:
    """The table `orders`."""

    def __init__(self, connection: sa.Connection) -> None:
        self._connection = connection

    def add(
        self, machine_id: int, verb: str, now: float, data: Mapping[str, Any] | None = None, above: int = 0
    ) -> Order:
        """Write an order down, with a number that no order has had; `above` is one that it must exceed."""
        highest = self._connection.execute(sa.select(sa.func.max(orders.c.id))).scalar() or 0
        number = max(highest, above, self.counter("order")) + 1
        values = {"machine_id": machine_id, "verb": verb, "created_at": now, "data": json.dumps(data or {})}
        self._connection.execute(sa.insert(orders).values(id=number, **values))
        self.count("order", number)
        return Order(number, machine_id, verb, now, data=data or {})

    def counter(self, name: str) -> int:
        """A number that only grows; 0 before it was set."""
        value = self._connection.execute(sa.select(counters.c.value).where(counters.c.name == name)).scalar()
        return int(value or 0)

    def count(self, name: str, value: int) -> None:
        """Set a number that only grows."""
        done = self._connection.execute(sa.update(counters).where(counters.c.name == name).values(value=value))
        if not done.rowcount:
            self._connection.execute(sa.insert(counters).values(name=name, value=value))

    def get(self, number: int) -> Order | None:
        """The order with this id."""
        row = self._connection.execute(sa.select(orders).where(orders.c.id == number)).one_or_none()
        return _from_row(row) if row else None

    def open_of(self, machine_id: int) -> list[Order]:
        """What the machine's agent still has to do, oldest first."""
        query = sa.select(orders).where(orders.c.machine_id == machine_id, orders.c.done_at.is_(None))
        return [_from_row(row) for row in self._connection.execute(query.order_by(orders.c.id))]

    def newest_of(self, machine_id: int, verb: str) -> Order | None:
        """The last order of this verb, done or not."""
        query = sa.select(orders).where(orders.c.machine_id == machine_id, orders.c.verb == verb)
        row = self._connection.execute(query.order_by(orders.c.id.desc()).limit(1)).one_or_none()
        return _from_row(row) if row else None

    def of_verb(self, verb: str, since: float, without: str = "") -> list[Order]:
        """All orders of this verb that were made after `since`, oldest first, whosever.

        `without` leaves those out whose outcome has this text in its JSON.
        """
        query = sa.select(orders).where(orders.c.verb == verb, orders.c.created_at > since).order_by(orders.c.id)
        if without:
            query = query.where(sa.not_(orders.c.outcome.contains(without, autoescape=True)))
        return [_from_row(row) for row in self._connection.execute(query)]

    def bind(self, number: int, run: str, token: str) -> None:
        """Tell an order to this run of an agent; what another run has claimed is void."""
        self._set(number, boot_id=run, token=token, claimed_at=None)

    def claim(self, number: int, now: float) -> None:
        """The agent begins."""
        self._set(number, claimed_at=now)

    def set_progress(self, number: int, progress: Mapping[str, Any]) -> None:
        """How far it is."""
        self._set(number, progress=json.dumps(progress))

    def set_data(self, number: int, data: Mapping[str, Any]) -> None:
        """What it is about, in other words than before."""
        self._set(number, data=json.dumps(data))

    def finish(self, number: int, outcome: Mapping[str, Any], now: float) -> None:
        """It is done, or will never be."""
        self._set(number, done_at=now, outcome=json.dumps(outcome))

    def finish_verb(self, machine_id: int, verb: str, now: float) -> list[Order]:
        """Mark the machine's open orders of this verb as done; returns them as they are now."""
        done = [order for order in self.open_of(machine_id) if order.verb == verb]
        for order in done:
            self._set(order.id, done_at=now)
        return [dataclasses.replace(order, done_at=now) for order in done]

    def _set(self, number: int, **values: Any) -> None:
        self._connection.execute(sa.update(orders).where(orders.c.id == number).values(values))


def _from_row(row: sa.Row[Any]) -> Order:
    return Order(
        row.id,
        row.machine_id,
        row.verb,
        row.created_at,
        row.done_at,
        json.loads(row.data),
        row.boot_id,
        row.token,
        row.claimed_at,
        json.loads(row.progress),
        json.loads(row.outcome),
    )
