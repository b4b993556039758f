"""Every state with every event: what is in the table happens, and nothing else."""

from __future__ import annotations

import itertools

import pytest

from metalbox.errors import Refused
from metalbox.lifecycle import FACTS, TRANSITIONS, Action, Event, State, Step, step

EXPECTED = {
    (State.UNKNOWN, Event.REPORTED): Step(State.DISCOVERED),
    (State.DISCOVERED, Event.REPORTED): Step(State.DISCOVERED),
    (State.DISCOVERED, Event.REPORT): Step(State.DISCOVERED, (Action.ORDER_REPORT,)),
}


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


def test_in_conflict_facts_are_taken_and_wishes_refused() -> None:
    for (state, event), expected in TRANSITIONS.items():
        if event in FACTS:
            assert step(state, event, "same UUID as b") == expected
        else:
            with pytest.raises(Refused, match="while it is in conflict: same UUID as b"):
                step(state, event, "same UUID as b")


def test_every_state_can_be_reached() -> None:
    reached = {State.UNKNOWN}
    for _ in State:
        reached |= {found.state for (origin, _), found in TRANSITIONS.items() if origin in reached}
    assert reached == set(State)
