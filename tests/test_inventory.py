"""The verbs on a real store: discovery, change, duplicate UUIDs, orders, finding and listing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from metalbox import inventory, orders
from metalbox.errors import InvalidReport, NotFound, Refused
from metalbox.identity import ALIVE_SECONDS, GONE_SECONDS
from metalbox.inventory import MAX_CHANGES, MAX_MACS, Reported
from metalbox.listing import Wanted, everything
from metalbox.machine import Mac, Machine, swap_uuid
from metalbox.orderrecords import Order
from metalbox.store import Store, sqlite_url
from metalbox.timeline import Entry, Kind
from tests.counting import cost
from tests.reports import OTHER_UUID, PLACEHOLDER, UUID, full, small

A, B, C, D = (Mac(f"52:54:00:00:00:0{number}") for number in (1, 2, 3, 4))


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = Store.open(sqlite_url(tmp_path / "metalbox.db"))
    yield opened
    opened.close()


def report(store: Store, document: dict[str, Any], now: float, address: str = "192.0.2.100") -> Reported:
    return inventory.report(store, document, address, now)


def told(store: Store, boot_id: str, now: float) -> list[Order]:
    return orders.for_run(store, boot_id, "", lambda: "token", now)


def texts(store: Store, machine: Machine, *kinds: Kind) -> list[str]:
    entries = inventory.timeline(store, inventory.find(store, machine.name), 1000)
    return [entry.text for entry in entries if not kinds or entry.kind in kinds]


def everyone(store: Store) -> dict[str, list[str]]:
    return {row["name"]: row["macs"] for row in everything(store, Wanted())}


def test_the_first_report_makes_a_machine(store: Store) -> None:
    done = report(store, full(), 100.0)
    assert done.is_new
    assert done.changes == ()
    machine = inventory.find(store, "8fzc1p1")
    assert machine == done.machine
    assert (machine.state, machine.uuid, machine.serial) == ("discovered", UUID, "8FZC1P1")
    assert machine.macs == (A, B)
    assert (machine.address, machine.boot_id, machine.location) == ("192.0.2.100", "b1", "switch-1 Gi1/0/1")
    assert (machine.first_seen, machine.last_seen, machine.reported_at) == (100.0, 100.0, 100.0)
    assert machine.facts["agent"]["kernel"] == "6.1.0-28-amd64"
    assert texts(store, machine) == [
        "reported for the first time: Dell Inc. PowerEdge R610, 1 processor, 48 GiB memory, 2 disks (1.5 TB),"
        " 2 network ports, 1 GPU",
        "a BMC is known now: 192.0.2.200 (52:54:00:00:00:0f), the agent told of it",
    ]


def test_the_same_report_again_changes_nothing(store: Store) -> None:
    first = report(store, full(), 100.0).machine
    done = report(store, full(boot_id="b2"), 200.0)
    assert not done.is_new
    assert done.machine.id == first.id
    assert (done.machine.first_seen, done.machine.reported_at, done.machine.boot_id) == (100.0, 200.0, "b2")
    assert texts(store, first, Kind.CHANGE) == []


def test_changes_are_told_one_by_one_with_before_and_after(store: Store) -> None:
    report(store, full(), 100.0)
    document = full(boot_id="b2")
    document["hardware"]["firmware"]["version"] = "6.7.0"
    document["hardware"]["dimms"].pop()
    done = report(store, document, 200.0)
    changed = [entry for entry in done.entries if entry.kind is Kind.CHANGE]
    assert [(entry.text, entry.data, entry.at) for entry in changed] == [
        (
            "the firmware's version changed from 6.6.0 to 6.7.0",
            {"field": "firmware.version", "before": "6.6.0", "after": "6.7.0"},
            200.0,
        ),
        (
            "the memory module DIMM_A2 (8 GiB A2) is gone",
            {"field": "dimms[DIMM_A2]", "before": "8 GiB A2", "after": None},
            200.0,
        ),
    ]


def test_a_wholly_new_inside_is_told_in_bounds(store: Store) -> None:
    document = full()
    document["hardware"]["pci"] = [{"address": f"0000:00:{n:02x}.0", "vendor_id": "8086"} for n in range(200)]
    report(store, document, 100.0)
    done = report(store, full(), 200.0)
    changed = [entry.text for entry in done.entries if entry.kind is Kind.CHANGE]
    assert len(changed) == MAX_CHANGES + 1
    assert changed[-1] == f"and {202 - MAX_CHANGES} more differences"


def test_a_wrong_report_changes_nothing(store: Store) -> None:
    document = full()
    document["hardware"]["disks"][1]["size_bytes"] = "much"
    with pytest.raises(InvalidReport, match=r"hardware\.disks\[1\]\.size_bytes: expected a whole number, got 'much'"):
        report(store, document, 100.0)
    assert everyone(store) == {}
    assert store.last_event_id == 0


def test_new_cards_new_board_and_both_byte_orders_are_the_same_machine(store: Store) -> None:
    first = report(store, small(A, boot_id="b1", uuid=UUID, serial="ABC1234"), 100.0).machine
    for boot, document in enumerate(
        [
            small(B, boot_id="b2", uuid=UUID, serial="ABC1234"),
            small(C, boot_id="b3", uuid=OTHER_UUID, serial="ABC1234"),
            small(C, boot_id="b4", uuid=swap_uuid(OTHER_UUID)),
            small(D, boot_id="b5", uuid=swap_uuid(OTHER_UUID)),
        ]
    ):
        done = report(store, document, 1000.0 * (boot + 1))
        assert (done.machine.id, done.is_new) == (first.id, False)
    assert inventory.find(store, "abc1234").macs == (D, C, B, A)


def test_all_cards_exchanged_and_hello_said_before_the_report(store: Store) -> None:
    first = report(store, small(A, boot_id="b1", uuid=UUID, serial="ABC1234"), 100.0).machine
    word = {"boot_id": "b2", "macs": [B], "uuid": UUID, "serial": "ABC1234", "uptime_seconds": 4.0}
    inventory.hello(store, word, "192.0.2.101", 1000.0)
    done = report(store, small(B, boot_id="b2", uuid=UUID, serial="ABC1234"), 1001.0)
    assert (done.machine.id, done.is_new, done.machine.conflict) == (first.id, False, "")


def test_machines_with_placeholders_are_told_apart_by_their_ports(store: Store) -> None:
    one = report(store, small(A, boot_id="b1", uuid=PLACEHOLDER, serial="Default string"), 100.0)
    two = report(store, small(B, boot_id="b2", uuid=PLACEHOLDER, serial="Default string"), 101.0)
    assert one.is_new and two.is_new
    assert two.machine.conflict == ""
    assert [one.machine.name, two.machine.name] == ["m-525400000001", "m-525400000002"]
    assert not report(store, small(A, C, boot_id="b3", uuid=PLACEHOLDER), 5000.0).is_new


def test_a_card_that_is_carried_over_takes_its_mac_along_but_not_its_past(store: Store) -> None:
    one = report(store, small(A, B, boot_id="b1", uuid=UUID, serial="AAAA1111"), 100.0).machine
    store.save_entries([Entry(0, 110.0, 110.0, 1, Kind.DHCP, B, None, "asked as part of the first")])
    two = report(store, small(C, B, boot_id="b2", uuid=OTHER_UUID, serial="BBBB2222"), 200.0).machine
    store.save_entries([Entry(0, 210.0, 210.0, 1, Kind.DHCP, B, None, "asked as part of the second")])
    assert everyone(store) == {"aaaa1111": [A], "bbbb2222": [C, B]}
    assert texts(store, one, Kind.DHCP, Kind.CHANGE) == [
        "asked as part of the first",
        f"the network card {B} is now in bbbb2222, which reported it",
    ]
    assert texts(store, two, Kind.DHCP, Kind.CHANGE) == [
        f"the network card {B} was in aaaa1111 before",
        "asked as part of the second",
    ]


def test_macs_do_not_pile_up_for_ever(store: Store) -> None:
    for number in range(MAX_MACS + 30):
        mac = Mac.from_bytes(b"\x02\0\0\0\0" + bytes([number]))
        report(store, small(A, mac, boot_id=f"b{number}", serial="ABC1234"), 1000.0 * number)
    machine = inventory.find(store, "abc1234")
    assert len(machine.macs) == MAX_MACS
    assert machine.macs[:2] == (A, mac)


def test_two_live_machines_with_one_uuid_and_no_serials_are_in_conflict(store: Store) -> None:
    one = report(store, small(A, boot_id="b1", uuid=UUID), 100.0).machine
    done = report(store, small(B, boot_id="b2", uuid=swap_uuid(UUID)), 100.0 + ALIVE_SECONDS)
    assert done.is_new
    one = inventory.find(store, one.name)
    assert one.conflict == f"it has the same UUID {UUID} as m-525400000002"
    assert done.machine.conflict == f"it has the same UUID {swap_uuid(UUID)} as m-525400000001"
    for machine in (one, done.machine):
        assert len(texts(store, machine, Kind.CONFLICT)) == 1
        with pytest.raises(Refused, match="while it is in conflict: it has the same UUID"):
            inventory.order_report(store, machine.name, 200.0)
    # Both go on as they are, and nothing is told twice.
    report(store, small(A, boot_id="b1", uuid=UUID), 200.0)
    report(store, small(B, boot_id="b2", uuid=swap_uuid(UUID)), 201.0)
    assert len(everyone(store)) == 2
    assert len(texts(store, one, Kind.CONFLICT)) == 1


def test_two_serials_with_one_uuid_are_in_conflict_whenever_they_come(store: Store) -> None:
    report(store, small(A, boot_id="b1", uuid=UUID, serial="AAAA1111"), 100.0)
    done = report(store, small(B, boot_id="b2", uuid=UUID, serial="BBBB2222"), 5000.0)
    assert done.is_new
    assert done.machine.conflict == f"it has the same UUID {UUID} as aaaa1111"
    assert inventory.find(store, "aaaa1111").conflict == f"it has the same UUID {UUID} as bbbb2222"


def test_a_conflict_ends_when_one_gets_its_own_uuid(store: Store) -> None:
    report(store, small(A, boot_id="b1", uuid=UUID, serial="AAAA1111"), 100.0)
    report(store, small(B, boot_id="b2", uuid=UUID, serial="BBBB2222"), 101.0)
    report(store, small(B, boot_id="b3", uuid=OTHER_UUID, serial="BBBB2222"), 500.0)
    for name in ("aaaa1111", "bbbb2222"):
        machine = inventory.find(store, name)
        assert machine.conflict == ""
        assert texts(store, machine, Kind.CONFLICT)[-1] == "the conflict is over"
        inventory.order_report(store, name, 600.0)


def test_a_conflict_ends_when_one_gives_its_uuid_up_for_a_placeholder(store: Store) -> None:
    report(store, small(A, boot_id="b1", uuid=UUID, serial="AAAA1111"), 100.0)
    report(store, small(B, boot_id="b2", uuid=UUID, serial="BBBB2222"), 101.0)
    report(store, small(B, boot_id="b3", uuid=PLACEHOLDER, serial="BBBB2222"), 500.0)
    assert [inventory.find(store, name).conflict for name in ("aaaa1111", "bbbb2222")] == ["", ""]


def test_of_three_the_two_that_stay_remain_in_conflict(store: Store) -> None:
    for mac, serial in ((A, "AAAA1111"), (B, "BBBB2222"), (C, "CCCC3333")):
        report(store, small(mac, boot_id=serial, uuid=UUID, serial=serial), 100.0)
    assert inventory.find(store, "aaaa1111").conflict == f"it has the same UUID {UUID} as bbbb2222, cccc3333"
    report(store, small(C, boot_id="new", uuid=OTHER_UUID, serial="CCCC3333"), 200.0)
    assert inventory.find(store, "aaaa1111").conflict == f"it has the same UUID {UUID} as bbbb2222"
    assert inventory.find(store, "cccc3333").conflict == ""


def test_a_conflict_ends_when_one_is_gone_for_a_day_and_begins_again(store: Store) -> None:
    report(store, small(A, boot_id="b1", uuid=UUID, serial="AAAA1111"), 100.0)
    report(store, small(B, boot_id="b2", uuid=UUID, serial="BBBB2222"), 101.0)
    later = 101.0 + GONE_SECONDS
    told(store, "b2", later)
    with pytest.raises(Refused):
        inventory.order_report(store, "bbbb2222", 100.0 + GONE_SECONDS)
    inventory.order_report(store, "bbbb2222", later)
    assert inventory.find(store, "aaaa1111").conflict == ""
    report(store, small(A, boot_id="b3", uuid=UUID, serial="AAAA1111"), later + 10)
    assert inventory.find(store, "bbbb2222").conflict == f"it has the same UUID {UUID} as aaaa1111"
    # What was ordered before is held back as long as nobody knows who would do it.
    assert told(store, "b2", later + 20) == []
    assert len(inventory.recheck_conflicts(store, later + 21 + 2 * GONE_SECONDS)) == 2
    assert len(told(store, "b2", later + 21 + 2 * GONE_SECONDS)) == 1


def test_one_serial_on_two_live_boards_is_two_machines_without_conflict(store: Store) -> None:
    """Multi-node chassis tell the chassis' number on every board."""
    report(store, small(A, boot_id="b1", uuid=UUID, serial="CHASSIS1"), 100.0)
    done = report(store, small(B, boot_id="b2", uuid=OTHER_UUID, serial="CHASSIS1"), 110.0)
    assert done.is_new
    assert (done.machine.name, done.machine.conflict) == ("m-525400000002", "")
    with pytest.raises(NotFound):
        inventory.find(store, "CHASSIS2")
    assert inventory.find(store, "chassis1").macs == (A,)


