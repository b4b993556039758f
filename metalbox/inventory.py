"""The verbs: what happens to machines. Each loads, asks the pure core, and saves in one transaction.

A verb is `verb(store, ..., now)` and runs in the database's thread (`Database.run`). What it tells the timeline is
stored together with what it changes, so that neither is there without the other.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from metalbox import bmcs, timing
from metalbox.comparison import Change, changes, size
from metalbox.errors import InvalidValue, NotFound, Refused
from metalbox.identity import Identity, choose, default_name, in_conflict, same_uuid
from metalbox.lifecycle import Action, Event, State, step
from metalbox.machine import Hardware, Mac, Machine, is_placeholder_uuid, parse_uuid
from metalbox.orderrecords import Order
from metalbox.report import Hello, Report, parse_hello, parse_report
from metalbox.store import Store
from metalbox.timeline import Entry, Kind

# Differences told one by one; a machine whose whole board was exchanged has hundreds of changed PCI functions.
MAX_CHANGES = 50
# USB network cards are carried from box to box; the addresses of the last report are always kept.
MAX_MACS = 64
STRANGER_SECONDS = 3600.0
MAX_STRANGERS = 1000
# A boot has some 30 lines.
BOOT_ENTRIES = 500


@dataclass(frozen=True, slots=True)
class Reported:
    """What a report has done. `entries` are the lines that were stored with it."""

    machine: Machine
    is_new: bool
    changes: tuple[Change, ...]
    entries: tuple[Entry, ...]


def hello(store: Store, document: Any, address: str, now: float) -> Machine | None:
    """Take an agent's first word: returns the machine that it seems to be, None for a new one. Raises InvalidReport."""
    word = document if isinstance(document, Hello) else parse_hello(document)
    with store.transaction():
        who = Identity.of(word.uuid, word.serial, "", word.macs, word.boot_id)
        machine = choose(who, _candidates(store, who), now)
        # With other cards in it this may be the machine, or its twin: only the report tells, and must not find that we
        # have just called the machine of before alive.
        if machine is not None and (machine.boot_id == word.boot_id or set(word.macs) & set(machine.macs)):
            store.machines.saw(machine.id, now)
            if address and address != machine.address:
                store.machines.set_address(machine.id, address)
        return machine


def report(store: Store, document: Any, address: str, now: float) -> Reported:
    """Take an agent's report: the machine is new, or what changed is told. Raises InvalidReport.

    `address` is where the report came from.
    """
    checked = document if isinstance(document, Report) else parse_report(document)
    with store.transaction():
        return _report(store, checked, address, now)


def order_report(store: Store, name: str, now: float) -> Order:
    """Order a new report. Ordering twice is ordering once. Raises NotFound; Refused while in conflict."""
    with store.transaction():
        machine = find(store, name)
        if machine.conflict:
            # The other one may have gone long ago, and nothing happened since that would have told us.
            _settle(store, machine.uuid, now)
            machine = _get(store, machine.id)
        todo = step(State(machine.state), Event.REPORT, machine.conflict)
        assert todo.actions == (Action.ORDER_REPORT,)
        for order in store.orders.open_of(machine.id):
            if order.verb == Event.REPORT:
                return order
        order = store.orders.add(machine.id, Event.REPORT, now)
        data = {"order": order.id, "verb": order.verb}
        store.events.save([_entry(Kind.SERVICE, "a new report was ordered", machine.id, now, data)])
        return order


def recheck_conflicts(store: Store, now: float) -> list[Entry]:
    """Lift the conflicts of machines whose other has gone for good; to be called now and then."""
    with store.transaction():
        return [entry for uuid in store.machines.uuids_in_conflict() for entry in _settle(store, uuid, now)]


