"""Numbers of several rounds as medians, ratios and lines of text. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from bench.beside.goals import GOALS

# What one run of one client against one server gave, by name of the figure.
Sample = Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Summary:
    """The middle and the ends of a figure over all rounds."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Iterable[float]) -> Summary:
        """Raises ValueError without values."""
        found = sorted(values)
        if not found:
            raise ValueError("a summary needs at least one value")
        return cls(statistics.median(found), found[0], found[-1])


def percentile(values: Sequence[float], percent: float) -> float:
    """The nearest rank; -1.0 without values."""
    if not values:
        return -1.0
    ordered = sorted(values)
    return ordered[min(int(percent / 100 * len(ordered)), len(ordered) - 1)]


@dataclass(slots=True)
class Results:
    """All samples of one target: case (what was asked) -> server -> rounds."""

    target: str
    cases: dict[str, dict[str, list[dict[str, float]]]] = field(default_factory=dict)
    ratios: dict[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def add(self, case: str, server: str, sample: Mapping[str, Any]) -> None:
        """Keep one round's figures; what is no number is left out."""
        numbers = {key: float(value) for key, value in sample.items() if isinstance(value, int | float)}
        self.cases.setdefault(case, {}).setdefault(server, []).append(numbers)

    def has(self, case: str, *servers: str) -> bool:
        """Whether all of these were measured in this case."""
        found = self.cases.get(case, {})
        return all(found.get(server) for server in servers)

    def summary(self, case: str, server: str, figure: str) -> Summary:
        """Over all rounds. Raises KeyError for what was not measured."""
        return Summary.of(sample[figure] for sample in self.cases[case][server] if figure in sample)

    def median(self, case: str, server: str, figure: str) -> float:
        """Shorter, for ratios."""
        return self.summary(case, server, figure).median

    def ratio(self, name: str, case: str, figure: str, ours: str, theirs: str) -> None:
        """Keep the ratio of two medians, when both were measured."""
        if not self.has(case, ours, theirs):
            return
        below = self.median(case, theirs, figure)
        if below > 0:
            self.ratios[name] = self.median(case, ours, figure) / below

    def document(self) -> dict[str, Any]:
        """For --json: every round, so that others may take other medians."""
        return {"target": self.target, "cases": self.cases, "ratios": self.ratios, "notes": self.notes}


def table(results: Results, columns: Sequence[str]) -> list[str]:
    """One line for each case and server: the median of each figure, and its range where rounds differ."""
    rows: list[list[str]] = [["CASE", "SERVER", *columns]]
    for case, servers in results.cases.items():
        for server, samples in servers.items():
            row = [case, server]
            for column in columns:
                values = [sample[column] for sample in samples if column in sample]
                row.append(shown(Summary.of(values)) if values else "-")
            rows.append(row)
    widths = [max(len(row[index]) for row in rows) for index in range(len(rows[0]))]
    return ["  ".join(_cell(text, width, at < 2) for at, (text, width) in enumerate(zip(row, widths, strict=True)))
            .rstrip() for row in rows]  # fmt: skip


def shown(summary: Summary) -> str:
    """`12.3 (11.9-14.0)`."""
    if summary.low == summary.high:
        return number(summary.median)
    return f"{number(summary.median)} ({number(summary.low)}-{number(summary.high)})"


def number(value: float) -> str:
    """Three digits that mean something."""
    if value == int(value):
        return f"{int(value):,}"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def ratio_lines(ratios: Mapping[str, float]) -> list[str]:
    """`ratio NAME VALUE goal VALUE` in the order of the goals, after what has no goal: `also NAME VALUE`."""
    free = [f"also {name} {value:.3f}" for name, value in sorted(ratios.items()) if name not in GOALS]
    return free + [
        f"ratio {name} {ratios[name]:.3f} goal {goal.value:g}" for name, goal in GOALS.items() if name in ratios
    ]


def missed(ratios: Mapping[str, float]) -> list[str]:
    """`NAME VALUE, not >=GOAL` of each goal that is not reached."""
    return [
        f"{name} {ratios[name]:.3f}, not {goal.text}"
        for name, goal in GOALS.items()
        if name in ratios and not goal.is_met(ratios[name])
    ]


def _cell(text: str, width: int, is_left: bool) -> str:
    return text.ljust(width) if is_left else text.rjust(width)