def test_an_order_is_durable_and_done_when_a_newer_report_comes(store: Store, tmp_path: Path) -> None:
    machine = report(store, full(), 100.0).machine
    order = inventory.order_report(store, "8fzc1p1", 200.0)
    assert inventory.order_report(store, str(machine.id), 201.0) == order
    store.close()
    again = Store.open(sqlite_url(tmp_path / "metalbox.db"))
    assert [(found.id, found.verb) for found in told(again, "b1", 210.0)] == [(order.id, "report")]
    report(again, full(), 220.0)
    assert told(again, "b1", 230.0) == []
    assert texts(again, machine, Kind.SERVICE) == ["a new report was ordered", "the ordered report has come"]
    again.close()
    reopened = Store.open(sqlite_url(tmp_path / "metalbox.db"))
    assert inventory.find(reopened, "8fzc1p1").last_seen == 230.0
    reopened.close()


def test_orders_for_an_unknown_boot_ask_for_a_report(store: Store) -> None:
    with pytest.raises(NotFound, match="no machine has reported with boot id 'zzz': report first"):
        told(store, "zzz", 1.0)
    report(store, full(), 100.0)
    report(store, full(boot_id="b2"), 200.0)
    with pytest.raises(NotFound):
        told(store, "b1", 201.0)


