"""A machine's console among its viewers, on a clock that is turned: opened once, shared, lost and opened again."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from metalbox.consoles import (
    BACKLOG_BYTES,
    FIRST_PAUSE,
    LINGER_SECONDS,
    LONGEST_PAUSE,
    MAX_VIEWERS,
    VIEWER_BYTES,
    Line,
    Note,
    Viewer,
    open_console,
)
from metalbox.errors import (
    BmcConsoleInUse,
    BmcHung,
    BmcNotSupported,
    BmcUnreachable,
    BmcWrongPassword,
    PowerError,
    Refused,
)
from metalbox.journal import Journal, Kind
from metalbox.machine import Machine
from metalbox.power import Console, Endpoint, Power
from metalbox.power.polite import Front
from metalbox.recording import Recording
from tests.power.clockwork import turn, turned_clock
from tests.serial import Bmc, Port

Story = Callable[[Line, Bmc], Coroutine[Any, Any, None]]


@pytest.fixture
def play(tmp_path: Path) -> Callable[[Story], Journal]:
    """Runs a story with a line and its BMC; the journal tells what the timeline was told."""

    def run(story: Story) -> Journal:
        journal = Journal(None)

        async def whole() -> None:
            bmc = Bmc()
            recording = Recording(tmp_path, "r1", max_bytes=10**6, files=2)
            line = Line(Machine(id=1, name="r1", state="ready"), bmc.open, recording, journal, turned_clock())
            await story(line, bmc)
            await line.close()
            assert all(port.is_closed for port in bmc.ports)

        turn(whole())
        return journal

    return run


async def until(viewer: Viewer, end: bytes) -> bytes:
    """All bytes up to `end`, notes left out."""
    data = b""
    while not data.endswith(end):
        item = await viewer.next()
        assert item is not None
        data += item if isinstance(item, bytes) else b""
    return data


async def noted(viewer: Viewer, kind: str) -> Note:
    """The next note of this kind."""
    while True:
        item = await viewer.next()
        assert item is not None
        if isinstance(item, Note) and item.kind == kind:
            return item


def texts(journal: Journal) -> list[str]:
    assert all(entry.kind is Kind.CONSOLE and entry.machine_id == 1 for entry in journal.pending)
    return [entry.text for entry in journal.pending]


def test_two_viewers_one_session_and_a_recording(play: Callable[[Story], Journal], tmp_path: Path) -> None:
    async def story(line: Line, bmc: Bmc) -> None:
        one, two = Viewer(), Viewer()
        await asyncio.gather(line.join(one), line.join(two))
        assert bmc.asked == [(False, "", True)]
        await noted(one, "viewers")
        bmc.port.says(b"login: ")
        await until(one, b"login: ")
        await until(two, b"login: ")
        await line.type(b"root\r")
        await line.send_break()
        assert (bmc.port.typed, bmc.port.breaks) == (b"root\r", 1)
        line.leave(two)
        line.leave(two)
        note = await noted(one, "viewers")
        while note.data["viewers"] != 1:
            note = await noted(one, "viewers")
        assert note.text == "1 viewer"

    journal = play(story)
    assert texts(journal) == ["its console was opened by ipmi", "its console was closed after 0 s"]
    assert [entry.data["viewers"] for entry in journal.pending] == [2, 2]
    log = (tmp_path / "r1.log").read_text()
    assert "[metalbox 2027-01-15T" in log
    assert "console opened by ipmi]" in log
    assert "login: " in log
    assert "root" not in log  # what is typed is recorded where the machine echoes it
    assert "console closed]" in log


def test_who_comes_later_sees_what_was(play: Callable[[Story], Journal]) -> None:
    async def story(line: Line, bmc: Bmc) -> None:
        await line.join(first := Viewer())
        bmc.port.says(b"A line.\r\n" * 1000 + b"End.\r\n")
        await until(first, b"End.\r\n")
        await line.join(late := Viewer())
        backlog = await late.next()
        assert isinstance(backlog, bytes)
        assert BACKLOG_BYTES - 9 <= len(backlog) <= BACKLOG_BYTES
        assert backlog.startswith(b"A line.\r\n")
        assert backlog.endswith(b"End.\r\n")

    play(story)


def test_it_is_closed_some_time_after_the_last_has_gone(play: Callable[[Story], Journal]) -> None:
    async def story(line: Line, bmc: Bmc) -> None:
        await line.join(viewer := Viewer())
        line.leave(viewer)
        await asyncio.sleep(LINGER_SECONDS - 0.1)
        await line.join(viewer)
        line.leave(viewer)
        await asyncio.sleep(LINGER_SECONDS - 0.1)
        assert line.is_open
        assert len(bmc.ports) == 1
        await asyncio.sleep(0.2)
        assert not line.is_open
        assert bmc.port.is_closed
        await line.join(viewer)
        assert len(bmc.ports) == 2

    play(story)


def test_one_that_is_recorded_stays_open(play: Callable[[Story], Journal]) -> None:
    async def story(line: Line, bmc: Bmc) -> None:
        bmc.refusals = [BmcUnreachable("nobody there")]
        line.keep()
        await asyncio.sleep(60)
        assert line.is_open
        assert bmc.asked == [(False, "", False)] * 2  # nobody insists: breakers are asked
        await line.join(viewer := Viewer())
        line.leave(viewer)
        await asyncio.sleep(10 * LINGER_SECONDS)
        assert line.is_open
        assert len(bmc.ports) == 1

    play(story)


def test_what_cannot_be_opened_is_an_error_for_who_came(play: Callable[[Story], Journal]) -> None:
    async def story(line: Line, bmc: Bmc) -> None:
        bmc.refusals = [BmcConsoleInUse("in use by a client at 192.0.2.7"), None]
        with pytest.raises(BmcConsoleInUse, match=r"192\.0\.2\.7"):
            await line.join(Viewer())
        await asyncio.sleep(100)
        assert len(bmc.asked) == 1  # nobody waits, nobody asks
        await line.join(Viewer(), force=True)
        assert bmc.asked[-1] == (True, "", True)

    assert texts(play(story)) == ["its console was opened by ipmi", "its console was closed after 0 s"]


def test_a_lost_session_comes_back_with_growing_pauses(play: Callable[[Story], Journal], tmp_path: Path) -> None:
    async def story(line: Line, bmc: Bmc) -> None:
        await line.join(viewer := Viewer())
        bmc.refusals = [BmcHung("no answer")] * 9
        bmc.port.says(BmcHung("the BMC does not acknowledge"))
        assert "does not acknowledge" in (await noted(viewer, "lost")).text
        with pytest.raises(Refused, match="what was typed is lost"):
            await line.type(b"x")
        assert "no answer" in (await noted(viewer, "retry")).text
        await noted(viewer, "opened")
        gaps = [late - early - 0.5 for early, late in zip(bmc.at[1:], bmc.at[2:], strict=False)]
        assert gaps == [2, 4, 8, 16] + [LONGEST_PAUSE] * 5
        assert bmc.at[1] - bmc.at[0] - 0.5 == FIRST_PAUSE
        # Our own session may live on at the BMC: its mark is shown, so that it can be ended.
        assert {stale for _, stale, _ in bmc.asked[1:]} == {"mark1"}
        bmc.port.says(b"back")
        assert await until(viewer, b"back")

    journal = play(story)
    assert texts(journal)[1] == "its console was lost: the BMC does not acknowledge"
    log = (tmp_path / "r1.log").read_text()
    assert log.index("console lost") < log.index("opened by ipmi", log.index("console lost")) < log.index("back")


def test_a_wrong_password_is_not_insisted_on(play: Callable[[Story], Journal]) -> None:
    async def story(line: Line, bmc: Bmc) -> None:
        await line.join(viewer := Viewer())
        bmc.refusals = [BmcHung("no answer"), BmcWrongPassword("changed"), BmcWrongPassword("changed")]
        bmc.port.says(BmcHung("gone"))
        for _ in range(3):
            await noted(viewer, "retry")
        await noted(viewer, "opened")
        assert [insist for _, _, insist in bmc.asked] == [True, True, True, False, False]

    play(story)


def test_a_person_does_not_wait_for_the_next_try(play: Callable[[Story], Journal]) -> None:
    async def story(line: Line, bmc: Bmc) -> None:
        await line.join(first := Viewer())
        bmc.refusals = [BmcConsoleInUse("taken")] * 6
        bmc.port.says(BmcConsoleInUse("taken"))
        for _ in range(6):
            await noted(first, "retry")
        await line.join(Viewer(), force=True)
        assert bmc.asked[-1][0] is True
        bmc.port.says(b"ours again")
        await noted(first, "opened")
        assert await asyncio.wait_for(until(first, b"ours again"), 1)

    play(story)


def test_the_mark_of_a_crashed_service_is_shown_to_the_bmc(play: Callable[[Story], Journal], tmp_path: Path) -> None:
    (tmp_path / "r1.session").write_text("mark0")

    async def story(line: Line, bmc: Bmc) -> None:
        await line.join(Viewer())
        assert bmc.asked == [(False, "mark0", True)]
        assert (tmp_path / "r1.session").read_text() == "mark1"

    play(story)
    assert not (tmp_path / "r1.session").exists()


def test_a_slow_viewer_loses_bytes_and_the_others_none(play: Callable[[Story], Journal]) -> None:
    async def story(line: Line, bmc: Bmc) -> None:
        slow, quick = Viewer(), Viewer()
        await line.join(slow)
        await line.join(quick)
        piece = b"x" * 65536
        for _ in range(8):
            bmc.port.says(piece)
            await until(quick, piece)
        kept = 0
        while True:
            item = await slow.next()
            if isinstance(item, Note) and item.kind == "dropped":
                break
            kept += len(item) if isinstance(item, bytes) else 0
        assert VIEWER_BYTES - len(piece) < kept <= VIEWER_BYTES
        assert item.data["bytes"] >= 4 * len(piece)
        assert "too slow" in item.text
        bmc.port.says(b"y")
        assert await until(slow, b"y") == b"y"

    play(story)


def test_so_many_viewers_and_no_more(play: Callable[[Story], Journal]) -> None:
    async def story(line: Line, bmc: Bmc) -> None:
        for _ in range(MAX_VIEWERS):
            await line.join(Viewer())
        with pytest.raises(Refused, match="32 viewers"):
            await line.join(Viewer())

    play(story)


def test_the_end_sends_everybody_home_also_while_it_opens(play: Callable[[Story], Journal]) -> None:
    async def story(line: Line, bmc: Bmc) -> None:
        await line.join(viewer := Viewer())
        bmc.port.says(BmcHung("gone"))
        await asyncio.sleep(FIRST_PAUSE + 0.2)
        assert len(bmc.asked) == 2
        await line.close()
        while await viewer.next() is not None:
            pass

    play(story)


class Way(Power):
    """A driver whose console is a port, or an error."""

    def __init__(self, name: str, console: PowerError | None) -> None:
        self.name = name
        self.can = frozenset({"console"})
        self._console = console
        self.opened: list[Port] = []

    async def console(self, *, force: bool = False, stale: str = "") -> Console:
        if self._console is not None:
            raise self._console
        self.opened.append(Port())
        return self.opened[-1]


IN_USE, UNREACHABLE, CANNOT = BmcConsoleInUse("in use"), BmcUnreachable("no way to 623"), BmcNotSupported("SSH only")


@pytest.mark.parametrize(
    ("ipmi", "redfish", "expected"),
    [
        (None, None, "ipmi"),
        (UNREACHABLE, None, "redfish"),
        (IN_USE, None, IN_USE),
        (UNREACHABLE, CANNOT, UNREACHABLE),
        (CANNOT, UNREACHABLE, UNREACHABLE),
        (CANNOT, CANNOT, CANNOT),
    ],
)
def test_the_machine_s_own_ipmi_comes_before_what_redfish_tells_of_it(
    ipmi: PowerError | None, redfish: PowerError | None, expected: str | PowerError
) -> None:
    ways = {"ipmi": Way("ipmi", ipmi), "redfish": Way("redfish", redfish)}
    endpoints = [Endpoint("redfish", "192.0.2.9"), Endpoint("ipmi", "192.0.2.9")]

    async def story() -> None:
        front = Front(connect=lambda endpoint: ways[endpoint.driver], clock=turned_clock())
        opening = open_console(front, 1, endpoints, force=False, stale="", insist=True)
        if isinstance(expected, PowerError):
            with pytest.raises(type(expected), match=str(expected)):
                await opening
        else:
            console, driver = await opening
            assert driver == expected
            assert console is ways[expected].opened[0]
        await front.close()

    turn(story())
