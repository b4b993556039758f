"""A service on a unix socket that answers what a test tells it, to prove the command line by itself."""

from __future__ import annotations

import json
import socketserver
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from tests.web.conftest import stack

__all__ = ["Scripted", "scripted", "stack"]


class Scripted:
    """Answers by "METHOD path"; remembers each request."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.answers: dict[str, tuple[int, Any]] = {}
        self.requests: list[tuple[str, str, str, Any]] = []


@pytest.fixture
def scripted(tmp_path: Path) -> Iterator[Scripted]:
    plan = Scripted(tmp_path / "metalbox.sock")

    class Handler(BaseHTTPRequestHandler):
        def address_string(self) -> str:
            return "unix"

        def log_message(self, format: str, *args: Any) -> None:
            pass

        def do_GET(self) -> None:
            path, _, query = self.path.partition("?")
            length = int(self.headers.get("Content-Length") or 0)
            body = json.loads(self.rfile.read(length)) if length else None
            plan.requests.append((self.command, path, query, body))
            status, answer = plan.answers.get(f"{self.command} {path}", (404, {"error": "no answer", "exit_code": 3}))
            data = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_POST = do_GET
        do_DELETE = do_GET

    server = socketserver.ThreadingUnixStreamServer(str(plan.path), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield plan
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
