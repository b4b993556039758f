"""Serial over LAN's packets, each side's losses and repetitions, on a clock that is turned."""

from __future__ import annotations

import math
import random

import pytest

from metalbox.errors import BmcGarbage, BmcHung
from metalbox.power.sol import MAX_TRIES, NACK_SECONDS, RETRY_SECONDS, STUCK_SECONDS, Heard, Sol


def from_bmc(number: int = 0, acked: int = 0, accepted: int = 0, status: int = 0, data: bytes = b"") -> bytes:
    return bytes((number, acked, accepted, status)) + data


def test_what_is_typed_goes_out_in_pieces_each_after_the_last_was_taken() -> None:
    sol = Sol(size=4 + 3)
    assert sol.due == math.inf
    sol.send(b"reboot")
    assert sol.packet(0.0) == b"\x01\0\0\0reb"
    assert sol.packet(0.1) is None
    assert sol.due == RETRY_SECONDS
    assert sol.waiting == 6
    assert sol.receive(from_bmc(acked=1, accepted=3), 0.2) == Heard()
    assert sol.packet(0.2) == b"\x02\0\0\0oot"
    sol.receive(from_bmc(acked=2, accepted=3), 0.3)
    assert sol.packet(0.3) is None
    assert (sol.waiting, sol.due) == (0, math.inf)


def test_numbers_run_from_1_to_15() -> None:
    sol = Sol(size=5)
    sol.send(b"x" * 17)
    numbers = []
    for _ in range(17):
        packet = sol.packet(0.0)
        assert packet is not None
        numbers.append(packet[0])
        sol.receive(from_bmc(acked=packet[0], accepted=1), 0.0)
    assert numbers == [*range(1, 16), 1, 2]


def test_a_lost_packet_is_sent_again_and_at_last_the_session_is_lost() -> None:
    sol = Sol(size=100)
    sol.send(b"a")
    now = 10.0
    for _ in range(MAX_TRIES):
        assert sol.packet(now) == b"\x01\0\0\0a"
        assert sol.packet(now + RETRY_SECONDS / 2) is None
        now += RETRY_SECONDS
    with pytest.raises(BmcHung, match="does not acknowledge"):
        sol.packet(now)


def test_an_answer_to_an_earlier_packet_moves_nothing() -> None:
    sol = Sol(size=100)
    sol.send(b"a")
    sol.packet(0.0)
    sol.receive(from_bmc(acked=7, accepted=1), 0.1)
    assert sol.waiting == 1


@pytest.mark.parametrize("status", [0x40, 0], ids=["with a NACK", "with an ACK"])
def test_a_packet_that_was_taken_in_part(status: int) -> None:
    sol = Sol(size=100)
    sol.send(b"abcdef")
    sol.packet(0.0)
    sol.receive(from_bmc(acked=1, accepted=2, status=status), 0.1)
    assert sol.packet(0.1 + NACK_SECONDS) == b"\x02\0\0\0cdef"


def test_an_ack_that_counts_nothing_is_an_ack() -> None:
    sol = Sol(size=100)
    sol.send(b"abc")
    sol.packet(0.0)
    sol.receive(from_bmc(acked=1), 0.1)
    assert sol.waiting == 0


def test_a_machine_that_takes_nothing_is_asked_a_while_and_then_left() -> None:
    sol = Sol(size=100)
    sol.send(b"ab")
    sol.send(b"c")
    now, asked = 0.0, 0
    while sol.waiting:
        packet = sol.packet(now)
        assert packet is not None
        assert packet[4:] == b"ab"
        asked += 1
        sol.receive(from_bmc(acked=packet[0], status=0x60), now)
        assert sol.packet(now + NACK_SECONDS / 2) is None
        now += NACK_SECONDS
    assert asked == STUCK_SECONDS / NACK_SECONDS + 1
    assert sol.dropped == 3
    # What is typed later has its own chance.
    sol.send(b"d")
    assert sol.packet(now) is not None


def test_a_break_is_a_packet_without_characters_in_its_turn() -> None:
    sol = Sol(size=100)
    sol.send(b"a")
    sol.send_break()
    sol.send(b"b")
    assert sol.packet(0.0) == b"\x01\0\0\0a"
    sol.receive(from_bmc(acked=1, accepted=1), 0.0)
    assert sol.packet(0.0) == b"\x02\0\0\x10"
    sol.receive(from_bmc(acked=2), 0.0)
    assert sol.packet(0.0) == b"\x03\0\0\0b"


def test_what_is_heard_is_acknowledged_and_taken_once() -> None:
    sol = Sol(size=100)
    assert sol.receive(from_bmc(5, data=b"login: "), 0.0).data == b"login: "
    assert sol.due == 0.0
    assert sol.packet(0.0) == b"\0\x05\x07\0"
    assert sol.receive(from_bmc(5, data=b"login: "), 1.0).data == b""
    assert sol.packet(1.0) == b"\0\x05\x07\0"
    assert sol.receive(from_bmc(6, data=b"login: "), 1.0).data == b"login: "


def test_a_repeated_packet_that_has_grown_gives_its_new_end() -> None:
    sol = Sol(size=100)
    assert sol.receive(from_bmc(5, data=b"log"), 0.0).data == b"log"
    assert sol.receive(from_bmc(5, data=b"login: "), 0.0).data == b"in: "
    assert sol.packet(0.0) == b"\0\x05\x07\0"


def test_an_acknowledgement_leaves_before_characters() -> None:
    sol = Sol(size=100)
    sol.send(b"a")
    sol.receive(from_bmc(5, data=b"x"), 0.0)
    assert sol.packet(0.0) == b"\0\x05\x01\0"
    assert sol.packet(0.0) == b"\x01\0\0\0a"


def test_the_end_and_lost_characters_are_told() -> None:
    sol = Sol(size=100)
    assert sol.receive(from_bmc(status=0x10), 0.0).is_over
    assert sol.receive(from_bmc(1, status=0x08, data=b"x"), 0.0) == Heard(b"x", lost_some=True)


def test_a_piece_that_is_too_short() -> None:
    with pytest.raises(BmcGarbage):
        Sol(size=100).receive(b"\1\0\0", 0.0)


@pytest.mark.parametrize("size", [0, 4, 5, 32, 70_000])
def test_any_size_that_a_bmc_names_leaves_room(size: int) -> None:
    assert 1 <= Sol(size).chunk <= 200


def test_nothing_is_lost_or_doubled_on_a_wire_that_loses_and_repeats() -> None:
    """Two of them face each other's half of the protocol; a third of all packets is lost, some come twice."""
    chance = random.Random(7)
    ours, peer, heard = Sol(size=12), Sol(size=12), bytearray()
    text = bytes(chance.randrange(256) for _ in range(900))
    ours.send(text)
    now = 0.0
    while ours.waiting and now < 5000:
        # A run of losses as long as MAX_TRIES would end the session: keep them shorter.
        for sender, receiver in ((ours, peer), (peer, ours)):
            while (packet := sender.packet(now)) is not None:
                for _ in range(chance.choice((0, 1, 1, 2))):
                    heard += receiver.receive(packet, now).data
        now += 0.25
    assert bytes(heard) == text
