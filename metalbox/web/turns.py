"""Who of many that fetch big files is served at full speed, and who is next. PURE.

`places` at a time; the others wait in the order in which they came. Who has a place keeps it to the end of the file,
unless somebody waits and it is too slow to make use of it, or has had its share: then it goes to the end of the line.
So a stalled machine holds nobody up, and a kernel is not kept waiting until sixty disk images are through.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

# How long a place is held before its speed is looked at, and again after each look.
LOOK_SECONDS = 4.0
# Slower than this, a transfer needs no place: the trickle of those who wait is hardly less.
SLOW_RATE = 1 << 20
# Then others are let before it, if there are any.
SHARE_BYTES = 512 << 20


@dataclass(slots=True, eq=False)
class Turn:
    """One transfer. `sent` is counted up by whoever sends; `waited` are the seconds in the line until it was left."""

    since: float
    has_place: bool = False
    sent: int = 0
    waited: float = 0.0
    began: int = 0
    looked_at: float = 0.0
    looked: int = 0


class Turns:
    """The places and the line. `now` are seconds of any clock that never goes back."""

    def __init__(self, places: int) -> None:
        self.places = places
        self._holders: dict[Turn, None] = {}
        self._line: dict[Turn, None] = {}

    def __len__(self) -> int:
        return len(self._holders) + len(self._line)

    @property
    def in_line(self) -> int:
        """How many wait."""
        return len(self._line)

    def waiting(self) -> Iterator[Turn]:
        """Those in the line, the next one first."""
        return iter(tuple(self._line))

    def come(self, now: float) -> Turn:
        """One more; whether it has a place at once stands in it."""
        turn = Turn(now)
        if len(self._holders) < self.places and not self._line:
            self._seat(turn, now)
        else:
            self._line[turn] = None
        return turn

    def leave(self, turn: Turn, now: float) -> None:
        """It is over, or its client has left."""
        if turn in self._line:
            turn.waited += now - turn.since
        self._holders.pop(turn, None)
        self._line.pop(turn, None)
        turn.has_place = False

    def hand_on(self, now: float) -> list[Turn]:
        """Take the places of those who are slow, or have had their share, as far as others wait; returns those."""
        slow = [turn for turn in self._holders if _is_slow(turn, now)]
        sated = (turn for turn in self._holders if turn.sent - turn.began >= SHARE_BYTES)
        losing = list(dict.fromkeys((*slow, *sated)))[: len(self._line)]
        for turn in losing:
            del self._holders[turn]
            turn.has_place, turn.since = False, now
            self._line[turn] = None
        return losing

    def admit(self, now: float) -> list[Turn]:
        """Give free places to the first in the line; returns those who have one now."""
        free = max(0, self.places - len(self._holders))
        found = [turn for turn, _ in zip(self._line, range(free), strict=False)]
        for turn in found:
            del self._line[turn]
            turn.waited += now - turn.since
            self._seat(turn, now)
        return found

    def holders(self) -> Iterable[Turn]:
        """Those with a place."""
        return self._holders.keys()

    def _seat(self, turn: Turn, now: float) -> None:
        turn.has_place = True
        turn.began = turn.looked = turn.sent
        turn.looked_at = now
        self._holders[turn] = None


def _is_slow(turn: Turn, now: float) -> bool:
    """Look at its speed since the last look, when that is long enough ago."""
    passed = now - turn.looked_at
    if passed < LOOK_SECONDS:
        return False
    found = turn.sent - turn.looked < SLOW_RATE * passed
    turn.looked_at, turn.looked = now, turn.sent
    return found
