"""The site's rules for machines that are new: which are accepted, adopted or rejected without asking anybody. PURE.

The first rule that fits decides. A rule without any condition fits nothing, so that a slip of the pen does not erase a
data centre; whatever no rule fits is left to a person.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from metalbox.config import AcceptRule, Policy
from metalbox.erase.methods import Level
from metalbox.machine import Machine


@dataclass(frozen=True, slots=True)
class Chosen:
    """The decision with its reason."""

    policy: Policy
    reason: str
    level: Level | None = None


def choose(machine: Machine, rules: Sequence[AcceptRule]) -> Chosen:
    """Return what is done with a machine that reported for the first time."""
    for number, rule in enumerate(rules, 1):
        held = _reasons(machine, rule)
        if held:
            name = rule.name or f"number {number}"
            return Chosen(rule.policy, f"rule {name}: {', '.join(held)}", rule.level)
    return Chosen(Policy.MANUAL, "no rule fits")


def _reasons(machine: Machine, rule: AcceptRule) -> list[str]:
    """Why a rule fits, one clause a condition; [] when it does not, or has no condition."""
    system = machine.hardware.system
    found: list[str] = []
    for word, wanted, given in (
        ("serial number", rule.serials, (machine.serial,)),
        ("MAC", rule.macs, tuple(machine.macs)),
        ("vendor", (rule.vendor,) if rule.vendor else (), (system.vendor,)),
        ("product", (rule.product,) if rule.product else (), (system.product,)),
        ("location", (rule.location,) if rule.location else (), (machine.location,)),
    ):
        if not wanted:
            continue
        pairs = [(pattern, text) for text in given if text for pattern in wanted if _fits(text, pattern)]
        if not pairs:
            return []
        pattern, text = pairs[0]
        found.append(f"{word} {text}" if pattern.lower() == text.lower() else f"{word} {text} is {pattern}")
    return found


def _fits(text: str, pattern: str) -> bool:
    return fnmatchcase(text.lower(), pattern.lower())
