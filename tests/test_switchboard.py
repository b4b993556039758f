"""Whom the patrol asks, and what the timeline is told of what it sees."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from sqlalchemy.exc import OperationalError

from metalbox import bmcaccounts, bmcs
from metalbox.bmcmatch import Source, Told
from metalbox.journal import Journal
from metalbox.machine import Mac, Machine
from metalbox.power import PowerState
from metalbox.power.orders import Observation
from metalbox.secrets import Secret
from metalbox.store import Database, Store, sqlite_url
from metalbox.switchboard import SLICE, Switchboard

OFF = Observation(PowerState.OFF, 1.0, "redfish")
ON = Observation(PowerState.ON, 2.0, "redfish")
SICK = Observation(PowerState.ON, 2.0, "redfish", "hung", "192.0.2.50 does not answer", tried_at=3.0)


@pytest.fixture
async def switchboard(tmp_path: Path) -> AsyncIterator[Switchboard]:
    database = Database(Store.open(sqlite_url(tmp_path / "metalbox.db")))
    board = Switchboard(database, Journal(), tmp_path)
    yield board
    await board.close()
    await database.close()


async def test_the_patrol_tries_no_doors(switchboard: Switchboard) -> None:
    """Without a password nobody is asked; what needs none is."""

    def fill(store: Store) -> None:
        store.machines.add(Machine(id=0, name="m1", state="discovered"))
        told = Told(Source.OPERATOR, address="192.0.2.50", drivers=("redfish",))
        bmcaccounts.add(store, switchboard.vault, told, 1.0, user="root", password=Secret("x"), machine_id=1)
        bmcaccounts.add(store, switchboard.vault, Told(Source.OPERATOR, address="192.0.2.51"), 1.0)
        person = Told(Source.OPERATOR, address="192.0.2.52", drivers=("none",))
        bmcaccounts.add(store, switchboard.vault, person, 1.0)

    await switchboard._database.run(fill)
    machines = await switchboard._machines()
    assert {str(key): [endpoint.address for endpoint in found] for key, found in machines.items()} == {
        "1": ["192.0.2.50"],
        "bmc 3": ["192.0.2.52"],
    }


def add_machine(store: Store, switchboard: Switchboard) -> None:
    store.machines.add(Machine(id=0, name="m1", state="discovered"))
    told = Told(Source.OPERATOR, address="192.0.2.50", drivers=("redfish",))
    bmcaccounts.add(store, switchboard.vault, told, 1.0, user="root", password=Secret("x"), machine_id=1)
    person = Told(Source.OPERATOR, address="192.0.2.52", drivers=("none",))
    bmcaccounts.add(store, switchboard.vault, person, 1.0)


async def test_what_changed_is_told_once(switchboard: Switchboard) -> None:
    await switchboard._database.run(add_machine, switchboard)
    for before, after in ((Observation(), OFF), (OFF, ON), (ON, SICK), (SICK, SICK), (SICK, ON), (ON, ON)):
        switchboard._seen(1, before, after)
        await switchboard.learn()
    for key in ("bmc 2", "bmc 77", 78):
        switchboard._seen(key, OFF, SICK)
    await switchboard.learn()
    lines = [entry.text for entry in switchboard._journal.pending if entry.machine_id == 1]
    assert lines == ["is off, as redfish reads it", "is on, as redfish reads it"]
    stored = await switchboard._database.run(lambda store: store.events.all(50, None))
    assert [entry.text for entry in stored if entry.kind == "power" and entry.machine_id == 1][-2:] == [
        "the BMC 192.0.2.50: 192.0.2.50 does not answer",
        "the BMC 192.0.2.50 answers again, after: 192.0.2.50 does not answer",
    ]
    first, second = await switchboard._database.run(bmcs.listing)
    assert (first["last_error"], second["last_error"]["code"]) == (None, "hung")
    assert first["drivers"] == ["redfish"]


async def test_a_trouble_outlives_a_restart(switchboard: Switchboard) -> None:
    await switchboard._database.run(add_machine, switchboard)
    switchboard._seen(1, ON, SICK)
    await switchboard.learn()
    facts = await switchboard._database.run(switchboard.facts, 1)
    assert (facts.trouble, facts.bmcs[0].error_code, facts.bmcs[0].error_at) == (None, "hung", 3.0)


async def test_a_database_that_fails_costs_nothing_but_time(
    switchboard: Switchboard, monkeypatch: pytest.MonkeyPatch
) -> None:
    await switchboard._database.run(add_machine, switchboard)
    machines = await switchboard._machines()
    switchboard._seen(1, ON, SICK)
    switchboard.heard(Mac("02:00:00:00:00:09"), "192.0.2.77", "iDRAC")

    async def full(*args: object) -> None:
        raise OperationalError("INSERT", {}, Exception("database or disk is full"))

    with monkeypatch.context() as patch:
        patch.setattr(switchboard._database, "run", full)
        await switchboard.learn()
        assert await switchboard._machines() == machines
    assert switchboard.counters == {"database failed: BMCs": 1, "database failed: patrol": 1}
    await switchboard.learn()
    rows = await switchboard._database.run(bmcs.listing)
    assert [row["last_error"] and row["last_error"]["code"] for row in rows] == ["hung", None, None]
    assert rows[2]["mac"] == "02:00:00:00:00:09"


async def test_a_patrol_of_many_leaves_room_for_leases(switchboard: Switchboard) -> None:
    def fill(store: Store) -> None:
        for number in range(SLICE * 2 + 1):
            told = Told(Source.OPERATOR, address=f"10.0.{number // 250}.{number % 250 + 1}", drivers=("redfish",))
            bmcaccounts.add(store, switchboard.vault, told, 1.0, user="root", password=Secret(f"x{number}"))

    await switchboard._database.run(fill)
    found = await switchboard._machines()
    assert len(found) == SLICE * 2 + 1
    (last,) = found[f"bmc {SLICE * 2 + 1}"]
    assert last.credentials is not None and last.credentials.password == f"x{SLICE * 2}"


async def test_a_bmc_that_asked_for_an_address_is_remembered(switchboard: Switchboard) -> None:
    mac = Mac("02:00:00:00:00:09")
    switchboard.heard(mac, "192.0.2.77", "iDRAC")
    switchboard.heard(mac, "", "iDRAC")
    await switchboard.learn()
    await switchboard.learn()
    (row,) = await switchboard._database.run(bmcs.listing)
    assert (row["mac"], row["address"], row["vendor"], row["source"]) == (mac, "192.0.2.77", "Dell", "dhcp")
