"""`metalbox lab`: a virtual rack on this computer, to try everything with real firmware and no hardware."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from metalbox.cli import labstorm, output
from metalbox.errors import MetalboxError, NotFound, TimedOut

if TYPE_CHECKING:
    from metalbox.lab.rack import Rack

WAIT_SECONDS = 300

EPILOG = """examples:
  sudo metalbox lab up --machines 4 --wait     four machines, BIOS and UEFI; wait until all are discovered
  sudo metalbox lab up --fill --wait           two machines whose disks are full of data, to try `metalbox accept`
  export METALBOX_SOCKET=var/lab/metalbox.sock
  metalbox list
  sudo metalbox lab down                       nothing is left
  sudo metalbox lab storm                      a thousand simulated machines at once, measured
"""


def add_parser(verbs: Any) -> None:
    """Add the verb."""
    parser = verbs.add_parser(
        "lab",
        help="a virtual rack on this computer: up, status, down, storm",
        description="Machines in QEMU with real firmware on a network of their own, beside a site's DHCP server.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    steps = parser.add_subparsers(title="verbs", metavar="up|status|down|storm", required=True)
    up = steps.add_parser(
        "up",
        help="build the rack and switch its machines on",
        description="Each machine has a management processor, IPMI or Redfish: `metalbox lab status` has its account.",
    )
    up.add_argument(
        "--machines", type=_count, default=2, metavar="N", help="how many, BIOS and UEFI in turn (default 2)"
    )
    up.add_argument(
        "--mode", choices=("proxy", "full"), default="proxy", help="beside the site's DHCP server, or as it"
    )
    then = up.add_mutually_exclusive_group()
    then.add_argument("--off", action="store_true", help="leave the machines off, to be switched on through their BMCs")
    then.add_argument(
        "--wait", type=_seconds, nargs="?", const=WAIT_SECONDS, metavar="SECONDS", help="wait until all are discovered"
    )
    up.add_argument(
        "--fill", action="store_true", help="disks of every kind and a USB stick, 128 MiB each, full of random bytes"
    )
    up.add_argument("--boot-files", type=Path, metavar="DIR", help="iPXE binaries (default: var/boot of the checkout)")
    up.add_argument("--agent", type=Path, metavar="DIR", help="the agent's image (default: var/agent of the checkout)")
    up.set_defaults(run=run_up)
    status = steps.add_parser("status", help="show the machines of the rack")
    status.add_argument("-o", "--output", choices=("table", "json", "yaml"), default="table")
    status.set_defaults(run=run_status)
    down = steps.add_parser("down", help="remove the rack and everything of it, also after a crash")
    down.set_defaults(run=run_down)
    labstorm.add_parser(steps)
    for step in (up, status, down):
        step.add_argument("--dir", type=Path, help="the rack's folder (default: var/lab of the checkout)")


def _count(text: str) -> int:
    value = int(text)
    if not 0 <= value <= 64:
        raise argparse.ArgumentTypeError(f"expected 0 to 64 machines, got {text}")
    return value


def _seconds(text: str) -> float:
    value = float(text)
    if value <= 0:
        raise argparse.ArgumentTypeError(f"expected a number of seconds above 0, got {text}")
    return value


def _directory(args: argparse.Namespace) -> Path:
    from metalbox.lab.services import default_folder

    folder: Path = args.dir or default_folder("lab")
    return folder.resolve()


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def run_up(args: argparse.Namespace) -> int:
    """Build, switch on, say how to talk to it; with --wait, say how long each machine took."""
    from metalbox.lab.machines import mixed
    from metalbox.lab.rack import Rack
    from metalbox.lab.record import namespace

    rack = Rack(
        _directory(args),
        mode=args.mode,
        machines=mixed(args.machines, with_bmcs=True, filled=args.fill),
        boot_files=args.boot_files,
        agent=args.agent,
    )
    rack.up(_say)
    for spec in rack.machines:
        if not args.off:
            rack.power_on(spec.name)
        disk = ", ".join(f"{d.bus} {output.size(d.size)}" for d in spec.disks)
        _say(f"{'off' if args.off else 'on':11} {spec.name}  {spec.firmware}, {spec.nics[0].model} {spec.mac}, {disk}")
    _say(f"""
Talk to it:  export METALBOX_SOCKET={rack.directory}/metalbox.sock
             metalbox list; metalbox events -f; metalbox lab status
Look on:     tail -f {rack.directory}/consoles/*.log
             ip netns exec {namespace(rack.directory)} tcpdump -ni br0
Remove it:   metalbox lab down{f" --dir {args.dir}" if args.dir else ""}
""")
    if args.wait:
        _wait(rack, args.wait)
    return 0


def _wait(rack: Rack, seconds: float) -> None:
    """Print each machine as it is discovered. Raises TimedOut naming those that were not."""
    deadline = time.monotonic() + seconds
    waiting = list(rack.machines)
    while waiting:
        for spec in tuple(waiting):
            if row := rack.find_machine(spec.name):
                took = time.time() - rack.powered_on_at[spec.name]
                _say(f"discovered  {spec.name} as {row['name']}  {took:.1f} s after power-on")
                waiting.remove(spec)
        if waiting and time.monotonic() > deadline:
            names = ", ".join(f"{spec.name} ({spec.mac})" for spec in waiting)
            raise TimedOut(f"not discovered within {seconds:.0f} s: {names}; ask `metalbox why {waiting[0].mac}`")
        time.sleep(0.2)


def run_status(args: argparse.Namespace) -> int:
    """One line for each machine."""
    from metalbox.lab.rack import Rack
    from metalbox.lab.requirements import check

    check()
    rack = Rack.open(_directory(args))
    rows: list[dict[str, Any]] = []
    for spec in rack.machines:
        try:
            found = rack.find_machine(spec.name)
            name = found["name"] if found else ""
        except MetalboxError:
            name = "(service does not answer)"
        rows.append(
            {
                "machine": spec.name,
                "firmware": str(spec.firmware),
                "mac": str(spec.mac),
                "serial": spec.serial,
                "power": rack.power(spec.name),
                "discovered": name,
                "bmc": None,
            }
        )
    bmcs = rack.bmcs.load()
    for row in rows:
        if bmc := bmcs.get(row["machine"]):
            account = {"user": bmc.user, "password": bmc.password}
            row["bmc"] = {"kind": str(bmc.kind), "address": bmc.address, "port": bmc.port, **account}
    if not output.emit({"directory": str(rack.directory), "mode": str(rack.mode), "machines": rows}, args.output):
        head = ["machine", "firmware", "mac", "serial", "power", "discovered"]
        if bmcs:
            head += ["bmc", "account"]
        print(output.table([word.upper() for word in head], [[_cell(row, word) for word in head] for row in rows]))
    return 0


def _cell(row: dict[str, Any], word: str) -> str:
    bmc = row["bmc"]
    if word == "bmc":
        return f"{bmc['kind']} {bmc['address']}" if bmc else ""
    if word == "account":
        return f"{bmc['user']} {bmc['password']}" if bmc else ""
    return str(row[word])


def run_down(args: argparse.Namespace) -> int:
    """Remove the rack."""
    from metalbox.lab import record
    from metalbox.lab.requirements import check

    check()
    directory = _directory(args)
    if not record.exists(directory):
        raise NotFound(f"there is no lab in {directory}")
    if directory.is_dir():
        with record.locked(directory):
            record.remove(directory)
    else:
        record.remove(directory)
    _say(f"removed the lab in {directory}")
    return 0
