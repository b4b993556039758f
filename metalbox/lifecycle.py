"""The grammar of a machine's life: which states there are, which events, and one table that says what follows. PURE.

What is not in the table does not happen. States name where a machine rests or works; why one is stuck is never a state:
that is a fault, which stands beside it and stops everything until someone decides. Power is an observation.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from metalbox.errors import Refused
from metalbox.machine import Machine


class State(StrEnum):
    """Where a machine is in its life. UNKNOWN is a machine that is not in the inventory: nothing is stored of it."""

    UNKNOWN = "unknown"
    DISCOVERED = "discovered"
    REJECTED = "rejected"
    ERASING = "erasing"
    AVAILABLE = "available"
    DEPLOYED = "deployed"
    RETIRING = "retiring"
    RETIRED = "retired"


class Event(StrEnum):
    """What has happened to a machine, or what someone wants of it."""

    REPORTED = "reported"
    ERASED = "erased"
    ERASE_FAILED = "erase failed"
    TIMEOUT = "timeout"
    REPORT = "report"
    ACCEPT = "accept"
    ADOPT = "adopt"
    REJECT = "reject"
    RECONSIDER = "reconsider"
    ERASE = "erase"
    RELEASE = "release"
    RETIRE = "retire"
    RETRY = "retry"
    CANCEL = "cancel"
    HOLD = "hold"
    UNHOLD = "unhold"
    FORGET = "forget"


class Action(StrEnum):
    """What metalbox shall do about it, written down in the same transaction as the new state."""

    ORDER_REPORT = "order report"
    WORK = "boot agent"  # the agent is booted, or used when it runs, and gets its orders
    POWER_OFF = "power off"
    FAULT = "fault"
    CLEAR_FAULT = "clear fault"
    CLOSE_ORDERS = "close orders"
    HOLD = "hold"
    UNHOLD = "unhold"
    FORGET = "forget"


@dataclass(frozen=True, slots=True)
class Step:
    """The state after an event, and what to do then. `state` None is the state that the machine came from."""

    state: State | None
    actions: tuple[Action, ...] = ()


# Where a machine works for us: the only states that may yield an erase order, and those that have deadlines.
WORKING = frozenset({State.ERASING, State.RETIRING})
_WORK = (Action.CLEAR_FAULT, Action.WORK)
_STOP = (Action.FAULT, Action.CLOSE_ORDERS)
_END = (Action.CLEAR_FAULT, Action.CLOSE_ORDERS)

TRANSITIONS: dict[tuple[State, Event], Step] = {
    (State.UNKNOWN, Event.REPORTED): Step(State.DISCOVERED),
    (State.DISCOVERED, Event.ACCEPT): Step(State.ERASING, _WORK),
    (State.DISCOVERED, Event.ADOPT): Step(State.DEPLOYED),
    (State.DISCOVERED, Event.REJECT): Step(State.REJECTED, (Action.CLOSE_ORDERS,)),
    (State.REJECTED, Event.RECONSIDER): Step(State.DISCOVERED),
    (State.ERASING, Event.ERASED): Step(State.AVAILABLE, (*_END, Action.POWER_OFF)),
    (State.ERASING, Event.ERASE_FAILED): Step(State.ERASING, _STOP),
    (State.ERASING, Event.TIMEOUT): Step(State.ERASING, _STOP),
    (State.ERASING, Event.RETRY): Step(State.ERASING, _WORK),
    (State.ERASING, Event.CANCEL): Step(None, _END),
    (State.AVAILABLE, Event.ERASE): Step(State.ERASING, _WORK),
    (State.AVAILABLE, Event.RETIRE): Step(State.RETIRING, _WORK),
    (State.DEPLOYED, Event.RELEASE): Step(State.ERASING, _WORK),
    (State.DEPLOYED, Event.RETIRE): Step(State.RETIRING, _WORK),
    (State.RETIRING, Event.ERASED): Step(State.RETIRED, (*_END, Action.POWER_OFF)),
    (State.RETIRING, Event.ERASE_FAILED): Step(State.RETIRING, _STOP),
    (State.RETIRING, Event.TIMEOUT): Step(State.RETIRING, _STOP),
    (State.RETIRING, Event.RETRY): Step(State.RETIRING, _WORK),
    (State.RETIRING, Event.CANCEL): Step(None, _END),
} | {
    (state, event): step
    for state in State
    if state is not State.UNKNOWN
    for event, step in (
        (Event.REPORTED, Step(state)),
        (Event.REPORT, Step(state, (Action.ORDER_REPORT,))),
        (Event.HOLD, Step(state, (Action.HOLD,))),
        (Event.UNHOLD, Step(state, (Action.UNHOLD,))),
        (Event.FORGET, Step(State.UNKNOWN, (Action.FORGET,))),
    )
}

# Events that only tell what happened by itself. All others are wishes, and a machine in conflict is not ordered about:
# nobody can say which of the two boxes would do it.
FACTS = frozenset({Event.REPORTED, Event.ERASED, Event.ERASE_FAILED, Event.TIMEOUT})
# What may be wished of a machine that is held in maintenance, and of one in conflict: nothing is sent to it by these.
HARMLESS = frozenset({Event.HOLD, Event.UNHOLD, Event.FORGET, Event.REJECT, Event.CANCEL})
# Wishes that destroy data in the end.
DESTRUCTIVE = frozenset({Event.ACCEPT, Event.ERASE, Event.RELEASE, Event.RETIRE, Event.RETRY})

# How long, in seconds, a machine that we can switch has from the order until its agent begins to erase. A big server
# takes 15 minutes from power-on to the network; it is tried twice.
BOOT_SECONDS = 3600.0


def step(state: State, event: Event, conflict: str = "") -> Step:
    """Return what follows. `conflict` is the machine's sentence, or "". Raises Refused with what would be legal."""
    if conflict and event not in FACTS | HARMLESS:
        raise Refused(f"nothing may be ordered on this machine while it is in conflict: {conflict}")
    found = TRANSITIONS.get((state, event))
    if found is None:
        raise Refused(f"{event} is not possible in state {state}; possible is: {', '.join(legal(state)) or 'nothing'}")
    return found


