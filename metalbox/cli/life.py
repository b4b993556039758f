"""`metalbox accept`, `adopt`, `reject`, `erase`, `release`, `retire` and the other verbs of a machine's life."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any

from metalbox.cli import choice, client, following, output, selectors
from metalbox.errors import MetalboxError, Refused

VERBS = {
    "accept": "take a discovered machine: its disks are ERASED, then it is available",
    "adopt": "take a discovered machine that is in use: nothing is touched",
    "reject": "leave a discovered machine alone: it gets nothing from us",
    "reconsider": "take a rejection back",
    "erase": "ERASE the disks of an available machine once more",
    "release": "take a machine out of use: its disks are ERASED, then it is available",
    "retire": "take a machine away for ever: its disks are ERASED at level purge",
    "retry": "go on after a fault: what was not erased is tried again, by other methods",
    "cancel": "take back what was not begun yet",
    "hold": "keep a machine for maintenance: nothing is ordered of it",
    "unhold": "end the maintenance",
    "forget": "remove a machine from the inventory",
}
DESTRUCTIVE = frozenset({"accept", "erase", "release", "retire", "retry"})
WAIT_SECONDS = 24 * 3600


def add_parser(verbs: Any) -> None:
    """Add the verbs."""
    for verb, text in VERBS.items():
        parser = verbs.add_parser(
            verb,
            help=text,
            description=f"{text[0].upper()}{text[1:]}. NAME is a name, a list a,b, a range r1-[01-20], or all. "
            f"Example: metalbox {verb} r1-[01-04] --max 4" + (" --wait" if verb in DESTRUCTIVE else ""),
        )
        parser.add_argument("names", nargs="*", metavar="NAME")
        parser.add_argument(
            "-l", "--selector", default="", metavar="LABELS", help="machines with these labels: rack=r1"
        )
        parser.add_argument("--max", type=int, default=1, metavar="N", help="refuse more machines than this (1)")
        parser.add_argument("--reason", default="", help="a word for the timeline")
        if verb in DESTRUCTIVE:
            _add_erase_arguments(parser)
        if verb in ("erase", "retire", "forget", *DESTRUCTIVE):
            parser.add_argument("--yes", action="store_true", help="do not ask for the machine's name")
        if verb == "forget":
            parser.add_argument("--force", action="store_true", help="also when it is in use or at work: it is gone")
        client.add_arguments(parser, output=False)
        parser.set_defaults(run=run, verb=verb)

    parser = verbs.add_parser("approve", help="grant as a second person what waits for one")
    parser.add_argument("names", nargs="+", metavar="NAME")
    parser.add_argument("--max", type=int, default=1, metavar="N", help="refuse more machines than this (1)")
    client.add_arguments(parser, output=False)
    parser.set_defaults(run=run_approve)

    parser = verbs.add_parser("keep", help="say that a disk is never to be erased, whatever happens to its machine")
    parser.add_argument("name", help="the machine")
    parser.add_argument("disk", help="the disk's serial number or WWN")
    parser.add_argument("--off", action="store_true", help="it may be erased again")
    client.add_arguments(parser, output=False)
    parser.set_defaults(run=run_keep)

    parser = verbs.add_parser("plan", help="what would be done to each disk, and why; touches nothing")
    parser.add_argument("name", help="the machine")
    _add_plan_arguments(parser)
    client.add_arguments(parser)
    parser.set_defaults(run=run_plan)


def _add_plan_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--level", choices=("clear", "purge"), help="default: erase.level of the configuration")
    parser.add_argument("--verify", choices=("sample", "full"), help="read back a sample, or every byte")
    parser.add_argument("--keep", action="append", default=[], metavar="DISK", help="leave this disk alone, this time")
    parser.add_argument(
        "--named", action="append", default=[], metavar="DISK", help="erase this one too: USB, removable, SAN"
    )


def _add_erase_arguments(parser: argparse.ArgumentParser) -> None:
    _add_plan_arguments(parser)
    parser.add_argument("--dry-run", action="store_true", help="show what would be done to each disk, and end")
    parser.add_argument(
        "--wait", nargs="?", type=int, const=WAIT_SECONDS, metavar="SECONDS", help="show the progress to the end"
    )


def run(args: argparse.Namespace) -> int:
    """Do it to every machine that is meant; what destroys data shows its plan and asks first."""
    names = choice.machines(args.socket, args.names, args.selector)
    selectors.guard(names, args.max, verb=args.verb)
    is_destructive = args.verb in DESTRUCTIVE
    shown: dict[str, list[str]] = {}
    if is_destructive:
        for name in names:
            found = _plan(args, name)
            print(_plan_text(found))
            if why_not := found["refused"] or "; ".join(found["problems"]):
                raise Refused(why_not if len(names) == 1 else f"{name}: {why_not}")
            shown[name] = [disk["serial"] or disk["wwn"] for disk in found["disks"] if disk["verdict"] == "erase"]
        if args.dry_run:
            return 0
    if (is_destructive or args.verb == "forget") and not args.yes:
        _confirm(args.verb, names, sum(len(disks) for disks in shown.values()))
    failures = 0
    done: list[str] = []
    for name in names:
        body = {"reason": args.reason, "force": getattr(args, "force", False)}
        if is_destructive:
            body |= {
                "level": args.level,
                "verify": args.verify,
                "keep": args.keep,
                "named": args.named,
                "disks": shown[name],
            }
        try:
            answer = _post(args, name, args.verb, body)
        except MetalboxError as error:
            if len(names) == 1:
                raise
            failures += 1
            print(f"metalbox: {name}: {error}", file=sys.stderr)
            continue
        failures += bool(answer["pending"])
        done += [] if answer["pending"] else [answer["machine"]]
        print(output.printable(f"{answer['machine']}: {answer['pending'] or 'is ' + answer['state']}"))
    if getattr(args, "wait", None) is None or not done:
        return 4 if failures else 0
    return max(4 if failures else 0, following.follow(args.socket, done, args.wait))


def run_approve(args: argparse.Namespace) -> int:
    """Grant it for every machine that is meant."""
    names = choice.machines(args.socket, args.names)
    selectors.guard(names, args.max, verb="approve")
    for name in names:
        answer = _post(args, name, "approve", None)
        print(f"{answer['machine']}: is {answer['state']}")
    return 0


def run_keep(args: argparse.Namespace) -> int:
    """Write it down."""
    answer = _post(args, args.name, "keep", {"disk": args.disk, "keep": not args.off})
    print(output.printable(f"{answer['machine']}: {answer['told'][0]}"))
    return 0


def run_plan(args: argparse.Namespace) -> int:
    """One line for each disk."""
    found = _plan(args, args.name)
    if not output.emit(found, args.output):
        print(_plan_text(found))
    return 4 if found["problems"] else 0


def _post(args: argparse.Namespace, name: str, verb: str, body: Any) -> Any:
    return client.call(args.socket, "POST", f"/api/v1/machines/{client.segment(name)}/{verb}", body=body)


def _plan(args: argparse.Namespace, name: str) -> Any:
    query = [(key, text) for key in ("keep", "named") for text in getattr(args, key)]
    query += [(key, text) for key, text in (("level", args.level), ("verify", args.verify)) if text]
    query += [("verb", args.verb)] if hasattr(args, "verb") else []
    return client.call(args.socket, "GET", f"/api/v1/machines/{client.segment(name)}/plan", query)


def _plan_text(found: Any) -> str:
    rows = [
        (
            disk["serial"] or disk["wwn"] or disk["name"],
            disk["model"],
            output.size(disk["size_bytes"]),
            disk["transport"],
            disk["method"] or disk["verdict"],
            f"{output.duration(disk['seconds'])}" if disk["method"] else "",
            disk["term"],
            disk["reason"],
        )
        for disk in found["disks"]
    ]
    head = f"{found['machine']} ({found['state']}), level {found['level']}, verified by {found['verify']}"
    total = f", about {output.duration(found['seconds'])}" if found["seconds"] else ""
    if not rows:
        return f"{output.printable(head)}: it has no disk"
    columns = ("DISK", "MODEL", "SIZE", "BY", "METHOD", "ABOUT", "STANDARD", "WHY")
    lines = [f"problem: {line}" for line in found["problems"]]
    if refused := sum(disk["verdict"] == "refused" for disk in found["disks"]):
        lines.append(f"{_count(refused)} cannot be erased so: {found['machine']} would stop with a fault")
    return "\n".join([f"{output.printable(head)}{total}", output.table(columns, rows), *map(output.printable, lines)])


def _count(disks: int) -> str:
    return "1 disk" if disks == 1 else f"{disks} disks"


def _confirm(verb: str, names: Sequence[str], disks: int) -> None:
    """Ask for the machine's name, or for the number of machines. Raises Refused."""
    expected = names[0] if len(names) == 1 else str(len(names))
    machines = names[0] if len(names) == 1 else f"{len(names)} machines"
    what = f"{verb}: all that is on {_count(disks)} of {machines} is lost" if disks else f"{verb}: {machines}"
    asked = "the machine's name" if len(names) == 1 else "the number of machines"
    if not sys.stdin.isatty():
        raise Refused(f"{what}: add --yes, for there is no terminal to ask at")
    print(f"{what}. Type {asked} to go on: ", end="", file=sys.stderr, flush=True)
    if sys.stdin.readline().strip() != expected:
        raise Refused("not confirmed: nothing was done")
