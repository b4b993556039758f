"""How many machines may be switched on per second, by rack, PDU or whatever the operator labels. PURE.

A server draws several times its usual current for a second or two after power-on; forty of them at once trip the
breaker of a rack. Each label has a bucket of tokens; a machine starts when every one of its labels has a token for it.
First come, first served, but nobody waits behind a machine whose labels are other ones.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass

# Below this a token counts as whole: sums of floating point seconds do not add up exactly.
EPSILON = 1e-9


@dataclass(frozen=True, slots=True)
class Budget:
    """So many power-ons per second for each value of a label, and so many at once after a quiet time."""

    per_second: float
    burst: int = 1

    def __post_init__(self) -> None:
        if self.per_second <= 0 or self.burst < 1:
            raise ValueError(f"a budget needs more than 0 per second and a burst of 1 or more, not {self}")


@dataclass(slots=True)
class _Bucket:
    tokens: float
    at: float


Place = tuple[str, str]  # a label and its value: ("rack", "r1")


class Stagger:
    """Who waits to be switched on, and who may be now. The label "" stands for all machines together."""

    def __init__(self, budgets: Mapping[str, Budget]) -> None:
        self._budgets = dict(budgets)
        self._buckets: dict[Place, _Bucket] = {}
        self._waiting: dict[Hashable, tuple[Place, ...]] = {}

    def ask(self, key: Hashable, labels: Mapping[str, str]) -> None:
        """The machine `key` wants to be switched on. Asking again keeps its place in the queue."""
        places = tuple((label, labels.get(label, "")) for label in self._budgets if label == "" or labels.get(label))
        self._waiting.setdefault(key, places)

    def leave(self, key: Hashable) -> None:
        """The machine does not want to any more."""
        self._waiting.pop(key, None)

    @property
    def waiting(self) -> tuple[Hashable, ...]:
        """Who waits, in order."""
        return tuple(self._waiting)

    def turn(self, now: float) -> tuple[Hashable, ...]:
        """Take out of the queue, and return, who may start at `now`."""
        started: list[Hashable] = []
        for key, places in self._waiting.items():
            # Who needs two labels is asked first when the scarcer one has a token again, so nobody starves.
            if all(self._filled(place, now) >= 1.0 - EPSILON for place in places):
                for place in places:
                    self._buckets[place].tokens -= 1.0
                started.append(key)
        for key in started:
            del self._waiting[key]
        return tuple(started)

    def next_at(self, now: float) -> float | None:
        """When `turn` may have something to say again; None while nobody waits."""
        times = [max((self._ready(place, now) for place in places), default=now) for places in self._waiting.values()]
        return min(times, default=None)

    def _filled(self, place: Place, now: float) -> float:
        """The tokens of a place at `now`; a clock that goes back fills nothing."""
        budget = self._budgets[place[0]]
        bucket = self._buckets.setdefault(place, _Bucket(float(budget.burst), now))
        if now > bucket.at:
            bucket.tokens = min(float(budget.burst), bucket.tokens + (now - bucket.at) * budget.per_second)
        bucket.at = now
        return bucket.tokens

    def _ready(self, place: Place, now: float) -> float:
        missing = 1.0 - self._filled(place, now)
        return now + max(0.0, missing) / self._budgets[place[0]].per_second
