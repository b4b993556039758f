"""How a simulated machine speaks: its address on an interface, DHCP, TFTP and HTTP with the patience of firmware.

What it must repeat is counted in a Counter by "dhcp", "tftp" and "http"; "deferred" are requests that a server put off
with 503 and Retry-After, which iPXE waits for by itself. Bodies of files are thrown away inside the kernel where that
is possible, so that a fleet costs little beside the server.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import time
from collections import Counter
from collections.abc import Sequence

from metalbox.lab import pxeclient
from metalbox.lab.pxeclient import Offer

DHCP_SERVER = ("255.255.255.255", 67)
UDP_GRO = 104
DRAIN = 256
DATAGRAM = 16_384
TAKE = 1 << 20
# Ours asks for a script again after 1, 2, ... s (ipxe/first.ipxe.j2).
HTTP_TRIES = 8
_waste = bytearray(TAKE)


class GaveUp(Exception):
    """A machine whose firmware had no more tries."""


class Interface:
    """Puts addresses on an interface, by rtnetlink (rtnetlink(7))."""

    def __init__(self, name: str) -> None:
        self._index = socket.if_nametoindex(name)
        self._sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
        self._serial = 0

    def close(self) -> None:
        """Give the socket back; the addresses stay."""
        self._sock.close()

    def add(self, address: bytes) -> None:
        """Add a /32. One that is there already is fine. Raises OSError."""
        self._serial += 1
        attributes = struct.pack("=HH4s", 8, 2, address) + struct.pack("=HH4s", 8, 1, address)
        body = struct.pack("=BBBBi", socket.AF_INET, 32, 0, 0, self._index) + attributes
        # RTM_NEWADDR; NLM_F_REQUEST, NLM_F_ACK, NLM_F_REPLACE, NLM_F_CREATE.
        self._sock.send(struct.pack("=IHHII", 16 + len(body), 20, 0x505, self._serial, 0) + body)
        code = -int(struct.unpack_from("=i", self._sock.recv(4096), 16)[0])
        if code:
            raise OSError(code, "an address cannot be set")


class Exchange:
    """The one socket of all machines for DHCP; answers find their machine by the transaction."""

    def __init__(self, interface: str, *, ports: tuple[int, int] = (68, 67)) -> None:
        """`ports` are ours and the server's. Raises OSError without the right to bind."""
        self._server = (DHCP_SERVER[0], ports[1])
        self._sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, interface.encode())
        self._sock.setsockopt(socket.SOL_SOCKET, 33, 16 << 20)  # SO_RCVBUFFORCE
        self._sock.bind(("", ports[0]))
        self._waiting: dict[int, tuple[int, asyncio.Future[Offer]]] = {}
        asyncio.get_running_loop().add_reader(self._sock, self._readable)

    def close(self) -> None:
        """Nobody asks any more."""
        asyncio.get_running_loop().remove_reader(self._sock)
        self._sock.close()

    def _readable(self) -> None:
        for _ in range(DRAIN):
            try:
                read = pxeclient.read_dhcp(self._sock.recv(2048))
            except BlockingIOError:
                return
            if read is None or read[0] not in self._waiting:
                continue
            kind, future = self._waiting[read[0]]
            if not future.done() and read[1].kind in (kind, pxeclient.NAK):
                future.set_result(read[1])

    async def ask(self, message: bytes, xid: int, kind: int, timers: Sequence[float], lost: Counter[str]) -> Offer:
        """Send until an answer of this kind comes. Raises GaveUp."""
        for turn, patience in enumerate(timers):
            if turn:
                lost["dhcp"] += 1
            future: asyncio.Future[Offer] = asyncio.get_running_loop().create_future()
            self._waiting[xid] = kind, future
            with contextlib.suppress(OSError):
                self._sock.sendto(message, self._server)
            try:
                async with asyncio.timeout(patience):
                    found = await future
            except TimeoutError:
                continue
            finally:
                del self._waiting[xid]
            if found.kind == pxeclient.NAK:
                raise GaveUp("NAK")
            return found
        raise GaveUp("no answer by DHCP")


