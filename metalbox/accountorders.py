"""The verbs of metalbox's own account at a BMC: ordered of the agent, told as done, proved or not. As in bmcs.py.

    order_account   an order to the agent; its password is made by both ends, and is nowhere but in the vault's key
    intended        the agent is about to set it: its public key is kept first
    taken           the agent has said that it is done: nothing is believed yet
    proved          it logs in from outside: sealed and used from now on
    disproved       it does not: what was stored before stays

An order is "unproved" between the agent's word and our own login, and is taken up after a restart. The public keys of
all runs of an agent are kept in the order, so that a password that was set by an agent that died is not lost either.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections.abc import Mapping, Sequence
from typing import Any

from metalbox import accountkeys, bmcaccounts, bmcs
from metalbox.accountwords import Said, parse, read_key
from metalbox.bmcrecords import BmcRecord
from metalbox.errors import BmcRefused, NotFound, PowerError, Refused
from metalbox.orderrecords import Order
from metalbox.secrets import Secret, Vault
from metalbox.store import Store
from metalbox.timeline import Entry, Kind

VERB = "bmc-account"
USER = "metalbox"
OPERATOR, ADMINISTRATOR = "operator", "administrator"
# Orders that nobody proved or disproved for so long are not looked at any more.
MEMORY_SECONDS = 30 * 86_400.0
MAX_KEYS = 16
# How JSON has a verdict that needs no second look; what an agent says in quotation marks has backslashes there.
VERIFIED = '"state": "verified"'
# The agent needs seconds; who has begun and not ended after this has died.
DEAD_SECONDS = 300.0
# Between two tries of a password that failed, while the one of before does not work either.
AGAIN_SECONDS = 3600.0


def order_account(store: Store, vault: Vault, machine_id: int, now: float) -> Order | None:
    """Order metalbox's account of the machine's agent, or return the order that there is.

    None: a password is stored already, or no agent has told of a BMC that it reaches from inside. Who calls wakes the
    agent. Raises NotFound.
    """
    with store.transaction():
        records = store.bmcs.of_machine(machine_id)
        if any(record.sealed for record in records) or not any(record.facts.get("in_band") for record in records):
            return None
        return _order(store, vault, machine_id, now)


def rotate(store: Store, vault: Vault, record: BmcRecord, now: float) -> Order:
    """Order a new password of the machine's agent, in place of whatever is stored. Raises Refused."""
    with store.transaction():
        if record.machine_id is None:
            raise Refused(f"the BMC {record.shown} has no machine whose agent could set its password")
        if not record.facts.get("in_band"):
            raise Refused(f"no agent has told of the BMC {record.shown}: it cannot be reached from inside")
        return _order(store, vault, record.machine_id, now, replaces=_mark(record))


def account_state(store: Store, machine_id: int) -> str:
    """What came of the last order: "none" (never ordered), "ordered", "verified" or "failed: <why>"."""
    with store.transaction():
        order = store.orders.newest_of(machine_id, VERB)
    if order is None:
        return "none"
    verdict = order.outcome.get("verdict") if order.done_at is not None else None
    if not isinstance(verdict, Mapping):
        return "ordered"
    return "verified" if verdict["state"] == "verified" else f"failed: {verdict['text']}"


def intended(store: Store, order: Order, now: float) -> list[Entry]:
    """Keep what an agent is about to set (orders.Follow), where no later run's intention takes its place."""
    said, known = parse(order.progress), list(order.data.get("keys", []))
    if not said.error and all(one["public_key"] != said.public_key for one in known):
        store.orders.set_data(order.id, {**order.data, "keys": [*known, dataclasses.asdict(said)][-MAX_KEYS:]})
    return []


def taken(store: Store, order: Order, now: float) -> list[Entry]:
    """Take an agent's word that an order of ours is done (orders.Follow); nothing it says is a verdict."""
    said = parse(order.outcome)
    store.orders.finish(order.id, {"said": dataclasses.asdict(said)}, now)
    entries = [_entry(order, f"of its BMC: {note}", now) for note in said.notes]
    store.events.save(entries)
    if said.error:
        error = BmcRefused(f"the agent could not make the account {USER!r}: {said.error}")
        return [*entries, *disproved(store, order.id, error, now)]
    return entries


def unproved(store: Store, now: float) -> list[Order]:
    """What agents have done, or have begun with a key that we know, and nobody has tried yet or may try again."""
    with store.transaction():
        found = []
        for order in store.orders.of_verb(VERB, now - MEMORY_SECONDS, without=VERIFIED):
            if order.done_at is None:
                is_wanted = bool(order.data.get("keys"))
            elif "verdict" in order.outcome:
                is_wanted = _may_try_again(store, order, now)
            else:
                is_wanted = "said" in order.outcome
            if is_wanted:
                found.append(order)
        return found


def _may_try_again(store: Store, order: Order, now: float) -> bool:
    """Whether what was stored before a failed order is not good any more: then the order's password may be."""
    verdict = order.outcome["verdict"]
    if now - verdict["at"] < AGAIN_SECONDS:
        return False
    newest = store.orders.newest_of(order.machine_id, VERB)
    records = store.bmcs.of_machine(order.machine_id)
    is_shut_out = any(record.sealed and record.error_code == "wrong-password" for record in records)
    return newest is not None and newest.id == order.id and is_shut_out and bool(said_of(order))


def said_of(order: Order) -> list[Said]:
    """What the agent said; where it said nothing or failed, what its runs were about to do, the newest first."""
    kept = order.outcome.get("said") if order.done_at is not None else None
    rows = [kept] if kept and not kept["error"] else list(reversed(order.data.get("keys", [])))
    return [Said(**{**one, "notes": tuple(one["notes"])}) for one in rows]


