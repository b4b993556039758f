"""Every state with every event: what is in the table happens, and nothing else."""

from __future__ import annotations

import dataclasses
import itertools
import re
from pathlib import Path

import pytest

from metalbox.errors import Refused
from metalbox.lifecycle import (
    DESTRUCTIVE,
    FACTS,
    HARMLESS,
    TRANSITIONS,
    WORKING,
    Action,
    Event,
    State,
    Step,
    legal,
    may_erase,
    rows,
    step,
    why_not,
    wish,
)
from metalbox.machine import Fault, Machine

S, E, A = State, Event, Action
STOP = (A.FAULT, A.CLOSE_ORDERS)
EXPECTED = {
    (S.UNKNOWN, E.REPORTED): Step(S.DISCOVERED),
    (S.DISCOVERED, E.ACCEPT): Step(S.ERASING, (A.CLEAR_FAULT, A.WORK)),
    (S.DISCOVERED, E.ADOPT): Step(S.DEPLOYED),
    (S.DISCOVERED, E.REJECT): Step(S.REJECTED, (A.CLOSE_ORDERS,)),
    (S.REJECTED, E.RECONSIDER): Step(S.DISCOVERED),
    (S.AVAILABLE, E.ERASE): Step(S.ERASING, (A.CLEAR_FAULT, A.WORK)),
    (S.AVAILABLE, E.RETIRE): Step(S.RETIRING, (A.CLEAR_FAULT, A.WORK)),
    (S.DEPLOYED, E.RELEASE): Step(S.ERASING, (A.CLEAR_FAULT, A.WORK)),
    (S.DEPLOYED, E.RETIRE): Step(S.RETIRING, (A.CLEAR_FAULT, A.WORK)),
}
for state, rest in ((S.ERASING, S.AVAILABLE), (S.RETIRING, S.RETIRED)):
    EXPECTED |= {
        (state, E.ERASED): Step(rest, (A.CLEAR_FAULT, A.CLOSE_ORDERS, A.POWER_OFF)),
        (state, E.ERASE_FAILED): Step(state, STOP),
        (state, E.TIMEOUT): Step(state, STOP),
        (state, E.RETRY): Step(state, (A.CLEAR_FAULT, A.WORK)),
        (state, E.CANCEL): Step(None, (A.CLEAR_FAULT, A.CLOSE_ORDERS)),
    }
for state in set(S) - {S.UNKNOWN}:
    EXPECTED |= {
        (state, E.REPORTED): Step(state),
        (state, E.REPORT): Step(state, (A.ORDER_REPORT,)),
        (state, E.HOLD): Step(state, (A.HOLD,)),
        (state, E.UNHOLD): Step(state, (A.UNHOLD,)),
        (state, E.FORGET): Step(S.UNKNOWN, (A.FORGET,)),
    }


