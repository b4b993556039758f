"""`why`, fault by fault, on hand-written timelines."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from metalbox.diagnosis import Diagnosis, Facts, Rival, why
from metalbox.machine import Machine
from metalbox.timeline import Entry, Kind
from tests.timelines import (
    MAC,
    NOON,
    SERVER,
    agent,
    bios_boot,
    decision,
    dhcp,
    entry,
    http,
    report,
    rival,
    tftp,
)

FACTS = Facts(server_address=SERVER)
MACHINE = Machine(1, "m", "discovered", macs=(MAC,))
UEFI = ("DISCOVER", "OFFER", "REQUEST", "IGNORED")


def ask(now: float, *entries: Entry, machine: Machine | None = None, facts: Facts = FACTS) -> Diagnosis:
    return why(machine, list(entries), facts, NOON + now)


def advice(found: Diagnosis) -> str:
    return "\n".join(found.advice)


BIOS_OFFER = dhcp(0, "bios", *UEFI, last=2, boot_file="undionly.kpxe")
UEFI_OFFER = dhcp(0, "uefi", *UEFI, last=4, boot_file="snponly.efi")
UEFI_PORT = dhcp(4.1, "uefi", "REQUEST", "ACK", port=4011, boot_file="snponly.efi")


def test_tftp_blocked() -> None:
    assert ask(11, BIOS_OFFER).code == "booting"
    found = ask(13, BIOS_OFFER)
    assert found == Diagnosis(
        "tftp-blocked",
        "the firmware has our answer and does not get the boot file",
        "the firmware, to load the boot file by TFTP from 192.0.2.1",
        NOON,
        "UDP port 69 of 192.0.2.1 is blocked, or TFTP's answers are: no TFTP request followed within 10 s",
        ("2027-01-15 08:00:02 UTC: bios: DISCOVER OFFER REQUEST IGNORED (seen 4 times since 2027-01-15 08:00:00 UTC)",),
        found.advice,
    )
    assert "open UDP port 69 on this host" in advice(found)
    assert "dhcp-boot=tag:bios,tag:!ipxe,undionly.kpxe,,192.0.2.1" in found.advice


def test_tftp_blocked_on_uefi_after_the_pxe_port() -> None:
    assert ask(12, UEFI_OFFER, UEFI_PORT).code == "booting"
    assert ask(15, UEFI_OFFER, UEFI_PORT).code == "tftp-blocked"


def test_tftp_blocked_while_the_firmware_tries_again_and_again() -> None:
    tries = [dhcp(5.0 * n, "bios", *UEFI, last=5.0 * n + 1, boot_file="undionly.kpxe") for n in range(10)]
    found = ask(47, *tries)
    assert (found.code, found.since) == ("tftp-blocked", NOON)


def test_tftp_blocks_that_never_arrive() -> None:
    found = ask(60, BIOS_OFFER, tftp(30, "undionly.kpxe", "timeout"))
    assert found.code == "tftp-blocked"
    assert "our blocks do not reach it" in found.cause


def test_wrong_boot_file_by_a_name_we_did_not_offer() -> None:
    found = ask(20, BIOS_OFFER, rival(1, "192.0.2.3", "pxelinux.0"), tftp(4, "pxelinux.0", "not found"))
    assert found.code == "wrong-boot-file"
    assert "'pxelinux.0', which we did not offer" in found.cause
    assert "the DHCP server 192.0.2.3 answers too and names the boot file 'pxelinux.0'" in found.evidence
    assert "dhcp-boot=tag:ipxe,http://192.0.2.1:8080/ipxe/first.ipxe,,192.0.2.1" in found.advice


def test_wrong_boot_file_where_we_are_switched_off_and_the_site_names_the_file() -> None:
    off = dhcp(0, "uefi", "DISCOVER", "IGNORED", "REQUEST", "IGNORED", mode="off", ignored="subnet is off")
    lines = [off, rival(0.1, "192.0.2.2", "pxelinux.0"), tftp(3, "pxelinux.0", "not found")]
    assert ask(5, *lines).code == "wrong-boot-file"
    assert ask(5, off).code == "not-served"
    # The site's server may name the right one: then all goes its way.
    right = [off, tftp(3, "snponly.efi"), dhcp(5, "ipxe", "DISCOVER", "IGNORED", mode="off", ignored="subnet is off")]
    assert ask(7, *right).code == "booting"
    assert ask(9, *right, http(7, "first script"), http(8, "script")).code == "booting"


def test_wrong_boot_file_by_another_servers_offer() -> None:
    full = dhcp(0, "bios", "DISCOVER", "OFFER", "REQUEST", "ACK", last=2, boot_file="undionly.kpxe", mode="full")
    found = ask(20, full, rival(0.1, "192.0.2.3", "wdsnbp.com"))
    assert found.code == "wrong-boot-file"
    assert found.cause == "another server's boot file won: it is 'wdsnbp.com' of 192.0.2.3"


def test_the_sites_own_dhcp_server_without_boot_file_is_no_rival() -> None:
    assert ask(20, BIOS_OFFER, rival(0.1, "192.0.2.3")).code == "tftp-blocked"


def test_probes_of_a_loader_that_was_loaded_are_no_wrong_file() -> None:
    loaded = [UEFI_OFFER, UEFI_PORT, tftp(6, "snponly.efi"), tftp(7, "revocations.efi", "not found")]
    assert ask(30, *loaded).code == "booting"


def test_a_second_proxy() -> None:
    found = ask(20, UEFI_OFFER, rival(0.1, "192.0.2.3", "ipxe.efi", is_proxy=True))
    assert found.code == "rival-proxy"
    assert "192.0.2.3" in found.cause
    assert "the proxyDHCP server 192.0.2.3 answers too and names the boot file 'ipxe.efi'" in found.evidence
    known = dataclasses.replace(FACTS, rivals=(Rival("192.0.2.3", is_proxy=True), Rival(SERVER, is_proxy=True)))
    assert ask(20, UEFI_OFFER, facts=known).code == "rival-proxy"


def test_a_second_proxy_that_lost_is_no_matter() -> None:
    lines = [*bios_boot(), rival(0.1, "192.0.2.3", "ipxe.efi", is_proxy=True)]
    assert ask(25, *lines).code == "booting"


def test_pxe_port_silent() -> None:
    assert ask(13, UEFI_OFFER).code == "booting"
    found = ask(15, UEFI_OFFER)
    assert found.code == "pxe-port-silent"
    assert "no request on port 4011 followed our offer" in found.evidence
    assert "open UDP port 4011 on this host" in advice(found)


def test_the_pxe_port_is_not_waited_for_where_it_is_not_used() -> None:
    assert ask(15, UEFI_OFFER, facts=dataclasses.replace(FACTS, uefi_offer="pxe10")).code == "tftp-blocked"
    full = dhcp(0, "uefi", "DISCOVER", "OFFER", "REQUEST", "ACK", last=4, boot_file="snponly.efi", mode="full")
    assert ask(15, full).code == "tftp-blocked"


def test_an_offer_that_nobody_takes() -> None:
    offer = dhcp(0, "uefi", "DISCOVER", "OFFER", boot_file="snponly.efi")
    assert ask(29, offer).code == "booting"
    found = ask(31, offer)
    assert found.code == "no-address"
    assert "the site's DHCP server gives it no address" in found.cause
    full = dhcp(0, "uefi", "DISCOVER", "OFFER", boot_file="snponly.efi", mode="full")
    assert "it takes another server's" in ask(31, full).cause


def test_another_servers_address_was_chosen() -> None:
    chosen = dhcp(0, "bios", *UEFI, boot_file="undionly.kpxe", mode="full", server_id="192.0.2.9")
    found = ask(20, chosen, rival(0.1, "192.0.2.9"))
    assert found.code == "rival-dhcp"
    assert "another DHCP server, 192.0.2.9, gives addresses" in found.cause


def test_pool_exhausted() -> None:
    lines = dhcp(0, "bios", "DISCOVER", "IGNORED", mode="full", ignored="pool exhausted")
    found = ask(1, lines)
    assert found.code == "pool-exhausted"
    assert found.cause == "the pool of its subnet is exhausted"
    assert "`metalbox leases` shows who has the addresses" in found.advice
    assert ask(1, dhcp(0, "os", "DISCOVER", "IGNORED", mode="full", ignored="pool exhausted")).code == "pool-exhausted"
    assert ask(5, lines, dhcp(3, "bios", "DISCOVER", "OFFER", boot_file="undionly.kpxe", mode="full")).code == "booting"


@pytest.mark.parametrize("reason", ["no boot file for this architecture", "subnet is off", "unknown machine"])
def test_what_we_do_not_answer(reason: str) -> None:
    found = ask(1, dhcp(0, "uefi", "DISCOVER", "IGNORED", ignored=reason))
    assert (found.code, found.since) == ("not-served", NOON)
    assert found.advice


def test_http_blocked_for_ipxe() -> None:
    boot = bios_boot()[:3]
    assert ask(20, *boot).code == "booting"
    found = ask(22, *boot)
    assert found.code == "http-blocked"
    assert found.since == NOON + 5
    assert "TCP port 8080 of 192.0.2.1 cannot be reached" in found.cause
    assert found.evidence[-1] == "not one HTTP request came from it since 2027-01-15 08:00:06 UTC"


def test_http_blocked_for_uefi_http_boot() -> None:
    offer = dhcp(0, "http", "DISCOVER", "OFFER", "REQUEST", "ACK", mode="full", boot_file="http://192.0.2.1:8080/x.efi")
    assert ask(14, offer).code == "booting"
    assert ask(16, offer).code == "http-blocked"
    assert ask(16, offer, http(3, "boot file", size=200_000)).code == "booting"


def test_ipxe_without_an_address() -> None:
    boot = [*bios_boot()[:2], dhcp(5, "ipxe", "DISCOVER", "OFFER")]
    assert ask(30, *boot).code == "no-address"


def test_a_loader_that_never_speaks() -> None:
    boot = [UEFI_OFFER, UEFI_PORT, tftp(6, "snponly.efi")]
    assert ask(60, *boot).code == "booting"
    found = ask(67, *boot)
    assert found.code == "loader-silent"
    assert "boot.uefi_loader" in advice(found)


def test_agent_silent() -> None:
    assert ask(79, *bios_boot()).code == "booting"
    found = ask(81, *bios_boot())
    assert found.code == "agent-silent"
    assert found.since == NOON + 20
    assert found.waiting_for == "the agent's first word"
    assert "`metalbox: init`" in advice(found)


def test_files_that_are_not_loaded() -> None:
    boot = bios_boot()[:6]
    assert ask(30, *boot).code == "booting"
    assert "showed an error" in ask(60, *boot).cause
    assert "broken off" in ask(60, *boot, http(20, "initrd", "aborted")).cause
    missing = ask(60, *boot, http(9, "kernel", "not found", size=0))
    assert (missing.code, missing.advice) == ("files-missing", ("`metalbox agent build`",))


def test_a_machine_in_the_line_for_its_files() -> None:
    waiting = [*bios_boot()[:6], http(20, "initrd", "waiting", size=0)]
    found = ask(600, *waiting)
    assert (found.code, found.waiting_for, found.since) == ("booting", "the machines before it", NOON + 20)
    assert ask(600, *waiting, http(25, "initrd", "aborted")).code == "files-missing"
    # Nobody waits so long: its connection was lost with the service.
    assert ask(1000, *waiting).code == "files-missing"


def test_told_to_boot_its_disk() -> None:
    boot = [*bios_boot()[:4], decision(7, "disk", "it is deployed"), http(7, "script")]
    found = ask(500, *boot)
    assert (found.code, found.cause) == ("local-boot", "it is deployed")


def test_the_agent_looks_and_holds_on_and_goes() -> None:
    hello = [*bios_boot(), agent(35, "hello")]
    assert ask(40, *hello).doing == "the agent looks at the hardware"
    assert ask(216, *hello).code == "report-missing"
    there = [*hello, report(41)]
    machine = dataclasses.replace(MACHINE, last_seen=NOON + 41, reported_at=NOON + 41)
    found = ask(100, *there, machine=machine)
    assert (found.code, found.doing) == ("idle", "in state discovered, its agent holds on")
    polls = [*there, agent(41, "poll", last=500)]
    assert ask(530, *polls, machine=machine).code == "idle"
    gone = ask(591, *polls, machine=machine)
    assert (gone.code, gone.since) == ("agent-gone", NOON + 500)
    assert ask(591, *polls, agent(590, "gone"), machine=machine).code == "agent-gone"
    alive = dataclasses.replace(machine, last_seen=NOON + 1000)
    assert ask(1001, *polls, machine=alive).code == "idle"


def test_a_machine_that_left_the_agent_for_its_system() -> None:
    lines = [*bios_boot(), agent(35, "hello"), report(41), dhcp(600, "os", "REQUEST", "ACK", mode="full")]
    assert ask(700, *lines, machine=MACHINE).code == "system-running"
    assert ask(700, dhcp(600, "os", "REQUEST", "ACK", mode="full")).code == "system-running"


def test_a_machine_that_boots_again_is_booting() -> None:
    lines = [*bios_boot(-400), agent(-360, "hello", "b0"), report(-355, "b0"), agent(-355, "poll", "b0", last=-20)]
    machine = dataclasses.replace(MACHINE, last_seen=NOON - 20)
    assert ask(5, *lines, *bios_boot()[:2], machine=machine).code == "booting"
    assert ask(100, *lines, BIOS_OFFER, machine=machine).code == "tftp-blocked"


def test_duplicate_uuid() -> None:
    machine = dataclasses.replace(MACHINE, conflict="it has the same UUID 4c4c as m2", last_seen=NOON)
    lines = [*bios_boot(), report(41), entry(Kind.CONFLICT, 41, "conflict: it has the same UUID 4c4c as m2")]
    found = ask(50, *lines, machine=machine)
    assert (found.code, found.since) == ("duplicate-uuid", NOON + 41)
    assert found.cause.startswith("it has the same UUID 4c4c as m2")
    assert found.evidence == ("2027-01-15 08:00:41 UTC: conflict: it has the same UUID 4c4c as m2",)


def test_power_on_and_silence() -> None:
    power = entry(Kind.POWER, 0, "switched on", state="on", by="lab")
    assert ask(100, power).code == "booting"
    assert ask(200, power).code == "silent"


def test_not_seen() -> None:
    found = ask(0)
    assert (found.code, found.since, found.waiting_for) == ("not-seen", 0.0, "its first packet")
    assert why(None, [], None, NOON).code == "not-seen"


@pytest.mark.parametrize("length", range(9))
@pytest.mark.parametrize("later", [0.5, 2.0, 9.0])
def test_a_boot_in_time_is_never_called_stuck(length: int, later: float) -> None:
    boot = bios_boot()[:length]
    if boot:
        assert ask(boot[-1].last_at - NOON + later, *boot).code == "booting"


def test_nothing_in_a_timeline_makes_it_fail() -> None:
    """Data may be of an older version, or of another program's note."""
    oddities: list[dict[str, Any]] = [
        {},
        {"client": "bios"},
        {"what": None},
        {"outcome": "sent"},
        {"messages": [], "boot_file": None},
    ]
    for kind in Kind:
        for data in oddities:
            assert ask(1000, entry(kind, 0, "x", **data)).code