def password(vault: Vault, order: Order, said: Said) -> Secret | None:
    """The password that was made with the agent's public key; None: that is no key. Raises StartError."""
    raw, salt = read_key(said.public_key), bytes.fromhex(order.data["salt"])
    if raw is None:
        return None
    try:
        return accountkeys.password(vault.derive(_owner(order.id), salt), raw, salt, order.id)
    except ValueError:
        return None


def proved(
    store: Store,
    vault: Vault,
    order: Order,
    number: int,
    said: Said,
    password: Secret,
    drivers: Sequence[str],
    now: float,
) -> list[Entry]:
    """The account logs in by these drivers: seal and use it. Raises NotFound, when the BMC was forgotten meanwhile."""
    with store.transaction():
        before = bmcs.get(store, number)
        if before.sealed and _mark(before) != order.data.get("replaces", ""):
            error = BmcRefused(f"an operator stored the account {before.user!r} meanwhile, which stays in use")
            return disproved(store, order.id, error, now)
        entries = bmcaccounts.set_account(store, vault, number, USER, password, now)
        after = bmcs.get(store, number)
        known = after.facts.get("settings", {})
        settings = {**known, "ipmi": {**known.get("ipmi", {}), "privilege": said.privilege}}
        account = {"id": said.user_id, "channel": said.channel, "privilege": said.privilege, "at": now}
        facts = {**after.facts, "settings": settings, "account": account}
        address = after.address or said.address
        store.bmcs.save(dataclasses.replace(after, address=address, drivers=tuple(drivers), facts=facts))
        bmcs.answered(store, number, "", now)
        verb = "made" if said.is_new else "gave a new password to"
        by = " and ".join({"ipmi": "IPMI", "redfish": "Redfish"}.get(driver, driver) for driver in drivers)
        text = f"the agent {verb} the account {USER!r} ({said.account}); it logs in by {by}"
        if "redfish" in before.drivers and "redfish" not in drivers:
            text += ", and not by Redfish, which is not asked any more"
        entries.append(_entry(order, text, now))
        store.events.save(entries[-1:])
        _judge(store, order.id, "verified", text, now)
        return entries


def disproved(store: Store, number: int, error: PowerError, now: float) -> list[Entry]:
    """It does not work, or is not there: nothing is stored, what was stays in use. Raises NotFound."""
    with store.transaction():
        order = _get(store, number)
        is_told = "verdict" in order.outcome
        entries = [] if is_told else [_entry(order, f"no new account at its BMC: {error}", now, code=error.code)]
        store.events.save(entries)
        for record in store.bmcs.of_machine(order.machine_id)[:1]:
            entries += bmcs.failed(store, record.id, error, now)
        _judge(store, number, "failed", str(error), now)
        return entries


def escalate(store: Store, vault: Vault, order: Order, error: PowerError, now: float) -> Order:
    """Order the account anew as administrator, because as operator it does not do."""
    with store.transaction():
        text = f"the account {USER!r} is made administrator, because as operator it does not do: {error}"
        store.events.save([_entry(order, text, now, code=error.code)])
        _judge(store, order.id, "failed", text, now)
        replaces = order.data.get("replaces", "")
        return _order(store, vault, order.machine_id, now, replaces=replaces, privilege=ADMINISTRATOR)


def _order(
    store: Store, vault: Vault, machine_id: int, now: float, *, replaces: str = "", privilege: str = OPERATOR
) -> Order:
    """The machine's open order, else a new one with its key pair."""
    for order in store.orders.open_of(machine_id):
        if order.verb == VERB:
            return order
    order = store.orders.add(machine_id, VERB, now)
    salt = os.urandom(32)
    private = vault.derive(_owner(order.id), salt)
    data = {
        "user": USER,
        "privilege": privilege,
        "server_key": accountkeys.public_key(private).hex(),
        "salt": salt.hex(),
        "replaces": replaces,
    }
    store.orders.set_data(order.id, data)
    what = f"an account for metalbox at its BMC ({USER}, {privilege})"
    store.events.save([_entry(order, f"ordered of the agent: {what}", now)])
    return dataclasses.replace(order, data=data)


def _mark(record: BmcRecord) -> str:
    """By which the account that is stored now is known again; it tells nothing of it. "" when none is stored."""
    return hashlib.sha256(f"{record.user} {record.sealed}".encode()).hexdigest()[:16] if record.sealed else ""


def finish_unsaid(store: Store, number: int, said: Said, now: float) -> Order:
    """Close an order whose agent died after it had set the password, as if it had said so. Raises Refused, NotFound."""
    with store.transaction():
        order = _get(store, number)
        if not is_left(order, now):
            raise Refused(f"order {number} is in the hands of an agent")
        store.orders.finish(number, {"said": dataclasses.asdict(said)}, now)
        return _get(store, number)


def is_left(order: Order, now: float) -> bool:
    """Whether an open order's agent must have died: no run has begun it, or one did so long ago."""
    return order.done_at is None and (order.claimed_at is None or now - order.claimed_at > DEAD_SECONDS)


def _judge(store: Store, number: int, state: str, text: str, now: float) -> None:
    order = _get(store, number)
    outcome: dict[str, Any] = {**order.outcome, "verdict": {"state": state, "text": text, "at": now}}
    store.orders.finish(number, outcome, order.done_at if order.done_at is not None else now)


def _get(store: Store, number: int) -> Order:
    order = store.orders.get(number)
    if order is None:
        raise NotFound(f"there is no order {number}")
    return order


def _entry(order: Order, text: str, now: float, *, code: str = "") -> Entry:
    data = {"order": order.id, "verb": VERB, "code": code}
    return Entry(0, now, now, 1, Kind.POWER, None, order.machine_id, text, data)


def _owner(number: int) -> str:
    return f"key of order {number}"
