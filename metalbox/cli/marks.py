"""`metalbox label` and `note`: what operators say of machines."""

from __future__ import annotations

import argparse
from typing import Any

from metalbox import labels
from metalbox.cli import choice, client, output
from metalbox.errors import InvalidValue


def add_parser(verbs: Any) -> None:
    """Add the verbs."""
    parser = verbs.add_parser(
        "label",
        help="set and remove labels of machines",
        description="NAME is a name, a list a,b, a range r1-[01-20], or all; -l selects by the labels there are. "
        "Example: metalbox label r1-[01-20] rack=r1 pdu=a spare-",
    )
    parser.add_argument("words", nargs="+", metavar="NAME... key=value key-", help="machines, then what to change")
    parser.add_argument("-l", "--selector", default="", metavar="LABELS", help="machines with these labels: rack=r1")
    client.add_arguments(parser)
    parser.set_defaults(run=run_label)

    parser = verbs.add_parser("note", help="write down a note on a machine, or whose it is")
    parser.add_argument("name", help="name, id, MAC, UUID or serial")
    parser.add_argument("text", nargs="?", help="the note; '' takes it away")
    parser.add_argument("--owner", help="whose it is; '' takes it away")
    client.add_arguments(parser)
    parser.set_defaults(run=run_note)


def run_label(args: argparse.Namespace) -> int:
    """Change the labels of every machine that is meant; print them as they are then."""
    words = [word for word in args.words if not labels.is_change(word)]
    changes = labels.read_changes(word for word in args.words if labels.is_change(word))
    if not changes.set and not changes.remove:
        raise InvalidValue("no label is named: write key=value to set one, key- to remove it")
    names = choice.machines(args.socket, words, args.selector)
    body = {"set": changes.set, "remove": changes.remove}
    rows = [
        client.call(args.socket, "POST", f"/api/v1/machines/{client.segment(name)}/labels", body=body) for name in names
    ]
    if not output.emit({"machines": rows}, args.output):
        print(output.table(("NAME", "LABELS"), [(row["machine"], labels.shown(row["labels"]) or "-") for row in rows]))
    return 0


def run_note(args: argparse.Namespace) -> int:
    """Write it down."""
    body = {key: value for key, value in (("note", args.text), ("owner", args.owner)) if value is not None}
    if not body:
        raise InvalidValue("write a note, or --owner")
    answer = client.call(args.socket, "POST", f"/api/v1/machines/{client.segment(args.name)}/note", body=body)
    if not output.emit(answer, args.output):
        owner = f"owner {answer['owner']}" if answer["owner"] else ""
        said = "; ".join(filter(None, (owner, answer["note"])))
        print(output.printable(f"{answer['machine']}: {said or 'no owner, no note'}"))
    return 0
