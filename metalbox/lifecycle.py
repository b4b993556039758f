"""The grammar of a machine's life: which states there are, which events, and one table that says what follows. PURE.

What is not in the table does not happen. States name where a machine rests or works; why one is stuck is never a
state. The later rows of a life (accept, erase, deploy, ...) come as rows of the same table.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from metalbox.errors import Refused


class State(StrEnum):
    """Where a machine is in its life. UNKNOWN is a machine that is not in the inventory: nothing is stored of it."""

    UNKNOWN = "unknown"
    DISCOVERED = "discovered"


class Event(StrEnum):
    """What has happened to a machine, or what someone wants of it."""

    REPORTED = "reported"
    REPORT = "report"


class Action(StrEnum):
    """What metalbox shall do about it, written down in the same transaction as the new state."""

    ORDER_REPORT = "order report"


@dataclass(frozen=True, slots=True)
class Step:
    """The state after an event, and what to do then."""

    state: State
    actions: tuple[Action, ...] = ()


TRANSITIONS: dict[tuple[State, Event], Step] = {
    (State.UNKNOWN, Event.REPORTED): Step(State.DISCOVERED),
    (State.DISCOVERED, Event.REPORTED): Step(State.DISCOVERED),
    (State.DISCOVERED, Event.REPORT): Step(State.DISCOVERED, (Action.ORDER_REPORT,)),
}

# Events that only tell what a machine said by itself. All others are wishes, and a machine in conflict is not ordered
# about: nobody can say which of the two boxes would do it.
FACTS = frozenset({Event.REPORTED})


def step(state: State, event: Event, conflict: str = "") -> Step:
    """Return what follows. `conflict` is the machine's sentence, or "". Raises Refused with what would be legal."""
    if conflict and event not in FACTS:
        raise Refused(f"nothing may be ordered on this machine while it is in conflict: {conflict}")
    found = TRANSITIONS.get((state, event))
    if found is None:
        legal = sorted(other for (origin, other) in TRANSITIONS if origin is state and other not in FACTS)
        raise Refused(f"{event} is not possible in state {state}; possible is: {', '.join(legal) or 'nothing'}")
    return found
