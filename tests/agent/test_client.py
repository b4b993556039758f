"""The agent's HTTP: answers good, bad and missing, and the race between ports."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from metalbox.agent.client import Client, Refused, Unreachable, expect, race
from tests.agent.rack import Server


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server().start()
    yield server
    server.stop()


@contextmanager
def answering(raw: bytes) -> Iterator[str]:
    """The address of a TCP server that answers every connection with these bytes."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                connection.sendall(raw)
                connection.shutdown(socket.SHUT_WR)
                while connection.recv(65536):
                    pass  # closing with unread data would reset the connection under the answer

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        # Closing alone wakes nobody in accept, who would go on with the next socket that gets this descriptor.
        listener.shutdown(socket.SHUT_RDWR)
        thread.join(60)
        listener.close()


def test_a_document_and_its_answer(server: Server) -> None:
    client = Client(server.url)
    assert client.post("/agent/v1/report", {"agent": {"boot_id": "b"}}) == (200, {"machine": "r1", "id": 1})
    assert client.get("/agent/v1/orders", {"boot_id": "b & c", "wait": 30})[0] == 404
    assert server.last("orders") == {"boot_id": "b & c", "wait": "30"}
    assert client.address == "127.0.0.1"


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b"", "connection reset|not an HTTP answer|remote end closed"),
        (b"SSH-2.0-OpenSSH\r\n", "not an HTTP answer"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{}", "not an HTTP answer"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 99999999\r\n\r\n{}", "an answer of 99999999 bytes"),
    ],
)
def test_what_is_no_answer(raw: bytes, reason: str) -> None:
    with answering(raw) as url, pytest.raises(Unreachable, match=reason):
        Client(url).post("/agent/v1/hello", {})


def test_an_error_page_of_a_proxy() -> None:
    with answering(b"HTTP/1.0 502 Bad Gateway\r\n\r\n<html>") as url:
        answer = Client(url).post("/agent/v1/hello", {})
    assert answer == (502, {})
    with pytest.raises(Unreachable, match="HTTP status 502"):
        expect(answer)
    with pytest.raises(Refused, match="nics: expected a list"):
        expect((422, {"error": "nics: expected a list"}))
    assert expect((204, {})) == {}


def test_nobody_listens() -> None:
    with pytest.raises(Unreachable, match="connection refused"):
        Client("http://127.0.0.1:1").post("/", {})


def test_a_silent_server() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener, pytest.raises(Unreachable, match="no answer in time"):
        Client(f"http://127.0.0.1:{listener.getsockname()[1]}").get("/", {}, seconds=0.2)


@pytest.mark.parametrize("url", ["https://192.0.2.1", "ftp://x", "http://", "http:///x"])
def test_what_is_no_server_address(url: str) -> None:
    with pytest.raises(ValueError, match="is not a server address: write it like"):
        Client(url)


def test_the_first_port_answered_wins(server: Server) -> None:
    way = race(server.url, [""], "/agent/v1/hello", {}, 1.0)
    assert way.port == "" and way.address == "127.0.0.1"
    with pytest.raises(Unreachable, match="no port has an address"):
        race(server.url, [], "/agent/v1/hello", {}, 1.0)


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="binding to a port takes root")
def test_a_port_that_leads_nowhere_does_not_hold_up_the_others(server: Server) -> None:
    way = race(server.url, ["no-such-port", "lo"], "/agent/v1/hello", {}, 5.0)
    assert way.port == "lo"
    with pytest.raises(Unreachable, match="no such device"):
        race(server.url, ["no-such-port"], "/agent/v1/hello", {}, 5.0)
