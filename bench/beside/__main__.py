"""Measure metalbox beside its peers.

    python -m bench.beside [dhcp] [tftp] [http] [storm] [boot] [inventory] [--rounds 3] [--json FILE]

Everything happens inside network namespaces that are made for the run and removed after it. Needs root; what peers are
missing is installed with apt-get, and a peer that cannot be had is said and left out. Each target ends with lines
`ratio NAME VALUE goal VALUE`; a missed goal is no failure of the measurement, which exits 0.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from bench.beside import packages
from bench.beside.figures import Results, missed, ratio_lines, table
from bench.beside.rounds import Run
from bench.beside.wire import Wire

TARGETS = {
    "dhcp": "bench.beside.dhcp",
    "tftp": "bench.beside.tftp",
    "http": "bench.beside.web",
    "storm": "bench.beside.storm",
    "boot": "bench.beside.boots",
    "inventory": "bench.beside.inventory",
}


def parser() -> argparse.ArgumentParser:
    """The options."""
    made = argparse.ArgumentParser(
        prog="python -m bench.beside", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument(
        "targets", nargs="*", choices=[*TARGETS, []], metavar="TARGET", help="default: all of them, in this order"
    )
    made.add_argument("--rounds", type=int, default=3, help="how often each server has its turn (default: 3)")
    made.add_argument("--json", type=Path, metavar="FILE", help="every figure of every round")
    made.add_argument("--machines", type=int, default=1000, help="of the storm (default: 1000)")
    made.add_argument("--image-mib", type=float, default=8, help="kernel and initrd of the storm together (default: 8)")
    made.add_argument("--profile", type=Path, metavar="FOLDER", help="stacks of the DHCP and TFTP servers, by py-spy")
    return made


def measure(target: str, options: argparse.Namespace) -> Results:
    """One target on a wire of its own."""
    module = importlib.import_module(TARGETS[target])
    with tempfile.TemporaryDirectory(prefix="mb-bench-") as made:
        folder = Path(made)
        folder.chmod(0o755)
        with Wire(folder) as wire:
            run = Run(
                wire,
                folder,
                max(1, options.rounds),
                profile=options.profile,
                machines=options.machines,
                image_bytes=int(options.image_mib * 2**20),
            )
            results: Results = module.measure(run)
    print(f"\n{target}, median (lowest-highest) of {options.rounds} rounds")
    print("\n".join(table(results, module.COLUMNS)))
    for note in results.notes:
        print(f"note: {note}")
    return results


def main(arguments: Sequence[str]) -> int:
    """Measure what is asked for."""
    options = parser().parse_args(arguments)
    if os.geteuid():
        print("bench: network namespaces need root", file=sys.stderr)
        return 2
    if options.profile:
        options.profile.mkdir(parents=True, exist_ok=True)
    packages.ensure(("gcc",))
    found = []
    for target in options.targets or TARGETS:
        began = time.monotonic()
        print(f"== {target}", flush=True)
        results = measure(target, options)
        found.append(results)
        print(
            f"{target}: {time.monotonic() - began:.0f} s; goals missed: {'; '.join(missed(results.ratios)) or 'none'}"
        )
        print("\n".join(ratio_lines(results.ratios)) + "\n", flush=True)
    if len(found) > 1:
        print("\n".join(ratio_lines({name: value for results in found for name, value in results.ratios.items()})))
    if options.json:
        load = [round(value, 2) for value in os.getloadavg()]
        document = {"at": time.time(), "cpus": os.cpu_count(), "load": load, "rounds": options.rounds}
        options.json.write_text(json.dumps({**document, "targets": [r.document() for r in found]}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
