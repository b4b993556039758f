"""A client as the RFCs have it, and a wire that loses, copies and delays what it carries. Time is simulated."""

from __future__ import annotations

import contextlib
import heapq
import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random

from metalbox.errors import MalformedPacket
from metalbox.tftp.content import MemoryContent
from metalbox.tftp.packet import parse_request
from metalbox.tftp.session import Limits, Session

LIMITS = Limits(blksize=1468, windowsize=64)


def rrq(name: str = "x", mode: str = "octet", /, **options: int) -> bytes:
    """A read request on the wire."""
    pairs = "".join(f"{key}\0{value}\0" for key, value in options.items())
    return b"\0\1" + f"{name}\0{mode}\0{pairs}".encode("latin-1")


def ack(block: int) -> bytes:
    return b"\0\4" + (block & 0xFFFF).to_bytes(2, "big")


def session(data: bytes, now: float = 0.0, limits: Limits = LIMITS, **options: int) -> Session:
    """A transfer of `data`, not started yet."""
    return Session(parse_request(rrq(**options)), MemoryContent(data), limits, now)


def datagrams(transfer: Session, buffers: object) -> list[bytes]:
    """What a server puts on the wire for these buffers."""
    out: list[bytes] = []
    for buffer in buffers:  # type: ignore[attr-defined]
        data = bytes(buffer)
        if data[1] == 3:
            out += [data[i : i + transfer.segment] for i in range(0, len(data), transfer.segment)]
        else:
            out.append(data)
    return out


@dataclass
class Client:
    """Reads a file. Sends its last ACK again after `patience` seconds, and for a block out of order (RFC 7440 §4)."""

    blksize: int = 512
    windowsize: int = 1
    patience: float = 3.0
    received: bytearray = field(default_factory=bytearray)
    block: int = 0
    in_window: int = 0
    is_done: bool = False
    has_begun: bool = False
    complained: bool = False

    def take(self, data: bytes) -> list[bytes]:
        if data[1] == 6:
            self.has_begun = True
            return [ack(self.block)] if self.block == 0 else []
        assert data[1] == 3, data
        self.has_begun = True
        number = int.from_bytes(data[2:4], "big")
        if number != (self.block + 1) & 0xFFFF:
            if self.windowsize == 1:
                # A copy of the last block: the ACK may have been lost. Not knowing better, a client repeats it.
                return [ack(self.block)] if number == self.block & 0xFFFF else []
            if self.complained:
                return []
            self.complained, self.in_window = True, 0
            return [ack(self.block)]
        self.complained = False
        self.block += 1
        self.in_window += 1
        self.received += data[4:]
        self.is_done = len(data) - 4 < self.blksize
        if self.is_done or self.in_window == self.windowsize:
            self.in_window = 0
            return [ack(self.block)]
        return []

    def is_impatient(self) -> list[bytes]:
        self.in_window, self.complained = 0, False
        return [ack(self.block)] if self.has_begun else []


@dataclass
class Wire:
    """`loss` and `copies` are probabilities. Each datagram takes `delay` seconds, up to `jitter` more."""

    loss: float = 0.0
    copies: float = 0.0
    delay: float = 0.0005
    jitter: float = 0.0
    random: Random = field(default_factory=lambda: Random(1))
    carried: int = 0

    def times(self, now: float) -> list[float]:
        """When it arrives: never, once, or twice."""
        self.carried += 1
        number = 0 if self.random.random() < self.loss else 2 if self.random.random() < self.copies else 1
        return [now + self.delay + self.random.random() * self.jitter for _ in range(number)]


def run(transfer: Session, client: Client, wire: Wire, limit: float = 600.0) -> float:
    """Carry everything until the session is over. Returns the simulated seconds."""
    numbers = itertools.count()
    queue: list[tuple[float, int, Callable[[bytes, float], None] | None, bytes]] = []
    now, heard_at = 0.0, 0.0

    def put(target: Callable[[bytes, float], None], packets: list[bytes]) -> None:
        for packet in packets:
            for at in wire.times(now):
                heapq.heappush(queue, (at, next(numbers), target, packet))

    def to_server(packet: bytes, at: float) -> None:
        with contextlib.suppress(MalformedPacket):
            put(to_client, datagrams(transfer, transfer.received(packet, at)))

    def to_client(packet: bytes, at: float) -> None:
        nonlocal heard_at
        heard_at = at
        if not client.is_done:
            put(to_server, client.take(packet))
        elif packet[1] == 3:
            put(to_server, [ack(client.block)])  # it dallies, as RFC 1350 §6 has it

    put(to_client, datagrams(transfer, transfer.start(now)))
    while transfer.outcome is None and now < limit:
        due = min(queue[0][0] if queue else float("inf"), transfer.timer, heard_at + client.patience)
        now = max(now, due)
        if queue and queue[0][0] <= now:
            _, _, target, packet = heapq.heappop(queue)
            assert target is not None
            target(packet, now)
        elif transfer.timer <= now:
            put(to_client, datagrams(transfer, transfer.timed_out(now)))
        else:
            heard_at = now
            put(to_server, client.is_impatient())
    return now
