"""A machine's serial port by Serial over LAN: activates the payload in an IPMI session of its own, and tends it.

pyghmi has a Console class; it stands on pyghmi's session with sockets and a thread shared by all BMCs, waits without
limit in the callbacks of others, and loses characters of a repeated packet that has grown. So the payload is our own
(metalbox.power.sol), in the session that the ipmi driver uses (metalbox.power.ipmisession). Logging in, the sign of
life and the end block, and run in a thread; characters pass in the event loop. Never both at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import struct
import threading
import time
from collections import deque
from collections.abc import Callable

from metalbox.errors import (
    BmcConsoleInUse,
    BmcGarbage,
    BmcNotSupported,
    BmcRefused,
    BmcSessionsFull,
    PowerError,
)
from metalbox.power import Console
from metalbox.power.ipmisession import Refusal, Session
from metalbox.power.sol import Sol
from metalbox.power.threads import Threads

APPLICATION = 0x06
ACTIVATE, DEACTIVATE, INSTANCE_INFO, SESSION_INFO, GET_DEVICE_ID = 0x48, 0x49, 0x4B, 0x3D, 0x01
SOL_PAYLOAD, INSTANCE = 1, 1
# Encrypted and authenticated; serial alerts fail while SOL is active (section 24.1).
ACTIVATION = bytes((SOL_PAYLOAD, INSTANCE, 0xC0, 0, 0, 0))
DEACTIVATION = bytes((SOL_PAYLOAD, INSTANCE, 0, 0, 0, 0))
# Completion codes of Activate Payload, table 24-2.
IN_USE, DISABLED, LIMIT, NEEDS_PLAIN, NEEDS_ENCRYPTION = 0x80, 0x81, 0x82, 0x83, 0x84
ALREADY_INACTIVE = 0x80
# A BMC ends a session after 60 s without a packet (section 6.12.15); an idle console is silent.
SIGN_OF_LIFE_SECONDS = 20.0
SIGN_SECONDS, CLOSE_SECONDS = 12.0, 5.0
# What may lie between the driver and its reader, in bytes; typed characters that wait hold their writer back.
MAX_UNREAD = 2**20
MAX_TYPED = 2048


def activate(session: Session, *, force: bool, stale: str) -> tuple[int, str]:
    """Activate the payload: the size that the BMC takes, and the mark by which our session is known.

    `force` ends whoever has it; `stale` is the mark of a session that a crash of ours left, which may be ended, too.
    """
    try:
        data = session.ask(APPLICATION, ACTIVATE, ACTIVATION)
    except Refusal as error:
        if error.completion != IN_USE:
            raise _activation_error(session.where, error) from None
        owner = _owner(session)
        if not force and not (stale and owner and _mark(owner) == stale):
            raise _in_use(session, owner, error) from None
        with contextlib.suppress(BmcRefused):  # it has ended meanwhile
            session.ask(APPLICATION, DEACTIVATE, DEACTIVATION)
        try:
            data = session.ask(APPLICATION, ACTIVATE, ACTIVATION)
        except Refusal as again:
            raise _activation_error(session.where, again) from None
    if len(data) < 12:
        raise BmcGarbage(f"{session.where} activates its console without saying how", evidence=data.hex())
    # The port in bytes 8 and 9 is not looked at: behind a forwarded port it is another one, and BMCs swap its bytes.
    size = int(struct.unpack_from("<H", data, 4)[0])
    if size > 1024:  # some BMCs send the other byte first
        size = int(struct.unpack_from(">H", data, 4)[0])
    owner = _owner(session)
    return size, _mark(owner) if owner == session.sessionid else ""


def _mark(owner: int) -> str:
    return f"{owner:08x}"


def _owner(session: Session) -> int:
    """The id of the session that has the console now; 0: nobody, or the BMC does not tell."""
    try:
        data = session.ask(APPLICATION, INSTANCE_INFO, bytes((SOL_PAYLOAD, INSTANCE)))
    except (BmcNotSupported, BmcRefused):
        return 0
    return int(struct.unpack_from("<I", data)[0]) if len(data) >= 4 else 0


def _in_use(session: Session, owner: int, error: Refusal) -> BmcConsoleInUse:
    """With the address of the other one, where the BMC tells (section 22.20)."""
    who = "another client"
    if owner:
        with contextlib.suppress(BmcNotSupported, BmcRefused):
            data = session.ask(APPLICATION, SESSION_INFO, b"\xff" + struct.pack("<I", owner))
            if len(data) >= 10 and any(data[6:10]):
                who = f"a client at {'.'.join(map(str, data[6:10]))}"
    return BmcConsoleInUse(
        f"the console of {session.where} is in use by {who}, and a BMC has one: wait, or end that session with force",
        evidence=error.evidence,
    )


def _activation_error(where: str, error: Refusal) -> PowerError:
    sentences: dict[int, tuple[type[PowerError], str]] = {
        IN_USE: (BmcConsoleInUse, f"the console of {where} was taken by another client at the same moment"),
        DISABLED: (
            BmcRefused,
            f"Serial over LAN is switched off in {where}: `ipmitool sol set enabled true` allows it",
        ),
        LIMIT: (BmcSessionsFull, f"{where} has as many consoles open as it can"),
        NEEDS_PLAIN: (BmcNotSupported, f"{where} gives its console without encryption only, which metalbox never asks"),
        NEEDS_ENCRYPTION: (BmcRefused, f"{where} finds our encrypted session not encrypted"),
    }
    kind, sentence = sentences.get(error.completion, (BmcRefused, f"{where} does not open its console"))
    return kind(sentence, evidence=error.evidence)


def is_alive(session: Session, mark: str) -> None:
    """Show the BMC that we are there. Raises BmcConsoleInUse when the console is another's now."""
    session.deadline = time.monotonic() + SIGN_SECONDS - 2
    if not mark:
        session.ask(APPLICATION, GET_DEVICE_ID)
        return
    owner = _owner(session)
    if _mark(owner) != mark:
        who = "nobody's any more" if not owner else "another client's now"
        raise BmcConsoleInUse(f"the console of {session.where} is {who}")


