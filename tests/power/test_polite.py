"""The front of all desks: fall-back, retries, what is remembered and for how long, and that the sick delay nobody."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from typing import Any

import pytest

from metalbox.errors import BmcGarbage, BmcHung, BmcNotSupported, BmcUnreachable, BmcWrongPassword
from metalbox.power import Endpoint, Power, PowerState
from metalbox.power.orders import Answer, PowerOrder, Verb
from metalbox.power.polite import Front, Manners
from metalbox.power.threads import Threads
from tests.power.clockwork import EPOCH, START, turn, turned_clock
from tests.power.sickroom import IGNORES, NEVER, STUBBORN, SickPower, Ward, endpoints

Story = Coroutine[Any, Any, None]


def front_of(ward: Ward) -> Front:
    return Front(connect=ward.connect, clock=turned_clock())


async def identify(front: Front, answer: Answer | None = None, *, insist: bool = True, address: str = "b1") -> None:
    await front.ask(1, endpoints(address), "identify", lambda power: power.identify(), insist=insist, answer=answer)


def test_redfish_is_asked_first_whatever_the_order_of_the_endpoints() -> None:
    async def story() -> None:
        ward, answer = Ward(), Answer()
        front = front_of(ward)
        ways = endpoints(drivers=["ipmi", "redfish"])
        assert await front.read_state(1, ways, answer=answer) is PowerState.OFF
        assert (answer.driver, ward.boxes["b1"].asked) == ("redfish", [("redfish", "is_on")])

    turn(story())


def test_the_fall_back_is_for_each_verb_and_ends_after_a_while() -> None:
    async def story() -> None:
        ward = Ward()
        ward.faults["b1", "redfish"]["identify"] = ["not-supported", ""]
        front, asked = front_of(ward), ward.boxes["b1"].asked
        await identify(front)
        await identify(front)
        await front.read_state(1, endpoints())
        assert asked == [("redfish", "identify"), ("ipmi", "identify"), ("ipmi", "identify"), ("redfish", "is_on")]
        await asyncio.sleep(1_000)
        answer = Answer()
        await identify(front, answer)
        assert answer.driver == "redfish", "a firmware update may have brought it"

    turn(story())


def test_a_dead_redfish_is_skipped_at_once_and_found_again() -> None:
    async def story() -> None:
        ward = Ward()
        ward.faults["b1", "redfish"]["*"] = ["unreachable"] * 3 + [""]
        front, loop = front_of(ward), asyncio.get_running_loop()
        drivers = []
        for _ in range(5):
            answer = Answer()
            await identify(front, answer)
            drivers.append(answer.driver)
        assert drivers == ["ipmi"] * 5
        assert sum(driver == "redfish" for driver, _ in ward.boxes["b1"].asked) == 3
        assert loop.time() - START < 2.0, "no pause where another way answers"
        await asyncio.sleep(15)
        answer = Answer()
        await identify(front, answer)
        assert answer.driver == "redfish"

    turn(story())


def test_tries_pause_longer_and_longer_and_only_for_what_may_pass() -> None:
    async def story() -> None:
        ward = Ward()
        front, loop = front_of(ward), asyncio.get_running_loop()
        ward.faults["b1", "redfish"]["*"] = ward.faults["b1", "ipmi"]["*"] = ["garbage"]
        with pytest.raises(BmcGarbage) as caught:
            await identify(front)
        assert len(ward.boxes["b1"].asked) == 6
        assert caught.value.evidence == "password is ***; ipmi: ipmi says garbage"
        assert 0.375 + 0.75 < loop.time() - START < 0.375 + 0.75 + 1.0
        ward.faults["b2", "redfish"]["*"] = ward.faults["b2", "ipmi"]["*"] = ["wrong-password"]
        with pytest.raises(BmcWrongPassword):
            await identify(front, address="b2")
        assert ward.boxes["b2"].asked == [("redfish", "identify"), ("ipmi", "identify")]

    turn(story())


def test_a_person_is_let_through_to_a_bmc_that_the_patrol_leaves_alone() -> None:
    async def story() -> None:
        ward = Ward()
        ward.faults["b1", "redfish"]["*"] = ward.faults["b1", "ipmi"]["*"] = ["unreachable"]
        front = front_of(ward)
        for _ in range(4):
            with pytest.raises(BmcUnreachable):
                await identify(front)
        asked = len(ward.boxes["b1"].asked)
        with pytest.raises(BmcUnreachable, match="not asked again for"):
            await identify(front, insist=False)
        assert len(ward.boxes["b1"].asked) == asked
        ward.faults["b1", "redfish"].clear()
        ward.faults["b1", "ipmi"].clear()
        await asyncio.sleep(3)
        await identify(front)

    turn(story())


def test_what_no_driver_has_is_not_sent() -> None:
    async def story() -> None:
        ward = Ward()
        front = front_of(ward)
        with pytest.raises(BmcNotSupported, match="cannot read sensors"):
            await front.ask(1, endpoints(), "sensors", lambda power: power.sensors())
        assert ward.boxes["b1"].asked == []
        with pytest.raises(BmcNotSupported, match="no power driver 'telepathy'"):
            await Front(clock=turned_clock()).ask(1, [Endpoint("telepathy", "b1")], "is_on", lambda p: p.is_on())

    turn(story())


def test_an_observation_keeps_what_was_seen_and_says_why_it_is_old() -> None:
    async def story() -> None:
        ward = Ward()
        ward.boxes["b1"].is_on = True
        front = front_of(ward)
        assert front.observation(1).age(0.0) is None
        seen = await front.observe(1, endpoints())
        assert (seen.state, seen.source, seen.code) == (PowerState.ON, "redfish", "")
        ward.faults["b1", "redfish"]["*"] = ward.faults["b1", "ipmi"]["*"] = ["unreachable"]
        await asyncio.sleep(100)
        failed = await front.observe(1, endpoints())
        assert (failed.state, failed.code, failed.at) == (PowerState.ON, "unreachable", seen.at)
        assert failed.tried_at - EPOCH == pytest.approx(START + 100, abs=1)
        assert failed.age(front.clock.now()) == pytest.approx(100, abs=1)
        front.saw(1, PowerState.OFF, "agent")
        assert (front.observation(1).state, front.observation(1).code) == (PowerState.OFF, "")
        await front.keep_only({})
        assert front.observation(1).state is PowerState.UNKNOWN

    turn(story())


def test_while_nobody_is_asked_the_last_real_failure_is_told() -> None:
    async def story() -> None:
        ward = Ward()
        ward.faults["b1", "redfish"]["*"] = ["wrong-password"]
        front = front_of(ward)
        first = await front.observe(1, endpoints(drivers=["redfish"]))
        await asyncio.sleep(30)
        assert await front.observe(1, endpoints(drivers=["redfish"])) == first
        assert len(ward.boxes["b1"].asked) == 1

    turn(story())


def test_two_orders_for_one_machine_go_one_after_the_other() -> None:
    async def story() -> None:
        ward = Ward()
        box = ward.boxes["b1"]
        box.lag = 3.0
        front = front_of(ward)
        verbs = [Verb.ON, Verb.OFF, Verb.ON, Verb.OFF]
        outcomes = await asyncio.gather(*(front.power(1, endpoints(), PowerOrder(verb)) for verb in verbs))
        assert all(outcome.done for outcome in outcomes)
        assert (box.done, box.idle, box.most_flights) == (["on", "off", "on", "off"], 0, 1)

    turn(story())


def test_sessions_are_given_back_when_endpoints_change_and_at_the_end() -> None:
    async def story() -> None:
        ward = Ward()
        old, new = endpoints(), endpoints(password="changed")
        made: list[SickPower] = []

        def connect(endpoint: Endpoint) -> Power:
            power = ward.connect(endpoint)
            assert isinstance(power, SickPower)
            made.append(power)
            return power

        front = Front(connect=connect, clock=turned_clock())
        await front.read_state(1, old)
        await front.keep_only({1: new})
        assert made[0].closed
        await front.read_state(1, new)
        await front.close()
        assert all(power.closed for power in made)
        assert front.counters["commands"] == 0, "the desks are gone with their machines"

    turn(story())


# --- the sick and the others ------------------------------------------------------------------------------------------

SICK = [NEVER, STUBBORN, "unreachable", "refused", "garbage", "sessions-full", "bad-tls", "wrong-password", IGNORES]
FAST = Manners(gap=0.0, read=0.5, write=0.5, patrol=0.5, on=0.5, off=0.5, override=0.3)


def test_no_kind_of_sick_bmc_delays_another_machines_command() -> None:
    """Nine kinds of sickness, ten BMCs each, all with orders in flight: a healthy one takes what it takes alone."""

    async def story() -> None:
        loop = asyncio.get_running_loop()
        ward = Ward()
        for kind, fault in enumerate(SICK):
            for number in range(10):
                ward.boxes[f"s{kind}-{number}"].stubborn = 2.0
                for driver in ("redfish", "ipmi"):
                    ward.faults[f"s{kind}-{number}", driver]["*"] = [fault]
        front = Front(connect=ward.connect, manners=FAST, clock=turned_clock())

        async def command(name: str) -> float:
            started = loop.time()
            assert (await front.power(name, endpoints(name), PowerOrder(Verb.OFF))).done
            return loop.time() - started

        alone = await command("well")
        sick = [
            asyncio.create_task(front.power(address, endpoints(address), PowerOrder(Verb.CYCLE)))
            for address in {address for address, _ in ward.faults}
        ]
        ends = loop.time() + 1.5
        number = 0
        while loop.time() < ends:
            number += 1
            assert await command(f"well{number}") == pytest.approx(alone)
        for task in sick:
            task.cancel()
        await asyncio.gather(*sick, return_exceptions=True)
        assert number > 20

    turn(story())


class ThreadPower(Power):
    """A driver around a library that blocks, with the bounded threads that real drivers have."""

    name = "ipmi"
    pool = Threads(64)
    release = threading.Event()

    def __init__(self, endpoint: Endpoint) -> None:
        self.address = endpoint.address

    async def is_on(self) -> bool:
        return await self.pool.run(self._ask, key=self.address, seconds=30.0)

    def _ask(self) -> bool:
        if self.address.startswith("sick"):
            self.release.wait()
        return True


async def test_threads_that_hang_hold_only_themselves() -> None:
    """Fifty blocking calls hang at once in a driver with 64 places; a healthy BMC of the same driver is asked."""
    front = Front(connect=ThreadPower, manners=Manners(gap=0.0, read=20.0, patrol=20.0))
    try:
        sick = [asyncio.create_task(front.observe(f"sick{n}", endpoints(f"sick{n}", ["ipmi"]))) for n in range(50)]
        for number in range(20):
            assert await front.read_state(number, endpoints(f"well{number}", ["ipmi"])) is PowerState.ON
            assert not any(task.done() for task in sick)
            await asyncio.sleep(0.01)
        # Their threads hang on when nobody waits for them; asking them again costs no second thread.
        for task in sick:
            task.cancel()
        await asyncio.gather(*sick, return_exceptions=True)
        before = threading.active_count()
        with pytest.raises(BmcHung):
            await front.read_state("sick0", endpoints("sick0", ["ipmi"]), tries=1)
        assert threading.active_count() <= before
        assert await front.read_state("well", endpoints("well", ["ipmi"])) is PowerState.ON
    finally:
        ThreadPower.release.set()
        await front.close()
