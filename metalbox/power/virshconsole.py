"""A libvirt domain's serial port by `virsh console`, which speaks to every libvirt, also by ssh, and wants a terminal.

virsh runs in a pseudo terminal of its own. It says that it is connected before it tries, so a console counts as open
when virsh has put its terminal into raw mode and lives on. One key cannot be typed: virsh's escape, here Ctrl-^.

libvirtd (9.0) forgets to tell a client that another one took its console by force when bytes of the machine are on
their way in that moment (6 of 40 times while the machine wrote without a pause): that client's virsh is silent for
ever. So after a long silence a second virsh tries to connect without force: libvirt refuses while a session lives.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import pty
import signal
import termios
import time
from collections.abc import Awaitable, Callable

from metalbox.errors import BmcConsoleInUse, BmcHung, BmcNotSupported, BmcRefused, PowerError
from metalbox.power import Console

ESCAPE_NAME, ESCAPE = "^^", b"\x1e"
# libvirtd is asked over a unix socket, or by an ssh that first logs in.
OPEN_SECONDS = 20.0
LOOK_SECONDS = 0.02
# Until an error of opening must have come, once the terminal is raw: libvirt answers within milliseconds.
SETTLE_SECONDS = 0.3
# Of silence, until a session is doubted; a look is a virsh of some 50 ms.
SILENCE_SECONDS = 60.0
CHUNK = 65536
MAX_UNREAD = 2**20
ENDED = "virsh console has ended: the machine was switched off, or another client took the console"
GREETING_END = b"Escape character is "


class VirshConsole(Console):
    """One `virsh console` that runs.

    `failed` makes the error out of what virsh wrote; `again` opens another one, as long as libvirt knows of no session.
    """

    def __init__(
        self,
        process: asyncio.subprocess.Process,
        terminal: int,
        failed: Callable[[str], PowerError],
        again: Callable[[], Awaitable[VirshConsole]],
    ) -> None:
        self._process = process
        self._terminal = terminal
        self._failed = failed
        self._again = again
        self._unread = bytearray()
        self._is_open = True
        self._news, self._ended = asyncio.Event(), asyncio.Event()
        os.set_blocking(terminal, False)
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(terminal, self._readable)

    @property
    def pid(self) -> int:
        """The process of its virsh, which leads a session of its own."""
        return self._process.pid

    async def opened(self) -> None:
        """Wait until virsh is connected. Raises PowerError."""
        deadline = time.monotonic() + OPEN_SECONDS
        while self._is_open and _is_cooked(self._terminal):
            if time.monotonic() > deadline:
                raise BmcHung(f"virsh console did not connect within {OPEN_SECONDS:g} s")
            await asyncio.sleep(LOOK_SECONDS)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(SETTLE_SECONDS):
                await self._ended.wait()
        if not self._is_open:
            raise self._failed(bytes(self._unread).decode(errors="replace"))
        self._skip_greeting()

    async def read(self) -> bytes:
        while not self._unread:
            if not self._is_open:
                raise BmcRefused(ENDED)
            self._news.clear()
            try:
                async with asyncio.timeout(SILENCE_SECONDS):
                    await self._news.wait()
            except TimeoutError:
                await self._doubt()
        data = bytes(self._unread)
        self._unread.clear()
        return data

    async def write(self, data: bytes) -> None:
        if not self._is_open:
            raise BmcRefused(ENDED)
        rest = data.replace(ESCAPE, b"")
        while rest and self._is_open:
            try:
                rest = rest[os.write(self._terminal, rest) :]
            except BlockingIOError:
                await asyncio.sleep(LOOK_SECONDS)
            except OSError:
                self._end()

    async def close(self) -> None:
        self._end()
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)
        await asyncio.shield(self._process.wait())
        if self._terminal >= 0:
            os.close(self._terminal)
            self._terminal = -1

    async def _doubt(self) -> None:
        """End when libvirt would give the console to somebody else: this session is dead and was not told."""
        try:
            other = await self._again()
        except PowerError as error:
            if isinstance(error, BmcConsoleInUse) or not isinstance(error, BmcRefused):
                return  # it lives, or nobody can tell
            # There is no console to be had: the machine is off, or gone.
        else:
            await other.close()
        self._end()

    def _readable(self) -> None:
        try:
            data = os.read(self._terminal, CHUNK)
        except BlockingIOError:
            return
        except OSError:  # EIO: virsh has gone, and with it the terminal's other end
            data = b""
        if not data:
            self._end()
        elif len(self._unread) < MAX_UNREAD:
            self._unread += data
        self._news.set()

    def _end(self) -> None:
        if self._is_open:
            self._is_open = False
            self._ended.set()
            self._loop.remove_reader(self._terminal)
            self._news.set()

    def _skip_greeting(self) -> None:
        """What virsh itself wrote is no word of the machine."""
        start = self._unread.find(GREETING_END)
        end = self._unread.find(b"\n", start)
        if start >= 0 and end >= 0:
            del self._unread[: end + 1]


def _is_cooked(terminal: int) -> bool:
    """Whether the terminal still collects lines; tcgetattr(3) of the one end tells of the other."""
    return bool(termios.tcgetattr(terminal)[3] & termios.ICANON)


async def open_virsh(domain: str, uri: str, failed: Callable[[str], PowerError], *, force: bool) -> VirshConsole:
    """Start virsh and wait until it is connected; `force` ends another one's console. Raises PowerError."""
    ours, theirs = pty.openpty()
    try:
        words = ["console", "--domain", domain, *(["--force"] if force else [])]
        process = await asyncio.create_subprocess_exec(
            *("virsh", "--connect", uri, "--escape", ESCAPE_NAME, *words),
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env={**os.environ, "LC_ALL": "C"},
            start_new_session=True,
        )
    except FileNotFoundError:
        os.close(ours)
        raise BmcNotSupported("there is no virsh here: install the package libvirt-clients") from None
    except BaseException:
        os.close(ours)
        raise
    finally:
        os.close(theirs)
    console = VirshConsole(process, ours, failed, lambda: open_virsh(domain, uri, failed, force=False))
    try:
        await console.opened()
    except BaseException:
        await console.close()
        raise
    return console
