"""A simulated machine's talk over real sockets: what it repeats, what it waits for, when it gives up."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections import Counter
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from metalbox.lab import pxeclient
from metalbox.lab.fleetwires import Exchange, Fetch, GaveUp, Interface, http
from tests.netns import Namespaces

HOME = "127.0.0.1"
FILE = bytes(range(256)) * 20  # 5,120 bytes: three blocks of 1468 and 716 more
# Longer than any computer stands still.
PATIENT = (600.0,) * 5
GRANT = b"\x00\x06tsize\x005120\x00blksize\x001468\x00windowsize\x004\x00"
Peer = tuple[str, int]


class TftpServer(asyncio.DatagramProtocol):
    """Lockstep or windows, as `oack` grants; swallows the first `deaf` packets."""

    def __init__(self, oack: bytes, deaf: int = 0) -> None:
        self.oack, self.deaf = oack, deaf
        self.heard: list[bytes] = []
        self.awaited = 0
        self.enough = asyncio.Event()
        self.answers: Callable[[], None] = lambda: None
        self.window, self.blksize = (4, 1468) if oack == GRANT else (1, 512)

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, addr: Peer) -> None:
        self.heard.append(data)
        if len(self.heard) == self.awaited:
            self.enough.set()
        if len(self.heard) <= self.deaf:
            return
        self.answers()
        if data[1] == 1 and self.oack:
            self.transport.sendto(self.oack, addr)
        elif data[1] in (1, 4):
            acked = 0 if data[1] == 1 else int.from_bytes(data[2:4], "big")
            for number in range(acked + 1, acked + 1 + self.window):
                offset = (number - 1) * self.blksize
                if offset <= len(FILE):
                    block = FILE[offset : offset + self.blksize]
                    self.transport.sendto(b"\x00\x03" + number.to_bytes(2, "big") + block, addr)


@contextlib.asynccontextmanager
async def tftp(oack: bytes, deaf: int = 0) -> AsyncIterator[tuple[TftpServer, int]]:
    loop = asyncio.get_running_loop()
    transport, server = await loop.create_datagram_endpoint(lambda: TftpServer(oack, deaf), local_addr=(HOME, 0))
    try:
        yield server, transport.get_extra_info("sockname")[1]
    finally:
        transport.close()


async def test_the_probe_learns_the_size_and_breaks_off() -> None:
    lost: Counter[str] = Counter()
    async with tftp(GRANT) as (server, port):
        probe = Fetch(HOME, HOME, "a.efi", lost, is_probe=True, port=port)
        await probe.run(PATIENT)
        await asyncio.sleep(0)
    assert probe.size == len(FILE)
    assert (probe.received, lost) == (0, {})
    assert server.heard[0] == pxeclient.read_request("a.efi", is_probe=True)


@pytest.mark.parametrize(("oack", "acks"), [(GRANT, 2), (b"", 11)])
async def test_windows_and_lockstep_bring_every_byte(oack: bytes, acks: int) -> None:
    lost: Counter[str] = Counter()
    async with tftp(oack) as (server, port):
        fetch = Fetch(HOME, HOME, "a.efi", lost, is_probe=False, port=port)
        server.awaited = 1 + acks
        await fetch.run(PATIENT)
        await server.enough.wait()
    assert (fetch.received, lost) == (len(FILE), {})
    assert [heard[1] for heard in server.heard] == [1] + [4] * acks


async def test_silence_is_answered_by_the_same_packet_and_counted() -> None:
    lost: Counter[str] = Counter()
    async with tftp(GRANT, deaf=2) as (server, port):
        fetch = Fetch(HOME, HOME, "a.efi", lost, is_probe=False, port=port)
        timers = [0.05] * 5
        # From its first answer on nothing is lost, however long this process stands still.
        server.answers = lambda: timers.__setitem__(slice(None), PATIENT)
        await fetch.run(timers)
    assert fetch.received == len(FILE)
    assert server.heard[0] == server.heard[1] == server.heard[2]
    assert lost == {"tftp": 2}


async def test_after_the_last_timer_it_gives_up() -> None:
    lost: Counter[str] = Counter()
    async with tftp(b"", deaf=100) as (_, port):
        with pytest.raises(GaveUp, match="timed out"):
            await Fetch(HOME, HOME, "a.efi", lost, is_probe=False, port=port).run((0.01, 0.01))
    assert lost == {"tftp": 2}


async def test_an_error_of_the_server_ends_it() -> None:
    async with tftp(b"\x00\x05\x00\x01no such file\x00") as (_, port):
        with pytest.raises(GaveUp, match="sent an error"):
            await Fetch(HOME, HOME, "a.efi", Counter(), is_probe=False, port=port).run()


@contextlib.asynccontextmanager
async def web(*answers: bytes) -> AsyncIterator[tuple[str, list[bytes]]]:
    """A server that gives these answers, a connection each, as they are."""
    heard: list[bytes] = []
    waiting = list(answers)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(waiting.pop(0))
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, HOME, 0)
    async with server:
        yield f"http://{HOME}:{server.sockets[0].getsockname()[1]}/a?b=c", heard


def answer(status: str, body: bytes = b"", *fields: str, length: int | None = None) -> bytes:
    head = [f"HTTP/1.1 {status}", f"Content-Length: {len(body) if length is None else length}", *fields]
    return "\r\n".join(head).encode() + b"\r\n\r\n" + body


async def test_a_body_is_kept_or_only_counted() -> None:
    body = bytes(300_000)
    async with web(answer("200 OK", b"#!ipxe"), answer("200 OK", body), answer("200 OK", body)) as (url, heard):
        assert await http(HOME, url, Counter(), keep=True) == (b"#!ipxe", 6)
        assert await http(HOME, url, Counter()) == (b"", len(body))
        assert await http(HOME, url, Counter(), keep=True) == (body, len(body))
    assert heard[0].startswith(b"GET /a?b=c HTTP/1.1\r\n")


async def test_a_turn_that_is_put_off_is_waited_for_and_no_retry() -> None:
    lost: Counter[str] = Counter()
    async with web(answer("503 Later", b"", "Retry-After: 0.01"), answer("200 OK", b"x")) as (url, _):
        assert await http(HOME, url, lost) == (b"", 1)
    assert lost == {"deferred": 1}


async def test_a_connection_that_breaks_is_a_retry(monkeypatch: pytest.MonkeyPatch) -> None:
    lost: Counter[str] = Counter()
    waits: list[float] = []

    async def no_wait(seconds: float) -> None:
        waits.append(seconds)

    monkeypatch.setattr("metalbox.lab.fleetwires.asyncio.sleep", no_wait)
    cut = answer("200 OK", bytes(100_000), length=200_000)
    async with web(cut, answer("200 OK", b"half", length=8), b"", answer("200 OK", b"x")) as (url, _):
        assert await http(HOME, url, lost) == (b"", 1)
    assert lost == {"http": 3}
    assert waits == [1.0, 2.0, 3.0]


async def test_another_status_is_the_end() -> None:
    async with web(answer("404 Not Found")) as (url, _):
        with pytest.raises(GaveUp, match="GET /a was answered 404"):
            await http(HOME, url, Counter())


@pytest.mark.root
def test_dhcp_is_asked_again_by_its_timers_and_a_nak_is_the_end() -> None:
    async def talk() -> None:
        loop, lost = asyncio.get_running_loop(), Counter[str]()
        exchange = Exchange("eth0")
        server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        server.bind(("", 6700))
        discover = pxeclient.dhcp(pxeclient.DISCOVER, 1, 2, ipxe=False)
        with pytest.raises(GaveUp, match="no answer by DHCP"):
            await exchange.ask(discover, 2, pxeclient.OFFER, (0.02, 0.02, 0.02), lost)
        assert lost == {"dhcp": 2}
        asked = loop.create_task(exchange.ask(discover, 2, pxeclient.OFFER, PATIENT, lost))
        await asyncio.sleep(0)
        for kind in (pxeclient.ACK, pxeclient.NAK):
            reply = bytearray(discover)
            reply[0], reply[242] = 2, kind
            await loop.sock_sendto(server, reply, ("10.64.0.2", 68))
        with pytest.raises(GaveUp, match="NAK"):
            await asked
        exchange.close()
        server.close()

    with Namespaces() as net:
        net.link("a", "eth0", "b", "eth0", left_ip="10.64.0.1/24", right_ip="10.64.0.2/24")
        with net.inside("b"):
            asyncio.run(talk())


@pytest.mark.root
def test_addresses_are_put_on_the_interface_once() -> None:
    with Namespaces() as net:
        net.link("a", "eth0", "b", "eth0", left_ip="10.64.0.1/24", right_ip="10.64.0.2/24")
        with net.inside("b"):
            interface = Interface("eth0")
            for address in ("10.64.1.1", "10.64.1.2", "10.64.1.1"):
                interface.add(socket.inet_aton(address))
            interface.close()
        assert net.addresses("b", "eth0") == ["10.64.0.2", "10.64.1.1", "10.64.1.2"]
