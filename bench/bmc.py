"""How long a lap over many BMCs takes, what it costs, and whether the sick ones delay the others.

    python bench/bmc.py [--machines 1000] [--sick 5] [--laps 3] [--faulty 30] [--only WORD] [--json FILE]

Simulated Redfish services, one address of the loopback network each, are served by a child process over TLS; the driver
is the real one (sushy in threads), and so is everything above it. One in twenty is sick: it hangs in the TLS handshake,
hangs after the request, refuses connections, refuses the password or answers garbage. While the laps go round, healthy
machines are asked like a person asks, and the wait is taken; who asks a BMC that the lap has just asked waits for the
pause of 100 ms between two commands, so the worst of all waits is that.

Then, without laps, each of nine faults in turn: as many BMCs as `--faulty` says have it, all of them are ordered to
switch on in the same moment and again and again, and healthy machines are switched on and off beside them, the reading
back included. What that takes beside the sick is compared with what it takes beside as many orders to healthy BMCs, for
the work of this computer is no fault of a BMC. No root, nothing but loopback.

IPMI is not simulated here: pyghmi's own server waits for all sockets of a process in one thread and one select(2), that
is for 1,024 at most, and its side of a session costs more than ours: its process would be what is measured.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import resource
import ssl
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from metalbox.power import Credentials, Device, Endpoint, Override, PowerState
from metalbox.power.orders import Observation, PowerOrder, Verb
from metalbox.power.patrol import Lap, Machines, Patrol
from metalbox.power.polite import Front, Key, Manners

PORT = 8443
GOAL_SECONDS = 30.0
GOAL_DELAY = 0.1
SICKNESS = ("hangs in the handshake", "hangs after the request", "nothing listens", "wrong password", "garbage")
# What the fault bench does to BMCs, one after the other.
NO_SESSION, DROPPED, NO_TLS = "full session table", "drops the session", "bad TLS"
LIES, FORGETS = "lies about power", "loses the override"
FAULTS = (*SICKNESS, LIES, FORGETS, DROPPED, NO_SESSION, NO_TLS)
# Simulated machines switch at once; who lies or hangs does it for ever, so it is not waited for long.
MANNERS = Manners(read=2.0, write=2.0, tries=1, on=2.0, off=2.0, override=1.0)
HEALTHY = 24
FAULT_SECONDS = 6.0
SYSTEM = "/redfish/v1/Systems/1"
TREE: dict[str, Any] = {
    "/redfish/v1": {
        "@odata.id": "/redfish/v1/",
        "Id": "RootService",
        "Name": "Root",
        "RedfishVersion": "1.6.0",
        "Systems": {"@odata.id": "/redfish/v1/Systems"},
        "Links": {"Sessions": {"@odata.id": "/redfish/v1/SessionService/Sessions"}},
    },
    "/redfish/v1/Systems": {"Members": [{"@odata.id": SYSTEM}]},
    # The size of an answer of iDRAC 9 without the parts that nobody reads here.
    SYSTEM: {
        "@odata.id": SYSTEM,
        "Id": "1",
        "PowerState": "On",
        "Boot": {
            "BootSourceOverrideEnabled": "Disabled",
            "BootSourceOverrideTarget": "None",
            "BootSourceOverrideTarget@Redfish.AllowableValues": ["None", "Pxe", "Hdd"],
        },
        "Actions": {
            "#ComputerSystem.Reset": {
                "target": f"{SYSTEM}/Actions/ComputerSystem.Reset",
                "ResetType@Redfish.AllowableValues": ["On", "ForceOff", "ForceRestart"],
            }
        },
        "Oem": {"Filler": "x" * 6000},
    },
}


def address_of(number: int) -> str:
    """127.20.x.y: Linux answers for all of 127/8."""
    return f"127.20.{number // 250}.{number % 250 + 1}"


def faulty_address(fault: int, number: int) -> str:
    """Of the fault bench: `fault` counts FAULTS from 0, and one more for those that are well."""
    return f"127.{40 + fault}.{number // 250}.{number % 250 + 1}"


def sickness_of(number: int, percent: float) -> str:
    """Spread evenly among the healthy; "" is healthy."""
    every = round(100 / percent) if percent else 0
    return SICKNESS[number // every % len(SICKNESS)] if every and number % every == every - 1 else ""


# --- the simulated BMCs, in a process of their own --------------------------------------------------------------------


@dataclass
class Machine:
    """One simulated machine and what its BMC suffers from."""

    sickness: str
    power: str = "On"
    boot: dict[str, Any] = field(default_factory=lambda: dict(TREE[SYSTEM]["Boot"]))

    def answer(self, method: str, path: str, body: Any) -> tuple[str, dict[str, str], bytes]:
        """Status line, extra headers and body."""
        path = path.rstrip("/")
        if path == "/redfish/v1":
            return "200 OK", {}, json.dumps(TREE[path]).encode()
        if self.sickness == "wrong password":
            return "401 Unauthorized", {}, b"{}"
        if method == "POST" and path.endswith("/Sessions"):
            if self.sickness == NO_SESSION:
                message = {
                    "MessageId": "IDRAC.2.1.RAC0218",
                    "Message": "The maximum number of user sessions is reached",
                }
                error = {"error": {"code": "Base", "message": "no", "@Message.ExtendedInfo": [message]}}
                return "503 Service Unavailable", {}, json.dumps(error).encode()
            return "201 Created", {"Location": "/redfish/v1/SessionService/Sessions/1", "X-Auth-Token": "t"}, b"{}"
        if self.sickness == DROPPED:
            return "401 Unauthorized", {}, b"{}"
        if method == "POST" and self.sickness != LIES:
            self.power = "Off" if body["ResetType"] == "ForceOff" else "On"
        if method == "PATCH" and self.sickness != FORGETS:
            self.boot |= body["Boot"]
        if method != "GET":
            return "204 No Content", {}, b""
        found = TREE.get(path)
        if found is not None and path == SYSTEM:
            found = {**found, "PowerState": self.power, "Boot": self.boot}
        return ("404 Not Found", {}, b"{}") if found is None else ("200 OK", {}, json.dumps(found).encode())


async def converse(machine: Machine, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """One connection, one request, as most BMCs have it."""
    with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, ssl.SSLError):
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        method, path, _ = head.split("\r\n", 1)[0].split(" ", 2)
        lengths = [line.split(":")[1] for line in head.split("\r\n") if line.lower().startswith("content-length:")]
        sent = await reader.readexactly(int(lengths[0])) if lengths else b""
        if machine.sickness == "hangs after the request":
            await asyncio.sleep(3600)
        if machine.sickness == "garbage":
            writer.write(b"\x00\x01 no HTTP at all\r\n\r\n")
        else:
            status, headers, body = machine.answer(method, path, json.loads(sent) if sent else None)
            lines = [f"HTTP/1.1 {status}", "Content-Type: application/json", f"Content-Length: {len(body)}"]
            lines += [f"{name}: {value}" for name, value in headers.items()]
            writer.write("\r\n".join([*lines, "Connection: close", "", ""]).encode() + body)
        await writer.drain()
    writer.close()


async def listen(address: str, machine: Machine, tls: ssl.SSLContext | None) -> None:
    """One simulated BMC; one that refuses does not listen at all."""
    if machine.sickness == "nothing listens":
        return

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if machine.sickness == "hangs in the handshake":
            await asyncio.sleep(3600)
        if machine.sickness == NO_TLS:
            writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            writer.close()
            return
        await converse(machine, reader, writer)

    handshake = None if machine.sickness in ("hangs in the handshake", NO_TLS) else tls
    await asyncio.start_server(accept, address, PORT, ssl=handshake, backlog=64)


async def serve(machines: int, percent: float, faulty: int, certificate: str) -> None:
    """Listen on every address; a line on stdout says when."""
    tls = None
    if certificate:
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(certificate)
    for number in range(machines):
        await listen(address_of(number), Machine(sickness_of(number, percent)), tls)
    for fault, sickness in enumerate((*FAULTS, "", "")):
        count = HEALTHY if fault > len(FAULTS) else faulty
        for number in range(count):
            power = "On" if fault > len(FAULTS) else "Off"
            await listen(faulty_address(fault, number), Machine(sickness, power), tls)
    print("ready", flush=True)
    await asyncio.sleep(3600)


def make_certificate(folder: Path) -> str:
    """Self-signed, with RSA 2048 as BMCs have it."""
    key, certificate, both = folder / "bmc.key", folder / "bmc.crt", folder / "bmc.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=bmc",
         "-keyout", str(key), "-out", str(certificate)],
        check=True, capture_output=True, timeout=60,
    )  # fmt: skip
    both.write_text(certificate.read_text() + key.read_text())
    return str(both)


# --- the measurement --------------------------------------------------------------------------------------------------


def rss() -> float:
    """Resident memory of this process in MiB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