def end(session: Session) -> None:
    """Give the console and the session back, in bounded time."""
    session.deadline = time.monotonic() + 2
    with contextlib.suppress(PowerError):
        session.ask(APPLICATION, DEACTIVATE, DEACTIVATION)
    session.close()


class Opening:
    """Logs in and activates, in a thread. A caller who has left meanwhile leaves nothing open at the BMC."""

    def __init__(self, log_in: Callable[[], Session], *, force: bool, stale: str) -> None:
        self.session: Session | None = None
        self._log_in, self._force, self._stale = log_in, force, stale
        self._lock = threading.Lock()
        self._is_given_up = self._is_done = False

    def run(self) -> tuple[int, str]:
        """The size and mark of `activate`. Raises PowerError, logged out again."""
        session = self.session = self._log_in()
        try:
            answer = activate(session, force=self._force, stale=self._stale)
        except BaseException:
            session.close()
            raise
        with self._lock:
            self._is_done = True
            is_wanted = not self._is_given_up
        if not is_wanted:
            end(session)
        return answer

    def give_up(self) -> None:
        """The caller does not wait any more."""
        with self._lock:
            self._is_given_up = True
            if self.session is not None and self._is_done:
                self.session.shut()  # the BMC frees it after a minute
            elif self.session is not None:
                self.session.abandon()


