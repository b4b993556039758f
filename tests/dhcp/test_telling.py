"""metalbox.dhcp.telling: what was said is kept as it came, and is in the journal before anybody looks."""

from __future__ import annotations

import json
import logging
import random
from collections import Counter
from ipaddress import IPv4Address

import pytest

from metalbox.dhcp import options, telling
from metalbox.dhcp.exchange import Exchange
from metalbox.dhcp.express import Expresses
from metalbox.dhcp.options import Message
from metalbox.dhcp.packet import build_packet, parse_packet
from metalbox.dhcp.responder import Arrival, Reply
from metalbox.dhcp.telling import Telling
from metalbox.journal import MAX_TALES, Entry, Journal
from metalbox.machine import Mac
from tests.dhcp.desk import FULL, MAC, SERVER, Desk, address, ask
from tests.dhcp.test_wording import PLAIN

NOW = 1_700_000_000.0
PXE = {60: b"PXEClient:Arch:00000"}
KINDS: tuple[dict[int, bytes], ...] = (
    {},
    PXE,
    {**PXE, 12: b'rack "7"\\\x01'},
    {**PXE, 82: b"\x01\x04port\x02\x06" + bytes(6)},
    {12: "Knoten-\xfc".encode(), 61: b"\1" + MAC},
)


def said(number: int) -> Exchange:
    return PLAIN._replace(mac=Mac(f"52:54:00:00:00:{number:02x}"), xid=number, reply=Message.OFFER)


class Server:
    """Hears packets and tells of them in two ways: as they were answered, by plan where there is one, and in full."""

    def __init__(self) -> None:
        self.desk = Desk.full(FULL.replace("192.0.2.100-192.0.2.103", "192.0.2.100-192.0.2.250"))
        self.expresses = Expresses(self.desk.context, self.desk.leases)
        self.quick, self.plain = Journal(), Journal()
        self.quick_counters, self.plain_counters = Counter[str](), Counter[str]()
        self.telling = Telling(self.quick, self.quick_counters)
        self.in_full = Telling(self.plain, self.plain_counters)
        self.by_plan = 0

    def hear(self, number: int, message: int, more: dict[int, bytes], micros: int, now: float) -> str:
        """One packet of one client; returns the address of the answer."""
        packet = ask(message, mac=MAC[:5] + bytes([number]), more=more)
        packet.xid = number
        data = build_packet(packet)
        found = self.expresses.answer(data, b"eth0", self.desk.now)
        if found is None:
            outcome = self.desk.send(packet)
            assert isinstance(outcome, Reply)
            arrival = Arrival("eth0", 2, IPv4Address(SERVER), ("0.0.0.0", 68), 67, False)
            self.expresses.learn(data, b"eth0", parse_packet(data), arrival, outcome)
            exchange = outcome.exchange
            self.telling.add(exchange, "", micros, now)
        else:
            _, plan, parts, lease, _ = found
            exchange = plan.exchange(parts, lease.number)
            assert exchange.address_text == lease.address
            self.telling.add_alike(plan, [(lease.mac, parts, lease.address, micros)], now)
            self.by_plan += 1
        self.in_full.add(exchange, "", micros, now)
        return exchange.address_text


def test_it_is_told_when_the_journal_asks() -> None:
    journal, counters = Journal(), Counter[str]()
    told = Telling(journal, counters)
    for number in range(3):
        told.add(said(number), "", 7, NOW + number)
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
        told.add(said(number), "", 7, NOW)
    assert [entry.mac for entry in journal.pending] == [said(number).mac for number in range(15, 25)]
    assert counters == {"not in the timeline": 15}


def test_of_answers_that_left_together_the_oldest_go_first(monkeypatch: pytest.MonkeyPatch) -> None:
    server = Server()
    for number in (1, 2):
        server.hear(number, Message.DISCOVER, {}, 5, NOW)
    assert server.by_plan == 1
    server.quick.ask(100)
    found = server.expresses.answer(build_packet(ask(Message.DISCOVER, mac=MAC)), b"eth0", server.desk.now)
    assert found is not None
    _, plan, parts, _, _ = found
    alike = [(f"52:54:00:00:01:{n:02x}", (n.to_bytes(4, "big"), *parts[1:]), "192.0.2.1", 1) for n in range(30)]
    monkeypatch.setattr(telling, "MAX_UNTOLD", 40)
    server.telling.add_alike(plan, alike, NOW)
    server.telling.tell(7)
    others = [(f"b{mac[1:]}", holes, where, micros) for mac, holes, where, micros in alike]
    server.telling.add_alike(plan, others, NOW)
    assert (len(server.telling), server.quick_counters) == (40, {"not in the timeline": 13})
    macs = [str(entry.mac) for entry in server.quick.pending][2:]
    assert macs == [mac for mac, *_ in (*alike[:7], *alike[20:], *others)]


def test_what_was_answered_by_plan_is_told_like_all_else(caplog: pytest.LogCaptureFixture) -> None:
    server = Server()
    for last in (1, 2):
        server.hear(last, Message.DISCOVER, PXE, 5, NOW)
    with caplog.at_level(logging.INFO, "metalbox.dhcp"):
        first, second = server.quick.pending
    assert [entry.text[-44:] for entry in (first, second)] == [
        "offered 192.0.2.100 and told to boot undionly.kpxe"[-44:],
        "offered 192.0.2.101 and told to boot undionly.kpxe"[-44:],
    ]
    assert {**first.data, "address": ""} == {**second.data, "address": ""}
    assert len(caplog.records) == 2


@pytest.mark.parametrize("seed", range(8))
def test_the_lines_are_the_same_whichever_way_they_were_kept(seed: int) -> None:
    """Conversations of any course, asked for at any time, with the repeats and the change of kind that clients have."""
    chance, server, now = random.Random(seed), Server(), NOW
    offered: dict[int, str] = {}
    for _ in range(400):
        number, kind = chance.randrange(8), chance.choice(KINDS)
        now += chance.choice((0.0, 0.001, 0.1, 10.0))
        if number in offered and chance.random() < 0.5:
            chosen = {options.REQUESTED_ADDRESS: address(offered[number]), options.SERVER_ID: address(SERVER)}
            server.hear(number, Message.REQUEST, {**kind, **chosen}, chance.randrange(900), now)
        else:
            offered[number] = server.hear(number, Message.DISCOVER, kind, chance.randrange(900), now)
        if chance.random() < 0.05:
            count = chance.randrange(40)
            server.quick.ask(count)
            server.plain.ask(count)
    assert server.by_plan > 300
    assert any(len(entry.data["messages"]) > 4 * MAX_TALES for entry in server.plain.pending), "some say much"
    assert server.quick.pending == server.plain.pending
    for draft in server.quick._pending.values():
        data = draft.line()[-1]
        assert json.loads(data) if isinstance(data, str) else data, "what is stored is JSON"
    assert all(isinstance(entry, Entry) for entry in server.quick.pending)
