"""Speaking HTTP to the server: one request, one connection, optionally through one port only."""

from __future__ import annotations

import http.client
import json
import queue
import socket
import threading
import urllib.parse

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

CONNECT_SECONDS = 5.0
ANSWER_SECONDS = 30.0
MAX_ANSWER = 1 << 20


class Unreachable(Exception):
    """No answer came: no route, refused, reset, too late, or not HTTP. The message is a sentence's end."""


class Refused(Exception):
    """The server answered, and did not take what was sent. The message is the server's sentence."""


class Client:
    """The way to one server. `port` is the network interface that connections are bound to; "" leaves it to routing.

    `address` is ours as the server saw it last.
    """

    def __init__(self, url: str, port: str = "") -> None:
        parts = urllib.parse.urlsplit(url if "://" in url else f"http://{url}")
        if parts.scheme != "http" or not parts.hostname:
            raise ValueError(f"{url!r} is not a server address: write it like http://192.0.2.1:8080")
        self.url = url
        self.port = port
        self.address = ""
        self._host, self._tcp_port, self._base = parts.hostname, parts.port or 80, parts.path.rstrip("/")

    def post(self, path: str, document: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        """Send a JSON document; returns the status and the answered object. Raises Unreachable."""
        return self._request("POST", path, json.dumps(document).encode(), ANSWER_SECONDS)

    def get(self, path: str, query: dict[str, Any], seconds: float = ANSWER_SECONDS) -> tuple[int, dict[str, Any]]:
        """Ask; returns the status and the answered object. Raises Unreachable."""
        return self._request("GET", f"{path}?{urllib.parse.urlencode(query)}", None, seconds)

    def _request(self, method: str, path: str, body: bytes | None, seconds: float) -> tuple[int, dict[str, Any]]:
        connection = http.client.HTTPConnection(self._host, self._tcp_port, timeout=seconds)
        try:
            connection.sock = self._connect()
            connection.sock.settimeout(seconds)
            headers = {"Connection": "close", "Content-Type": "application/json"}
            connection.request(method, self._base + path, body, headers)
            answer = connection.getresponse()
            if (answer.length or 0) > MAX_ANSWER:
                raise Unreachable(f"an answer of {answer.length} bytes, at most {MAX_ANSWER} are taken")
            status, content = answer.status, answer.read()
        except (OSError, http.client.HTTPException) as error:
            raise Unreachable(_reason(error)) from None
        finally:
            connection.close()
        return status, _object(content)

    def _connect(self) -> socket.socket:
        last: OSError = OSError(f"{self._host} has no address")
        for family, kind, protocol, _, where in socket.getaddrinfo(self._host, self._tcp_port, type=socket.SOCK_STREAM):
            connection = socket.socket(family, kind | socket.SOCK_CLOEXEC, protocol)
            try:
                connection.settimeout(CONNECT_SECONDS)
                if self.port:
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, self.port.encode() + b"\0")
                connection.connect(where)
            except OSError as error:
                connection.close()
                last = error
                continue
            self.address = connection.getsockname()[0]
            return connection
        raise last


def expect(answer: tuple[int, dict[str, Any]]) -> dict[str, Any]:
    """The object of a good answer. Raises Unreachable for 5xx (the server is in trouble), Refused for the rest."""
    status, document = answer
    if 200 <= status < 300:
        return document
    said = str(document.get("error") or f"HTTP status {status}")
    raise Unreachable(said) if status >= 500 else Refused(said)


def race(url: str, ports: list[str], path: str, document: dict[str, Any], head_start: float) -> Client:
    """Send one document by every port; the way that is answered first. Raises what the last one raised.

    The first port has `head_start` seconds to itself, or until it fails.
    """
    answers: queue.SimpleQueue[tuple[Client, Exception | None]] = queue.SimpleQueue()

    def call(port: str) -> None:
        client = Client(url, port)
        try:
            expect(client.post(path, document))
        except (Unreachable, Refused) as error:
            answers.put((client, error))
        else:
            answers.put((client, None))

    def start(names: list[str]) -> int:
        for name in names:
            threading.Thread(target=call, args=(name,), name=f"race {name}", daemon=True).start()
        return len(names)

    pending = ports[1:]
    running = start(ports[:1])
    last: Exception = Unreachable("no port has an address")
    while running:
        try:
            client, error = answers.get(timeout=head_start if pending else None)
        except queue.Empty:
            pass
        else:
            running -= 1
            if error is None:
                return client
            last = error
        running += start(pending)
        pending = []
    raise last


def _reason(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, http.client.HTTPException):
        return f"not an HTTP answer ({type(error).__name__})"
    return (getattr(error, "strerror", "") or str(error)).lower()


def _object(content: bytes) -> dict[str, Any]:
    """The answered object; {} for anything else, such as the error page of a proxy in between."""
    try:
        document = json.loads(content)
    except ValueError:
        return {}
    return document if isinstance(document, dict) else {}
