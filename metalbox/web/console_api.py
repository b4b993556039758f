"""REST for consoles: a WebSocket with the machine's bytes, and the recording.

Binary frames are the machine's bytes and what is typed; text frames are JSON. To the viewer: {"kind", "text", ...},
where kind is opened, lost, retry, viewers, dropped or refused. From it: {"send": "break"}.
"""

from __future__ import annotations

import asyncio
import contextlib
import json

from aiohttp import WSCloseCode, WSMsgType, web

from metalbox import inventory
from metalbox.consoles import Line, Lines, Note, Viewer
from metalbox.errors import InvalidValue, MetalboxError
from metalbox.report import show
from metalbox.store import Database

# A viewer whose computer has gone is noticed after this.
HEARTBEAT_SECONDS = 30.0
# What is typed comes by the key, or from the clipboard.
MAX_FRAME = 2**16
MAX_LOG_BYTES = 2**24
DEFAULT_LOG_BYTES = 2**16


class ConsoleApi:
    """The answers."""

    def __init__(self, database: Database, lines: Lines) -> None:
        self._database = database
        self._lines = lines

    async def view(self, request: web.Request) -> web.WebSocketResponse:
        """Show the console, and type what is sent; `watch=1` only shows, `force=1` ends another client's session."""
        socket = web.WebSocketResponse(heartbeat=HEARTBEAT_SECONDS, max_msg_size=MAX_FRAME, compress=False)
        if not socket.can_prepare(request).ok:
            raise InvalidValue("this is a WebSocket: ask for an upgrade, or use `metalbox console`")
        may_type = not _flag(request, "watch")
        force = _flag(request, "force")
        line = await self._line(request)
        viewer = Viewer()
        # Whatever is wrong is an answer of HTTP, before the upgrade.
        await line.join(viewer, force=force)
        try:
            await socket.prepare(request)
            showing = asyncio.create_task(_show(socket, viewer))
            try:
                await _listen(socket, line, viewer, may_type=may_type)
            finally:
                showing.cancel()
                await asyncio.wait({showing})
                if not showing.cancelled():
                    showing.exception()
        finally:
            line.leave(viewer)
        return socket

    async def log(self, request: web.Request) -> web.Response:
        """The last `bytes` of what was recorded, as it came."""
        text = request.query.get("bytes", str(DEFAULT_LOG_BYTES))
        if not text.isascii() or not text.isdecimal() or not 0 < int(text[:12]) <= MAX_LOG_BYTES:
            raise InvalidValue(f"bytes: expected a number from 1 to {MAX_LOG_BYTES}, got {show(text)}")
        line = await self._line(request)
        data = await asyncio.to_thread(line.log, int(text))
        return web.Response(body=data, content_type="application/octet-stream")

    async def _line(self, request: web.Request) -> Line:
        return self._lines.line(await self._database.run(inventory.find, request.match_info["name"]))


def _flag(request: web.Request, name: str) -> bool:
    value = request.query.get(name, "0")
    if value not in ("0", "1"):
        raise InvalidValue(f"{name}: expected 0 or 1, got {show(value)}")
    return value == "1"


async def _show(socket: web.WebSocketResponse, viewer: Viewer) -> None:
    """Send what the viewer gets, until it ends."""
    with contextlib.suppress(ConnectionError):
        while (item := await viewer.next()) is not None:
            if isinstance(item, Note):
                await socket.send_str(json.dumps({"kind": item.kind, "text": item.text, **item.data}))
            else:
                await socket.send_bytes(item)
        await socket.close(code=WSCloseCode.GOING_AWAY, message=b"the service stops")


async def _listen(socket: web.WebSocketResponse, line: Line, viewer: Viewer, *, may_type: bool) -> None:
    """Take what the viewer sends, until it goes."""
    async for message in socket:
        try:
            if message.type is WSMsgType.BINARY:
                _may(may_type)
                await line.type(message.data)
            elif message.type is WSMsgType.TEXT:
                await _order(line, message.data, may_type=may_type)
        except MetalboxError as error:
            viewer.offer(Note("refused", str(error)))


async def _order(line: Line, text: str, *, may_type: bool) -> None:
    try:
        document = json.loads(text)
    except ValueError:
        document = None
    if not isinstance(document, dict) or document.get("send") != "break":
        raise InvalidValue(f'expected {{"send": "break"}}, got {show(text)}')
    _may(may_type)
    await line.send_break()


def _may(may_type: bool) -> None:
    if not may_type:
        raise InvalidValue("this viewer only watches: nothing was typed")