def cpu() -> float:
    """Seconds of CPU that this process used."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


async def ask_like_a_person(front: Front, machines: Machines, healthy: Sequence[Key], waits: list[float]) -> None:
    """One healthy machine after the other, four a second, until cancelled."""
    turn = 0
    while True:
        machine = healthy[turn * 7919 % len(healthy)]
        turn += 1
        started = time.monotonic()
        await front.read_state(machine, machines[machine], tries=1)
        waits.append(time.monotonic() - started)
        await asyncio.sleep(0.25)


async def measure(machines: Machines, healthy: Sequence[Key], laps: int) -> dict[str, Any]:
    """Go round `laps` times: what each cost, and how long a person waited, alone and while the laps went on."""
    front = Front()
    before = rss()
    changes: list[tuple[Key, str]] = []

    async def known() -> Machines:
        return machines

    def seen(machine: Key, _: Observation, after: Observation) -> None:
        changes.append((machine, after.code))

    patrol = Patrol(front, known, seen)
    rows: list[dict[str, float]] = []
    alone: list[float] = []
    beside: list[float] = []
    for number in range(laps + 1):
        # After the first lap, which logs in everywhere, someone asks all the time.
        if number == 1:
            await during(ask_like_a_person(front, machines, healthy, alone), asyncio.sleep(5))
        used = cpu()
        task = patrol.lap(machines)
        lap: Lap = await (during(ask_like_a_person(front, machines, healthy, beside), task) if number else task)
        row = {
            "seconds": lap.seconds, "answered": lap.answered, "failed": lap.failed, "skipped": lap.skipped,
            "cpu_seconds": cpu() - used, "rss_mib": rss() - before,
        }  # fmt: skip
        rows.append(row)
        print(f"lap {number}  " + "  ".join(f"{name} {value:8.2f}" for name, value in row.items()), flush=True)
    codes = {machine: code for machine, code in changes if code}
    found = sorted(set(codes.values()))
    wrong = [machine for machine in healthy if front.observation(machine).code]
    await front.close()
    return {"laps": rows, "alone": alone, "beside": beside, "codes": found, "sick": len(codes), "wrong": wrong}


async def switch_all(front: Front, machines: Machines, told: Counter[str]) -> None:
    """Order all of them on at once, with an override, again and again, until cancelled."""
    boot = Override(Device.PXE)

    async def one(machine: Key) -> None:
        while True:
            outcome = await front.power(machine, machines[machine], PowerOrder(Verb.CYCLE, boot))
            told[outcome.code or (outcome.warnings[0].code if outcome.warnings else "well")] += 1
            await asyncio.sleep(0.5)

    await asyncio.gather(*(one(machine) for machine in machines))


async def commands(front: Front, machines: Machines, seconds: float) -> dict[Verb, list[float]]:
    """How long each order to a healthy machine took, one after the other. On takes one reading more than off."""
    waits: dict[Verb, list[float]] = {Verb.ON: [], Verb.OFF: []}
    until = time.monotonic() + seconds
    turn = 0
    keys = list(machines)
    while time.monotonic() < until:
        machine = keys[turn // 2 % len(keys)]
        verb = Verb.OFF if front.observation(machine).state is PowerState.ON else Verb.ON
        turn += 1
        started = time.monotonic()
        outcome = await front.power(machine, machines[machine], PowerOrder(verb))
        if not outcome.done:
            raise SystemExit(f"a healthy machine does not obey: {outcome}")
        waits[verb].append(time.monotonic() - started)
    return waits


async def measure_faults(make: Any, faulty: int, only: str) -> list[dict[str, Any]]:
    """Each fault in turn, after what the same orders cost beside BMCs that are well."""
    rows: list[dict[str, Any]] = []
    healthy: Machines = {f"h{number}": [make(faulty_address(len(FAULTS) + 1, number))] for number in range(HEALTHY)}
    for fault in (len(FAULTS), *(number for number, name in enumerate(FAULTS) if only in name)):
        front, told = Front(manners=MANNERS), Counter[str]()
        # The healthy ones are known to be well, as after a first lap.
        await asyncio.gather(*(front.observe(key, found) for key, found in healthy.items()))
        sick: Machines = {f"s{number}": [make(faulty_address(fault, number))] for number in range(faulty)}
        waits = await during(switch_all(front, sick, told), commands(front, healthy, FAULT_SECONDS))
        codes = {front.observation(key).code for key in sick} | set(told)
        name = FAULTS[fault] if fault < len(FAULTS) else "well"
        row: dict[str, Any] = {"fault": name, "told": sorted(codes - {"", "well"}), "added": 0.0}
        for verb, taken in waits.items():
            row[verb] = statistics.median(taken)
            row["added"] = max(row["added"], row[verb] - (rows[0] if rows else row)[verb])
            row[f"{verb} worst"] = max(taken)
        rows.append(row)
        print(
            f"fault {name:23} told as {', '.join(row['told']) or '-':27} a healthy one: on {row['on'] * 1000:4.0f} ms, "
            f"off {row['off'] * 1000:4.0f} ms (median), worst {max(row['on worst'], row['off worst']) * 1000:5.0f} ms, "
            f"added {row['added'] * 1000:3.0f} ms",
            flush=True,
        )
        await front.close()
    return rows


async def during(side: Any, main: Any) -> Any:
    """Run `side` until `main` is done; return what `main` returns."""
    task = asyncio.ensure_future(side)
    try:
        return await main
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def report(found: dict[str, Any]) -> None:
    """The last lines are for programs."""
    laps, alone, beside = found["laps"], found["alone"], found["beside"]
    slowest = max(row["seconds"] for row in laps)
    # The worst of a hundred waits is the scheduler's; a sick BMC in the way would cost seconds, and more than one.
    quiet, busy = statistics.median(alone), statistics.quantiles(beside, n=20)[-1]
    print(f"\nsick BMCs are told as: {', '.join(found['codes'])} ({found['sick']} of them)")
    print(f"healthy ones told as sick: {len(found['wrong'])}")
    print(f"a person waits: alone {quiet * 1000:.0f} ms (median), beside the lap {busy * 1000:.0f} ms (95 %),", end=" ")
    print(f"{max(beside) * 1000:.0f} ms (worst of {len(beside)})")
    if found["faults"]:
        print(f"command_delay_seconds_worst_fault {max(row['added'] for row in found['faults']):.3f} goal {GOAL_DELAY}")
    print(f"lap_seconds_worst {slowest:.2f} goal {GOAL_SECONDS}")
    print(f"lap_cpu_seconds {statistics.median(row['cpu_seconds'] for row in laps[1:]):.2f}")
    print(f"rss_growth_mib {laps[-1]['rss_mib']:.1f}")
    print(f"delay_seconds_95 {max(0.0, busy - quiet):.3f} goal {GOAL_DELAY}")
    print(f"ratio lap_vs_period {slowest / GOAL_SECONDS:.3f} goal 1.0")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--machines", type=int, default=1000)
    parser.add_argument("--sick", type=float, default=5.0, help="percent")
    parser.add_argument("--laps", type=int, default=3, help="after the first, which logs in")
    parser.add_argument("--faulty", type=int, default=30, help="BMCs with each of the nine faults; 0: without these")
    parser.add_argument("--only", default="", metavar="WORD", help="only the faults with this word in their names")
    parser.add_argument("--plain", action="store_true", help="HTTP without TLS")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--serve", metavar="CERTIFICATE", help=argparse.SUPPRESS)
    args = parser.parse_args()
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(limit, 65536), limit))
    if args.serve is not None:
        asyncio.run(serve(args.machines, args.sick, args.faulty, args.serve))
        return
    settings = {"scheme": "http" if args.plain else "https"}
    account = Credentials("metalbox", "not a secret")

    def make(address: str) -> Endpoint:
        return Endpoint("redfish", address, PORT, account, settings)

    machines: Machines = {number: [make(address_of(number))] for number in range(args.machines)}
    healthy = [number for number in range(args.machines) if not sickness_of(number, args.sick)]
    with tempfile.TemporaryDirectory(prefix="metalbox-bench-") as folder:
        certificate = "" if args.plain else make_certificate(Path(folder))
        command = [sys.executable, __file__, "--serve", certificate]
        command += ["--machines", str(args.machines), "--sick", str(args.sick), "--faulty", str(args.faulty)]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as child:
            try:
                assert child.stdout is not None and child.stdout.readline() == b"ready\n"
                found = asyncio.run(measure(machines, healthy, args.laps)) if args.machines else {}
                found["faults"] = asyncio.run(measure_faults(make, args.faulty, args.only)) if args.faulty else []
            finally:
                child.kill()
    if args.machines:
        report(found)
    if args.json:
        args.json.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
