"""The timeline in the database: rows <-> entries, reading by machine, by MAC and in all, and keeping it small.

The caller holds the transaction (`Store.transaction`). Ids are given here, by the one thread that writes, so that
they become visible in order: who has read up to an id has missed nothing below it.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from metalbox.machine import Mac, Machine
from metalbox.records import dump, storable
from metalbox.schema import events, macs
from metalbox.timeline import LOW_VALUE, Entry, Kind

# One step of the background cleaning deletes at most this many lines, in a few milliseconds.
PRUNE_STEP = 500

# What only a machine that boots sends.
BOOT_KINDS = (Kind.DHCP, Kind.TFTP, Kind.HTTP, Kind.DECISION, Kind.AGENT)

Subject = tuple[str, int | str]  # ("machine_id", 7) or ("mac", "52:54:00:ab:cd:ef")


def row_from_entry(entry: Entry, number: int) -> dict[str, Any]:
    """The columns of `events`."""
    return {
        "id": number,
        "at": entry.at,
        "last_at": entry.last_at,
        "count": entry.count,
        "kind": str(entry.kind),
        "mac": entry.mac,
        "machine_id": entry.machine_id,
        "text": storable(entry.text),
        "data": dump(entry.data),
    }


def entry_from_row(row: Any) -> Entry:
    """One row of `events`."""
    return Entry(
        id=row.id,
        at=row.at,
        last_at=row.last_at,
        count=row.count,
        kind=Kind(row.kind),
        mac=Mac(row.mac) if row.mac is not None else None,
        machine_id=row.machine_id,
        text=row.text,
        data=json.loads(row.data),
    )


class Events:
    """The table `events`."""

    def __init__(self, connection: sa.Connection) -> None:
        self._connection = connection
        insert = (postgresql if connection.dialect.name == "postgresql" else sqlite).insert(events)
        self._upsert = insert.on_conflict_do_update(
            index_elements=["id"],
            set_={
                "last_at": insert.excluded.last_at,
                "count": insert.excluded["count"],
                "text": insert.excluded.text,
                "data": insert.excluded.data,
                # A line may have been given to its machine while it was still growing in memory.
                "machine_id": sa.func.coalesce(insert.excluded.machine_id, events.c.machine_id),
            },
        )
        self._next_id = (connection.execute(sa.select(sa.func.max(events.c.id))).scalar() or 0) + 1
        self._count = connection.execute(sa.select(sa.func.count()).select_from(events)).scalar() or 0
        # Lines written since the subject was last looked at, and subjects that are due.
        self._written: Counter[Subject] = Counter()
        self._due: list[Subject] = []
        self.last_id = self._next_id - 1

    def committed(self, done: bool) -> None:
        """Called by the store at the end of each transaction: what was given an id is now to be seen, or is not."""
        if done:
            self.last_id = self._next_id - 1
        else:
            self._next_id = self.last_id + 1

    def save(self, entries: Sequence[Entry]) -> list[int]:
        """Insert entries whose id is 0, and write the others again; returns the ids in order."""
        ids = []
        rows = []
        for entry in entries:
            number = entry.id
            if not number:
                number = self._next_id
                self._next_id += 1
                self._count += 1
                self._written[_subject(entry)] += 1
            ids.append(number)
            rows.append(row_from_entry(entry, number))
        if rows:
            self._connection.execute(self._upsert, rows)
        return ids

    def claim(self, mac: Mac, machine_id: int) -> None:
        """Give the lines of an address to the machine that owned it until now, for good."""
        self._connection.execute(
            sa.update(events).where(events.c.mac == mac, events.c.machine_id.is_(None)).values(machine_id=machine_id)
        )

    def of_machine(self, machine: Machine, limit: int, after: int | None = None) -> list[Entry]:
        """The timeline of a machine: its own lines, and those of its addresses that belong to no other machine."""
        return self._read(_belongs_to(machine.id, machine.macs), limit, after)

    def of_mac(self, mac: Mac, limit: int, after: int | None = None) -> list[Entry]:
        """The lines of one address, whoever owned it."""
        return self._read(events.c.mac == mac, limit, after)

    def all(self, limit: int, after: int | None = None) -> list[Entry]:
        """The lines of everyone."""
        return self._read(sa.true(), limit, after)

    def _read(self, condition: sa.ColumnElement[bool], limit: int, after: int | None) -> list[Entry]:
        """Oldest first: the newest `limit` lines, or with `after` the first `limit` above that id."""
        select = sa.select(events).where(condition).limit(limit)
        if after is not None:
            rows = self._connection.execute(select.where(events.c.id > after).order_by(events.c.id)).all()
            return [entry_from_row(row) for row in rows]
        rows = self._connection.execute(select.order_by(events.c.id.desc())).all()
        return [entry_from_row(row) for row in reversed(rows)]

    def strangers(self, since: float, limit: int) -> list[tuple[Mac, Entry]]:
        """For each address that no machine owns and that booted since then: its newest line of it. Newest first."""
        # An operating system or a BMC that asks for its address boots nothing of ours.
        boots = sa.and_(
            events.c.kind.in_([str(kind) for kind in BOOT_KINDS]),
            events.c.data.not_like('%"client":"os"%'),
            events.c.data.not_like('%"client":"bmc"%'),
        )
        newest = (
            sa.select(sa.func.max(events.c.id))
            .where(
                events.c.last_at >= since,
                events.c.mac.is_not(None),
                events.c.machine_id.is_(None),
                events.c.mac.not_in(sa.select(macs.c.mac)),
                boots,
            )
            .group_by(events.c.mac)
        )
        rows = self._connection.execute(
            sa.select(events).where(events.c.id.in_(newest)).order_by(events.c.last_at.desc()).limit(limit)
        )
        return [(Mac(row.mac), entry_from_row(row)) for row in rows]

    def find_overfull(self, limit: int) -> None:
        """Once at the start: note whose timeline is longer than `limit`."""
        for name in ("mac", "machine_id"):
            column = events.c[name]
            rows = self._connection.execute(
                sa.select(column).where(column.is_not(None)).group_by(column).having(sa.func.count() > limit)
            )
            self._due += [(name, value) for value in rows.scalars()]

    def prune_step(self, limit_each: int, limit_total: int) -> int:
        """Delete a few of the lines that are too many, if any; returns how many. Cheap when there is nothing to do."""
        deleted = 0
        if self._count > limit_total:
            oldest = sa.select(events.c.id).order_by(events.c.id).limit(min(PRUNE_STEP, self._count - limit_total))
            deleted = self._delete(oldest)
        # A subject is counted again only after a tenth of its limit was written: a timeline is at most 1.1 x its limit.
        worth = max(1, limit_each // 10)
        for subject in [subject for subject, written in self._written.items() if written >= worth]:
            del self._written[subject]
            self._due.append(subject)
        if self._due and deleted == 0:
            deleted = self._prune_subject(self._due.pop(), limit_each)
        return deleted

    def _prune_subject(self, subject: Subject, limit: int) -> int:
        name, value = subject
        owner = value
        if name == "mac":
            owner = self._connection.execute(sa.select(macs.c.machine_id).where(macs.c.mac == value)).scalar() or 0
        condition = events.c.mac == value
        if owner:
            owned = self._connection.execute(sa.select(macs.c.mac).where(macs.c.machine_id == owner)).scalars().all()
            condition = _belongs_to(int(owner), owned)
        count = self._connection.execute(sa.select(sa.func.count()).select_from(events).where(condition)).scalar() or 0
        if count <= limit:
            return 0
        if count - limit > PRUNE_STEP:
            self._due.append(subject)
        low = sa.case((events.c.kind.in_([str(kind) for kind in LOW_VALUE]), 0), else_=1)
        return self._delete(
            sa.select(events.c.id).where(condition).order_by(low, events.c.id).limit(min(PRUNE_STEP, count - limit))
        )

    def _delete(self, ids: sa.Select[tuple[int]]) -> int:
        deleted = self._connection.execute(sa.delete(events).where(events.c.id.in_(ids.scalar_subquery()))).rowcount
        self._count -= deleted
        return deleted


def _belongs_to(machine_id: int, owned: Sequence[str]) -> sa.ColumnElement[bool]:
    # Not `machine_id IS NULL`: SQLite would take the index of that for its own, and read the lines of all strangers
    # instead of those of a few addresses.
    is_unclaimed = sa.func.coalesce(events.c.machine_id, 0) == 0
    return sa.or_(events.c.machine_id == machine_id, sa.and_(is_unclaimed, events.c.mac.in_(owned)))


def _subject(entry: Entry) -> Subject:
    if entry.machine_id is not None:
        return ("machine_id", entry.machine_id)
    return ("mac", entry.mac or "")
