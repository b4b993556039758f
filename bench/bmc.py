"""How long a lap over many BMCs takes, what it costs, and whether the sick ones delay the others.

    python bench/bmc.py [--machines 1000] [--sick 5] [--laps 3] [--plain] [--json FILE]

Simulated Redfish services, one address of the loopback network each, are served by a child process over TLS; the driver
is the real one (sushy in threads), and so is everything above it. One in twenty is sick: it hangs in the TLS handshake,
hangs after the request, refuses connections, refuses the password or answers garbage. While the laps go round, healthy
machines are asked like a person asks, and the wait is taken; who asks a BMC that the lap has just asked waits for the
pause of 100 ms between two commands, so the worst of all waits is that. No root, nothing but loopback.
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
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from metalbox.power import Credentials, Endpoint
from metalbox.power.orders import Observation
from metalbox.power.patrol import Lap, Machines, Patrol
from metalbox.power.polite import Front, Key

PORT = 8443
GOAL_SECONDS = 30.0
GOAL_DELAY = 0.1
SICKNESS = ("hangs in the handshake", "hangs after the request", "nothing listens", "wrong password", "garbage")
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
    SYSTEM: {"@odata.id": SYSTEM, "Id": "1", "PowerState": "On", "Oem": {"Filler": "x" * 6000}},
}


def address_of(number: int) -> str:
    """127.20.x.y: Linux answers for all of 127/8."""
    return f"127.20.{number // 250}.{number % 250 + 1}"


def sickness_of(number: int, percent: float) -> str:
    """Spread evenly among the healthy; "" is healthy."""
    every = round(100 / percent) if percent else 0
    return SICKNESS[number // every % len(SICKNESS)] if every and number % every == every - 1 else ""


# --- the simulated BMCs, in a process of their own --------------------------------------------------------------------


def answer_of(method: str, path: str) -> tuple[str, dict[str, str], bytes]:
    """Status line, extra headers and body."""
    if method == "POST":
        where = {"Location": "/redfish/v1/SessionService/Sessions/1", "X-Auth-Token": "t"}
        return "201 Created", where, b"{}"
    body = TREE.get(path.rstrip("/"))
    return ("404 Not Found", {}, b"{}") if body is None else ("200 OK", {}, json.dumps(body).encode())


async def converse(sickness: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """One connection, one request, as most BMCs have it."""
    with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, ssl.SSLError):
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        method, path, _ = head.split("\r\n", 1)[0].split(" ", 2)
        lengths = [line.split(":")[1] for line in head.split("\r\n") if line.lower().startswith("content-length:")]
        if lengths:
            await reader.readexactly(int(lengths[0]))
        if sickness == "hangs after the request":
            await asyncio.sleep(3600)
        if sickness == "garbage":
            writer.write(b"\x00\x01 no HTTP at all\r\n\r\n")
        else:
            status, headers, body = answer_of(method, path)
            if sickness == "wrong password" and path.rstrip("/") != "/redfish/v1":
                status, headers, body = "401 Unauthorized", {}, b"{}"
            lines = [f"HTTP/1.1 {status}", "Content-Type: application/json", f"Content-Length: {len(body)}"]
            lines += [f"{name}: {value}" for name, value in headers.items()]
            writer.write("\r\n".join([*lines, "Connection: close", "", ""]).encode() + body)
        await writer.drain()
    writer.close()


async def serve(machines: int, percent: float, certificate: str) -> None:
    """Listen on every address; a line on stdout says when."""
    tls = None
    if certificate:
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(certificate)
    for number in range(machines):
        sickness = sickness_of(number, percent)
        if sickness == "nothing listens":
            continue

        async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, kind: str = sickness) -> None:
            if kind == "hangs in the handshake":
                await asyncio.sleep(3600)
            await converse(kind, reader, writer)

        handshake = tls if sickness != "hangs in the handshake" else None
        await asyncio.start_server(accept, address_of(number), PORT, ssl=handshake, backlog=16)
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
    parser.add_argument("--plain", action="store_true", help="HTTP without TLS")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--serve", metavar="CERTIFICATE", help=argparse.SUPPRESS)
    args = parser.parse_args()
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(limit, 65536), limit))
    if args.serve is not None:
        asyncio.run(serve(args.machines, args.sick, args.serve))
        return
    settings = {"scheme": "http" if args.plain else "https"}
    account = Credentials("metalbox", "not a secret")
    machines: dict[Key, list[Endpoint]] = {
        number: [Endpoint("redfish", address_of(number), PORT, account, settings)] for number in range(args.machines)
    }
    healthy = [number for number in range(args.machines) if not sickness_of(number, args.sick)]
    with tempfile.TemporaryDirectory(prefix="metalbox-bench-") as folder:
        certificate = "" if args.plain else make_certificate(Path(folder))
        command = [sys.executable, __file__, "--serve", certificate]
        command += ["--machines", str(args.machines), "--sick", str(args.sick)]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as child:
            try:
                assert child.stdout is not None and child.stdout.readline() == b"ready\n"
                found = asyncio.run(measure(machines, healthy, args.laps))
            finally:
                child.kill()
    report(found)
    if args.json:
        args.json.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
