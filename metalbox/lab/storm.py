"""A storm: a fleet of simulated machines against metalbox, on a wire of its own, and what it cost the service.

    server eth0 198.18.0.1/15  ----------  eth0 198.18.0.2 the fleet, and all of its addresses

The network is that for measuring devices (RFC 2544); both ends are namespaces that live as long as the storm.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from metalbox.errors import StartError
from metalbox.lab import meter, network, record
from metalbox.lab.record import Record, namespace
from metalbox.lab.services import ARCH, IPXE, ROOT, Metalbox

SUBNET, PREFIX = "198.18.0.0/15", 15
HALVES = ("198.18.0.0/16", "198.19.0.0/16")
SERVER, FLEET = "198.18.0.1", "198.18.0.2"
POOL = "198.18.1.0-198.19.255.250"
LOADER = "snponly.efi"
KERNEL_BYTES = 2 << 20
LOOK_SECONDS = 0.25
# How long the fleet may take beyond its own limit to say what came of it.
GRACE_SECONDS = 60.0

# Runs in the fleet's namespace: the words before a command.
Words = list[str]


@dataclass(frozen=True, slots=True)
class Storm:
    """How many machines, how many bytes of kernel and initrd together, the seconds of power-on and until the end.

    `patience` multiplies firmware's timers: with much of it, what is repeated was lost and not late.
    """

    machines: int = 1000
    image_bytes: int = 8 << 20
    spread: float = 1.0
    limit: float = 300.0
    patience: float = 1.0


def make_files(root: Path, boot_files: Path, image_bytes: int) -> None:
    """Lay out what the machines fetch: the real iPXE, and kernel and initrd of random bytes.

    Raises StartError without iPXE.
    """
    agent = root / "agent" / ARCH
    agent.mkdir(parents=True, exist_ok=True)
    found = next((folder / LOADER for folder in (boot_files, IPXE) if (folder / LOADER).is_file()), None)
    if found is None:
        raise StartError(
            f"there is no {LOADER} in {boot_files} or {IPXE}: fetch it with `metalbox boot-files fetch --output "
            f"{boot_files}`, or install Debian's package ipxe"
        )
    shutil.copy(found, root / LOADER)
    kernel = min(KERNEL_BYTES, image_bytes // 2)
    (agent / "vmlinuz").write_bytes(os.urandom(kernel))
    (agent / "initrd").write_bytes(os.urandom(image_bytes - kernel))


def run_fleet(words: Words, storm: Storm, costs: Callable[[], meter.Cost]) -> dict[str, Any]:
    """Boot the fleet by `words`, and look at the server meanwhile: its `cpu_seconds`, the most of its `rss_mb`.

    The fleet's own CPU is `fleet_cpu_seconds`. Raises StartError with the fleet's last words when it fails.
    """
    argv = [
        *words, sys.executable, "-m", "metalbox.lab.fleet", "--machines", str(storm.machines),
        "--spread", str(storm.spread), "--limit", str(storm.limit),
        "--patience", str(storm.patience),
    ]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    before = costs()
    with _watched(costs) as highest:
        done = subprocess.run(
            argv, capture_output=True, text=True, timeout=storm.limit + GRACE_SECONDS, env=environment, check=False
        )
    if done.returncode:
        raise StartError(f"the fleet ended with {done.returncode}: {done.stderr.strip()[-300:]}")
    figures: dict[str, Any] = json.loads(done.stdout)
    return {
        **figures,
        "fleet_cpu_seconds": figures["cpu_seconds"],
        "cpu_seconds": costs().cpu - before.cpu,
        "rss_mb": highest(),
        "mb_per_second": figures["bytes"] / figures["seconds"] / 1e6,
    }


@contextmanager
def _watched(costs: Callable[[], meter.Cost]) -> Iterator[Callable[[], float]]:
    """Look at the memory every quarter of a second; yields what says the most that was seen."""
    seen, over = [costs().rss], threading.Event()

    def look() -> None:
        while not over.wait(LOOK_SECONDS):
            seen[0] = max(seen[0], costs().rss)

    watcher = threading.Thread(target=look)
    watcher.start()
    try:
        yield lambda: seen[0]
    finally:
        over.set()
        watcher.join()


def configuration(directory: Path) -> Mapping[str, Any]:
    """The whole service, giving addresses."""
    files = directory / "boot"
    return {
        "data_dir": str(directory / "data"),
        "socket": str(directory / "metalbox.sock"),
        "dhcp": {"interfaces": ["eth0"]},
        "boot": {"files": [str(files)], "agent": str(files / "agent")},
        "subnets": [{"subnet": SUBNET, "interface": "eth0", "mode": "full", "pools": [POOL], "router": SERVER}],
    }


def run(directory: Path, storm: Storm, boot_files: Path, say: Callable[[str], None]) -> dict[str, Any]:
    """A whole storm: the figures of `run_fleet`, and `known`: how many machines are in the inventory after it.

    `directory` is made, and emptied again, also of what a storm left that was killed. Raises Refused while another
    one runs there, StartError.
    """
    directory.mkdir(parents=True, exist_ok=True)
    with record.locked(directory):
        record.remove(directory, keep_folder=True)
        try:
            make_files(directory / "boot", boot_files, storm.image_bytes)
            network.cable(namespace(directory), namespace(directory, "site"), f"{SERVER}/{PREFIX}", f"{FLEET}/{PREFIX}")
            network.route_through(namespace(directory), HALVES, FLEET)
            kept = Record(directory)
            kept.save()
            service = Metalbox(kept, configuration(directory))
            service.start()
            pids = [process.pid for process in kept.processes]
            say(f"metalbox serves {SUBNET} in namespace {namespace(directory)}; {storm.machines} machines switch on")
            words = network.inside(namespace(directory, "site"), [])
            figures = run_fleet(words, storm, lambda: meter.cost(pids))
            known = service.call("GET", "/api/v1/machines", {"state": "discovered"})["machines"]
            return {**figures, "known": len(known)}
        finally:
            record.remove(directory)
