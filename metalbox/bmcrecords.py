"""BMCs in the database: rows <-> dataclasses, and the queries. No rules live here, and no password is seen here.

The caller holds the transaction (`Store.transaction`); nothing here begins or ends one.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import sqlalchemy as sa

from metalbox.bmcmatch import Candidate, Marks, Place, Source
from metalbox.machine import Mac, is_placeholder_serial, is_placeholder_uuid, swap_uuid
from metalbox.records import dump, storable
from metalbox.schema import bmcs, machines, macs

# A sealed text among the facts, and the name of its key.
SEALED = re.compile(r'"v1:([0-9a-f]{8}):')


@dataclass(frozen=True, slots=True)
class BmcRecord:
    """One BMC as it is remembered. `drivers` are those that have answered; `sealed` is for the vault only.

    `facts`: "settings" {driver: {name: text}}, "macs" of the machine's ports as the BMC lists them, "also_at": an
    address where it was seen beside the one that a person gave, "unmatched": why it has no machine, "kept": a person
    said whose it is.
    """

    id: int = 0
    machine_id: int | None = None
    address: str = ""
    port: int = 0
    drivers: tuple[str, ...] = ()
    mac: Mac | None = None
    vendor: str = ""
    model: str = ""
    firmware: str = ""
    serial: str = ""
    uuid: str = ""
    user: str = ""
    sealed: str = field(default="", repr=False)
    source: Source = Source.OPERATOR
    channel: int | None = None
    first_seen: float = 0.0
    last_seen: float = 0.0
    error_code: str = ""
    error_text: str = ""
    error_at: float = 0.0
    facts: dict[str, Any] = field(default_factory=dict, hash=False, repr=False)

    @property
    def shown(self) -> str:
        """How people name it: its address, else its MAC."""
        return self.address or self.mac or f"number {self.id}"

    @property
    def place(self) -> Place:
        """What it is compared by."""
        system = self.facts.get("settings", {}).get("redfish", {}).get("system", "")
        return Place(self.address, self.port, self.mac, system, self.machine_id)

    @property
    def marks(self) -> Marks:
        """By what it tells its machine."""
        told = tuple(Mac(mac) for mac in self.facts.get("macs", []))
        return Marks(self.uuid, self.serial, self.vendor, self.mac, told)


def _row(record: BmcRecord) -> dict[str, Any]:
    row: dict[str, Any] = {f.name: getattr(record, f.name) for f in dataclasses.fields(record) if f.name != "id"}
    return {name: storable(value) if isinstance(value, str) else value for name, value in row.items()} | {
        "drivers": ",".join(record.drivers),
        "mac": record.mac or "",
        "source": str(record.source),
        "facts": dump(record.facts),
    }


def _record(row: Any) -> BmcRecord:
    return BmcRecord(
        **{
            **row._mapping,
            "drivers": tuple(row.drivers.split(",")) if row.drivers else (),
            "mac": Mac(row.mac) if row.mac else None,
            "source": Source(row.source),
            "facts": json.loads(row.facts),
        }
    )


# Statements are made once: making one takes longer than SQLite needs for it, and a list has thousands of rows.
GET = sa.select(bmcs).where(bmcs.c.id == sa.bindparam("number"))
INSERT = sa.insert(bmcs)
UPDATE = sa.update(bmcs).where(bmcs.c.id == sa.bindparam("number"))


@lru_cache
def _near(names: tuple[str, ...]) -> sa.Select[Any]:
    either = [bmcs.c[name] == sa.bindparam(name) for name in names]
    return sa.select(bmcs).where(sa.or_(*either)).order_by(bmcs.c.id)


ANY_WAITS = sa.select(bmcs.c.id).where(bmcs.c.machine_id.is_(None)).limit(1)


@lru_cache
def _hosts(by_uuid: bool, by_serial: bool) -> sa.Select[Any]:
    """The machines that have one of the marks that are given."""
    wanted: sa.BindParameter[Any] = sa.bindparam("macs", expanding=True)
    owners = sa.select(macs.c.machine_id).where(macs.c.mac.in_(wanted))
    others = (bmcs.c.machine_id.is_not(None), bmcs.c.id != sa.bindparam("own"))
    hosts = sa.select(bmcs.c.machine_id).where(bmcs.c.mac.in_(wanted), *others)
    either: list[sa.ColumnElement[bool]] = [machines.c.id.in_(owners), machines.c.id.in_(hosts)]
    if by_uuid:
        either.append(machines.c.uuid.in_(sa.bindparam("uuids", expanding=True)))
    if by_serial:
        either.append(sa.func.lower(machines.c.serial) == sa.bindparam("serial"))
    columns = (machines.c.id, machines.c.name, machines.c.uuid, machines.c.serial, machines.c.vendor)
    return sa.select(*columns).where(sa.or_(*either))


class Bmcs:
    """The table `bmcs`."""

    def __init__(self, connection: sa.Connection) -> None:
        self._connection = connection

    def get(self, number: int) -> BmcRecord | None:
        """The BMC with this id."""
        row = self._connection.execute(GET, {"number": number}).one_or_none()
        return None if row is None else _record(row)

    def add(self, record: BmcRecord) -> BmcRecord:
        """Insert a BMC, whose `id` is ignored; returns it with its new id."""
        result = self._connection.execute(INSERT, _row(record))
        assert result.inserted_primary_key is not None
        return dataclasses.replace(record, id=result.inserted_primary_key[0])

    def save(self, record: BmcRecord) -> None:
        """Write all columns."""
        self._connection.execute(UPDATE, {**_row(record), "number": record.id})

    def saw(self, number: int, now: float) -> None:
        """Write when it was heard of."""
        self._connection.execute(sa.update(bmcs).where(bmcs.c.id == number).values(last_seen=now))

    def delete(self, number: int) -> None:
        """Forget it."""
        self._connection.execute(sa.delete(bmcs).where(bmcs.c.id == number))

    def _all(self, *conditions: sa.ColumnElement[bool]) -> list[BmcRecord]:
        return [
            _record(row) for row in self._connection.execute(sa.select(bmcs).where(*conditions).order_by(bmcs.c.id))
        ]

    def all(self) -> list[BmcRecord]:
        """Every BMC, by id."""
        return self._all()

    def after(self, number: int, limit: int) -> list[BmcRecord]:
        """The first `limit` BMCs whose ids are above `number`."""
        query = sa.select(bmcs).where(bmcs.c.id > number).order_by(bmcs.c.id).limit(limit)
        return [_record(row) for row in self._connection.execute(query)]

    def of_machine(self, machine_id: int) -> list[BmcRecord]:
        """The BMCs of one machine: one, as a rule."""
        return self._all(bmcs.c.machine_id == machine_id)

    def near(self, place: Place) -> list[BmcRecord]:
        """Those that share address, MAC or machine with `place`."""
        known = {"address": place.address or None, "mac": place.mac, "machine_id": place.machine_id}
        given = {name: value for name, value in known.items() if value is not None}
        return [_record(row) for row in self._connection.execute(_near(tuple(given)), given)] if given else []

    def waiting(self, uuid: str, serial: str, wanted: Sequence[Mac]) -> list[BmcRecord]:
        """Those without a machine that could be of a machine with these marks."""
        # As a rule there is none; this statement is not put together anew for each report.
        if self._connection.execute(ANY_WAITS).first() is None:
            return []
        either: list[sa.ColumnElement[bool]] = [bmcs.c.mac.in_(wanted), bmcs.c.facts.contains('"macs"')]
        if not is_placeholder_uuid(uuid):
            either.append(bmcs.c.uuid.in_({uuid, swap_uuid(uuid)}))
        if not is_placeholder_serial(serial):
            either.append(sa.func.lower(bmcs.c.serial) == serial.strip().lower())
        return self._all(bmcs.c.machine_id.is_(None), sa.or_(*either))

    def candidates(self, marks: Marks, bmc_id: int = 0) -> list[Candidate]:
        """The machines that have at least one of these marks; the BMC `bmc_id` is no witness for itself."""
        given: dict[str, Any] = {"own": bmc_id, "macs": [mac for mac in (marks.mac, *marks.macs) if mac]}
        if not is_placeholder_uuid(marks.uuid):
            given["uuids"] = [marks.uuid, swap_uuid(marks.uuid)]
        if not is_placeholder_serial(marks.serial):
            given["serial"] = marks.serial.strip().lower()
        rows = self._connection.execute(_hosts("uuids" in given, "serial" in given), given).all()
        if not rows:
            return []
        numbers = [row.id for row in rows]
        own: defaultdict[int, list[Mac]] = defaultdict(list)
        for mac, number in self._connection.execute(
            sa.select(macs.c.mac, macs.c.machine_id).where(macs.c.machine_id.in_(numbers))
        ):
            own[number].append(Mac(mac))
        managed: defaultdict[int, list[Mac]] = defaultdict(list)
        for mac, number in self._connection.execute(
            sa.select(bmcs.c.mac, bmcs.c.machine_id).where(
                bmcs.c.machine_id.in_(numbers), bmcs.c.mac != "", bmcs.c.id != bmc_id
            )
        ):
            managed[number].append(Mac(mac))
        return [
            Candidate(row.id, row.name, row.uuid, row.serial, row.vendor, tuple(own[row.id]), tuple(managed[row.id]))
            for row in rows
        ]

    def keys_in_use(self) -> set[str]:
        """The sealed texts' names of keys: see `secrets.key_name`."""
        # "v1:<8 hex digits>:..."; the secret settings of drivers stand among the facts.
        start = sa.func.substr(bmcs.c.sealed, 4, 8)
        found = set(self._connection.execute(sa.select(start).where(bmcs.c.sealed != "").distinct()).scalars())
        facts = sa.select(bmcs.c.facts).where(bmcs.c.facts.contains('"v1:', autoescape=True))
        for text in self._connection.execute(facts).scalars():
            found |= set(SEALED.findall(text))
        return found
