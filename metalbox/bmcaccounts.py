"""Accounts of BMCs: the operator's list taken in, passwords set, and endpoints for those who log in.

The only place where the vault and the records of BMCs meet: a password is in the clear from here to the driver.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from metalbox import bmcs
from metalbox.bmcimport import Row
from metalbox.bmcmatch import Source, Told
from metalbox.bmcrecords import BmcRecord
from metalbox.errors import InvalidValue, Refused
from metalbox.power import DRIVERS, Credentials, Endpoint
from metalbox.secrets import Secret, Vault
from metalbox.store import Store
from metalbox.timeline import Entry, Kind

# What is tried at a BMC of which nothing is known, in this order.
USUAL = ("redfish", "ipmi")
# Settings of drivers that are secrets themselves; they are sealed one by one.
SECRET_SETTINGS = frozenset({"kg"})
NO_PASSWORD = Secret("")


@dataclass(frozen=True, slots=True)
class Imported:
    """What a list has done: counts of BMCs, and those that no machine could be found for."""

    added: int
    changed: int
    unchanged: int
    unmatched: tuple[BmcRecord, ...]


def add(
    store: Store,
    vault: Vault,
    told: Told,
    now: float,
    *,
    user: str = "",
    password: Secret = NO_PASSWORD,
    settings: Mapping[str, str] | None = None,
    machine_id: int | None = None,
) -> bmcs.Learned:
    """Take a BMC that an operator names, with its account; a known one is brought up to date. Raises InvalidValue.

    `settings` are those of `told.drivers[0]`, `machine_id` is whose it is where the operator says so.
    """
    secret, plain = _checked(told.drivers, settings or {})
    with store.transaction():
        learned = bmcs.learn(store, told, now, machine_id=machine_id, settings=plain)
        entries = [*learned.entries]
        for name, text in secret.items():
            _set_secret(store, vault, learned.bmc.id, told.drivers[0], name, Secret(text))
        if user or password:
            known = learned.bmc if learned.is_new and not secret else None
            entries += set_account(store, vault, learned.bmc.id, user, password, now, known=known)
        return dataclasses.replace(learned, bmc=bmcs.get(store, learned.bmc.id), entries=tuple(entries))


def take_list(store: Store, vault: Vault, rows: Sequence[Row], now: float) -> Imported:
    """Take an operator's list, all of it or, on an error, nothing. An empty password leaves the one there is."""
    added = changed = 0
    numbers: dict[int, None] = {}
    with store.transaction():
        for row in rows:
            told = Told(
                Source.IMPORT,
                address=row.address,
                port=row.port,
                drivers=(row.driver,) if row.driver else (),
                mac=row.mac,
                vendor=row.vendor,
                serial=row.serial,
                uuid=row.uuid,
            )
            done = add(store, vault, told, now, user=row.user, password=row.password)
            added += done.is_new
            changed += bool(done.entries) and not done.is_new
            numbers[done.bmc.id] = None
        records = [record for record in store.bmcs.all() if record.id in numbers]
    unmatched = tuple(record for record in records if record.machine_id is None)
    return Imported(added, changed, len(rows) - added - changed, unmatched)


def set_account(
    store: Store,
    vault: Vault,
    number: int,
    user: str,
    password: Secret,
    now: float,
    *,
    known: BmcRecord | None = None,
) -> list[Entry]:
    """Store the account that metalbox uses; an empty user or password leaves what there is. Raises NotFound.

    `known` is the record as it was just written, for those who have it.
    """
    with store.transaction():
        before = known or bmcs.get(store, number)
        is_new = bool(password) and not _is_stored(vault, before, password)
        if not is_new and user in ("", before.user):
            return []
        sealed = vault.seal(password, _owner(number)) if is_new else before.sealed
        after = dataclasses.replace(before, user=user or before.user, sealed=sealed)
        if after.user != before.user:
            after = dataclasses.replace(after, facts=_without_own_account(before.facts))
        store.bmcs.save(after)
        what = "a password was stored" if is_new else "another user was stored"
        text = f"the BMC {after.shown}: {what} for {after.user!r}"
        data = {"field": "bmc", "bmc": number, "user": after.user}
        mac = after.mac if after.machine_id is None else None
        entry = Entry(0, now, now, 1, Kind.CHANGE, mac, after.machine_id, text, data)
        store.events.save([entry])
        return [entry]


def credentials(store: Store, vault: Vault, number: int) -> Credentials | None:
    """The account that metalbox uses at this BMC. Raises NotFound; Refused when the vault cannot open it."""
    return _credentials(vault, bmcs.get(store, number))


def endpoints(store: Store, vault: Vault, number: int) -> list[Endpoint]:
    """Where and how this BMC is reached, to be tried in this order. Raises NotFound, Refused."""
    return endpoints_of(vault, bmcs.get(store, number))


