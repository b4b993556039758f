"""Running a program of the image with a time limit that holds, also when the program hangs in the kernel."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

SEARCH = ("/usr/sbin", "/usr/bin", "/sbin", "/bin")

# Programs that did not die when killed: one that waits in the kernel for a dead disk cannot. Waiting for it would hang
# the collector as well; they are kept here so that they are reaped when they do end.
_undead: list[subprocess.Popen[bytes]] = []


class CommandFailed(Exception):
    """The program is absent, could not be started, or did not end in time; the message is a sentence."""


def find(name: str) -> str:
    """The program's path; "" when it is not installed. System folders come first: PATH may be empty in the image."""
    for folder in (*SEARCH, *os.environ.get("PATH", "").split(":")):
        path = Path(folder or ".") / name
        if path.is_file() and os.access(path, os.X_OK):
            return str(path)
    return ""


def run(argv: list[str], seconds: float) -> tuple[int, bytes]:
    """Run a program and return its exit code and standard output. Raises CommandFailed."""
    _undead[:] = [process for process in _undead if process.poll() is None]
    try:
        process = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=_environment()
        )
    except OSError as error:
        raise CommandFailed(f"{argv[0]} could not be started: {error.strerror}") from None
    try:
        output, _ = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        _put_down(process)
        raise CommandFailed(f"`{' '.join(argv)}` did not end within {seconds:g} s") from None
    return process.returncode, output


def _put_down(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    try:
        process.wait(timeout=0.5)
    except subprocess.TimeoutExpired:
        _undead.append(process)
    if process.stdout:
        process.stdout.close()


def _environment() -> dict[str, str]:
    return {**os.environ, "LC_ALL": "C", "PATH": os.environ.get("PATH") or ":".join(SEARCH)}
