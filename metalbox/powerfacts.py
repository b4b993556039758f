"""What is known of a machine's power, for `why`: from the database and from what the patrol saw. Asks nobody."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from metalbox.bmcrecords import BmcRecord
from metalbox.evidence import Bmc, Ordered, PowerFacts, Trouble
from metalbox.power.orders import Observation
from metalbox.power.verify import describe
from metalbox.powerrecords import SavedOrder
from metalbox.store import Store


def power_facts(store: Store, machine_id: int, observation: Observation, waiting: Sequence[object] = ()) -> PowerFacts:
    """The facts of one machine. `waiting` is the queue of those that may not be switched on yet, by machine."""
    with store.transaction():
        records = store.bmcs.of_machine(machine_id)
        saved = store.power_orders.newest(machine_id)
    place = waiting.index(machine_id) + 1 if machine_id in waiting else 0
    trouble = None
    if observation.code:
        trouble = Trouble(observation.code, observation.text, observation.evidence, at=observation.tried_at)
    return PowerFacts(
        # As accounts are tried: those with a password first.
        bmcs=tuple(_bmc(record) for record in sorted(records, key=lambda one: (not one.sealed, -one.last_seen))),
        state=str(observation.state),
        read_at=observation.at,
        source=observation.source,
        trouble=trouble,
        order=None if saved is None else _ordered(saved, place),
    )


def _bmc(record: BmcRecord) -> Bmc:
    return Bmc(
        name=record.shown,
        address=record.address,
        port=record.port,
        drivers=record.drivers,
        vendor=record.vendor,
        user=record.user,
        has_password=bool(record.sealed),
        error_code=record.error_code,
        error_text=record.error_text,
        error_at=record.error_at,
    )


def _ordered(saved: SavedOrder, place: int) -> Ordered:
    outcome = saved.outcome
    asked: Mapping[str, Any] = outcome.get("asked") or {}
    boot = saved.order.boot
    return Ordered(
        verb=str(saved.order.verb),
        created_at=saved.created_at,
        finished_at=saved.finished_at,
        boot=describe(boot) if boot else "",
        sent=tuple(str(write) for write in saved.order.sent),
        done=bool(outcome.get("done", False)),
        state=str(outcome.get("state", "")),
        driver=str(outcome.get("driver", "")),
        text=str(outcome.get("text", "")),
        code=str(outcome.get("code", "")),
        evidence=str(outcome.get("evidence", "")),
        asked=str(asked.get("text", "")),
        expects=str(asked.get("expects", "")),
        warnings=_notes(outcome.get("warnings")),
        attempts=_notes(outcome.get("attempts")),
        place=place if saved.finished_at is None else 0,
    )


def _notes(rows: Any) -> tuple[Trouble, ...]:
    """Notes as they are stored in an outcome."""
    return tuple(
        Trouble(
            code=str(row.get("code", "")),
            text=str(row.get("text", "")),
            evidence=str(row.get("evidence", "")),
            driver=str(row.get("driver", "")),
            verb=str(row.get("verb", "")),
            at=float(row.get("at") or 0.0),
        )
        for row in rows or ()
        if isinstance(row, Mapping)
    )
