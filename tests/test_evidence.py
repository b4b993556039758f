"""How the timeline is sorted for the rules, and how evidence reads."""

from __future__ import annotations

from metalbox.evidence import MAX_EVIDENCE, Facts, Rival, clock, evidence_of, look, newest_offer, rival_lines, was_sent
from metalbox.timeline import Kind
from tests.timelines import NOON, agent, bios_boot, dhcp, entry, http, report, rival, tftp


def test_the_newest_boot_is_sorted_by_who_spoke() -> None:
    old = [dhcp(-900, "bios", "DISCOVER", "OFFER", boot_file="old"), rival(-900, "192.0.2.8", is_proxy=True)]
    lines = [*old, *bios_boot(), rival(0.1, "192.0.2.9"), rival(0.2, "192.0.2.9"), agent(30, "gone")]
    view = look(None, lines, Facts(server_address="192.0.2.1"), NOON + 40)
    assert [entry.at - NOON for entry in view.firmware] == [0]
    assert [entry.at - NOON for entry in view.ipxe] == [5]
    assert len(view.tftp) == 1
    assert [entry.data["role"] for entry in view.files("kernel", "initrd")] == ["kernel", "initrd"]
    assert view.rivals == (Rival("192.0.2.9", "192.0.2.9", "", False, "eth0"),)
    assert view.contact is None
    assert not view.in_full_mode


def test_we_are_no_rival_of_ourselves_and_known_rivals_count_when_none_was_heard() -> None:
    facts = Facts(server_address="192.0.2.1", rivals=(Rival("192.0.2.7"), Rival("192.0.2.1")))
    assert look(None, bios_boot(), facts, NOON).rivals == (Rival("192.0.2.7"),)
    assert look(None, [*bios_boot(), rival(1, "192.0.2.9")], facts, NOON).rivals[0].server == "192.0.2.9"


def test_the_last_contact_is_what_an_agent_said_itself() -> None:
    view = look(None, [report(41), agent(50, "poll", last=80), agent(170, "gone")], Facts(), NOON)
    assert view.contact is not None and view.contact.last_at == NOON + 80


def test_evidence_is_in_order_bounded_and_each_line_once() -> None:
    lines = [entry(Kind.LOG, 20 - number, f"line {number}") for number in range(20)]
    told = evidence_of(lines, lines, more=["and more"])
    assert len(told) == MAX_EVIDENCE + 1
    assert told[-2:] == ("2027-01-15 08:00:20 UTC: line 0", "and more")
    assert clock(NOON) == "2027-01-15 08:00:00 UTC"


def test_offers_and_files() -> None:
    one = dhcp(0, "bios", "DISCOVER", "OFFER", boot_file="a")
    two = dhcp(1, "bios", "DISCOVER", "OFFER", boot_file="b")
    ignored = dhcp(2, "bios", "DISCOVER", "IGNORED", boot_file="c")
    assert newest_offer([two, one, ignored]) is two
    assert newest_offer([ignored]) is None
    assert was_sent(tftp(0, "x")) and not was_sent(tftp(0, "x", "aborted")) and not was_sent(http(0, "kernel", size=0))


def test_rivals_are_told_in_full() -> None:
    assert rival_lines([Rival("192.0.2.9", "192.0.2.10", "pxelinux.0"), Rival("192.0.2.9", is_proxy=True)]) == [
        "the DHCP server 192.0.2.9 answers too and names the boot file 'pxelinux.0' on 192.0.2.10",
        "the proxyDHCP server 192.0.2.9 answers too",
    ]
