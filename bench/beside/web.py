"""HTTP side by side with nginx: big files, small scripts, and scripts while a hundred images are pulled."""

from __future__ import annotations

import os
import re
import subprocess
from functools import partial
from pathlib import Path

from bench.beside import packages, peers
from bench.beside.figures import Results
from bench.beside.rounds import Run
from bench.beside.servers import METALBOX, Metered, Recipe, Running, metalbox, metered
from bench.beside.wire import SERVER, read_figures

PROGRAMS = ("nginx", "gcc", "wrk")
COLUMNS = (
    "mb_per_second",
    "per_second",
    "cpu_ms_per_mib",
    "cpu_us",
    "p50_ms",
    "p99_ms",
    "errors",
    "deferred",
    "rss_mb",
    "load_cpu",
)
ARCH = "x86_64"
BIG = f"/agent/{ARCH}/initrd"
SMALL = "/ipxe/script"
# metalbox decides by these; to nginx the script is a file, whatever stands behind the question mark.
QUERY = (
    "?mac=52-54-00-12-34-56&uuid=11112222-3333-4444-5555-666677778888&arch=x86_64&platform=efi&ip=10.64.0.2"
    "&loader=ipxe-1.21.1&serial=&asset=&vendor=QEMU&product=Standard"
)
BIG_MIB = 256
SECONDS = 2.0
BIG_CONNECTIONS = (1, 16, 128)
PULLS = 100
BESIDE, KEPT, FRESH = "scripts beside 100 pulls", "scripts, 16 connections", "scripts, connection each"
WITNESS = "scripts, 16 connections, wrk"


def make_files(folder: Path, big_mib: int) -> Path:
    """A web root: the image, and a script as metalbox renders it."""
    root = folder / "web"
    (root / "agent" / ARCH).mkdir(parents=True)
    (root / "ipxe").mkdir()
    block = os.urandom(1 << 20)
    with (root / BIG[1:]).open("wb") as file:
        for _ in range(big_mib):
            file.write(block)
    (root / "agent" / ARCH / "vmlinuz").write_bytes(block)
    (root / SMALL[1:]).write_bytes(b"#!ipxe\n" + b"echo metalbox: booting the agent\n" * 14)
    for path in (folder, root):
        path.chmod(0o755)
    return root


def recipes(programs: dict[str, str], root: Path) -> dict[str, Recipe]:
    """metalbox, and nginx where it is."""
    found = {METALBOX: metalbox((root,), root / "agent")}
    if "nginx" in programs:
        found["nginx"] = peers.nginx(programs["nginx"], root)
    return found


def is_answering(run: Run) -> bool:
    """One small request."""
    figures = run.wire.load("httpload", port=peers.HTTP_PORT, path=SMALL, seconds=0.1, rate=20)
    return bool(figures["requests"])


def sample(measured: Metered) -> dict[str, float]:
    """The figures of the table."""
    figures = measured.figures
    mib, requests = max(figures["bytes"] / 2**20, 1e-6), max(figures["requests"], 1)
    found = {**figures, "cpu_ms_per_mib": 1e3 * measured.cpu / mib, "rss_mb": measured.rss}
    return {**found, "cpu_us": 1e6 * measured.cpu / requests, "load_cpu": figures["cpu_seconds"] / figures["seconds"]}


def measure(run: Run) -> Results:
    """All cases."""
    programs = packages.ensure(PROGRAMS)
    root = make_files(run.folder, BIG_MIB)
    results = Results("http")
    servers = recipes(programs, root)
    for number in run.rounds():
        for name, recipe in run.turns(servers, number):
            with run.start(recipe) as server:
                server.until(lambda: is_answering(run))
                for case, figures in cases(run, server):
                    results.add(case, name, run.told(case, name, figures))
                if number == 0 and "wrk" in programs:
                    results.add(WITNESS, name, run.told(WITNESS, name, witness(run, server)))
    judge(results)
    return results


def cases(run: Run, server: Running) -> list[tuple[str, dict[str, float]]]:
    """Everything that one server is asked in a round."""

    def load(path: str, connections: int, keep: int) -> dict[str, float]:
        # Without an answer there is nothing to tell.
        return run.wire.load(
            "httpload", port=peers.HTTP_PORT, path=path, connections=connections, seconds=SECONDS, keep=keep, least=1
        )

    found = []
    for connections in BIG_CONNECTIONS:
        measured = metered(server, partial(load, BIG, connections, 1))
        found.append((f"big file x{connections}", sample(measured)))
    found.append((KEPT, sample(metered(server, lambda: load(SMALL + QUERY, 16, 1)))))
    found.append((FRESH, sample(metered(server, lambda: load(SMALL + QUERY, 16, 0)))))
    found.append((BESIDE, beside(run)))
    return found


def witness(run: Run, server: Running) -> dict[str, float]:
    """The small script by wrk."""
    url = f"http://{SERVER}:{peers.HTTP_PORT}{SMALL}{QUERY}"
    before = server.cost().cpu
    out = run.wire.net.run("clients", "wrk", "-t1", "-c16", f"-d{SECONDS:.0f}s", url, timeout=60).stdout
    requests, seconds = wrk_figures(out)
    return {"per_second": requests / seconds, "cpu_us": 1e6 * (server.cost().cpu - before) / max(requests, 1)}


def wrk_figures(text: str) -> tuple[int, float]:
    """How many requests in how many seconds wrk says that it made. Raises ValueError when it says nothing. Pure."""
    found = re.search(r"(\d+) requests in ([0-9.]+)s", text)
    if found is None:
        raise ValueError(f"wrk told nothing: {text.strip()[-200:]!r}")
    return int(found[1]), float(found[2])


def beside(run: Run) -> dict[str, float]:
    """Fifty scripts a second, each with its own connection, while a hundred clients pull the image."""
    pull = run.wire.command(
        "httpload", port=peers.HTTP_PORT, path=BIG, connections=PULLS, seconds=SECONDS + 2, keep=0
    )  # fmt: skip
    with subprocess.Popen(pull, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        figures = run.wire.load(
            "httpload", port=peers.HTTP_PORT, path=SMALL + QUERY, connections=16, seconds=SECONDS, keep=0, rate=50
        )
        out, errors = process.communicate(timeout=60)
    pulled = read_figures("httpload", process.returncode, out, errors)
    return {
        **{key: figures[key] for key in ("per_second", "p50_ms", "p99_ms", "errors")},
        "mb_per_second": pulled["mb_per_second"],
        "deferred": pulled["deferred"],
    }


def judge(results: Results) -> None:
    """The ratios."""
    case = "big file x16"
    results.ratio("http_big_vs_nginx", case, "mb_per_second", METALBOX, "nginx")
    results.ratio("http_cpu_vs_nginx", case, "cpu_ms_per_mib", METALBOX, "nginx")
    results.ratio("http_scripts_vs_nginx", KEPT, "per_second", METALBOX, "nginx")
    for name in results.cases.get(WITNESS, {}):
        per_second = [results.median(case, name, "per_second") for case in (KEPT, WITNESS)]
        cost = [results.median(case, name, "cpu_us") for case in (KEPT, WITNESS)]
        results.notes.append(
            f"{name}: {per_second[0]:.0f} scripts/s of {cost[0]:.0f} us by our generator, {per_second[1]:.0f}/s of "
            f"{cost[1]:.0f} us by wrk"
        )
    if results.has(BESIDE, METALBOX):
        results.ratios["http_script_p99"] = results.median(BESIDE, METALBOX, "p99_ms")
