"""Whom the patrol asks, and what the timeline is told of what it sees."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from metalbox import bmcaccounts, bmcs
from metalbox.bmcmatch import Source, Told
from metalbox.journal import Journal
from metalbox.machine import Mac, Machine
from metalbox.power import PowerState
from metalbox.power.orders import Observation
from metalbox.secrets import Secret
from metalbox.store import Database, Store, sqlite_url
from metalbox.switchboard import Switchboard

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


async def test_what_changed_is_told_once(switchboard: Switchboard) -> None:
    for before, after in ((Observation(), OFF), (OFF, ON), (ON, SICK), (SICK, SICK), (SICK, ON), (ON, ON)):
        switchboard._seen(1, before, after)
    switchboard._seen("bmc 3", OFF, ON)
    lines = [entry.text for entry in switchboard._journal.pending]
    assert lines == [
        "is off, as redfish reads it",
        "is on, as redfish reads it",
        "its BMC cannot be asked: 192.0.2.50 does not answer",
        "its BMC answers again: it is on",
    ]


async def test_a_bmc_that_asked_for_an_address_is_remembered(switchboard: Switchboard) -> None:
    mac = Mac("02:00:00:00:00:09")
    switchboard.heard(mac, "192.0.2.77", "iDRAC")
    switchboard.heard(mac, "", "iDRAC")
    await switchboard.learn()
    await switchboard.learn()
    (row,) = await switchboard._database.run(bmcs.listing)
    assert (row["mac"], row["address"], row["vendor"], row["source"]) == (mac, "192.0.2.77", "Dell", "dhcp")
