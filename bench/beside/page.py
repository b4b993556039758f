"""The tables of docs/performance.md, from what --json wrote.

python -m bench.beside.page var/bench.json
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.beside.figures import Summary, number, shown
from bench.beside.goals import GOALS

# What of each target is worth a reader's time: the figures of its columns.
COLUMNS: Mapping[str, Mapping[str, str]] = {
    "dhcp": {
        "per_second": "exchanges/s", "cpu_us": "CPU us each", "p50_ms": "p50 ms", "p99_ms": "p99 ms", "lost": "lost",
        "rss_mb": "MiB",
    },
    "tftp": {"mb_per_second": "MB/s", "cpu_ms_per_mib": "CPU ms/MiB", "p50_ms": "p50 ms", "p99_ms": "p99 ms"},
    "http": {
        "mb_per_second": "MB/s", "per_second": "requests/s", "cpu_ms_per_mib": "CPU ms/MiB", "cpu_us": "CPU us each",
        "p99_ms": "p99 ms",
    },
    "storm": {
        "seconds": "last after s", "p50_seconds": "half after s", "booted_seconds": "all booted after s",
        "retries": "retries", "cpu_seconds": "CPU s", "rss_mb": "MiB", "tftp p99": "tftp p99 s",
        "kernel+initrd p99": "images p99 s", "report p99": "report p99 s",
    },
    "boot": {"seconds": "s"},
    "inventory": {
        "start_seconds": "start s", "rss_mb": "MiB", "list_ms": "list ms", "filter_p99_ms": "filter p99 ms",
        "show_ms": "show ms", "report_ms": "report ms", "dora_p50_ms": "lease ms", "cli_list_ms": "`metalbox list` ms",
    },
}  # fmt: skip
# Megabytes of a script and microseconds of a file of 256 MiB say nothing.
SILENT = {("http", "scripts", "mb_per_second"), ("http", "scripts", "cpu_ms_per_mib"), ("http", "big file", "cpu_us"),
          ("http", "big file", "per_second")}  # fmt: skip


def tables(document: Mapping[str, Any]) -> list[str]:
    """Lines of Markdown. Pure."""
    lines: list[str] = []
    for target in document["targets"]:
        columns = COLUMNS[target["target"]]
        lines += [f"**{target['target']}**", "", _row(["case", "server", *columns.values()])]
        lines.append(_row(["---", "---", *("--:" for _ in columns)]))
        for case, servers in target["cases"].items():
            for server, samples in servers.items():
                cells = [_cell(target["target"], case, column, samples) for column in columns]
                lines.append(_row([case, server, *cells]))
        lines.append("")
    return [*lines, *goals(document)]


def goals(document: Mapping[str, Any]) -> list[str]:
    """Every ratio beside its goal, as Markdown. Pure."""
    found = {name: value for target in document["targets"] for name, value in target["ratios"].items()}
    lines = [_row(["ratio", "value", "goal", ""]), _row(["---", "--:", "--:", "---"])]
    for name, goal in GOALS.items():
        if name in found:
            lines.append(
                _row([f"`{name}`", number(found[name]), goal.text, "" if goal.is_met(found[name]) else "missed"])
            )
    return lines


def _cell(target: str, case: str, column: str, samples: Sequence[Mapping[str, float]]) -> str:
    values = [sample[column] for sample in samples if sample.get(column, -1.0) >= 0]
    is_silent = any(target == t and case.startswith(begin) and column == name for t, begin, name in SILENT)
    return shown(Summary.of(values)) if values and not is_silent else ""


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    print("\n".join(tables(json.loads(Path(sys.argv[1]).read_text()))))