def endpoints_of(vault: Vault, record: BmcRecord) -> list[Endpoint]:
    """Where and how this BMC is reached, to be tried in this order. Raises Refused."""
    account = _credentials(vault, record)
    kinds = record.drivers or USUAL
    found = []
    for address in dict.fromkeys((record.address, record.facts.get("also_at", ""))):
        for driver in sorted(kinds, key=lambda kind: USUAL.index(kind) if kind in USUAL else len(USUAL)):
            # The port was given for the driver that was named first; of a BMC never spoken to it may be either's.
            port = record.port if not record.drivers or driver == record.drivers[0] else 0
            settings = dict(record.facts.get("settings", {}).get(driver, {}))
            for name in SECRET_SETTINGS & set(settings):
                settings[name] = vault.unseal(settings[name], _owner(record.id, name)).reveal()
            if address:
                found.append(Endpoint(driver, address, port, account, settings))
    return found


def endpoints_of_machine(store: Store, vault: Vault, machine_id: int) -> list[tuple[int, Endpoint]]:
    """The endpoints of a machine's BMCs, each with the BMC's id; [] when it has none. Raises Refused."""
    with store.transaction():
        records = sorted(store.bmcs.of_machine(machine_id), key=lambda record: (not record.sealed, -record.last_seen))
        return [(record.id, endpoint) for record in records for endpoint in endpoints_of(vault, record)]


def reseal(store: Store, old: Vault, new: Vault) -> int:
    """Seal every secret anew with another key; returns how many. All or nothing. Raises Refused."""
    count = 0
    with store.transaction():
        for record in store.bmcs.all():
            sealed = record.sealed
            if sealed:
                sealed = new.seal(old.unseal(sealed, _owner(record.id)), _owner(record.id))
            settings = {}
            for driver, values in record.facts.get("settings", {}).items():
                settings[driver] = dict(values)
                for name in SECRET_SETTINGS & set(values):
                    owner = _owner(record.id, name)
                    settings[driver][name] = new.seal(old.unseal(values[name], owner), owner)
                    count += 1
            count += bool(sealed)
            facts = {**record.facts, "settings": settings} if settings else record.facts
            store.bmcs.save(dataclasses.replace(record, sealed=sealed, facts=facts))
    return count


def _checked(drivers: Sequence[str], settings: Mapping[str, str]) -> tuple[dict[str, str], dict[str, str]]:
    """The secret settings and the others, when the driver knows them all. Raises InvalidValue."""
    for driver in drivers:
        if driver not in DRIVERS:
            raise InvalidValue(f"there is no power driver {driver!r}: write one of {', '.join(DRIVERS)}")
    if settings and not drivers:
        raise InvalidValue("settings belong to a driver: name it")
    known = DRIVERS[drivers[0]].settings if drivers else {}
    if unknown := sorted(set(settings) - set(known)):
        raise InvalidValue(f"the driver {drivers[0]} has no setting {', '.join(unknown)}: it knows {', '.join(known)}")
    secret = {name: text for name, text in settings.items() if name in SECRET_SETTINGS}
    return secret, {name: text for name, text in settings.items() if name not in SECRET_SETTINGS}


def _set_secret(store: Store, vault: Vault, number: int, driver: str, name: str, secret: Secret) -> None:
    record = bmcs.get(store, number)
    known = record.facts.get("settings", {})
    values = {**known.get(driver, {}), name: vault.seal(secret, _owner(number, name))}
    store.bmcs.save(dataclasses.replace(record, facts={**record.facts, "settings": {**known, driver: values}}))


def _owner(number: int, name: str = "password") -> str:
    return f"BMC {number} {name}"


def _without_own_account(facts: Mapping[str, Any]) -> dict[str, Any]:
    """The facts without what is true of the account only that metalbox had made for itself."""
    kept = {name: value for name, value in facts.items() if name != "account"}
    settings = kept.get("settings", {})
    if "account" in facts and "privilege" in settings.get("ipmi", {}):
        ipmi = {name: value for name, value in settings["ipmi"].items() if name != "privilege"}
        kept["settings"] = {**settings, "ipmi": ipmi}
    return kept


def _is_stored(vault: Vault, record: BmcRecord, password: Secret) -> bool:
    if not record.sealed:
        return False
    try:
        return vault.unseal(record.sealed, _owner(record.id)) == password
    except Refused:
        return False


def _credentials(vault: Vault, record: BmcRecord) -> Credentials | None:
    if not record.user and not record.sealed:
        return None
    password = vault.unseal(record.sealed, _owner(record.id)).reveal() if record.sealed else ""
    return Credentials(record.user, password)
