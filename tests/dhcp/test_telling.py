"""metalbox.dhcp.telling: what was said is kept as it came, and is in the journal before anybody looks."""

from __future__ import annotations

import logging
from collections import Counter
from ipaddress import IPv4Address

import pytest

from metalbox.dhcp import telling
from metalbox.dhcp.exchange import Exchange
from metalbox.dhcp.express import Expresses
from metalbox.dhcp.options import Message
from metalbox.dhcp.packet import build_packet, parse_packet
from metalbox.dhcp.responder import Arrival, Reply
from metalbox.dhcp.telling import Telling, exchange_of
from metalbox.journal import Journal
from metalbox.machine import Mac
from tests.dhcp.desk import MAC, SERVER, Desk, ask
from tests.dhcp.test_wording import PLAIN

NOW = 1_700_000_000.0


def said(number: int) -> Exchange:
    return PLAIN._replace(mac=Mac(f"52:54:00:00:00:{number:02x}"), xid=number, reply=Message.OFFER)


def test_it_is_told_when_the_journal_asks() -> None:
    journal, counters = Journal(), Counter[str]()
    told = Telling(journal, counters)
    for number in range(3):
        told.add([(said(number).mac, said(number), "", 7, NOW + number)])
    assert len(told) == 3
    journal.ask(2)
    assert len(told) == 1
    # Whoever looks sees the rest too.
    assert [(entry.mac, entry.at, entry.data["micros"]) for entry in journal.pending] == [
        (said(number).mac, NOW + number, 7) for number in range(3)
    ]
    assert len(told) == 0


def test_too_much_costs_the_oldest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(telling, "MAX_UNTOLD", 10)
    journal, counters = Journal(), Counter[str]()
    told = Telling(journal, counters)
    for number in range(25):
        told.add([(said(number).mac, said(number), "", 7, NOW)])
    assert [entry.mac for entry in journal.pending] == [said(number).mac for number in range(15, 25)]
    assert counters == {"not in the timeline": 15}


def test_what_was_answered_by_plan_is_told_like_all_else(caplog: pytest.LogCaptureFixture) -> None:
    desk, journal = Desk.full(), Journal()
    expresses, told = Expresses(desk.context, desk.leases), Telling(journal, Counter())
    for last in (1, 2):
        packet = ask(Message.DISCOVER, mac=MAC[:5] + bytes([last]), more={60: b"PXEClient:Arch:00000"})
        data = build_packet(packet)
        found = expresses.answer(data, b"eth0", desk.now)
        if found is None:
            outcome = desk.send(packet)
            assert isinstance(outcome, Reply)
            arrival = Arrival("eth0", 2, IPv4Address(SERVER), ("0.0.0.0", 68), 67, False)
            expresses.learn(data, b"eth0", parse_packet(data), arrival, outcome)
            told.add([(outcome.exchange.mac, outcome.exchange, "", 5, NOW)])
        else:
            _, plan, parts, lease, _ = found
            filled = (plan, parts, lease)
            assert exchange_of(filled).address_text == lease.address
            told.add([(lease.mac, filled, "", 5, NOW)])
    with caplog.at_level(logging.INFO, "metalbox.dhcp"):
        first, second = journal.pending
    assert [entry.text[-44:] for entry in (first, second)] == [
        "offered 192.0.2.100 and told to boot undionly.kpxe"[-44:],
        "offered 192.0.2.101 and told to boot undionly.kpxe"[-44:],
    ]
    assert {**first.data, "address": ""} == {**second.data, "address": ""}
    assert len(caplog.records) == 2
