"""When a BMC that failed may be asked again: a circuit breaker as a value. PURE, `now` is an argument.

Closed lets everything through. After some failures in a row it opens and nothing is sent for a while; then one command
goes as a probe (half open) and decides. Pauses double up to a limit; nothing is remembered for ever.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum


class Phase(StrEnum):
    """Where a breaker stands."""

    CLOSED = "closed"
    OPEN = "open"
    PROBING = "probing"


class Scope(StrEnum):
    """What a failure says something about: the whole way to the BMC, only this verb, or either."""

    DRIVER = "driver"
    VERB = "verb"
    BOTH = "both"


@dataclass(frozen=True, slots=True)
class Rule:
    """What one kind of failure does to a breaker. Seconds."""

    scope: Scope
    threshold: int  # failures in a row that open it
    pause: float  # of the first opening; doubles with each probe that fails
    longest: float
    repeat: bool = False  # worth another try within the same order


# By the codes of PowerError. A wrong password is never repeated: iDRAC, iLO and many IPMI stacks lock the account after
# three to six failures, and the operator's own account with the same name as well.
RULES: Mapping[str, Rule] = {
    "unreachable": Rule(Scope.DRIVER, 3, 10.0, 120.0, repeat=True),
    "hung": Rule(Scope.BOTH, 2, 10.0, 120.0, repeat=True),
    "sessions-full": Rule(Scope.DRIVER, 3, 30.0, 300.0, repeat=True),
    "wrong-password": Rule(Scope.DRIVER, 1, 900.0, 14_400.0),
    "bad-tls": Rule(Scope.DRIVER, 1, 300.0, 3_600.0),
    "garbage": Rule(Scope.VERB, 3, 30.0, 300.0, repeat=True),
    "refused": Rule(Scope.VERB, 3, 10.0, 120.0),
    "in-use": Rule(Scope.VERB, 3, 10.0, 120.0),
    "not-obeyed": Rule(Scope.VERB, 1, 60.0, 3_600.0),
    "not-supported": Rule(Scope.VERB, 1, 600.0, 86_400.0),
    "licence": Rule(Scope.VERB, 1, 3_600.0, 86_400.0),
}
OTHER = Rule(Scope.VERB, 3, 10.0, 120.0)

# A probe that nobody reported back on (its task was cancelled) is counted as lost after this.
PROBE_SECONDS = 60.0
# Who insists (a person's order) goes through an open breaker, but not in a burst.
INSIST_SECONDS = 2.0
# Jitter moves a pause by up to this part of itself, so that a rack that died together is not probed together.
JITTER = 0.25


def rule_of(code: str) -> Rule:
    """The row for a PowerError's code."""
    return RULES.get(code, OTHER)


@dataclass(frozen=True, slots=True)
class Breaker:
    """One breaker. `failures` in a row, the last at `failed_at` by `code`; `until` is when its phase may change."""

    phase: Phase = Phase.CLOSED
    failures: int = 0
    openings: int = 0
    failed_at: float = 0.0
    until: float = 0.0
    code: str = ""
    text: str = ""
    evidence: str = ""

    def allows(self, now: float, *, insist: bool = False) -> bool:
        """Whether a command may go now. `insist` goes early, except where another try could lock an account."""
        if self.phase is Phase.CLOSED or now >= self.until:
            return True
        return insist and self.code != "wrong-password" and now - self.failed_at >= INSIST_SECONDS

    def asked(self, now: float) -> Breaker:
        """A command goes: through an open breaker it is the probe, and nothing else goes until it is back."""
        if self.phase is Phase.CLOSED:
            return self
        return replace(self, phase=Phase.PROBING, until=now + PROBE_SECONDS)

    def failed(self, code: str, now: float, *, text: str = "", evidence: str = "", jitter: float = 0.5) -> Breaker:
        """The command failed. `jitter` is a random number of 0 to 1."""
        rule = rule_of(code)
        failed = replace(self, failures=self.failures + 1, failed_at=now, code=code, text=text, evidence=evidence)
        if self.phase is Phase.CLOSED and failed.failures < rule.threshold:
            return failed
        pause = min(rule.longest, rule.pause * 2.0 ** min(self.openings, 16))
        pause *= 1.0 + JITTER * (2.0 * jitter - 1.0)
        return replace(failed, phase=Phase.OPEN, openings=self.openings + 1, until=now + pause)

    def succeeded(self) -> Breaker:
        """The command was answered: everything is forgotten."""
        return CLOSED


CLOSED = Breaker()


def pause_before(attempt: int, *, first: float = 0.5, longest: float = 8.0, jitter: float = 0.5) -> float:
    """Seconds to wait before attempt 1, 2, ... of the same command: doubling, half to whole of it by `jitter`."""
    return min(longest, first * 2.0 ** (attempt - 1)) * (0.5 + 0.5 * jitter)
