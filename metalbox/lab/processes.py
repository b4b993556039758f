"""Processes that outlive the command that started them, known by pid and start time so that no other is ever ended.

A pid alone says nothing after a while: the kernel gives it to someone else. Together with the start time in clock ticks
since boot (field 22 of /proc/PID/stat, proc(5)) and the boot's id it names one process for ever.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from shutil import which

from metalbox.errors import StartError

TERM_SECONDS = 5.0
# Nothing survives SIGKILL, but what the computer does not run does not end either.
KILL_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Process:
    """One process, for ever. `start` is in clock ticks since boot, 0 when it had ended before it could be looked at."""

    pid: int
    start: int
    what: str

    @property
    def is_alive(self) -> bool:
        """Whether it still runs (a zombie does not)."""
        return self.start != 0 and start_of(self.pid) == self.start


def boot_id() -> str:
    """The kernel's name for this boot of the computer."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def start_of(pid: int) -> int:
    """The start time of a living process, 0 when there is none or it is a zombie."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return 0
    # The second field is the command in parentheses and may itself hold spaces and parentheses.
    fields = text.rpartition(")")[2].split()
    return 0 if fields[0] in "ZX" else int(fields[19])


def spawn(argv: Sequence[str], *, what: str, log: Path, environment: Mapping[str, str] | None = None) -> Process:
    """Start a program in a session of its own, its output appended to `log`. Raises StartError when it is not there."""
    environment = {**os.environ, **(environment or {})}
    program = which(argv[0], path=environment.get("PATH"))
    if program is None:
        raise StartError(f"cannot start {what}: there is no program {argv[0]!r}")
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    pid = os.posix_spawn(
        program,
        list(argv),
        environment,
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, str(log), flags, 0o644),
            (os.POSIX_SPAWN_DUP2, 1, 2),
            # What our own caller left open (a lock, a pipe) would else be held for as long as the lab stands.
            *((os.POSIX_SPAWN_CLOSE, descriptor) for descriptor in _inherited()),
        ],
        setsid=True,
        setsigmask=[],
    )
    return Process(pid, start_of(pid), what)


def _inherited() -> list[int]:
    """Descriptors above stderr that a started program would get; Python's own are closed by the kernel at exec."""
    found = []
    for entry in Path("/proc/self/fd").iterdir():
        try:
            if int(entry.name) > 2 and os.get_inheritable(int(entry.name)):
                found.append(int(entry.name))
        except OSError:  # the listing's own descriptor, closed by now
            continue
    return found


def end(processes: Iterable[Process], *, how: signal.Signals = signal.SIGTERM, patience: float = TERM_SECONDS) -> None:
    """Signal these processes, wait until they are gone, and kill those that are not after `patience` seconds."""
    remaining = [process for process in processes if _signal(process, how)]
    remaining = _wait_gone(remaining, patience)
    for process in remaining:
        _signal(process, signal.SIGKILL)
    _wait_gone(remaining, KILL_SECONDS)


def _signal(process: Process, number: signal.Signals) -> bool:
    """Send a signal to exactly this process. The pidfd closes the gap between looking at the pid and signalling it."""
    try:
        descriptor = os.pidfd_open(process.pid)
    except OSError:
        return False
    try:
        if not process.is_alive:
            return False
        signal.pidfd_send_signal(descriptor, number)
        return True
    except ProcessLookupError:
        return False
    finally:
        os.close(descriptor)


def _wait_gone(processes: list[Process], seconds: float) -> list[Process]:
    deadline = time.monotonic() + seconds
    while True:
        reap(processes)
        processes = [process for process in processes if process.is_alive]
        if not processes or time.monotonic() > deadline:
            return processes
        time.sleep(0.02)


def reap(processes: Iterable[Process]) -> None:
    """Collect the exit status of those that are our own children, so that they do not stay as zombies."""
    for process in processes:
        try:
            os.waitpid(process.pid, os.WNOHANG)
        except ChildProcessError:
            continue


def inside_namespace(name: str) -> list[Process]:
    """Every process whose network namespace is the one named `name` under /run/netns."""
    try:
        wanted = Path("/run/netns", name).stat()
    except OSError:
        return []
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdecimal():
            continue
        try:
            own = (entry / "ns" / "net").stat()
        except OSError:
            continue
        if (own.st_dev, own.st_ino) == (wanted.st_dev, wanted.st_ino) and (start := start_of(int(entry.name))):
            found.append(Process(int(entry.name), start, f"in {name}"))
    return found
