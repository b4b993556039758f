"""A hundred thousand mutated packets: nothing raises but MalformedPacket, and nothing grows."""

from __future__ import annotations

import contextlib
import tracemalloc
from random import Random

from metalbox.errors import MalformedPacket
from metalbox.files import normalise
from metalbox.tftp.content import MemoryContent
from metalbox.tftp.packet import parse_reply, parse_request
from metalbox.tftp.session import Limits, Session, answer_to_stranger, refuse
from tests.corpus import ROOT
from tests.tftp.wire import ack, datagrams, rrq

COUNT = 100_000
SEEDS = [
    rrq("snponly.efi", tsize=0, blksize=1468, windowsize=4),
    rrq("/grub/x86_64-efi/command.lst", blksize=1024, tsize=0),
    rrq("C:\\x\xff", "netascii", timeout=5),
    b"\0\2x\0octet\0",
    ack(0),
    ack(1),
    ack(65535),
    b"\0\5\0\x08User aborted the transfer\0",
    b"\0\6tsize\x000\0",
    b"\0\3\0\1data",
]


def captured() -> list[bytes]:
    """The payloads of TFTP datagrams in captures, found by their shape; none where the corpus is not."""
    found: set[bytes] = set()
    for path in sorted(ROOT.glob("pcap/*tftp*")):
        raw = path.read_bytes()
        for opcode in (b"\0\1", b"\0\5"):
            at = raw.find(opcode)
            while at >= 0 and len(found) < 200:
                if raw[at + 2 : at + 3].isalnum():
                    found.add(raw[at : at + 80])
                at = raw.find(opcode, at + 1)
    return sorted(found)


def mutate(random: Random, data: bytes) -> bytes:
    out = bytearray(data)
    for _ in range(random.randint(1, 4)):
        at = random.randrange(len(out) + 1)
        match random.randrange(6):
            case 0 if out:
                out[min(at, len(out) - 1)] = random.randrange(256)
            case 1:
                del out[at : at + random.randint(1, 8)]
            case 2:
                out[at:at] = random.randbytes(random.randint(1, 8))
            case 3:
                out[at:at] = random.choice(
                    (b"\0", b"\0\0", b"blksize\x0065464\0", b"windowsize\x009\0", b"99999999999")
                )
            case 4:
                out *= random.randint(1, 3)
            case _:
                out[at:at] = random.choice((b"..", b"\\", b"/", b"\xff", b"%n"))
    return bytes(out[:2048])


def test_the_parsers() -> None:
    random = Random(1)
    seeds = SEEDS + captured()
    requests = 0
    for _ in range(COUNT):
        data = mutate(random, random.choice(seeds))
        answer_to_stranger(data)
        try:
            request = parse_request(data)
        except MalformedPacket:
            pass
        else:
            requests += 1
            plain = normalise(request.name)
            assert plain is None or (plain.isascii() and plain.isprintable() and ".." not in plain.split("/"))
            assert plain is None or (not plain.startswith("/") and "\\" not in plain)
            refuse(request)
            session = Session(request, MemoryContent(bytes(3000)), Limits(1468, 64), 0.0)
            assert 8 <= session.blksize <= 1468 and 1 <= session.windowsize <= 64
            assert sum(map(len, datagrams(session, session.start(0.0)))) <= 600
        with contextlib.suppress(MalformedPacket):
            parse_reply(data)
    assert requests > COUNT / 10


def test_the_session() -> None:
    """Each session is fed until it ends; then a new one begins. What one packet makes us send stays bounded."""
    random = Random(2)
    now, ends = 0.0, 0
    content = MemoryContent(random.randbytes(70_000))
    session: Session | None = None
    tracemalloc.start()
    grown_from = 0
    for number in range(COUNT):
        if session is None:
            options: dict[str, int] = random.choice(
                ({}, {"blksize": 1468, "windowsize": 4}, {"blksize": 512, "windowsize": 64})
            )
            session = Session(parse_request(rrq(**options)), content, Limits(1468, 64), now)
            session.start(now)
        now += random.random() * random.choice((0.001, 0.1, 10.0))
        near = max(session.acked + random.randint(-2, session.windowsize + 2), 0)
        data = random.choice((ack(near), ack(near), mutate(random, random.choice(SEEDS))))
        try:
            buffers = session.received(data, now)
        except MalformedPacket:
            buffers = ()
        assert len(datagrams(session, buffers)) <= session.windowsize
        assert len(datagrams(session, session.timed_out(now))) <= session.windowsize
        assert -1 <= session.acked <= session.sent <= session.total
        if session.outcome is not None:
            session, ends = None, ends + 1
        if number == COUNT // 10:
            grown_from = tracemalloc.get_traced_memory()[0]
    grown = tracemalloc.get_traced_memory()[0] - grown_from
    tracemalloc.stop()
    assert ends > 100
    assert grown < 200_000
