"""The verbs of BMCs: found, told, matched to machines, forgotten. Each is one transaction, timeline included.

Whatever the source says goes through `_learn`, so that a BMC that an agent, DHCP and an operator's list tell of is one
record. What is read from a BMC itself counts more than a list; what a machine says of its own BMC, most.
Accounts and endpoints are in `metalbox.bmcaccounts`.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from metalbox.bmcmatch import PEOPLE, Place, Source, Told, is_at, is_same, match
from metalbox.bmcrecords import BmcRecord
from metalbox.errors import InvalidValue, NotFound, PowerError, Refused
from metalbox.machine import Mac, Machine
from metalbox.power import BmcInventory
from metalbox.store import Store
from metalbox.timeline import Entry, Kind

# When a BMC was heard of is written this often: a patrol asks each of a thousand every 30 s.
SEEN_SECONDS = 300.0
# Some agents and BMCs say this for "no address yet".
NO_ADDRESS = frozenset({"", "0.0.0.0", "::"})
# How vendor class identifiers (DHCP option 60) of BMCs begin.
VENDOR_CLASSES = (("iDRAC", "Dell"), ("CPQRIB", "HPE"))
SOURCES: Mapping[Source, str] = {
    Source.IN_BAND: "the agent told of it",
    Source.DHCP: "it asked for an address",
    Source.IMPORT: "it is in an operator's list",
    Source.SCAN: "it answered",
    Source.OPERATOR: "an operator added it",
}
# The timeline tells of these with before and after. What the agent says of firmware is told by `comparison` already.
TOLD_FIELDS = ("address", "port", "mac", "vendor", "model", "firmware", "serial", "uuid", "channel", "drivers")
TOLD_IN_BAND = ("address", "mac")


@dataclass(frozen=True, slots=True)
class Learned:
    """A BMC as it is remembered now. `entries` are the lines of the timeline stored with it, none: nothing changed."""

    bmc: BmcRecord
    is_new: bool
    entries: tuple[Entry, ...]


def learn(
    store: Store, told: Told, now: float, *, machine_id: int | None = None, settings: Mapping[str, str] | None = None
) -> Learned:
    """Take what a source tells of a BMC; a known one is brought up to date. Raises InvalidValue.

    `machine_id` is whose it is when the source knows that; `settings` are those of `told.drivers[0]`.
    """
    if not told.address and told.mac is None:
        raise InvalidValue("a BMC needs an address or a MAC to be known by")
    with store.transaction():
        return _learn(store, told, now, machine_id, settings or {})


def reported(store: Store, machine: Machine, now: float) -> list[Entry]:
    """Learn from a machine's report: whether a BMC without a machine is its, and what it says of its own."""
    with store.transaction():
        entries: list[Entry] = []
        for record in store.bmcs.waiting(machine.uuid, machine.serial, machine.macs):
            entries += _save(store, record, _matched(store, record), record.source, now)
        bmc = machine.hardware.bmc
        if bmc is not None:
            mac = None
            with contextlib.suppress(InvalidValue):
                mac = Mac.parse(bmc.mac)
            told = Told(
                Source.IN_BAND,
                address="" if bmc.address in NO_ADDRESS else bmc.address,
                mac=mac if mac and mac.is_usable else None,
                vendor=bmc.vendor,
                firmware=bmc.firmware,
                channel=bmc.channel,
            )
            entries += _learn(store, told, now, machine.id, {}).entries
        return entries


def heard(store: Store, mac: Mac, address: str, vendor_class: str, now: float) -> list[Entry]:
    """Learn from DHCP: this MAC sent a BMC's vendor class and has, or wants, this address ("": none yet)."""
    with store.transaction():
        vendor = next((name for begin, name in VENDOR_CLASSES if vendor_class.startswith(begin)), "")
        told = Told(Source.DHCP, address="" if address in NO_ADDRESS else address, mac=mac, vendor=vendor)
        return list(_learn(store, told, now, None, {}).entries)


def identified(store: Store, number: int, driver: str, said: BmcInventory, now: float) -> Learned:
    """Take what a BMC answered to `Power.inventory` over this driver. Raises NotFound."""
    with store.transaction():
        before = get(store, number)
        told = Told(
            Source.SCAN,
            drivers=(driver,),
            mac=said.bmc_mac,
            macs=said.macs,
            vendor=said.vendor,
            model=said.model,
            firmware=said.firmware,
            serial=said.serial,
            uuid=said.uuid.lower(),
        )
        after = dataclasses.replace(_updated(before, told, {}), last_seen=now, error_code="", error_text="")
        entries = _save(store, before, _matched(store, after), Source.SCAN, now)
        return Learned(get(store, number), False, tuple(entries))


