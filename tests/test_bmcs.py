"""BMCs as they become known, from every source and in any order; whose they are, and what the timeline tells."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st

from metalbox import bmcs, inventory
from metalbox.bmcmatch import Source, Told
from metalbox.bmcrecords import BmcRecord
from metalbox.errors import BmcHung, BmcWrongPassword, NotFound, Refused
from metalbox.machine import Mac, Machine
from metalbox.power import BmcInventory
from metalbox.schema import metadata
from metalbox.store import Store, sqlite_url
from tests.reports import OTHER_UUID, UUID, full, small

BMC_MAC = Mac("52:54:00:00:00:0f")
OTHER_MAC = Mac("52:54:00:00:00:0e")
HOST = Mac("52:54:00:00:00:01")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = Store.open(sqlite_url(tmp_path / "metalbox.db"))
    yield opened
    opened.close()


def report(store: Store, document: dict[str, Any], now: float) -> Machine:
    return inventory.report(store, document, "192.0.2.100", now).machine


def everything(store: Store) -> list[BmcRecord]:
    with store.transaction():
        return store.bmcs.all()


def only(store: Store) -> BmcRecord:
    (record,) = everything(store)
    return record


def lines(store: Store) -> list[str]:
    with store.transaction():
        return [entry.text for entry in store.events.all(1000) if entry.data.get("field") == "bmc"]


def test_a_report_tells_of_the_machines_own_bmc(store: Store) -> None:
    machine = report(store, full(), 100.0)
    record = only(store)
    assert (record.machine_id, record.address, record.mac, record.channel) == (machine.id, "192.0.2.200", BMC_MAC, 1)
    assert (record.source, record.firmware, record.first_seen, record.last_seen) == ("in-band", "2.92", 100.0, 100.0)
    assert lines(store) == ["a BMC is known now: 192.0.2.200 (52:54:00:00:00:0f), the agent told of it"]
    document = full()
    document["hardware"]["bmc"] |= {"address": "192.0.2.201", "firmware": "3.0"}
    report(store, document, 200.0)
    assert (only(store).address, only(store).firmware) == ("192.0.2.201", "3.0")
    assert lines(store)[1:] == ["the BMC 192.0.2.201: address 192.0.2.201 (it was 192.0.2.200); the agent told of it"]
    report(store, document, 300.0)
    assert len(lines(store)) == 2


def test_a_bmc_without_an_address_is_known_too(store: Store) -> None:
    document = full()
    document["hardware"]["bmc"] = {"address": "0.0.0.0", "mac": "", "channel": 8}
    machine = report(store, document, 100.0)
    assert (only(store).address, only(store).machine_id, only(store).channel) == ("", machine.id, 8)
    report(store, full(), 200.0)
    assert (only(store).address, only(store).mac) == ("192.0.2.200", BMC_MAC)


def test_dhcp_tells_first_and_the_report_says_whose_it_is(store: Store) -> None:
    bmcs.heard(store, BMC_MAC, "192.0.2.200", "iDRAC", 50.0)
    assert (only(store).machine_id, only(store).vendor, only(store).source) == (None, "Dell", "dhcp")
    machine = report(store, full(), 100.0)
    assert only(store).machine_id == machine.id
    assert lines(store) == [
        "a BMC is known now: 192.0.2.200 (52:54:00:00:00:0f), it asked for an address; it is nobody's: no machine"
        " has its UUID, serial number or MAC",
        "the BMC 192.0.2.200 (52:54:00:00:00:0f) is this machine's: the agent told of it",
    ]
    bmcs.heard(store, BMC_MAC, "192.0.2.210", "iDRAC", 150.0)
    assert only(store).address == "192.0.2.210"
    with store.transaction():
        assert len(store.events.of_machine(machine, 100, None)) == 3


def test_hearing_it_again_writes_now_and_then(store: Store) -> None:
    bmcs.heard(store, BMC_MAC, "192.0.2.200", "CPQRIB3", 50.0)
    assert bmcs.heard(store, BMC_MAC, "192.0.2.200", "CPQRIB3", 60.0) == []
    assert only(store).last_seen == 50.0
    assert bmcs.heard(store, BMC_MAC, "", "CPQRIB3", 60.0 + bmcs.SEEN_SECONDS) == []
    assert only(store).last_seen == 60.0 + bmcs.SEEN_SECONDS
    assert len(lines(store)) == 1


def test_a_list_by_serial_finds_the_bmc_that_the_agent_told_of(store: Store) -> None:
    machine = report(store, full(), 100.0)
    done = bmcs.learn(store, Told(Source.IMPORT, address="203.0.113.5", port=8443, serial="8fzc1p1"), 200.0)
    assert not done.is_new
    record = only(store)
    assert (record.machine_id, record.address, record.port, record.source) == (
        machine.id,
        "203.0.113.5",
        8443,
        "import",
    )
    # The address that a person gave (a port forwarded by a router) stays; the other is tried after it.
    report(store, full(), 300.0)
    assert (only(store).address, only(store).facts["also_at"]) == ("203.0.113.5", "192.0.2.200")


def test_a_bmc_waits_for_its_machine(store: Store) -> None:
    for number, told in enumerate(
        [Told(Source.IMPORT, "192.0.2.7", serial="8FZC1P1"), Told(Source.SCAN, "192.0.2.8", uuid=OTHER_UUID)]
    ):
        bmcs.learn(store, told, 10.0 + number)
    machine = report(store, small("02:00:00:00:00:01", boot_id="b", uuid=UUID, serial="8FZC1P1"), 100.0)
    assert [record.machine_id for record in everything(store)] == [machine.id, None]
    assert lines(store)[-1] == "the BMC 192.0.2.7 is this machine's: by its serial number"


def test_what_the_bmc_says_itself_corrects_the_list(store: Store) -> None:
    one = report(store, small("02:00:00:00:00:01", boot_id="b1", uuid=UUID, serial="AAAA1111"), 100.0)
    two = report(store, small("02:00:00:00:00:02", boot_id="b2", uuid=OTHER_UUID, serial="BBBB2222"), 100.0)
    number = bmcs.learn(store, Told(Source.IMPORT, "192.0.2.7", serial="AAAA1111"), 110.0).bmc.id
    assert only(store).machine_id == one.id
    said = BmcInventory("QEMU", "x", "BBBB2222", OTHER_UUID.upper(), (Mac("02:00:00:00:00:02"),), "1.0", BMC_MAC)
    bmcs.identified(store, number, "redfish", said, 120.0)
    record = only(store)
    assert (record.machine_id, record.drivers, record.mac, record.last_seen) == (two.id, ("redfish",), BMC_MAC, 120.0)
    assert lines(store)[-2:] == [
        "the BMC 192.0.2.7 is not this machine's any more: by its UUID, serial number and MAC",
        "the BMC 192.0.2.7 (52:54:00:00:00:0f) is this machine's: by its UUID, serial number and MAC",
    ]


def test_what_the_agent_and_people_say_is_only_doubted(store: Store) -> None:
    one = report(store, full(), 100.0)
    two = report(store, small("02:00:00:00:00:02", boot_id="b2", uuid=OTHER_UUID, serial="BBBB2222"), 100.0)
    number = only(store).id
    bmcs.identified(store, number, "ipmi", BmcInventory(serial="BBBB2222"), 120.0)
    assert only(store).machine_id == one.id
    assert only(store).facts["doubt"] == "by its serial number it is another machine's"
    bmcs.assign(store, number, two.id, 130.0)
    assert (only(store).machine_id, "doubt" in only(store).facts) == (two.id, False)
    bmcs.assign(store, number, None, 140.0)
    bmcs.identified(store, number, "ipmi", BmcInventory(serial="BBBB2222", firmware="2"), 150.0)
    assert only(store).machine_id is None


def test_two_machines_under_one_uuid_own_nothing(store: Store) -> None:
    report(store, small("02:00:00:00:00:01", boot_id="b1", uuid=UUID), 100.0)
    report(store, small("02:00:00:00:00:02", boot_id="b2", uuid=UUID), 101.0)
    bmcs.learn(store, Told(Source.SCAN, "192.0.2.7", uuid=UUID), 110.0)
    (row,) = bmcs.listing(store)
    assert row["machine"] is None
    assert row["reason"] == "its UUID is that of m-020000000001 and m-020000000002"


def test_an_address_belongs_to_the_bmc_that_has_it_now(store: Store) -> None:
    bmcs.heard(store, BMC_MAC, "192.0.2.200", "iDRAC", 50.0)
    bmcs.heard(store, OTHER_MAC, "192.0.2.200", "iDRAC", 60.0)
    assert {record.mac: record.address for record in everything(store)} == {BMC_MAC: "", OTHER_MAC: "192.0.2.200"}
    assert f"the BMC {BMC_MAC} is no longer at 192.0.2.200: {OTHER_MAC} is there now" in lines(store)


def test_records_that_turn_out_to_be_one_are_merged(store: Store) -> None:
    bmcs.heard(store, BMC_MAC, "", "", 50.0)
    bmcs.learn(store, Told(Source.SCAN, "192.0.2.200", drivers=("ipmi",)), 60.0)
    assert len(everything(store)) == 2
    bmcs.heard(store, BMC_MAC, "192.0.2.200", "", 70.0)
    assert (only(store).mac, only(store).address) == (BMC_MAC, "192.0.2.200")


def test_several_systems_and_ports_at_one_address_are_several(store: Store) -> None:
    for told, system in [
        (Told(Source.OPERATOR, "192.0.2.7", 8000, ("redfish",)), "/redfish/v1/Systems/1"),
        (Told(Source.OPERATOR, "192.0.2.7", 8000, ("redfish",)), "/redfish/v1/Systems/2"),
        (Told(Source.OPERATOR, "192.0.2.7", 6230, ("ipmi",)), ""),
    ]:
        bmcs.learn(store, told, 10.0, settings={"system": system} if system else None)
        bmcs.learn(store, told, 11.0, settings={"system": system} if system else None)
    assert len(everything(store)) == 3
    assert len(lines(store)) == 3


def test_errors_are_told_once_and_their_end_too(store: Store) -> None:
    number = bmcs.learn(store, Told(Source.OPERATOR, "192.0.2.7"), 10.0).bmc.id
    for at in (20.0, 30.0):
        bmcs.failed(store, number, BmcHung("192.0.2.7 took the request and never answered", evidence="10 s"), at)
    bmcs.failed(store, number, BmcWrongPassword("192.0.2.7 does not take root's password"), 40.0)
    (row,) = bmcs.listing(store)
    assert row["last_error"] == {
        "code": "wrong-password",
        "text": "192.0.2.7 does not take root's password",
        "at": 40.0,
    }
    bmcs.answered(store, number, "ipmi", 50.0)
    assert bmcs.answered(store, number, "ipmi", 60.0) == []
    assert (only(store).error_code, only(store).drivers, only(store).last_seen) == ("", ("ipmi",), 50.0)
    assert lines(store)[1:] == [
        "the BMC 192.0.2.7: 192.0.2.7 took the request and never answered",
        "the BMC 192.0.2.7: 192.0.2.7 does not take root's password",
        "the BMC 192.0.2.7: drivers ipmi; it answered",
        "the BMC 192.0.2.7 answers again (ipmi), after: 192.0.2.7 does not take root's password",
    ]


def test_finding_and_forgetting(store: Store) -> None:
    report(store, full(), 100.0)
    record = only(store)
    for name in ("192.0.2.200", "5254.0000.000F", str(record.id), "8FZC1P1"):
        assert bmcs.find(store, name) == record
    with pytest.raises(NotFound, match="there is no BMC 'x': `metalbox bmc list` shows all"):
        bmcs.find(store, "x")
    other = bmcs.learn(store, Told(Source.OPERATOR, "192.0.2.7", 1), 110.0).bmc
    twin = bmcs.learn(store, Told(Source.OPERATOR, "192.0.2.7", 2), 110.0).bmc
    with pytest.raises(Refused, match=f"more than one BMC: say {other.id} or {twin.id}"):
        bmcs.find(store, "192.0.2.7")
    bmcs.forget(store, record.id, 120.0)
    assert lines(store)[-1] == "the BMC 192.0.2.200 was forgotten"
    with pytest.raises(NotFound):
        bmcs.forget(store, record.id, 130.0)


def test_the_listing_is_plain_json(store: Store) -> None:
    report(store, full(), 100.0)
    assert bmcs.listing(store) == [
        {
            "id": 1, "machine_id": 1, "machine": "8fzc1p1", "reason": "the agent told of it", "doubt": "",
            "address": "192.0.2.200", "also_at": "", "port": 0, "drivers": [], "mac": "52:54:00:00:00:0f", "vendor": "",
            "model": "", "firmware": "2.92", "serial": "", "uuid": "", "user": "", "has_password": False,
            "source": "in-band", "channel": 1, "first_seen": 100.0, "last_seen": 100.0, "last_error": None,
        }
    ]  # fmt: skip


HOSTS = [
    (Mac(f"02:00:00:00:00:0{number}"), uuid, f"SERIAL-{number}") for number, uuid in enumerate((UUID, OTHER_UUID), 1)
]
addresses = st.sampled_from(["", "192.0.2.1", "192.0.2.2", "192.0.2.3"])
bmc_macs = st.sampled_from([None, BMC_MAC, OTHER_MAC])
told = st.builds(
    Told,
    st.sampled_from([Source.IMPORT, Source.OPERATOR, Source.SCAN, Source.DHCP]),
    address=addresses,
    port=st.sampled_from([0, 8000]),
    mac=bmc_macs,
    serial=st.sampled_from(["", *(serial for _, _, serial in HOSTS)]),
    uuid=st.sampled_from(["", *(uuid for _, uuid, _ in HOSTS)]),
).filter(lambda told: told.address or told.mac)
in_band = st.tuples(st.sampled_from(HOSTS), addresses, bmc_macs)


def tell(store: Store, step: Any, now: float) -> tuple[str, ...]:
    if isinstance(step, Told):
        return tuple(entry.text for entry in bmcs.learn(store, step, now).entries)
    (mac, uuid, serial), address, bmc_mac = step
    document = small(mac, boot_id=serial, uuid=uuid, serial=serial)
    document["hardware"]["bmc"] = {"address": address, "mac": bmc_mac or ""}
    done = inventory.report(store, document, "", now)
    return tuple(entry.text for entry in done.entries if entry.data.get("field") == "bmc")


@pytest.fixture(scope="module")
def reused() -> Iterator[Store]:
    opened = Store.open("sqlite://")
    yield opened
    opened.close()


@settings(max_examples=100, deadline=None)
@given(steps=st.lists(told | in_band, max_size=6))
def test_whoever_tells_in_any_order(reused: Store, steps: list[Any]) -> None:
    store = reused
    with store.transaction():
        for table in (metadata.tables[name] for name in ("bmcs", "macs", "machines")):
            store.connection.execute(sa.delete(table))
    for number, step in enumerate(steps):
        tell(store, step, float(number))
        records = everything(store)
        macs = [record.mac for record in records if record.mac]
        assert len(macs) == len(set(macs)), "one MAC is one BMC"
        for record in records:
            assert record.facts.get("unmatched" if record.machine_id is None else "reason")
        # Who says the same again says nothing new.
        assert tell(store, step, float(number)) == ()
        assert everything(store) == records
