"""Sends files by sendfile(2), in a thread beside the event loop.

The loop serves leases and scripts: a disk that is slow to read, or a hundred machines that fetch an image, must not
hold it up. sendfile runs without Python's lock, so the loop hardly notices; each wake-up of a socket sends one piece,
and epoll turns among the sockets by itself. Big files have their turn (`turns`); who waits gets a trickle, because
firmware gives up on a server that falls silent: EDK2 after 5 s, GRUB after half a minute. `Transfer.sent` and
`Turn` are written by the thread and only read in the loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import select
import socket
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import BinaryIO

from metalbox.web.conditional import Part
from metalbox.web.turns import Turn, Turns

log = logging.getLogger("metalbox.web")

# As much as one wake-up of a socket sends at most. The kernel takes less as soon as the socket's buffer is full.
PIECE = 2 << 20
# Sockets looked at in one wake-up of the thread.
MAX_EVENTS = 64
# Lower than the event loop's by this.
NICE = 5
# How often those who wait get their trickle, and the places are looked at.
TICK_SECONDS = 1.0
TRICKLE = 2048


class Transfer:
    """Bytes of one file on their way. `finished` is resolved with "", or with what went wrong."""

    def __init__(self, out: socket.socket, file: BinaryIO, part: Part, *, is_big: bool) -> None:
        self.finished: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.start = self.at = part.start
        self.stop = part.stop
        self.is_big = is_big
        self.turn: Turn | None = None
        self.out = out
        self.file = file
        # Read once: they are looked at for every piece.
        self.out_number = out.fileno()
        self.file_number = file.fileno()

    @property
    def sent(self) -> int:
        """Bytes that the kernel has taken."""
        return self.at - self.start

    @property
    def is_waiting(self) -> bool:
        """Whether it stands in the line."""
        return self.turn is not None and not self.turn.has_place

    @property
    def waited(self) -> float:
        """Seconds in the line, those before the last place."""
        return self.turn.waited if self.turn is not None else 0.0


class Sender:
    """The thread, which begins with the first file."""

    def __init__(
        self, places: int, clock: Callable[[], float] = time.monotonic, tick_seconds: float = TICK_SECONDS
    ) -> None:
        self.turns = Turns(places)
        self._clock = clock
        self._tick_seconds = tick_seconds
        self._thread: threading.Thread | None = None
        self._is_closing = False
        self._news: deque[tuple[Transfer, bool]] = deque()
        self._waker = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._epoll = select.epoll()
        self._epoll.register(self._waker, select.EPOLLIN)
        # Those whose end has not come, by the descriptor of their socket.
        self._open: dict[int, Transfer] = {}
        self._by_turn: dict[Turn, Transfer] = {}

    def begin(self, out: socket.socket, file: BinaryIO, part: Part, *, is_big: bool) -> Transfer:
        """Send a part that is not empty. Both `out` and `file` are closed in the end. Raises ConnectionError.

        `out` is a duplicate of the connection's socket: what the loop closes meanwhile does not become another file.
        """
        if self._is_closing:
            out.close()
            file.close()
            raise ConnectionError("the service stops")
        transfer = Transfer(out, file, part, is_big=is_big)
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="metalbox-sender", daemon=True)
            self._thread.start()
        self._tell(transfer, True)
        return transfer

    def drop(self, transfer: Transfer) -> None:
        """Send no more of it."""
        self._tell(transfer, False)

    def close(self) -> None:
        """End all transfers and the thread."""
        self._is_closing = True
        if self._thread is not None:
            os.eventfd_write(self._waker, 1)
            self._thread.join()
        self._epoll.close()
        os.close(self._waker)

    def _tell(self, transfer: Transfer, is_new: bool) -> None:
        if self._is_closing:
            return
        self._news.append((transfer, is_new))
        os.eventfd_write(self._waker, 1)

    # From here on everything happens in the thread.

    def _run(self) -> None:
        # Of this thread alone (setpriority(2), NOTES): where cores are few, leases and scripts come first.
        # It begins with the loop's nice value, whatever that is; to come before the loop is for root alone.
        own = threading.get_native_id()
        os.setpriority(os.PRIO_PROCESS, own, os.getpriority(os.PRIO_PROCESS, own) + NICE)
        while not self._is_closing:
            try:
                self._serve()
            except Exception:
                log.exception("the sender of files has failed: all transfers are broken off")
                self._break_off("the sender has failed")
        self._break_off("the service stops")

    def _serve(self) -> None:
        next_tick = 0.0
        while not self._is_closing:
            is_news = False
            for number, mask in self._epoll.poll(self._tick_seconds if self._by_turn else None, MAX_EVENTS):
                if number == self._waker:
                    # After the others: a new transfer may get the number of one that ends here.
                    is_news = True
                elif (transfer := self._open.get(number)) is not None:
                    if mask & select.EPOLLERR or (transfer.is_waiting and mask & select.EPOLLHUP):
                        self._end(transfer, "the client has left")
                    else:
                        self._push(transfer, PIECE)
            if is_news:
                self._take_news()
            now = self._clock()
            if self._by_turn and now >= next_tick:
                next_tick = now + self._tick_seconds
                self._tick(now)

    def _take_news(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._waker)
        while self._news:
            transfer, is_new = self._news.popleft()
            if is_new:
                self._take(transfer)
            elif self._open.get(transfer.out_number) is transfer:
                self._end(transfer, "dropped")

    def _take(self, transfer: Transfer) -> None:
        self._open[transfer.out_number] = transfer
        self._epoll.register(transfer.out_number, 0)
        if transfer.is_big:
            transfer.turn = self.turns.come(self._clock())
            self._by_turn[transfer.turn] = transfer
        if not transfer.is_waiting:
            self._let(transfer)

    def _let(self, transfer: Transfer) -> None:
        """Full speed from now on, in packets that are full."""
        _cork(transfer, True)
        self._epoll.modify(transfer.out_number, select.EPOLLOUT)

    def _tick(self, now: float) -> None:
        """What is done every now and then: places are handed on, those who wait get a trickle."""
        for turn in self.turns.hand_on(now):
            transfer = self._by_turn[turn]
            _cork(transfer, False)
            self._epoll.modify(transfer.out_number, 0)
        self._admit(now)
        for turn in self.turns.waiting():
            self._push(self._by_turn[turn], TRICKLE)

    def _admit(self, now: float) -> None:
        for turn in self.turns.admit(now):
            self._let(self._by_turn[turn])

    def _push(self, transfer: Transfer, most: int) -> None:
        """One sendfile. A file that has become shorter ends the transfer, as an error does."""
        left = transfer.stop - transfer.at
        try:
            sent = os.sendfile(transfer.out_number, transfer.file_number, transfer.at, min(most, left))
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self._end(transfer, error.strerror or str(error))
            return
        transfer.at += sent
        if transfer.turn is not None:
            transfer.turn.sent += sent
        if sent == left:
            self._end(transfer, "")
        elif not sent:
            self._end(transfer, "the file has become shorter")

    def _end(self, transfer: Transfer, error: str) -> None:
        del self._open[transfer.out_number]
        self._epoll.unregister(transfer.out_number)
        _cork(transfer, False)
        transfer.out.close()
        transfer.file.close()
        if transfer.turn is not None:
            now = self._clock()
            del self._by_turn[transfer.turn]
            self.turns.leave(transfer.turn, now)
            self._admit(now)
        _tell_end(transfer, error)

    def _break_off(self, error: str) -> None:
        """End everything, whatever state it is in."""
        found = dict.fromkeys(self._open.values())
        while self._news:
            transfer, is_new = self._news.popleft()
            if is_new:
                found[transfer] = None
        for transfer in found:
            # Closing takes it out of the epoll only when the connection's own descriptor is closed too.
            with contextlib.suppress(OSError):
                self._epoll.unregister(transfer.out_number)
            transfer.out.close()
            transfer.file.close()
            _tell_end(transfer, error)
        self._open.clear()
        self._by_turn.clear()
        self.turns = Turns(self.turns.places)


def _cork(transfer: Transfer, is_on: bool) -> None:
    """TCP_CORK (tcp(7)): without it each piece ends with a packet that is not full. The last leaves at its end."""
    # A socket that is no TCP one has none of it, and none of its packets.
    with contextlib.suppress(OSError):
        transfer.out.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, is_on)


def _tell_end(transfer: Transfer, error: str) -> None:
    loop = transfer.finished.get_loop()
    try:
        loop.call_soon_threadsafe(_resolve, transfer.finished, error)
    except RuntimeError:
        # The loop was closed before us; nobody waits any more.
        return


def _resolve(finished: asyncio.Future[str], error: str) -> None:
    if not finished.done():
        finished.set_result(error)
