"""TFTP side by side: one file of 1 MiB, windows of 1 to 64 blocks, one client and 64, near and far."""

from __future__ import annotations

import os
import statistics
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

from bench.beside import packages, peers
from bench.beside.figures import Results
from bench.beside.rounds import Run
from bench.beside.servers import METALBOX, Metered, Recipe, Running, metalbox, metered
from bench.beside.wire import SERVER

PROGRAMS = ("in.tftpd", "atftpd", "dnsmasq", "gcc", "ethtool", "curl")
COLUMNS = (
    "mb_per_second", "cpu_ms_per_mib", "p50_ms", "p99_ms", "retries", "repeated", "failed", "rss_mb", "load_cpu",
)  # fmt: skip
# A boot file's name, for metalbox serves no other.
NAME = "snponly.efi"
SIZE = 1 << 20
SECONDS = 1.2
# Its children are waited for by nobody, so that the kernel forgets what they used.
FORKS = "tftpd-hpa"
# How often curl fetches the file.
WITNESS_TIMES = 40
WITNESS = "w1 b1428 x1, curl"
# What knows windowsize (RFC 7440).
KNOWS_WINDOWS = frozenset({METALBOX, "atftpd"})


@dataclass(frozen=True, slots=True)
class Case:
    """What clients ask for. `transfers` 0: as many as fit the time."""

    window: int
    blksize: int
    clients: int
    delay_ms: float = 0.0
    transfers: int = 0
    has_offload: bool = True

    @property
    def name(self) -> str:
        """For the table."""
        far = f", {self.delay_ms:g} ms away" if self.delay_ms else ""
        plain = "" if self.has_offload else ", no offload"
        return f"w{self.window} b{self.blksize} x{self.clients}{far}{plain}"


NEAR = (
    Case(1, 512, 1),
    Case(1, 1428, 1),
    Case(1, 1468, 64),
    Case(4, 1428, 1),
    Case(4, 1428, 64),
    Case(16, 1428, 1),
    Case(16, 1428, 64),
)
# A network card that cuts no trains of UDP itself: the server's kernel does it.
PLAIN = (Case(4, 1428, 64, has_offload=False), Case(16, 1428, 64, has_offload=False))
# The time of one transfer counts: its floor is the round trip times the windows of the file.
FAR = (Case(1, 1428, 4, 1.0, 4), Case(4, 1428, 4, 1.0, 8), Case(4, 1428, 4, 5.0, 4), Case(16, 1428, 4, 5.0, 8))


def recipes(programs: Mapping[str, str], files: Path) -> dict[str, Recipe]:
    """metalbox and every peer at hand, on the same folder."""
    found = {METALBOX: metalbox((files,))}
    if "in.tftpd" in programs:
        found["tftpd-hpa"] = peers.tftpd_hpa(programs["in.tftpd"], files)
    if "atftpd" in programs:
        found["atftpd"] = peers.atftpd(programs["atftpd"], files)
    if "dnsmasq" in programs:
        found["dnsmasq"] = peers.dnsmasq_tftp(programs["dnsmasq"], files)
    return found


def make_files(folder: Path) -> Path:
    """A folder with the one file, which everybody may read."""
    files = folder / "tftp"
    files.mkdir()
    (files / NAME).write_bytes(os.urandom(SIZE))
    for path in (folder, files):
        path.chmod(0o755)
    return files


def is_answering(run: Run, files: Path) -> bool:
    """One transfer."""
    figures = run.wire.load(
        "tftpload", name=NAME, expect=files / NAME, seconds=1, transfers=1, clients=1, window=4, blksize=1428
    )
    return bool(figures["transfers"])


def sample(measured: Metered) -> dict[str, float]:
    """The figures of the table."""
    mib = max(measured.figures["bytes"] / 2**20, 1e-6)
    return {
        **measured.figures,
        "cpu_ms_per_mib": 1e3 * measured.cpu / mib,
        "rss_mb": measured.rss,
        "load_cpu": measured.figures["cpu_seconds"] / measured.figures["seconds"],
    }


def is_asked(name: str, case: Case) -> bool:
    """A server that knows no windows is not measured again under the name of one."""
    return case.window == 1 or name in KNOWS_WINDOWS


