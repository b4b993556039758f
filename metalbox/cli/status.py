"""`metalbox status`: what the service listens on, and what it counted: every packet not answered has its reason."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

from metalbox.cli import client, output


def add_parser(verbs: Any) -> None:
    """Add the verb."""
    parser = verbs.add_parser("status", help="what the service listens on and what it counted")
    client.add_arguments(parser)
    parser.set_defaults(run=run)


def _leases(row: Mapping[str, Any]) -> str:
    """A subnet in proxy mode has no pool to be full or empty."""
    return f"{row['leases']}/{row['pool_size']}" if row["pool_size"] else "-"


def run(args: argparse.Namespace) -> int:
    """Print listeners, subnets and counters."""
    answer = client.call(args.socket, "GET", "/api/v1/status")
    if output.emit(answer, args.output):
        return 0
    print(f"metalbox {answer['version']}, running since {output.clock(answer['started_at'])}")
    print("\nlistening")
    for line in answer["listening"]:
        print(f"  {line}")
    subnets = [(row["subnet"], row["mode"], row["interface"] or "relayed", _leases(row)) for row in answer["subnets"]]
    if subnets:
        print()
        print(output.table(("SUBNET", "MODE", "INTERFACE", "LEASES"), subnets))
    counts = [(part, name, count) for part, row in answer["counters"].items() for name, count in sorted(row.items())]
    if counts:
        print()
        print(output.table(("PART", "WHAT", "COUNT"), counts))
    return 0
