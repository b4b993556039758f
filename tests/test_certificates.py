"""`issue`: every disk of an order gets one document, the machine one only when all are proved; once, however often."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from metalbox.certificates import is_whole, issue
from metalbox.erase.document import verify, verify_chain
from metalbox.errors import Refused
from metalbox.orderrecords import Order
from metalbox.signing import SigningKey
from metalbox.store import Store, sqlite_url
from tests.erase.disks import HDD, NVME, VIRTIO
from tests.erase.outcomes import MACHINE, NOW, changed, order, outcome


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store.open(sqlite_url(tmp_path / "metalbox.db"))
    yield store
    store.close()


@pytest.fixture
def key(tmp_path: Path) -> SigningKey:
    return SigningKey.open(tmp_path, environment={})


def make_order(data: dict[str, Any] | None = None, said: dict[str, Any] | None = None, **changes: Any) -> Order:
    data = order() if data is None else data
    said = outcome(data) if said is None else said
    made = Order(3, MACHINE.id, "erase", NOW - 60, NOW - 1, data, "boot-9", "t", NOW - 50, {}, said)
    return replace(made, **changes)


def kinds(documents: list[dict[str, Any]]) -> list[tuple[str, str]]:
    return [(one["kind"], one.get("drive", {}).get("serial", "")) for one in documents]


def test_all_is_well(store: Store, key: SigningKey) -> None:
    with store.transaction():
        made = issue(store, key, make_order(), MACHINE, "alice", NOW)
    assert kinds(made) == [("drive", NVME.serial), ("drive", HDD.serial), ("machine", "")]
    assert is_whole(made)
    assert verify_chain(made, complete=True) == []
    assert all(verify(document, key.public) == [] for document in made)
    with store.transaction():
        assert issue(store, key, make_order(), MACHINE, "alice", NOW + 99) == made
        assert len(store.certificates.listing()) == 3
        # Another order, though it has the same number: a database that was restored gives numbers again.
        assert len(issue(store, key, make_order(created_at=NOW), MACHINE, "alice", NOW)) == 3


def test_one_disk_failed(store: Store, key: SigningKey) -> None:
    data = order()
    said = changed(outcome(data), "disks.1.verification.mismatches", [{"offset": 4096}])
    with store.transaction():
        made = issue(store, key, make_order(data, said), MACHINE, "alice", NOW)
    assert kinds(made) == [("drive", NVME.serial), ("failure", HDD.serial)]
    assert "mismatches" in made[1]["reason"]
    assert not is_whole(made)


def test_what_could_not_be_erased_and_what_nobody_named(store: Store, key: SigningKey) -> None:
    data = order([NVME, VIRTIO])
    said = outcome(data)
    said["disks"].append({"serial": "NEW", "wwn": "", "model": "?", "size_bytes": 5, "result": "refused"})
    with store.transaction():
        made = issue(store, key, make_order(data, said), MACHINE, "alice", NOW)
    assert kinds(made) == [("drive", NVME.serial), ("failure", VIRTIO.serial), ("failure", "NEW")]
    assert made[1]["reason"].startswith("it could not be erased: no method reaches purge: it is a virtual disk")


@pytest.mark.parametrize("said", [{}, {"refused": "another machine"}])
def test_an_order_that_came_to_nothing(store: Store, key: SigningKey, said: dict[str, Any]) -> None:
    with store.transaction():
        made = issue(store, key, make_order(said=said), MACHINE, "alice", NOW)
    assert {one["kind"] for one in made} == {"failure"}
    assert len(made) == 2


def test_nothing_was_begun_and_nothing_is_recorded(store: Store, key: SigningKey) -> None:
    with store.transaction():
        assert issue(store, key, make_order(said={}, claimed_at=None), MACHINE, "alice", NOW) == []
        assert store.certificates.newest() is None


def test_orders_that_are_not_meant(store: Store, key: SigningKey) -> None:
    with store.transaction():
        for wrong in (make_order(verb="report"), make_order(machine_id=8)):
            with pytest.raises(Refused, match="nothing to certify"):
                issue(store, key, wrong, MACHINE, "alice", NOW)