def measure(run: Run) -> Results:
    """All cases. A server stays up for all cases of a round; each case begins with none of its transfers open."""
    programs = packages.ensure(PROGRAMS)
    files = make_files(run.folder)
    results = Results("tftp")
    servers = recipes(programs, files)
    for number in run.rounds():
        for name, recipe in run.turns(servers, number):
            with run.start(recipe) as server:
                server.until(lambda: is_answering(run, files))
                for case in (*NEAR, *(PLAIN if "ethtool" in programs else ()), *FAR):
                    if is_asked(name, case):
                        results.add(case.name, name, run.told(case.name, name, asked(run, server, files, case)))
                if number == 0 and "curl" in programs:
                    results.add(WITNESS, name, run.told(WITNESS, name, witness(run, server)))
    judge(results)
    return results


def asked(run: Run, server: Running, files: Path, case: Case) -> dict[str, float]:
    """One case of one server."""
    with (
        nullcontext() if case.has_offload else run.wire.without_offload(),
        run.profiled(server, f"tftp-{server.name}-{case.name.replace(' ', '-')}"),
    ):
        figures = sample(metered(server, lambda: load(run, files, case)))
    if server.name == FORKS:
        del figures["cpu_ms_per_mib"]
    return figures


def witness(run: Run, server: Running) -> dict[str, float]:
    """The same file by curl, again and again, to see what our generator says of one client in lockstep beside it."""
    urls = [word for _ in range(WITNESS_TIMES) for word in ("-o", "/dev/null", f"tftp://{SERVER}/{NAME}")]
    command = ["curl", "-sf", "--tftp-blksize", "1428", "-w", "%{size_download} %{time_total}\n", *urls]
    before = server.cost().cpu
    rows = [row.split() for row in run.wire.net.run("clients", *command, timeout=60).stdout.splitlines()]
    took = [float(seconds) for _, seconds in rows]
    total = sum(int(size) for size, _ in rows)
    found = {"mb_per_second": total / sum(took) / 1e6, "p50_ms": 1e3 * statistics.median(took)}
    return (
        found
        if server.name == FORKS
        else {**found, "cpu_ms_per_mib": 1e3 * (server.cost().cpu - before) / (total / 2**20)}
    )


def load(run: Run, files: Path, case: Case) -> dict[str, float]:
    """One run of the generator."""
    return run.wire.load(
        "tftpload",
        name=NAME,
        expect=files / NAME,
        clients=case.clients,
        window=case.window,
        blksize=case.blksize,
        delay_ms=case.delay_ms,
        transfers=case.transfers,
        seconds=60 if case.transfers else SECONDS,
    )


def judge(results: Results) -> None:
    """The ratios."""
    many, rate = Case(1, 1468, 64).name, "mb_per_second"
    results.ratio("tftp_w1_vs_atftpd", many, rate, METALBOX, "atftpd")
    results.ratio("tftp_w1_vs_dnsmasq", many, rate, METALBOX, "dnsmasq")
    results.ratio("tftp_w1_vs_tftpd_hpa", many, rate, METALBOX, "tftpd-hpa")
    results.ratio("tftp_w4_vs_atftpd", Case(4, 1428, 64).name, rate, METALBOX, "atftpd")
    results.ratio("tftp_w16_vs_atftpd", Case(16, 1428, 64).name, rate, METALBOX, "atftpd")
    results.ratio("tftp_w16_1_vs_atftpd", Case(16, 1428, 1).name, rate, METALBOX, "atftpd")
    results.ratio("tftp_w4_plain_vs_atftpd", PLAIN[0].name, rate, METALBOX, "atftpd")
    results.ratio("tftp_w16_plain_vs_atftpd", PLAIN[1].name, rate, METALBOX, "atftpd")
    for milliseconds in (1.0, 5.0):
        worst = [found for case in FAR if case.delay_ms == milliseconds if (found := beside_best(results, case.name))]
        if worst:
            results.ratios[f"tftp_{milliseconds:g}ms_vs_best"] = max(worst)
    for name in results.cases.get(WITNESS, {}):
        lone, foreign = (results.median(case, name, rate) for case in (Case(1, 1428, 1).name, WITNESS))
        results.notes.append(
            f"{name}: one client in lockstep gets {lone:.0f} MB/s by our generator, {foreign:.0f} by curl"
        )
    ours = [case.name for case in NEAR if case.clients == 64 and results.has(case.name, METALBOX)]
    results.ratios["tftp_failed_64"] = sum(results.summary(case, METALBOX, "failed").high for case in ours)


def beside_best(results: Results, case: str) -> float | None:
    """Our time of a transfer by the shortest of all peers."""
    times = {
        name: results.median(case, name, "p50_ms")
        for name, samples in results.cases.get(case, {}).items()
        if any(sample["p50_ms"] > 0 for sample in samples)
    }
    peers_times = [time for name, time in times.items() if name != METALBOX]
    return times[METALBOX] / min(peers_times) if METALBOX in times and peers_times else None
