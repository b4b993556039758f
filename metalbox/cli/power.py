"""`metalbox power`, `boot-next`, `sensors`, `sel`, `identify`: machines switched and asked through their BMCs."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Mapping
from typing import Any

from metalbox.cli import choice, client, output, selectors
from metalbox.errors import MetalboxError

WAIT_SECONDS = 300
# One request of `--wait`; the service answers at once when the order is finished.
POLL_SECONDS = 30
VERBS = {
    "on": "switch on",
    "off": "switch off: hard, or --soft by asking the operating system",
    "cycle": "switch off, see that it is off, switch on",
    "reset": "restart by one command of the BMC",
}
DEVICES = ("pxe", "http", "disk", "cdrom", "bios", "none")


def add_parser(verbs: Any) -> None:
    """Add the verbs."""
    parser = verbs.add_parser(
        "power",
        help="switch machines on and off, or tell whether they are on",
        description="NAME is a name, a list a,b, a range r1-[01-20], labels rack=r1,role!=db, or all. "
        "Example: metalbox power on r1-[01-04] --max 4 --wait",
    )
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)
    status = actions.add_parser("status", help="whether machines are on, and how old that knowledge is")
    status.add_argument("names", nargs="+", metavar="NAME")
    status.add_argument("--refresh", action="store_true", help="ask the BMCs now, also what boots next")
    client.add_arguments(status)
    status.set_defaults(run=run_status)
    for verb, text in VERBS.items():
        action = actions.add_parser(verb, help=text)
        if verb == "off":
            action.add_argument("--soft", action="store_true", help="ask the operating system to stop")
        if verb != "off":
            action.add_argument("--boot", choices=DEVICES, help="what the firmware starts, this once")
        _add_order_arguments(action)
        action.set_defaults(run=run_order, verb=verb)

    parser = verbs.add_parser("boot-next", help="set what the firmware starts at the next boot")
    parser.add_argument("device", choices=DEVICES, metavar="DEVICE", help=", ".join(DEVICES))
    parser.add_argument("--mode", choices=("uefi", "bios", "keep"), default="keep")
    parser.add_argument("--always", action="store_true", help="from now on, not only once")
    _add_order_arguments(parser)
    parser.set_defaults(run=run_order, verb="boot-next")

    for name, text, run in (
        ("sensors", "what the BMC measures", run_sensors),
        ("sel", "the BMC's own log", run_sel),
        ("identify", "blink the machine's light", run_identify),
    ):
        parser = verbs.add_parser(name, help=text)
        parser.add_argument("name", help="name, id, MAC, UUID or serial")
        if name == "identify":
            parser.add_argument("--seconds", type=int, default=15, help="0 stops it")
        client.add_arguments(parser, output=name != "identify")
        parser.set_defaults(run=run)


def _add_order_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("names", nargs="+", metavar="NAME")
    parser.add_argument(
        "--wait",
        nargs="?",
        type=int,
        const=WAIT_SECONDS,
        metavar="SECONDS",
        help="until it is done and seen to be done",
    )
    parser.add_argument("--max", type=int, default=1, metavar="N", help="refuse to touch more machines than this (1)")
    parser.add_argument("--force", action="store_true", help="cut the power of a machine whose disks are being erased")
    client.add_arguments(parser, output=False)


def run_status(args: argparse.Namespace) -> int:
    """One line for each machine."""
    query = {"refresh": 1} if args.refresh else {}
    rows = []
    for name in choice.machines(args.socket, args.names):
        rows.append(client.call(args.socket, "GET", f"/api/v1/machines/{client.segment(name)}/power", query))
    if output.emit({"power": rows}, args.output):
        return 0
    cells = [
        (
            row["machine"],
            row["state"],
            _age(row["age"]),
            row["source"] or "-",
            *((_boot_in_words(row["boot"]),) if args.refresh else ()),
            _wait_in_words(row) or (row["text"] and f"{row['code']}: {row['text']}"),
        )
        for row in rows
    ]
    head = ("NAME", "POWER", "READ", "BY", *(("NEXT BOOT",) if args.refresh else ()), "TROUBLE")
    print(output.table(head, cells))
    return 0


def run_order(args: argparse.Namespace) -> int:
    """Order it of every machine, then wait if asked."""
    names = choice.machines(args.socket, args.names)
    selectors.guard(names, args.max, verb=args.verb)
    body: dict[str, Any] = {"verb": "soft-off" if getattr(args, "soft", False) else args.verb}
    body |= {"force": True} if args.force else {}
    device = getattr(args, "device", None) or getattr(args, "boot", None)
    if device:
        mode, always = getattr(args, "mode", "keep"), getattr(args, "always", False)
        body["boot"] = {"device": device, "mode": mode, "once": not always}
    orders: dict[str, int] = {}
    failures = 0
    for name in names:
        try:
            answer = client.call(args.socket, "POST", f"/api/v1/machines/{client.segment(name)}/power", body=body)
        except MetalboxError as error:
            if len(names) == 1:
                raise
            failures += 1
            print(f"metalbox: {name}: {error}", file=sys.stderr)
            continue
        orders[answer["machine"]] = answer["order"]
    if args.wait is None:
        for name, number in orders.items():
            print(f"{name}: ordered as {number}; see `metalbox events {name}`")
        return 1 if failures else 0
    return max(1 if failures else 0, _follow(args, orders))


def _follow(args: argparse.Namespace, orders: Mapping[str, int]) -> int:
    """Wait for all; the exit code is 1 when one failed, 5 when the time is over."""
    deadline = time.monotonic() + args.wait
    worst = 0
    for place, (name, number) in enumerate(orders.items(), 1):
        while True:
            wait = max(0, min(POLL_SECONDS, int(deadline - time.monotonic())))
            row = client.call(args.socket, "GET", f"/api/v1/orders/{number}", {"wait": wait}, timeout=POLL_SECONDS + 30)
            if row["finished_at"] or time.monotonic() >= deadline:
                break
        count = f"[{place}/{len(orders)}] " if len(orders) > 1 else ""
        if not row["finished_at"]:
            print(f"{count}{name}: not done within {args.wait} s; it {_wait_in_words(row) or 'goes on'}")
            worst = 5
            continue
        outcome = row["outcome"]
        print(f"{count}{name}: {output.printable(outcome['text'])}")
        for warning in outcome["warnings"]:
            print(f"{'':<{len(count)}}{name}: warning: {output.printable(warning['text'])}", file=sys.stderr)
        if not outcome["done"] and not outcome["asked"]:
            worst = worst or 1
    return worst


def run_sensors(args: argparse.Namespace) -> int:
    """One line for each sensor."""
    answer = client.call(args.socket, "GET", f"/api/v1/machines/{client.segment(args.name)}/sensors", timeout=120)
    if output.emit(answer, args.output):
        return 0
    rows = [
        (
            row["name"],
            row["kind"],
            "" if row["value"] is None else f"{row['value']:g} {row['unit']}",
            row["health"] or ", ".join(row["states"]),
        )
        for row in answer["sensors"]
    ]
    print(output.table(("SENSOR", "KIND", "VALUE", "HEALTH"), rows))
    return 0


def run_sel(args: argparse.Namespace) -> int:
    """One line for each record."""
    answer = client.call(args.socket, "GET", f"/api/v1/machines/{client.segment(args.name)}/sel", timeout=120)
    if output.emit(answer, args.output):
        return 0
    rows = [
        (row["id"], output.clock(row["at"]) if row["at"] else "-", row["severity"], row["sensor"], row["text"])
        for row in answer["entries"]
    ]
    print(output.table(("ID", "AT", "SEVERITY", "SENSOR", "WHAT"), rows) if rows else "the log is empty")
    return 0


def run_identify(args: argparse.Namespace) -> int:
    """Blink."""
    path = f"/api/v1/machines/{client.segment(args.name)}/identify?seconds={args.seconds}"
    client.call(args.socket, "POST", path, body={})
    print(f"{args.name}: the light blinks for {args.seconds} s" if args.seconds else f"{args.name}: the light is off")
    return 0


def _boot_in_words(boot: Mapping[str, Any] | None) -> str:
    """What is set for the next boots."""
    if boot is None:
        return "?"
    if boot["device"] == "none":
        return "as set up"
    mode = "" if boot["mode"] == "keep" else f" ({boot['mode']})"
    return f"{boot['device']}{mode}, {'once' if boot['once'] else 'always'}"


def _wait_in_words(row: Mapping[str, Any]) -> str:
    before = row["waits_behind"]
    if before is None:
        return ""
    return f"waits for its turn to be switched on, {before} before it"


def _age(age: float | None) -> str:
    return "never" if age is None else f"{output.duration(age)} ago"