def legal(state: State) -> list[str]:
    """What may be wished of a machine in this state, sorted."""
    return sorted(str(event) for (origin, event) in TRANSITIONS if origin is state and event not in FACTS)


def wish(machine: Machine, event: Event, *, has_begun: bool = False, force: bool = False) -> Step:
    """Return what follows of a wish for this machine as it is. Raises Refused.

    `has_begun` is whether an agent may have begun to erase in this round; `force` is a person's word that a machine may
    be forgotten although it is in use.
    """
    state = State(machine.state)
    found = step(state, event, machine.conflict)
    if machine.held and event not in HARMLESS:
        raise Refused(f"{machine.name} is held ({machine.held}): `metalbox unhold {machine.name}` first")
    if event is Event.UNHOLD and not machine.held:
        raise Refused(f"{machine.name} is not held")
    if event is Event.RETRY and machine.fault is None:
        raise Refused(f"{machine.name} has no fault to retry after: it is at work; see `metalbox why {machine.name}`")
    if event is Event.CANCEL and has_begun:
        raise Refused(
            f"the erasing of {machine.name} has begun and cannot be undone: let it end, or `metalbox retry` it"
        )
    if event is Event.FORGET and not force:
        if state is State.DEPLOYED:
            raise Refused(f"{machine.name} is in use: `metalbox release` or `retire` it, or add --force if it is gone")
        if state in WORKING:
            raise Refused(f"{machine.name} is at work: `metalbox cancel` it, or add --force if it is gone")
    return found


def why_not(machine: Machine, event: Event, *, has_begun: bool = False) -> str:
    """Return "" when this may be wished of the machine as it is, else the sentence of the refusal."""
    try:
        wish(machine, event, has_begun=has_begun)
    except Refused as error:
        return str(error)
    return ""


def may_erase(machine: Machine) -> str:
    """Return "" when an erase order may be made for this machine now, else the sentence why not."""
    if machine.state not in WORKING:
        return f"it is {machine.state}"
    if machine.fault is not None:
        return f"it has a fault: {machine.fault.text}"
    if machine.held:
        return f"it is held: {machine.held}"
    return f"it is in conflict: {machine.conflict}" if machine.conflict else ""


def rows() -> list[tuple[str, str, str, str]]:
    """The table for people: (state, event, state after, what then), without what every state has."""
    common = {Event.REPORTED, Event.REPORT, Event.HOLD, Event.UNHOLD, Event.FORGET}
    words: Mapping[Action, str] = {Action.WORK: "boot agent, erase", Action.POWER_OFF: "power off"}
    found = []
    for (state, event), after in TRANSITIONS.items():
        if event in common and state is not State.UNKNOWN:
            continue
        then = [words[action] for action in after.actions if action in words]
        if Action.FAULT in after.actions:
            then = ["fault: nothing is ordered until RETRY"]
        name = str(after.state) if after.state else "the state before"
        found.append((str(state), event.name, name, ", ".join(then)))
    return found
