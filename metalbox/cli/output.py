"""How answers are printed: tables for people, JSON and YAML for programs; sizes, ages and times in words."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from datetime import datetime
from functools import cache
from typing import Any


def emit(answer: Any, form: str) -> bool:
    """Print `answer` as JSON or YAML; return False when it should become a table instead."""
    if form == "json":
        print(json.dumps(answer, indent=2, ensure_ascii=False))
        return True
    if form == "yaml":
        import yaml

        yaml.safe_dump(answer, sys.stdout, sort_keys=False, allow_unicode=True)
        return True
    return False


def printable(value: object) -> str:
    """A text without control characters: what a machine reports must not drive the reader's terminal."""
    text = str(value)
    return text if text.isprintable() else "".join(c if c.isprintable() else "?" for c in text)


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Return columns aligned to the left, two spaces apart, without trailing spaces."""
    cells = [_cells(row) for row in (head, *rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    line = "  ".join(f"%-{width}s" for width in widths)
    return "\n".join((line % tuple(row)).rstrip() for row in cells)


def _cells(row: Sequence[object]) -> list[str]:
    texts = [str(value) for value in row]
    return texts if "".join(texts).isprintable() else [printable(text) for text in texts]


@cache
def size(count: int | None) -> str:
    """Bytes in the units that the goods are sold in: disks and memory alike as powers of 1000 or 1024 when exact."""
    if count is None:
        return "?"
    if count and count % 2**20 == 0:
        for unit, step in (("TiB", 2**40), ("GiB", 2**30), ("MiB", 2**20)):
            if count >= step:
                return f"{count / step:.4g} {unit}"
    for unit, step in (("TB", 10**12), ("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if count >= step:
            return f"{count / step:.4g} {unit}"
    return f"{count} B"


def duration(seconds: float) -> str:
    """A length of time in its two largest units, "2m 5s"."""
    seconds = max(0, seconds)
    if seconds < 10:
        return f"{seconds:.1f}s"
    return _in_two_units(int(seconds))


@cache
def _in_two_units(whole: int) -> str:
    parts = [(whole // 86400, "d"), (whole // 3600 % 24, "h"), (whole // 60 % 60, "m"), (whole % 60, "s")]
    while parts and not parts[0][0]:
        parts.pop(0)
    return " ".join(f"{n}{unit}" for n, unit in parts[:2] if n)


def ago(at: float | None, now: float | None = None) -> str:
    """How long ago a moment was, in words for a table."""
    if not at:
        return "never"
    return f"{duration((time.time() if now is None else now) - at)} ago"


def clock(at: float) -> str:
    """Local wall time with milliseconds; with the date when it was not today."""
    moment = datetime.fromtimestamp(at)
    text = f"{moment:%H:%M:%S}.{moment.microsecond // 1000:03d}"
    return text if moment.date() == datetime.now().date() else f"{moment:%Y-%m-%d} {text}"
