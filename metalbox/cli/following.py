"""What `--wait` shows of machines at work: one line that changes at a terminal, else a line for each step."""

from __future__ import annotations

import shutil
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from metalbox.cli import client, output
from metalbox.errors import StartError, TimedOut

WORKING = ("erasing", "retiring")
# Where a machine rests when all was erased; anywhere else it was led by someone who took it back.
DONE = ("available", "retired")
LOOK_SECONDS = 1.0
# Beyond so many disks of a machine the line counts them.
NAMED_DISKS = 3
CLEAR_LINE = "\r\033[K"


def follow(named_socket: str, names: Sequence[str], seconds: float) -> int:
    """Show how far each is until all rest or have a fault; 1 when one is not done, 5 when the time is over.

    A service that is started anew meanwhile is waited for.
    """
    deadline = time.monotonic() + seconds
    left, worst = list(names), 0
    shown: dict[str, str] = {}
    is_terminal, is_silent = sys.stdout.isatty(), False
    while left:
        lines = []
        for name in list(left):
            try:
                row = client.call(named_socket, "GET", f"/api/v1/machines/{client.segment(name)}/life")
            except (StartError, TimedOut) as error:
                if not is_silent:
                    print(f"{CLEAR_LINE if is_terminal else ''}still waiting: {error}", file=sys.stderr)
                is_silent = True
                break
            is_silent = False
            if row["fault"] or row["state"] not in WORKING:
                left.remove(name)
                worst = max(worst, 1 if row["fault"] or row["state"] not in DONE else 0)
                print((CLEAR_LINE if is_terminal else "") + "\n".join(end_of(name, row)), flush=True)
            else:
                lines.append(output.printable(f"{name}: {text_of(row, is_coarse=not is_terminal)}"))
        if is_terminal and lines:
            width = shutil.get_terminal_size().columns - 1
            print(CLEAR_LINE + " | ".join(lines)[:width], end="", flush=True)
        elif not is_terminal:
            _print_news(lines, shown)
        if left and time.monotonic() >= deadline:
            print(f"\nnot done within {seconds:.0f} s: {', '.join(left)}; it goes on", file=sys.stderr)
            return 5
        if left:
            time.sleep(LOOK_SECONDS)
    return worst


def _print_news(lines: Sequence[str], shown: dict[str, str]) -> None:
    for line in lines:
        name, _, text = line.partition(": ")
        if shown.get(name) != text:
            shown[name] = text
            print(line, flush=True)


def end_of(name: str, row: Mapping[str, Any]) -> list[str]:
    """What is said of a machine that rests, or has a fault."""
    fault = row["fault"]
    if fault:
        lines = [f"{name}: {row['state']}, fault: {fault['text']}", *(f"  {line}" for line in fault["evidence"])]
    else:
        lines = [f"{name}: is {row['state']}"]
    return [output.printable(line) for line in lines]


def text_of(row: Mapping[str, Any], *, is_coarse: bool = False) -> str:
    """What a machine at work does now; `is_coarse` changes with every tenth only."""
    if row["held"]:
        return f"{row['state']}, held: {row['held']}"
    disks = row["progress"].get("disks", {}) if row["begun"] else {}
    return f"{row['state']}: {_disks_text(disks, is_coarse) if disks else _before(row)}"


def _before(row: Mapping[str, Any]) -> str:
    """What goes on as long as no disk does."""
    round_ = row["round"] or {}
    if row["order"]:
        return "its agent looks at the disks"
    if round_.get("account") == "ordered":
        return "its agent makes metalbox's account at the BMC"
    if round_.get("asked"):
        return "please start it from the network, nothing is known that switches it"
    return "is started from the network" if round_.get("boots") else "waits for its agent"


def _disks_text(disks: Mapping[str, Any], is_coarse: bool) -> str:
    if len(disks) <= NAMED_DISKS:
        return ", ".join(f"{name} {_disk_text(disk, is_coarse)}" for name, disk in disks.items())
    counts = Counter(str(disk.get("phase", "")) for disk in disks.values())
    parts = []
    for phase, count in counts.items():
        percents = [_percent(disk, is_coarse) for disk in disks.values() if disk.get("phase") == phase]
        known = [percent for percent in percents if percent is not None]
        parts.append(f"{count} {phase}" + (f" {min(known)}%" if known else ""))
    left = [seconds for disk in disks.values() if (seconds := _left(disk, is_coarse))]
    return ", ".join(parts) + (f" ({output.duration(max(left))} left)" if left else "")


def _disk_text(disk: Mapping[str, Any], is_coarse: bool) -> str:
    percent, left = _percent(disk, is_coarse), _left(disk, is_coarse)
    much = f" {percent}%" if percent is not None else ""
    return f"{disk.get('phase', '')}{much}" + (f" ({output.duration(left)} left)" if left else "")


def _percent(disk: Mapping[str, Any], is_coarse: bool) -> int | None:
    percent = disk.get("percent")
    if not isinstance(percent, int | float) or disk.get("phase") not in ("erase", "verify"):
        return None
    return int(percent) // 10 * 10 if is_coarse else int(percent)


def _left(disk: Mapping[str, Any], is_coarse: bool) -> float:
    left = disk.get("left")
    return 0.0 if is_coarse or not isinstance(left, int | float) else max(0.0, float(left))
