"""A server under measurement: started in the wire's namespace with a fresh folder, metered, stopped; and metalbox."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import yaml

from bench.beside.wire import SERVER, SUBNET, Wire
from metalbox.lab import meter

ROOT = Path(__file__).parents[2]
POOL = ("10.64.1.0", "10.67.255.250")
READY_SECONDS = 40.0
STOP_SECONDS = 10.0
METALBOX = "metalbox"
# A server is at rest when it used less than this in a look's time.
SETTLE_SECONDS, SETTLE_LOOK, SETTLED_CPU = 15.0, 0.3, 0.02


@dataclass(frozen=True, slots=True)
class Plan:
    """How a server is started: its programs in order, and what stands in their environment."""

    name: str
    commands: tuple[tuple[str, ...], ...]
    environment: Mapping[str, str] = field(default_factory=dict)


# Lays out the configuration in a folder that is the server's own, and says how to start.
Recipe = Callable[[Path], Plan]


class Running:
    """A started server. Leaving the `with` block ends it."""

    def __init__(self, wire: Wire, plan: Plan, folder: Path) -> None:
        self.name = plan.name
        self.folder = folder
        self.log = folder / "log"
        self._processes: list[subprocess.Popen[bytes]] = []
        self.started_at = time.monotonic()
        for command in plan.commands:
            with self.log.open("ab") as log:
                environment = {**os.environ, **plan.environment}
                argv = [*wire.net.exec("server"), *command]
                self._processes.append(
                    subprocess.Popen(argv, stdout=log, stderr=log, stdin=subprocess.DEVNULL, env=environment)
                )

    def __enter__(self) -> Running:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def pids(self) -> list[int]:
        """Of the programs that were started; their children come with them."""
        return [process.pid for process in self._processes]

    def cost(self) -> meter.Cost:
        """What all its processes have used until now."""
        return meter.cost(self.pids)

    def settled(self) -> meter.Cost:
        """The same, once they have come to rest."""
        now, until = self.cost(), time.monotonic() + SETTLE_SECONDS
        while time.monotonic() < until:
            time.sleep(SETTLE_LOOK)
            earlier, now = now, self.cost()
            if now.cpu - earlier.cpu < SETTLED_CPU:
                break
        return now

    def until(self, is_ready: Callable[[], bool], patience: float = READY_SECONDS) -> float:
        """Wait until it serves; returns the seconds since its start. RuntimeError with the end of its log."""
        while True:
            dead = next((process for process in self._processes if process.poll() is not None), None)
            if dead is not None or time.monotonic() > self.started_at + patience:
                what = f"ended with {dead.returncode}" if dead else "does not answer"
                raise RuntimeError(f"{self.name} {what}; the end of its log:\n{self.tail()}")
            if is_ready():
                return time.monotonic() - self.started_at
            time.sleep(0.02)

    def tail(self, size: int = 1500) -> str:
        """The end of its log."""
        return self.log.read_text(errors="replace")[-size:] if self.log.exists() else ""

    def stop(self) -> None:
        """End all its programs."""
        for process in self._processes:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
        for process in self._processes:
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(STOP_SECONDS)


@dataclass(frozen=True, slots=True)
class Metered:
    """A load's figures together with what the server spent on it."""

    figures: dict[str, Any]
    cpu: float
    rss: float


def metered(server: Running, load: Callable[[], dict[str, Any]], *, settle: bool = False) -> Metered:
    """Run a load and take the server's cost around it; `settle` counts what it still does after its answers, too."""
    before = server.cost()
    figures = load()
    after = server.cost()
    if settle:
        after = server.settled()
    return Metered(figures, after.cpu - before.cpu, after.rss)


def metalbox_document(folder: Path, files: Sequence[Path], agent: Path, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The whole service on the wire: DHCP in full mode, TFTP, HTTP, timeline, REST."""
    document: dict[str, Any] = {
        "data_dir": str(folder / "data"),
        "socket": str(folder / "s"),
        "dhcp": {"interfaces": ["eth0"]},
        "boot": {"files": [str(path) for path in files], "agent": str(agent)},
        "subnets": [
            {"subnet": SUBNET, "interface": "eth0", "mode": "full", "pools": [f"{POOL[0]}-{POOL[1]}"],
             "router": SERVER, "dns": [SERVER]}
        ],
    }  # fmt: skip
    for key, value in settings.items():
        known = document.get(key)
        document[key] = {**known, **value} if isinstance(known, dict) else value
    return document


def metalbox(
    files: Sequence[Path] = (),
    agent: Path = Path("/nonexistent"),
    *,
    settings: Mapping[str, Any] | None = None,
    prepare: Callable[[Path], None] | None = None,
    name: str = METALBOX,
) -> Recipe:
    """The service as `metalbox serve` runs it. `prepare` may put something into its folder before it starts."""

    def recipe(folder: Path) -> Plan:
        config = folder / "metalbox.yaml"
        config.write_text(yaml.safe_dump(metalbox_document(folder, files, agent, settings or {})))
        if prepare is not None:
            prepare(folder)
        command = (sys.executable, "-m", "metalbox", "serve", "--config", str(config))
        return Plan(name, (command,), {"PYTHONPATH": str(ROOT)})

    return recipe
