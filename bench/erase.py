"""How quick the eraser is: overwriting against `dd` on the same device, 24 disks at once, what progress costs.

    python bench/erase.py [--mib 512] [--folder DIR] [--json FILE]

Overwriting and `dd if=/dev/zero bs=4M oflag=direct conv=fdatasync` take turns on one loop device over a file of FOLDER
(root). The 24 disks are simulated: each sanitizes for a time of its own, by the real clock, and the order should take
as long as the slowest. Progress is what the eraser does besides: the processor time of an order whose disks only wait.
Never a pass or fail: the goals stand beside the figures.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from metalbox.agent import eraser
from metalbox.agent.erasemethods import METHODS
from metalbox.agent.passthrough import CHUNK, Kernel
from metalbox.agent.target import Target
from tests.agent.drives import Asked, NvmeDrive, SimulatedKernel, order, row
from tests.agent.loops import LoopKernel, loop

GOAL_RATE, GOAL_CPU_PERCENT = 0.9, 1.0
ROUNDS = 5
DISKS, SLOWEST_SECONDS = 24, 12.0


def overwrite(name: str, size: int) -> float:
    """Seconds of the method `overwrite` on a device."""
    kernel = LoopKernel({name: "A"})
    keys = ("serial", "wwn", "model", "size_bytes", "namespaces")
    wanted = {key: kernel.disks()[0][key] for key in keys}
    target = Target(kernel, wanted, threading.Event())
    target.open()
    started = time.monotonic()
    METHODS["overwrite"].run(target)
    took = time.monotonic() - started
    target.close()
    return took


def dd(name: str, size: int) -> float:
    """Seconds of dd on a device."""
    started = time.monotonic()
    subprocess.run(
        ["dd", "if=/dev/zero", f"of=/dev/{name}", f"bs={CHUNK}", f"count={size // CHUNK}", "oflag=direct",
         "conv=fdatasync,notrunc", "status=none"], check=True, timeout=600,
    )  # fmt: skip
    return time.monotonic() - started


class RealTime(SimulatedKernel):
    """Simulated drives by the real clock."""

    def clock(self) -> float:
        return time.monotonic()

    def wait(self, seconds: float) -> None:
        time.sleep(seconds)


class Lasting(NvmeDrive):
    """A drive whose sanitize takes so many seconds."""

    lasts = 0.0

    def start_sanitize(self, way: str) -> None:
        super().start_sanitize(way)
        self.pending = (way, time.monotonic() + self.lasts)


def many(folder: Path) -> dict[str, Any]:
    """An order of 24 disks that sanitize beside each other."""
    drives = [Lasting(f"nvme{number}n1", f"S{number}", seed=number + 1) for number in range(DISKS)]
    kernel = RealTime(folder, *drives)
    for number, drive in enumerate(drives):
        drive.lasts = SLOWEST_SECONDS * (number + 1) / DISKS
    asked = Asked(order(*(row(drive, "nvme-sanitize-block") for drive in drives), parallel=DISKS))
    started = time.monotonic()
    outcome = eraser.work(asked, kernel)  # type: ignore[arg-type]
    took = time.monotonic() - started
    erased = sum(disk["result"] == "erased" for disk in outcome["disks"])
    return {"seconds": took, "slowest": SLOWEST_SECONDS, "erased": erased, "told": len(asked.told)}


def waiting(folder: Path) -> float:
    """Per cent of one processor that an order of 24 disks costs while they sanitize: only progress and questions."""
    drives = [Lasting(f"nvme{number}n1", f"S{number}", seed=number + 1) for number in range(DISKS)]
    kernel = RealTime(folder, *drives)
    for drive in drives:
        drive.lasts = 3600.0
    asked = Asked(order(*(row(drive, "nvme-sanitize-block") for drive in drives), parallel=DISKS))
    thread = threading.Thread(target=eraser.work, args=(asked, kernel), daemon=True)
    thread.start()
    while sum(bool(drive.pending) for drive in drives) < DISKS:
        time.sleep(0.2)
    before, started = time.process_time(), time.monotonic()
    time.sleep(10.0)
    cost = 100.0 * (time.process_time() - before) / (time.monotonic() - started)
    asked.cancelled.set()
    thread.join(30.0)
    return cost


def main(arguments: Sequence[str]) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mib", type=int, default=512)
    parser.add_argument("--folder", type=Path, default=None)
    parser.add_argument("--json", type=Path, default=None)
    options = parser.parse_args(arguments)
    size = options.mib << 20
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        with loop(Path(folder, "disk"), size) as name:
            assert Kernel().open(name).size() == size
            rounds = [(dd(name, size), overwrite(name, size)) for _ in range(ROUNDS)]
        figures: dict[str, Any] = {
            "dd_mb_s": size / statistics.median(one for one, _ in rounds) / 1e6,
            "overwrite_mb_s": size / statistics.median(other for _, other in rounds) / 1e6,
            "many": many(Path(folder, "many")),
            "progress_cpu_percent": waiting(Path(folder, "waiting")),
        }
    figures["ratio"] = figures["overwrite_mb_s"] / figures["dd_mb_s"]
    told = figures["many"]
    print(f"overwrite {figures['overwrite_mb_s']:.0f} MB/s, dd {figures['dd_mb_s']:.0f} MB/s: "
          f"{figures['ratio']:.2f} (goal {GOAL_RATE})")  # fmt: skip
    print(
        f"{DISKS} disks: {told['erased']} erased in {told['seconds']:.1f} s, the slowest takes {told['slowest']:.1f} s"
    )
    print(
        f"progress of {DISKS} disks: {figures['progress_cpu_percent']:.2f} % of a processor (goal {GOAL_CPU_PERCENT})"
    )
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