def recognise(store: Store, macs: Sequence[Mac], uuid: str, serial: str, vendor: str, now: float) -> Machine | None:
    """Which machine this seems to be that asks what to boot; None for a new one. Changes nothing."""
    with store.transaction():
        who = Identity.of(uuid, serial, vendor, macs, "")
        return choose(who, _candidates(store, who), now)


def find(store: Store, name: str) -> Machine:
    """Find a machine by name, else by id, MAC, UUID or serial number. Raises NotFound, or Refused when two fit."""
    text = name.strip()
    with store.transaction():
        numbers = store.machines.ids_by_name(text.lower()) or sorted(_ids_by_mark(store, text))
        if not numbers:
            raise NotFound(f"there is no machine {text!r}: `metalbox list` shows all")
        if len(numbers) > 1:
            names = store.machines.names()
            raise Refused(f"{text!r} is more than one machine: say {' or '.join(names[n] for n in numbers)}")
        return _get(store, numbers[0])


def find_mac(store: Store, name: str) -> Mac | None:
    """The address that `name` is, if it is one and owned by no machine: a stranger's."""
    try:
        mac = Mac.parse(name)
    except InvalidValue:
        return None
    with store.transaction():
        return None if store.machines.owners([mac]) else mac


def strangers(store: Store, now: float) -> list[dict[str, Any]]:
    """Addresses that booted in the last hour and belong to no machine."""
    with store.transaction():
        found = store.events.strangers(now - STRANGER_SECONDS, MAX_STRANGERS)
    return [{"mac": mac, "last_seen": entry.last_at, "text": entry.text} for mac, entry in found]


def timeline(store: Store, machine: Machine, limit: int, after: int | None = None) -> list[Entry]:
    """The newest `limit` lines of a machine, oldest first; with `after` the first ones above that id."""
    with store.transaction():
        return store.events.of_machine(machine, limit, after)


def _get(store: Store, number: int) -> Machine:
    machine = store.machines.get(number)
    assert machine is not None, number
    return machine


def _entry(kind: Kind, text: str, machine_id: int, now: float, data: dict[str, Any], mac: Mac | None = None) -> Entry:
    return Entry(0, now, now, 1, kind, mac, machine_id, text, data)


def _ids_by_mark(store: Store, text: str) -> set[int]:
    found = set(store.machines.ids_by_serial(text))
    if text.isdecimal() and len(text) < 10 and store.machines.get(int(text)) is not None:
        found.add(int(text))
    with contextlib.suppress(InvalidValue):
        found |= set(store.machines.owners([Mac.parse(text)]).values())
    with contextlib.suppress(InvalidValue):
        found |= set(store.machines.ids_by_uuid(parse_uuid(text)))
    return found


def _candidates(store: Store, who: Identity) -> list[Machine]:
    return [_get(store, number) for number in store.machines.ids_by_marks(who.uuid, who.serial, who.macs)]


