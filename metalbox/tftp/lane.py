"""A port that many transfers share, and the way of an ACK through it.

Nearly every packet is the ACK that was expected, of a client known by its port and address; what follows is the next
stretch of a sheet that is laid out already. Such a step is a look into a table, a comparison and an address, and the
answers of up to 64 clients leave together (see `batch`). Whatever is different goes to `session.Session` by way of the
owner. A session lends a transfer some windows to run ahead with (`Session.ahead`) and is told of them before it is
asked anything else (`Transfer.settle`).
"""

from __future__ import annotations

import socket
from collections import Counter, OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from metalbox import mmsg
from metalbox.mmsg import CANNOT_SEGMENT
from metalbox.tftp import sockets
from metalbox.tftp.batch import Batch, client_of, key_of
from metalbox.tftp.content import FileContent, MemoryContent, Sheet
from metalbox.tftp.packet import Opcode
from metalbox.tftp.session import Buffer, Session
from metalbox.tftp.sockets import Address, Paths

# An ACK waits in the buffer of its lane until its turn has come, and each takes up to 2.3 KiB of 416.
LANE_TRANSFERS = 128
# A client's next transfer comes from another lane than its last three.
REMEMBERED_LANES = 3
MAX_REMEMBERED = 8192
MAX_LANES = 256
# The first four bytes of an ACK, but for the block.
ACK_WORD = Opcode.ACK << 16
NEVER = -1


