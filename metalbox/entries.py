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

from metalbox.bulk import Upsert, quoted
from metalbox.machine import Mac, Machine
from metalbox.records import dump, storable
from metalbox.schema import events, macs
from metalbox.timeline import LOW_VALUE, Entry, Kind

# One step of the background cleaning deletes at most this many lines, in a few milliseconds.
PRUNE_STEP = 500

# What only a machine that boots sends.
BOOT_KINDS = (Kind.DHCP, Kind.TFTP, Kind.HTTP, Kind.DECISION, Kind.AGENT)

# An Entry's fields in their order, which is that of the columns; the data may be JSON already.
Line = tuple[int, float, float, int, Kind, Mac | None, int | None, str, dict[str, Any] | str]
Subject = tuple[str, int | str]  # ("machine_id", 7) or ("mac", "52:54:00:ab:cd:ef")


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


def line_from_entry(entry: Entry) -> Line:
    """The fields of an entry."""
    return (
        entry.id,
        entry.at,
        entry.last_at,
        entry.count,
        entry.kind,
        entry.mac,
        entry.machine_id,
        entry.text,
        entry.data,
    )


class Events:
    """The table `events`."""

    def __init__(self, connection: sa.Connection) -> None:
        self._connection = connection
        # A line may have been given to its machine while it was still growing in memory.
        machine_id = "COALESCE(excluded.machine_id, events.machine_id)"
        newest = {name: f"excluded.{quoted(name)}" for name in ("last_at", "count", "text", "data")}
        self._upsert = Upsert(connection, events, ("id",), {**newest, "machine_id": machine_id})
        self._next_id = (connection.execute(sa.select(sa.func.max(events.c.id))).scalar() or 0) + 1
        self._count = connection.execute(sa.select(sa.func.count()).select_from(events)).scalar() or 0
        # Lines written since the subject was last looked at, after how many it is worth a look, and who is due.
        self._worth = 1
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
        return self.write([line_from_entry(entry) for entry in entries])

    def write(self, lines: Sequence[Line]) -> list[int]:
        """See `save`."""
        ids: list[int] = []
        rows: list[tuple[Any, ...]] = []
        written = self._written
        for known, at, last_at, count, kind, mac, machine_id, text, data in lines:
            number = known or self._next_id
            if not known:
                self._next_id += 1
                self._count += 1
                subject: Subject = ("mac", mac or "") if machine_id is None else ("machine_id", machine_id)
                if written[subject] + 1 < self._worth:
                    written[subject] += 1
                else:
                    del written[subject]
                    self._due.append(subject)
            ids.append(number)
            # A subclass of str takes the driver the long way round.
            owner = None if mac is None else str(mac)
            encoded = data if isinstance(data, str) else dump(data)
            rows.append((number, at, last_at, count, kind.value, owner, machine_id, storable(text), encoded))
        self._upsert.write(rows)
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
        self._worth = max(1, limit // 10)
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
        self._worth = max(1, limit_each // 10)
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
