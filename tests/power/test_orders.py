"""The table of what to send next, whole; and the values."""

from __future__ import annotations

import itertools

import pytest

from metalbox.power import PowerState
from metalbox.power.orders import WANTED, Observation, Verb, Write, next_write

ON, OFF, UNKNOWN = PowerState.ON, PowerState.OFF, PowerState.UNKNOWN


@pytest.mark.parametrize(
    ("verb", "state", "sent", "following"),
    [
        (Verb.ON, OFF, (), Write.ON),
        (Verb.ON, ON, (), None),
        (Verb.OFF, ON, (), Write.OFF),
        (Verb.OFF, OFF, (), None),
        (Verb.SOFT_OFF, ON, (), Write.SOFT_OFF),
        (Verb.SOFT_OFF, OFF, (), None),
        (Verb.CYCLE, ON, (), Write.OFF),
        (Verb.CYCLE, OFF, (Write.OFF,), Write.ON),
        (Verb.CYCLE, ON, (Write.OFF, Write.ON), None),
        (Verb.CYCLE, OFF, (), Write.ON),
        # Saved, and killed before it left, or not obeyed: the machine is on and our ON was never sent.
        (Verb.CYCLE, ON, (Write.OFF,), Write.OFF),
        (Verb.RESET, ON, (), Write.CYCLE),
        (Verb.RESET, OFF, (), Write.ON),
        (Verb.RESET, ON, (Write.CYCLE,), None),
        (Verb.RESET, OFF, (Write.CYCLE,), Write.ON),
        (Verb.BOOT_NEXT, ON, (), None),
        (Verb.ON, UNKNOWN, (), Write.ON),
        (Verb.ON, UNKNOWN, (Write.ON,), None),
        (Verb.OFF, UNKNOWN, (), Write.OFF),
        (Verb.SOFT_OFF, UNKNOWN, (), Write.SOFT_OFF),
        (Verb.CYCLE, UNKNOWN, (), Write.CYCLE),
        (Verb.RESET, UNKNOWN, (Write.CYCLE,), None),
    ],
)
def test_what_comes_next(verb: Verb, state: PowerState, sent: tuple[Write, ...], following: Write | None) -> None:
    assert next_write(verb, state, sent) is following


def test_nothing_is_ever_sent_against_the_state_and_every_order_ends() -> None:
    for verb, state, length in itertools.product(Verb, (ON, OFF), range(3)):
        for sent in itertools.product(Write, repeat=length):
            write = next_write(verb, state, sent)
            if write in (Write.OFF, Write.SOFT_OFF, Write.CYCLE):
                assert state is ON
            if write is Write.ON:
                assert state is OFF
            if write in (Write.OFF, Write.SOFT_OFF) and verb is Verb.CYCLE:
                assert Write.ON not in sent, "it was off before, and is not switched off twice"
    for verb, first in itertools.product(Verb, (ON, OFF)):
        state, path = first, list[Write]()
        while (write := next_write(verb, state, path)) is not None:
            path.append(write)
            state = WANTED[write]
            assert len(path) <= 2
        assert not (verb in (Verb.ON, Verb.CYCLE, Verb.RESET) and state is OFF)


def test_an_observation_has_an_age_only_when_something_was_seen() -> None:
    assert Observation().age(100.0) is None
    assert Observation(ON, 90.0, "ipmi").age(100.0) == 10.0
    assert Observation(ON, 90.0, "ipmi", code="hung", tried_at=99.0).age(100.0) == 10.0
