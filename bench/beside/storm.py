"""A thousand machines at once: metalbox, and dnsmasq with nginx, serve the same bytes to the same simulated fleet."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bench.beside import packages, peers
from bench.beside.figures import Results
from bench.beside.rounds import Run
from bench.beside.servers import METALBOX, ROOT, Recipe, Running, metalbox
from bench.beside.web import ARCH
from bench.beside.wire import CLIENT, HALVES, SERVER
from metalbox.lab import network
from metalbox.lab import storm as fleetstorm
from metalbox.lab.pxeclient import Phase

PROGRAMS = ("dnsmasq", "nginx", "gcc")
COLUMNS = (
    "seconds", "p50_seconds", "booted_seconds", "missing", "retries", "deferred", "mb_per_second", "cpu_seconds",
    "fleet_cpu_seconds", "rss_mb", *(f"{phase} p99" for phase in Phase),
)  # fmt: skip
PEER = "dnsmasq+nginx"
LIMIT_SECONDS = 300
# What metalbox's own script says, with the peer's addresses.
SCRIPT = f"""#!ipxe
kernel http://{SERVER}:{peers.HTTP_PORT}/agent/{ARCH}/vmlinuz initrd=initrd quiet
initrd http://{SERVER}:{peers.HTTP_PORT}/agent/{ARCH}/initrd
boot
"""


def make_files(folder: Path, image_bytes: int) -> Path:
    """One folder for all servers: what machines of metalbox fetch, and the peer's scripts."""
    root = folder / "storm"
    fleetstorm.make_files(root, ROOT / "var" / "boot", image_bytes)
    (root / "ipxe").mkdir()
    (root / "ipxe" / "first.ipxe").write_bytes((ROOT / "ipxe" / "first.ipxe.j2").read_bytes())
    (root / "ipxe" / "script").write_text(SCRIPT)
    for path in (folder, root):
        path.chmod(0o755)
    return root


def is_answering(run: Run) -> bool:
    """DHCP and HTTP are up."""
    lease = run.wire.load("dhcpload", relay=CLIENT, seconds=0.3, most=1, first=4_000_000_000, in_flight=1)
    script = run.wire.load("httpload", port=peers.HTTP_PORT, path="/ipxe/first.ipxe", seconds=0.1, rate=20)
    return bool(lease["exchanges"] and script["requests"])


def measure(run: Run) -> Results:
    """Whole fleets, in turn."""
    programs = packages.ensure(PROGRAMS)
    root = make_files(run.folder, run.image_bytes)
    # Whoever serves, knows one neighbour: see network.route_through.
    network.route_through(f"{run.wire.net.prefix}server", HALVES, CLIENT)
    results = Results("storm")
    servers: dict[str, Recipe] = {METALBOX: metalbox((root,), root / "agent")}
    if "dnsmasq" in programs and "nginx" in programs:
        servers[PEER] = peers.dnsmasq_and_nginx(programs, root)
    case = f"{run.machines} machines"
    for number in run.rounds():
        for name, recipe in run.turns(servers, number):
            with run.start(recipe) as server:
                server.until(lambda: is_answering(run))
                figures = storm(run, server)
                forget_addresses(run)
                results.add(case, name, run.told(case, name, figures))
                for why, count in figures.pop("failures").items():
                    results.notes.append(f"{name}: {count} machines did not arrive: {why}")
    judge(results, case)
    return results


def storm(run: Run, server: Running) -> dict[str, Any]:
    """Boot the fleet of `metalbox lab storm`."""
    asked = fleetstorm.Storm(run.machines, run.image_bytes, limit=LIMIT_SECONDS)
    figures = fleetstorm.run_fleet(run.wire.net.exec("clients"), asked, server.cost)
    for phase, times in figures.pop("phases").items():
        figures.update({f"{phase} p50": times["p50"], f"{phase} p99": times["p99"]})
    return figures


def forget_addresses(run: Run) -> None:
    """Take the machines' addresses off again, so that the next server's look by ARP finds none of them in use."""
    run.wire.net.run("clients", "ip", "address", "flush", "dev", "eth0")
    run.wire.net.up("clients", "eth0", f"{CLIENT}/14")
    run.wire.net.run("server", "ip", "neighbour", "flush", "dev", "eth0")


def judge(results: Results, case: str) -> None:
    """The ratios."""
    results.ratio("storm_vs_dnsmasq_nginx", case, "seconds", METALBOX, PEER)
    results.ratio("storm_booted_vs_dnsmasq_nginx", case, "booted_seconds", METALBOX, PEER)
    results.ratio("storm_cpu_vs_dnsmasq_nginx", case, "cpu_seconds", METALBOX, PEER)
    if results.has(case, METALBOX):
        for name, figure in (("missing", "missing"), ("retries", "retries"), ("rss_mb", "rss_mb")):
            results.ratios[f"storm_{name}"] = results.median(case, METALBOX, figure)
