"""Machines in the database: rows <-> dataclasses, and the queries. No rules live here.

The caller holds the transaction (`Store.transaction`); nothing here begins or ends one.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Collection, Hashable, Iterable, Sequence
from functools import cache
from typing import Any, cast

import sqlalchemy as sa

from metalbox.machine import Fault, Mac, Machine, swap_uuid
from metalbox.report import parse_hardware
from metalbox.schema import certificates, counters, events, machines, macs

MAX_BIGINT = 2**63 - 1
# Values in one statement; SQLite takes 32,766.
MAX_AT_ONCE = 500
# The counter of the machines' ids.
COUNTER = "machine"


def dump(value: Any) -> str:
    """JSON as it is stored; a dataclass is the object of its fields, what JSON does not know (a path) is its text."""
    return _encode(value)


def _plain(value: Any) -> Any:
    # `dataclasses.asdict` copies every value on the way, which takes three times as long for a report.
    names = _field_names(cast(Hashable, type(value)))
    return {name: getattr(value, name) for name in names} if names else str(value)


# Made once: `json.dumps` with settings makes an encoder for each call.
_encode = json.JSONEncoder(separators=(",", ":"), default=_plain).encode


@cache
def _field_names(kind: Any) -> tuple[str, ...]:
    return tuple(field.name for field in dataclasses.fields(kind)) if dataclasses.is_dataclass(kind) else ()


def storable(text: str) -> str:
    """Return a text that every database takes: PostgreSQL refuses NUL, SQLite's driver refuses lone surrogates."""
    if text.isascii() and "\0" not in text:
        return text
    return text.replace("\0", " ").encode("utf-8", "replace").decode()


def row_from_machine(machine: Machine) -> dict[str, Any]:
    """The columns of `machines` but `id`."""
    hardware = machine.hardware
    return {
        "name": machine.name,
        "state": machine.state,
        "uuid": machine.uuid,
        "serial": machine.serial,
        "vendor": hardware.system.vendor,
        "product": hardware.system.product,
        "address": machine.address,
        "location": storable(machine.location),
        "conflict": machine.conflict,
        "boot_id": machine.boot_id,
        "mode": hardware.firmware.mode,
        "memory_bytes": hardware.memory_bytes,
        "cpus": len(hardware.cpus),
        "disks": len(hardware.disks),
        "disk_bytes": min(MAX_BIGINT, sum(disk.size_bytes or 0 for disk in hardware.disks)),
        "first_seen": machine.first_seen,
        "last_seen": machine.last_seen,
        "reported_at": machine.reported_at,
        "hardware": dump(hardware),
        "facts": dump(machine.facts),
        "labels": dump(machine.labels),
        "owner": storable(machine.owner),
        "note": storable(machine.note),
        "held": storable(machine.held),
        "fault": dump(machine.fault) if machine.fault else "",
        "state_since": machine.state_since,
        "deadline_at": machine.deadline_at,
    }


def machine_from_row(row: Any, macs: Iterable[str]) -> Machine:
    """One row of `machines` and the addresses in order."""
    return Machine(
        id=row.id,
        name=row.name,
        state=row.state,
        uuid=row.uuid,
        serial=row.serial,
        macs=tuple(Mac(mac) for mac in macs),
        hardware=parse_hardware(json.loads(row.hardware)),
        location=row.location,
        conflict=row.conflict,
        address=row.address,
        boot_id=row.boot_id,
        first_seen=row.first_seen,
        last_seen=row.last_seen,
        reported_at=row.reported_at,
        facts=json.loads(row.facts),
        labels=json.loads(row.labels),
        owner=row.owner,
        note=row.note,
        held=row.held,
        fault=fault_from_text(row.fault),
        state_since=row.state_since,
        deadline_at=row.deadline_at,
    )


def fault_from_text(text: str) -> Fault | None:
    """The column `fault`; "" is none."""
    if not text:
        return None
    row = json.loads(text)
    return Fault(row["code"], row["text"], row["at"], tuple(row["evidence"]))


