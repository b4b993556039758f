"""What every target shares: the wire, the rounds, servers that take turns, and saying what was found at once."""

from __future__ import annotations

import itertools
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

from bench.beside.servers import Recipe, Running
from bench.beside.wire import Wire

T = TypeVar("T")
PROFILE_SECONDS = 2
# The peers are no Python.
PROFILED = ("dhcp-metalbox", "tftp-metalbox")
_SHOWN = ("per_second", "mb_per_second", "p99_ms", "seconds", "cpu_us", "cpu_ms_per_mib", "retries", "failed", "lost")


class Run:
    """One run of one target on one wire."""

    def __init__(
        self,
        wire: Wire,
        folder: Path,
        count: int,
        *,
        profile: Path | None = None,
        machines: int = 1000,
        image_bytes: int = 8 << 20,
    ) -> None:
        """`machines` and `image_bytes` (kernel and initrd together) are the storm's."""
        self.wire = wire
        self.folder = folder
        self.count = count
        self.machines = machines
        self.image_bytes = image_bytes
        self._profile = profile
        self._numbers = itertools.count(1)

    def rounds(self, at_most: int = 1000) -> Iterator[int]:
        """Numbers from 0."""
        yield from range(min(self.count, at_most))

    def turns(self, servers: Mapping[str, T], number: int) -> Iterator[tuple[str, T]]:
        """All servers, each round beginning with another one, so that none is always the first."""
        names = list(servers)
        at = number % len(names) if names else 0
        for name in names[at:] + names[:at]:
            yield name, servers[name]

    @contextmanager
    def start(self, recipe: Recipe) -> Iterator[Running]:
        """A server in a fresh folder, which is gone afterwards."""
        folder = self.folder / f"s{next(self._numbers)}"
        folder.mkdir()
        server = Running(self.wire, recipe(folder), folder)
        try:
            with server:
                yield server
        except RuntimeError as error:
            raise RuntimeError(f"{error}\n{server.name}, the end of its log:\n{server.tail()}") from error
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    @contextmanager
    def profiled(self, server: Running, name: str) -> Iterator[None]:
        """With --profile: where its time goes during the block, by py-spy, as collapsed stacks in NAME.txt."""
        program = shutil.which("py-spy") if self._profile else None
        if program is None or self._profile is None or not name.startswith(PROFILED):
            yield
            return
        target = self._profile / f"{name}.txt"
        command = [program, "record", "-p", str(server.pids[0]), "-d", str(PROFILE_SECONDS), "-r", "200"]
        process = subprocess.Popen(
            [*command, "-f", "raw", "-o", str(target)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            yield
        finally:
            with suppress(subprocess.TimeoutExpired):
                process.wait(30)
            process.kill()
            process.wait()

    def told(self, case: str, name: str, sample: Mapping[str, float]) -> Mapping[str, float]:
        """Print one round's figures while the run goes on; returns them."""
        words = [f"{key} {sample[key]:.4g}" for key in _SHOWN if key in sample]
        print(f"  {case:<24} {name:<24} {'  '.join(words)}", flush=True)
        return sample
