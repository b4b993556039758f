"""Orders in the database: what was saved comes back, and old ones are forgotten."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from metalbox.machine import Machine
from metalbox.power import Device, Mode, Override, PowerState
from metalbox.power.orders import Kept, Outcome, PowerOrder, Verb, Write
from metalbox.powerrecords import KEPT
from metalbox.store import Store, sqlite_url


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store.open(sqlite_url(tmp_path / "metalbox.db"))
    with store.transaction():
        store.machines.add(Machine(id=0, name="m1", state="discovered"))
        store.machines.add(Machine(id=0, name="m2", state="discovered"))
    yield store
    store.close()


def test_an_order_comes_back(store: Store) -> None:
    order = PowerOrder(Verb.CYCLE, Override(Device.PXE, Mode.UEFI, True))
    with store.transaction():
        number = store.power_orders.insert(1, order, 100.0)
        store.power_orders.mark_sent(number, [Write.OFF, Write.ON])
        (saved,) = store.power_orders.unfinished()
    assert (saved.id, saved.machine_id, saved.created_at, saved.finished_at) == (number, 1, 100.0, None)
    assert (saved.order.verb, saved.order.boot, saved.order.sent) == (order.verb, order.boot, (Write.OFF, Write.ON))
    with store.transaction():
        store.power_orders.finish(number, Outcome(True, PowerState.ON, "is on"), 101.0)
        assert store.power_orders.unfinished() == []
        found = store.power_orders.get(number)
    assert found is not None
    assert (found.finished_at, found.outcome["text"]) == (101.0, "is on")


def test_only_the_newest_of_each_machine_are_kept(store: Store) -> None:
    with store.transaction():
        other = store.power_orders.insert(2, PowerOrder(Verb.ON), 1.0)
        store.power_orders.finish(other, Outcome(True, PowerState.ON, ""), 1.0)
        waiting = store.power_orders.insert(1, PowerOrder(Verb.ON), 1.0)
        numbers = []
        for _ in range(KEPT + 5):
            numbers.append(store.power_orders.insert(1, PowerOrder(Verb.ON), 1.0))
            store.power_orders.finish(numbers[-1], Outcome(True, PowerState.ON, ""), 2.0)
        assert [number for number in numbers if store.power_orders.get(number)] == numbers[-KEPT:]
        assert store.power_orders.get(waiting) is not None
        assert store.power_orders.get(other) is not None


def test_what_was_set_for_one_boot_is_known_until_it_was_looked_at(store: Store) -> None:
    pxe = Override(Device.PXE, Mode.KEEP, True)
    kept = Kept("ipmi", "192.0.2.50", Override(), Override(Device.PXE, Mode.BIOS, False), 100.0)
    with store.transaction():
        number = store.power_orders.insert(1, PowerOrder(Verb.ON, pxe), 100.0)
        store.power_orders.mark_kept(number, kept)
        (saved,) = store.power_orders.unfinished()
        assert (saved.order.kept, store.power_orders.with_kept()) == (kept, []), "it is not finished"
        done = Outcome(True, PowerState.ON, 'a text with "kept": in it', kept=kept, writes=(Write.ON,))
        store.power_orders.finish(number, done, 101.0)
        other = store.power_orders.insert(2, PowerOrder(Verb.ON), 100.0)
        store.power_orders.finish(other, Outcome(True, PowerState.ON, ""), 101.0)
        assert [(row.id, row.kept) for row in store.power_orders.with_kept()] == [(number, kept)]
        assert [row.id for row in store.power_orders.finished_after(1, number)] == [number]
        store.power_orders.forget_kept(number)
        assert store.power_orders.with_kept() == []
        found = store.power_orders.get(number)
    assert found is not None
    assert (found.kept, found.outcome["done"], found.finished_at) == (None, True, 101.0)
