"""The machines' consoles: one session per machine, held here for any number of viewers, and recorded.

A BMC gives its console to one client; the service is that one. It opens when the first viewer comes and closes some
seconds after the last has gone (or never, where everything is recorded). A session that is lost is opened again with
growing pauses, and viewers are told in between. A viewer that does not keep up loses bytes, never the others.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sqlalchemy.exc import DBAPIError

from metalbox import config
from metalbox.errors import BmcConsoleInUse, BmcNotSupported, BmcWrongPassword, MetalboxError, PowerError, Refused
from metalbox.journal import Journal, Kind
from metalbox.listing import Wanted, everything
from metalbox.machine import Machine
from metalbox.power import Console, Endpoint, Power
from metalbox.power.desk import Clock
from metalbox.power.orders import Answer
from metalbox.power.polite import Front
from metalbox.recording import FILE_MODE, Recording
from metalbox.store import Database, Store

log = logging.getLogger("metalbox.console")

Endpoints = Callable[[Store, int], Sequence[Endpoint]]
# What opens one machine's console: (force, mark of a session left by a crash, whether a person insists).
Opener = Callable[[bool, str, bool], Awaitable[tuple[Console, str]]]

# A person who comes back, or a script's next command, finds the session still there.
LINGER_SECONDS = 10.0
# A screen of 80 times 24, twice.
BACKLOG_BYTES = 4096
# Half a minute at 115200 baud.
VIEWER_BYTES = 2**18
MAX_VIEWERS = 32
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 20.0
OPEN_SECONDS = 30.0
# So many BMCs are greeted at once where all consoles are recorded, and so often new machines are looked for.
OPENINGS = 16
CLOSE_SECONDS = 6.0
LOOK_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Note:
    """What a viewer is told beside the machine's own words. `kind` is the word for programs."""

    kind: str  # opened, lost, retry, viewers, dropped, refused
    text: str
    data: Mapping[str, Any] = field(default_factory=dict)


class Viewer:
    """One who looks on. `limit` bytes may wait; what is more is lost and counted."""

    def __init__(self, *, limit: int = VIEWER_BYTES) -> None:
        self._limit = limit
        self._items: deque[bytes | Note] = deque()
        self._size = 0
        self._lost = 0
        self._is_over = False
        self._news = asyncio.Event()

    def offer(self, item: bytes | Note) -> None:
        """Put it into the queue; never waits."""
        if isinstance(item, bytes):
            if self._size + len(item) > self._limit:
                self._lost += len(item)
                return
            self._tell_losses()
            self._size += len(item)
        self._items.append(item)
        self._news.set()

    def _tell_losses(self) -> None:
        if self._lost:
            text = f"{self._lost} bytes were left out: this viewer is too slow"
            self._items.append(Note("dropped", text, {"bytes": self._lost}))
            self._lost = 0

    def end(self) -> None:
        """Nothing more comes."""
        self._is_over = True
        self._news.set()

    async def next(self) -> bytes | Note | None:
        """Wait for the next piece; None at the end."""
        while not self._items:
            self._tell_losses()
            if self._items:
                break
            if self._is_over:
                return None
            self._news.clear()
            await self._news.wait()
        item = self._items.popleft()
        if isinstance(item, bytes):
            self._size -= len(item)
        return item