# Built once: SQLAlchemy takes as long to put a statement together as SQLite to answer it.
_BY_ID = sa.select(machines).where(machines.c.id == sa.bindparam("number"))
_ADD = sa.insert(machines)
_SAVE = sa.update(machines).where(machines.c.id == sa.bindparam("number"))
_MACS_OF = (
    sa.select(macs.c.mac).where(macs.c.machine_id == sa.bindparam("number")).order_by(macs.c.position, macs.c.mac)
)
_BY_UUID = sa.select(machines.c.id).where(machines.c.uuid.in_(sa.bindparam("uuids", expanding=True)))
_BY_SERIAL = sa.select(machines.c.id).where(sa.func.lower(machines.c.serial) == sa.bindparam("serial"))
_OWNERS = sa.select(macs.c.mac, macs.c.machine_id).where(macs.c.mac.in_(sa.bindparam("macs", expanding=True)))
_FREE_MACS = sa.delete(macs).where(
    sa.or_(macs.c.machine_id == sa.bindparam("number"), macs.c.mac.in_(sa.bindparam("macs", expanding=True)))
)


@cache
def _marked(by_uuid: bool, by_serial: bool) -> sa.Select[Any]:
    """The machines that have one of the marks that are given."""
    owners = sa.select(macs.c.machine_id).where(macs.c.mac.in_(sa.bindparam("macs", expanding=True)))
    either: list[sa.ColumnElement[bool]] = [machines.c.id.in_(owners)]
    if by_uuid:
        either.append(machines.c.uuid.in_(sa.bindparam("uuids", expanding=True)))
    if by_serial:
        either.append(sa.func.lower(machines.c.serial) == sa.bindparam("serial"))
    return sa.select(machines.c.id).where(sa.or_(*either)).order_by(machines.c.id)


