"""What operators say of machines: labels, an owner, a note. Each verb is one transaction, timeline included."""

from __future__ import annotations

import dataclasses

from metalbox import inventory
from metalbox.errors import InvalidValue
from metalbox.labels import Changes
from metalbox.machine import Machine
from metalbox.report import clean
from metalbox.store import Store
from metalbox.timeline import Entry, Kind

MAX_OWNER = 100
MAX_NOTE = 1000
# Of the note that was there before, in the timeline's sentence; its data has all of it.
SHOWN = 60


def label(store: Store, name: str, changes: Changes, now: float) -> Machine:
    """Set and remove labels; what is so already is told to nobody. Raises NotFound, InvalidValue."""
    with store.transaction():
        before = inventory.find(store, name)
        after = dataclasses.replace(before, labels=changes.applied(before.labels))
        for key in sorted(before.labels.keys() | after.labels.keys()):
            _tell(store, after.id, f"labels[{key}]", before.labels.get(key, ""), after.labels.get(key, ""), now)
        if after != before:
            store.machines.save(after)
        return after


def describe(store: Store, name: str, now: float, *, owner: str | None = None, note: str | None = None) -> Machine:
    """Write down an owner or a note; None leaves what there is, "" takes it away. Raises NotFound, InvalidValue."""
    with store.transaction():
        before = inventory.find(store, name)
        after = dataclasses.replace(
            before,
            owner=before.owner if owner is None else _text("owner", owner, MAX_OWNER),
            note=before.note if note is None else _text("note", note, MAX_NOTE),
        )
        _tell(store, after.id, "owner", before.owner, after.owner, now)
        _tell(store, after.id, "note", before.note, after.note, now)
        if after != before:
            store.machines.save(after)
        return after


def _text(what: str, text: str, limit: int) -> str:
    found = clean(text).strip()
    if len(found) > limit:
        raise InvalidValue(f"{what}: at most {limit} characters, this has {len(found)}")
    return found


def _tell(store: Store, machine_id: int, field: str, before: str, after: str, now: float) -> None:
    if before == after:
        return
    name = f"label {field[7:-1]}" if field.startswith("labels[") else field
    if not before:
        text = f"{name}: {after}"
    elif not after:
        text = f"{name} taken away, it was {_cut(before)}"
    else:
        text = f"{name}: {after}, was {_cut(before)}"
    data = {"field": field, "before": before, "after": after}
    store.events.save([Entry(0, now, now, 1, Kind.CHANGE, None, machine_id, text, data)])


def _cut(text: str) -> str:
    return text if len(text) <= SHOWN else text[:SHOWN] + "..."
