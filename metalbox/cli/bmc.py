"""`metalbox bmc list|add|import|test|rotate|forget`: the management processors and the accounts used at them."""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path
from typing import Any

from metalbox.cli import client, output, reseal
from metalbox.errors import InvalidValue

# The service bounds a scan to half an hour.
SCAN_SECONDS = 2000.0
PASSWORD_VARIABLE = "METALBOX_BMC_PASSWORD"
# An agent needs some seconds, a BMC that cannot be reached at once a minute; how often is asked.
ROTATE_SECONDS, LOOK_SECONDS = 180.0, 1.0
# Settings of drivers that are kept like passwords.
SECRETS = frozenset({"kg"})


def add_parser(verbs: Any) -> None:
    """Add the verb."""
    parser = verbs.add_parser("bmc", help="the BMCs: listed, added, imported, tried")
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)

    action = actions.add_parser("list", help="every BMC, those without a machine too")
    client.add_arguments(action)
    action.set_defaults(run=run_list)

    action = actions.add_parser(
        "add",
        help="add one with its account",
        description=f"The password is asked for, or taken from ${PASSWORD_VARIABLE}; it is in no list of processes. "
        "Example: metalbox bmc add 192.0.2.50 --user root --machine r1-01",
    )
    action.add_argument("address", help="IP address or host name")
    action.add_argument("--user", default="")
    action.add_argument("--machine", default="", help="whose it is; default: found by serial, UUID or MAC")
    action.add_argument("--mac", default="", help="the BMC's own hardware address")
    action.add_argument("--serial", default="", help="the machine's serial number")
    action.add_argument("--driver", default="", help="redfish, ipmi, libvirt, wol or none; default: redfish, then ipmi")
    action.add_argument("--port", type=int, default=0)
    action.add_argument(
        "--setting",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="of the driver, such as system=2 or channel=8; a NAME alone (kg) is asked for, so that nobody sees it",
    )
    client.add_arguments(action)
    action.set_defaults(run=run_add)

    action = actions.add_parser("import", help="take a list, CSV or YAML: address, user, password, mac, serial")
    action.add_argument("file", type=Path)
    client.add_arguments(action)
    action.set_defaults(run=run_import)

    action = actions.add_parser(
        "scan",
        help="look for BMCs in the addresses that you name",
        description="Asks for Redfish's root and IPMI's presence, and never logs in. "
        "Example: metalbox bmc scan 192.0.2.0/24",
    )
    action.add_argument("addresses", nargs="+", help="addresses, ranges like 192.0.2.10-50, or networks")
    client.add_arguments(action)
    action.set_defaults(run=run_scan)

    reseal.add_action(actions)

    action = actions.add_parser(
        "rotate",
        help="a new password for metalbox's own account, set by the machine's agent",
        description="The agent makes the account where there is none, and touches no other one; the password is used "
        "once it has logged in from outside. Example: metalbox bmc rotate r1-01 r1-02 --wait",
    )
    action.add_argument("name", nargs="+", help="the BMC's address, MAC or id, or its machine's name")
    action.add_argument("--wait", action="store_true", help=f"until it logs in, at most {ROTATE_SECONDS:.0f} s")
    client.add_arguments(action)
    action.set_defaults(run=run_rotate)

    for name, text, run in (
        ("test", "log in by every driver, and ask who the machine is", run_test),
        ("forget", "forget a BMC and its password", run_forget),
    ):
        action = actions.add_parser(name, help=text)
        action.add_argument("name", help="the BMC's address, MAC or id, or its machine's name")
        client.add_arguments(action, output=name == "test")
        action.set_defaults(run=run)


def run_list(args: argparse.Namespace) -> int:
    """One line for each BMC."""
    answer = client.call(args.socket, "GET", "/api/v1/bmcs")
    if output.emit(answer, args.output):
        return 0
    rows = [
        (
            row["id"],
            row["machine"] or "-",
            row["address"] or "-",
            row["mac"] or "-",
            ",".join(row["drivers"]) or "not tried",
            " ".join(filter(None, (row["vendor"], row["model"]))) or "-",
            row["user"] + ("" if row["has_password"] else " (no password)"),
            _trouble(row),
        )
        for row in answer["bmcs"]
    ]
    head = ("ID", "MACHINE", "ADDRESS", "MAC", "SPEAKS", "MODEL", "USER", "TROUBLE")
    print(output.table(head, rows) if rows else "no BMCs yet: `metalbox bmc add` and `bmc import` take them")
    return 0


def _trouble(row: dict[str, Any]) -> str:
    if row["last_error"]:
        return f"{row['last_error']['code']}: {row['last_error']['text']}"
    return row["doubt"] or ("" if row["machine"] else row["reason"])


def run_add(args: argparse.Namespace) -> int:
    """Ask for the password where a person can be asked, and add it."""
    body = {name: getattr(args, name) for name in ("address", "user", "machine", "mac", "serial", "driver", "port")}
    body["settings"] = dict(_setting(text) for text in args.setting)
    body["password"] = _password(args) if args.user else ""
    answer = client.call(args.socket, "POST", "/api/v1/bmcs", body=body)
    if not output.emit(answer, args.output):
        row = answer["bmc"]
        print(f"BMC {row['id']} at {row['address']}: {row['machine'] or 'no machine'} ({row['reason']})")
    return 0


