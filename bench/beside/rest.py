"""Questions to metalbox's REST over its unix socket, each on a connection of its own."""

from __future__ import annotations

import http.client
import json
import socket
import time
from pathlib import Path
from typing import Any

REQUEST_SECONDS = 120.0


class UnixConnection(http.client.HTTPConnection):
    """HTTP over the service's socket."""

    def __init__(self, path: str) -> None:
        super().__init__("metalbox", timeout=REQUEST_SECONDS)
        self._path = path

    def connect(self) -> None:
        """See http.client."""
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(REQUEST_SECONDS)
        self.sock.connect(self._path)


def fetch(folder: Path, path: str) -> tuple[bytes, float]:
    """The body of one GET, and its milliseconds. RuntimeError unless it is 200."""
    connection = UnixConnection(str(folder / "s"))
    began = time.perf_counter()
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        body = answer.read()
    finally:
        connection.close()
    if answer.status != 200:
        raise RuntimeError(f"GET {path}: {answer.status}")
    return body, 1e3 * (time.perf_counter() - began)


def is_answering(folder: Path) -> bool:
    """Whether REST is up."""
    try:
        fetch(folder, "/api/v1/status")
    except (OSError, http.client.HTTPException):
        return False
    return True


def counters(folder: Path) -> dict[str, dict[str, float]]:
    """What the service has counted, by part."""
    found: dict[str, Any] = json.loads(fetch(folder, "/api/v1/status")[0])
    return dict(found["counters"])


def dropped_lines(counted: dict[str, dict[str, float]]) -> float:
    """Lines of the timeline that were given up under load. Pure."""
    dropped = sum(count for name, count in counted["journal"].items() if name.startswith("dropped"))
    return dropped + counted["dhcp"].get("not in the timeline", 0.0)
