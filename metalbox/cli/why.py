"""`metalbox why NAME`: what a machine is doing, whom it waits for, since when, and what to do."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

from metalbox.cli import client, output


def add_parser(verbs: Any) -> None:
    """Add the verb."""
    parser = verbs.add_parser(
        "why",
        help="what a machine is doing, whom it waits for, and what to do",
        description="Also for the MAC of a machine that never reached the inventory: metalbox why 52:54:00:00:00:01",
    )
    parser.add_argument("name", help="name, id, MAC, UUID or serial")
    client.add_arguments(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print the diagnosis."""
    answer = client.call(args.socket, "GET", f"/api/v1/machines/{client.segment(args.name)}/why")
    if not output.emit(answer, args.output):
        print(render(answer))
    return 0


def render(answer: Mapping[str, Any]) -> str:
    """The diagnosis as text: doing, waiting, evidence, cause, what to do; then the same of what is also to be said."""
    lines = [f"{answer['machine']}: {answer['doing']}", *_details(answer)]
    for also in answer.get("also") or []:
        lines += ["", f"also: {also['doing']}", *_details(also)]
    return "\n".join(_clean(row) for row in lines)


def _details(answer: Mapping[str, Any]) -> list[str]:
    since = answer.get("since")
    lines = []
    if answer.get("waiting_for"):
        when = f" since {output.clock(since)} ({output.ago(since)})" if since else ""
        lines.append(f"  waits for   {answer['waiting_for']}{when}")
    for title, key in (("evidence", "evidence"), ("what to do", "advice")):
        if key == "advice" and answer.get("cause"):
            lines.append(f"  cause       {answer['cause']}")
        for index, text in enumerate(answer.get(key) or []):
            label = title if index == 0 else ""
            lines.extend(_hang(label, text))
    return lines


def _hang(label: str, text: str) -> list[str]:
    first, *rest = text.split("\n")
    return [f"  {label:<11} {first}", *(f"  {'':<11} {row}" for row in rest)]


def _clean(text: str) -> str:
    return output.printable(text).rstrip()
