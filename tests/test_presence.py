"""Who is behind an address, by the clock."""

from __future__ import annotations

from metalbox.machine import Mac
from metalbox.presence import BELIEVED_SECONDS, BOOTING_SECONDS, MAX_KNOWN, Presence

ONE = Mac("52:54:00:00:00:01")
TWO = Mac("52:54:00:00:00:02")


def test_what_was_seen_is_believed_for_a_while_then_the_arp_table() -> None:
    presence = Presence({"192.0.2.5": TWO}.get)
    presence.saw(ONE, "192.0.2.5", now=100.0)
    assert presence.mac_of("192.0.2.5", 100.0 + BELIEVED_SECONDS) == ONE
    assert presence.mac_of("192.0.2.5", 101.0 + BELIEVED_SECONDS) == TWO


def test_old_knowledge_is_better_than_none() -> None:
    presence = Presence(lambda _: None)
    presence.saw(ONE, "192.0.2.5", now=100.0)
    assert presence.mac_of("192.0.2.5", 10_000.0) == ONE
    assert presence.mac_of("192.0.2.6", 10_000.0) is None


def test_the_newest_mac_has_the_address() -> None:
    presence = Presence(lambda _: None)
    presence.saw(ONE, "192.0.2.5", now=100.0)
    presence.saw(TWO, "192.0.2.5", now=101.0)
    assert presence.mac_of("192.0.2.5", 101.0) == TWO


def test_booting_ends_by_the_clock_and_only_boots_count() -> None:
    presence = Presence(lambda _: None)
    presence.saw(ONE, now=100.0, booting=True)
    presence.saw(TWO, now=100.0)
    assert presence.is_booting(ONE, 100.0 + BOOTING_SECONDS)
    assert not presence.is_booting(ONE, 100.1 + BOOTING_SECONDS)
    assert not presence.is_booting(TWO, 100.0)
    presence.saw(ONE, now=250.0)
    assert not presence.is_booting(ONE, 300.0)


def test_a_flood_of_made_up_macs_is_bounded() -> None:
    presence = Presence(lambda _: None)
    for number in range(MAX_KNOWN + 100):
        mac = Mac.from_bytes(b"\x02\x00" + number.to_bytes(4, "big"))
        presence.saw(mac, f"a{number}", now=1.0, booting=True)
    assert len(presence._addresses) == len(presence._booting) == MAX_KNOWN