def _report(store: Store, checked: Report, address: str, now: float) -> Reported:
    hardware, agent = checked.hardware, checked.agent
    system = hardware.system
    who = Identity.of(system.uuid, system.serial, system.vendor, hardware.macs, agent.boot_id)
    candidates = _candidates(store, who)
    before = choose(who, candidates, now)
    others = [other for other in candidates if before is None or other.id != before.id]
    state = step(State(before.state) if before else State.UNKNOWN, Event.REPORTED).state
    assert state is not None
    booted = agent.booted_mac if agent.booted_mac in hardware.macs else next(iter(hardware.macs), None)
    machine = dataclasses.replace(
        before or Machine(0, _new_name(store, who, booted), state, first_seen=now, state_since=now),
        state=state,
        uuid=system.uuid,
        serial=who.serial,
        macs=_all_macs(hardware.macs, before.macs if before else ()),
        hardware=hardware,
        location=_location(store, hardware, booted) or (before.location if before else ""),
        address=address or agent.address,
        boot_id=agent.boot_id,
        last_seen=now,
        reported_at=now,
        facts={
            **(before.facts if before else {}),
            "agent": dataclasses.asdict(agent),
            "problems": list(checked.problems),
        },
    )
    owned = {mac: other.id for other in others for mac in other.macs}
    moved = {mac: owned[mac] for mac in hardware.macs if mac in owned}
    # The old owner keeps the lines of its card until today; they must be claimed before the card changes hands.
    for mac, owner in moved.items():
        store.events.claim(mac, owner)
    if before is None:
        machine = store.machines.add(machine)
    else:
        store.machines.save(machine)
    differences = changes(before.hardware, hardware) if before else []
    entries = [
        _report_entry(machine, before is None, checked, booted, now),
        *_change_entries(machine, differences, now),
        *_moved_entries(store, machine, moved, now),
    ]
    for order in store.orders.finish_verb(machine.id, Event.REPORT, now) if before else ():
        entries.append(_entry(Kind.SERVICE, "the ordered report has come", machine.id, now, {"order": order.id}))
    store.events.save(entries)
    if any(same_uuid(machine.uuid, other.uuid) for other in others):
        entries += _settle(store, machine.uuid, now)
    else:
        entries += _set_conflict(store, machine, "", {"with": [], "uuid": who.uuid}, now)
    if before is not None and before.uuid != machine.uuid:
        entries += _settle(store, before.uuid, now)
    entries += bmcs.reported(store, machine, now)
    entries += _spent(store, machine, now)
    if any(entry.kind is Kind.CONFLICT for entry in entries):
        machine = dataclasses.replace(machine, conflict=store.machines.conflict(machine.id))
    return Reported(machine, before is None, tuple(differences), tuple(entries))


def _new_name(store: Store, who: Identity, booted: Mac | None) -> str:
    macs = (booted, *who.macs) if booted else who.macs
    return default_name(who.serial, macs, who.uuid, _Taken(store))


class _Taken:
    """The names that machines have; asked one by one, for there may be 100,000."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def __contains__(self, name: object) -> bool:
        return bool(self._store.machines.ids_by_name(str(name)))


def _all_macs(reported: Sequence[Mac], before: Sequence[Mac]) -> tuple[Mac, ...]:
    """Newest first; the addresses of this report are all kept."""
    return tuple(dict.fromkeys((*reported, *before)))[: max(MAX_MACS, len(reported))]


def _location(store: Store, hardware: Hardware, booted: Mac | None) -> str:
    """Where the machine stands: what the relay said of its port (option 82), else the switch's own words (LLDP)."""
    if booted is not None:
        for entry in reversed(store.events.of_mac(booted, 100)):
            circuit, remote = entry.data.get("circuit_id", ""), entry.data.get("remote_id", "")
            if entry.kind is Kind.DHCP and (circuit or remote):
                words = [f"relay {entry.data['relay']}"] if entry.data.get("relay") else []
                words += [f"circuit {circuit}"] if circuit else []
                words += [f"remote {remote}"] if remote else []
                return ", ".join(words)
    ports = sorted(hardware.nics, key=lambda nic: nic.mac != booted)
    for nic in ports:
        if nic.lldp is not None and nic.lldp.port_id:
            return f"{nic.lldp.system_name or nic.lldp.chassis_id} {nic.lldp.port_id}".strip()
    return ""


