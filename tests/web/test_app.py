"""The servers themselves: every URL, listening and stopping, clients that do nothing."""

from __future__ import annotations

import asyncio
import os
import socket
import stat
from collections import Counter
from ipaddress import IPv4Address
from pathlib import Path

import pytest
from aiohttp import web
from sqlalchemy.exc import OperationalError

from metalbox.errors import Refused, StartError, TimedOut
from metalbox.web import app
from metalbox.web.app import listen_tcp, listen_unix, remove_unix, serving
from tests.web.conftest import Stack

LOCAL = IPv4Address("127.0.0.1")


def test_a_taken_port_is_one_sentence() -> None:
    with listen_tcp(LOCAL, 0) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(StartError) as caught:
            listen_tcp(LOCAL, port)
    assert str(caught.value) == (
        f"cannot serve HTTP on 127.0.0.1 port {port}: "
        "another program has this port: stop it, or choose another as http.port"
    )


def test_an_address_that_is_not_ours() -> None:
    with pytest.raises(StartError, match=r"on 192\.0\.2\.77 port 8080: this host has no such address"):
        listen_tcp(IPv4Address("192.0.2.77"), 8080)


def test_the_unix_socket(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "metalbox.sock"
    with listen_unix(path):
        assert stat.S_IMODE(path.stat().st_mode) == 0o660
        with pytest.raises(StartError, match="another metalbox service answers there"):
            listen_unix(path)
        assert path.exists()
    # Closed and still there, as after a crash: nobody answers, so it is replaced.
    assert path.exists()
    with listen_unix(path):
        remove_unix(path)
    assert not path.exists()
    remove_unix(path)


def test_a_file_in_the_place_of_the_unix_socket_is_not_removed(tmp_path: Path) -> None:
    path = tmp_path / "metalbox.sock"
    path.write_text("precious")
    with pytest.raises(StartError, match="a file of this name is in the way"):
        listen_unix(path)
    assert path.read_text() == "precious"


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StartError, match=r"cannot open the socket .*: (Not a directory|File exists)"):
        listen_unix(tmp_path / "file" / "metalbox.sock")
    with pytest.raises(StartError, match="cannot open the socket"):
        listen_unix(tmp_path / ("x" * 200))


async def test_who_sends_no_request_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app, "IDLE_SECONDS", 0.2)
    listener = listen_tcp(LOCAL, 0)
    async with serving(web.Application(), listener):
        for sent in (b"", b"GET / HT", b"GET / HTTP/1.1\r\nHost: x\r\nX-Slow: "):
            reader, writer = await asyncio.open_connection(*listener.getsockname())
            writer.write(sent)
            assert await asyncio.wait_for(reader.read(), 40) == b""
            writer.close()


async def test_leaving_ends_transfers_that_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    begun = asyncio.Event()

    async def endless(request: web.Request) -> web.Response:
        begun.set()
        await asyncio.sleep(3600)
        raise AssertionError

    site = web.Application()
    site.router.add_get("/", endless)
    listener = listen_tcp(LOCAL, 0)
    async with serving(site, listener):
        reader, writer = await asyncio.open_connection(*listener.getsockname())
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        await asyncio.wait_for(begun.wait(), 60)
        leaving = asyncio.get_running_loop().time()
    # The request goes on for an hour.
    assert asyncio.get_running_loop().time() - leaving < 60
    assert await reader.read() == b""
    writer.close()


async def test_garbage_is_a_plain_400(stack: Stack) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", stack.port)
    writer.write(b"\x16\x03\x01\x00\xa5\x01 this is TLS\r\n\r\n")
    answer = await reader.read()
    assert answer.startswith(b"HTTP/1.0 400 Bad Request\r\n")
    assert b"Traceback" not in answer
    writer.close()


@pytest.mark.parametrize(
    ("error", "status", "sentence", "code"),
    [
        (Refused("it is in use"), 409, "it is in use", 4),
        (TimedOut("no answer"), 504, "no answer", 5),
        (OperationalError("SELECT", {}, OSError("disk full")), 503, "the database cannot be used: disk full", 1),
        (TimeoutError(), 408, "the rest of the request did not come in time", 5),
    ],
)
async def test_errors_are_sentences(error: Exception, status: int, sentence: str, code: int) -> None:
    async def failing(request: web.Request) -> web.Response:
        raise error

    counters: Counter[str] = Counter()
    site = web.Application(middlewares=[app._answers(counters)])
    site.router.add_get("/{tail:.*}", failing)
    listener = listen_tcp(LOCAL, 0)
    port = listener.getsockname()[1]

    def ask(path: str) -> bytes:
        with socket.create_connection(("127.0.0.1", port), timeout=60) as sock:
            sock.sendall(f"GET {path} HTTP/1.0\r\n\r\n".encode())
            return sock.makefile("rb").read().split(b"\r\n\r\n", 1)[1]

    async with serving(site, listener):
        assert await asyncio.to_thread(ask, "/boot/x") == f"{sentence}\n".encode()
        wanted = f'{{"error": "{sentence}", "exit_code": {code}}}'.encode()
        assert await asyncio.to_thread(ask, "/api/v1/x") == wanted
    assert sum(counters.values()) == 2
    assert all(name.startswith(f"ignored: {status} ") for name in counters)


def test_the_umask_is_left_as_it_was(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        listen_unix(tmp_path / "metalbox.sock").close()
        assert os.umask(0o022) == 0o022
    finally:
        os.umask(before)
