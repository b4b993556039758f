"""The TFTP server: sockets, one timer and the timeline around `session.Session`. It decides nothing about the protocol.

Each transfer has a socket of its own, hence a port of its own, as RFC 1350 §4 has it. One shared port would save two
system calls for each transfer, but some firmware asks again and again from one and the same port (SLOF 2001, GRUB
25300, lpxelinux 49153): then only our port tells a late block of the last file from one of this file. The socket is
not connected, so that a stranger gets his ERROR 5 from the port he wrote to. It costs 0.3 us a datagram.

asyncio watches two descriptors: the well-known port, and an epoll of our own that holds the transfers. One wake-up
takes one datagram from each ready transfer, round after round, so a fast client cannot starve a slow one.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import resource
import select
import socket
import struct
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from heapq import heappop, heappush
from typing import Any, Protocol

from metalbox import config
from metalbox.errors import MalformedPacket, StartError
from metalbox.files import ServedFile
from metalbox.journal import Journal, Kind
from metalbox.presence import Presence
from metalbox.tftp import wording
from metalbox.tftp.content import FileContent, MemoryContent, Shelf
from metalbox.tftp.packet import ErrorCode, Request, build_error, netascii, parse_request
from metalbox.tftp.session import Buffer, Limits, Outcome, Result, Session, answer_to_stranger, refuse

log = logging.getLogger("metalbox.tftp")

Address = tuple[str, int]

# From <linux/in.h> and <linux/udp.h>; Python 3.11 has no names for them.
IP_PKTINFO = 8
IP_RECVERR = 11
IP_MTU = 14
UDP_SEGMENT = 103
IN_PKTINFO = struct.Struct("=I4s4s")  # interface, our address, destination address
# The kernel cuts one call into at most 64 datagrams (UDP_MAX_SEGMENTS) of together one IP packet.
MAX_SEGMENTS = 64
MAX_IP_PAYLOAD = 65507
# What the kernel says when the card, the route or the kernel itself cannot cut: EIO without checksum offload, EINVAL
# when a segment is larger than the MTU.
CANNOT_SEGMENT = {errno.EIO, errno.EINVAL, errno.EMSGSIZE, errno.ENOPROTOOPT, errno.EOPNOTSUPP}
# IPv4 and UDP headers and TFTP's own, for DATA that is not to be fragmented: many ROMs drop fragments.
HEADERS = 20 + 8 + 4
MAX_DATAGRAM = 2048
# Per wake-up; then the rest of the service has its turn.
MAX_REQUESTS = 64
MAX_ROUNDS = 16
MAX_EVENTS = 256
# Machines behind one NAT look like one client. EDK2 has two transfers at once, everything else one.
MAX_TRANSFERS_PER_ADDRESS = 256
# The timers are looked at this often at most.
TICK_SECONDS = 0.01
BUSY = build_error(ErrorCode.UNDEFINED, "too many transfers, try again")


class Resolve(Protocol):
    """Find what a client asks for by name; `name` has one character per byte, as on the wire."""

    def __call__(self, name: str, client: str, /) -> ServedFile | None: ...


@dataclass(slots=True, eq=False)
class _Transfer:
    """A session with what it needs of the outside."""

    session: Session
    content: FileContent | MemoryContent
    socket: socket.socket
    client: Address
    raw: bytes
    name: str
    segmenting: bool
    # The earliest entry in the heap of timers.
    armed: float


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
        self._journal = journal
        self._presence = presence
        self._address = address
        self._segmentation = segmentation
        self._clock = clock
        self._shelf = Shelf()
        self._transfers: dict[int, _Transfer] = {}
        self._by_client: dict[Address, _Transfer] = {}
        self._per_address: Counter[str] = Counter()
        self._timers: list[tuple[float, int, _Transfer]] = []
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
        return len(self._transfers)

    async def start(self) -> None:
        """Open the port. Raises StartError."""
        wanted = self._settings.port
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        try:
            sock.setsockopt(socket.IPPROTO_IP, IP_PKTINFO, 1)
            sock.bind((self._address, wanted))
        except OSError as error:
            sock.close()
            raise StartError(_why_not(error, self._address, wanted)) from None
        _allow_descriptors(2 * self._settings.max_transfers + 256)
        self._loop = asyncio.get_running_loop()
        self._socket = sock
        self._epoll = select.epoll()
        self._router = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self._loop.add_reader(sock, self._on_requests)
        self._loop.add_reader(self._epoll, self._on_transfers)

    def close(self) -> None:
        """Tell the clients, and close everything."""
        if self._socket is None:
            return
        for transfer in list(self._transfers.values()):
            self._send(transfer, transfer.session.stop("the server is stopping"))
            self._finish(transfer)
        if self._timer_handle is not None:
            self._timer_handle.cancel()
        self._timers.clear()
        self._loop.remove_reader(self._socket)
        self._loop.remove_reader(self._epoll)
        for closing in (self._socket, self._epoll, self._router):
            closing.close()
        self._socket = None

    # Requests

    def _on_requests(self) -> None:
        sock = self._socket
        assert sock is not None
        for _ in range(MAX_REQUESTS):
            try:
                data, ancillary, _, client = sock.recvmsg(MAX_DATAGRAM, socket.CMSG_SPACE(IN_PKTINFO.size))
            except BlockingIOError:
                return
            except OSError as error:
                self.counters[f"ignored: {error.strerror}"] += 1
                continue
            try:
                self._on_request(data, ancillary, client)
            except Exception:
                # One request must not end the service: it is written down, and the client will ask again.
                self.counters["bugs"] += 1
                log.exception("%s: a request of %d bytes failed", client[0], len(data))

    def _on_request(self, data: bytes, ancillary: list[tuple[int, int, bytes]], client: Address) -> None:
        local, is_for_us = _local_address(ancillary)
        if not is_for_us:
            # RFC 1123 §4.2.3.5: a broadcast request is ignored.
            self.counters["ignored: sent to a broadcast address"] += 1
            return
        try:
            request = parse_request(data)
        except MalformedPacket as error:
            self.counters["ignored: not a request"] += 1
            log.debug("%s: ignored: %s", client[0], error)
            return
        self.counters["requests"] += 1
        old = self._by_client.get(client)
        if old is not None:
            buffers = old.session.asked_again(self._loop.time()) if old.raw == data else None
            if buffers is not None:
                self.counters["repeated requests"] += 1
                self._send(old, buffers)
                return
            old.session.replaced()
            self._finish(old)
        refusal = refuse(request)
        if refusal:
            self._answer(build_error(*refusal), local, client)
            self._record_refusal(request, client, *refusal)
            return
        self._begin(request, data, local, client)

    def _begin(self, request: Request, data: bytes, local: str, client: Address) -> None:
        """Look for the file, and open the transfer."""
        served = self._resolve(request.name, client[0])
        if served is None:
            self._answer(build_error(ErrorCode.NOT_FOUND, "file not found"), local, client)
            self._record_refusal(request, client, ErrorCode.NOT_FOUND, "file not found")
            return
        per_address = self._per_address[client[0]]
        if len(self._transfers) >= self._settings.max_transfers or per_address >= MAX_TRANSFERS_PER_ADDRESS:
            self._answer(BUSY, local, client)
            self._record_refusal(request, client, ErrorCode.UNDEFINED, "too many transfers")
            return
        try:
            limits = self._limits(client)
            content = self._open(served, request)
        except OSError as error:
            log.error("%s: cannot send %s: %s", client[0], served.path or served.name, error.strerror)
            self._answer(build_error(ErrorCode.UNDEFINED, "cannot read the file"), local, client)
            self._record_refusal(request, client, ErrorCode.UNDEFINED, f"cannot read the file: {error.strerror}")
            return
        try:
            sock = self._transfer_socket(local)
        except OSError as error:
            content.close()
            log.error("%s: no socket for a transfer: %s", client[0], error.strerror)
            self._answer(BUSY, local, client)
            self._record_refusal(request, client, ErrorCode.UNDEFINED, f"no socket: {error.strerror}")
            return
        now = self._loop.time()
        session = Session(request, content, limits, now)
        transfer = _Transfer(session, content, sock, client, data, served.name, False, float("inf"))
        self._prepare_segmentation(transfer)
        self._transfers[sock.fileno()] = transfer
        self._by_client[client] = transfer
        self._per_address[client[0]] += 1
        self._epoll.register(sock.fileno(), select.EPOLLIN)
        self._step(transfer, session.start(now))

    def _limits(self, client: Address) -> Limits:
        """What fits the way to this client; the kernel knows its MTU, also a learned one."""
        self._router.connect(client)
        mtu = self._router.getsockopt(socket.IPPROTO_IP, IP_MTU)
        return Limits(max(min(self._settings.max_blksize, mtu - HEADERS), 8), self._settings.max_windowsize)

    def _open(self, served: ServedFile, request: Request) -> FileContent | MemoryContent:
        is_text = request.mode == "netascii"
        if served.path is None:
            return MemoryContent(netascii(served.data) if is_text else served.data)
        return self._shelf.open_netascii(served.path) if is_text else self._shelf.open(served.path)

    def _transfer_socket(self, local: str) -> socket.socket:
        """A new port on the address that was asked: a client takes no answer from another of ours."""
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        try:
            # Without it a socket that is not connected never hears that the client's port is closed.
            sock.setsockopt(socket.IPPROTO_IP, IP_RECVERR, 1)
            sock.bind((local, 0))
        except OSError:
            sock.close()
            raise
        return sock

    def _prepare_segmentation(self, transfer: _Transfer) -> None:
        """From here on the kernel cuts what is longer than one DATA. An OACK or ERROR fits any blksize from 512."""
        session = transfer.session
        if not self._segmentation or session.windowsize == 1 or session.blksize < 512:
            return
        try:
            transfer.socket.setsockopt(socket.IPPROTO_UDP, UDP_SEGMENT, session.segment)
            transfer.segmenting = True
        except OSError:
            self._segmentation = False

    def _answer(self, datagram: bytes, local: str, client: Address) -> None:
        """An ERROR to a request, from the well-known port: there is no transfer, and every firewall lets it pass."""
        assert self._socket is not None
        info = IN_PKTINFO.pack(0, socket.inet_aton(local), bytes(4))
        try:
            self._socket.sendmsg([datagram], [(socket.IPPROTO_IP, IP_PKTINFO, info)], 0, client)
        except OSError as error:
            self.counters[f"not sent: {error.strerror}"] += 1

    # Transfers

    def _on_transfers(self) -> None:
        transfers = self._transfers
        for _ in range(MAX_ROUNDS):
            events = self._epoll.poll(0, MAX_EVENTS)
            if not events:
                return
            now = self._loop.time()
            for descriptor, _ in events:
                transfer = transfers.get(descriptor)
                if transfer is not None:
                    self._receive(transfer, now)

    def _receive(self, transfer: _Transfer, now: float) -> None:
        try:
            data, source = transfer.socket.recvfrom(MAX_DATAGRAM)
            if source != transfer.client:
                self._on_stranger(transfer, data, source)
                return
            buffers = transfer.session.received(data, now)
        except OSError:
            self._on_unreachable(transfer)
            return
        except MalformedPacket as error:
            self.counters["ignored: out of place in a transfer"] += 1
            log.debug("%s: ignored: %s", transfer.client[0], error)
            return
        except Exception:
            self._on_bug(transfer)
            return
        self._step(transfer, buffers)

    def _on_bug(self, transfer: _Transfer) -> None:
        """A transfer ends like a task: with its trace in the log, and without the others."""
        self.counters["bugs"] += 1
        log.exception("%s: the transfer of %s failed", transfer.client[0], transfer.name)
        self._send(transfer, transfer.session.stop("an error in the server"))
        self._finish(transfer)

    def _on_stranger(self, transfer: _Transfer, data: bytes, source: Address) -> None:
        self.counters["ignored: foreign transfer id"] += 1
        answer = answer_to_stranger(data)
        if answer:
            with contextlib.suppress(OSError):
                transfer.socket.sendto(answer, source)

    def _on_unreachable(self, transfer: _Transfer) -> None:
        """ICMP said something about a datagram of this socket; it may have been one to a stranger."""
        while True:
            try:
                _, ancillary, _, about = transfer.socket.recvmsg(1, 256, socket.MSG_ERRQUEUE)
            except OSError:
                return
            code = int.from_bytes(ancillary[0][2][:4], sys.byteorder) if ancillary else 0
            if about == transfer.client and code == errno.ECONNREFUSED:
                transfer.session.gone()
                self._finish(transfer)
                return

    def _step(self, transfer: _Transfer, buffers: Sequence[Buffer]) -> None:
        if buffers:
            self._send(transfer, buffers)
        session = transfer.session
        if session.outcome is not None:
            self._finish(transfer)
        elif session.timer < transfer.armed:
            self._arm(transfer)

    def _send(self, transfer: _Transfer, buffers: Sequence[Buffer]) -> None:
        segment = transfer.session.segment
        try:
            for buffer in buffers:
                if len(buffer) <= segment or transfer.session.windowsize == 1:
                    transfer.socket.sendto(buffer, transfer.client)
                else:
                    self._send_window(transfer, buffer, segment)
        except BlockingIOError:
            # The socket's buffer is full. What did not leave is repeated like what was lost.
            self.counters["not sent: buffer full"] += 1
        except OSError as error:
            self.counters[f"not sent: {error.strerror}"] += 1

    def _send_window(self, transfer: _Transfer, buffer: Buffer, segment: int) -> None:
        if transfer.segmenting:
            chunk = min(MAX_SEGMENTS, MAX_IP_PAYLOAD // segment) * segment
            try:
                for offset in range(0, len(buffer), chunk):
                    transfer.socket.sendto(buffer[offset : offset + chunk], transfer.client)
                return
            except OSError as error:
                if error.errno not in CANNOT_SEGMENT:
                    raise
                self.counters["without segmentation"] += 1
                transfer.segmenting = False
                transfer.socket.setsockopt(socket.IPPROTO_UDP, UDP_SEGMENT, 0)
        for offset in range(0, len(buffer), segment):
            transfer.socket.sendto(buffer[offset : offset + segment], transfer.client)

    # Time

    def _arm(self, transfer: _Transfer) -> None:
        """Put the transfer on the heap. It moves back there only when its time comes: an ACK just sets a number."""
        transfer.armed = transfer.session.timer
        self._timer_number += 1
        heappush(self._timers, (transfer.armed, self._timer_number, transfer))
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
            at, _, transfer = heappop(self._timers)
            if at != transfer.armed:
                continue  # an earlier entry has come since, or the transfer is over
            transfer.armed = float("inf")
            try:
                self._step(transfer, transfer.session.timed_out(now))
            except Exception:
                self._on_bug(transfer)
        self._timer_handle = None
        self._set_timer()

    # The end

    def _finish(self, transfer: _Transfer) -> None:
        """Close, and write down how it ended."""
        outcome = transfer.session.outcome
        if outcome is None or self._transfers.pop(transfer.socket.fileno(), None) is None:
            return
        address = transfer.client[0]
        if self._by_client.get(transfer.client) is transfer:
            del self._by_client[transfer.client]
        self._per_address[address] -= 1
        if not self._per_address[address]:
            del self._per_address[address]
        transfer.armed = float("inf")
        transfer.socket.close()
        transfer.content.close()
        self.counters[str(outcome.result)] += 1
        self.counters["bytes"] += outcome.acked_bytes
        self.counters["retransmits"] += transfer.session.retransmits
        self._record(transfer, outcome)

    def _record(self, transfer: _Transfer, outcome: Outcome) -> None:
        seconds = self._loop.time() - transfer.session.started_at
        text = wording.ending(transfer.name, transfer.content.size, transfer.session, outcome, seconds)
        data = wording.ending_data(transfer.name, transfer.session, outcome, seconds)
        self._write(logging.INFO, text, transfer.client[0], data)

    def _record_refusal(self, request: Request, client: Address, code: ErrorCode, reason: str) -> None:
        result, text, data = wording.refusal(request.name, code, reason)
        self.counters[str(result)] += 1
        if result is Result.REFUSED:
            self.counters[f"refused: {reason}"] += 1
        # Firmware asks for many files that it can do without.
        level = logging.DEBUG if result is Result.NOT_FOUND else logging.INFO
        self._write(level, text, client[0], data, key=f"{result}:{data['file']}")

    def _write(self, level: int, text: str, address: str, data: dict[str, Any], key: str = "") -> None:
        now = self._clock()
        mac = self._presence.mac_of(address, now)
        log.log(level, "%s: %s", mac or address, text)
        self._journal.record(Kind.TFTP, text, now=now, mac=mac, key=key, data={**data, "address": address})


def _local_address(ancillary: list[tuple[int, int, bytes]]) -> tuple[str, bool]:
    """Our address on which a request came, and whether it was sent to that address (and not to all)."""
    for level, kind, value in ancillary:
        if level == socket.IPPROTO_IP and kind == IP_PKTINFO:
            _, ours, destination = IN_PKTINFO.unpack(value[: IN_PKTINFO.size])
            return socket.inet_ntoa(ours), ours == destination
    return "0.0.0.0", True


def _why_not(error: OSError, address: str, port: int) -> str:
    match error.errno:
        case errno.EADDRINUSE:
            return f"UDP port {port} is taken: another TFTP server runs here (`ss -ulnp sport = :{port}` names it)"
        case errno.EACCES | errno.EPERM:
            return f"UDP port {port} may not be opened: run as root or with CAP_NET_BIND_SERVICE"
        case errno.EADDRNOTAVAIL:
            return f"{address} is not an address of this host, so TFTP cannot listen there"
        case _:
            return f"TFTP cannot listen on UDP {address}:{port}: {error.strerror}"


def _allow_descriptors(count: int) -> None:
    """Two for each transfer (socket and file); the usual soft limit is 1024, the hard one is large."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < count:
        wanted = count if hard == resource.RLIM_INFINITY else min(count, hard)
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))
