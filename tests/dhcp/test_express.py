"""metalbox.dhcp.express: whatever comes, answers by plan are those of the responder, byte for byte."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from ipaddress import IPv4Address

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metalbox.config import parse
from metalbox.dhcp import express, options
from metalbox.dhcp.bootfile import RASPBERRY_PI_3
from metalbox.dhcp.express import Expresses, find_holes
from metalbox.dhcp.leases import LeaseChange
from metalbox.dhcp.options import Message
from metalbox.dhcp.packet import OPTIONS_AT, Packet, build_packet, encode_option, parse_packet
from metalbox.dhcp.responder import Arrival, Reply, Route, RouteKind, respond
from metalbox.dhcp.wording import describe
from metalbox.errors import MalformedPacket
from tests.dhcp.captures import dhcp_datagrams
from tests.dhcp.desk import FULL, SERVER, Desk, address, ask
from tests.dhcp.test_fuzz import mutate

WIDE = FULL.replace("192.0.2.100-192.0.2.103", "192.0.2.100-192.0.2.250")
UEFI = {60: b"PXEClient:Arch:00007:UNDI:003016", 93: b"\0\7", 57: b"\x05\xc0", 97: b"\0" + bytes(range(16))}
RELAYS_OPTION = {82: b"\x01\x04port\x02\x06" + bytes(6)}
Told = tuple[bytes, Route, LeaseChange | None, tuple[object, ...], str]


@dataclass
class Both:
    """Two servers that hear the same: one asks the responder always, the other only what no plan answers."""

    text: str = WIDE
    plain: Desk = field(init=False)
    quick: Desk = field(init=False)
    hits: int = 0

    def __post_init__(self) -> None:
        self.plain, self.quick = Desk(parse(self.text)), Desk(parse(self.text))
        self.expresses = Expresses(self.quick.context, self.quick.leases)

    def hear(self, packet: Packet | bytes, port: int = 67, source: tuple[str, int] = ("0.0.0.0", 68)) -> bool:
        """Compare; returns whether a plan has answered."""
        data = packet if isinstance(packet, bytes) else build_packet(packet)
        arrival = Arrival("eth0", 2, IPv4Address(SERVER), source, port, False)
        now = self.plain.now
        wanted = respond(parse_packet(data), arrival, self.plain.context, self.plain.leases, now)
        origin = repr((source, port)).encode()
        found = self.expresses.answer(data, origin, now)
        if found is None:
            asked = parse_packet(data)
            outcome = respond(asked, arrival, self.quick.context, self.quick.leases, now)
            if isinstance(outcome, Reply):
                self.expresses.learn(data, origin, asked, arrival, outcome)
            assert outcome == wanted
            return False
        assert isinstance(wanted, Reply)
        sent, plan, parts, lease, change = found
        assert (sent, change) == (wanted.data, wanted.change)
        where = plan.route
        if where.kind is RouteKind.LINK:
            where = where._replace(address=lease.address, mac=parts[2])
        assert where == wanted.route
        assert plan.exchange(parts, lease.number) == wanted.exchange
        assert plan.key + parts[0].hex() == wanted.exchange.key
        assert lease.address.join(plan.sentence) == describe(wanted.exchange)
        assert {**plan.data, **plan.told(parts), "address": lease.address} == wanted.exchange.data()
        self.hits += 1
        return True

    def agree(self) -> None:
        """Both have given away the same."""
        assert self.plain.leases.rows(self.plain.now) == self.quick.leases.rows(self.plain.now)


def mac(number: int) -> bytes:
    return b"\x52\x54\0" + number.to_bytes(3, "big")


def chosen(where: str, more: dict[int, bytes] | None = None) -> dict[int, bytes]:
    return {options.REQUESTED_ADDRESS: address(where), options.SERVER_ID: address(SERVER), **(more or {})}


@pytest.mark.parametrize("more", [{}, UEFI, RELAYS_OPTION, {**UEFI, **RELAYS_OPTION, 61: b"\1" + bytes(6)}])
def test_the_second_client_of_a_kind_is_answered_by_plan(more: dict[int, bytes]) -> None:
    both = Both()
    for number in range(5):
        assert both.hear(ask(Message.DISCOVER, mac=mac(number), more=more)) == (number > 0)
    for number in range(5):
        packet = ask(Message.REQUEST, mac=mac(number), more=chosen(f"192.0.2.{103 + number}", more))
        # 192.0.2.102 is reserved; the first three got 100, 101 and 103.
        packet.options[50] = address(
            ("192.0.2.100", "192.0.2.101", "192.0.2.103", "192.0.2.104", "192.0.2.105")[number]
        )
        packet.secs = number
        assert both.hear(packet) == (number > 0)
    both.agree()
    assert len(both.plain.leases.rows(both.plain.now)) == 5


def test_who_is_somebody_is_answered_by_the_responder() -> None:
    both = Both()
    for first in (mac(1), mac(2)):
        both.hear(ask(Message.DISCOVER, mac=first, more=UEFI))
    for special in (
        bytes.fromhex("525400aaaaaa"),  # has a reservation
        RASPBERRY_PI_3 + b"\1\2\3",
        b"\1\0\x5e\0\0\1",  # multicast
        bytes(6),
    ):
        assert not both.hear(ask(Message.DISCOVER, mac=special, more=UEFI))
    both.agree()


def test_what_a_plan_cannot_give_the_responder_refuses() -> None:
    both = Both(FULL)
    for number in range(5):
        both.hear(ask(Message.DISCOVER, mac=mac(number)))
    assert both.hits == 2, "the pool has three addresses that are not reserved"
    both.hear(ask(Message.REQUEST, mac=mac(0), more=chosen("192.0.2.100")))
    assert both.hear(ask(Message.REQUEST, mac=mac(1), more=chosen("192.0.2.101")))
    assert not both.hear(ask(Message.REQUEST, mac=mac(7), more=chosen("192.0.2.101"))), "it is somebody else's"
    assert not both.hear(ask(Message.REQUEST, mac=mac(7), more=chosen("192.0.2.254"))), "it is the router's"
    assert not both.hear(ask(Message.REQUEST, mac=mac(7), more=chosen("0.0.0.0")))
    both.agree()


@pytest.mark.parametrize(
    ("message", "more", "fields"),
    [
        (Message.REQUEST, {50: address("192.0.2.100")}, {}),  # init-reboot
        (Message.REQUEST, {}, {"ciaddr": 0xC0000264}),  # renewing
        (Message.INFORM, {}, {"ciaddr": 0xC0000264}),
        (Message.BOOTP, {}, {}),
        (Message.DISCOVER, {50: b"\1"}, {}),
    ],
)
def test_other_conversations_have_no_plan(message: int, more: dict[int, bytes], fields: dict[str, int]) -> None:
    both = Both()
    for number in range(3):
        assert not both.hear(ask(message, mac=mac(number), more=more, **fields))


def test_repeated_and_overloaded_options_have_no_plan() -> None:
    plain = build_packet(ask(Message.DISCOVER, more=UEFI))
    assert find_holes(plain, express.HOLES) is not None
    end = plain.index(b"\xff", OPTIONS_AT + 60)
    for extra in (encode_option(97, b"x"), encode_option(52, b"\1"), b"\x3d\x20\0"):
        assert find_holes(plain[:end] + extra, express.HOLES) is None
    for agent in (b"\1\4ab", b"\1\1a\1\1b"):
        assert find_holes(plain[:end] + encode_option(82, agent), express.HOLES) is None


def test_what_is_remembered_has_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(express, "MAX_PLANS", 20)
    both = Both()
    for number in range(200):
        kind = {60: b"kind %03d" % (number % 100)}
        both.hear(ask(Message.DISCOVER, mac=mac(number % 60), more=kind), source=("192.0.2.9", 1 + number // 4 % 9))
        held = sum(map(len, both.expresses._plans.values()))
        assert held == both.expresses._count <= 20
        assert all(len(alike) <= express.MAX_ALIKE for alike in both.expresses._plans.values())
    both.agree()


text = st.binary(min_size=1, max_size=12)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.integers(0, 30), st.sampled_from([1, 3]), text, text, text,
            st.integers(100, 112), st.integers(0, 0xFFFF), st.sampled_from([0, 0x8000]),
            st.sampled_from([0, 0xC0000201]),
        ),
        min_size=4,
        max_size=40,
    )
)  # fmt: skip
def test_any_conversation_is_the_same_by_plan(
    said: list[tuple[int, int, bytes, bytes, bytes, int, int, int, int]],
) -> None:
    both = Both()
    for number, message, hostname, client_id, circuit, last, secs, flags, giaddr in said:
        more = {12: hostname, 61: client_id, 82: bytes((1, len(circuit))) + circuit, **UEFI}
        if message == Message.REQUEST:
            more = chosen(f"192.0.2.{last}", more)
        packet = ask(message, mac=mac(number), more=more, secs=secs, flags=flags, giaddr=giaddr)
        packet.xid = secs << 8 | number
        both.hear(packet)
    both.agree()


def test_the_corpus_and_its_mutations_are_the_same_by_plan() -> None:
    wide = "subnets: [{subnet: 0.0.0.0/1, mode: full, pools: [10.200.0.0-10.200.3.255]}]"
    both = Both(wide + "\n")
    both.plain.interfaces = both.quick.interfaces = {"eth0": "10.0.0.1/8"}
    both.plain.__post_init__()
    both.quick.__post_init__()
    both.expresses = Expresses(both.quick.context, both.quick.leases)
    rng = random.Random(5)
    packets = [message.payload for message in dhcp_datagrams()]
    for turn in range(12_000):
        data = rng.choice(packets)
        if turn % 3 == 0:
            data = mutate(data, packets, rng)
        # Another machine of the same model.
        if len(data) > 240 and turn % 2:
            data = data[:4] + rng.randbytes(4) + data[8:31] + bytes((0, 0, rng.randrange(200))) + data[34:]
        try:
            both.hear(data)
        except MalformedPacket:
            assert both.expresses.answer(data, repr((("0.0.0.0", 68), 67)).encode(), both.plain.now) is None
    both.agree()
    assert both.hits > 500