def answered(store: Store, number: int, driver: str, now: float) -> list[Entry]:
    """Note that a BMC has done over this driver ("": one of its own) what it was asked for. Raises NotFound."""
    with store.transaction():
        before = get(store, number)
        is_known = driver == "" or driver in before.drivers
        if is_known and not before.error_code:
            if now - before.last_seen > SEEN_SECONDS:
                store.bmcs.saw(number, now)
            return []
        drivers = before.drivers if is_known else (*before.drivers, driver)
        after = dataclasses.replace(before, drivers=drivers, last_seen=now, error_code="", error_text="")
        entries = _save(store, before, after, Source.SCAN, now)
        if before.error_code:
            by = f" ({driver})" if driver else ""
            text = f"the BMC {after.shown} answers again{by}, after: {before.error_text}"
            entries += _tell(store, Kind.POWER, text, after, now, {"code": before.error_code, "driver": driver})
        return entries


def failed(store: Store, number: int, error: PowerError, now: float) -> list[Entry]:
    """Note the last error of a BMC; the timeline is told when it is another one than before. Raises NotFound."""
    with store.transaction():
        before = get(store, number)
        after = dataclasses.replace(before, error_code=error.code, error_text=str(error)[:1000], error_at=now)
        store.bmcs.save(after)
        if error.code == before.error_code:
            return []
        data = {"code": error.code, "evidence": error.evidence[:1000]}
        return _tell(store, Kind.POWER, f"the BMC {after.shown}: {after.error_text}", after, now, data)


def assign(store: Store, number: int, machine_id: int | None, now: float) -> BmcRecord:
    """Write down whose a BMC is because a person says so; None: nobody's. Raises NotFound."""
    with store.transaction():
        before = get(store, number)
        facts = {name: value for name, value in before.facts.items() if name not in ("in_band", "doubt", "unmatched")}
        facts |= {"kept": True, "reason": "an operator said so"}
        if machine_id is None:
            facts["unmatched"] = "an operator said so"
        after = dataclasses.replace(before, machine_id=machine_id, facts=facts)
        _save(store, before, after, Source.OPERATOR, now)
        return after


def forget(store: Store, number: int, now: float) -> list[Entry]:
    """Forget a BMC and its password. Raises NotFound."""
    with store.transaction():
        record = get(store, number)
        store.bmcs.delete(number)
        return _tell(store, Kind.CHANGE, f"the BMC {record.shown} was forgotten", record, now, {"after": None})


def get(store: Store, number: int) -> BmcRecord:
    """The BMC with this id. Raises NotFound."""
    with store.transaction():
        record = store.bmcs.get(number)
    if record is None:
        raise NotFound(f"there is no BMC {number}: `metalbox bmc list` shows all")
    return record


def find(store: Store, name: str) -> BmcRecord:
    """Find a BMC by its address, MAC or id, or by its machine's name. Raises NotFound, or Refused when two fit."""
    text = name.strip().lower()
    with store.transaction():
        machines = store.machines.ids_by_name(text)
        found = [record for number in machines for record in store.bmcs.of_machine(number)]
        if not found:
            mac = None
            with contextlib.suppress(InvalidValue):
                mac = Mac.parse(text)
            found = store.bmcs.near(Place(address=text, mac=mac))
        if not found and text.isascii() and text.isdecimal() and len(text) < 10:
            found = [record for record in [store.bmcs.get(int(text))] if record]
    if not found:
        raise NotFound(f"there is no BMC {name.strip()!r}: `metalbox bmc list` shows all")
    if len(found) > 1:
        raise Refused(f"{name.strip()!r} is more than one BMC: say {' or '.join(str(record.id) for record in found)}")
    return found[0]


def listing(store: Store) -> list[dict[str, Any]]:
    """Every BMC as JSON, those without a machine too, with the reason; never a password, nor its sealed form."""
    with store.transaction():
        names = store.machines.names()
        return [as_json(record, names.get(record.machine_id or 0)) for record in store.bmcs.all()]


