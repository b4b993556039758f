"""Orders as rows: what is written comes back, and only open ones are told."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from metalbox.machine import Machine
from metalbox.store import Store, sqlite_url


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = Store.open(sqlite_url(tmp_path / "metalbox.db"))
    yield opened
    opened.close()


def test_orders_come_back_as_they_were_written(store: Store) -> None:
    with store.transaction():
        number = store.machines.add(Machine(0, "m1", "discovered")).id
        first = store.orders.add(number, "report", 1.0)
        second = store.orders.add(number, "erase", 2.0, {"disks": [1]})
        assert store.orders.open_of(number) == [first, second]
        assert store.orders.get(second.id) == second
        assert store.orders.get(99) is None
        done = store.orders.finish_verb(number, "report", 3.0)
        assert [(order.id, order.done_at) for order in done] == [(first.id, 3.0)]
        assert store.orders.open_of(number) == [second]
        assert store.orders.finish_verb(number, "report", 4.0) == []
        assert store.orders.newest_of(number, "report") == done[0]
        assert store.orders.newest_of(number, "other") is None
        assert store.orders.of_verb("erase", 1.5) == [second]
        assert store.orders.of_verb("erase", 2.0) == []


def test_a_binding_makes_an_earlier_claim_void(store: Store) -> None:
    with store.transaction():
        number = store.orders.add(store.machines.add(Machine(0, "m1", "discovered")).id, "erase", 2.0).id
        store.orders.bind(number, "boot.run", "token")
        store.orders.claim(number, 3.0)
        store.orders.set_progress(number, {"percent": 5})
        store.orders.set_data(number, {"disks": []})
        claimed = store.orders.get(number)
        assert claimed is not None
        assert (claimed.run, claimed.token, claimed.claimed_at) == ("boot.run", "token", 3.0)
        assert (claimed.progress, claimed.data) == ({"percent": 5}, {"disks": []})
        assert "token" not in repr(claimed).replace("'boot.run'", "")
        store.orders.bind(number, "boot.other", "another")
        bound = store.orders.get(number)
        assert bound is not None and bound.claimed_at is None
        store.orders.finish(number, {"done": True}, 4.0)
        finished = store.orders.get(number)
        assert finished is not None and (finished.done_at, finished.outcome) == (4.0, {"done": True})
