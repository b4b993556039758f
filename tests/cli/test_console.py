"""`metalbox console` as a process, in a terminal of its own or in a pipe, before a console that answers."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import termios
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from aiohttp import WSMsgType, web

from metalbox.cli.console import Act, Keys, parse_escape
from metalbox.errors import InvalidValue
from tests.cli.test_websocket import serving

# -- keys ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("typed", "found"),
    [
        ([b"ls\r"], [b"ls\r"]),
        ([b"~."], [Act.END]),
        ([b"~", b"."], [Act.END]),
        ([b"a~."], [b"a~."]),
        ([b"a\r~."], [b"a\r", Act.END]),
        ([b"a\n~B~?x"], [b"a\n", Act.BREAK, Act.HELP, b"x"]),
        ([b"~~."], [b"~."]),
        ([b"~x~."], [b"~x~."]),
        ([b"~\r~."], [b"~\r", Act.END]),
        ([b"\xc3\xa4\r", b"~"], [b"\xc3\xa4\r"]),
    ],
)
def test_orders_are_found_at_the_begin_of_a_line(typed: list[bytes], found: list[bytes | Act]) -> None:
    keys = Keys(b"~")
    assert [item for piece in typed for item in keys.feed(piece)] == found


def test_without_an_escape_all_is_for_the_machine() -> None:
    assert Keys(b"").feed(b"~.\r~.") == [b"~.\r~."]


def test_other_escapes() -> None:
    assert (parse_escape("~"), parse_escape("^]"), parse_escape("^a"), parse_escape("none")) == (
        b"~",
        b"\x1d",
        b"\x01",
        b"",
    )
    assert Keys(b"\x1d").feed(b"\x1d.") == [Act.END]
    for text in ("", "ab", "^1", "ä", ".", "B", "?"):
        with pytest.raises(InvalidValue, match="--escape"):
            parse_escape(text)


# -- the process --------------------------------------------------------------------------------------------------


@dataclass
class Service:
    """What a service would answer, and what it was sent."""

    asked: list[str] = field(default_factory=list)
    sent: list[bytes | str] = field(default_factory=list)
    socket: web.WebSocketResponse | None = None

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.asked.append(request.raw_path)
        if request.path.endswith("/console/log"):
            return web.Response(body=b"\x1b[1mrecorded\xff")
        if "busy" in request.path:
            return web.json_response({"error": "the console is in use by another", "exit_code": 4}, status=409)
        self.socket = socket = web.WebSocketResponse(compress=False)
        await socket.prepare(request)
        await socket.send_bytes(b"backlog\r\n")
        await socket.send_str(json.dumps({"kind": "viewers", "text": "2 viewers", "viewers": 2}))
        async for message in socket:
            self.sent.append(message.data)
            if message.type is WSMsgType.BINARY:
                await socket.send_bytes(b"<" + message.data + b">")
        return socket


@dataclass
class Terminal:
    """The command in a terminal: what it shows, and the keys."""

    process: asyncio.subprocess.Process
    primary: int
    shown: bytes = b""

    async def until(self, text: bytes) -> None:
        async with asyncio.timeout(60):
            while text not in self.shown:
                try:
                    self.shown += os.read(self.primary, 4096)
                except BlockingIOError:
                    await asyncio.sleep(0.01)

    def type(self, keys: bytes) -> None:
        os.write(self.primary, keys)

    @property
    def is_raw(self) -> bool:
        return not termios.tcgetattr(self.primary)[3] & termios.ICANON

    async def exit_code(self) -> int:
        return await asyncio.wait_for(self.process.wait(), 60)


COMMAND = (sys.executable, "-m", "metalbox", "console")
# As a shell that a person types into starts it: whom a script starts in the background, or nohup, ignores signals.
IN_FRONT = ("env", "--default-signal", *COMMAND)
# The same, but a machine is silent only after a time that no busy host takes for an answer.
PATIENT = (
    sys.executable,
    "-c",
    "import sys; from metalbox.cli import console, main; console.IDLE_SECONDS = 6.0; sys.exit(main.main())",
    "console",
)


@asynccontextmanager
async def terminal(path: str, *words: str) -> AsyncIterator[Terminal]:
    primary, secondary = os.openpty()
    os.set_blocking(primary, False)
    process = await asyncio.create_subprocess_exec(
        *IN_FRONT, *words, "--socket", path, stdin=secondary, stdout=secondary, stderr=secondary
    )
    try:
        yield Terminal(process, primary)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
        os.close(secondary)
        os.close(primary)


async def piped(
    path: str, *words: str, stdin: bytes = b"", command: tuple[str, ...] = COMMAND
) -> tuple[int, bytes, bytes]:
    process = await asyncio.create_subprocess_exec(
        *command,
        *words,
        *("--socket", path),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    output, errors = await asyncio.wait_for(process.communicate(stdin), 90)
    assert process.returncode is not None
    return process.returncode, output, errors


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[tuple[Service, str]]:
    one = Service()
    async with serving(tmp_path, one.answer) as path:
        yield one, path


async def test_typed_shown_and_ended_as_with_ssh(service: tuple[Service, str]) -> None:
    one, path = service
    async with terminal(path, "r1-01") as screen:
        await screen.until(b"2 viewers]")
        assert b"[metalbox: the console of r1-01; ~. ends, ~? helps]\r\n" in screen.shown
        assert b"backlog\r\n" in screen.shown
        assert screen.is_raw
        screen.type(b"\x03\x1a")  # Ctrl-C and Ctrl-Z are keys of the machine
        await screen.until(b"<\x03\x1a>")
        screen.type(b"\r~?")
        await screen.until(b"send a serial break\r\n")
        screen.type(b"~B")
        screen.type(b"~.")
        assert await screen.exit_code() == 0
        assert not screen.is_raw
    assert one.asked == ["/api/v1/machines/r1-01/console"]
    assert b"".join(item for item in one.sent if isinstance(item, bytes)) == b"\x03\x1a\r"
    assert [item for item in one.sent if isinstance(item, str)] == ['{"send": "break"}']


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129)])
async def test_the_terminal_is_as_before_after_a_signal(
    service: tuple[Service, str], number: signal.Signals, code: int
) -> None:
    async with terminal(service[1], "r1-01") as screen:
        await screen.until(b"2 viewers]")
        assert screen.is_raw
        screen.process.send_signal(number)
        assert await screen.exit_code() == code
        assert not screen.is_raw


async def test_the_terminal_is_as_before_when_the_service_ends(service: tuple[Service, str]) -> None:
    one, path = service
    async with terminal(path, "r1-01") as screen:
        await screen.until(b"2 viewers]")
        assert one.socket is not None
        await one.socket.close(message=b"the service stops")
        await screen.until(b"metalbox: the console has ended: the service stops")
        assert await screen.exit_code() == 1
        assert not screen.is_raw


async def test_who_watches_types_nothing_and_ends_with_ctrl_c(service: tuple[Service, str]) -> None:
    one, path = service
    async with terminal(path, "r1-01", "--watch", "--force", "--escape", "^]") as screen:
        await screen.until(b"2 viewers]")
        assert b"^]. ends" in screen.shown
        screen.type(b"rm -rf /\r\x1d?")
        await screen.until(b"serial break")
        screen.process.send_signal(signal.SIGINT)
        assert await screen.exit_code() == 130
    assert one.asked == ["/api/v1/machines/r1-01/console?watch=1&force=1"]
    assert one.sent == []


async def test_a_pipe_goes_through_and_ends_when_the_machine_is_silent(service: tuple[Service, str]) -> None:
    one, path = service
    code, output, errors = await piped(path, "r1-01", stdin=b"~.\nuname\n", command=PATIENT)
    assert code == 0
    assert output == b"backlog\r\n<~.\nuname\n>"
    assert errors == b"metalbox: 2 viewers\n"
    assert b"".join(item for item in one.sent if isinstance(item, bytes)) == b"~.\nuname\n"


async def test_a_busy_console_is_a_sentence_and_code_4(service: tuple[Service, str]) -> None:
    assert await piped(service[1], "busy") == (4, b"", b"metalbox: the console is in use by another\n")


async def test_the_recording_comes_as_it_is(service: tuple[Service, str]) -> None:
    one, path = service
    assert await piped(path, "r1 01", "--log", "-n", "9") == (0, b"\x1b[1mrecorded\xff", b"")
    assert one.asked == ["/api/v1/machines/r1%2001/console/log?bytes=9"]


async def test_no_service_and_a_wrong_key(tmp_path: Path) -> None:
    code, _, errors = await piped(str(tmp_path / "none"), "r1")
    assert code == 1
    assert b"no service answers" in errors
    code, _, errors = await piped(str(tmp_path / "none"), "r1", "--escape", "abc")
    assert code == 2
    assert b"--escape: expected one key" in errors
