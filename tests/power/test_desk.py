"""One desk: one command in flight, paced, bounded, and what it remembers."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metalbox.errors import (
    BmcGarbage,
    BmcHung,
    BmcNotSupported,
    BmcRefused,
    BmcUnreachable,
    BmcWrongPassword,
    PowerError,
)
from metalbox.power import Endpoint
from metalbox.power.breaker import CLOSED, Phase
from metalbox.power.desk import ERRORS, STUCK_SECONDS, Desk, Link, desk_name, most_telling, scrub
from tests.power.clockwork import turn, turned_clock
from tests.power.sickroom import CRASH, NEVER, STUBBORN, Ward, code_of, endpoints

GAP = 0.1


def sit(ward: Ward, address: str = "b1", driver: str = "ipmi") -> Link:
    """A desk with one link."""
    [endpoint] = endpoints(address, [driver])
    return Link(endpoint, Desk(address, turned_clock(), gap=GAP), ward.connect)


async def read(link: Link, *, seconds: float = 5.0, insist: bool = False) -> bool:
    return await link.desk.do(link, lambda power: power.is_on(), verb="is_on", seconds=seconds, insist=insist)


def test_twenty_at_once_go_one_by_one_with_a_gap() -> None:
    async def story() -> None:
        ward = Ward()
        link = sit(ward)
        await asyncio.gather(*(read(link) for _ in range(20)))
        box = ward.boxes["b1"]
        assert (len(box.asked), box.most_flights, ward.made) == (20, 1, 1)
        assert box.shortest_gap >= GAP - 1e-9

    turn(story())


def test_what_hangs_is_given_up_and_those_behind_it_do_not_hang_as_well() -> None:
    async def story() -> None:
        ward = Ward()
        ward.faults["b1", "ipmi"]["*"] = [NEVER]
        link = sit(ward)
        loop = asyncio.get_running_loop()
        started = loop.time()
        results = await asyncio.gather(*(read(link) for _ in range(50)), return_exceptions=True)
        assert {code_of(result) for result in results if isinstance(result, BaseException)} == {"hung"}
        # Two timeouts, the second with more patience; then the breaker is open and the queue empties at once.
        assert loop.time() - started == pytest.approx(5.0 + 10.0 + GAP, abs=0.1)
        assert ward.boxes["b1"].flights == 0
        assert "did not answer is_on by ipmi in 5 s" in str(results[0])
        assert "not asked again for" in str(results[-1])

    turn(story())


def test_two_commands_are_never_at_one_bmc_even_when_one_cannot_be_ended() -> None:
    async def story() -> None:
        ward = Ward()
        ward.faults["b1", "ipmi"]["is_on"] = [STUBBORN, ""]
        link = sit(ward)
        with pytest.raises(BmcHung):
            await read(link)
        with pytest.raises(BmcHung, match="is still not given back"):
            await read(link, insist=True)
        assert (ward.boxes["b1"].flights, ward.boxes["b1"].most_flights) == (1, 1)
        await asyncio.sleep(STUCK_SECONDS)
        assert await read(link) is False

    turn(story())


def test_cancelling_gives_the_desk_to_the_next() -> None:
    async def story() -> None:
        ward = Ward()
        ward.faults["b1", "ipmi"]["is_on"] = [NEVER, ""]
        link = sit(ward)
        first = asyncio.create_task(read(link))
        await asyncio.sleep(1)
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        assert await read(link) is False
        assert ward.boxes["b1"].most_flights == 1

    turn(story())


def test_a_fault_of_the_driver_is_told_in_the_log_and_without_the_password(caplog: pytest.LogCaptureFixture) -> None:
    async def story() -> None:
        ward = Ward()
        ward.faults["b1", "ipmi"]["*"] = [CRASH]
        with pytest.raises(BmcGarbage) as caught:
            await read(sit(ward))
        assert caught.value.evidence == "KeyError: '***'"

    with caplog.at_level(logging.ERROR, "metalbox.power"):
        turn(story())
    assert "Traceback" in caplog.text and "hunter2" not in caplog.text


def test_a_session_in_doubt_is_not_inherited() -> None:
    async def story() -> None:
        ward = Ward()
        ward.faults["b1", "ipmi"]["is_on"] = ["garbage", "refused", ""]
        link = sit(ward)
        with pytest.raises(BmcGarbage):
            await read(link)
        assert link.power is None
        with pytest.raises(BmcRefused):
            await read(link)
        assert await read(link) is False
        assert ward.made == 2

    turn(story())


def test_a_wrong_password_is_not_said_twice_and_a_new_one_is_tried_at_once() -> None:
    async def story() -> None:
        ward = Ward()
        ward.faults["b1", "ipmi"]["*"] = ["wrong-password"]
        link = sit(ward)
        for _ in range(10):
            with pytest.raises(BmcWrongPassword):
                await read(link, insist=True)
            await asyncio.sleep(10)
        assert len(ward.boxes["b1"].asked) == 1, "ten orders are one try: BMCs lock accounts"
        ward.faults["b1", "ipmi"]["*"] = [""]
        changed = replace(link.endpoint, credentials=endpoints("b1", password="better")[0].credentials)
        assert await read(Link(changed, link.desk, ward.connect)) is False

    turn(story())


def test_what_one_verb_cannot_do_leaves_the_others_alone() -> None:
    async def story() -> None:
        ward = Ward()
        ward.faults["b1", "ipmi"]["identify"] = ["not-supported"]
        link = sit(ward)
        with pytest.raises(BmcNotSupported):
            await link.desk.do(link, lambda power: power.identify(), verb="identify", seconds=5)
        assert link.desk.allows(link, "identify") is not None and link.desk.allows(link, "is_on") is None
        assert await read(link) is False
        assert link.desk.allows(link, "identify") is not None, "another verb's success proves nothing about this one"
        await asyncio.sleep(1_000)
        assert link.desk.allows(link, "identify") is None, "nothing is remembered for ever"

    turn(story())


def test_a_breaker_that_opened_closes_by_one_probe() -> None:
    async def story() -> None:
        ward = Ward()
        ward.faults["b1", "ipmi"]["*"] = ["unreachable"] * 3 + [""]
        link = sit(ward)
        for _ in range(3):
            with pytest.raises(BmcUnreachable):
                await read(link)
        assert link.desk.breaker(link).phase is Phase.OPEN
        await asyncio.sleep(15)
        results = await asyncio.gather(*(read(link) for _ in range(3)))
        assert results == [False] * 3 and link.desk.breaker(link) == CLOSED

    turn(story())


@pytest.mark.parametrize(
    ("driver", "port", "name"),
    [
        ("redfish", 0, "192.0.2.1"),
        ("ipmi", 623, "192.0.2.1"),
        ("redfish", 8000, "192.0.2.1:8000"),
        ("ipmi", 6231, "192.0.2.1:6231"),
        ("libvirt", 0, "libvirt:7"),
        ("wol", 0, "wol:7"),
    ],
)
def test_what_is_one_bmc_has_one_desk(driver: str, port: int, name: str) -> None:
    assert desk_name(7, Endpoint(driver, "192.0.2.1", port)) == name


def test_the_most_telling_error_comes_first_and_the_others_are_its_evidence() -> None:
    async def story() -> None:
        ward = Ward()
        redfish, ipmi = sit(ward, driver="redfish"), sit(ward)
        error = most_telling({redfish: BmcNotSupported("no such thing"), ipmi: BmcRefused("no", evidence="0xd4")}, "on")
        assert (type(error), str(error), error.evidence) == (BmcRefused, "no", "0xd4; redfish: no such thing")
        assert code_of(most_telling({}, "is_on")) == "not-supported"
        assert scrub("it is hunter2!", ipmi.endpoint) == "it is ***!"

    turn(story())


faults = st.lists(st.sampled_from(["", "", "", NEVER, STUBBORN, CRASH, *ERRORS]), min_size=1, max_size=8)
visits = st.lists(st.tuples(st.floats(0.0, 40.0), st.floats(0.5, 6.0), st.booleans(), st.booleans()), max_size=25)


@settings(deadline=None, max_examples=150)
@given(faults, visits)
def test_whatever_a_bmc_does_there_is_one_command_at_a_time_and_everybody_gets_an_answer(
    sickness: list[str], walk: list[tuple[float, float, bool, bool]]
) -> None:
    async def story() -> None:
        ward = Ward()
        ward.faults["b1", "ipmi"]["*"] = list(sickness)
        link = sit(ward)
        loop = asyncio.get_running_loop()
        tasks: list[asyncio.Task[bool]] = []
        for pause, seconds, insist, cancel in walk:
            tasks.append(asyncio.create_task(read(link, seconds=seconds, insist=insist)))
            await asyncio.sleep(pause)
            if cancel:
                tasks[-1].cancel()
        started = loop.time()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        allowed = (bool, PowerError, asyncio.CancelledError)
        assert all(isinstance(result, allowed) for result in results), results
        assert loop.time() - started <= len(walk) * (4 * 6.0 + 3.0)
        box = ward.boxes["b1"]
        assert box.most_flights <= 1 and box.shortest_gap >= GAP - 1e-9
        # Well again, the BMC is served again, however sick it was.
        ward.faults["b1", "ipmi"].clear()
        await asyncio.sleep(100_000)
        assert await read(link) is False

    logging.getLogger("metalbox.power").disabled = True
    try:
        turn(story())
    finally:
        logging.getLogger("metalbox.power").disabled = False
