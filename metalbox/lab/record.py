"""What of a rack exists on this computer, written to its folder before it is used: what removes it after a crash.

Namespaces have names made from the folder's path, so they are found even when the record is lost. Processes are ended
only when pid and start time (and the computer's boot) are those written down, or when they live in one of the rack's
own namespaces, where nobody else puts any.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from metalbox.errors import Refused
from metalbox.lab import processes
from metalbox.lab.processes import Process, boot_id

PREFIX = "metalbox-"
ROLES = ("lab", "site", "relay", "rival", "bmc")
# Everything the lab writes below its folder; a folder with other things in it is left standing with them.
CONTENTS = ("bmc", "boot", "consoles", "data", "disks", "libvirt", "logs", "pcaps", "reference")
FILES = ("rack.json", "rack.json.new", "metalbox.yaml", "metalbox.sock")


def namespace(directory: Path, role: str = "lab") -> str:
    """The name of one of the rack's namespaces; the same folder always gives the same name."""
    digest = hashlib.sha256(str(directory.resolve()).encode()).hexdigest()[:8]
    return f"{PREFIX}{digest}" + ("" if role == "lab" else f"-{role}")


@dataclass(slots=True)
class Record:
    """The rack's own record. Every change is saved at once."""

    directory: Path
    settings: dict[str, Any] = field(default_factory=dict)
    processes: list[Process] = field(default_factory=list)
    owner: Process | None = None
    is_complete: bool = False
    boot_id: str = field(default_factory=boot_id)

    @property
    def path(self) -> Path:
        """The file."""
        return self.directory / "rack.json"

    @property
    def is_running(self) -> bool:
        """Whether the rack was built to its end in this boot of the computer, and something of it still runs."""
        is_this_boot = self.boot_id == boot_id()
        return self.is_complete and is_this_boot and any(process.is_alive for process in self.processes)

    @classmethod
    def load(cls, directory: Path) -> Record | None:
        """Read a folder's record; None when there is none or a crash cut it off."""
        try:
            row = json.loads((directory / "rack.json").read_text())
            return cls(
                directory,
                row["settings"],
                [Process(*process) for process in row["processes"]],
                Process(*row["owner"]) if row["owner"] else None,
                row["is_complete"],
                row["boot_id"],
            )
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def save(self) -> None:
        """Write it whole or not at all."""
        new = self.path.with_suffix(".json.new")
        row = {
            "boot_id": self.boot_id,
            "is_complete": self.is_complete,
            "owner": _row(self.owner) if self.owner else None,
            "processes": [_row(process) for process in self.processes],
            "settings": self.settings,
        }
        new.write_text(json.dumps(row, indent=1))
        new.replace(self.path)

    def add(self, process: Process) -> None:
        """Remember a process that was just started, and forget those that ended."""
        self.processes = [known for known in self.processes if known.is_alive] + [process]
        self.save()

    def find(self, what: str) -> Process | None:
        """The living process called `what`."""
        return next((known for known in reversed(self.processes) if known.what == what and known.is_alive), None)


def _row(process: Process) -> list[Any]:
    return [process.pid, process.start, process.what]


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Hold a folder against a second `up` or `down` at the same time. Raises Refused."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise Refused(f"another command is building or removing the lab in {directory}: wait for it to end") from None
    try:
        yield
    finally:
        os.close(descriptor)


def exists(directory: Path) -> bool:
    """Whether anything of a rack in this folder is left on the computer."""
    return (directory / "rack.json").exists() or any(
        Path("/run/netns", namespace(directory, role)).exists() for role in ROLES
    )


def remove(directory: Path, *, keep_files: bool = False, keep_folder: bool = False) -> None:
    """End every process of the rack in this folder, delete its namespaces and its files. Fine when there is none.

    Who goes on under `locked` keeps the folder: the lock is on it, and not on another one of the same name.
    """
    record = Record.load(directory)
    if record and record.boot_id == boot_id():
        # Youngest first: machines before their libvirtd, clients before their servers.
        processes.end(reversed(record.processes))
    for role in ROLES:
        name = namespace(directory, role)
        processes.end(processes.inside_namespace(name))
        if Path("/run/netns", name).exists():
            subprocess.run(["ip", "netns", "delete", name], check=True, timeout=30)
    if keep_files:
        (directory / "rack.json").unlink(missing_ok=True)
        return
    for name in CONTENTS:
        shutil.rmtree(directory / name, ignore_errors=True)
    for name in FILES:
        (directory / name).unlink(missing_ok=True)
    if not keep_folder and directory.is_dir() and not any(directory.iterdir()):
        directory.rmdir()
