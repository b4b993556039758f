"""The agent's own log: to the console at once, kept for the server, bounded."""

from __future__ import annotations

import io

from metalbox.agent.journal import BATCH, KEPT_LINES, MAX_LINE, Journal


def test_lines_go_to_the_console_and_wait_for_the_server() -> None:
    console = io.StringIO()
    journal = Journal(console)
    journal.say("eth0: asking for an address")
    assert console.getvalue() == "metalbox: eth0: asking for an address\n"
    assert journal.waiting.is_set()
    assert journal.take() == ["eth0: asking for an address"]
    assert not journal.waiting.is_set() and journal.take() == []


def test_what_could_not_be_sent_keeps_its_place() -> None:
    journal = Journal(io.StringIO())
    for number in range(3):
        journal.say(str(number))
    lines = journal.take()
    journal.say("3")
    journal.give_back(lines)
    assert journal.take() == ["0", "1", "2", "3"]


def test_the_oldest_lines_are_dropped_and_counted() -> None:
    journal = Journal(io.StringIO())
    for number in range(KEPT_LINES + 7):
        journal.say(str(number))
    first = journal.take()
    assert first[:2] == ["(7 lines were dropped while the server could not be reached)", "7"]
    assert len(first) == BATCH + 1 and journal.waiting.is_set()
    journal.say("x" * 10_000)
    while batch := journal.take():
        last = batch
    assert last[-1] == "x" * MAX_LINE


def test_a_console_that_is_gone_does_not_end_the_agent() -> None:
    console = io.StringIO()
    journal = Journal(console)
    console.close()
    journal.say("still here")
    assert journal.take() == ["still here"]
