"""What the agent says of itself: to the serial console at once, and to the server in batches when it can be reached."""

from __future__ import annotations

import contextlib
import sys
import threading
from collections import deque

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import IO

PREFIX = "metalbox: "
KEPT_LINES = 500
BATCH = 100
MAX_LINE = 500


class Journal:
    """The lines not yet sent. When the server is away for long, the oldest are dropped and counted."""

    def __init__(self, console: IO[str] | None = None) -> None:
        self._console = console if console is not None else sys.stderr
        self._lines: deque[str] = deque()
        self._dropped = 0
        self._lock = threading.Lock()
        self.waiting = threading.Event()

    def say(self, text: str) -> None:
        """Say one line."""
        line = text[:MAX_LINE]
        with contextlib.suppress(OSError, ValueError):  # a console that went away must not end the agent
            self._console.write(f"{PREFIX}{line}\n")
            self._console.flush()
        with self._lock:
            if len(self._lines) >= KEPT_LINES:
                self._lines.popleft()
                self._dropped += 1
            self._lines.append(line)
        self.waiting.set()

    def take(self) -> list[str]:
        """The next batch to send, oldest first; [] when there is nothing. What was dropped is said first."""
        with self._lock:
            lines = [self._lines.popleft() for _ in range(min(BATCH, len(self._lines)))]
            if self._dropped:
                lines.insert(0, f"({self._dropped} lines were dropped while the server could not be reached)")
                self._dropped = 0
            if not self._lines:
                self.waiting.clear()
        return lines

    def give_back(self, lines: list[str]) -> None:
        """Put a batch back that could not be sent."""
        with self._lock:
            self._lines.extendleft(reversed(lines))
            while len(self._lines) > KEPT_LINES:
                self._lines.popleft()
                self._dropped += 1
        self.waiting.set()
