"""Orders to agents: told to one run of an agent, begun with its token, done once. Verbs, as in inventory.py.

An order is bound to the run of the agent that was told of it last, by a token of its own. Whoever begins it, tells of
its progress or says that it is done must show both; what an earlier boot, another machine or a copied packet says is
refused. The order itself says what to do; what follows when it is done is the affair of who ordered it.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from metalbox.errors import NotFound, Refused
from metalbox.orderrecords import Order
from metalbox.store import Store
from metalbox.timeline import Entry, Kind

# What follows in the same transaction when an agent begins an order, tells of it or is done, by the order's verb.
Follow = Callable[[Store, Order, float], list[Entry]]
NOTHING: Mapping[str, Follow] = MappingProxyType({})


def for_run(store: Store, boot_id: str, run: str, draw: Callable[[], str], now: float) -> list[Order]:
    """What this run of an agent shall do, each order with a token for it; `draw` gives new ones.

    `run` is "" for an agent that does not name its run. Raises NotFound when we do not know the boot: it should report.
    """
    with store.transaction():
        numbers = store.machines.ids_by_boot_id(boot_id)
        if not numbers:
            raise NotFound(f"no machine has reported with boot id {boot_id!r}: report first")
        machine_id = numbers[0]
        store.machines.saw(machine_id, now)
        found = store.orders.open_of(machine_id)
        if not found or store.machines.conflict(machine_id):
            return []
        for order in found:
            if order.run != run_name(boot_id, run) or not order.token:
                store.orders.bind(order.id, run_name(boot_id, run), draw())
        return store.orders.open_of(machine_id)


def claim(
    store: Store,
    number: int,
    boot_id: str,
    run: str,
    token: str,
    now: float,
    follow: Mapping[str, Follow] = NOTHING,
) -> list[Entry]:
    """The agent begins the order now. Raises Refused, also by who follows: it must not touch anything then."""
    with store.transaction():
        order = _held(store, number, boot_id, run, token)
        if order.claimed_at is not None:
            raise Refused(f"order {number} was begun already with this token")
        if conflict := store.machines.conflict(order.machine_id):
            raise Refused(f"order {number} may not begin: {conflict}")
        store.orders.claim(number, now)
        data = {"order": number, "verb": order.verb}
        entry = Entry(0, now, now, 1, Kind.AGENT, None, order.machine_id, f"begins: {order.verb}", data)
        store.events.save([entry])
        return [entry, *_follow(store, number, follow, now)]


def progressed(
    store: Store,
    number: int,
    boot_id: str,
    run: str,
    token: str,
    progress: Mapping[str, Any],
    now: float,
    follow: Mapping[str, Follow] = NOTHING,
) -> Order:
    """Take how far an agent is. Raises Refused when the order is not its own any more: it should stop."""
    with store.transaction():
        order = _held(store, number, boot_id, run, token)
        store.machines.saw(order.machine_id, now)
        store.orders.set_progress(number, progress)
        _follow(store, number, follow, now)
        return replace(order, progress=progress)


def done(
    store: Store,
    number: int,
    boot_id: str,
    run: str,
    token: str,
    outcome: Mapping[str, Any],
    follow: Mapping[str, Follow],
    now: float,
) -> tuple[Order, list[Entry]]:
    """Take an agent's word that an order is done. Saying it twice is saying it once. Raises NotFound, Refused."""
    with store.transaction():
        before = store.orders.get(number)
        if before is not None and before.done_at is not None and _is_own(before, boot_id, run, token):
            return before, []
        order = _held(store, number, boot_id, run, token)
        store.machines.saw(order.machine_id, now)
        store.orders.finish(number, outcome, now)
        entries = _follow(store, number, follow, now)
        after = store.orders.get(number)
        assert after is not None
        return after, entries


def run_name(boot_id: str, run: str) -> str:
    """One run of the agent: a boot of the machine, and a start of the program in it."""
    return f"{boot_id}.{run}" if run else boot_id


def _follow(store: Store, number: int, follow: Mapping[str, Follow], now: float) -> list[Entry]:
    """Do what follows for this kind of order, as it stands now."""
    order = store.orders.get(number)
    assert order is not None
    what_next = follow.get(order.verb)
    return what_next(store, order, now) if what_next else []


def _held(store: Store, number: int, boot_id: str, run: str, token: str) -> Order:
    """The open order, if it is this run's with this token. Raises NotFound, Refused."""
    order = store.orders.get(number)
    if order is None:
        raise NotFound(f"there is no order {number}")
    if order.done_at is not None:
        raise Refused(f"order {number} is closed: nothing is to be done for it any more")
    if not _is_own(order, boot_id, run, token):
        raise Refused(f"order {number} is not for this boot of this machine, or its token is an old one")
    return order


def _is_own(order: Order, boot_id: str, run: str, token: str) -> bool:
    is_run = hmac.compare_digest(order.run.encode(), run_name(boot_id, run).encode("utf-8", "replace"))
    is_token = hmac.compare_digest(order.token.encode(), token.encode("utf-8", "replace"))
    return bool(order.token) and is_run and is_token
