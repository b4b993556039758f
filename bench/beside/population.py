"""A store that holds many machines and leases, as a year of reports would have left it."""

from __future__ import annotations

import copy
import dataclasses
import time
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

from bench.beside.servers import POOL
from bench.beside.wire import SUBNET
from metalbox.dhcp.leases import Lease, LeaseState
from metalbox.machine import Mac, Machine
from metalbox.report import parse_report
from metalbox.store import Store, sqlite_url
from tests.reports import full

BATCH = 5000
LEASE_SECONDS = 86_400.0
STATES = ("discovered", "available", "deployed", "rejected")
RACKS = 40


def mac_of(number: int, port: int = 0) -> str:
    """Of machine `number` from 0; far from the clients of the generators."""
    return f"52:54:{port:02x}:{number >> 16 & 255:02x}:{number >> 8 & 255:02x}:{number & 255:02x}"


def uuid_of(number: int) -> str:
    """A UUID that no placeholder looks like."""
    return f"4c4c4544-0042-3510-8054-{number:012x}"


def serial_of(number: int) -> str:
    """A serial number."""
    return f"SN{number:07d}"


def report_of(number: int) -> dict[str, Any]:
    """What this machine's agent sends: two CPUs, DIMMs, disks, two ports."""
    document = copy.deepcopy(full(boot_id=f"boot-{number}", booted_mac=mac_of(number)))
    hardware = document["hardware"]
    hardware["system"].update(serial=serial_of(number), uuid=uuid_of(number))
    hardware["bmc"] = None
    for port, nic in enumerate(hardware["nics"]):
        nic["mac"] = mac_of(number, port)
        nic.pop("lldp", None)
    return document


def make_machines(count: int, now: float) -> list[Machine]:
    """So many machines in all states and racks."""
    template = parse_report(report_of(0))
    found = []
    for number in range(count):
        system = dataclasses.replace(template.hardware.system, serial=serial_of(number), uuid=uuid_of(number))
        macs = (Mac(mac_of(number)), Mac(mac_of(number, 1)))
        found.append(
            Machine(
                0, f"m{number:06d}", STATES[number % len(STATES)], uuid_of(number), serial_of(number), macs,
                dataclasses.replace(template.hardware, system=system), address=str(IPv4Address(POOL[0]) + number),
                boot_id=f"boot-{number}", first_seen=now, last_seen=now, reported_at=now, state_since=now,
                labels={"rack": f"r{number % RACKS}"},
            )
        )  # fmt: skip
    return found


def make_leases(count: int, now: float) -> list[Lease]:
    """So many bound leases from the beginning of the pool."""
    first = int(IPv4Address(POOL[0]))
    return [
        Lease(SUBNET, str(IPv4Address(first + number)), mac_of(number), "", LeaseState.BOUND, now + LEASE_SECONDS)
        for number in range(count)
    ]


def fill(data: Path, *, leases: int = 0, machines: int = 0) -> None:
    """Make the store of a service that does not run yet."""
    data.mkdir(parents=True, exist_ok=True)
    store = Store.open(sqlite_url(data / "metalbox.db"))
    now = time.time()
    try:
        rows = make_leases(leases, now)
        for at in range(0, len(rows), BATCH):
            store.save_leases(rows[at : at + BATCH])
        many = make_machines(machines, now)
        for at in range(0, len(many), BATCH):
            with store.transaction():
                for machine in many[at : at + BATCH]:
                    store.machines.add(machine)
    finally:
        store.close()