class Machines:
    """The tables `machines` and `macs`."""

    def __init__(self, connection: sa.Connection) -> None:
        self._connection = connection
        # When an agent spoke last. Ten thousand of them poll every 30 s: that is kept here and stored now and then.
        self._seen: dict[int, float] = {}

    def get(self, number: int) -> Machine | None:
        """The machine with this id."""
        row = self._connection.execute(_BY_ID, {"number": number}).one_or_none()
        if row is None:
            return None
        found = self._connection.execute(_MACS_OF, {"number": number})
        machine = machine_from_row(row, found.scalars())
        seen = self._seen.get(number, 0.0)
        return dataclasses.replace(machine, last_seen=seen) if seen > machine.last_seen else machine

    def add(self, machine: Machine) -> Machine:
        """Insert a machine, whose `id` is ignored; returns it with its new id, which no machine has had.

        SQLite gives the id of a row that was deleted again, and what is remembered by it (who polls, whether it is
        off) would be another machine's.
        """
        highest = self._connection.execute(sa.select(sa.func.max(machines.c.id))).scalar() or 0
        is_counter = counters.c.name == COUNTER
        counted = self._connection.execute(sa.select(counters.c.value).where(is_counter)).scalar()
        number = max(highest, counted or 0) + 1
        change = sa.insert(counters).values(name=COUNTER) if counted is None else sa.update(counters).where(is_counter)
        self._connection.execute(change.values(value=number))
        self._connection.execute(_ADD, {"id": number, **row_from_machine(machine)})
        stored = dataclasses.replace(machine, id=number)
        self._save_macs(stored)
        return stored

    def save(self, machine: Machine) -> None:
        """Write all columns of a machine. Its addresses are taken from whichever machine had them."""
        self._connection.execute(_SAVE, {"number": machine.id, **row_from_machine(machine)})
        self._save_macs(machine)

    def saw(self, number: int, now: float) -> None:
        """Note that the machine's agent spoke: in memory, `save_seen` stores it."""
        self._seen[number] = now

    def seen_at(self, number: int) -> float:
        """When `saw` was last called, if that is not stored yet; 0.0 else."""
        return self._seen.get(number, 0.0)

    def save_seen(self) -> None:
        """Store what `saw` noted."""
        rows = [{"number": number, "seen": seen} for number, seen in self._seen.items()]
        if rows:
            newer = sa.and_(machines.c.id == sa.bindparam("number"), machines.c.last_seen < sa.bindparam("seen"))
            self._connection.execute(sa.update(machines).where(newer).values(last_seen=sa.bindparam("seen")), rows)
        self._seen.clear()

    def state(self, number: int) -> str:
        """The state of a machine that there is."""
        return str(self._connection.execute(sa.select(machines.c.state).where(machines.c.id == number)).scalar_one())

    def ids_at_work(self, states: Sequence[str]) -> list[int]:
        """The machines in these states that have no fault."""
        return self._ids(machines.c.state.in_(states), machines.c.fault == "")

    def set_deadline(self, number: int, deadline_at: float) -> None:
        """Write by when a machine must have left its state; 0.0 is never."""
        self._connection.execute(sa.update(machines).where(machines.c.id == number).values(deadline_at=deadline_at))

    def delete(self, number: int) -> None:
        """Delete a machine. Its lines and certificates stay, and belong to no machine."""
        for table in (events, certificates):
            self._connection.execute(sa.update(table).where(table.c.machine_id == number).values(machine_id=None))
        self._connection.execute(sa.delete(macs).where(macs.c.machine_id == number))
        self._connection.execute(sa.delete(machines).where(machines.c.id == number))
        self._seen.pop(number, None)

    def conflict(self, number: int) -> str:
        """Why this machine may not be ordered about, or ""."""
        return str(self._connection.execute(sa.select(machines.c.conflict).where(machines.c.id == number)).scalar())

    def uuids_in_conflict(self) -> list[str]:
        """The UUIDs that machines hold against each other, each once."""
        select = sa.select(machines.c.uuid).where(machines.c.conflict != "").distinct()
        return list(self._connection.execute(select).scalars())

    def set_address(self, number: int, address: str) -> None:
        """Write from where the machine's agent speaks."""
        self._connection.execute(sa.update(machines).where(machines.c.id == number).values(address=address))

    def set_conflict(self, number: int, conflict: str) -> None:
        """Write why this machine may not be ordered about, or "" when it may."""
        self._connection.execute(sa.update(machines).where(machines.c.id == number).values(conflict=conflict))

    def _save_macs(self, machine: Machine) -> None:
        self._connection.execute(_FREE_MACS, {"number": machine.id, "macs": list(machine.macs)})
        rows = [
            {"mac": mac, "machine_id": machine.id, "position": position} for position, mac in enumerate(machine.macs)
        ]
        if rows:
            self._connection.execute(sa.insert(macs), rows)

    def _ids(self, *conditions: sa.ColumnElement[bool]) -> list[int]:
        return list(self._connection.execute(sa.select(machines.c.id).where(*conditions)).scalars())

    def ids_by_name(self, name: str) -> list[int]:
        """At most one."""
        return self._ids(machines.c.name == name)

    def ids_by_uuid(self, uuid: str) -> list[int]:
        """Machines with this UUID in either byte order."""
        return list(self._connection.execute(_BY_UUID, {"uuids": [uuid, swap_uuid(uuid)]}).scalars())

    def ids_by_serial(self, serial: str) -> list[int]:
        """Machines with this serial number, whoever made them; upper and lower case are the same."""
        return list(self._connection.execute(_BY_SERIAL, {"serial": serial.lower()}).scalars())

    def ids_by_marks(self, uuid: str, serial: str, wanted: Sequence[Mac]) -> list[int]:
        """Machines with this UUID (either byte order) or this serial number, unless "", or one of these addresses."""
        given: dict[str, Any] = {"macs": list(wanted)}
        if uuid:
            given["uuids"] = [uuid, swap_uuid(uuid)]
        if serial:
            given["serial"] = serial.lower()
        return list(self._connection.execute(_marked("uuids" in given, "serial" in given), given).scalars())

    def ids_by_boot_id(self, boot_id: str) -> list[int]:
        """The machine whose agent spoke last with this boot id; at most one unless agents lie."""
        return self._ids(machines.c.boot_id == boot_id)

    def owners(self, wanted: Sequence[Mac]) -> dict[Mac, int]:
        """Which machine owns which of these addresses."""
        rows = self._connection.execute(_OWNERS, {"macs": list(wanted)})
        return {Mac(mac): number for mac, number in rows}

    def names(self) -> dict[int, str]:
        """The name of each machine by its id."""
        rows = self._connection.execute(sa.select(machines.c.id, machines.c.name))
        return {row.id: row.name for row in rows}

    def names_of(self, numbers: Collection[int], addresses: Collection[str]) -> dict[Any, str]:
        """The names of these machines by their ids, and of the owners of these addresses by address."""
        found: dict[Any, str] = {}
        ids, owned = sorted(numbers), sorted(addresses)
        for at in range(0, len(ids), MAX_AT_ONCE):
            is_meant = machines.c.id.in_(ids[at : at + MAX_AT_ONCE])
            select = sa.select(machines.c.id, machines.c.name).where(is_meant)
            found.update(dict(self._connection.execute(select).cursor.fetchall()))
        for at in range(0, len(owned), MAX_AT_ONCE):
            is_meant = macs.c.mac.in_(owned[at : at + MAX_AT_ONCE])
            select = sa.select(macs.c.mac, machines.c.name).join(machines).where(is_meant)
            found.update(dict(self._connection.execute(select).cursor.fetchall()))
        return found
