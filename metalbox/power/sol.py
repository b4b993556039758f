"""Serial over LAN: what passes between the remote console and the BMC (IPMI 2.0 section 15), without the wire.

One packet is in flight in each direction. What we send is repeated until it is acknowledged, what the BMC repeats is
recognised by its sequence number and taken once. `now` is any clock's seconds that never go back.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from metalbox.errors import BmcGarbage, BmcHung

# Until a packet that was not acknowledged is sent again, and how often before the session counts as lost. BMCs save
# on this: section 15.13 gives them an interval of their own, mostly some hundred milliseconds.
RETRY_SECONDS = 1.0
MAX_TRIES = 8
# While the BMC cannot pass characters on (a machine that is off, a full buffer), it is asked again this often.
NACK_SECONDS = 0.5
# After so long it takes no characters any more: what was typed is thrown away, as at an unplugged line.
STUCK_SECONDS = 5.0
# The header's four bytes are part of the size that the BMC names; more than this in one packet wins nothing.
MAX_CHUNK = 200

# The fourth byte, from the BMC (table 15-2).
NACK, UNAVAILABLE, DEACTIVATED, OVERRUN = 0x40, 0x20, 0x10, 0x08
# ... and to it.
BREAK = 0x10


@dataclass(frozen=True, slots=True)
class Heard:
    """One packet's news: the characters that are new, whether the BMC ended the session or lost characters itself."""

    data: bytes = b""
    is_over: bool = False
    lost_some: bool = False


@dataclass(slots=True)
class _Flight:
    """The packet that waits for its acknowledgement."""

    number: int
    data: bytes
    is_break: bool
    tries: int
    again_at: float


class Sol:
    """The state of one activated payload."""

    def __init__(self, size: int) -> None:
        """`size` is the largest payload that the BMC takes, as it said at the activation."""
        self.chunk = max(1, min(size - 4, MAX_CHUNK))
        self.dropped = 0  # characters that the machine never took
        self._out: list[bytes] = []  # b"" is a break
        self._flight: _Flight | None = None
        self._number = 0
        self._nacked_since = math.inf
        self._pause_until = 0.0
        self._heard_number = 0
        self._heard_size = 0
        self._ack: tuple[int, int] | None = None

    @property
    def waiting(self) -> int:
        """Characters that were sent and not acknowledged yet."""
        return sum(map(len, self._out)) + (len(self._flight.data) if self._flight else 0)

    @property
    def due(self) -> float:
        """When `packet` has something to say again if nothing is heard; inf: not by itself."""
        if self._ack is not None:
            return 0.0
        if self._flight is not None:
            return self._flight.again_at
        return self._pause_until if self._out else math.inf

    def send(self, data: bytes) -> None:
        """Send these characters when it is their turn."""
        self._out += [data[start : start + self.chunk] for start in range(0, len(data), self.chunk)]

    def send_break(self) -> None:
        """Send a break in its turn."""
        self._out.append(b"")

    def packet(self, now: float) -> bytes | None:
        """The next payload that has to leave now, None when there is none. Raises BmcHung when nobody acknowledges."""
        if self._ack is not None:
            (number, size), self._ack = self._ack, None
            return bytes((0, number, size, 0))
        flight = self._flight
        if flight is None:
            if not self._out or now < self._pause_until:
                return None
            self._number = self._number % 15 + 1
            data = self._out.pop(0)
            flight = self._flight = _Flight(self._number, data, not data, 0, now)
        if now < flight.again_at:
            return None
        if flight.tries >= MAX_TRIES:
            raise BmcHung("the BMC does not acknowledge what is typed", evidence=f"{flight.tries} tries")
        flight.tries += 1
        flight.again_at = now + RETRY_SECONDS
        return bytes((flight.number, 0, 0, BREAK if flight.is_break else 0)) + flight.data

    def receive(self, payload: bytes, now: float) -> Heard:
        """Take one payload of the BMC. Raises BmcGarbage for one that is too short."""
        if len(payload) < 4:
            raise BmcGarbage("the BMC sent a piece of Serial over LAN that is too short", evidence=payload.hex())
        number, acked, accepted, status = payload[0] & 0x0F, payload[1] & 0x0F, payload[2], payload[3]
        data = self._fresh(number, payload[4:]) if number else b""
        if self._flight is not None and acked == self._flight.number:
            self._landed(self._flight, accepted, status, now)
        return Heard(data, bool(status & DEACTIVATED), bool(status & OVERRUN))

    def _fresh(self, number: int, data: bytes) -> bytes:
        # A packet that is repeated may have grown since (section 15.11): its head is known.
        known = self._heard_size if number == self._heard_number else 0
        self._heard_number, self._heard_size = number, max(known, len(data))
        self._ack = (number, min(len(data), 255))
        return data[known:]

    def _landed(self, flight: _Flight, accepted: int, status: int, now: float) -> None:
        self._flight = None
        rest = flight.data[accepted:] if status & NACK or 0 < accepted < len(flight.data) else b""
        if not status & NACK:
            self._nacked_since, self._pause_until = math.inf, 0.0
            if rest:
                self._out.insert(0, rest)
            return
        if accepted:
            self._nacked_since = math.inf
        self._nacked_since = min(self._nacked_since, now)
        if now - self._nacked_since >= STUCK_SECONDS:
            self.dropped += len(rest) + sum(map(len, self._out))
            self._out.clear()
            self._nacked_since, self._pause_until = math.inf, 0.0
            return
        if rest or flight.is_break:
            self._out.insert(0, rest)
        self._pause_until = now + NACK_SECONDS