def test_hello_recognises_a_machine_and_changes_nothing_of_a_stranger(store: Store) -> None:
    word = {"boot_id": "b2", "macs": [A], "uuid": UUID, "serial": "8FZC1P1", "uptime_seconds": 4.0}
    assert inventory.hello(store, word, "192.0.2.101", 50.0) is None
    report(store, full(), 100.0)
    machine = inventory.hello(store, word, "192.0.2.101", 300.0)
    assert machine is not None and machine.name == "8fzc1p1"
    found = inventory.find(store, "8fzc1p1")
    assert (found.last_seen, found.address, found.boot_id) == (300.0, "192.0.2.101", "b1")


def test_a_machine_is_found_by_everything_it_is_known_by(store: Store) -> None:
    report(store, small("52:54:00:00:00:09", boot_id="b0", serial="OTHER99"), 50.0)
    machine = report(store, full(), 100.0).machine
    for name in ("8fzc1p1", "8FZC1P1", " 8fzc1p1 ", "2", A, "52-54-00-00-00-02", "525400000002", UUID, swap_uuid(UUID)):
        assert inventory.find(store, name).id == machine.id, name
    with pytest.raises(NotFound, match="there is no machine 'nobody'"):
        inventory.find(store, "nobody")
    with pytest.raises(NotFound):
        inventory.find(store, "")


