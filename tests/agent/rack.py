"""A small real HTTP server that speaks the agent's side of the service, and can be stopped, restarted and made ill."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

Answer = tuple[int, dict[str, Any]]


class Server:
    """Keeps what agents say. `refuse` answers a path otherwise; `orders` are handed out by the next poll.

    What reports are answered waits for `hold`.
    """

    def __init__(self, host: str = "127.0.0.1") -> None:
        self.host = host
        self.said: list[tuple[float, str, dict[str, Any]]] = []
        self.known: set[str] = set()
        self.orders: list[dict[str, Any]] = []
        self.refuse: dict[str, Answer] = {}
        self.poll_seconds = 0.3
        self.hold = threading.Event()
        self.hold.set()
        self._http: ThreadingHTTPServer | None = None
        self.port = 0

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"

    def start(self) -> Server:
        """Listen; on the same port as before after a stop."""
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                self._answer(*outer.take(urlsplit(self.path).path, body))

            def do_GET(self) -> None:
                parts = urlsplit(self.path)
                query = {name: values[0] for name, values in parse_qs(parts.query).items()}
                self._answer(*outer.take(parts.path, query))

            def _answer(self, status: int, document: dict[str, Any]) -> None:
                body = json.dumps(document).encode()
                try:
                    self.send_response(status)
                    self.send_header("Content-Length", str(len(body)))
                    self.end_headers()
                    self.wfile.write(body)
                except OSError:
                    pass

            def log_message(self, format: str, *args: Any) -> None:
                pass

        ThreadingHTTPServer.allow_reuse_address = True
        ThreadingHTTPServer.daemon_threads = True
        self._http = ThreadingHTTPServer((self.host, self.port), Handler)
        self.port = self._http.server_address[1]
        threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def stop(self) -> None:
        if self._http:
            self._http.shutdown()
            self._http.server_close()
            self._http = None

    def take(self, path: str, document: dict[str, Any]) -> Answer:
        verb = path.rpartition("/")[2]
        self.said.append((time.monotonic(), verb, document))
        if verb in self.refuse:
            return self.refuse[verb]
        if verb == "report":
            self.hold.wait(60)
            self.known.add(document["agent"]["boot_id"])
            return 200, {"machine": "r1", "id": 1}
        if verb == "orders":
            return self._poll(document["boot_id"])
        return 200, {}

    def _poll(self, boot_id: str) -> Answer:
        if boot_id not in self.known:
            return 404, {"error": "unknown boot"}
        deadline = time.monotonic() + self.poll_seconds
        while time.monotonic() < deadline and not self.orders:
            time.sleep(0.01)
        orders, self.orders = self.orders, []
        return 200, {"orders": orders}

    def count(self, verb: str) -> int:
        return sum(1 for _, said, _ in self.said if said == verb)

    def last(self, verb: str) -> dict[str, Any]:
        return [document for _, said, document in self.said if said == verb][-1]

    def lines(self) -> list[str]:
        return [line for _, verb, document in self.said if verb == "log" for line in document["lines"]]


def until(happened: Callable[[], object], seconds: float = 60.0) -> None:
    """Wait for something that other threads do."""
    deadline = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.01)
