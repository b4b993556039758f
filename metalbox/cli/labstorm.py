"""`metalbox lab storm`: how many machines at once, how long, and what it costs."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from metalbox.cli import output

MACHINES = 1000
IMAGE_MIB = 8.0

EPILOG = """examples:
  sudo metalbox lab storm                           a thousand machines within a second
  sudo metalbox lab storm --image-mib 32            with a kernel and initrd as big as the agent's own
  sudo metalbox lab storm --machines 4000 --spread 20 -o json
"""


def add_parser(steps: Any) -> None:
    """Add the verb to those of `metalbox lab`."""
    parser = steps.add_parser(
        "storm",
        help="boot a fleet of simulated machines at once, and measure it",
        description="Simulated machines do what firmware, iPXE and the agent say on the wire, with the timers of real "
        "firmware, against a metalbox of their own: DHCP, TFTP of the real iPXE, both scripts, kernel and initrd of "
        "random bytes, the agent's report. Exits 1 when a machine did not arrive.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--machines", type=_count, default=MACHINES, metavar="N", help=f"default {MACHINES}")
    parser.add_argument(
        "--image-mib", type=_above_zero, default=IMAGE_MIB, metavar="MIB",
        help=f"kernel and initrd together (default {IMAGE_MIB:g})",
    )  # fmt: skip
    parser.add_argument(
        "--spread", type=_not_negative, default=1.0, metavar="SECONDS",
        help="within which all are switched on (default 1)",
    )  # fmt: skip
    parser.add_argument(
        "--limit", type=_above_zero, default=300.0, metavar="SECONDS",
        help="after which nobody is waited for (default 300)",
    )  # fmt: skip
    parser.add_argument("--boot-files", type=Path, metavar="DIR", help="iPXE binaries (default: var/boot)")
    parser.add_argument("--dir", type=Path, help="the storm's folder, emptied after it (default: var/storm)")
    parser.add_argument("-o", "--output", choices=("table", "json", "yaml"), default="table")
    parser.set_defaults(run=run)


def _count(text: str) -> int:
    value = int(text)
    if not 1 <= value <= 50_000:
        raise argparse.ArgumentTypeError(f"expected 1 to 50000 machines, got {text}")
    return value


def _above_zero(text: str) -> float:
    value = float(text)
    if not 0 < value <= 100_000:
        raise argparse.ArgumentTypeError(f"expected a number above 0, got {text}")
    return value


def _not_negative(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 100_000:
        raise argparse.ArgumentTypeError(f"expected 0 or more seconds, got {text}")
    return value


def run(args: argparse.Namespace) -> int:
    """Storm, and say what came of it."""
    from metalbox.lab import storm
    from metalbox.lab.requirements import ALWAYS, check
    from metalbox.lab.services import default_folder

    check(ALWAYS)
    asked = storm.Storm(args.machines, int(args.image_mib * 2**20), args.spread, args.limit)
    directory: Path = args.dir or default_folder("storm")
    boot_files: Path = args.boot_files or default_folder("boot")
    figures = storm.run(directory.resolve(), asked, boot_files, lambda text: print(text, file=sys.stderr, flush=True))
    if not output.emit(figures, args.output):
        print("\n".join(sentences(figures)))
    return 1 if figures["missing"] else 0


def sentences(figures: dict[str, Any]) -> list[str]:
    """The outcome for people. Pure."""
    rows = [
        [phase, times["count"], f"{times['p50']:.3f} s", f"{times['p99']:.3f} s"]
        for phase, times in figures["phases"].items()
    ]
    lines = [
        f"arrived    {figures['arrived']} of {figures['machines']} machines, half of them after "
        f"{figures['p50_seconds']:.1f} s, the last after {figures['seconds']:.1f} s; {figures['known']} are discovered",
        f"booted     half of them had kernel and initrd after {figures['booted_p50_seconds']:.1f} s, the last after "
        f"{figures['booted_seconds']:.1f} s",
        f"repeated   {figures['retries']} by firmware{_by_cause(figures['lost_by'])}; {figures['deferred']} "
        "put off by the server (503)",
        f"served     {output.size(figures['bytes'])}, {figures['mb_per_second']:,.0f} MB/s",
        f"metalbox   {figures['cpu_seconds']:.1f} s of CPU, {figures['rss_mb']:.0f} MiB of memory at most; the "
        f"machines themselves {figures['fleet_cpu_seconds']:.1f} s of CPU",
        *(f"failed     {count}: {why}" for why, count in figures["failures"].items()),
    ]
    return [*lines, "", output.table(["PHASE", "MACHINES", "P50", "P99"], rows)]


def _by_cause(lost: dict[str, int]) -> str:
    return f" ({', '.join(f'{what} {count}' for what, count in sorted(lost.items()))})" if lost else ""
