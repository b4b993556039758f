"""`metalbox config check|example`: check a configuration file, or print one with every setting at its default."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any


def add_parser(verbs: Any) -> None:
    """Add the verb."""
    parser = verbs.add_parser("config", help="check a configuration file, or print an example")
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)
    check = actions.add_parser("check", help="check a file whole, as `serve` does before it opens anything")
    check.add_argument("file", type=Path, nargs="?", help="default: $METALBOX_CONFIG or /etc/metalbox/metalbox.yaml")
    check.set_defaults(run=run_check)
    example = actions.add_parser("example", help="print a file with every setting, commented, at its default")
    example.set_defaults(run=run_example)


def run_check(args: argparse.Namespace) -> int:
    """Say that the file is good and what it amounts to; a bad one raises ConfigError."""
    from metalbox import config

    path = args.file or config.default_path()
    settings = config.load(path)
    print(f"{path} is good: {len(settings.subnets)} subnet(s), data in {settings.data_dir}")
    for subnet in settings.subnets:
        free = sum(len(pool) for pool in subnet.pools)
        where = subnet.interface or "behind a relay"
        print(f"  {subnet.subnet} {subnet.mode} on {where}, {free} pool addresses, {len(subnet.reservations)} reserved")
    return 0


def run_example(args: argparse.Namespace) -> int:
    """Print the example file."""
    from metalbox import configexample

    print(configexample.example(), end="")
    return 0
