"""`metalbox console`: a machine's serial console in this terminal, or through a pipe; and its recording."""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import os
import select
import signal
import sys
import termios
import tty
from collections.abc import Iterator
from enum import Enum
from typing import Any, NoReturn
from urllib.parse import urlencode

from metalbox.cli import client, output
from metalbox.cli.websocket import TEXT, Closed, WebSocket
from metalbox.errors import InvalidValue, StartError, TimedOut

# Opening a BMC's console: log in, activate, perhaps by a second driver.
OPEN_SECONDS = 75.0
# What comes out of a pipe is followed until the machine has been silent for so long.
IDLE_SECONDS = 2.0
CHUNK = 4096
LOG_BYTES = 65536
HELP = """
{0}.  end this session (the console stays with its other viewers)
{0}B  send a serial break
{0}?  this text
{0}{0}  the key {0} itself
(known at the begin of a line only)
"""


class Act(Enum):
    """What a key after the escape orders."""

    END = "."
    BREAK = "B"
    HELP = "?"


class Keys:
    """Finds orders in what is typed, as ssh does: the escape key at the begin of a line, then a letter."""

    def __init__(self, escape: bytes) -> None:
        """`escape` is one byte, or nothing: then all bytes are for the machine."""
        self._escape = escape
        self._is_start = True
        self._is_held = False

    def feed(self, data: bytes) -> list[bytes | Act]:
        """What is to be sent and done, in order."""
        found: list[bytes | Act] = []
        kept = bytearray()
        for byte in (data[place : place + 1] for place in range(len(data))):
            if self._is_held:
                self._is_held = False
                act = next((act for act in Act if act.value == byte.decode("latin-1")), None)
                if act is not None:
                    if kept:
                        found.append(bytes(kept))
                        kept.clear()
                    found.append(act)
                    self._is_start = True
                    continue
                kept += byte if byte == self._escape else self._escape + byte
            elif self._is_start and self._escape and byte == self._escape:
                self._is_held = True
                continue
            else:
                kept += byte
            self._is_start = byte in (b"\r", b"\n")
        return [*found, bytes(kept)] if kept else found