class Line:
    """One machine's console, open or not."""

    def __init__(self, machine: Machine, opener: Opener, recording: Recording, journal: Journal, clock: Clock) -> None:
        self.machine = machine
        self.is_kept = False  # recorded whether somebody looks on or not
        self._opener = opener
        self._recording = recording
        self._journal = journal
        self._clock = clock
        self._viewers: set[Viewer] = set()
        self._joining = 0
        self._most = 0
        self._opened_at = 0.0
        self._is_locked_out = False
        self._console: Console | None = None
        self._changing = asyncio.Lock()  # while it opens or closes
        self._opened = asyncio.Event()
        self._keeper: asyncio.Task[None] | None = None
        self._linger: asyncio.Task[None] | None = None
        self._closing: set[asyncio.Task[None]] = set()
        self._mark_file = recording.path.with_suffix(".session")

    @property
    def is_wanted(self) -> bool:
        """Whether it has to be open."""
        return self.is_kept or bool(self._viewers) or self._joining > 0

    @property
    def is_open(self) -> bool:
        """Whether bytes can pass now."""
        return self._console is not None

    async def join(self, viewer: Viewer, *, force: bool = False) -> None:
        """Open it if need be, and let the viewer see it from now on. Raises PowerError, Refused."""
        if len(self._viewers) + self._joining >= MAX_VIEWERS:
            raise Refused(f"{MAX_VIEWERS} viewers look at the console of {self.machine.name} already")
        self._joining += 1
        self._stop_lingering()
        try:
            async with self._changing:
                if self._console is None:
                    await self._open(force=force, insist=True)
            if backlog := self.backlog():
                viewer.offer(backlog)
            self._viewers.add(viewer)
            self._most = max(self._most, len(self._viewers))
            self._tell_count()
        finally:
            self._joining -= 1
            self._settle()

    def leave(self, viewer: Viewer) -> None:
        """The viewer has gone; fine when it was never there."""
        if viewer in self._viewers:
            self._viewers.discard(viewer)
            self._tell_count()
            self._settle()

    def keep(self) -> None:
        """Hold it open from now on, viewers or not."""
        self.is_kept = True
        self._stop_lingering()
        self._start_keeper()

    async def type(self, data: bytes) -> None:
        """Send it to the machine. Raises Refused while the session is lost, PowerError when it is lost by this."""
        await self._connected().write(data)

    async def send_break(self) -> None:
        """Send a serial break. Raises as `type`, and BmcNotSupported."""
        await self._connected().send_break()

    def backlog(self) -> bytes:
        """The last of the recording, from the begin of a line."""
        tail = self._recording.tail(BACKLOG_BYTES)
        return tail[tail.find(b"\n") + 1 :] if len(tail) == BACKLOG_BYTES else tail

    def log(self, count: int) -> bytes:
        """The last `count` bytes of the recording."""
        return self._recording.tail(count)

    async def close(self) -> None:
        """Give the session back, and send the viewers home."""
        self.is_kept = False
        self._stop_lingering()
        for viewer in self._viewers:
            viewer.end()
        if self._keeper is not None:
            self._keeper.cancel()  # it may be waiting for a BMC, with the lock in its hands
        async with self._changing:
            await self._shut()
        self._viewers.clear()

    # -- open and closed -----------------------------------------------------------------------------------------

    def _connected(self) -> Console:
        if self._console is None:
            raise Refused(f"the console of {self.machine.name} is lost at the moment: what was typed is lost, too")
        return self._console

    async def _open(self, *, force: bool, insist: bool) -> None:
        self._console, driver = await self._opener(force, self._read_mark(), insist)
        self._write_mark(self._console.mark)
        self._is_locked_out = False
        self._opened_at = self._clock.now()
        self._most = len(self._viewers) + self._joining
        self._stamp(f"console opened by {driver}")
        self._tell(Note("opened", f"the console is open, by {driver}"))
        self._say(f"its console was opened by {driver}", viewers=self._most)
        self._opened.set()
        self._start_keeper()

    async def _shut(self) -> None:
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.wait({self._keeper})
            self._keeper = None
        console, self._console = self._console, None
        if console is not None:
            await console.close()
            self._write_mark("")
            self._stamp("console closed")
            seconds = self._clock.now() - self._opened_at
            self._say(f"its console was closed after {seconds:.0f} s", viewers=self._most)
        self._recording.close()

    def _settle(self) -> None:
        if not self.is_wanted and self._linger is None and self._keeper is not None:
            self._linger = asyncio.create_task(self._close_later(), name=f"console of {self.machine.name} lingers")

    def _stop_lingering(self) -> None:
        if self._linger is not None:
            self._linger.cancel()
            self._linger = None

    async def _close_later(self) -> None:
        await self._clock.sleep(LINGER_SECONDS)
        # From here on nobody cancels: a console that is half closed would stay with the BMC.
        task, self._linger = self._linger, None
        if task is not None:
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)
        async with self._changing:
            if not self.is_wanted:
                await self._shut()

    # -- the bytes ------------------------------------------------------------------------------------------------

    def _start_keeper(self) -> None:
        if self._keeper is None or self._keeper.done():
            self._keeper = asyncio.create_task(self._keep(), name=f"console of {self.machine.name}")
            self._keeper.add_done_callback(_complain)

    async def _keep(self) -> None:
        pause = FIRST_PAUSE if self._console is not None else 0.0
        while True:
            console = self._console
            if console is None:
                pause = await self._open_again(pause)
                continue
            try:
                data = await console.read()
            except PowerError as error:
                await self._lose(console, error)
                pause = FIRST_PAUSE
                continue
            self._recording.append(data)
            for viewer in self._viewers:
                viewer.offer(data)

    async def _lose(self, console: Console, error: PowerError) -> None:
        self._console = None
        self._opened.clear()
        await console.close()
        if not isinstance(error, BmcConsoleInUse):
            # Its session may live on at the BMC; the mark stays, for the next opening.
            log.info("%s: the console was lost: %s", self.machine.name, error)
        self._stamp(f"console lost: {error}")
        self._tell(Note("lost", f"the console was lost: {error}"))
        self._say(f"its console was lost: {error}", key="console lost", code=error.code)

    async def _open_again(self, pause: float) -> float:
        """Wait, unless somebody opens it meanwhile, and try once; the next pause."""
        await self._first_of(self._clock.sleep(pause), self._opened.wait())
        async with self._changing:
            if self._console is not None:
                return FIRST_PAUSE
            longer = min(max(FIRST_PAUSE, pause * 2), LONGEST_PAUSE)
            try:
                # Who looks on is waiting; but a password that was wrong is not tried again until an account is locked.
                await self._open(force=False, insist=bool(self._viewers) and not self._is_locked_out)
            except (MetalboxError, DBAPIError) as error:
                self._is_locked_out = isinstance(error, BmcWrongPassword)
                text = f"the console cannot be opened: {error}; the next try comes in {longer:.0f} s"
                self._tell(Note("retry", text, {"seconds": longer}))
                return longer
        return FIRST_PAUSE

    async def _first_of(self, *waits: Awaitable[Any]) -> None:
        tasks = {asyncio.ensure_future(wait) for wait in waits}
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()

    # -- telling --------------------------------------------------------------------------------------------------

    def _tell(self, note: Note) -> None:
        for viewer in self._viewers:
            viewer.offer(note)

    def _tell_count(self) -> None:
        count = len(self._viewers)
        self._tell(Note("viewers", f"{count} viewer{'s' if count != 1 else ''}", {"viewers": count}))

    def _stamp(self, text: str) -> None:
        at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(self._clock.now()))
        self._recording.append(f"\r\n[metalbox {at} {text}]\r\n".encode())

    def _say(self, text: str, *, key: str = "", **data: Any) -> None:
        self._journal.record(Kind.CONSOLE, text, now=self._clock.now(), machine_id=self.machine.id, key=key, data=data)

    def _read_mark(self) -> str:
        try:
            return self._mark_file.read_text()
        except OSError:
            return ""

    def _write_mark(self, mark: str) -> None:
        """Remember our session at the BMC across a crash of ours; "" forgets it."""
        try:
            if mark:
                self._mark_file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                self._mark_file.write_text(mark)
                self._mark_file.chmod(FILE_MODE)
            else:
                self._mark_file.unlink(missing_ok=True)
        except OSError as error:
            log.warning("%s cannot be written: %s", self._mark_file, error.strerror)