def summary(hardware: Hardware) -> str:
    """One line that tells a machine: maker, processors, memory, disks, ports."""
    system = hardware.system
    total = sum(disk.size_bytes or 0 for disk in hardware.disks)
    parts = [
        f"{system.vendor} {system.product}".strip() or "unnamed hardware",
        _count(len(hardware.cpus), "processor"),
        f"{size(hardware.memory_bytes)} memory" if hardware.memory_bytes is not None else "",
        _count(len(hardware.disks), "disk") + (f" ({size(total)})" if total else ""),
        _count(len(hardware.nics), "network port"),
        _count(len(hardware.gpus), "GPU") if hardware.gpus else "",
    ]
    return ", ".join(part for part in parts if part)


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def _report_entry(machine: Machine, is_new: bool, checked: Report, booted: Mac | None, now: float) -> Entry:
    words = summary(machine.hardware)
    text = f"{'reported for the first time' if is_new else 'reported'}: {words}"
    if checked.problems:
        text += f"; {_count(len(checked.problems), 'problem')}: {'; '.join(checked.problems[:3])}"
    data = {
        "machine": machine.name,
        "summary": words,
        "boot_id": machine.boot_id,
        "address": machine.address,
        "uptime_seconds": checked.agent.uptime_seconds,
        "new": is_new,
    }
    return _entry(Kind.REPORT, text, machine.id, now, data, booted)


def _change_entries(machine: Machine, differences: Sequence[Change], now: float) -> list[Entry]:
    entries = [
        _entry(
            Kind.CHANGE, change.text, machine.id, now,
            {"field": change.field, "before": change.before, "after": change.after},
        )
        for change in differences[:MAX_CHANGES]
    ]  # fmt: skip
    if len(differences) > MAX_CHANGES:
        rest = differences[MAX_CHANGES:]
        data = {"fields": [change.field for change in rest[:1000]]}
        entries.append(_entry(Kind.CHANGE, f"and {len(rest)} more differences", machine.id, now, data))
    return entries


def _moved_entries(store: Store, machine: Machine, moved: dict[Mac, int], now: float) -> list[Entry]:
    names = store.machines.names() if moved else {}
    entries = []
    for mac, owner in moved.items():
        entries.append(
            _entry(
                Kind.CHANGE,
                f"the network card {mac} is now in {machine.name}, which reported it",
                owner,
                now,
                {"field": f"macs[{mac}]", "before": names[owner], "after": machine.name},
            )
        )
        entries.append(
            _entry(
                Kind.CHANGE,
                f"the network card {mac} was in {names[owner]} before",
                machine.id,
                now,
                {"field": f"macs[{mac}]", "before": names[owner], "after": machine.name},
            )
        )
    return entries


def _settle(store: Store, uuid: str, now: float) -> list[Entry]:
    """Look who holds this UUID; set and lift conflicts accordingly, and tell the timeline of each that changed.

    A conflict ends when all but one of its machines have another UUID, or were not heard of for a day
    (`identity.GONE_SECONDS`). It is looked at when one of them reports, and when something is ordered.
    """
    if is_placeholder_uuid(uuid):
        return []
    holders = [_get(store, number) for number in store.machines.ids_by_uuid(uuid)]
    fighting = in_conflict(holders, now)
    entries = []
    for machine in holders:
        others = [other.name for other in fighting if other.id != machine.id] if machine in fighting else []
        conflict = f"it has the same UUID {machine.uuid} as {', '.join(others)}" if others else ""
        entries += _set_conflict(store, machine, conflict, {"with": others, "uuid": machine.uuid}, now)
    return entries


def _set_conflict(store: Store, machine: Machine, conflict: str, data: dict[str, Any], now: float) -> list[Entry]:
    if machine.conflict == conflict:
        return []
    store.machines.set_conflict(machine.id, conflict)
    text = f"conflict: {conflict}; nothing may be ordered on it" if conflict else "the conflict is over"
    entry = _entry(Kind.CONFLICT, text, machine.id, now, data)
    store.events.save([entry])
    return [entry]


def _spent(store: Store, machine: Machine, now: float) -> list[Entry]:
    """Tell how long the boot before this report took, and who was waited for; nothing when there was no boot."""
    spent = timing.breakdown(store.events.of_machine(machine, BOOT_ENTRIES), machine.boot_id)
    if spent is None:
        return []
    entry = _entry(Kind.SERVICE, spent.sentence(), machine.id, now, {"timing": dataclasses.asdict(spent)})
    store.events.save([entry])
    return [entry]
