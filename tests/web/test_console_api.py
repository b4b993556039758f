"""Consoles over REST, before a simulated BMC whose serial line ends here: bytes, notes, refusals, the recording."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from metalbox.power import connect, ipmi
from metalbox.power.ipmisession import Patience
from tests.power.ipmi_peers import PASSWORD, USER, endpoint, simulator
from tests.web.conftest import Stack

PATH = "/api/v1/machines/sn12345/console"


@dataclass
class Machine:
    """The machine that has reported, its BMC, and the far end of its serial line."""

    bmc_port: int = 0
    typed: bytearray = field(default_factory=bytearray)
    line: asyncio.StreamWriter | None = None
    news: asyncio.Event = field(default_factory=asyncio.Event)

    async def plug(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.line = writer
        with contextlib.suppress(ConnectionError), contextlib.closing(writer):
            while data := await reader.read(1000):
                self.typed += data
                self.news.set()

    def says(self, data: bytes) -> None:
        assert self.line is not None
        self.line.write(data)

    async def hears(self, data: bytes) -> None:
        async with asyncio.timeout(60):
            while bytes(self.typed) != data:
                self.news.clear()
                await self.news.wait()


@pytest.fixture
async def machine(stack: Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Machine]:
    # A simulator that stands still for some seconds is waited for.
    monkeypatch.setattr(ipmi, "Patience", lambda: Patience(greeting=15, login=15, command=15))
    await stack.report()
    one = Machine()
    server = await asyncio.start_server(one.plug, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    with simulator(tmp_path / "bmc", users=f'  sol "tcp:127.0.0.1:{port}" 115200 history=4000\n') as bmc:
        one.bmc_port = bmc.port
        body = {"address": "127.0.0.1", "user": USER, "password": PASSWORD, "driver": "ipmi", "machine": "sn12345"}
        async with stack.rest.post("/api/v1/bmcs", json={**body, "port": bmc.port}) as answer:
            assert answer.status == 200, await answer.text()
        yield one
    server.close()
    await asyncio.sleep(0.05)


async def until(socket: aiohttp.ClientWebSocketResponse, end: bytes) -> bytes:
    data = b""
    async with asyncio.timeout(60):
        while not data.endswith(end):
            message = await socket.receive()
            assert message.type in (aiohttp.WSMsgType.BINARY, aiohttp.WSMsgType.TEXT), message
            data += message.data if message.type is aiohttp.WSMsgType.BINARY else b""
    return data


async def noted(socket: aiohttp.ClientWebSocketResponse, kind: str) -> dict[str, Any]:
    async with asyncio.timeout(60):
        while True:
            message = await socket.receive()
            if message.type is aiohttp.WSMsgType.TEXT and (note := json.loads(message.data))["kind"] == kind:
                return dict(note)


async def test_one_types_and_one_watches(stack: Stack, machine: Machine) -> None:
    async with stack.rest.ws_connect(PATH) as one, stack.rest.ws_connect(PATH, params={"watch": 1}) as two:
        assert (await noted(two, "viewers"))["viewers"] == 2
        machine.says(b"login: ")
        await until(one, b"login: ")
        await until(two, b"login: ")
        await one.send_bytes(b"root\r")
        await two.send_bytes(b"not this")
        assert (await noted(two, "refused"))["text"] == "this viewer only watches: nothing was typed"
        await one.send_str('{"send": "break"}')
        # The simulator keeps a break back until the next character, and says it as telnet does.
        await one.send_bytes(b"b")
        await machine.hears(b"root\r\xff\xf3b")
        await two.send_str('{"send": "break"}')
        await noted(two, "refused")
        for text in ("nonsense", "[]", '{"send": "flowers"}'):
            await one.send_str(text)
            assert "expected" in (await noted(one, "refused"))["text"]
        await two.close()
        assert (await noted(one, "viewers"))["viewers"] == 1
    async with stack.rest.get(f"{PATH}/log") as answer:
        assert answer.status == 200
        assert answer.content_type == "application/octet-stream"
        log = await answer.read()
    assert b"login: " in log
    assert b"console opened by ipmi]" in log
    async with stack.rest.get(f"{PATH}/log?bytes=7") as answer:
        assert await answer.read() == b"login: "
    assert [entry.text for entry in await stack.entries()][-1] == "its console was opened by ipmi"


async def test_another_client_has_it(stack: Stack, machine: Machine) -> None:
    other = await connect(endpoint(machine.bmc_port)).console()
    async with stack.rest.get(PATH, headers=UPGRADE) as answer:
        assert answer.status == 409
        document = await answer.json()
        assert "in use by" in document["error"]
        assert document["exit_code"] == 4
    async with stack.rest.ws_connect(PATH, params={"force": 1}) as socket:
        machine.says(b"yours")
        await until(socket, b"yours")
    await other.close()


UPGRADE = {
    "Connection": "Upgrade",
    "Upgrade": "websocket",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA==",
}


@pytest.mark.parametrize(
    ("path", "headers", "status", "sentence"),
    [
        (PATH, {}, 400, "this is a WebSocket"),
        (f"{PATH}?watch=yes", UPGRADE, 400, "watch: expected 0 or 1, got 'yes'"),
        (f"{PATH}?force=2", UPGRADE, 400, "force: expected 0 or 1, got '2'"),
        (PATH, UPGRADE, 409, "use `metalbox bmc add`"),
        ("/api/v1/machines/nobody/console", UPGRADE, 404, "nobody"),
        (f"{PATH}/log?bytes=0", {}, 400, "bytes: expected a number from 1 to 16777216, got '0'"),
        (f"{PATH}/log?bytes=-1", {}, 400, "got '-1'"),
        (f"{PATH}/log?bytes=99999999999999999999", {}, 400, "bytes: expected a number"),
    ],
)
async def test_what_is_wrong_is_an_answer_before_the_upgrade(
    stack: Stack, path: str, headers: dict[str, str], status: int, sentence: str
) -> None:
    await stack.report()
    async with stack.rest.get(path, headers=headers) as answer:
        assert answer.status == status
        assert sentence in (await answer.json())["error"]


async def test_the_recording_of_nothing(stack: Stack) -> None:
    await stack.report()
    async with stack.rest.get(f"{PATH}/log") as answer:
        assert (answer.status, await answer.read()) == (200, b"")
