"""Whom a boot waited for, second by second."""

from __future__ import annotations

import dataclasses

import pytest

from metalbox.timeline import Entry, Kind
from metalbox.timing import breakdown, latest_boot, stage
from tests.timelines import NOON, agent, bios_boot, dhcp, entry, http, report, tftp


def test_a_bios_boot_second_by_second() -> None:
    boot = [*bios_boot(), agent(35, "hello"), report(41)]
    spent = breakdown(boot, "b1")
    assert spent is not None
    assert (spent.started_at, spent.from_power_on, spent.total) == (NOON, False, 41.0)
    found = {name: round(seconds, 4) for name, seconds in spent.rows()}
    assert found == {
        "metalbox": 0.0003,
        "transfer": 12.5,
        # 2 s of DHCP and 0.5 s until it asks for the file.
        "firmware": 2.4997,
        # 2 s start, 1 s DHCP, 1 s scripts, 0.5 s each before kernel and initramfs.
        "iPXE": 5.0,
        "kernel": 15.0,
        "inventory": 6.0,
    }
    assert sum(found.values()) == pytest.approx(spent.total)
    assert spent.transferred_bytes == 98_070_000
    assert spent.sentence() == (
        "from the first packet to the report 41.0 s, waiting on: metalbox 0.00 s, transfer 12.50 s (98.1 MB),"
        " firmware 2.50 s, iPXE 5.00 s, kernel 15.00 s, inventory 6.00 s"
    )


def test_from_power_on_the_firmwares_own_start_counts() -> None:
    spent = breakdown([entry(Kind.POWER, -20, state="on"), *bios_boot(), agent(35, "hello"), report(41)], "b1")
    assert spent is not None
    assert (spent.total, spent.from_power_on) == (61.0, True)
    assert spent.firmware == pytest.approx(22.4997)
    assert spent.sentence().startswith("from power on to the report 61.0 s, waiting on: ")


def test_uefi_with_the_pxe_port_and_without_hello() -> None:
    boot = [
        dhcp(0, "uefi", "DISCOVER", "OFFER", "REQUEST", "IGNORED", last=4, boot_file="snponly.efi", micros=500),
        dhcp(4.1, "uefi", "REQUEST", "ACK", port=4011, boot_file="snponly.efi", micros=200),
        tftp(4.4, "snponly.efi", "aborted", seconds=0.1),
        tftp(6, "snponly.efi", size=200_000, seconds=1.5),
        dhcp(8, "ipxe", "DISCOVER", "OFFER", last=9),
        http(9.5, "script", seconds=0.25),
        http(11, "kernel", seconds=1.0),
        http(20, "initrd", seconds=8.0),
    ]
    spent = breakdown([*boot, report(60)], "b1")
    assert spent is not None
    assert spent.kernel == 40.0
    assert spent.inventory == 0.0
    assert spent.metalbox == pytest.approx(0.25 + 500e-6, abs=1e-9)
    assert sum(seconds for _, seconds in spent.rows()) == pytest.approx(60.0)


def test_only_the_newest_boot_counts() -> None:
    before = [*bios_boot(-400), agent(-360, "hello", "b0"), report(-355, "b0"), agent(-350, "poll", "b0", last=-40)]
    spent = breakdown([*before, *bios_boot(), agent(35, "hello"), report(41)], "b1")
    assert spent is not None
    assert (spent.started_at, spent.total) == (NOON, 41.0)


@pytest.mark.parametrize("gap", [60, 400])
def test_a_boot_that_failed_before_is_not_counted(gap: float) -> None:
    failed = bios_boot(-gap)[:6]
    assert latest_boot([*failed, *bios_boot()])[0].at == NOON


def test_a_second_report_of_one_boot_tells_nothing() -> None:
    boot = [*bios_boot(), agent(35, "hello"), report(41)]
    assert breakdown([*boot, agent(50, "poll"), report(90)], "b1") is None


def test_an_agent_that_was_started_by_hand_had_no_boot() -> None:
    assert breakdown([agent(35, "hello"), report(41)], "b1") is None
    assert breakdown([], "b1") is None


def test_overlaps_and_odd_order_still_add_up() -> None:
    boot = [*bios_boot(), http(10, "kernel", "aborted", seconds=9.0), agent(35, "hello"), report(41)]
    for entries in (boot, boot[::-1]):
        spent = breakdown(entries, "b1")
        assert spent is not None
        assert sum(seconds for _, seconds in spent.rows()) == pytest.approx(41.0)
        assert all(seconds >= 0 for _, seconds in spent.rows())


@pytest.mark.parametrize(
    ("line", "reached"),
    [
        (dhcp(0, "os", "REQUEST", "ACK"), None),
        (dhcp(0, "bmc", "REQUEST", "ACK"), None),
        (http(0, "agent"), None),
        (entry(Kind.POWER, 0, state="off"), None),
        (entry(Kind.LOG, 0), None),
        (dhcp(0, "http", "DISCOVER"), 1),
        (tftp(0, "shimx64.efi"), 2),
        (tftp(0, "agent/x86_64/vmlinuz"), 5),
        (tftp(0, "/agent/x86_64/initrd"), 5),
        (dhcp(0, "ipxe", "DISCOVER"), 3),
    ],
)
def test_what_is_part_of_a_boot(line: Entry, reached: int | None) -> None:
    assert stage(line) == reached


def test_it_can_be_stored_as_json() -> None:
    spent = breakdown([*bios_boot(), report(41)], "b1")
    assert spent is not None
    assert set(dataclasses.asdict(spent)) >= {
        "total",
        "metalbox",
        "transfer",
        "firmware",
        "ipxe",
        "kernel",
        "inventory",
    }