def as_json(record: BmcRecord, machine: str | None) -> dict[str, Any]:
    """What programs see of a BMC."""
    facts = record.facts
    error = {"code": record.error_code, "text": record.error_text, "at": record.error_at}
    return {
        "id": record.id,
        "machine_id": record.machine_id,
        "machine": machine,
        "reason": facts.get("reason", "") if record.machine_id else facts.get("unmatched", ""),
        "doubt": facts.get("doubt", ""),
        "address": record.address,
        "also_at": facts.get("also_at", ""),
        "port": record.port,
        "drivers": list(record.drivers),
        "mac": record.mac,
        "vendor": record.vendor,
        "model": record.model,
        "firmware": record.firmware,
        "serial": record.serial,
        "uuid": record.uuid,
        "user": record.user,
        "has_password": bool(record.sealed),
        "source": record.source,
        "channel": record.channel,
        "first_seen": record.first_seen,
        "last_seen": record.last_seen,
        "last_error": error if record.error_code else None,
    }


def _learn(store: Store, told: Told, now: float, machine_id: int | None, settings: Mapping[str, str]) -> Learned:
    if machine_id is None:
        # A machine has one BMC: whose this is may tell which of the known ones it is.
        probe = _matched(store, _updated(BmcRecord(source=told.source), told, settings))
        place = dataclasses.replace(probe.place, machine_id=probe.machine_id)
    else:
        place = Place(told.address, told.port, told.mac, settings.get("system", ""), machine_id)
    near = store.bmcs.near(place)
    same = sorted(
        (record for record in near if is_same(place, record.place)),
        key=lambda record: (record.mac is None or record.mac != place.mac, not is_at(place, record.place), record.id),
    )
    entries = _displace(store, place, near, same, now)
    before = same[0] if same else None
    base = before or BmcRecord(source=told.source, first_seen=now)
    for double in same[1:]:
        if not double.sealed and double.machine_id in (None, place.machine_id) and double.source not in PEOPLE:
            store.bmcs.delete(double.id)
            if double.facts.get("in_band"):
                facts = {**base.facts, "in_band": True, "reason": SOURCES[Source.IN_BAND]}
                facts.pop("unmatched", None)
                base = dataclasses.replace(base, machine_id=double.machine_id, channel=double.channel, facts=facts)
    after = _updated(base, told, settings)
    if told.source not in PEOPLE and (before is None or now - before.last_seen > SEEN_SECONDS):
        after = dataclasses.replace(after, last_seen=now)
    if told.source is Source.IN_BAND:
        facts = {key: value for key, value in after.facts.items() if key not in ("doubt", "unmatched", "kept")}
        facts |= {"in_band": True, "reason": SOURCES[Source.IN_BAND]}
        after = dataclasses.replace(after, machine_id=machine_id, facts=facts)
    elif machine_id is not None:
        facts = {**after.facts, "kept": True, "reason": "an operator said so"}
        after = dataclasses.replace(after, machine_id=machine_id, facts=facts)
    # Nothing was found that it could have been: what its marks said a moment ago, they say still.
    after = _matched(store, after, None if before or machine_id is not None else probe)
    if before is not None:
        return Learned(after, False, (*entries, *_save(store, before, after, told.source, now)))
    after = store.bmcs.add(after)
    text = f"a BMC is known now: {_named(after)}, {SOURCES[told.source]}"
    if told.source is not Source.IN_BAND:
        text += f"; it is {'nobody' if after.machine_id is None else 'this machine'}'s: {_why(after)}"
    entries += _tell(store, Kind.POWER, text, after, now, {"before": None, "after": after.shown})
    return Learned(after, True, tuple(entries))


def _updated(record: BmcRecord, told: Told, settings: Mapping[str, str]) -> BmcRecord:
    """The record with what was told of it. What a person said of its address stays, and is asked first."""
    facts = dict(record.facts)
    address, port = record.address, told.port or record.port
    if told.address:
        facts.pop("also_at", None)
        if address and address != told.address and record.source in PEOPLE and told.source not in PEOPLE:
            facts["also_at"] = told.address
        else:
            address = told.address
    if told.macs:
        facts["macs"] = list(told.macs)
    if settings and told.drivers:
        known = facts.get("settings", {})
        facts["settings"] = {**known, told.drivers[0]: {**known.get(told.drivers[0], {}), **settings}}
    # A vendor class tells less than the BMC itself.
    vendor = record.vendor or told.vendor if told.source is Source.DHCP else told.vendor or record.vendor
    return dataclasses.replace(
        record,
        address=address,
        port=port,
        drivers=tuple(dict.fromkeys((*record.drivers, *told.drivers))),
        mac=told.mac or record.mac,
        vendor=vendor,
        model=told.model or record.model,
        firmware=told.firmware or record.firmware,
        serial=told.serial or record.serial,
        uuid=told.uuid or record.uuid,
        source=told.source if told.source in PEOPLE and record.source not in PEOPLE else record.source,
        channel=record.channel if told.channel is None else told.channel,
        facts=facts,
    )


