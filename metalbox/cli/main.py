"""The `metalbox` command: finds the verb, runs it, turns an error into one sentence and an exit code.

Exit codes: 0 done, 1 failed, 2 wrong usage or configuration, 3 not found, 4 refused, 5 timed out.
Nothing heavy is imported at start: a verb imports what it needs when it runs.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

import metalbox
from metalbox.cli import (
    agent,
    bmc,
    boot_files,
    certificate,
    config,
    console,
    doctor,
    events,
    lab,
    leases,
    life,
    machines,
    marks,
    power,
    serve,
    status,
    why,
)
from metalbox.errors import MetalboxError

VERBS = (
    *(serve, machines, life, marks, events, why, power, console, bmc, certificate, leases, status),
    *(config, agent, boot_files, doctor, lab),
)

EPILOG = """examples:
  metalbox lab up --machines 2 --wait    try everything on this computer, with real firmware in QEMU
  metalbox serve --config metalbox.yaml  run the service
  metalbox list                          the machines it found
  metalbox why lab0001                   what a machine is doing, and whom it waits for
"""


def parser() -> argparse.ArgumentParser:
    """Return the parser with every verb in it."""
    top = argparse.ArgumentParser(
        prog="metalbox",
        description="Finds machines on the wire, boots them and remembers everything about them.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action="version", version=f"metalbox {metalbox.__version__}")
    verbs = top.add_subparsers(title="verbs", metavar="VERB", required=True)
    for verb in VERBS:
        verb.add_parser(verbs)
    return top


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    args = parser().parse_args(argv)
    try:
        return int(args.run(args))
    except MetalboxError as error:
        print(f"metalbox: {error}", file=sys.stderr)
        return error.exit_code
    except BrokenPipeError:
        # The reader (`| head`) has gone; Python would complain once more when it flushes stdout at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        return 130
