"""Programs that are absent, fail, or hang."""

from __future__ import annotations

import time

import pytest

from metalbox.agent import command


def test_the_output_and_the_code() -> None:
    assert command.run(["/bin/sh", "-c", "printf $LC_ALL; exit 3"], 60) == (3, b"C")


def test_a_program_that_hangs_is_left() -> None:
    started = time.monotonic()
    with pytest.raises(command.CommandFailed, match=r"`/bin/sleep 60` did not end within 0.2 s"):
        command.run(["/bin/sleep", "60"], 0.2)
    assert time.monotonic() - started < 30


def test_a_program_that_is_not_there() -> None:
    with pytest.raises(command.CommandFailed, match="/nonexistent could not be started: No such file"):
        command.run(["/nonexistent"], 1)
    assert command.find("no-such-program") == ""
    assert command.find("sh").endswith("/sh")