def _matched(store: Store, record: BmcRecord, known: BmcRecord | None = None) -> BmcRecord:
    """The record with the machine that its marks name; what its machine or a person said is only doubted.

    `known` is a record that was matched already: with the same marks it is this one's answer, too.
    """
    if known is not None and known.marks == record.marks and not record.facts.keys() & {"in_band", "kept", "doubt"}:
        facts = {**record.facts, **{k: v for k, v in known.facts.items() if k in ("reason", "unmatched")}}
        return dataclasses.replace(record, machine_id=known.machine_id, facts=facts)
    found = match(record.marks, store.bmcs.candidates(record.marks, record.id))
    facts = {key: value for key, value in record.facts.items() if key != "doubt"}
    if facts.get("in_band") or facts.get("kept"):
        if found.machine_id not in (None, record.machine_id):
            facts["doubt"] = f"{found.reason} it is another machine's"
        return dataclasses.replace(record, facts=facts)
    facts = {key: value for key, value in facts.items() if key not in ("reason", "unmatched")}
    facts["unmatched" if found.machine_id is None else "reason"] = found.reason
    return dataclasses.replace(record, machine_id=found.machine_id, facts=facts)


def _displace(
    store: Store, place: Place, near: Sequence[BmcRecord], same: Sequence[BmcRecord], now: float
) -> list[Entry]:
    """Take the address from another BMC, known by its MAC, that had it before."""
    entries = []
    for record in near:
        others = record.place
        if record in same or not (place.mac and others.mac) or place.system or others.system:
            continue
        if is_at(place, others):
            store.bmcs.save(dataclasses.replace(record, address=""))
            text = f"the BMC {record.mac} is no longer at {record.address}: {place.mac} is there now"
            data = {"before": record.address, "after": ""}
            entries += _tell(store, Kind.CHANGE, text, record, now, data)
    return entries


def _save(store: Store, before: BmcRecord, after: BmcRecord, source: Source, now: float) -> list[Entry]:
    """Write a record, and tell what changed, if anything did."""
    if after == before and after.facts == before.facts:
        return []
    store.bmcs.save(after)
    entries = []
    names = TOLD_IN_BAND if source is Source.IN_BAND else TOLD_FIELDS
    changed = {
        name: (_plain(getattr(before, name)), _plain(getattr(after, name)))
        for name in names
        if getattr(before, name) != getattr(after, name)
    }
    if changed:
        words = [f"{name} {new}" + (f" (it was {old})" if old else "") for name, (old, new) in changed.items()]
        text = f"the BMC {after.shown}: {', '.join(words)}; {SOURCES[source]}"
        data = {"before": {k: v for k, (v, _) in changed.items()}, "after": {k: v for k, (_, v) in changed.items()}}
        entries += _tell(store, Kind.CHANGE, text, after, now, data)
    if before.machine_id != after.machine_id:
        owners = {"before": before.machine_id, "after": after.machine_id}
        if before.machine_id is not None:
            text = f"the BMC {after.shown} is not this machine's any more: {_why(after)}"
            entries += _tell(store, Kind.CHANGE, text, before, now, owners)
        if after.machine_id is not None:
            text = f"the BMC {_named(after)} is this machine's: {_why(after)}"
            entries += _tell(store, Kind.CHANGE, text, after, now, owners)
    if (doubt := after.facts.get("doubt", "")) != before.facts.get("doubt", "") and doubt:
        entries += _tell(store, Kind.CHANGE, f"the BMC {after.shown}: {doubt}", after, now, {"after": doubt})
    return entries


def _why(record: BmcRecord) -> str:
    return str(record.facts.get("reason" if record.machine_id is not None else "unmatched", ""))


def _plain(value: Any) -> Any:
    return ", ".join(value) if isinstance(value, tuple) else value


def _named(record: BmcRecord) -> str:
    return f"{record.address} ({record.mac})" if record.address and record.mac else record.shown


def _tell(store: Store, kind: Kind, text: str, bmc: BmcRecord, now: float, data: dict[str, Any]) -> list[Entry]:
    """Store one line: in its machine's timeline, else in that of its MAC."""
    mac = bmc.mac if bmc.machine_id is None else None
    entry = Entry(0, now, now, 1, kind, mac, bmc.machine_id, text, {"field": "bmc", "bmc": bmc.id, **data})
    store.events.save([entry])
    return [entry]
