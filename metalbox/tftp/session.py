"""One read, from the request to its outcome: datagrams and the time in, datagrams and the next timer out. Pure.

Blocks are counted from 1 without wrapping; only the wire has 16 bits. `acked` is the last block the client has in
order, `sent` the last one that left; while an OACK waits for its ACK 0 it counts as block 0. DATA is repeated by the
timer, or when a client that has a window says what it misses; never because an ACK came twice (RFC 1123 §4.2.3.1, the
Sorcerer's Apprentice).

Most of a transfer is one step again and again: the ACK of the whole window, and the next whole window. A caller may
take a number of these by itself (`ahead`) and tell of them later (`advance`), before it calls anything else here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from typing import Protocol

from metalbox.errors import MalformedPacket
from metalbox.tftp.packet import (
    HEADER_BYTES,
    Error,
    ErrorCode,
    Opcode,
    Request,
    build_error,
    build_oack,
    parse_reply,
)

Buffer = bytes | memoryview

DEFAULT_BLKSIZE = 512
# Seconds before the first repetition while we know nothing of the client. iPXE waits 0.25 s at first, EDK2 3 s.
FIRST_WAIT = 1.0
# A LAN answers in 1 ms, but firmware that draws on a screen or writes flash pauses now and then.
SHORTEST_WAIT = 0.1
LONGEST_WAIT = 8.0
# A client that said nothing at all may be a forged address: the request and three repetitions, 15 s in all.
REPEATS_UNHEARD = 3
# So many round trips between two that are measured: the others cost nothing but a window.
LEARN_EVERY = 64
# Without progress for so long the client is gone: EDK2 gives up after 15 s, U-Boot after 50 s without a packet.
GIVE_UP_SECONDS = 60.0
# The same request again within this time is a copy of the first on the wire, not a client that starts anew.
SAME_REQUEST_SECONDS = 1.0


class Content(Protocol):
    """What is to be sent."""

    @property
    def size(self) -> int:
        """Bytes in all."""

    def cut(self, blksize: int) -> Packets:
        """What to call for the datagrams."""


# Called with the number of a block (from 1, not wrapped) and a count: DATA datagrams laid one behind the other, that
# block and up to count - 1 more, at least one. Raises OSError when the content cannot be had any more.
Packets = Callable[[int, int], Buffer]


class Result(StrEnum):
    """How it ended. The words stand in the timeline."""

    SENT = "sent"
    NOT_FOUND = "not found"
    ABORTED = "aborted"
    TIMEOUT = "timeout"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class Outcome:
    """`acked_bytes` is what the client confirmed; `detail` says more, or is empty."""

    result: Result
    acked_bytes: int
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Limits:
    """The most we agree to on this path."""

    blksize: int
    windowsize: int


@dataclass(frozen=True, slots=True)
class Agreed:
    """What client and server use. `oack` is empty when the client asked for nothing that we have."""

    blksize: int
    windowsize: int
    longest_wait: float
    oack: bytes


@lru_cache(maxsize=256)
def negotiate(request: Request, size: int, limits: Limits) -> Agreed:
    """Accept the options that we know and that make sense; the others are passed over in silence (RFC 2347).

    An option is answered in the spelling it was asked in: GRUB compares letter by letter.
    """
    blksize, windowsize, longest = DEFAULT_BLKSIZE, 1, LONGEST_WAIT
    answered: list[tuple[bytes, int]] = []
    for name, value in request.options:
        number = int(value) if value.isdigit() and len(value) <= 10 else -1
        match name.lower():
            case b"blksize" if number >= 8:
                number = blksize = min(number, limits.blksize)
            case b"windowsize" if number >= 1:
                number = windowsize = min(number, limits.windowsize)
            case b"timeout" if 1 <= number <= 255:
                # RFC 2349 wants the same value back. We never wait longer than it, and less when the client is known
                # to answer faster: a block that comes twice harms nobody, curl's 6 s for each lost packet do.
                longest = min(float(number), LONGEST_WAIT)
            case b"tsize" if number >= 0 and request.mode == "octet":
                number = size
            case _:
                continue
        answered.append((name, number))
    return Agreed(blksize, windowsize, longest, build_oack(answered) if answered else b"")


def refuse(request: Request) -> tuple[ErrorCode, str] | None:
    """Why a request is not for us, whatever the file; None when it is."""
    if request.opcode is Opcode.WRQ:
        return ErrorCode.ACCESS_VIOLATION, "this server takes no files"
    if request.mode == "mail":
        return ErrorCode.ACCESS_VIOLATION, "this server takes no mail"
    if request.mode not in ("octet", "netascii"):
        return ErrorCode.ILLEGAL_OPERATION, "unknown mode"
    return None


def answer_to_stranger(data: bytes) -> bytes:
    """What to send to a foreign transfer id (RFC 1350 §4): ERROR 5; nothing to an ERROR, so that none goes round."""
    if int.from_bytes(data[:2], "big") == Opcode.ERROR:
        return b""
    return build_error(ErrorCode.UNKNOWN_TID, "unknown transfer id")


class Session:
    """The transfer. Each method returns the buffers to send now: one datagram, or several of `segment` bytes each
    (the last may be shorter) when it is longer than that and `windowsize` is above 1."""

    __slots__ = (
        "_deaf_until",
        "_heard",
        "_oack",
        "_packets",
        "_progress_at",
        "_repeats",
        "_resent",
        "_rtt_least",
        "_rtt_mean",
        "_rtt_swing",
        "_sent_at",
        "_size",
        "_wait",
        "acked",
        "blksize",
        "heard_error",
        "longest_wait",
        "outcome",
        "request",
        "retransmits",
        "segment",
        "sent",
        "started_at",
        "timer",
        "total",
        "windowsize",
    )

    def __init__(self, request: Request, content: Content, limits: Limits, now: float) -> None:
        agreed = negotiate(request, content.size, limits)
        self.request = request
        self.blksize = agreed.blksize
        self.windowsize = agreed.windowsize
        self.longest_wait = agreed.longest_wait
        self.segment = agreed.blksize + HEADER_BYTES
        # The last block is shorter than the others, so a size that fills its blocks has an empty one behind them.
        self.total = content.size // agreed.blksize + 1
        self.acked = -1 if agreed.oack else 0
        self.sent = self.acked
        self.outcome: Outcome | None = None
        # Whether the client ended it with an ERROR: for a size probe, quite normal.
        self.heard_error = False
        self.retransmits = 0
        self.started_at = now
        # When `timed_out` wants to be called; it is never earlier than what it was before a packet came, but for the
        # first packets, from which the round trip is learned.
        self.timer = 0.0
        self._size = content.size
        self._packets = content.cut(agreed.blksize)
        self._oack = agreed.oack
        self._heard = False
        self._progress_at = now
        self._sent_at = now
        self._repeats = 0
        self._resent = False
        self._deaf_until = 0
        self._rtt_least = 0.0
        self._rtt_mean = 0.0
        self._rtt_swing = 0.0
        self._wait = min(FIRST_WAIT, self.longest_wait)

    @property
    def asked_size(self) -> bool:
        """Whether the client wanted to know the size (RFC 2349)."""
        return any(name.lower() == b"tsize" for name, _ in self.request.options)

    def start(self, now: float) -> Sequence[Buffer]:
        """The first answer: OACK, or DATA when no option was agreed on."""
        return self._send(now)

    def asked_again(self, now: float) -> Sequence[Buffer] | None:
        """The same request came again, from the same port. None: this is a new transfer, and the old one is over."""
        if now - self.started_at >= SAME_REQUEST_SECONDS and self._heard:
            return None
        # A client that repeats its request did not see our answer, or it was copied on the way: answer once more,
        # but not within the time a round trip may take.
        if self._heard or now - self._sent_at < SHORTEST_WAIT:
            return ()
        self._resent = True
        self.retransmits += 1
        return self._send(now)

    def received(self, data: bytes, now: float) -> Sequence[Buffer]:
        """A datagram of the client. Raises MalformedPacket on what has no place in a read; the transfer goes on."""
        if self.outcome is not None:
            return ()
        if len(data) == HEADER_BYTES and data[1] == Opcode.ACK and data[0] == 0:
            number = (data[2] << 8) | data[3]
        else:
            reply = parse_reply(data)
            if isinstance(reply, Error):
                self.heard_error = True
                self._end(Result.ABORTED, f"error {reply.code}: {reply.message}".removesuffix(": "))
                return ()
            number = reply.block
        ahead = (number - self.acked) & 0xFFFF
        if ahead == 0:
            return self._ack_again(now)
        if ahead > self.sent - self.acked:
            raise MalformedPacket("an ACK outside of the window")
        self._heard = True
        self._progress_at = now
        self.acked += ahead
        if self.acked == self.total:
            self._end(Result.SENT)
            return ()
        if self.acked != self.sent:
            return self._ack_short(now)
        if self._resent:
            self._resent = False
            self._wait = self._usual_wait()
        else:
            self._learn(now - self._sent_at)
            self._wait = self._usual_wait()
        return self._send(now)

    def ahead(self) -> int:
        """How many windows may be sent by the caller itself, each upon the ACK of the window before it: whole windows
        of whole blocks, up to where the 16-bit number would roll over. 0 when there is something to think about."""
        if self._resent or not self._heard or self.outcome is not None:
            return 0
        sent = self.sent
        windows = min((self.total - 1 - sent) // self.windowsize, (0xFFFF - (sent & 0xFFFF)) // self.windowsize)
        # Where the first answer was lost nothing is known yet, and on a wire that loses so much a long run never ends.
        return max(0, min(windows, LEARN_EVERY if self._rtt_mean else 1))

    def measure(self, now: float) -> None:
        """The ACK upon which the next of these windows is sent came now."""
        self._learn(now - self._sent_at)
        self._wait = self._usual_wait()

    def advance(self, windows: int, at: float) -> None:
        """So many of the windows that `ahead` allowed were sent, the last of them at the time `at`."""
        blocks = windows * self.windowsize
        self.acked += blocks
        self.sent += blocks
        self._sent_at = self._progress_at = at
        self.timer = at + self._wait

    def _ack_short(self, now: float) -> Sequence[Buffer]:
        """Some of the window is missing, says an ACK before its end (RFC 7440 §4).

        Within one round trip of a repetition it speaks of what was sent before it; some ROMs with a window
        acknowledge every block, too.
        """
        self._wait = self._usual_wait()
        if self._resent and now - self._sent_at < self._rtt_least * 0.75:
            self.timer = now + self._wait
            return ()
        return self._resend(now)

    def _ack_again(self, now: float) -> Sequence[Buffer]:
        """With a window, the last ACK again means that the first block of the next window was lost (RFC 7440 §4).

        A mere copy of the ACK comes sooner than the round trip. And since a window sent twice makes the client
        acknowledge twice, this is believed once, and again only after a window that nobody complained about.
        """
        if self.windowsize == 1 or self.acked < 0 or self.acked < self._deaf_until or not self._heard:
            return ()
        if now - self._sent_at < self._rtt_least * 0.75:
            return ()
        return self._resend(now)

    def timed_out(self, now: float) -> Sequence[Buffer]:
        """The clock has come to `timer`, or passed it."""
        if self.outcome is not None or now < self.timer:
            return ()
        if not self._heard:
            is_over = self._repeats >= REPEATS_UNHEARD
        else:
            is_over = now - self._progress_at >= GIVE_UP_SECONDS
        if is_over:
            self._give_up()
            return ()
        self._repeats += 1
        self._wait = min(self._wait * 2, self.longest_wait)
        return self._resend(now)

    def gone(self) -> None:
        """The client's host says that nobody listens on its port any more (ICMP port unreachable)."""
        if self.outcome is not None:
            return
        if self._heard and self.sent == self.total:
            # It has closed its socket after the last block, and its last ACK was lost or never sent.
            self.acked = self.total
            self._end(Result.SENT, "the last acknowledgement did not come")
        else:
            self._end(Result.ABORTED, "the client closed its port")

    def stop(self, message: str) -> Sequence[Buffer]:
        """End it from our side; the client is told why."""
        if self.outcome is not None:
            return ()
        self._end(Result.ABORTED, message)
        return (build_error(ErrorCode.UNDEFINED, message),)

    def replaced(self) -> None:
        """The client began anew from the same port; it would take an ERROR for one about the new transfer."""
        if self.outcome is None:
            self._end(Result.ABORTED, "the client asked anew")

    def _give_up(self) -> None:
        if 1 <= self.acked == self.total - 1:
            # Some ROMs never acknowledge the last block.
            self.acked = self.total
            self._end(Result.SENT, "the last acknowledgement did not come")
        elif not self._heard:
            self._end(Result.TIMEOUT, "the client never answered")
        else:
            self._end(Result.TIMEOUT, f"nothing came after block {self.acked} of {self.total}")

    def _end(self, result: Result, detail: str = "") -> None:
        acked_bytes = min(max(self.acked, 0) * self.blksize, self._size)
        self.outcome = Outcome(result, acked_bytes, detail)
        self.timer = float("inf")

    def _resend(self, now: float) -> Sequence[Buffer]:
        self._resent = True
        before = self.sent
        buffers = self._send(now)
        self.retransmits += max(before - self.acked, 1)
        self._deaf_until = self.sent + 1
        return buffers

    def _send(self, now: float) -> Sequence[Buffer]:
        """What follows `acked`: the OACK, or a whole window."""
        self._sent_at = now
        self.timer = now + self._wait
        if self.acked < 0:
            self.sent = 0
            return (self._oack,)
        first = self.acked + 1
        self.sent = last = min(self.acked + self.windowsize, self.total)
        try:
            buffer = self._packets(first, last - self.acked)
            if len(buffer) > (last - first) * self.segment:
                return (buffer,)
            buffers = [buffer]
            first += len(buffer) // self.segment
            while first <= last:
                buffer = self._packets(first, last - first + 1)
                buffers.append(buffer)
                first += -(-len(buffer) // self.segment)
            return buffers
        except OSError as error:
            return self.stop(f"cannot read the file: {error.strerror or error}")

    def _usual_wait(self) -> float:
        """RFC 6298 §2, between our limits."""
        if not self._rtt_mean:
            return min(FIRST_WAIT, self.longest_wait)
        return min(max(self._rtt_mean + 4 * self._rtt_swing, SHORTEST_WAIT), self.longest_wait)

    def _learn(self, seconds: float) -> None:
        """One round trip; never of something sent twice (Karn)."""
        if not self._rtt_mean:
            self._rtt_mean, self._rtt_swing, self._rtt_least = seconds, seconds / 2, seconds
            return
        off = seconds - self._rtt_mean
        self._rtt_mean += off / 8
        self._rtt_swing += (abs(off) - self._rtt_swing) / 4
        self._rtt_least = min(self._rtt_least, seconds)