def _setting(text: str) -> tuple[str, str]:
    """One setting of a driver; a secret is not taken from the command line, which every user of this host can see."""
    name, equal, value = text.partition("=")
    if equal and name in SECRETS:
        raise InvalidValue(f"{name} is a secret: write --setting {name}, and it is asked for")
    return name, value if equal else _ask(f"{name}: ")


def _ask(prompt: str) -> str:
    if not sys.stdin.isatty():
        return sys.stdin.readline().rstrip("\n")
    import getpass

    return getpass.getpass(prompt)


def _password(args: argparse.Namespace) -> str:
    given = os.environ.get(PASSWORD_VARIABLE)
    if given is not None:
        return given
    return _ask(f"password of {args.user} at {args.address}: ")


def run_import(args: argparse.Namespace) -> int:
    """Send the file as it is; all of it is taken, or nothing."""
    try:
        text = args.file.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidValue(f"cannot read {args.file}: {error}") from None
    answer = client.call(args.socket, "POST", "/api/v1/bmcs/import", {"name": args.file.name}, body=client.Raw(text))
    if not output.emit(answer, args.output):
        print(f"{answer['added']} added, {answer['changed']} changed, {answer['unchanged']} as they were")
        for row in answer["unmatched"]:
            print(f"no machine for {row['address']}: {row['reason']}")
    return 0


def run_scan(args: argparse.Namespace) -> int:
    """One line for each BMC found; all are remembered."""
    body = {"addresses": args.addresses}
    answer = client.call(args.socket, "POST", "/api/v1/bmcs/scan", body=body, timeout=SCAN_SECONDS)
    if output.emit(answer, args.output):
        return 0
    rows = []
    for found in answer["found"]:
        bmc = found["bmc"]
        model = " ".join(filter(None, (bmc["vendor"], bmc["model"]))) or "-"
        speaks = ",".join(bmc["drivers"])
        news = "new" if found["is_new"] else "known"
        rows.append((bmc["address"], speaks, model, bmc["machine"] or "-", news, "; ".join(found["hints"])))
    if rows:
        print(output.table(("ADDRESS", "SPEAKS", "MODEL", "MACHINE", "IS", "LOOK AT"), rows))
    print(f"{answer['asked']} addresses asked, {len(rows)} BMCs found" + _unasked(answer["unasked"]))
    return 0


def _unasked(count: int) -> str:
    return f"; {count} were not asked before the time was over" if count else ""


def run_test(args: argparse.Namespace) -> int:
    """One line for each driver; the exit code is 1 when none works."""
    path = f"/api/v1/bmcs/{client.segment(args.name)}/test"
    answer = client.call(args.socket, "POST", path, body={}, timeout=300)
    if not output.emit(answer, args.output):
        for row in answer["tries"]:
            said = f"works, the machine is {row['state']}" if not row["code"] else f"{row['code']}: {row['text']}"
            print(f"{row['driver']:<8} {row['address']}: {output.printable(said)}")
        bmc = answer["bmc"]
        print(f"machine  {bmc['machine'] or 'none'} ({bmc['reason'] or bmc['doubt']})")
    return 0 if any(not row["code"] for row in answer["tries"]) else 1


def run_rotate(args: argparse.Namespace) -> int:
    """Order all, then wait for those whose agents listen; the exit code is 1 when one failed or is not done."""
    paths = {name: f"/api/v1/bmcs/{client.segment(name)}" for name in args.name}
    rows: dict[str, dict[str, Any]] = {}
    for name, path in paths.items():
        rows[name] = {"state": "ordered", **client.call(args.socket, "POST", f"{path}/rotate", body={})}
    deadline = time.monotonic() + (ROTATE_SECONDS if args.wait else 0.0)
    while time.monotonic() < deadline and (left := [name for name, row in rows.items() if _goes_on(row)]):
        time.sleep(LOOK_SECONDS)
        for name in left:
            rows[name] |= client.call(args.socket, "GET", f"{paths[name]}/account")
    if not output.emit({"bmcs": [{"name": name, **row} for name, row in rows.items()]}, args.output):
        for name, row in rows.items():
            waits = "" if row["listens"] else "; its agent does not listen, and does it when the machine runs it next"
            print(f"{name}: {output.printable(row['state'])} (order {row['order']}{waits})")
    wanted = ("verified",) if args.wait else ("verified", "ordered")
    return 0 if all(row["state"] in wanted for row in rows.values()) else 1


def _goes_on(row: dict[str, Any]) -> bool:
    return bool(row["state"] == "ordered" and row["listens"])


def run_forget(args: argparse.Namespace) -> int:
    """Forget it."""
    client.call(args.socket, "DELETE", f"/api/v1/bmcs/{client.segment(args.name)}")
    print(f"{args.name}: forgotten, with its password")
    return 0
