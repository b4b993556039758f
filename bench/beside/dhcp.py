"""DHCP side by side: exchanges a second that are safe on disk, their cost and their latency."""

from __future__ import annotations

import resource
import subprocess
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from bench.beside import packages, peers, perfdhcp, population, rest
from bench.beside.figures import Results
from bench.beside.rounds import Run
from bench.beside.servers import METALBOX, Recipe, Running, metalbox, metered
from bench.beside.wire import CLIENT, SERVER

PROGRAMS = ("kea-dhcp4", "perfdhcp", "dnsmasq", "dhcpd", "gcc")
COLUMNS = (
    "per_second",
    "cpu_us",
    "p50_ms",
    "p99_ms",
    "retries",
    "lost",
    "duplicates",
    "rss_mb",
    "dropped_lines",
    "load_cpu",
)
DIRECT = "64 in flight, PXE on wire"
CLOSED, WITNESS, AT_80, FULL_TABLE = "64 in flight", "perfdhcp", "80% of kea-st", "100k leases"
SAME_RATE = "same rate, ours"
SAME_RATE_WITNESS = "same rate, perfdhcp"
# Longer than metalbox may put its timeline off in a flood (2 s): what it does meanwhile must be made good in the load.
SECONDS = 5.0
SHORT_SECONDS = 3.0
IN_FLIGHT = 64
LEASES = 100_000
EMPTY, FULL = "metalbox, empty", "metalbox, 100k leases"
# perfdhcp is asked for these parts of what our generator found, in turn; what it loses less than this of is served.
WITNESS_PARTS = (0.9, 0.6, 0.4, 0.25, 0.1)
# It cannot keep up with itself above that.
WITNESS_MOST = 16_000
WITNESS_SECONDS = 2
LOST_PERCENT = 1.0
# Both generators ask for so much at once, so that what the server spends on an exchange can be compared.
COMMON_RATE = 2000
# Clients that only ask whether the server is there, far from those of the load.
PROBES = 3_000_000_000


def recipes(programs: Mapping[str, str], sockets: str = "udp") -> dict[str, Recipe]:
    """metalbox and every peer at hand; `sockets` is Kea's way to listen."""
    found = {METALBOX: metalbox()}
    if "kea-dhcp4" in programs:
        found["kea-st"] = peers.kea(programs["kea-dhcp4"], threads=0, sockets=sockets)
        found["kea-mt"] = peers.kea(programs["kea-dhcp4"], threads=2, sockets=sockets)
    if "dnsmasq" in programs:
        found["dnsmasq"] = peers.dnsmasq_dhcp(programs["dnsmasq"])
    if "dhcpd" in programs:
        found["isc-dhcpd"] = peers.isc_dhcpd(programs["dhcpd"])
        found[peers.ISC_LARGE] = peers.isc_dhcpd(programs["dhcpd"], peers.LARGE_POOL, peers.ISC_LARGE)
    return found


def is_answering(run: Run) -> bool:
    """One exchange."""
    figures = run.wire.load("dhcpload", relay=CLIENT, seconds=0.3, most=1, first=PROBES, in_flight=1)
    return bool(figures["exchanges"])


def cost(server: Running, load: Callable[[], dict[str, Any]]) -> dict[str, float]:
    """Run a load; the figures of the table. What a server writes after its answers counts as their cost."""
    measured = metered(server, load, settle=True)
    exchanges = max(measured.figures["exchanges"], 1)
    found = {
        **measured.figures,
        "cpu_us": 1e6 * measured.cpu / exchanges,
        "rss_mb": measured.rss,
        "load_cpu": measured.figures["cpu_seconds"] / measured.figures["seconds"],
    }
    if server.name.startswith(METALBOX):
        found["dropped_lines"] = rest.dropped_lines(rest.counters(server.folder))
    return found


def most_of(name: str) -> int:
    """How many clients there are addresses for."""
    return peers.SMALL_POOL_SIZE - 10 if name == "isc-dhcpd" else 250_000