def test_an_ambiguous_name_is_refused_with_the_names(store: Store) -> None:
    report(store, small(A, boot_id="b1", uuid=UUID), 100.0)
    report(store, small(B, boot_id="b2", uuid=UUID), 101.0)
    with pytest.raises(Refused) as caught:
        inventory.find(store, UUID)
    assert str(caught.value) == f"'{UUID}' is more than one machine: say m-525400000001 or m-525400000002"


def test_the_relay_says_where_a_machine_stands(store: Store) -> None:
    data = {"client": "bios", "relay": "192.0.2.1", "circuit_id": "ge-0/0/7", "remote_id": "tor-3"}
    store.save_entries([Entry(0, 90.0, 90.0, 1, Kind.DHCP, A, None, "asked", data)])
    assert report(store, full(), 100.0).machine.location == "relay 192.0.2.1, circuit ge-0/0/7, remote tor-3"


def test_listing_filters_and_shows_strangers(store: Store) -> None:
    report(store, full(), 10_000.0)
    report(store, small(C, boot_id="b2", serial="ZZZZ9999"), 10_001.0)
    new, old, system = (Mac(f"52:54:00:00:01:0{number}") for number in (1, 2, 3))
    store.save_entries(
        [
            Entry(0, 9_000.0, 9_900.0, 9, Kind.DHCP, new, None, "was offered undionly.kpxe", {"client": "bios"}),
            Entry(0, 1_000.0, 1_000.0, 1, Kind.DHCP, old, None, "long ago", {"client": "bios"}),
            Entry(0, 9_990.0, 9_990.0, 1, Kind.DHCP, system, None, "an OS", {"client": "os"}),
            Entry(0, 9_990.0, 9_990.0, 1, Kind.DHCP, A, None, "a machine of ours", {"client": "bios"}),
            Entry(0, 9_990.0, 9_990.0, 1, Kind.LOG, old, None, "no boot", {}),
        ]
    )
    found = everything(store, Wanted())
    assert [row["name"] for row in found] == ["8fzc1p1", "zzzz9999"]
    assert inventory.strangers(store, 10_002.0) == [
        {"mac": new, "last_seen": 9_900.0, "text": "was offered undionly.kpxe"}
    ]
    row = found[0]
    assert set(row) == {
        "id", "name", "state", "vendor", "product", "serial", "uuid", "address", "macs", "location", "conflict",
        "memory_bytes", "cpus", "disks", "disk_bytes", "first_seen", "last_seen", "mode", "labels", "owner", "held",
        "fault", "state_since",
    }  # fmt: skip
    assert (row["cpus"], row["disks"], row["disk_bytes"], row["mode"]) == (1, 2, 1500312748032, "uefi")
    for query in ("R610", "8fzc", "52:54:00:00:00:01", "52-54-00-00-00-02", "switch-1", "192.0.2.100", "dell"):
        names = [row["name"] for row in everything(store, Wanted(query=query))]
        assert "8fzc1p1" in names, query
    assert everything(store, Wanted(query="100%")) == []
    assert len(everything(store, Wanted("discovered"))) == 2
    assert everything(store, Wanted("deployed")) == []


