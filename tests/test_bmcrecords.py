"""BMCs, in and out of the database, and what they are found by."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from metalbox.bmcmatch import Marks, Place, Source
from metalbox.bmcrecords import BmcRecord
from metalbox.machine import Mac, Machine, swap_uuid
from metalbox.schema import machines
from metalbox.store import Store, sqlite_url
from tests.reports import OTHER_UUID, PLACEHOLDER, UUID

A, B, C = (Mac(f"52:54:00:00:00:0{number}") for number in (1, 2, 3))


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = Store.open(sqlite_url(tmp_path / "metalbox.db"))
    with opened.transaction():
        opened.machines.add(Machine(0, "one", "discovered", UUID, "AAAA1111", (A,)))
        opened.machines.add(Machine(0, "two", "discovered", OTHER_UUID, "BBBB2222", (B,)))
    yield opened
    opened.close()


WHOLE = BmcRecord(
    0, 1, "192.0.2.10", 8443, ("redfish", "ipmi"), C, "Dell", "iDRAC9", "7.0", "AAAA1111", UUID, "root",
    "v1:00112233:xx", Source.IMPORT, 1, 1.5, 2.5, "hung", "no answer", 3.5, {"macs": [A], "reason": "by its UUID"},
)  # fmt: skip


def test_a_bmc_comes_back_as_it_was(store: Store) -> None:
    with store.transaction():
        stored = store.bmcs.add(WHOLE)
        assert store.bmcs.get(stored.id) == stored
        assert store.bmcs.get(stored.id + 1) is None
        store.bmcs.save(BmcRecord(stored.id, user="ä\0\ud800", source=Source.DHCP))
        assert store.bmcs.all() == [BmcRecord(stored.id, user="ä ?", source=Source.DHCP)]
        store.bmcs.saw(stored.id, 9.0)
        assert store.bmcs.all()[0].last_seen == 9.0
        store.bmcs.delete(stored.id)
        assert store.bmcs.all() == []


def test_what_is_sealed_is_in_no_repr() -> None:
    assert "00112233" not in repr(WHOLE)


def test_near_is_whatever_shares_a_mark(store: Store) -> None:
    with store.transaction():
        one = store.bmcs.add(WHOLE)
        two = store.bmcs.add(BmcRecord(address="192.0.2.11", mac=B))
        assert store.bmcs.near(Place("192.0.2.10")) == store.bmcs.near(Place(mac=C)) == [one]
        assert store.bmcs.near(Place("192.0.2.11", machine_id=1)) == [one, two]
        assert store.bmcs.near(Place()) == []
        assert store.bmcs.of_machine(1) == [one]
        assert (one.shown, two.shown, BmcRecord(7).shown) == ("192.0.2.10", "192.0.2.11", "number 7")


def test_candidates_are_the_machines_with_a_mark(store: Store) -> None:
    def names(marks: Marks) -> list[str]:
        with store.transaction():
            return sorted(candidate.name for candidate in store.bmcs.candidates(marks))

    with store.transaction():
        store.bmcs.add(WHOLE)
    assert names(Marks(uuid=swap_uuid(UUID))) == names(Marks(serial="aaaa1111 ")) == names(Marks(mac=C)) == ["one"]
    assert names(Marks(UUID, macs=(B,))) == ["one", "two"]
    assert names(Marks(PLACEHOLDER, "None")) == []
    with store.transaction():
        (found,) = store.bmcs.candidates(Marks(mac=C))
    assert (found.macs, found.bmc_macs) == ((A,), (C,))


def test_waiting_are_those_without_a_machine(store: Store) -> None:
    with store.transaction():
        store.bmcs.add(WHOLE)
        by_uuid = store.bmcs.add(BmcRecord(uuid=swap_uuid(UUID)))
        by_serial = store.bmcs.add(BmcRecord(serial="aaaa1111"))
        by_mac = store.bmcs.add(BmcRecord(mac=A))
        by_macs = store.bmcs.add(BmcRecord(facts={"macs": [A]}))
        store.bmcs.add(BmcRecord(uuid=OTHER_UUID))
        assert store.bmcs.waiting(UUID, "AAAA1111", (A,)) == [by_uuid, by_serial, by_mac, by_macs]


def test_a_machine_that_is_gone_leaves_its_bmc(store: Store) -> None:
    with store.transaction():
        number = store.bmcs.add(WHOLE).id
        store.connection.execute(sa.delete(machines).where(machines.c.id == 1))
        found = store.bmcs.get(number)
    assert found is not None and found.machine_id is None


def test_which_keys_are_in_use(store: Store) -> None:
    with store.transaction():
        assert store.bmcs.keys_in_use() == set()
        for sealed in ("v1:00112233:xx", "v1:00112233:yy", "v1:ffeeddcc:zz", ""):
            store.bmcs.add(BmcRecord(sealed=sealed))
        assert store.bmcs.keys_in_use() == {"00112233", "ffeeddcc"}