def machine(state: State, **more: object) -> Machine:
    return dataclasses.replace(Machine(1, "m1", state), **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(("state", "event"), list(itertools.product(State, Event)))
def test_every_pair(state: State, event: Event) -> None:
    if (state, event) in EXPECTED:
        assert step(state, event) == EXPECTED[state, event]
    else:
        with pytest.raises(Refused, match=f"{event} is not possible in state {state}"):
            step(state, event)


def test_the_refusal_says_what_would_be_legal() -> None:
    with pytest.raises(Refused) as caught:
        step(State.UNKNOWN, Event.REPORT)
    assert str(caught.value) == "report is not possible in state unknown; possible is: nothing"
    with pytest.raises(Refused) as caught:
        step(State.DEPLOYED, Event.ERASE)
    assert str(caught.value).endswith("possible is: forget, hold, release, report, retire, unhold")


def test_in_conflict_facts_are_taken_and_wishes_refused() -> None:
    for (state, event), expected in TRANSITIONS.items():
        if event in FACTS | HARMLESS:
            assert step(state, event, "same UUID as b") == expected
        else:
            with pytest.raises(Refused, match="while it is in conflict: same UUID as b"):
                step(state, event, "same UUID as b")


def test_every_state_can_be_reached() -> None:
    reached = {State.UNKNOWN}
    for _ in State:
        reached |= {found.state for (origin, _), found in TRANSITIONS.items() if origin in reached and found.state}
    assert reached == set(State)


def test_work_begins_only_by_a_wish_that_is_named_destructive_and_never_from_rest_in_use_but_release_or_retire() -> (
    None
):
    for (state, event), after in TRANSITIONS.items():
        if Action.WORK in after.actions:
            assert event in DESTRUCTIVE and after.state in WORKING
            if state is State.DEPLOYED:
                assert event in (Event.RELEASE, Event.RETIRE)
        if after.state in WORKING and state not in WORKING:
            assert Action.WORK in after.actions
        if after.state is State.AVAILABLE and state is not State.AVAILABLE:
            assert (state, event) == (State.ERASING, Event.ERASED)
        if after.state is State.RETIRED and state is not State.RETIRED:
            assert (state, event) == (State.RETIRING, Event.ERASED)


@pytest.mark.parametrize("event", sorted(set(Event) - FACTS))
def test_a_held_machine_takes_only_what_sends_nothing_to_it(event: Event) -> None:
    for state in (State.DISCOVERED, State.ERASING, State.AVAILABLE, State.DEPLOYED):
        if (state, event) not in TRANSITIONS:
            continue
        held = machine(state, held="a new power supply", fault=Fault("x", "y"))
        if event in HARMLESS:
            wish(held, event, force=True)
        else:
            with pytest.raises(Refused, match=r"held \(a new power supply\)"):
                wish(held, event)


def test_what_else_is_refused() -> None:
    fault = Fault("erase-failed", "disk S1 failed")
    with pytest.raises(Refused, match="has no fault to retry after"):
        wish(machine(State.ERASING), Event.RETRY)
    assert wish(machine(State.ERASING, fault=fault), Event.RETRY).state is State.ERASING
    with pytest.raises(Refused, match="has begun and cannot be undone"):
        wish(machine(State.ERASING), Event.CANCEL, has_begun=True)
    assert wish(machine(State.ERASING), Event.CANCEL).state is None
    with pytest.raises(Refused, match="is not held"):
        wish(machine(State.DEPLOYED), Event.UNHOLD)
    for state in (State.DEPLOYED, State.ERASING, State.RETIRING):
        with pytest.raises(Refused, match="add --force if it is gone"):
            wish(machine(state), Event.FORGET)
        assert wish(machine(state), Event.FORGET, force=True).state is State.UNKNOWN
    assert wish(machine(State.RETIRED), Event.FORGET).actions == (Action.FORGET,)


@pytest.mark.parametrize("state", sorted(set(State) - {State.UNKNOWN}))
def test_an_erase_order_needs_a_working_state_and_nothing_against_it(state: State) -> None:
    if state not in WORKING:
        assert may_erase(machine(state)) == f"it is {state}"
        return
    assert may_erase(machine(state)) == ""
    assert may_erase(machine(state, fault=Fault("x", "y"))) == "it has a fault: y"
    assert may_erase(machine(state, held="me")) == "it is held: me"
    assert may_erase(machine(state, conflict="twin")) == "it is in conflict: twin"


def test_the_readme_shows_this_table() -> None:
    text = Path(__file__).parents[1].joinpath("README.md").read_text()
    found = re.findall(r"^\| (\S+) \| ([A-Z_]+) \| ([a-z ]+?) \| ?(.*?) ?\|$", text, re.MULTILINE)
    assert found == rows()


def test_why_a_wish_would_be_refused() -> None:
    assert why_not(machine(State.AVAILABLE), Event.ERASE) == ""
    assert why_not(machine(State.AVAILABLE), Event.ACCEPT).startswith("accept is not possible in state available")
    assert "has begun" in why_not(machine(State.ERASING), Event.CANCEL, has_begun=True)


def test_legal_wishes_are_sorted_words() -> None:
    assert legal(State.REJECTED) == ["forget", "hold", "reconsider", "report", "unhold"]
