"""Orders to agents: told to one run, begun with its token, done once; everybody else is refused."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest

from metalbox import inventory, orders
from metalbox.errors import NotFound, Refused
from metalbox.machine import Mac
from metalbox.orderrecords import Order
from metalbox.store import Store, sqlite_url
from metalbox.timeline import Entry, Kind
from tests.reports import UUID, full, small

OTHER = Mac("52:54:00:00:00:0c")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = Store.open(sqlite_url(tmp_path / "metalbox.db"))
    inventory.report(opened, full(), "192.0.2.100", 100.0)
    yield opened
    opened.close()


@pytest.fixture
def machine_id(store: Store) -> int:
    return inventory.find(store, "8fzc1p1").id


def add(store: Store, machine_id: int, verb: str = "erase") -> int:
    with store.transaction():
        return store.orders.add(machine_id, verb, 150.0, {"disks": []}).id


NUMBERS = count()


def draw() -> str:
    return f"token-{next(NUMBERS)}"


def told(store: Store, boot_id: str = "b1", run: str = "r1", now: float = 200.0) -> list[Order]:
    return orders.for_run(store, boot_id, run, draw, now)


def test_an_order_is_told_with_one_token_to_one_run(store: Store, machine_id: int) -> None:
    number = add(store, machine_id)
    (first,) = told(store)
    assert (first.id, first.verb, first.data) == (number, "erase", {"disks": []})
    assert told(store) == [first]
    (second,) = told(store, run="r2")
    assert second.token != first.token
    with pytest.raises(Refused, match="not for this boot of this machine, or its token is an old one"):
        orders.claim(store, number, "b1", "r1", first.token, 201.0)
    with pytest.raises(Refused):
        orders.claim(store, number, "b1", "r2", first.token, 201.0)
    with pytest.raises(Refused):
        orders.claim(store, number, "b2", "r2", second.token, 201.0)
    orders.claim(store, number, "b1", "r2", second.token, 201.0)
    with pytest.raises(Refused, match="begun already"):
        orders.claim(store, number, "b1", "r2", second.token, 202.0)


def test_an_order_that_was_never_told_has_no_token_to_guess(store: Store, machine_id: int) -> None:
    number = add(store, machine_id)
    for run in ("", "r1"):
        with pytest.raises(Refused):
            orders.claim(store, number, "", run, "", 201.0)
    with pytest.raises(NotFound, match="there is no order 99"):
        orders.claim(store, 99, "b1", "r1", "x", 201.0)


def test_progress_and_outcome_are_kept_and_what_follows_is_saved_with_them(store: Store, machine_id: int) -> None:
    number = add(store, machine_id)
    (order,) = told(store)
    orders.claim(store, number, "b1", "r1", order.token, 201.0)
    orders.progressed(store, number, "b1", "r1", order.token, {"percent": 40}, 202.0)
    followed: list[Order] = []

    def follow(store: Store, order: Order, now: float) -> list[Entry]:
        followed.append(order)
        return [Entry(0, now, now, 1, Kind.SERVICE, None, order.machine_id, "erased", {})]

    done, entries = orders.done(store, number, "b1", "r1", order.token, {"disks": 1}, {"erase": follow}, 203.0)
    assert (done.outcome, done.done_at, done.progress) == ({"disks": 1}, 203.0, {"percent": 40})
    assert [entry.text for entry in entries] == ["erased"]
    again, nothing = orders.done(store, number, "b1", "r1", order.token, {"disks": 2}, {"erase": follow}, 204.0)
    assert (again, nothing, len(followed)) == (done, [], 1)
    with pytest.raises(Refused, match="closed"):
        orders.done(store, number, "b1", "r2", order.token, {"disks": 2}, {"erase": follow}, 204.0)
    with pytest.raises(Refused, match="closed"):
        orders.progressed(store, number, "b1", "r1", order.token, {}, 205.0)
    assert told(store) == []


def test_a_failure_of_what_follows_leaves_the_order_open(store: Store, machine_id: int) -> None:
    number = add(store, machine_id)
    (order,) = told(store)

    def broken(store: Store, order: Order, now: float) -> list[Entry]:
        raise Refused("no")

    with pytest.raises(Refused, match="no"):
        orders.done(store, number, "b1", "r1", order.token, {}, {"erase": broken}, 203.0)
    assert told(store) == [order]


def test_nothing_is_told_or_begun_while_two_machines_have_one_uuid(store: Store, machine_id: int) -> None:
    number = add(store, machine_id)
    (order,) = told(store)
    inventory.report(store, small(OTHER, boot_id="b9", uuid=UUID, serial="OTHER"), "192.0.2.101", 201.0)
    assert told(store, now=202.0) == []
    with pytest.raises(Refused, match="may not begin: it has the same UUID"):
        orders.claim(store, number, "b1", "r1", order.token, 203.0)


def test_an_unknown_boot_is_asked_for_a_report(store: Store) -> None:
    with pytest.raises(NotFound, match="no machine has reported with boot id 'zzz': report first"):
        told(store, boot_id="zzz")