@dataclass(slots=True, eq=False)
class Transfer:
    """A session with what it needs of the outside."""

    session: Session
    content: FileContent | MemoryContent
    lane: Lane
    client: Address
    key: bytes
    raw: bytes
    name: str
    # What the kernel cuts into; 0 when each datagram is sent by itself.
    segment: int = 0
    # When the server looks at it again, and the number of that alarm.
    armed: float = float("inf")
    alarm: int = 0
    # The run: upon the ACK `expected`, `step` bytes from `at`, up to `stop`; there the session is asked for more.
    expected: int = NEVER
    at: int = 0
    stop: int = 0
    step: int = field(init=False)
    window: int = field(init=False)
    sent_at: float = 0.0
    began: int = 0
    # Holds the memory of the run.
    sheet: Sheet | None = None

    def __post_init__(self) -> None:
        self.window = self.session.windowsize
        self.step = self.window * self.session.segment

    @property
    def at_once(self) -> int:
        """Bytes that may go in one call: one DATA, or as many as the kernel cuts."""
        size = self.session.segment
        return mmsg.fitting(size) * size if self.segment else size

    def settle(self) -> None:
        """Tell the session what was sent without it."""
        if self.at != self.began:
            self.session.advance((self.at - self.began) // self.step, self.sent_at)
            self.began = self.at

    def halt(self) -> None:
        """No more without the session."""
        self.settle()
        self.expected = NEVER

    def run(self) -> bool:
        """Borrow windows from the session, as many as lie on one sheet. False: there are none."""
        session = self.session
        windows = session.ahead()
        if not windows or self.step > self.at_once:
            return False
        first = session.sent + 1
        sheet = self._sheet(first)
        if sheet is None or sheet.end - first < self.window:
            return False
        self.sheet = sheet
        self.at = self.began = sheet.address + (first - sheet.first) * session.segment
        self.stop = self.at + min(windows, (sheet.end - first) // self.window) * self.step
        self.expected = ACK_WORD | (session.sent & 0xFFFF)
        return True

    def run_on(self, now: float) -> bool:
        """The expected ACK came at the end of a run: borrow more, by the way learning how long it took."""
        self.settle()
        if not self.run():
            return False
        self.session.measure(now)
        return True

    def place(self, buffer: Buffer) -> int:
        """The address of a window that the session wants to be sent; 0 when it has none, or is sent in parts."""
        session = self.session
        whole = -(-len(buffer) // session.segment) == session.sent - session.acked
        if not whole or len(buffer) > self.at_once or buffer[1] != Opcode.DATA:
            return 0
        first = session.acked + 1
        sheet = self._sheet(first)
        if sheet is None:
            return 0
        self.sheet = sheet
        return sheet.address + (first - sheet.first) * session.segment

    def _sheet(self, block: int) -> Sheet | None:
        try:
            return self.content.sheet(block)
        except OSError:
            # The session will meet the same, and knows what to do.
            return None


class Owner(Protocol):
    """Who decides what is not plain."""

    def on_packet(self, transfer: Transfer, data: bytes, now: float) -> None:
        """Something else came than the transfer expected by itself. Its run was halted."""

    def on_stranger(self, lane: Lane, client: Address, data: bytes) -> None:
        """Something came from whom this lane has no transfer."""

    def on_error(self, transfer: Transfer, number: int) -> None:
        """The network said something about what was sent (an errno). The transfer's run was halted."""


class Lane:
    """A port of ours with its transfers."""

    def __init__(self, local: str, batch: Batch, owner: Owner, counters: Counter[str]) -> None:
        """Raises OSError."""
        self.socket, self.side = sockets.open_pair(local)
        self.fileno = self.socket.fileno()
        self.port: int = self.socket.getsockname()[1]
        self.transfers: dict[bytes, Transfer] = {}
        # What did not leave for want of room, with whom it is for and the size of segments.
        self.held: deque[tuple[Address, bytes, int]] = deque()
        self._batch = batch
        self._owner = owner
        self._counters = counters
        self._errors: list[tuple[Address, int]] = []
        # Addresses and lengths for the slots up to this one, and what must not be let go before they have left.
        self._answers: list[int] = []
        self._holding: list[Sheet | None] = []
        # Whose packet is thought about, as long as its slot has no answer.
        self._slot = 0
        self._asking: Transfer | None = None

    def close(self) -> None:
        """Both sockets."""
        self.socket.close()
        self.side.close()

    # Receiving

    def pump(self, clock: Callable[[], float]) -> int:
        """Take up to 64 packets and answer them. Returns how many came."""
        batch = self._batch
        try:
            count = batch.receive(self.fileno)
        except OSError as error:
            self._hear(error)
            self._tell_errors()
            return 0
        if not count:
            return 0
        now = clock()
        if batch.are_acks(count):
            self._answer(count, now)
        else:
            for slot in range(count):
                self._think(slot, self.transfers.get(batch.datagram(slot)[0]), now)
                if self._answers:
                    self._flush(slot + 1)
            self._holding.clear()
        if self._errors:
            self._tell_errors()
        return count

    def _answer(self, count: int, now: float) -> None:
        batch, find = self._batch, self.transfers.get
        segments, answers = batch.segments, self._answers
        # Nothing may be left here when a batch before was given up with an exception.
        answers.clear()
        slot = 0
        for key, word in batch.words(count):
            transfer = find(key)
            if transfer is not None and word == transfer.expected:
                at = transfer.at
                if at == transfer.stop:
                    self._holding.append(transfer.sheet)
                    if not transfer.run_on(now):
                        self._think(slot, transfer, now)
                        slot += 1
                        continue
                    at = transfer.at
                step = transfer.step
                answers += (at, step)
                transfer.at = at + step
                transfer.sent_at = now
                transfer.expected = word + transfer.window
                if segments[slot] != transfer.segment:
                    batch.segment(slot, transfer.segment)
            else:
                self._think(slot, transfer, now)
            slot += 1
        if answers:
            self._flush(slot)
        self._holding.clear()

    def _think(self, slot: int, transfer: Transfer | None, now: float) -> None:
        """Let the owner decide. One answer to whom it is may leave with the others."""
        key, data = self._batch.datagram(slot)
        before = len(self._answers)
        if transfer is None:
            self._owner.on_stranger(self, client_of(key), data)
        else:
            self._holding.append(transfer.sheet)
            transfer.halt()
            self._slot, self._asking = slot, transfer
            self._owner.on_packet(transfer, data, now)
            self._asking = None
        if before and len(self._answers) == before:
            self._flush(slot)

    # Sending

    def _flush(self, end: int) -> None:
        """Send the answers of the slots before `end`."""
        batch = self._batch
        slot = end - len(self._answers) // 2
        batch.answer(slot, self._answers)
        self._answers.clear()
        while slot < end:
            try:
                sent = batch.send(self.fileno, slot, end - slot)
            except OSError as error:
                if not self._hear(error):
                    self._give_up(slot, error)
                    slot += 1
                continue
            if not sent:
                self._hold(slot, end)
                return
            slot += sent

    def _give_up(self, slot: int, error: OSError) -> None:
        """One answer cannot be sent as it is. What does not leave is repeated like what was lost."""
        key, _ = self._batch.datagram(slot)
        transfer = self.transfers.get(key)
        if transfer is not None and transfer.segment and error.errno in CANNOT_SEGMENT:
            self._cannot_segment(transfer)
            self._send(self.socket, transfer, self._batch.unsent(slot))
            return
        self._counters[f"not sent: {error.strerror}"] += 1

    def _hold(self, slot: int, end: int) -> None:
        """Keep copies of what has no room now: memory of a sheet may be gone until then."""
        self._counters["waited for room"] += 1
        for n in range(slot, end):
            key, _ = self._batch.datagram(n)
            self.held.append((client_of(key), self._batch.unsent(n), self._batch.segments[n]))

    def resume(self) -> bool:
        """There is room again. Returns whether all that was held has left."""
        while self.held:
            client, data, size = self.held[0]
            try:
                _send(self.socket, data, size, client)
            except BlockingIOError:
                return False
            except OSError as error:
                if self._hear(error):
                    continue
                self._counters[f"not sent: {error.strerror}"] += 1
            self.held.popleft()
        self._tell_errors()
        return True

    def answer(self, transfer: Transfer, buffer: Buffer) -> bool:
        """Send to a client that was just heard. False: the rest of the window need not be tried."""
        if transfer is self._asking and not self.held:
            address = transfer.place(buffer)
            if address:
                self._asking = None
                self._holding.append(transfer.sheet)
                self._answers += (address, len(buffer))
                if self._batch.segments[self._slot] != transfer.segment:
                    self._batch.segment(self._slot, transfer.segment)
                return True
        return self._send(self.socket, transfer, buffer)

    def repeat(self, transfer: Transfer, buffer: Buffer) -> bool:
        """Send to a client that may not be there. False: the rest need not be tried."""
        return self._send(self.side, transfer, buffer)

    def _send(self, sock: socket.socket, transfer: Transfer, buffer: Buffer) -> bool:
        size = transfer.at_once if buffer[1] == Opcode.DATA else len(buffer)
        for offset in range(0, len(buffer), size):
            part = buffer[offset : offset + size]
            if sock is self.socket and self.held:
                self.held.append((transfer.client, bytes(part), transfer.segment))
                continue
            try:
                _send(sock, part, transfer.segment, transfer.client)
            except BlockingIOError:
                self._counters["waited for room" if sock is self.socket else "not sent: buffer full"] += 1
                if sock is self.side:
                    return False
                self.held.append((transfer.client, bytes(part), transfer.segment))
            except OSError as error:
                if transfer.segment and error.errno in CANNOT_SEGMENT:
                    self._cannot_segment(transfer)
                    return self._send(sock, transfer, buffer[offset:])
                if sock is self.socket and self._hear(error):
                    return self._send(sock, transfer, buffer[offset:])
                self._counters[f"not sent: {error.strerror}"] += 1
                return False
        return True

    def _cannot_segment(self, transfer: Transfer) -> None:
        self._counters["without segmentation"] += 1
        transfer.segment = 0
        transfer.halt()

    # Errors

    def listen(self) -> None:
        """Ask for errors: what a wake-up without a packet is for."""
        self._errors += sockets.errors(self.socket)
        self._tell_errors()

    def _hear(self, error: OSError) -> bool:
        """An error of the socket may be about any datagram sent earlier, when ICMP told of it. Whether it was."""
        found = sockets.errors(self.socket)
        self._errors += found
        return bool(found)

    def _tell_errors(self) -> None:
        """Only when no answer waits to be sent: a transfer that ends lets go of its memory."""
        found, self._errors = self._errors, []
        for client, number in found:
            transfer = self.transfers.get(key_of(client))
            if transfer is not None:
                transfer.halt()
                self._owner.on_error(transfer, number)


def _send(sock: socket.socket, data: Buffer, segment: int, client: Address) -> None:
    if segment and len(data) > segment:
        sock.sendmsg([data], [mmsg.segment(segment)], 0, client)
    else:
        sock.sendto(data, client)


class Lanes:
    """All lanes, opened when they are needed."""

    def __init__(self, owner: Owner, counters: Counter[str], opened: Callable[[Lane], None]) -> None:
        """`opened` is called with each new lane."""
        self._owner = owner
        self._counters = counters
        self._opened = opened
        self._batch = Batch()
        self._lanes: dict[str, list[Lane]] = {}
        self._paths: dict[str, Paths] = {}
        # The ports that a client's last transfers came from.
        self._last: OrderedDict[bytes, tuple[int, ...]] = OrderedDict()

    def choose(self, local: str, client: bytes) -> Lane:
        """A lane at our address `local` for a client's new transfer (see `batch.key_of`). Raises OSError."""
        lanes = self._lanes.setdefault(local, [])
        last = self._last.pop(client, ())
        free = (lane for lane in lanes if len(lane.transfers) < LANE_TRANSFERS and lane.port not in last)
        lane = next(free, None)
        if lane is None and len(lanes) >= MAX_LANES:
            lane = min((lane for lane in lanes if lane.port not in last), key=lambda lane: len(lane.transfers))
        if lane is None:
            lane = Lane(local, self._batch, self._owner, self._counters)
            lanes.append(lane)
            self._opened(lane)
        self._last[client] = (lane.port, *last)[:REMEMBERED_LANES]
        if len(self._last) > MAX_REMEMBERED:
            self._last.popitem(last=False)
        return lane

    def mtu(self, local: str, client: Address) -> int:
        """The MTU on the way to the client. Raises OSError when there is no way."""
        paths = self._paths.get(local)
        if paths is None:
            paths = self._paths[local] = Paths(local)
        return paths.mtu(client)

    def all(self) -> list[Lane]:
        """Every lane that is open."""
        return [lane for lanes in self._lanes.values() for lane in lanes]

    def close(self) -> None:
        """Close all sockets."""
        for lane in self.all():
            lane.close()
        for paths in self._paths.values():
            paths.close()
        self._lanes.clear()
        self._paths.clear()