def measure(run: Run) -> Results:
    """All cases. Each server is started afresh for each round, so that none has leases from before."""
    programs = packages.ensure(PROGRAMS)
    results = Results("dhcp")
    servers = recipes(programs)
    for number in run.rounds():
        for name, recipe in run.turns(servers, number):
            with run.start(recipe) as server:
                server.until(lambda: is_answering(run))
                with run.profiled(server, f"dhcp-{name}"):
                    figures = cost(server, partial(closed, run, name, SECONDS))
                results.add(CLOSED, name, run.told(CLOSED, name, figures))
    raw = recipes(programs, "raw")
    direct(run, results, {name: recipe for name, recipe in raw.items() if name != peers.ISC_LARGE})
    growth(run, results)
    if results.has(CLOSED, "kea-st"):
        at_80(run, results, {name: servers[name] for name in (METALBOX, "kea-st")})
    if "perfdhcp" in programs:
        witness(run, results, servers)
    judge(results)
    return results


def closed(run: Run, name: str, seconds: float) -> dict[str, float]:
    """So many exchanges in flight for some seconds; all clients are new."""
    return run.wire.load("dhcpload", relay=CLIENT, seconds=seconds, in_flight=IN_FLIGHT, most=most_of(name))


def direct(run: Run, results: Results, servers: Mapping[str, Recipe]) -> None:
    """The same without a relay: PXE clients on the server's own wire."""
    for number in run.rounds():
        for name, recipe in run.turns(servers, number):
            with run.start(recipe) as server:
                server.until(lambda: is_answering(run))
                load = {
                    "direct": "eth0",
                    "pxe": 1,
                    "in_flight": IN_FLIGHT,
                    "most": most_of(name),
                    "seconds": SHORT_SECONDS,
                }
                figures = cost(server, partial(run.wire.load, "dhcpload", relay=CLIENT, **load))
                results.add(DIRECT, name, run.told(DIRECT, name, figures))


def growth(run: Run, results: Results) -> None:
    """The same of metalbox with and without 100,000 leases in its store."""

    def with_leases(folder: Path) -> None:
        population.fill(folder / "data", leases=LEASES)

    servers = {EMPTY: metalbox(name=EMPTY), FULL: metalbox(name=FULL, prepare=with_leases)}
    for number in run.rounds():
        for name, recipe in run.turns(servers, number):
            with run.start(recipe) as server:
                took = server.until(lambda: is_answering(run))
                figures = cost(server, lambda: closed(run, METALBOX, SHORT_SECONDS))
                results.add(FULL_TABLE, name, run.told(FULL_TABLE, name, {**figures, "start_seconds": took}))


def at_80(run: Run, results: Results, servers: Mapping[str, Recipe]) -> None:
    """Latency in open loop at 80% of what Kea does."""
    rate = int(0.8 * results.median(CLOSED, "kea-st", "per_second"))
    for number in run.rounds():
        for name, recipe in run.turns(servers, number):
            with run.start(recipe) as server:
                server.until(lambda: is_answering(run))
                load = {"seconds": SECONDS, "rate": rate, "most": 250_000}
                figures = cost(server, partial(run.wire.load, "dhcpload", relay=CLIENT, **load))
                results.add(AT_80, name, run.told(AT_80, name, figures))


def witness(run: Run, results: Results, servers: Mapping[str, Recipe]) -> None:
    """perfdhcp lowers its rate until at most one in a hundred exchanges is lost: told is the first good one.

    Before that both generators ask for the same rate in open loop. What the server spends on an exchange must then be
    the same, or one of the generators does something else than an exchange.
    """
    for name, recipe in servers.items():
        # isc-dhcpd's small pool would be empty after two runs; with the large one it takes seconds to come to speed.
        if not results.has(CLOSED, name) or name.startswith("isc-dhcpd"):
            continue
        reach = results.median(CLOSED, name, "per_second")
        rate = max(1, min(COMMON_RATE, int(reach / 2)))
        with run.start(recipe) as server:
            server.until(lambda: is_answering(run))
            load = {"seconds": WITNESS_SECONDS, "rate": rate}
            ours = cost(server, partial(run.wire.load, "dhcpload", relay=CLIENT, **load))
            results.add(SAME_RATE, name, run.told(SAME_RATE, name, ours))
        best = {"per_second": 0.0}
        # Afresh, for dnsmasq and isc-dhcpd slow down with each lease that they have given.
        with run.start(recipe) as server:
            server.until(lambda: is_answering(run))
            theirs = foreign_load(run, server, rate, 0)
            results.add(SAME_RATE_WITNESS, name, run.told(SAME_RATE_WITNESS, name, theirs))
            for turn, part in enumerate(WITNESS_PARTS, 1):
                found = foreign_load(run, server, max(1, min(WITNESS_MOST, int(part * reach))), turn)
                if found["lost_percent"] <= LOST_PERCENT:
                    best = found
                    break
        results.add(WITNESS, name, run.told(WITNESS, name, best))