class Lines:
    """All consoles of the service."""

    def __init__(
        self,
        database: Database,
        front: Front,
        endpoints: Endpoints,
        journal: Journal,
        folder: Path,
        settings: config.Consoles,
        clock: Clock | None = None,
    ) -> None:
        self._database = database
        self._front = front
        self._endpoints = endpoints
        self._journal = journal
        self._folder = folder
        self._settings = settings
        self._clock = clock or Clock()
        self._lines: dict[int, Line] = {}
        self._slots = asyncio.Semaphore(OPENINGS)

    async def run(self) -> None:
        """Hold every console open where the configuration says so, until cancelled."""
        while self._settings.record_always:
            for machine in await self._database.run(_with_ways, self._endpoints):
                line = self.line(machine)
                if not line.is_kept:
                    line.keep()
            await self._clock.sleep(LOOK_SECONDS)

    async def close(self) -> None:
        """Give all sessions back, in bounded time."""
        closing = {asyncio.create_task(line.close()) for line in self._lines.values()}
        if closing:
            _, late = await asyncio.wait(closing, timeout=CLOSE_SECONDS)
            for task in late:
                task.cancel()

    def line(self, machine: Machine) -> Line:
        """The machine's line, made when there is none."""
        line = self._lines.get(machine.id)
        if line is None or (line.machine.name != machine.name and not line.is_wanted and not line.is_open):
            recording = Recording(
                self._folder, machine.name, max_bytes=self._settings.max_mb * 10**6, files=self._settings.files
            )
            line = Line(machine, self._opener(machine), recording, self._journal, self._clock)
            self._lines[machine.id] = line
        return line

    def _opener(self, machine: Machine) -> Opener:
        async def opener(force: bool, stale: str, insist: bool) -> tuple[Console, str]:
            endpoints = await self._database.run(self._endpoints, machine.id)
            if not endpoints:
                raise Refused(f"nothing is known that has the console of {machine.name}: use `metalbox bmc add`")
            async with self._slots:
                return await open_console(self._front, machine.id, endpoints, force=force, stale=stale, insist=insist)

        return opener


