"""The TFTP server: one timer and the timeline around `session.Session`. It decides nothing about the protocol.

asyncio watches the well-known port and a few more, the lanes, each shared by many transfers (see `lane`). One wake-up
takes at most so many packets from a lane, each client's in its turn, and then the rest of the service goes on: a fast
client cannot starve a slow one, and an ACK costs no callback of the loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import socket
import time
from collections import Counter
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from heapq import heappop, heappush
from typing import Protocol

from metalbox import config
from metalbox.errors import MalformedPacket
from metalbox.files import ServedFile
from metalbox.journal import Journal
from metalbox.presence import Presence
from metalbox.tftp import sockets, wording
from metalbox.tftp.batch import key_of
from metalbox.tftp.content import FileContent, MemoryContent, Shelf
from metalbox.tftp.lane import Lane, Lanes, Transfer
from metalbox.tftp.packet import ErrorCode, Request, build_error, netascii, parse_request
from metalbox.tftp.session import Buffer, Limits, Result, Session, answer_to_stranger, refuse
from metalbox.tftp.sockets import Address
from metalbox.tftp.telling import Ended, Refused, Telling

log = logging.getLogger("metalbox.tftp")

# IPv4 and UDP headers and TFTP's own, for DATA that is not to be fragmented: many ROMs drop fragments.
HEADERS = 20 + 8 + 4
# Per wake-up; then the rest of the service has its turn.
MAX_REQUESTS = 64
TURN_SECONDS = 0.001
# Machines behind one NAT look like one client. EDK2 has two transfers at once, everything else one.
MAX_TRANSFERS_PER_ADDRESS = 256
# Firmware of one kind says the same, byte for byte.
_parse = lru_cache(maxsize=256)(parse_request)
# The timers are looked at this often at most.
TICK_SECONDS = 0.01


class Resolve(Protocol):
    """Find what a client asks for by name; `name` has one character per byte, as on the wire."""

    def __call__(self, name: str, client: str, /) -> ServedFile | None: ...


class TftpServer:
    """Serves what `resolve` finds. `start` opens the port, `close` ends all transfers."""

    def __init__(
        self,
        settings: config.Tftp,
        resolve: Resolve,
        journal: Journal,
        presence: Presence,
        *,
        address: str = "0.0.0.0",
        segmentation: bool = True,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`segmentation` False sends each datagram by itself. `clock` gives the Unix time of timeline entries."""
        self.counters: Counter[str] = Counter()
        self._settings = settings
        self._resolve = resolve
        self._telling = Telling(journal, presence, self.counters)
        self._address = address
        self._segmentation = segmentation
        self._clock = clock
        self._shelf = Shelf()
        self._lanes = Lanes(self, self.counters, self._watch)
        self._by_client: dict[Address, Transfer] = {}
        self._per_address: Counter[str] = Counter()
        # Times with numbers, and whose a number is: who is over is let go of at once, and its memory used again.
        self._timers: list[tuple[float, int]] = []
        self._alarms: dict[int, Transfer] = {}
        self._timer_number = 0
        self._timer_handle: asyncio.TimerHandle | None = None
        self._socket: socket.socket | None = None

    @property
    def listening(self) -> str:
        """Where, for people: `udp 0.0.0.0:69`; empty when closed."""
        if self._socket is None:
            return ""
        address, port = self._socket.getsockname()
        return f"udp {address}:{port}"

    @property
    def transfers(self) -> int:
        """How many are under way."""
        return len(self._by_client)

    async def start(self) -> None:
        """Open the port. Raises StartError."""
        self._socket = sockets.listen(self._address, self._settings.port)
        sockets.allow_descriptors(2 * self._settings.max_transfers + 256)
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._socket, self._on_requests)

    def close(self) -> None:
        """Tell the clients, and close everything."""
        if self._socket is None:
            return
        for transfer in list(self._by_client.values()):
            transfer.halt()
            self._step(transfer, transfer.session.stop("the server is stopping"), transfer.lane.repeat)
        if self._timer_handle is not None:
            self._timer_handle.cancel()
        self._timers.clear()
        self._alarms.clear()
        for lane in self._lanes.all():
            self._loop.remove_reader(lane.fileno)
            self._loop.remove_writer(lane.fileno)
        self._loop.remove_reader(self._socket)
        self._socket.close()
        self._lanes.close()
        self._socket = None

    # Requests

    def _on_requests(self) -> None:
        sock = self._socket
        assert sock is not None
        for _ in range(MAX_REQUESTS):
            try:
                data, client, local = sockets.receive(sock)
            except BlockingIOError:
                return
            except OSError as error:
                self.counters[f"ignored: {error.strerror}"] += 1
                continue
            try:
                self._on_request(data, client, local)
            except Exception:
                # One request must not end the service: it is written down, and the client will ask again.
                self.counters["bugs"] += 1
                log.exception("%s: a request of %d bytes failed", client[0], len(data))

    def _on_request(self, data: bytes, client: Address, local: str) -> None:
        if not local:
            # RFC 1123 §4.2.3.5: a broadcast request is ignored.
            self.counters["ignored: sent to a broadcast address"] += 1
            return
        try:
            request = _parse(data)
        except MalformedPacket as error:
            self.counters["ignored: not a request"] += 1
            log.debug("%s: ignored: %s", client[0], error)
            return
        self.counters["requests"] += 1
        old = self._by_client.get(client)
        if old is not None:
            old.settle()
            buffers = old.session.asked_again(self._loop.time()) if old.raw == data else None
            if buffers is not None:
                self.counters["repeated requests"] += 1
                self._step(old, buffers, old.lane.repeat)
                return
            old.session.replaced()
            self._finish(old)
        refusal = refuse(request)
        if refusal:
            self._refuse(request, client, local, *refusal)
            return
        self._begin(request, data, local, client)

    def _begin(self, request: Request, data: bytes, local: str, client: Address) -> None:
        """Look for the file, and open the transfer."""
        served = self._resolve(request.name, client[0])
        if served is None:
            self._refuse(request, client, local, ErrorCode.NOT_FOUND, "file not found")
            return
        is_busy = self.transfers >= self._settings.max_transfers
        if is_busy or self._per_address[client[0]] >= MAX_TRANSFERS_PER_ADDRESS:
            self._refuse(request, client, local, ErrorCode.UNDEFINED, "too many transfers, try again")
            return
        try:
            content = self._open(served, request)
        except OSError as error:
            log.error("%s: cannot send %s: %s", client[0], served.path or served.name, error.strerror)
            self._refuse(request, client, local, ErrorCode.UNDEFINED, f"cannot read the file: {error.strerror}")
            return
        try:
            key = key_of(client)
            lane = self._lanes.choose(local, key)
            mtu = self._lanes.mtu(local, client)
        except OSError as error:
            content.close()
            log.error("%s: no socket for a transfer: %s", client[0], error.strerror)
            self._refuse(request, client, local, ErrorCode.UNDEFINED, f"no socket: {error.strerror}")
            return
        now = self._loop.time()
        session = Session(request, content, self._limits(mtu), now)
        transfer = Transfer(session, content, lane, client, key, data, served.name)
        # What is no DATA fits any blksize from 512.
        if self._segmentation and session.windowsize > 1 and session.blksize >= 512:
            transfer.segment = session.segment
        lane.transfers[transfer.key] = self._by_client[client] = transfer
        self._per_address[client[0]] += 1
        self._step(transfer, session.start(now), lane.repeat)

    def _limits(self, mtu: int) -> Limits:
        """What fits the way to this client. DATA is never to be fragmented: many ROMs drop fragments."""
        return Limits(min(self._settings.max_blksize, max(mtu - HEADERS, 8)), self._settings.max_windowsize)

    def _open(self, served: ServedFile, request: Request) -> FileContent | MemoryContent:
        is_text = request.mode == "netascii"
        if served.path is None:
            return MemoryContent(netascii(served.data) if is_text else served.data)
        return self._shelf.open_netascii(served.path) if is_text else self._shelf.open(served.path)

    def _refuse(self, request: Request, client: Address, local: str, code: ErrorCode, reason: str) -> None:
        """An ERROR from the well-known port: there is no transfer, and every firewall lets it pass."""
        assert self._socket is not None
        try:
            sockets.answer(self._socket, build_error(code, reason), local, client)
        except OSError as error:
            self.counters[f"not sent: {error.strerror}"] += 1
        self._record_refusal(request, client, code, reason)

    # Transfers

    def _watch(self, lane: Lane) -> None:
        self._loop.add_reader(lane.fileno, partial(self._on_lane, lane))

    def _on_lane(self, lane: Lane) -> None:
        clock = self._loop.time
        over = clock() + TURN_SECONDS
        if not lane.pump(clock):
            lane.listen()
            return
        while not lane.held:
            # Who is quick has answered meanwhile, and needs no wake-up of its own.
            if clock() >= over or not lane.pump(clock):
                return
        # Nobody is read whose answer would have to wait.
        self._loop.remove_reader(lane.fileno)
        self._loop.add_writer(lane.fileno, partial(self._on_room, lane))

    def _on_room(self, lane: Lane) -> None:
        if lane.resume():
            self._loop.remove_writer(lane.fileno)
            self._watch(lane)

    def on_packet(self, transfer: Transfer, data: bytes, now: float) -> None:
        """See `lane.Owner`."""
        try:
            self._step(transfer, transfer.session.received(data, now), transfer.lane.answer)
        except MalformedPacket as error:
            self.counters["ignored: out of place in a transfer"] += 1
            log.debug("%s: ignored: %s", transfer.client[0], error)
        except Exception:
            self._on_bug(transfer)

    def on_stranger(self, lane: Lane, client: Address, data: bytes) -> None:
        """RFC 1350 §4. A client that has begun anew is spared: it might take the ERROR for one about its transfer."""
        self.counters["ignored: foreign transfer id"] += 1
        message = answer_to_stranger(data)
        if message and client not in self._by_client:
            with contextlib.suppress(OSError):
                lane.side.sendto(message, client)

    def on_error(self, transfer: Transfer, number: int) -> None:
        """See `lane.Owner`."""
        if number == errno.ECONNREFUSED:
            transfer.session.gone()
            self._finish(transfer)
        else:
            self.counters[f"ignored: {os.strerror(number)}"] += 1

    def _on_bug(self, transfer: Transfer) -> None:
        """A transfer ends like a task: with its trace in the log, and without the others."""
        self.counters["bugs"] += 1
        log.exception("%s: the transfer of %s failed", transfer.client[0], transfer.name)
        self._step(transfer, transfer.session.stop("an error in the server"), transfer.lane.repeat)

    def _step(self, transfer: Transfer, buffers: Sequence[Buffer], send: Callable[[Transfer, Buffer], bool]) -> None:
        for buffer in buffers:
            if not send(transfer, buffer):
                break
        session = transfer.session
        if session.outcome is not None:
            self._finish(transfer)
            return
        transfer.run()
        if session.timer < transfer.armed:
            self._arm(transfer)

    # Time

    def _arm(self, transfer: Transfer) -> None:
        """Put the transfer on the heap. It moves back there only when its time comes: an ACK just sets a number."""
        self._alarms.pop(transfer.alarm, None)
        self._timer_number = transfer.alarm = self._timer_number + 1
        transfer.armed = transfer.session.timer
        self._alarms[transfer.alarm] = transfer
        heappush(self._timers, (transfer.armed, transfer.alarm))
        if self._timer_handle is None or transfer.armed < self._timer_handle.when() - TICK_SECONDS:
            self._set_timer()

    def _set_timer(self) -> None:
        if self._timer_handle is not None:
            self._timer_handle.cancel()
            self._timer_handle = None
        if self._timers:
            at = max(self._timers[0][0], self._loop.time() + TICK_SECONDS)
            self._timer_handle = self._loop.call_at(at, self._on_timer)

    def _on_timer(self) -> None:
        now = self._loop.time()
        while self._timers and self._timers[0][0] <= now:
            transfer = self._alarms.pop(heappop(self._timers)[1], None)
            if transfer is None:
                continue  # an earlier time was set since, or the transfer is over
            transfer.armed = float("inf")
            try:
                self._on_time(transfer, now)
            except Exception:
                self._on_bug(transfer)
        self._timer_handle = None
        self._set_timer()

    def _on_time(self, transfer: Transfer, now: float) -> None:
        transfer.settle()
        if now < transfer.session.timer:
            self._arm(transfer)
            return
        transfer.halt()
        self._step(transfer, transfer.session.timed_out(now), transfer.lane.repeat)

    # The end

    def _finish(self, transfer: Transfer) -> None:
        """Close, and write down how it ended."""
        outcome = transfer.session.outcome
        if outcome is None or transfer.lane.transfers.get(transfer.key) is not transfer:
            return
        del transfer.lane.transfers[transfer.key]
        address = transfer.client[0]
        if self._by_client.get(transfer.client) is transfer:
            del self._by_client[transfer.client]
        self._per_address[address] -= 1
        if not self._per_address[address]:
            del self._per_address[address]
        self._alarms.pop(transfer.alarm, None)
        transfer.sheet = None
        transfer.content.close()
        self.counters[str(outcome.result)] += 1
        self.counters["bytes"] += outcome.acked_bytes
        self.counters["retransmits"] += transfer.session.retransmits
        seconds = self._loop.time() - transfer.session.started_at
        size = transfer.content.size
        self._telling.add(Ended(address, transfer.name, size, transfer.session, seconds, self._clock()))

    def _record_refusal(self, request: Request, client: Address, code: ErrorCode, reason: str) -> None:
        result = wording.refused_as(code)
        self.counters[str(result)] += 1
        if result is Result.REFUSED:
            self.counters[f"refused: {reason}"] += 1
        self._telling.add(Refused(client[0], request.name, code, reason, self._clock()))
