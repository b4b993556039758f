"""Starts the agent: `python3 -m metalbox.agent`. In the image without arguments, obeying the kernel's command line."""

from __future__ import annotations

import os
import signal
import sys
import threading
from pathlib import Path

from metalbox.agent import VERSION, sysfs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import Namespace
    from typing import IO

    from metalbox.agent.journal import Journal
    from metalbox.agent.lldp import Neighbours

CONSOLE = "/dev/console"


def main(arguments: list[str]) -> int:
    """Run; returns the exit code: 0 done, 1 failed, 2 called wrongly."""
    options = _read_arguments(arguments) if arguments else None
    if options and options.print:
        return _print()
    kernel = parse_command_line(options.cmdline if options and options.cmdline else _kernel_command_line())
    server = (options.server if options else "") or kernel["server"]
    if not server:
        print("metalbox.agent: no server: give --server URL, or metalbox.server=URL to the kernel", file=sys.stderr)
        return 2
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    is_image = not (options and options.server)
    with _console(is_image and options is None) as console:
        return _talk(server, kernel, console, options, is_image)


def parse_command_line(text: str) -> dict[str, str]:
    """The kernel arguments that are meant for the agent: {server, mac, vlan}, "" for those not given."""
    found = {"server": "", "mac": "", "vlan": ""}
    for word in text.split():
        name, _, value = word.partition("=")
        if name.startswith("metalbox.") and name[9:] in found:
            found[name[9:]] = value
    # iPXE writes ${net0/mac:hexhyp} with hyphens, and pxelinux with the hardware type in front: 01-52-54-00-aa-bb-cc.
    mac = found["mac"].lower().replace("-", ":")
    found["mac"] = mac[3:] if mac.startswith("01:") and len(mac) == 20 else mac
    if not (found["vlan"].isdigit() and 0 < int(found["vlan"]) < 4095):
        found["vlan"] = ""
    return found


def _read_arguments(arguments: list[str]) -> Namespace:
    import argparse  # a machine that boots has no arguments, and does not pay for reading them

    parser = argparse.ArgumentParser(prog="python3 -m metalbox.agent", description=__doc__)
    parser.add_argument("--print", action="store_true", help="print the report of this machine as JSON, and end")
    parser.add_argument("--server", metavar="URL", default="", help="talk to this server, over the network as it is")
    parser.add_argument("--once", action="store_true", help="report one time, and end")
    parser.add_argument("--cmdline", metavar="TEXT", default="", help="obey this instead of /proc/cmdline")
    parser.add_argument("--port", metavar="NAME", action="append", default=[], help="bring up only this network port")
    return parser.parse_args(arguments)


def _kernel_command_line() -> str:
    return sysfs.text(Path("/proc/cmdline"))


def _console(is_booted: bool) -> IO[str]:
    if is_booted:
        try:
            return open(CONSOLE, "w", encoding="utf-8", errors="replace")
        except OSError:
            pass
    return open(os.dup(sys.stderr.fileno()), "w", encoding="utf-8", errors="replace")


def boot_id() -> str:
    """The kernel's name for this boot; a new one where the kernel has none."""
    return sysfs.text(Path("/proc/sys/kernel/random/boot_id")) or os.urandom(16).hex()


def _print() -> int:
    import json

    from metalbox.agent.conversation import uptime
    from metalbox.agent.inventory import Inventory

    hardware, problems = Inventory().collect()
    agent = {
        "version": VERSION,
        "boot_id": boot_id(),
        "uptime_seconds": uptime(),
        "kernel": os.uname().release,
        "address": "",
        "interface": "",
        "booted_mac": "",
    }
    json.dump({"version": 1, "agent": agent, "hardware": hardware, "problems": problems}, sys.stdout, indent=2)
    print()
    return 0


def _talk(server: str, kernel: dict[str, str], console: IO[str], options: Namespace | None, is_image: bool) -> int:
    from metalbox.agent.journal import Journal
    from metalbox.agent.network import Network, OpenNetwork

    journal = Journal(console)
    journal.say(f"agent {VERSION}, server {server}")
    network: Network | OpenNetwork = OpenNetwork()
    ports = tuple(options.port) if options else ()
    if is_image:
        network = Network(journal, kernel["mac"], int(kernel["vlan"] or 0), ports)
        network.refresh()  # DHCP is on its way while the rest of the program is loaded
    from metalbox.agent import lldp

    if is_image:
        lldp.release_from_firmware(Path("/"))
    from metalbox.agent.client import Refused, Unreachable
    from metalbox.agent.conversation import Conversation
    from metalbox.agent.inventory import Inventory

    neighbours = lldp.Neighbours()
    boot = {"boot_id": boot_id(), "booted_mac": kernel["mac"]}
    try:
        conversation = Conversation(server, boot, Inventory(neighbours=neighbours), network, journal, neighbours)
    except ValueError as error:
        journal.say(str(error))
        return 2
    try:
        if options and options.once:
            conversation.once()
        else:
            _start_listening(neighbours, ports, journal)
            conversation.run()
    except (Unreachable, Refused) as error:
        journal.say(f"{server}: {error}")
        return 1
    finally:
        if isinstance(network, Network):
            network.stop()
    return 0


def _start_listening(neighbours: Neighbours, ports: tuple[str, ...], journal: Journal) -> None:
    from metalbox.agent import lldp, nics

    try:
        listener = lldp.open_listener()
    except OSError as error:
        journal.say(f"LLDP cannot be heard: {error.strerror}")
        return
    hearing = (listener, neighbours, lambda: ports or nics.port_names(Path("/")))
    threading.Thread(target=lldp.listen, args=hearing, name="lldp", daemon=True).start()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
