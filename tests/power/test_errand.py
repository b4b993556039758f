"""One order against BMCs that are sick in every way: what is sent, what is read back, what is told."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metalbox.power import Device, Endpoint, Mode, Override, PowerState
from metalbox.power.desk import ERRORS
from metalbox.power.orders import Outcome, PowerOrder, Verb, Write
from metalbox.power.polite import Front, Manners
from metalbox.power.stagger import Budget
from tests.power.clockwork import START, turn, turned_clock
from tests.power.redfish_service import Answer, Service, error, running
from tests.power.sickroom import CRASH, DONE_THEN_HUNG, IGNORES, NEVER, Box, Ward, endpoints

PXE = Override(Device.PXE, Mode.UEFI)
ON, OFF = PowerState.ON, PowerState.OFF


def play(
    ward: Ward, order: PowerOrder, *, drivers: Sequence[str] = ("redfish", "ipmi"), ways: list[Endpoint] | None = None
) -> Outcome:
    """Carry one order out at box b1, by the turned clock."""

    async def story() -> Outcome:
        front = Front(connect=ward.connect, clock=turned_clock())
        outcome = await front.power("r1", ways if ways is not None else endpoints("b1", drivers), order)
        assert "hunter2" not in repr(outcome)
        await front.close()
        return outcome

    return turn(story())


def ward_with(is_on: bool = False, **box: Any) -> tuple[Ward, Box]:
    ward = Ward()
    ward.boxes["b1"] = Box(is_on=is_on, **box)
    return ward, ward.boxes["b1"]


@pytest.mark.parametrize(
    ("verb", "is_on", "done", "after"),
    [
        (Verb.ON, False, ["on"], True),
        (Verb.ON, True, [], True),
        (Verb.OFF, True, ["off"], False),
        (Verb.OFF, False, [], False),
        (Verb.SOFT_OFF, True, ["off"], False),
        (Verb.SOFT_OFF, False, [], False),
        (Verb.CYCLE, True, ["off", "on"], True),
        (Verb.CYCLE, False, ["on"], True),
        (Verb.RESET, True, ["cycle"], True),
        (Verb.RESET, False, ["on"], True),
    ],
)
@pytest.mark.parametrize("lag", [0.0, 12.0])
def test_orders_are_idempotent_and_read_back(verb: Verb, is_on: bool, done: list[str], after: bool, lag: float) -> None:
    ward, box = ward_with(is_on, lag=lag)
    outcome = play(ward, PowerOrder(verb))
    assert (outcome.done, outcome.code, box.done, box.is_on, box.idle) == (True, "", done, after, 0)
    assert outcome.state is (ON if after else OFF)
    assert outcome.driver == ("redfish" if done else "")
    assert box.most_flights == 1
    if not done:
        assert outcome.text == f"the machine is {outcome.state} already"
        assert {verb for _, verb in box.asked} == {"is_on"}, "nothing but the question was sent"


# Who fails at `on`, and how; what the order comes to with IPMI as the second way, and without it.
FAULTS = [
    (NEVER, "hung"),
    ("unreachable", "unreachable"),
    ("refused", "refused"),
    ("garbage", "garbage"),
    (CRASH, "garbage"),
    (IGNORES, "not-obeyed"),
    ("sessions-full", "sessions-full"),
    ("bad-tls", "bad-tls"),
    ("wrong-password", "wrong-password"),
    ("licence", "licence"),
    ("not-supported", "not-supported"),
]


@pytest.mark.parametrize(("fault", "code"), FAULTS)
@pytest.mark.parametrize("verb", ["on", "*"])
def test_what_redfish_cannot_ipmi_does(fault: str, code: str, verb: str) -> None:
    ward, box = ward_with()
    ward.faults["b1", "redfish"][verb] = [fault]
    outcome = play(ward, PowerOrder(Verb.ON))
    assert (outcome.done, outcome.driver, box.done, box.idle) == (True, "ipmi", ["on"], 0)
    assert {note.driver for note in outcome.attempts} <= {"redfish"}
    said = "on was sent by ipmi, and read back: the machine is on; redfish was passed over: "
    assert outcome.text.startswith(said) and len(outcome.text) > len(said)
    if verb == "on":
        assert [note.code for note in outcome.attempts] == [code]


@pytest.mark.parametrize(("fault", "code"), FAULTS)
def test_without_a_second_way_the_outcome_names_it(fault: str, code: str) -> None:
    ward, box = ward_with()
    ward.faults["b1", "redfish"]["on"] = [fault]
    outcome = play(ward, PowerOrder(Verb.ON), drivers=["redfish"])
    assert (outcome.done, outcome.code, outcome.state, box.done) == (False, code, OFF, [])
    assert outcome.text and outcome.attempts[0].code == code
    sent = sum(1 for _, verb in box.asked if verb == "on")
    assert sent == (3 if code in {"hung", "unreachable", "garbage", "sessions-full", "not-obeyed"} else 1)


@pytest.mark.parametrize(("fault", "code"), [pair for pair in FAULTS if pair[0] not in (IGNORES, "not-supported")])
def test_a_bmc_whose_state_cannot_be_read_is_sent_nothing(fault: str, code: str) -> None:
    ward, box = ward_with(is_on=True)
    ward.faults["b1", "redfish"]["is_on"] = ward.faults["b1", "ipmi"]["is_on"] = [fault]
    outcome = play(ward, PowerOrder(Verb.OFF))
    assert (outcome.done, outcome.code, box.done, outcome.writes) == (False, code, [], ())


def test_a_bmc_that_obeys_and_does_not_answer_is_believed_when_read_back() -> None:
    ward, box = ward_with()
    ward.faults["b1", "redfish"]["on"] = [DONE_THEN_HUNG]
    outcome = play(ward, PowerOrder(Verb.ON))
    assert (outcome.done, outcome.driver, outcome.writes, box.done) == (True, "redfish", (Write.ON,), ["on"])


def test_a_restart_in_doubt_is_not_repeated_and_one_that_was_refused_is() -> None:
    ward, box = ward_with(is_on=True)
    ward.faults["b1", "redfish"]["cycle"] = [DONE_THEN_HUNG]
    outcome = play(ward, PowerOrder(Verb.RESET))
    assert (outcome.done, box.done) == (True, ["cycle"])
    assert [(note.code, note.verb) for note in outcome.warnings] == [("hung", "cycle")]
    assert outcome.text.startswith("redfish may have taken the restart, which is not sent twice")
    for fault in ("refused", "unreachable"):
        ward, box = ward_with(is_on=True)
        ward.faults["b1", "redfish"]["cycle"] = [fault]
        outcome = play(ward, PowerOrder(Verb.RESET))
        assert (outcome.driver, box.done) == ("ipmi", ["cycle"])
        assert outcome.text.startswith("ipmi took the restart")


def test_a_driver_that_lies_about_power_is_outvoted_by_one_that_saw_the_change() -> None:
    ward, box = ward_with(is_on=True, lies={"redfish": True})
    outcome = play(ward, PowerOrder(Verb.OFF))
    assert (outcome.done, outcome.state, box.done) == (True, OFF, ["off"])
    assert [(note.code, note.driver) for note in outcome.warnings] == [("not-obeyed", "redfish")]
    assert "redfish still reports the machine not off, ipmi reports that it is off" in outcome.warnings[0].text


def test_an_operating_system_that_does_not_listen_is_not_switched_off_the_hard_way() -> None:
    ward, box = ward_with(is_on=True, deaf=True)
    outcome = play(ward, PowerOrder(Verb.SOFT_OFF))
    assert (outcome.done, outcome.code, box.is_on, box.done) == (False, "not-obeyed", True, [])
    assert [verb for _, verb in box.asked if verb != "is_on"] == ["off_graceful"]
    assert outcome.seconds == pytest.approx(182, abs=3)


# --- the override -----------------------------------------------------------------------------------------------------


def test_the_override_is_set_when_the_machine_is_off_and_read_back() -> None:
    ward, box = ward_with(is_on=True)
    outcome = play(ward, PowerOrder(Verb.CYCLE, PXE))
    assert (outcome.done, outcome.warnings, box.override) == (True, (), PXE)
    assert box.done == ["off", "boot pxe", "on"]


@pytest.mark.parametrize(("fault", "code"), FAULTS)
def test_an_override_that_fails_is_a_warning_and_the_power_on_follows(fault: str, code: str) -> None:
    ward, box = ward_with()
    ward.faults["b1", "redfish"]["boot_next"] = ward.faults["b1", "ipmi"]["boot_next"] = [fault]
    outcome = play(ward, PowerOrder(Verb.ON, PXE), drivers=["ipmi"])
    assert (outcome.done, box.done[-1:], outcome.code) == (True, ["on"], "")
    [warning] = outcome.warnings
    assert (warning.code, warning.verb) == (code, "boot_next")
    assert warning.text.startswith("what boots next could not be set to pxe (uefi), once: ")
    if fault == IGNORES:
        assert warning.evidence == "ipmi reads back: none"


def test_an_override_that_redfish_loses_is_set_by_ipmi() -> None:
    ward, box = ward_with()
    ward.faults["b1", "redfish"]["boot_next"] = [IGNORES]
    outcome = play(ward, PowerOrder(Verb.ON, PXE))
    assert (outcome.done, outcome.warnings, box.done) == (True, (), ["boot pxe", "on"])
    assert [(note.driver, note.code) for note in outcome.attempts] == [("redfish", "not-obeyed")]


def test_an_override_that_stays_or_cannot_be_read_back_is_told() -> None:
    ward, _ = ward_with(sticky=True)
    outcome = play(ward, PowerOrder(Verb.ON, PXE))
    assert outcome.done and "keeps it for all boots" in outcome.warnings[0].text
    ward, _ = ward_with()
    ward.faults["b1", "redfish"]["override"] = ["not-supported"]
    outcome = play(ward, PowerOrder(Verb.ON, PXE))
    assert outcome.done and "could not be read back" in outcome.warnings[0].text


def test_a_machine_that_runs_already_is_not_told_what_to_boot() -> None:
    ward, box = ward_with(is_on=True)
    outcome = play(ward, PowerOrder(Verb.ON, PXE))
    assert (outcome.done, box.done, [note.code for note in outcome.warnings]) == (True, [], ["unused"])


def test_only_the_override_and_its_failure_is_the_outcome() -> None:
    ward, box = ward_with()
    outcome = play(ward, PowerOrder(Verb.BOOT_NEXT, PXE))
    assert (outcome.done, outcome.driver, box.done, outcome.text) == (
        True, "redfish", ["boot pxe"], "the next boot is set by redfish",
    )  # fmt: skip
    ward, box = ward_with()
    ward.faults["b1", "redfish"]["boot_next"] = ["refused"]
    outcome = play(ward, PowerOrder(Verb.BOOT_NEXT, PXE), drivers=["redfish"])
    assert (outcome.done, outcome.code) == (False, "refused")


# --- machines without a BMC -------------------------------------------------------------------------------------------


def test_a_machine_without_a_bmc_is_told_so() -> None:
    outcome = play(Ward(), PowerOrder(Verb.ON), ways=[])
    assert (outcome.done, outcome.code) == (False, "not-supported")
    assert "it has no BMC entered" in outcome.text


def test_a_bmc_that_cannot_tell_the_state_is_sent_nothing() -> None:
    ward, box = ward_with(is_on=True)
    ward.faults["b1", "redfish"]["is_on"] = ward.faults["b1", "ipmi"]["is_on"] = ["not-supported"]
    outcome = play(ward, PowerOrder(Verb.OFF))
    assert (outcome.done, outcome.code, box.done) == (False, "not-supported", [])


def test_what_nobody_can_read_back_is_sent_once_and_said_so() -> None:
    ward, box = ward_with()
    ward.faults["b1", "wol"]["is_on"] = ["not-supported"]
    outcome = play(ward, PowerOrder(Verb.ON), drivers=["wol"])
    assert (outcome.done, outcome.state, box.done) == (True, PowerState.UNKNOWN, ["on"])
    assert outcome.text == "on was sent by wol; nobody can read back whether it was obeyed"


@pytest.mark.parametrize(
    ("verb", "state", "words"),
    [
        (Verb.ON, "off", "Switch r1 on: press its power button. When r1 starts, let it start from the network"),
        (Verb.ON, "unknown", "Switch r1 on: press its power button. When r1 starts"),
        (Verb.CYCLE, "on", "Switch r1 off, wait ten seconds, and switch it on again. When r1 starts"),
        (Verb.OFF, "on", "Switch r1 off: hold its power button down"),
        (Verb.BOOT_NEXT, "on", "When r1 starts, let it start from the network"),
    ],
)
def test_a_person_is_asked_in_one_sentence_and_nothing_is_wrong(verb: Verb, state: str, words: str) -> None:
    async def story() -> Outcome:
        front = Front(clock=turned_clock())
        way = Endpoint("none", "rack 4", settings={"machine": "r1", "state": state})
        return await front.power("r1", [way], PowerOrder(verb, PXE))

    outcome = turn(story())
    assert outcome.asked is not None and outcome.text.startswith(words)
    assert (outcome.done, outcome.code, outcome.warnings) == (False, "", ())
    assert outcome.seconds < 0.5, "nobody waits for a person"


# --- the real Redfish driver before a service with faults -------------------------------------------------------------

RESET = r"POST .*ComputerSystem\.Reset"
# Where an answer comes, it is waited for.
PATIENT = Manners(gap=0.0, read=60.0, write=60.0, on=0.8, off=0.8, override=0.8, first_pause=0.05, tries=1)
QUICK = replace(PATIENT, read=2.5, write=2.5)


async def at_service(service: Service, order: PowerOrder, password: str = "", *, manners: Manners = PATIENT) -> Outcome:
    with running(service):
        way = service.endpoint(password=password) if password else service.endpoint()
        front = Front(manners=manners)
        try:
            outcome = await front.power(1, [way], order)
        finally:
            await front.close()
    assert way.credentials is not None and way.credentials.password not in repr(outcome)
    return outcome


async def test_the_real_driver_is_read_back() -> None:
    outcome = await at_service(Service(), PowerOrder(Verb.ON, Override(Device.PXE, Mode.UEFI)))
    assert (outcome.done, outcome.state, outcome.driver, outcome.warnings) == (True, ON, "redfish", ())


@pytest.mark.parametrize(
    ("pattern", "answer", "code"),
    [
        ("GET .*/Systems/1", Answer(hang=30.0), "hung"),
        (RESET, Answer(hang=30.0), "hung"),
        (RESET, error(400, "Base.1.0.ActionNotSupported", "The action is not possible now"), "refused"),
        (RESET, error(403, "Contoso.LicenseRequired", "This feature is not licensed"), "licence"),
        ("GET .*/Systems/1", Answer(raw=b"\x00\x01\r\n\r\n"), "garbage"),
        ("POST .*/Sessions", error(503, "Base.1.0.SessionLimitExceeded", "too many sessions"), "sessions-full"),
    ],
)
async def test_real_faults_have_their_names(pattern: str, answer: Answer, code: str) -> None:
    service = Service()
    service.faults[pattern] = answer
    manners = QUICK if code == "hung" else PATIENT
    outcome = await at_service(service, PowerOrder(Verb.ON), manners=manners)
    assert (outcome.done, outcome.code) == (False, code), outcome


async def test_a_real_bmc_that_lies_loses_the_override_or_wants_another_password() -> None:
    service = Service()
    service.lies_about_power = True
    assert (await at_service(service, PowerOrder(Verb.ON))).code == "not-obeyed"
    service = Service()
    service.loses_override = True
    outcome = await at_service(service, PowerOrder(Verb.ON, PXE))
    assert (outcome.done, [note.code for note in outcome.warnings]) == (True, ["not-obeyed"])
    assert outcome.warnings[0].evidence == "redfish reads back: none"
    service = Service()
    assert (await at_service(service, PowerOrder(Verb.ON), "guessed")).code == "wrong-password"
    assert len(service.asked("POST", "Sessions$")) == 1, "said once"


# --- budgets, crashes, walks ------------------------------------------------------------------------------------------


def test_power_ons_keep_to_their_budget_and_power_offs_do_not_wait() -> None:
    async def story() -> None:
        ward = Ward()
        clock = turned_clock()
        front = Front(connect=ward.connect, clock=clock, budgets={"rack": Budget(0.5)})
        started: dict[str, float] = {}

        async def one(number: int, order: PowerOrder) -> None:
            async def saved(write: Write) -> None:
                started[f"{write} {number}"] = clock.tick() - START

            outcome = await front.power(number, endpoints(f"b{number}"), order, saved=saved)
            assert outcome.done

        ward.boxes["b9"].is_on = True
        orders = [one(number, PowerOrder(Verb.ON, labels={"rack": "r1"})) for number in range(4)]
        await asyncio.gather(*orders, one(9, PowerOrder(Verb.OFF, labels={"rack": "r1"})))
        assert [started[f"on {number}"] for number in range(4)] == pytest.approx([0.0, 2.0, 4.0, 6.0], abs=0.5)
        assert started["off 9"] < 0.5

    turn(story())


def killed_and_repeated(story: Coroutine[Any, Any, None]) -> None:
    logging.getLogger("metalbox.power").disabled = True
    try:
        turn(story)
    finally:
        logging.getLogger("metalbox.power").disabled = False


orders = st.sampled_from([verb for verb in Verb if verb is not Verb.BOOT_NEXT])
sickness = st.dictionaries(
    st.sampled_from(["is_on", "on", "off", "off_graceful", "cycle", "boot_next", "override", "*"]),
    st.lists(st.sampled_from(["", "", NEVER, IGNORES, DONE_THEN_HUNG, CRASH, *ERRORS]), min_size=1, max_size=4),
    max_size=4,
)


@settings(deadline=None, max_examples=200)
@given(orders, st.booleans(), sickness, sickness, st.lists(st.floats(0.0, 30.0), max_size=3), st.booleans())
def test_killed_at_any_moment_and_repeated_no_machine_is_switched_against_its_state(
    verb: Verb, is_on: bool, redfish: dict[str, list[str]], ipmi: dict[str, list[str]], kills: list[float], boot: bool
) -> None:
    async def story() -> None:
        ward, box = ward_with(is_on)
        ward.faults["b1", "redfish"].update(redfish)
        ward.faults["b1", "ipmi"].update(ipmi)
        sent: list[Write] = []

        async def saved(write: Write) -> None:
            sent.append(write)

        outcome: Outcome | None = None
        for seconds in [*kills, None]:
            front = Front(connect=ward.connect, clock=turned_clock())
            order = PowerOrder(verb, PXE if boot else None, sent=tuple(sent))
            task = asyncio.create_task(front.power(1, endpoints(), order, saved=saved))
            await asyncio.wait({task}, timeout=seconds)
            if task.done():
                outcome = task.result()
                break
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await asyncio.sleep(5)
        assert outcome is not None and outcome.seconds < 3_000
        # Switched off at most once, never off when off, never on when on; a restart at most once.
        assert box.idle == 0 and box.done.count("off") <= 1 and box.done.count("cycle") <= 1
        assert box.most_flights <= 1
        if outcome.done and outcome.state is not PowerState.UNKNOWN:
            assert outcome.state is (ON if box.is_on else OFF)
            assert box.is_on is (verb in (Verb.ON, Verb.CYCLE, Verb.RESET))
        if not outcome.done:
            assert outcome.code in ERRORS and outcome.text
        assert "hunter2" not in repr(outcome)
        if verb is Verb.ON:
            assert "off" not in box.done and "cycle" not in box.done
        if verb in (Verb.OFF, Verb.SOFT_OFF):
            assert "on" not in box.done and "cycle" not in box.done

    killed_and_repeated(story())
