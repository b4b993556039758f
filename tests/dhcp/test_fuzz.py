"""Packets that nobody should send: a hundred thousand mutations of the corpus, and what hypothesis makes up."""

from __future__ import annotations

import random
import tracemalloc

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from metalbox.config import parse
from metalbox.dhcp.packet import HEADER, Packet, build_packet, encode_options, fit_options, parse_packet
from metalbox.dhcp.responder import Ignored, Reply
from metalbox.errors import MalformedPacket
from tests.dhcp.captures import dhcp_datagrams
from tests.dhcp.desk import Desk

MUTATIONS = 100_000
CONFIG = """
subnets:
  - {subnet: 0.0.0.0/1, mode: full, pools: [10.200.0.0-10.200.0.255]}
  - {subnet: 128.0.0.0/1, mode: proxy}
"""


def mutate(data: bytes, others: list[bytes], rng: random.Random) -> bytes:
    """A few changes: bits, bytes that matter to a parser, cuts, repeats, and parts of another packet."""
    changed = bytearray(data)
    for _ in range(rng.randint(1, 6)):
        if not changed:
            break
        # Most of a packet is the header's zeros: look for trouble in the options.
        at = (
            rng.randrange(len(changed))
            if rng.random() < 0.3
            else rng.randrange(min(236, len(changed) - 1), len(changed))
        )
        match rng.randrange(7):
            case 0:
                changed[at] ^= 1 << rng.randrange(8)
            case 1:
                changed[at] = rng.choice((0, 1, 52, 53, 82, 127, 128, 254, 255))
            case 2:
                del changed[at:]
            case 3:
                del changed[at : at + rng.randint(1, 8)]
            case 4:
                changed[at:at] = changed[at : at + rng.randint(1, 64)]
            case 5:
                other = rng.choice(others)
                changed[at:] = other[min(at, len(other)) :]
            case _:
                changed[at:at] = rng.randbytes(rng.randint(1, 16))
    return bytes(changed)


def judge(desk: Desk, data: bytes, port: int = 67, unicast: bool = False) -> str:
    """Take one datagram as the server would; returns what became of it."""
    try:
        packet = parse_packet(data)
    except MalformedPacket:
        return "malformed"
    assert parse_packet(build_packet(packet)) == packet
    result = desk.send(packet, ("192.0.2.9", 68), port, unicast)
    if isinstance(result, Ignored):
        assert result.reason
        return result.reason
    assert isinstance(result, Reply)
    assert 300 <= len(result.data) <= 1472
    assert parse_packet(result.data).op == 2
    return "answered"


@pytest.mark.parametrize("seed", [1, 2, 3, 4])
def test_mutated_packets_raise_nothing_and_leave_nothing(seed: int) -> None:
    rng = random.Random(seed)
    seeds = sorted({message.payload for message in dhcp_datagrams()})
    desk = Desk(parse(CONFIG))
    outcomes: dict[str, int] = {}

    def some(count: int) -> None:
        for _ in range(count):
            desk.now += 0.01
            outcome = judge(
                desk, mutate(rng.choice(seeds), seeds, rng), rng.choice((67, 67, 67, 4011)), rng.random() < 0.3
            )
            outcomes[outcome] = outcomes.get(outcome, 0) + 1

    some(MUTATIONS // 4 - 4000)
    tracemalloc.start()
    try:
        some(2000)
        before = tracemalloc.get_traced_memory()[0]
        some(2000)
        grown = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert sum(outcomes.values()) == MUTATIONS // 4
    # Answered often enough that the mutations go deep, and a pool of 256 addresses holds all that stays.
    assert outcomes["answered"] > 1000
    assert outcomes["malformed"] > 100
    assert len(outcomes) < 25
    assert len(desk.leases.rows(desk.now)) <= 256
    assert grown < 100_000


OPTIONS = st.dictionaries(st.integers(1, 254).filter(lambda code: code != 52), st.binary(max_size=600), max_size=12)


@st.composite
def packets(draw: st.DrawFn) -> Packet:
    options = draw(OPTIONS)
    message = draw(st.integers(0, 255))
    options.pop(53, None)
    if message:
        options[53] = bytes([message])
    numbers = st.integers(0, 2**32 - 1)
    return Packet(
        op=draw(st.sampled_from((1, 2))),
        htype=draw(st.integers(0, 255)),
        hlen=draw(st.integers(0, 16)),
        hops=draw(st.integers(0, 255)),
        xid=draw(numbers),
        secs=draw(st.integers(0, 65535)),
        flags=draw(st.integers(0, 65535)),
        ciaddr=draw(numbers),
        yiaddr=draw(numbers),
        siaddr=draw(numbers),
        giaddr=draw(numbers),
        chaddr=draw(st.binary(min_size=16, max_size=16)),
        sname=draw(st.binary(max_size=64)).rstrip(b"\0"),
        file=draw(st.binary(max_size=128)).rstrip(b"\0"),
        options=options,
        message=message,
    )


@given(packets(), st.sampled_from((67, 4011)), st.booleans())
@settings(max_examples=500, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_any_packet_survives_the_wire_and_gets_an_outcome(packet: Packet, port: int, unicast: bool) -> None:
    data = build_packet(packet)
    assert parse_packet(data) == packet
    assert judge(Desk(parse(CONFIG)), data, port, unicast)


@given(st.binary(max_size=600), st.booleans())
@settings(max_examples=500, deadline=None)
def test_any_bytes_are_a_packet_or_malformed(tail: bytes, with_header: bool) -> None:
    head = (
        HEADER.pack(1, 1, 6, 0, 1, 0, 0, 0, 0, 0, 0, bytes(16), b"", b"") + b"\x63\x82\x53\x63" if with_header else b""
    )
    assert judge(Desk(parse(CONFIG)), head + tail)


@given(OPTIONS, st.integers(0, 2000))
def test_what_fits_is_whole_and_in_order(options: dict[int, bytes], room: int) -> None:
    kept = fit_options(encode_options(options), room)
    assert len(kept) <= room
    data = HEADER.pack(1, 1, 6, 0, 1, 0, 0, 0, 0, 0, 0, bytes(16), b"", b"") + b"\x63\x82\x53\x63" + kept
    try:
        found = parse_packet(data).options
    except MalformedPacket:
        assert options.get(53) == b""
        return
    assert found.items() <= options.items()
