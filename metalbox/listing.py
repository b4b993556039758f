"""The list of machines, a page at a time: however many there are, nobody waits for the database longer than for a page.

A page is a stretch of the names in their order, whatever is asked for: so a search that finds little reads no more of
the table at once than one that finds all. A machine that is there all the time is in the list exactly once.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from metalbox.errors import InvalidValue
from metalbox.labels import Term, fits
from metalbox.records import dump
from metalbox.schema import machines, macs
from metalbox.store import Store

# Looked at in one transaction: about 2 ms.
PAGE = 250
MACS = "macs"
# What `list` shows, in the order of GET /api/v1/machines; no JSON is read for it.
LISTED = (
    machines.c.id,
    machines.c.name,
    machines.c.state,
    machines.c.vendor,
    machines.c.product,
    machines.c.serial,
    machines.c.uuid,
    machines.c.address,
    machines.c.location,
    machines.c.conflict,
    machines.c.memory_bytes,
    machines.c.cpus,
    machines.c.disks,
    machines.c.disk_bytes,
    machines.c.first_seen,
    machines.c.last_seen,
    machines.c.mode,
    machines.c.labels,
    machines.c.owner,
    machines.c.held,
    machines.c.fault,
    machines.c.state_since,
)
SEARCHED = ("name", "vendor", "product", "serial", "uuid", "address", "location")
COLUMNS = {column.name: column for column in LISTED}
FIELDS = (*COLUMNS, MACS)


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which machines, and what of them: `fields` of FIELDS, in their order; "name" is always among them.

    `query` is any part of a name, MAC, serial number, ...; `terms` are labels.
    """

    state: str = ""
    query: str = ""
    terms: tuple[Term, ...] = ()
    fields: tuple[str, ...] = FIELDS

    @classmethod
    def read(cls, state: str, query: str, terms: tuple[Term, ...], fields: str) -> Wanted:
        """`fields` are names with commas, "" is all of them. Raises InvalidValue."""
        asked = [name.strip() for name in fields.split(",")] if fields else list(FIELDS)
        for name in asked:
            if name not in FIELDS:
                raise InvalidValue(f"fields: there is no {name!r}, but {', '.join(FIELDS)}")
        return cls(state, query, terms, tuple(name for name in FIELDS if name in asked or name == "name"))


@dataclass(frozen=True, slots=True)
class Page:
    """Rows as they are told, and after which name the next page begins: "" at the end."""

    rows: list[dict[str, Any]]
    following: str


def page(store: Store, wanted: Wanted, after: str = "", size: int = PAGE) -> Page:
    """The machines among the next `size` names after `after`."""
    is_later = machines.c.name > after
    with store.transaction():
        ends = sa.select(machines.c.name).where(is_later).order_by(machines.c.name).offset(size - 1).limit(1)
        last = store.connection.execute(ends).scalar()
        stretch = [is_later] if last is None else [is_later, machines.c.name <= last]
        return Page(_rows(store, wanted, stretch), last or "")


def everything(store: Store, wanted: Wanted) -> list[dict[str, Any]]:
    """All at once, for who has the database for itself."""
    with store.transaction():
        return _rows(store, wanted, ())


def _rows(store: Store, wanted: Wanted, stretch: Sequence[sa.ColumnElement[bool]]) -> list[dict[str, Any]]:
    conditions = [*stretch, *_conditions(wanted)]
    # The id is needed to find what stands elsewhere, the labels to look at the terms: they lie behind the hardware,
    # and are far to go for in a large table.
    names = [name for name in wanted.fields if name != MACS]
    hidden = [name for name in ("id", *(["labels"] if wanted.terms else [])) if name not in names]
    columns = [COLUMNS[name] for name in (*names, *hidden)]
    result = store.connection.execute(sa.select(*columns).where(*conditions).order_by(machines.c.name))
    # Past SQLAlchemy's rows, which take as long again as the database.
    rows = [dict(zip((*names, *hidden), values, strict=True)) for values in result.cursor.fetchall()]
    addresses = _addresses(store, stretch) if rows and MACS in wanted.fields else {}
    found = []
    for row in rows:
        if "labels" in row:
            row["labels"] = json.loads(row["labels"]) if row["labels"] != "{}" else {}
            if not fits(wanted.terms, row["labels"]):
                continue
        if "last_seen" in row:
            row["last_seen"] = max(row["last_seen"], store.machines.seen_at(row["id"]))
        if "fault" in row:
            row["fault"] = json.loads(row["fault"]) if row["fault"] else None
        if MACS in wanted.fields:
            row[MACS] = addresses.get(row["id"], [])
        for name in hidden:
            del row[name]
        found.append(row)
    return found


def _addresses(store: Store, stretch: Sequence[sa.ColumnElement[bool]]) -> dict[int, list[str]]:
    select = sa.select(macs.c.machine_id, macs.c.mac).join(machines).where(*stretch)
    found: defaultdict[int, list[str]] = defaultdict(list)
    for number, mac in store.connection.execute(select.order_by(macs.c.position, macs.c.mac)).cursor.fetchall():
        found[number].append(mac)
    return found


def _conditions(wanted: Wanted) -> Iterator[sa.ColumnElement[bool]]:
    if wanted.state:
        yield machines.c.state == wanted.state
    if plain := wanted.query.strip().lower():
        columns = [sa.func.lower(machines.c[name]).contains(plain, autoescape=True) for name in SEARCHED]
        # Of this machine: else all addresses of all machines would be read for each page.
        is_own = sa.and_(
            macs.c.machine_id == machines.c.id, macs.c.mac.contains(plain.replace("-", ":"), autoescape=True)
        )
        yield sa.or_(*columns, sa.exists().where(is_own))
    for term in wanted.terms:
        if term.value and not term.is_not:
            # As `dump` writes it, without the braces. What fits by chance is sorted out by `fits`.
            yield machines.c.labels.contains(dump({term.key: term.value})[1:-1], autoescape=True)