def add_parser(verbs: Any) -> None:
    """Add the verb."""
    parser = verbs.add_parser(
        "console",
        help="a machine's serial console, shared with other viewers and recorded",
        description="Shows what the machine writes to its serial port and sends what is typed. Ends with ~. at the "
        "begin of a line; ~? shows more. Example: metalbox console r1-01 --watch",
    )
    parser.add_argument("name", help="name, id, MAC, UUID or serial")
    parser.add_argument("--watch", action="store_true", help="only look; nothing that is typed is sent")
    parser.add_argument("--force", action="store_true", help="end the session of another client of the BMC")
    parser.add_argument("--log", action="store_true", help="print the recording instead, without opening anything")
    parser.add_argument("-n", type=int, default=LOG_BYTES, metavar="BYTES", help="of the recording's end (65536)")
    parser.add_argument(
        "--escape", default="~", metavar="KEY", help="another escape key; ^X for Ctrl-X; none: no escape"
    )
    client.add_arguments(parser, output=False)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Show it until it is ended."""
    path = f"/api/v1/machines/{client.segment(args.name)}/console"
    if args.log:
        sys.stdout.buffer.write(client.fetch(args.socket, f"{path}/log", {"bytes": args.n}))
        sys.stdout.buffer.flush()
        return 0
    escape = parse_escape(args.escape)
    query = {name: 1 for name in ("watch", "force") if getattr(args, name)}
    web = _open(client.socket_path(args.socket), path + ("?" + urlencode(query) if query else ""))
    try:
        with _terminal(raw=not args.watch) as is_terminal:
            return Session(web, args, escape, is_terminal).run()
    finally:
        web.close()


def parse_escape(text: str) -> bytes:
    """A key, ^X for Ctrl-X, or "none". Raises InvalidValue."""
    if text == "none":
        return b""
    if len(text) == 2 and text[0] == "^" and 64 <= ord(text[1].upper()) < 96:
        return bytes([ord(text[1].upper()) & 0x1F])
    if len(text) == 1 and text.isascii() and text not in (".", "B", "?"):
        return text.encode()
    raise InvalidValue(f"--escape: expected one key, ^X for Ctrl-X, or none, got {text!r}")


def _open(where: str, target: str) -> WebSocket:
    try:
        web = WebSocket(where, OPEN_SECONDS)
    except OSError as error:
        raise client.no_service(where, error) from None
    try:
        status, body = web.open(target)
        if status != 101:
            client.answer(status, body)
            raise StartError(f"the service at {where} does not open a console (HTTP {status})")
    except TimeoutError:
        web.close()
        raise TimedOut(f"the console was not opened within {OPEN_SECONDS:.0f} s") from None
    except (Closed, OSError, http.client.HTTPException) as error:
        web.close()
        raise StartError(f"the service at {where} broke off its answer ({error!r})") from None
    except BaseException:
        web.close()
        raise
    return web


class Session:
    """One open console between stdin, stdout and the service."""

    def __init__(self, web: WebSocket, args: argparse.Namespace, escape: bytes, is_terminal: bool) -> None:
        self._web = web
        self._name = args.name
        self._is_watching = args.watch
        self._is_terminal = is_terminal
        self._escape = escape
        self._keys = Keys(escape if is_terminal else b"")
        self._reads_stdin = is_terminal or not args.watch

    def run(self) -> int:
        """Until ~., the end of stdin, or of the service; the exit code."""
        if self._is_terminal and self._escape:
            self._say(f"the console of {self._name}; {self._shown}. ends, {self._shown}? helps")
        try:
            self._show(self._web.messages())
            while True:
                files: list[Any] = [self._web, *([0] if self._reads_stdin else [])]
                wait = None if self._reads_stdin or self._is_watching else IDLE_SECONDS
                ready = select.select(files, [], [], wait)[0]
                if not ready:
                    return 0
                if self._web in ready:
                    self._show(self._web.receive())
                if 0 in ready and not self._type(os.read(0, CHUNK)):
                    return 0
        except Closed as closed:
            raise StartError(f"the console has ended: {closed or 'the service has gone'}") from None
        except ConnectionError as error:
            raise StartError(f"the console has ended: {error.strerror}") from None

    @property
    def _shown(self) -> str:
        return self._escape.decode() if self._escape >= b" " else f"^{chr(self._escape[0] | 0x40)}"

    def _type(self, data: bytes) -> bool:
        """Send what came from stdin; False when this is the end."""
        if not data:
            # A terminal that hung up, or a pipe's end: then the machine's answer is waited for.
            self._reads_stdin = False
            return not self._is_terminal
        for item in self._keys.feed(data):
            if item is Act.END:
                return False
            if item is Act.HELP:
                self._print(HELP.format(self._shown))
            elif self._is_watching:
                continue
            elif item is Act.BREAK:
                self._web.send(b'{"send": "break"}', TEXT)
            elif isinstance(item, bytes):
                self._web.send(item)
        return True

    def _show(self, messages: list[tuple[int, bytes]]) -> None:
        for kind, payload in messages:
            if kind != TEXT:
                _write(payload)
                continue
            note = json.loads(payload)
            if note.get("kind") != "viewers" or note.get("viewers") != 1:
                self._say(output.printable(str(note.get("text", ""))))

    def _say(self, text: str) -> None:
        self._print(f"\n[metalbox: {text}]\n" if self._is_terminal else f"metalbox: {text}\n")

    def _print(self, text: str) -> None:
        """On stderr; a raw terminal does not return the carriage by itself."""
        print(text.replace("\n", "\r\n") if self._is_terminal else text, end="", file=sys.stderr, flush=True)


def _write(data: bytes) -> None:
    while data:
        data = data[os.write(1, data) :]


@contextlib.contextmanager
def _terminal(*, raw: bool) -> Iterator[bool]:
    """Whether stdin is a terminal; it is raw inside of the block, and as before after it, however that ends."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _leave)
    if not os.isatty(0):
        yield False
        return
    before = termios.tcgetattr(0)
    try:
        # A viewer who only watches may end it with Ctrl-C, too.
        (tty.setraw if raw else tty.setcbreak)(0)
        yield True
    finally:
        # Now, not when all is shown: a terminal stopped by Ctrl-S would hold us for ever.
        termios.tcsetattr(0, termios.TCSANOW, before)


def _leave(number: int, frame: object) -> NoReturn:
    raise SystemExit(128 + number)
