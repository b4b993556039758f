"""A WebSocket client for the service's unix socket (RFC 6455), without an event loop: the caller waits on `fileno`.

aiohttp has one and takes 0.3 s to be imported, and the command line starts in a sixth of that.
"""

from __future__ import annotations

import base64
import io
import os
import socket
import struct
from http.client import BadStatusLine, parse_headers

TEXT, BINARY, CLOSE, PING, PONG = 0x1, 0x2, 0x8, 0x9, 0xA
CONTINUATION = 0x0
FINAL, MASKED = 0x80, 0x80
CHUNK = 65536


class Closed(Exception):
    """The service ended the connection; the text is its reason, if it gave one."""


class WebSocket:
    """One connection: made, then `open`."""

    def __init__(self, path: str, timeout: float) -> None:
        """Connect to the unix socket at `path`. Raises OSError."""
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._socket.settimeout(timeout)
            self._socket.connect(path)
        except OSError:
            self._socket.close()
            raise
        self._buffer = bytearray()
        self._message = bytearray()
        self._kind = BINARY
        self._closing: str | None = None

    def fileno(self) -> int:
        """For select."""
        return self._socket.fileno()

    def open(self, target: str) -> tuple[int, bytes]:
        """Ask for the upgrade: 101, or the status and body of a refusal. Raises as `receive`, and HTTPException."""
        key = base64.b64encode(os.urandom(16)).decode()
        lines = (
            f"GET {target} HTTP/1.1",
            "Host: metalbox",
            "Connection: Upgrade",
            "Upgrade: websocket",
            "Sec-WebSocket-Version: 13",
            f"Sec-WebSocket-Key: {key}",
        )
        self._socket.sendall(("\r\n".join(lines) + "\r\n\r\n").encode())
        head = self._read_until(b"\r\n\r\n")
        status, _, fields = head.partition(b"\r\n")
        words = status.split()
        if len(words) < 2 or not words[0].startswith(b"HTTP/") or not words[1].isdigit():
            raise BadStatusLine(status.decode(errors="replace"))
        if int(words[1]) == 101:
            return 101, b""
        size = int(parse_headers(io.BytesIO(fields)).get("Content-Length") or 0)
        while len(self._buffer) < size:
            self._fill()
        return int(words[1]), bytes(self._buffer[:size])

    def receive(self) -> list[tuple[int, bytes]]:
        """Wait for bytes: whole messages as (TEXT or BINARY, payload). Raises Closed and OSError."""
        self._fill()
        return self.messages()

    def messages(self) -> list[tuple[int, bytes]]:
        """What is here already, as for `receive`: the first messages may come with the answer to `open`."""
        found = []
        while (frame := self._frame()) is not None:
            first, payload = frame
            opcode = first & 0x0F
            if opcode == PING:
                self.send(payload, PONG)
            elif opcode == CLOSE:
                self._closing = payload[2:].decode(errors="replace")
            elif opcode in (TEXT, BINARY, CONTINUATION):
                if opcode != CONTINUATION:
                    self._kind = opcode
                self._message += payload
                if first & FINAL:
                    found.append((self._kind, bytes(self._message)))
                    self._message.clear()
        if self._closing is not None and not found:
            raise Closed(self._closing)
        return found

    def send(self, payload: bytes, opcode: int = BINARY) -> None:
        """Send one message; a client's are masked (section 5.3). Raises OSError."""
        size = len(payload)
        if size < 126:
            head = struct.pack("!BB", FINAL | opcode, MASKED | size)
        elif size < 65536:
            head = struct.pack("!BBH", FINAL | opcode, MASKED | 126, size)
        else:
            head = struct.pack("!BBQ", FINAL | opcode, MASKED | 127, size)
        mask = os.urandom(4)
        masked = bytes(byte ^ mask[place & 3] for place, byte in enumerate(payload))
        self._socket.sendall(head + mask + masked)

    def close(self) -> None:
        """Say goodbye and hang up; fine when the other side has gone."""
        try:
            self._socket.settimeout(1.0)
            self.send(struct.pack("!H", 1000), CLOSE)
        except OSError:
            pass
        finally:
            self._socket.close()

    def _fill(self) -> None:
        data = self._socket.recv(CHUNK)
        if not data:
            raise Closed(self._closing or "")
        self._buffer += data

    def _read_until(self, end: bytes) -> bytes:
        while (place := self._buffer.find(end)) < 0:
            self._fill()
        place += len(end)
        data = bytes(self._buffer[:place])
        del self._buffer[:place]
        return data

    def _frame(self) -> tuple[int, bytes] | None:
        """The next whole frame of the buffer: its first byte and its payload. A server's are not masked."""
        buffer = self._buffer
        if len(buffer) < 2:
            return None
        size, start = buffer[1] & 0x7F, 2
        if size == 126:
            start = 4
        elif size == 127:
            start = 10
        if len(buffer) < start:
            return None
        if start > 2:
            size = int.from_bytes(buffer[2:start], "big")
        if len(buffer) < start + size:
            return None
        first, payload = buffer[0], bytes(buffer[start : start + size])
        del buffer[: start + size]
        return first, payload
