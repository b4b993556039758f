"""The tables of docs/performance.md, from what --json wrote.

    python -m bench.beside.page var/bench.json

A row is a case, a column a server, a cell the figures that stand behind the target's name: the first one with its
range over the rounds, of all the median.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.beside.figures import Summary, number, shown
from bench.beside.goals import GOALS
from bench.beside.servers import METALBOX

# What of each target is worth a reader's time, and its unit.
FIGURES: Mapping[str, Mapping[str, str]] = {
    "dhcp": {"per_second": "exchanges/s", "cpu_us": "CPU us each", "p99_ms": "p99 ms", "rss_mb": "MiB"},
    "tftp": {"mb_per_second": "MB/s", "cpu_ms_per_mib": "CPU ms/MiB", "p99_ms": "p99 ms of a file"},
    "http: big files": {"mb_per_second": "MB/s", "cpu_ms_per_mib": "CPU ms/MiB"},
    "http: scripts": {"per_second": "requests/s", "cpu_us": "CPU us each", "p99_ms": "p99 ms"},
    "storm": {
        "seconds": "s to the last", "p50_seconds": "s to half", "booted_seconds": "s until all have their images",
        "retries": "retries", "cpu_seconds": "CPU s", "rss_mb": "MiB",
    },
    "boot": {"seconds": "s from power-on to the agent's init"},
    "inventory": {
        "start_seconds": "s to start", "rss_mb": "MiB", "list_ms": "list ms", "filter_p99_ms": "filter p99 ms",
        "show_ms": "show ms", "report_ms": "report ms", "dora_p50_ms": "lease ms", "cli_list_ms": "`metalbox list` ms",
    },
}  # fmt: skip


Cases = dict[str, dict[str, Sequence[Mapping[str, float]]]]


def tables(document: Mapping[str, Any]) -> list[str]:
    """Lines of Markdown. Pure."""
    parts: dict[str, Cases] = {}
    for target in document["targets"]:
        for case, servers in target["cases"].items():
            for server, samples in servers.items():
                # "metalbox, 100k leases" is another case of metalbox.
                name, comma, state = server.partition(", ") if server.startswith(METALBOX) else (server, "", "")
                part = parts.setdefault(_part(target["target"], case), {})
                part.setdefault(f"{case}: {state}" if comma else case, {})[name] = samples
    lines = [line for part, cases in parts.items() for line in (*_table(part, cases), "")]
    return [*lines, *goals(document)]


def goals(document: Mapping[str, Any]) -> list[str]:
    """Every ratio beside its goal, as Markdown. Pure."""
    found = {name: value for target in document["targets"] for name, value in target["ratios"].items()}
    lines = [_row(["ratio", "value", "goal", ""]), _row(["---", "--:", "--:", "---"])]
    for name, goal in GOALS.items():
        if name in found:
            verdict = "" if goal.is_met(found[name]) else "missed"
            lines.append(_row([f"`{name}`", number(found[name]), goal.text, verdict]))
    return lines


def _part(target: str, case: str) -> str:
    if target != "http":
        return target
    return "http: big files" if case.startswith("big file") else "http: scripts"


def _table(part: str, cases: Cases) -> list[str]:
    servers = list(dict.fromkeys(server for found in cases.values() for server in found))
    lines = [f"**{part}**: {' / '.join(FIGURES[part].values())}", ""]
    lines += [_row(["", *servers]), _row(["---", *("--:" for _ in servers)])]
    return lines + [
        _row([case, *(_cell(part, found[server]) if server in found else "" for server in servers)])
        for case, found in cases.items()
    ]


def _cell(part: str, samples: Sequence[Mapping[str, float]]) -> str:
    """The figures that were measured; the dashes at the end are left out."""
    words = []
    for place, figure in enumerate(FIGURES[part]):
        values = [sample[figure] for sample in samples if sample.get(figure, -1.0) >= 0]
        summary = Summary.of(values) if values else None
        words.append("-" if summary is None else number(summary.median) if place else shown(summary))
    while words and words[-1] == "-":
        words.pop()
    return " / ".join(words)


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    print("\n".join(tables(json.loads(Path(sys.argv[1]).read_text()))))
