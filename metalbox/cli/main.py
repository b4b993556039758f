"""The `metalbox` command: finds the verb, runs it, turns an error into one sentence and an exit code.

Exit codes: 0 done, 1 failed, 2 wrong usage or configuration, 3 not found, 4 refused, 5 timed out.
Nothing heavy is imported at start: a verb imports what it needs when it runs.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterable, Sequence
from importlib import import_module

import metalbox
from metalbox.errors import MetalboxError

# The modules with their verbs, as `--help` shows them. A command line that begins with a verb imports only its module.
VERBS = {
    "serve": ("serve",),
    "machines": ("list", "show", "report"),
    "life": (
        *("accept", "adopt", "reject", "reconsider", "erase", "release", "retire", "retry", "cancel", "hold"),
        *("unhold", "forget", "approve", "keep", "plan"),
    ),
    "marks": ("label", "note"),
    "events": ("events",),
    "why": ("why",),
    "power": ("power", "boot-next", "sensors", "sel", "identify"),
    "console": ("console",),
    "bmc": ("bmc",),
    "certificate": ("certificate",),
    "leases": ("leases",),
    "status": ("status",),
    "config": ("config",),
    "agent": ("agent",),
    "boot_files": ("boot-files",),
    "doctor": ("doctor",),
    "lab": ("lab",),
}

EPILOG = """examples:
  metalbox lab up --machines 2 --wait    try everything on this computer, with real firmware in QEMU
  metalbox serve --config metalbox.yaml  run the service
  metalbox list                          the machines it found
  metalbox why lab0001                   what a machine is doing, and whom it waits for
"""


def parser(modules: Iterable[str] = VERBS) -> argparse.ArgumentParser:
    """Return the parser with every verb in it, or with those of some modules."""
    top = argparse.ArgumentParser(
        prog="metalbox",
        description="Finds machines on the wire, boots them and remembers everything about them.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action="version", version=f"metalbox {metalbox.__version__}")
    verbs = top.add_subparsers(title="verbs", metavar="VERB", required=True)
    for name in modules:
        import_module(f"metalbox.cli.{name}").add_parser(verbs)
    return top


def _needed(argv: Sequence[str]) -> Iterable[str]:
    """The modules for this command line: the one of its verb, none for the version; all where it is to be explained."""
    first = argv[0] if argv else ""
    if first == "--version":
        return ()
    return [name for name, verbs in VERBS.items() if first in verbs] or VERBS


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    words = sys.argv[1:] if argv is None else argv
    args = parser(_needed(words)).parse_args(words)
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
