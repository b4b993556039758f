"""`metalbox doctor`: is everything in place for a machine to boot? Asked the way a machine would ask."""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from metalbox.cli import client, output
from metalbox.errors import MetalboxError

if TYPE_CHECKING:
    from metalbox.config import Config
    from metalbox.doctor.findings import Finding


def add_parser(verbs: Any) -> None:
    """Add the verb."""
    parser = verbs.add_parser(
        "doctor",
        help="check everything that a machine needs to boot, as a machine would",
        description="Run it as root beside the service: it asks as BIOS, UEFI, HTTP and iPXE do, and fetches the files",
    )
    parser.add_argument("--config", type=Path, metavar="FILE", help="the configuration the service was started with")
    parser.add_argument("--interface", action="append", help="ask on this interface only (may be repeated)")
    parser.add_argument("--no-wire", action="store_true", help="send nothing: only look at this computer")
    client.add_arguments(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print each finding as it comes; the exit code is 1 when something is broken."""
    from metalbox import config
    from metalbox.doctor.findings import Level

    path = args.config or config.default_path()
    settings = config.load(path) if args.config or path.exists() else config.Config()
    socket = args.socket or str(settings.socket)
    findings = []
    for finding in examine(args, settings, socket):
        findings.append(finding)
        if args.output == "table":
            print(f"{finding.level:<5} {finding.check:<10} {output.printable(finding.text)}", flush=True)
            if finding.advice:
                print(f"{'':<16} -> {finding.advice}", flush=True)
    if args.output != "table":
        output.emit({"findings": [dataclasses.asdict(finding) for finding in findings]}, args.output)
    broken = sum(finding.level is Level.FAIL for finding in findings)
    if args.output == "table":
        print(f"\n{len(findings)} checks, {broken} broken" if broken else f"\n{len(findings)} checks, nothing broken")
    return 1 if broken else 0


def examine(args: argparse.Namespace, settings: Config, socket: str) -> Iterator[Finding]:
    """All checks in the order in which a machine would need them."""
    from metalbox.doctor import local
    from metalbox.doctor.findings import Finding, Level

    answer: dict[str, Any] | MetalboxError
    try:
        answer = client.call(socket, "GET", "/api/v1/status")
    except MetalboxError as error:
        answer = error
    yield from local.check_service(answer)
    yield from local.check_clock()
    yield from local.check_space(settings)
    yield from local.check_neighbours(settings)
    yield from local.check_files(settings)
    yield from local.check_interfaces(settings)
    yield from local.check_ports(settings)
    if args.no_wire:
        return
    if importlib.util.find_spec("scapy") is None or importlib.util.find_spec("tftpy") is None:
        advice = "pip install 'metalbox[doctor]'"
        yield Finding(Level.SKIP, "wire", "scapy and tftpy are not installed: the wire was not asked", advice)
        return
    yield from _ask_wire(args, settings)


def _ask_wire(args: argparse.Namespace, settings: Config) -> Iterator[Finding]:
    from metalbox.dhcp import sockets
    from metalbox.doctor import wire

    attached = {row.name: row for row in sockets.interfaces()}
    named = [*settings.dhcp.interfaces, *(subnet.interface for subnet in settings.subnets if subnet.interface)]
    for name in args.interface or list(dict.fromkeys(named)) or list(attached):
        if name in attached:
            ours = {str(attached[name].address)}
            ours |= {str(s.server_address) for s in settings.subnets if s.server_address}
            yield from wire.check_wire(name, ours, settings.http.port)
