"""The circuit breaker: by hand, and over random walks."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metalbox.power.breaker import (
    CLOSED,
    INSIST_SECONDS,
    JITTER,
    PROBE_SECONDS,
    RULES,
    Phase,
    pause_before,
    rule_of,
)
from metalbox.power.desk import ERRORS

CODES = sorted(RULES)


def test_every_code_of_a_power_error_has_its_rule() -> None:
    assert set(RULES) == set(ERRORS)


def test_it_opens_after_the_third_failure_and_probes_once() -> None:
    breaker = CLOSED
    for second in range(3):
        assert breaker.allows(float(second))
        breaker = breaker.asked(float(second)).failed("unreachable", float(second), text="no route")
    assert breaker.phase is Phase.OPEN and breaker.until == 12.0 and breaker.text == "no route"
    assert not breaker.allows(11.9)
    assert breaker.allows(12.0)
    probing = breaker.asked(12.0)
    assert probing.phase is Phase.PROBING
    assert not probing.allows(12.1), "one probe at a time"
    assert probing.succeeded() == CLOSED


def test_a_failed_probe_doubles_the_pause_up_to_the_limit() -> None:
    breaker, now, pauses = CLOSED, 0.0, []
    for _ in range(12):
        breaker = breaker.asked(now).failed("unreachable", now)
        if breaker.phase is Phase.OPEN:
            pauses.append(breaker.until - now)
            now = breaker.until
    assert pauses == [10.0, 20.0, 40.0, 80.0, 120.0, 120.0, 120.0, 120.0, 120.0, 120.0]


def test_a_lost_probe_does_not_close_the_way_for_ever() -> None:
    breaker = CLOSED.failed("bad-tls", 0.0).asked(1_000.0)
    assert not breaker.allows(1_000.0 + PROBE_SECONDS - 1)
    assert breaker.allows(1_000.0 + PROBE_SECONDS)


def test_a_person_goes_through_but_not_in_a_burst_and_never_with_a_wrong_password() -> None:
    breaker = CLOSED.failed("not-supported", 100.0)
    assert not breaker.allows(100.0 + INSIST_SECONDS) and breaker.allows(100.0 + INSIST_SECONDS, insist=True)
    assert not breaker.allows(100.0, insist=True)
    locked = CLOSED.failed("wrong-password", 100.0)
    assert not locked.allows(500.0, insist=True)
    assert locked.allows(100.0 + RULES["wrong-password"].pause * (1 + JITTER))


@pytest.mark.parametrize("code", CODES)
def test_what_cannot_be_cured_by_asking_again_is_not_repeated(code: str) -> None:
    assert rule_of(code).repeat is (code in {"unreachable", "hung", "sessions-full", "garbage"})


def test_a_code_of_tomorrow_has_a_mild_rule() -> None:
    assert CLOSED.failed("on-fire", 0.0).phase is Phase.CLOSED


steps = st.lists(
    st.tuples(
        st.sampled_from(["ask and fail", "ask and succeed", "ask and vanish", "wait"]),
        st.sampled_from(CODES),
        st.floats(0.0, 500.0),
        st.floats(0.0, 1.0),
    ),
    max_size=60,
)


@given(steps)
def test_whatever_happens_it_lets_something_through_again_in_bounded_time(
    walk: list[tuple[str, str, float, float]],
) -> None:
    breaker, now = CLOSED, 0.0
    for what, code, seconds, jitter in walk:
        now += seconds
        if what == "wait" or not breaker.allows(now):
            assert breaker.phase is not Phase.CLOSED or what == "wait", "a closed breaker lets all through"
            continue
        was = breaker.phase
        breaker = breaker.asked(now)
        assert (breaker.phase is Phase.CLOSED) is (was is Phase.CLOSED)
        if what == "ask and vanish":
            assert breaker.phase is Phase.CLOSED or not breaker.allows(now), "half open: one at a time"
        elif what == "ask and succeed":
            breaker = breaker.succeeded()
            assert breaker == CLOSED
        else:
            before = breaker
            breaker = breaker.failed(code, now, jitter=jitter)
            assert breaker.failures == before.failures + 1 and breaker.code == code
            if before.phase is Phase.PROBING or breaker.failures >= RULES[code].threshold:
                assert breaker.phase is Phase.OPEN and not breaker.allows(now)
                longest = RULES[code].longest * (1 + JITTER)
                assert now < breaker.until <= now + longest, "nothing is remembered for ever"
        assert breaker.allows(max(now, breaker.until))


@given(st.integers(1, 50), st.floats(0.0, 1.0))
def test_pauses_between_tries_grow_and_are_bounded(attempt: int, jitter: float) -> None:
    pause = pause_before(attempt, first=0.5, longest=8.0, jitter=jitter)
    whole = min(8.0, 0.5 * 2 ** (attempt - 1))
    assert whole / 2 <= pause <= whole