def foreign_load(run: Run, server: Running, rate: int, turn: int) -> dict[str, float]:
    """One run of perfdhcp, as a relay like ours."""
    # Its clients count up from a base; another one for each run, so that all are new.
    base = f"mac=00:0c:{turn + 1:02x}:00:00:00"
    command = perfdhcp.command(SERVER, CLIENT, rate, WITNESS_SECONDS, 1_000_000)
    argv = [*run.wire.net.exec("clients"), *command[:-1], "-b", base, command[-1]]
    before, own = server.cost().cpu, children_cpu()
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    load_cpu = (children_cpu() - own) / WITNESS_SECONDS
    spent = server.settled().cpu - before
    found = perfdhcp.parse(done.stdout)
    exchanges = max(found.get("request_received", 0.0), 1.0)
    cpu_us = 1e6 * spent / exchanges
    return {
        "per_second": found.get("request_received", 0.0) / WITNESS_SECONDS,
        "cpu_us": cpu_us, "lost_percent": perfdhcp.lost_percent(found), "asked": float(rate), "load_cpu": load_cpu,
        "p50_ms": found.get("discover_avg_ms", 0.0) + found.get("request_avg_ms", 0.0),
    }  # fmt: skip


def children_cpu() -> float:
    """Seconds that the programs we have run to their end have used."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def judge(results: Results) -> None:
    """The ratios, and what is to be said of the generators."""
    for name, peer in (("kea_st", "kea-st"), ("kea_mt", "kea-mt"), ("dnsmasq", "dnsmasq"), ("isc", "isc-dhcpd")):
        results.ratio(f"dhcp_vs_{name}", CLOSED, "per_second", METALBOX, peer)
        results.ratio(f"dhcp_direct_vs_{name}", DIRECT, "per_second", METALBOX, peer)
        results.ratio(f"dhcp_perfdhcp_vs_{name}", WITNESS, "per_second", METALBOX, peer)
    results.ratio("dhcp_vs_isc_131k", CLOSED, "per_second", METALBOX, peers.ISC_LARGE)
    results.ratio("dhcp_p99_vs_kea_at_80", AT_80, "p99_ms", METALBOX, "kea-st")
    results.ratio("dhcp_100k_vs_empty", FULL_TABLE, "per_second", FULL, EMPTY)
    if results.has(FULL_TABLE, FULL):
        results.ratios["dhcp_restart_100k_seconds"] = results.median(FULL_TABLE, FULL, "start_seconds")
    results.ratios["dhcp_duplicates"] = sum(
        results.summary(case, name, "duplicates").high
        for case in (CLOSED, DIRECT, AT_80, FULL_TABLE)
        for name in (METALBOX, EMPTY, FULL)
        if results.has(case, name)
    )
    for name in results.cases.get(WITNESS, {}):
        per_second = [results.median(case, name, "per_second") for case in (CLOSED, WITNESS)]
        cost = [results.median(case, name, "cpu_us") for case in (SAME_RATE, SAME_RATE_WITNESS)]
        results.notes.append(
            f"{name}: an exchange asked for by our generator costs it {cost[0]:.0f} us, by perfdhcp {cost[1]:.0f} us "
            f"at the same rate; at most {per_second[0]:.0f}/s by ours in closed loop, {per_second[1]:.0f}/s by "
            f"perfdhcp in open loop with less than {LOST_PERCENT:g}% lost"
        )