class SolConsole(Console):
    """An activated payload. Made in the event loop that will read it; `session` is nobody else's from here on."""

    def __init__(self, session: Session, size: int, mark: str, threads: Threads) -> None:
        self.mark = mark
        self._session = session
        self._sol = Sol(size)
        self._threads = threads
        self._payloads: deque[bytes] = deque()
        self._unread = bytearray()
        self._error: PowerError | None = None
        self._news, self._room, self._wake = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self._loop = asyncio.get_running_loop()
        session.sol_handler = lambda payload: self._payloads.append(bytes(payload))
        self._file = session.socket.fileno() if session.socket else -1
        self._loop.add_reader(self._file, self._guarded, self._readable)
        self._tending = self._loop.create_task(self._tend(), name=f"console of {session.where}")

    async def read(self) -> bytes:
        while not self._unread:
            if self._error is not None:
                raise self._error
            self._news.clear()
            await self._news.wait()
        data = bytes(self._unread)
        self._unread.clear()
        return data

    async def write(self, data: bytes) -> None:
        self._raise_lost()
        self._sol.send(data)
        self._wake.set()
        while self._sol.waiting > MAX_TYPED:
            self._room.clear()
            await self._room.wait()
            self._raise_lost()

    async def send_break(self) -> None:
        self._raise_lost()
        self._sol.send_break()
        self._wake.set()

    async def close(self) -> None:
        if self._file < 0:
            return
        self._stop_reading()
        self._tending.cancel()
        await asyncio.wait({self._tending})
        self._file = -1
        try:
            with contextlib.suppress(PowerError):
                key = f"{self._session.where} (console end)"
                await self._threads.run(end, self._session, key=key, seconds=CLOSE_SECONDS)
        finally:
            self._session.shut()

    # -- in the event loop ----------------------------------------------------------------------------------------

    def _raise_lost(self) -> None:
        if self._error is not None:
            raise self._error

    def _stop_reading(self) -> None:
        if self._file >= 0:
            self._loop.remove_reader(self._file)

    def _guarded(self, work: Callable[[], None]) -> None:
        """Do it; a failure ends the console."""
        try:
            work()
        except PowerError as error:
            self._lose(error)

    def _lose(self, error: PowerError) -> None:
        if self._error is None:
            self._error = error
        self._stop_reading()
        self._news.set()
        self._room.set()
        self._wake.set()

    def _readable(self) -> None:
        self._session.process_pktqueue()
        self._work_off()

    def _work_off(self) -> None:
        """Everything that was heard, then everything that is due."""
        now = time.monotonic()
        while self._payloads:
            heard = self._sol.receive(self._payloads.popleft(), now)
            if len(self._unread) < MAX_UNREAD:
                self._unread += heard.data
            if heard.is_over:
                raise BmcConsoleInUse(f"{self._session.where} ended the console: another client may have taken it")
        # Only now: where a packet lies here twice, the second time grown, an acknowledgement of the first would make
        # the BMC send once more what it had grown by.
        self._send(now)
        if self._unread:
            self._news.set()
        if self._sol.waiting <= MAX_TYPED:
            self._room.set()

    def _send(self, now: float) -> None:
        while (packet := self._sol.packet(now)) is not None:
            self._session.send_payload(bytearray(packet), payload_type=SOL_PAYLOAD, retry=False)

    async def _tend(self) -> None:
        """Send again what got lost, and show that we live; until cancelled or lost."""
        sign_at = time.monotonic() + SIGN_OF_LIFE_SECONDS
        while self._error is None:
            self._wake.clear()
            self._guarded(self._work_off)
            due = min(self._sol.due, sign_at, math.inf)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(max(0.0, due - time.monotonic())):
                    await self._wake.wait()
            if time.monotonic() >= sign_at and self._error is None:
                await self._show_life()
                sign_at = time.monotonic() + SIGN_OF_LIFE_SECONDS

    async def _show_life(self) -> None:
        # The session is the thread's alone meanwhile; what it hears of the console waits in `_payloads`.
        self._stop_reading()
        key = f"{self._session.where} (console)"
        try:
            await self._threads.run(is_alive, self._session, self.mark, key=key, seconds=SIGN_SECONDS)
        except PowerError as error:
            self._lose(error)
        else:
            self._loop.add_reader(self._file, self._guarded, self._readable)
