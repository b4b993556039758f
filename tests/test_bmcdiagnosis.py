"""`why` as to power: every trouble of a BMC by its name, and when it is the answer and when a remark."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from metalbox.bmcadvice import CAUSES
from metalbox.diagnosis import why
from metalbox.evidence import Bmc, Diagnosis, Facts, Ordered, PowerFacts, Trouble
from metalbox.machine import Machine
from metalbox.timeline import Entry, Kind
from tests.timelines import MAC, NOON, SERVER, agent, bios_boot, dhcp, entry, report

MACHINE = Machine(1, "r1-01", "discovered", macs=(MAC,))
BMC = Bmc("192.0.2.50", "192.0.2.50", drivers=("redfish",), vendor="Dell", user="root", has_password=True)
WELL = PowerFacts((BMC,), "on", NOON + 95, "redfish")
OFF = PowerFacts((BMC,), "off", NOON + 95, "redfish")
# Its agent spoke at noon and 90 s later.
ALIVE = [agent(0, "hello"), report(5), agent(5, "poll", last=90)]


def ask(power: PowerFacts | None, *entries: Entry, now: float = 100.0, last_seen: float = 0.0) -> Diagnosis:
    machine = dataclasses.replace(MACHINE, last_seen=NOON + last_seen if last_seen else 0.0)
    return why(machine, list(entries), Facts(server_address=SERVER, power=power), NOON + now)


def sick(code: str, at: float = 95.0, **changes: Any) -> PowerFacts:
    trouble = Trouble(code, f"192.0.2.50 has trouble: {code}", "what it said", at=NOON + at)
    return dataclasses.replace(WELL, trouble=trouble, **changes)


def ordered(verb: str = "on", **changes: Any) -> Ordered:
    return Ordered(verb, NOON + 10, **{"finished_at": NOON + 20, "text": "it says so", **changes})


def codes(found: Diagnosis) -> list[str]:
    return [found.code, *(one.code for one in found.also)]


def test_without_facts_of_power_nothing_changes() -> None:
    assert codes(ask(None, *ALIVE)) == ["idle"]
    assert codes(ask(None)) == ["not-seen"]
    assert codes(why(None, [], Facts(power=sick("hung")), NOON)) == ["not-seen"]


def test_all_is_well() -> None:
    assert codes(ask(WELL, *ALIVE)) == ["idle"]


@pytest.mark.parametrize("code", sorted(set(CAUSES) - {"not-supported"}))
def test_a_machine_that_is_well_has_its_bmcs_trouble_as_a_remark(code: str) -> None:
    found = ask(sick(code), *ALIVE)
    assert codes(found) == ["idle", code]
    (also,) = found.also
    assert also.doing.startswith("its BMC 192.0.2.50 ")
    assert also.since == NOON + 95
    assert also.evidence == (
        f"2027-01-15 08:01:35 UTC: {code}: 192.0.2.50 has trouble: {code}",
        "what it said",
        "2027-01-15 08:01:35 UTC: it was on, as redfish read it last (5 s ago)",
    )
    assert also.cause and also.waiting_for and any("metalbox bmc test 192.0.2.50" in line for line in also.advice)


def test_the_trouble_is_the_answer_where_nothing_else_is_known() -> None:
    found = ask(sick("wrong-password", state="unknown", read_at=0.0, source=""))
    assert codes(found) == ["wrong-password"]
    assert "`metalbox bmc add 192.0.2.50 --user root --machine r1-01` asks for it" in found.advice


def test_a_driver_that_cannot_tell_is_no_trouble() -> None:
    assert codes(ask(sick("not-supported"), *ALIVE)) == ["idle"]


def test_the_trouble_began_when_the_timeline_told_of_it_first() -> None:
    told = entry(Kind.POWER, 50, "the BMC 192.0.2.50: hangs", code="hung", evidence="")
    assert ask(sick("hung"), *ALIVE, told).also[0].since == NOON + 50
    over = entry(Kind.POWER, 60, "is on", observed="on", code="")
    again = entry(Kind.POWER, 70, "the BMC 192.0.2.50: hangs", code="hung", evidence="")
    assert ask(sick("hung"), *ALIVE, told, over, again).also[0].since == NOON + 70


def test_what_was_remembered_counts_until_it_answers_again() -> None:
    """After a restart nothing was observed yet, and the last error is in the database."""
    failed = dataclasses.replace(BMC, error_code="bad-tls", error_text="not trusted", error_at=NOON + 60)
    assert codes(ask(PowerFacts((failed,)), *ALIVE)) == ["idle", "bad-tls"]
    assert codes(ask(dataclasses.replace(WELL, bmcs=(failed,)), *ALIVE)) == ["idle"]


def test_no_bmc_and_no_account() -> None:
    found = ask(PowerFacts())
    assert codes(found) == ["not-seen", "no-bmc"]
    assert "`metalbox bmc add ADDRESS --user USER --machine r1-01`" in found.also[0].advice
    assert codes(ask(PowerFacts(), *ALIVE)) == ["idle"]
    bare = dataclasses.replace(BMC, has_password=False, user="", drivers=())
    found = ask(PowerFacts((bare,)), *ALIVE)
    assert codes(found) == ["idle", "no-account"]
    assert found.also[0].advice == ("`metalbox bmc add 192.0.2.50 --user USER --machine r1-01`",)
    person = Bmc("r1-01", "r1-01", drivers=("none",))
    assert codes(ask(PowerFacts((person,)), *ALIVE)) == ["idle"]


def test_an_order_in_flight_is_the_answer() -> None:
    power = dataclasses.replace(WELL, order=ordered("cycle", finished_at=None, text="", sent=("off",)))
    found = ask(power, *ALIVE)
    assert codes(found) == ["order-running", "idle"]
    assert found.doing == "the order `cycle` is carried out; sent so far: off"
    assert (found.since, found.cause) == (NOON + 10, "nothing is wrong: it is in time")
    assert "does not answer and is asked again" in ask(power, *ALIVE, now=400.0).cause


def test_an_order_that_waits_in_the_budget() -> None:
    power = dataclasses.replace(OFF, order=ordered(finished_at=None, text="", place=3))
    found = ask(power)
    assert codes(found) == ["power-budget"]
    assert found.waiting_for == "the budget of power-ons: it is number 3 in the queue"


def test_a_bmc_that_lies_about_power() -> None:
    told = "redfish took on, and 60 s later the machine is still not on"
    order = ordered(text=told, code="not-obeyed", evidence="redfish reads back: off", driver="redfish")
    found = ask(dataclasses.replace(OFF, order=order))
    assert codes(found) == ["not-obeyed"]
    assert found.doing == f"the order `on` failed: {told}"
    assert "redfish reads back: off" in found.evidence
    # Somebody pressed the button: it is heard of, so all is well again.
    assert codes(ask(dataclasses.replace(WELL, order=order), *ALIVE)) == ["idle"]


@pytest.mark.parametrize("code", sorted(CAUSES))
def test_orders_that_failed(code: str) -> None:
    order = ordered("cycle", text="it failed", code=code, driver="redfish")
    power = dataclasses.replace(sick(code), order=order)
    assert codes(ask(power, *ALIVE)) == ["idle", code]
    assert codes(ask(power)) == [code]
    assert codes(ask(dataclasses.replace(WELL, order=order), *bios_boot(60), now=61.0))[0] == "booting"


def test_orders_that_were_given_up_or_met_a_bug() -> None:
    found = ask(dataclasses.replace(OFF, order=ordered(code="abandoned", text="given up")))
    assert codes(found) == ["abandoned"]
    assert found.advice == ("order it again, if it is still wanted: `metalbox power on r1-01`",)
    assert codes(ask(dataclasses.replace(OFF, order=ordered(code="bug", text="failed: KeyError")))) == ["order-failed"]


def test_a_person_is_asked() -> None:
    person = Bmc("r1-01", "r1-01", drivers=("none",))
    order = ordered(asked="Switch r1-01 on: press its power button.", expects="on")
    power = PowerFacts((person,), order=order)
    found = ask(power)
    assert codes(found) == ["person-asked"]
    assert found.waiting_for == "a person: Switch r1-01 on: press its power button."
    assert codes(ask(power, *ALIVE)) == ["idle"]
    again = dataclasses.replace(power, order=dataclasses.replace(order, verb="cycle", asked="Switch it off and on."))
    assert codes(ask(again, *ALIVE)) == ["person-asked", "idle"]
    assert codes(ask(again, *bios_boot(60), now=61.0))[0] == "booting"
    off = dataclasses.replace(power, order=dataclasses.replace(order, verb="off", asked="Switch it off."))
    assert codes(ask(off, *ALIVE))[0] == "person-asked"
    assert "person-asked" not in codes(ask(off, *ALIVE, now=500.0))


def test_switched_off() -> None:
    line = entry(Kind.POWER, -300, "is off, as redfish reads it", observed="off", code="")
    found = ask(OFF, line)
    assert codes(found) == ["switched-off"]
    assert (found.since, found.advice) == (NOON - 300, ("`metalbox power on r1-01`",))
    assert "nobody here has ordered it" in found.cause
    assert found.evidence == ("2027-01-15 08:01:35 UTC: it was off, as redfish read it last (5 s ago)",)
    by_order = dataclasses.replace(OFF, order=ordered("off", done=True, code=""))
    assert "it was ordered: `off`" in ask(by_order).cause
    by_itself = dataclasses.replace(OFF, order=ordered("on", done=True, code=""))
    assert "went off again by itself" in ask(by_itself).cause


def test_a_boot_that_was_cut_off_by_the_power_is_told_as_that() -> None:
    lines = [*bios_boot(-200), entry(Kind.POWER, -150, "is off", observed="off")]
    assert codes(ask(OFF, *lines))[0] == "switched-off"
    # The reading is older than the boot: nothing can be said of the power now.
    old = dataclasses.replace(OFF, read_at=NOON - 500)
    assert codes(ask(old, *bios_boot(90), now=91.0)) == ["booting"]


def test_off_by_its_bmc_and_heard_of_all_the_same() -> None:
    line = entry(Kind.POWER, -300, "is off, as redfish reads it", observed="off")
    found = ask(OFF, line, *ALIVE)
    assert codes(found) == ["idle", "power-doubtful"]
    assert "it says off since 2027-01-15 07:55:00 UTC" in found.also[0].doing
    assert codes(ask(OFF, *ALIVE))[0] == "switched-off"


def test_the_bmcs_own_packets_are_not_the_machines() -> None:
    line = entry(Kind.POWER, -300, "is off", observed="off")
    own = dhcp(98, "bmc", "REQUEST", "ACK")
    assert codes(ask(OFF, line, own)) == ["switched-off"]


def test_an_override_that_was_lost() -> None:
    warning = Trouble(
        "not-obeyed", "what boots next could not be set to pxe, once: it has another", "redfish reads back: none",
        verb="boot_next", at=NOON + 15,
    )  # fmt: skip
    order = ordered(done=True, code="", boot="pxe, once", driver="redfish", warnings=(warning,))
    found = ask(dataclasses.replace(WELL, order=order), *ALIVE)
    assert codes(found) == ["idle", "override-lost"]
    assert found.also[0].doing == "its BMC did not keep what it was to boot next (pxe, once)"
    assert "redfish reads back: none" in found.also[0].evidence


def test_two_drivers_that_disagree_about_power() -> None:
    warning = Trouble("not-obeyed", "redfish still reports the machine not on", "ipmi is believed", verb="is_on")
    order = ordered(done=True, code="", driver="redfish", warnings=(warning,))
    assert codes(ask(dataclasses.replace(WELL, order=order), *ALIVE)) == ["idle", "power-doubtful"]


def test_an_order_that_needed_another_way() -> None:
    attempt = Trouble("licence", "it wants a licence", "OemLicenseNotPassed", "redfish", "boot_next", NOON + 12)
    order = ordered(done=True, code="", driver="ipmi", attempts=(attempt, attempt))
    found = ask(dataclasses.replace(WELL, order=order), *ALIVE)
    assert codes(found) == ["idle", "licence"]
    assert any("iDRAC Enterprise" in line for line in found.also[0].advice)
    assert "carried out by ipmi" in found.also[0].doing


def test_a_conflict_stays_the_answer() -> None:
    machine = dataclasses.replace(MACHINE, conflict="it has the same UUID as m2")
    found = why(machine, [], Facts(power=OFF), NOON + 100)
    assert codes(found) == ["duplicate-uuid", "switched-off"]


def test_a_machine_that_is_gone_while_its_bmc_hangs() -> None:
    assert codes(ask(sick("hung", state="unknown"), *ALIVE, now=900.0)) == ["agent-gone", "hung"]


@pytest.mark.parametrize("kind", list(Kind))
def test_nothing_in_a_timeline_makes_it_fail(kind: Kind) -> None:
    for data in ({}, {"code": None}, {"observed": None, "power": 1}, {"state": ["off"]}):
        for power in (WELL, OFF, sick("hung"), PowerFacts(order=Ordered("", 0.0))):
            assert ask(power, entry(kind, 0, "x", **data), now=1000.0).code