class Fetch:
    """One TFTP transfer, driven by the socket. `size` stays -1 when the server tells none."""

    def __init__(
        self, address: str, server: str, name: str, lost: Counter[str], *, is_probe: bool, port: int = 69
    ) -> None:
        self._lost = lost
        self._is_probe = is_probe
        self._server = (server, port)
        self._sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self._sock.bind((address, 0))
        self._sock.setsockopt(socket.IPPROTO_UDP, UDP_GRO, 1)
        self._is_connected = False
        self._last = pxeclient.read_request(name, is_probe=is_probe)
        self._blksize, self._window = 512, 1
        self._acked = self._in_window = 0
        self._heard = 0.0
        self._tries = 0
        self.size = -1
        self.received = 0

    async def run(self, timers: Sequence[float] = pxeclient.EDK2_TFTP) -> None:
        """To the end. Silence for as long as a timer says is answered by the last packet again. Raises GaveUp."""
        loop = asyncio.get_running_loop()
        self._done: asyncio.Future[None] = loop.create_future()
        loop.add_reader(self._sock, self._readable)
        try:
            self._send()
            self._heard = time.monotonic()
            while self._tries < len(timers):
                left = self._heard + timers[self._tries] - time.monotonic()
                if left > 0:
                    done, _ = await asyncio.wait((self._done,), timeout=left)
                    if done:
                        return self._done.result()
                    continue
                self._tries += 1
                self._lost["tftp"] += 1
                self._heard = time.monotonic()
                self._send()
            raise GaveUp("TFTP timed out")
        finally:
            loop.remove_reader(self._sock)
            self._sock.close()

    def _send(self) -> None:
        with contextlib.suppress(OSError):
            if self._is_connected:
                self._sock.send(self._last)
            else:
                self._sock.sendto(self._last, self._server)

    def _readable(self) -> None:
        if self._done.done():
            return
        for _ in range(8):
            try:
                data, control, _, source = self._sock.recvmsg(DATAGRAM, 64)
            except BlockingIOError:
                return
            except OSError as error:
                self._fail(f"TFTP: {error.strerror}")
                return
            if not self._is_connected:
                self._sock.connect(source)
                self._is_connected = True
            self._heard, self._tries = time.monotonic(), 0
            step = struct.unpack("=i", control[0][2][:4])[0] if control else len(data)
            for at in range(0, len(data), step):
                self._take(data[at : at + 4], min(step, len(data) - at), data)
                if self._done.done():
                    return

    def _fail(self, why: str) -> None:
        if not self._done.done():
            self._done.set_exception(GaveUp(why))

    def _take(self, head: bytes, length: int, data: bytes) -> None:
        if head[1] == 6 and not self._acked:
            options = pxeclient.granted(data)
            self.size = options.get("tsize", -1)
            if self._is_probe:
                self._last = b"\x00\x05\x00\x08User aborted the transfer\0"
                self._send()
                self._done.set_result(None)
                return
            self._blksize, self._window = options.get("blksize", 512), options.get("windowsize", 1)
            self._ack()
        elif head[1] == 5:
            self._fail("TFTP: the server sent an error")
        elif head[1] == 3 and int.from_bytes(head[2:4], "big") == (self._acked + 1) & 0xFFFF:
            self._acked += 1
            self._in_window += 1
            self.received += length - 4
            is_end = length - 4 < self._blksize
            if is_end or self._in_window >= self._window:
                self._ack()
            if is_end:
                self._done.set_result(None)

    def _ack(self) -> None:
        self._last = b"\x00\x04" + (self._acked & 0xFFFF).to_bytes(2, "big")
        self._in_window = 0
        self._send()


async def http(
    address: str, url: str, lost: Counter[str], *, post: bytes | None = None, keep: bool = False
) -> tuple[bytes, int]:
    """GET or POST over a connection of its own, as firmware does. Returns the body, if kept, and its length.

    Raises GaveUp for an answer that is no 200 (503 is waited for) and when all tries are used up.
    """
    server, port, path = pxeclient.place(url)
    verb = "GET" if post is None else "POST"
    length = "" if post is None else f"Content-Type: application/json\r\nContent-Length: {len(post)}\r\n"
    head = f"{verb} {path} HTTP/1.1\r\nHost: {server}\r\n{length}Connection: close\r\n\r\n"
    for turn in range(HTTP_TRIES):
        sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            sock.bind((address, 0))
            found = await _converse(sock, (server, port), head.encode() + (post or b""), keep)
        except OSError:
            lost["http"] += 1
            await asyncio.sleep(1.0 + turn)
            continue
        finally:
            sock.close()
        status, later, body, size = found
        if status == 200:
            return body, size
        if status != 503:
            raise GaveUp(f"{verb} {path.partition('?')[0]} was answered {status}")
        lost["deferred"] += 1
        await asyncio.sleep(later or 1.0)
    raise GaveUp(f"{verb} {path.partition('?')[0]}: no more tries")


async def _converse(
    sock: socket.socket, server: tuple[str, int], request: bytes, keep: bool
) -> tuple[int, float, bytes, int]:
    loop = asyncio.get_running_loop()
    await loop.sock_connect(sock, server)
    await loop.sock_sendall(sock, request)
    data = b""
    while b"\r\n\r\n" not in data:
        part = await loop.sock_recv(sock, DATAGRAM)
        if not part:
            raise ConnectionResetError("the connection ended in the head")
        data += part
    head, _, body = data.partition(b"\r\n\r\n")
    lines = head.decode("latin-1").split("\r\n")
    fields = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
    size, status = int(fields.get("content-length", "0")), int(lines[0].split()[1])
    left = size - len(body)
    if keep:
        while left > 0:
            part = await loop.sock_recv(sock, left)
            if not part:
                raise ConnectionResetError("the connection ended in the body")
            body += part
            left -= len(part)
    elif left > 0:
        await _waste_rest(sock, left)
    return status, float(fields.get("retry-after", "0")), body if keep else b"", size


async def _waste_rest(sock: socket.socket, left: int) -> None:
    """MSG_TRUNC on TCP: the kernel counts and copies nothing (tcp(7))."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[None] = loop.create_future()

    def readable() -> None:
        nonlocal left
        try:
            count = sock.recv_into(_waste, min(left, TAKE), socket.MSG_TRUNC)
            if not count:
                raise ConnectionResetError("the connection ended in the body")
        except BlockingIOError:
            return
        except OSError as error:
            loop.remove_reader(sock)
            done.set_exception(error)
            return
        left -= count
        if not left:
            loop.remove_reader(sock)
            done.set_result(None)

    loop.add_reader(sock, readable)
    try:
        await done
    finally:
        loop.remove_reader(sock)
