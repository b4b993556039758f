"""What a server's processes cost: CPU seconds and resident memory, from /proc, its children included."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

TICK = os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True, slots=True)
class Cost:
    """`cpu` in seconds since the start, of those that have ended too; `rss` in MiB now, of those that live."""

    cpu: float
    rss: float


def fields(stat: str) -> list[str]:
    """The fields of /proc/PID/stat from the third (state) on: a name may hold blanks and brackets. Pure."""
    return stat.rpartition(")")[2].split()


def cpu_of(stat: str) -> float:
    """User and system time, and that of children that were waited for (proc(5): fields 14 to 17). Pure."""
    found = fields(stat)
    return sum(int(value) for value in found[11:15]) / TICK


def tree(root: int) -> list[int]:
    """A process and all that stem from it, as far as they live."""
    parents: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parent = int(fields((entry / "stat").read_text())[1])
            except (OSError, IndexError):
                continue
            parents.setdefault(parent, []).append(int(entry.name))
    found = [root]
    for pid in found:
        found.extend(parents.get(pid, ()))
    return found


def cost(roots: list[int]) -> Cost:
    """Of all processes under these."""
    cpu = rss = 0.0
    for root in roots:
        for pid in tree(root):
            try:
                cpu += cpu_of(Path(f"/proc/{pid}/stat").read_text())
                rss += int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE / 2**20
            except (OSError, IndexError):
                continue
    return Cost(cpu, rss)
