"""The WebSocket client before aiohttp's server, which is another hand's reading of RFC 6455."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import WSMsgType, web

from metalbox.cli.websocket import BINARY, TEXT, Closed, WebSocket

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@asynccontextmanager
async def serving(folder: Path, handler: Handler) -> AsyncIterator[str]:
    """aiohttp on a unix socket, every path by `handler`; yields the socket's path."""
    app = web.Application()
    app.add_routes([web.get("/{path:.*}", handler)])
    runner = web.AppRunner(app, shutdown_timeout=0.5)
    await runner.setup()
    path = str(folder / "s")
    await web.UnixSite(runner, path).start()
    try:
        yield path
    finally:
        await runner.cleanup()


async def echo(request: web.Request) -> web.WebSocketResponse:
    """Greets at once, sends back what comes, and pings in between."""
    socket = web.WebSocketResponse(max_msg_size=2**20, compress=False)
    await socket.prepare(request)
    await socket.send_str("hello")
    async for message in socket:
        if message.type is WSMsgType.BINARY:
            await socket.ping(b"are you there")
            await socket.send_bytes(message.data)
        elif message.data == "close":
            await socket.close(message=b"as you wish")
    return socket


def messages(web_socket: WebSocket) -> list[tuple[int, bytes]]:
    return web_socket.messages() or web_socket.receive()


SIZES = (0, 1, 125, 126, 127, 65535, 65536, 200_000)


def talk(path: str) -> None:
    """All sizes there and back, then the end; in a thread."""
    one = WebSocket(path, 10)
    assert one.open("/x?watch=1") == (101, b"")
    assert messages(one) == [(TEXT, b"hello")]
    for size in SIZES:
        text = bytes(range(256)) * (size // 256) + bytes(size % 256)
        one.send(text)
        while not (found := messages(one)):
            pass
        assert found == [(BINARY, text)]
    one.send(b"close", TEXT)
    with pytest.raises(Closed, match="as you wish"):
        while True:
            messages(one)
    one.close()


async def test_messages_of_every_size(tmp_path: Path) -> None:
    async with serving(tmp_path, echo) as path:
        await asyncio.wait_for(asyncio.to_thread(talk, path), 60)


async def test_a_refusal_with_its_body(tmp_path: Path) -> None:
    async def refuse(request: web.Request) -> web.Response:
        return web.json_response({"error": "no" * 10_000}, status=409)

    def ask(path: str) -> None:
        one = WebSocket(path, 10)
        status, body = one.open("/x")
        assert (status, len(body)) == (409, 20_013)
        one.close()

    async with serving(tmp_path, refuse) as path:
        await asyncio.to_thread(ask, path)


def test_nobody_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        WebSocket(str(tmp_path / "none"), 1)
