"""`metalbox leases`: the addresses given out."""

from __future__ import annotations

import argparse
import time
from typing import Any

from metalbox.cli import client, output


def add_parser(verbs: Any) -> None:
    """Add the verb."""
    parser = verbs.add_parser("leases", help="the addresses given out")
    client.add_arguments(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print one line for each lease."""
    answer = client.call(args.socket, "GET", "/api/v1/leases")
    if output.emit(answer, args.output):
        return 0
    rows = [
        (
            lease["address"],
            lease["mac"],
            lease.get("machine") or lease.get("hostname") or "-",
            lease["state"],
            _expiry(lease["expires_at"]),
            lease.get("location") or "-",
        )
        for lease in answer["leases"]
    ]
    if not rows:
        print("no leases: in proxy mode the site's own DHCP server gives the addresses")
        return 0
    print(output.table(("ADDRESS", "MAC", "MACHINE", "STATE", "EXPIRES", "LOCATION"), rows))
    return 0


def _expiry(at: float) -> str:
    left = at - time.time()
    return f"in {output.duration(left)}" if left > 0 else output.ago(at)