def test_strangers_are_known_by_their_mac_only(store: Store) -> None:
    report(store, full(), 100.0)
    assert inventory.find_mac(store, "52-54-00-00-01-01") == "52:54:00:00:01:01"
    assert inventory.find_mac(store, A) is None
    assert inventory.find_mac(store, "8fzc1p1") is None


def test_a_report_tells_how_the_boot_was_spent_once(store: Store) -> None:
    data = {"client": "bios", "port": 67, "messages": ["DISCOVER", "OFFER"], "micros": 100}
    store.save_entries([Entry(0, 80.0, 81.0, 1, Kind.DHCP, A, None, "asked", data)])
    done = report(store, full(), 100.0)
    spent = [entry for entry in done.entries if "timing" in entry.data]
    assert len(spent) == 1
    assert spent[0].kind is Kind.SERVICE
    assert spent[0].data["timing"]["total"] == 20.0
    assert [entry for entry in report(store, full(), 110.0).entries if "timing" in entry.data] == []


def test_a_crash_in_the_middle_of_a_report_leaves_nothing(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    report(store, full(), 100.0)
    before = store.last_event_id

    def fail(*_: Any) -> list[Entry]:
        raise OSError("power cut")

    monkeypatch.setattr(inventory, "_spent", fail)
    document = full(boot_id="b2")
    document["hardware"]["dimms"].pop()
    with pytest.raises(OSError, match="power cut"):
        report(store, document, 200.0)
    assert inventory.find(store, "8fzc1p1").boot_id == "b1"
    assert store.last_event_id == before
    monkeypatch.undo()
    assert len(report(store, document, 201.0).changes) == 1


def test_many_machines_are_listed_in_one_pass(store: Store) -> None:
    with store.transaction():
        for number in range(1_000):
            mac = Mac.from_bytes(b"\x02\0" + number.to_bytes(4, "big"))
            store.machines.add(Machine(0, f"m-{number:05d}", "discovered", f"u{number}", f"s{number}", (mac,)))
    with cost(store) as counted:
        rows = everything(store, Wanted())
    assert len(rows) == 1_000
    # A few queries, not one for each machine; 39 instructions for a machine, also when there are 10,000.
    assert len(counted.statements) <= 6
    assert counted.instructions < 100 * len(rows)


def test_a_report_costs_the_same_however_many_machines_and_strangers_there_are(store: Store) -> None:
    def one(number: int) -> tuple[int, int]:
        mac = f"52:54:00:ff:00:{number:02x}"
        uuid = f"4c4c4544-0042-3510-8054-00000000ff{number:02x}"
        document = small(mac, boot_id=f"b{number}", uuid=uuid, serial=f"NEW{number:04d}")
        with cost(store) as counted:
            assert report(store, document, 100.0).is_new
        return len(counted.statements), counted.instructions

    one(0)  # makes the counter of ids
    few = one(1)
    with store.transaction():
        for number in range(2_000):
            mac = Mac.from_bytes(b"\x02\0" + number.to_bytes(4, "big"))
            store.machines.add(Machine(0, f"m-{number:05d}", "discovered", f"u{number}", f"S{number}", (mac,)))
            store.events.save([Entry(0, 99.0, 99.0, 1, Kind.DHCP, Mac(f"02:01{mac[5:]}"), None, "asked", {})])
    many = one(2)
    assert many[0] == few[0] <= 15
    assert many[1] < 2 * few[1] + 500