async def open_console(
    front: Front, machine: int, endpoints: Sequence[Endpoint], *, force: bool, stale: str, insist: bool
) -> tuple[Console, str]:
    """Open by the first driver that can, Redfish last since it only knows the way to another; and that driver's name.

    Raises the PowerError that tells most.
    """

    async def call(power: Power) -> Console:
        return await power.console(force=force, stale=stale)

    first: PowerError | None = None
    for is_redfish in (False, True):
        group = [endpoint for endpoint in endpoints if (endpoint.driver == "redfish") is is_redfish]
        if not group:
            continue
        answer = Answer()
        try:
            console = await front.ask(
                machine, group, "console", call, seconds=OPEN_SECONDS, tries=1, insist=insist, answer=answer
            )
        except BmcConsoleInUse:
            raise
        except PowerError as error:
            if first is None or isinstance(first, BmcNotSupported):
                first = error
        else:
            return console, answer.driver
    assert first is not None
    raise first


def _with_ways(store: Store, endpoints: Endpoints) -> list[Machine]:
    """The machines that have a BMC; in the database's thread."""
    found = []
    for row in everything(store, Wanted(fields=("id", "name", "state", "uuid", "serial"))):
        machine = Machine(id=row["id"], name=row["name"], state=row["state"], uuid=row["uuid"], serial=row["serial"])
        # A secret that does not open is told to who asks for the console.
        with contextlib.suppress(MetalboxError):
            if endpoints(store, machine.id):
                found.append(machine)
    return found


def _complain(task: asyncio.Task[None]) -> None:
    """A bug in a keeper ends one console, with its trace, and no other."""
    if not task.cancelled() and (error := task.exception()) is not None:
        log.error("%s ended", task.get_name(), exc_info=error)
