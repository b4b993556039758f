"""Places and the line for them, with a clock of the test's."""

from __future__ import annotations

from metalbox.web.turns import LOOK_SECONDS, SHARE_BYTES, SLOW_RATE, Turns

FAST = int(SLOW_RATE * LOOK_SECONDS)


def test_so_many_at_a_time_and_the_others_in_the_order_of_their_coming() -> None:
    turns = Turns(2)
    first, second, third, fourth = (turns.come(float(n)) for n in range(4))
    assert [turn.has_place for turn in (first, second, third, fourth)] == [True, True, False, False]
    assert (len(turns), turns.in_line) == (4, 2)
    assert turns.admit(5.0) == []
    turns.leave(second, 6.0)
    assert turns.admit(6.0) == [third]
    assert (third.has_place, third.waited) == (True, 4.0)
    turns.leave(first, 7.0)
    turns.leave(third, 7.0)
    assert turns.admit(8.0) == [fourth]
    turns.leave(fourth, 8.0)
    assert (len(turns), turns.admit(9.0)) == (0, [])


def test_nobody_goes_before_the_line_when_a_place_is_free() -> None:
    turns = Turns(1)
    first, second = turns.come(0.0), turns.come(0.0)
    turns.leave(first, 1.0)
    late = turns.come(1.0)
    assert not late.has_place
    assert turns.admit(1.0) == [second]


def test_who_leaves_the_line_frees_its_place_in_it() -> None:
    turns = Turns(1)
    first, second, third = (turns.come(0.0) for _ in range(3))
    turns.leave(second, 2.5)
    assert second.waited == 2.5
    assert list(turns.waiting()) == [third]
    turns.leave(first, 3.0)
    assert turns.admit(3.0) == [third]
    turns.leave(second, 4.0)
    assert second.waited == 2.5


def test_a_stalled_transfer_loses_its_place_only_to_one_who_waits() -> None:
    turns = Turns(2)
    stalled, fast = turns.come(0.0), turns.come(0.0)
    fast.sent = FAST
    assert turns.hand_on(LOOK_SECONDS) == []
    assert stalled.has_place
    other = turns.come(5.0)
    fast.sent = 3 * FAST
    assert turns.hand_on(LOOK_SECONDS + 1) == []  # looked at a moment ago
    assert turns.hand_on(2 * LOOK_SECONDS) == [stalled]
    assert turns.admit(2 * LOOK_SECONDS) == [other]
    assert (stalled.has_place, fast.has_place, list(turns.waiting())) == (False, True, [stalled])
    turns.leave(other, 9.0)
    assert turns.admit(9.0) == [stalled]
    assert stalled.waited == 1.0


def test_no_more_places_are_taken_than_there_are_who_wait() -> None:
    turns = Turns(3)
    holders = [turns.come(0.0) for _ in range(3)]
    turns.come(0.0)
    assert turns.hand_on(LOOK_SECONDS) == holders[:1]


def test_who_has_had_its_share_lets_others_before_it() -> None:
    turns = Turns(1)
    image, kernel = turns.come(0.0), turns.come(0.5)
    image.sent = SHARE_BYTES - 1
    assert turns.hand_on(1.0) == []
    image.sent = SHARE_BYTES
    assert turns.hand_on(1.0) == [image]
    assert turns.admit(1.0) == [kernel]
    turns.leave(kernel, 2.0)
    assert turns.admit(2.0) == [image]
    # A new share begins with the new place.
    turns.come(2.0)
    image.sent += SHARE_BYTES - 1
    assert turns.hand_on(2.5) == []
