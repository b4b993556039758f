"""`metalbox events [NAME] [-f]`: the timeline of one machine, or of all."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

from metalbox.cli import client, output

# How long one request of `-f` waits for news; the service answers at once when there is some.
FOLLOW_SECONDS = 30


def add_parser(verbs: Any) -> None:
    """Add the verb."""
    parser = verbs.add_parser(
        "events",
        help="the timeline of a machine, or of all",
        description="Print the timeline, oldest first. Example: metalbox events lab0001 -f",
    )
    parser.add_argument("name", nargs="?", help="name, id, MAC, UUID or serial; none: all machines")
    parser.add_argument("-f", "--follow", action="store_true", help="wait for more, until Ctrl-C")
    parser.add_argument("-n", "--limit", type=int, default=200, help="how many of the newest entries (default 200)")
    client.add_arguments(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print the newest entries, then follow if asked."""
    path = f"/api/v1/machines/{client.segment(args.name)}/events" if args.name else "/api/v1/events"
    answer = client.call(args.socket, "GET", path, {"limit": args.limit})
    if args.output != "table" and not args.follow:
        output.emit(answer, args.output)
        return 0
    _print(answer["events"], args)
    while args.follow:
        query = {"after": answer["next"], "limit": 1000, "wait": FOLLOW_SECONDS}
        answer = client.call(args.socket, "GET", path, query, timeout=FOLLOW_SECONDS + 30)
        _print(answer["events"], args)
    return 0


def _print(events: list[Mapping[str, Any]], args: argparse.Namespace) -> None:
    if args.output != "table":
        import json

        for event in events:
            print(json.dumps(event, ensure_ascii=False), flush=True)
        return
    for event in events:
        print(line(event, with_machine=not args.name), flush=True)


def line(event: Mapping[str, Any], *, with_machine: bool) -> str:
    """One entry as one line: when, what, who (when all machines are shown), the sentence, how often."""
    who = f"{event.get('machine') or event.get('mac') or 'metalbox':<18} " if with_machine else ""
    times = ""
    if event["count"] > 1:
        times = f"  (x{event['count']} in {output.duration(event['last_at'] - event['at'])})"
    return f"{output.clock(event['at'])}  {event['kind']:<8} {who}{output.printable(event['text'])}{times}"
