"""Growth: the same questions with 1,000, 10,000 and 100,000 machines and leases."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from bench.beside import dhcp, population, rest
from bench.beside.figures import Results, percentile
from bench.beside.rounds import Run
from bench.beside.servers import METALBOX, ROOT, Running, metalbox
from bench.beside.wire import CLIENT

COLUMNS = (
    "start_seconds", "rss_mb", "list_ms", "filter_ms", "filter_p99_ms", "search_ms", "show_ms", "leases_ms",
    "report_ms", "dora_p50_ms", "cli_list_ms",
)  # fmt: skip
SIZES = (0, 1_000, 10_000, 100_000)
REPEATS, LIST_REPEATS, FILTER_REPEATS = 20, 5, 60


def times(question: Callable[[int], float], repeats: int) -> list[float]:
    """The same question so often."""
    return [question(number) for number in range(repeats)]


def report(run: Run, number: int) -> float:
    """Milliseconds of one agent's report, from inside the wire."""
    program = (
        "import sys,time,http.client\nbody=sys.stdin.buffer.read()\nbegan=time.perf_counter()\n"
        "c=http.client.HTTPConnection('10.64.0.1',8080,timeout=60)\n"
        "c.request('POST','/agent/v1/report',body,{'Content-Type':'application/json'})\na=c.getresponse()\na.read()\n"
        "print(a.status,1e3*(time.perf_counter()-began))"
    )
    body = json.dumps(population.report_of(number)).encode()
    argv = [*run.wire.net.exec("clients"), sys.executable, "-c", program]
    done = subprocess.run(argv, input=body, capture_output=True, timeout=90, check=True)
    status, took = done.stdout.split()
    if status != b"200":
        raise RuntimeError(f"a report was answered {status.decode()}")
    return float(took)


def command_line(folder: Path) -> float:
    """Milliseconds of `metalbox list` from its start to its end."""
    argv = [sys.executable, "-m", "metalbox", "list", "--socket", str(folder / "s")]
    began = time.perf_counter()
    subprocess.run(argv, stdout=subprocess.DEVNULL, cwd=ROOT, timeout=120, check=True)
    return 1e3 * (time.perf_counter() - began)


def measure(run: Run) -> Results:
    """Each size in each round, the largest in one; the store is made once for a size and copied."""
    results = Results("inventory")
    for size in SIZES:
        made = run.folder / f"made-{size}"
        population.fill(made, machines=size, leases=size)

        def prepare(folder: Path, made: Path = made) -> None:
            shutil.copytree(made, folder / "data", dirs_exist_ok=True)

        for _ in run.rounds(1 if size == SIZES[-1] else 1000):
            with run.start(metalbox(prepare=prepare)) as server:
                figures = questions(run, server, size)
                results.add(f"{size} machines", METALBOX, run.told(f"{size} machines", METALBOX, figures))
        shutil.rmtree(made)
    judge(results)
    return results


def questions(run: Run, server: Running, size: int) -> dict[str, float]:
    """What is asked of a service of this size."""
    folder = server.folder
    found = {"start_seconds": server.until(lambda: rest.is_answering(folder))}
    found["rss_mb"] = server.settled().rss
    if not size:
        return found
    api = "/api/v1/machines"

    def middle(path: Callable[[int], str], repeats: int) -> float:
        return percentile(times(lambda number: rest.fetch(folder, path(number))[1], repeats), 50)

    some = [number * 7919 % size for number in range(REPEATS)]
    lists = LIST_REPEATS if size <= 10_000 else 2
    found["list_ms"] = middle(lambda number: api, lists)
    filtered = times(
        lambda n: rest.fetch(folder, f"{api}?selector=rack%3Dr{n % population.RACKS}")[1],
        FILTER_REPEATS if size <= 10_000 else 3,
    )
    found["filter_ms"], found["filter_p99_ms"] = percentile(filtered, 50), percentile(filtered, 99)
    found["search_ms"] = middle(lambda n: f"{api}?q={population.serial_of(some[n])}", 3 * lists)
    found["show_ms"] = middle(lambda n: f"{api}/m{some[n]:06d}", REPEATS)
    found["leases_ms"] = middle(lambda n: "/api/v1/leases", lists)
    found["report_ms"] = percentile(times(lambda n: report(run, some[n]), 5), 50)
    found["dora_p50_ms"] = run.wire.load(
        "dhcpload", relay=CLIENT, seconds=1, in_flight=1, most=500, first=dhcp.PROBES
    )["p50_ms"]  # fmt: skip
    found["cli_list_ms"] = percentile(times(lambda n: command_line(folder), 3 if size <= 10_000 else 1), 50)
    return found


def judge(results: Results) -> None:
    """Limits, not ratios, but for growth itself."""
    empty, ten, most = "0 machines", "10000 machines", "100000 machines"
    if results.has(empty, METALBOX):
        results.ratios["inventory_idle_rss_mb"] = results.median(empty, METALBOX, "rss_mb")
        results.ratios["inventory_start_seconds"] = results.median(empty, METALBOX, "start_seconds")
    if results.has(ten, METALBOX):
        results.ratios["inventory_cli_list_10k_ms"] = results.median(ten, METALBOX, "cli_list_ms")
        results.ratios["inventory_filter_p99_10k_ms"] = results.median(ten, METALBOX, "filter_p99_ms")
    if results.has(most, METALBOX):
        results.ratios["inventory_start_100k_seconds"] = results.median(most, METALBOX, "start_seconds")
        results.ratios["inventory_rss_100k_mb"] = results.median(most, METALBOX, "rss_mb")
        for name in ("show_ms", "report_ms"):
            below = results.median("1000 machines", METALBOX, name)
            results.ratios[f"inventory_{name[:-3]}_100k_vs_1k"] = results.median(most, METALBOX, name) / below
