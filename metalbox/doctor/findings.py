"""What a check found: good, worth a look, or broken, with the advice that goes with it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Level(StrEnum):
    """How a check ended."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"
    SKIP = "skip"


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the doctor's answer. `advice` says what to do, "" when there is nothing to do."""

    level: Level
    check: str
    text: str
    advice: str = ""
