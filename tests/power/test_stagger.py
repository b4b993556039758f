"""Power-ons within their budgets: by hand, and over random racks."""

from __future__ import annotations

from collections.abc import Hashable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metalbox.power.stagger import Budget, Stagger


def run(stagger: Stagger, now: float = 0.0) -> list[tuple[float, Hashable]]:
    """Turn the clock until nobody waits: when each machine started."""
    started: list[tuple[float, Hashable]] = []
    for _ in range(100_000):
        started += [(now, key) for key in stagger.turn(now)]
        following = stagger.next_at(now)
        if following is None:
            return started
        assert following >= now
        now = max(following, now + 1e-6)
    raise AssertionError("it never ends")


def test_a_rack_starts_one_after_the_other_and_another_rack_does_not_wait() -> None:
    stagger = Stagger({"rack": Budget(2.0)})
    for number in range(3):
        stagger.ask(f"a{number}", {"rack": "r1"})
    stagger.ask("b0", {"rack": "r2"})
    stagger.ask("c0", {})
    assert run(stagger, 100.0) == [
        (100.0, "a0"), (100.0, "b0"), (100.0, "c0"), (pytest.approx(100.5), "a1"), (pytest.approx(101.0), "a2"),
    ]  # fmt: skip


def test_a_burst_and_then_the_rate() -> None:
    stagger = Stagger({"": Budget(1.0, burst=3)})
    for number in range(5):
        stagger.ask(number, {"rack": "any"})
    times = [round(at, 3) for at, _ in run(stagger)]
    assert times == [0.0, 0.0, 0.0, 1.0, 2.0]


def test_a_machine_needs_all_its_labels_and_does_not_starve() -> None:
    stagger = Stagger({"rack": Budget(10.0), "pdu": Budget(1.0)})
    for number in range(3):
        stagger.ask(f"p{number}", {"pdu": "p1"})
    stagger.ask("both", {"rack": "r1", "pdu": "p1"})
    for number in range(40):
        stagger.ask(f"r{number}", {"rack": "r1"})
    when = {key: at for at, key in run(stagger)}
    assert when["both"] == pytest.approx(3.0, abs=0.2)
    assert when["r39"] == pytest.approx(4.0, abs=0.2)


def test_asking_twice_keeps_the_place_and_leaving_gives_it_up() -> None:
    stagger = Stagger({"": Budget(1.0)})
    for key in ("a", "b", "c", "a"):
        stagger.ask(key, {})
    stagger.leave("b")
    assert stagger.waiting == ("a", "c")
    assert [key for _, key in run(stagger)] == ["a", "c"]
    assert stagger.next_at(50.0) is None


def test_a_clock_that_goes_back_gives_nothing_away() -> None:
    stagger = Stagger({"": Budget(1.0)})
    stagger.ask("a", {})
    assert stagger.turn(100.0) == ("a",)
    stagger.ask("b", {})
    assert stagger.turn(0.0) == ()
    assert stagger.turn(1.0) == ("b",)


@pytest.mark.parametrize(("rate", "burst"), [(0.0, 1), (-1.0, 1), (1.0, 0)])
def test_a_budget_that_lets_nobody_start_is_refused(rate: float, burst: int) -> None:
    with pytest.raises(ValueError, match="a budget needs"):
        Budget(rate, burst)


racks = st.lists(
    st.fixed_dictionaries({}, optional={"rack": st.sampled_from("ab"), "pdu": st.sampled_from("xyz")}), max_size=30
)
budgets = st.builds(Budget, st.floats(0.1, 20.0), st.integers(1, 4))


@settings(deadline=None)
@given(racks, budgets, budgets, budgets)
def test_no_window_of_time_holds_more_than_its_budget_and_everybody_starts(
    machines: list[dict[str, str]], whole: Budget, rack: Budget, pdu: Budget
) -> None:
    limits = {"": whole, "rack": rack, "pdu": pdu}
    stagger = Stagger(limits)
    for number, labels in enumerate(machines):
        stagger.ask(number, labels)
    started = run(stagger)
    assert sorted(int(str(key)) for _, key in started) == list(range(len(machines)))
    for label, budget in limits.items():
        for value in {labels.get(label, "") for labels in machines if label == "" or label in labels}:
            times = [at for at, key in started if machines[int(str(key))].get(label, "") == value]
            for first in range(len(times)):
                for last in range(first, len(times)):
                    allowed = budget.burst + (times[last] - times[first]) * budget.per_second
                    assert last - first + 1 <= allowed + 1e-6
