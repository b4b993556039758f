"""`why` as to lives: every fault by its name, who is waited for, and when it is the answer and when a remark."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

import pytest

from metalbox.cli.main import parser
from metalbox.diagnosis import why
from metalbox.evidence import Bmc, Diagnosis, Facts, LifeFacts, Ordered, PowerFacts
from metalbox.lifediagnosis import FAULTS
from metalbox.machine import Fault, Machine
from metalbox.timeline import Entry
from tests.timelines import MAC, NOON, SERVER, agent, bios_boot, report

MACHINE = Machine(1, "r1-01", "erasing", macs=(MAC,))
ALIVE = [agent(0, "hello"), report(5), agent(5, "poll", last=90)]
ROUND = LifeFacts("accept", "purge", "alice", NOON - 60, can_power=True)
PROGRESS = {
    "disks": {
        "S1": {"phase": "erase", "percent": 35.2, "left": 3000, "method": "overwrite"},
        "S2": {"phase": "verify", "left": 7200},
        "S3": {"phase": {}, "percent": "x", "left": float("nan")},
        "S4": 5,
    }
}


def ask(
    life: LifeFacts, *entries: Entry, now: float = 100.0, power: PowerFacts | None = None, **machine: Any
) -> Diagnosis:
    facts = Facts(server_address=SERVER, power=power, life=life)
    return why(dataclasses.replace(MACHINE, **machine), list(entries), facts, NOON + now)


def codes(found: Diagnosis) -> list[str]:
    assert all(one.also == () for one in found.also)
    return [found.code, *(one.code for one in found.also)]


@pytest.mark.parametrize("code", [*FAULTS, "of-a-later-version"])
def test_a_fault_comes_first_and_says_what_to_do(code: str) -> None:
    fault = Fault(code, "two disks were not erased", NOON + 50, ("S1: it said no",))
    found = ask(ROUND, *ALIVE, fault=fault)
    assert codes(found) == [f"fault-{code}"]
    assert found.doing == "in state erasing, stopped by a fault: two disks were not erased"
    assert found.waiting_for.startswith("you")
    assert (found.since, found.evidence) == (NOON + 50, ("S1: it said no",))
    assert found.cause
    assert any("metalbox retry r1-01" in line for line in found.advice)
    assert "{name}" not in " ".join(found.advice)


def test_what_the_advice_names_are_verbs() -> None:
    helps = parser().format_help()
    for _, advice in FAULTS.values():
        for line in advice:
            for command in line.split("`metalbox ")[1:]:
                assert re.search(rf"^    {command.split()[0].rstrip('`')}\b", helps, re.MULTILINE), command


def test_a_fault_does_not_hide_that_the_machine_does_not_boot() -> None:
    fault = Fault("agent-late", "its agent did not come", NOON + 50)
    found = ask(ROUND, *bios_boot()[:3], now=4000, fault=fault)
    assert codes(found)[0] == "fault-agent-late"
    assert len(found.also) == 1 and found.also[0].code not in ("idle", "not-seen")


def test_many_lines_of_evidence_are_cut() -> None:
    fault = Fault("erase-failed", "all failed", NOON, tuple(f"S{number}" for number in range(50)))
    found = ask(ROUND, *ALIVE, fault=fault)
    assert len(found.evidence) == 21 and found.evidence[-1].startswith("and 30 more")


def test_progress_of_each_disk_with_what_is_left() -> None:
    life = dataclasses.replace(
        ROUND, waiting=("erase",), ordered_at=NOON, begun_at=NOON + 10, progress=PROGRESS, refused=(("S9", "locked"),)
    )
    found = ask(life, *ALIVE, deadline_at=NOON + 9000)
    assert codes(found) == ["erasing"]
    assert found.since == NOON + 10 and found.waiting_for == "its disks"
    assert found.evidence[0].endswith("accept at level purge, by alice")
    assert found.evidence[1:4] == (
        "S1: erase, 35 %, by overwrite, about 50 min left",
        "S2: verify, about 2.0 h left",
        "S3: {}",
    )
    assert "the disk S9 cannot be erased: locked" in found.evidence
    assert found.evidence[-1].startswith("in time until ")


def test_a_machine_in_mid_erase_that_fell_silent() -> None:
    life = dataclasses.replace(ROUND, begun_at=NOON + 10, progress=PROGRESS)
    found = ask(life, *ALIVE, now=1000)
    assert codes(found) == ["agent-gone", "erasing"]
    assert found.also[0].advice == ("do not cut its power: the drives may be at work without the agent",)


@pytest.mark.parametrize(
    ("waiting", "doing"),
    [
        (("report",), "its agent looks at the disks"),
        (("bmc-account",), "its agent makes metalbox's account at the BMC"),
        (("erase",), "its agent compares the disks with the order"),
        ((), "its agent is about to get its order"),
    ],
)
def test_what_its_agent_does_before_it_begins(waiting: tuple[str, ...], doing: str) -> None:
    found = ask(dataclasses.replace(ROUND, waiting=waiting), *ALIVE)
    assert codes(found) == ["prepares"]
    assert found.doing == f"in state erasing, {doing}"


def test_without_a_bmc_a_person_has_to_start_it() -> None:
    found = ask(dataclasses.replace(ROUND, can_power=False), *ALIVE, now=5000)
    assert codes(found) == ["waits-for-hand", "agent-gone"]
    assert found.waiting_for == "a person, to switch it on"
    # Once somebody pressed the button, those who know boots explain it.
    found = ask(dataclasses.replace(ROUND, can_power=False), *ALIVE, *bios_boot(4000)[:3], now=8000)
    assert codes(found)[0] not in ("waits-for-hand", "agent-gone")


def test_what_does_not_boot_is_explained_by_the_boot() -> None:
    found = ask(dataclasses.replace(ROUND, boots=2), *bios_boot()[:3], now=4000)
    assert found.code not in ("waits-for-agent", "not-seen")
    assert found.also[0].code == "waits-for-agent"
    assert found.also[0].cause == "it was started for this by us: 2 of 3 times"


def test_what_its_bmc_refuses_is_the_answer() -> None:
    order = Ordered("cycle", NOON + 10, NOON + 20, text="it says no", code="refused")
    bmc = Bmc("192.0.2.50", "192.0.2.50", drivers=("redfish",), user="root", has_password=True)
    found = ask(ROUND, now=4000, power=PowerFacts((bmc,), "off", NOON + 95, "redfish", order=order))
    assert found.code not in ("waits-for-agent", "not-seen")
    assert "waits-for-agent" in codes(found)


@pytest.mark.parametrize("state", ["rejected", "available", "deployed", "retired"])
def test_states_of_rest_are_said_plainly(state: str) -> None:
    found = ask(LifeFacts(), *ALIVE, now=9000, state=state, state_since=NOON + 7)
    assert codes(found) == [state]
    assert (found.since, found.waiting_for[:6]) == (NOON + 7, "nobody")
    booting = ask(LifeFacts(), *bios_boot()[:3], now=4000, state=state)
    assert codes(booting)[1:] == [state]


def test_a_held_machine_and_one_that_waits_for_a_second_person() -> None:
    found = ask(LifeFacts(), *ALIVE, state="available", held="a fan is changed")
    assert codes(found) == ["held", "available"]
    assert found.cause == "a fan is changed"
    life = LifeFacts(pending="accept", pending_by="alice", pending_at=NOON + 9)
    found = ask(life, *ALIVE, state="discovered")
    assert codes(found) == ["waits-for-approval"]
    assert found.waiting_for == "a second person, not alice"
    assert "metalbox approve r1-01" in found.advice[0]


def test_a_discovered_machine_waits_for_a_decision() -> None:
    found = ask(LifeFacts(), *ALIVE, state="discovered")
    assert codes(found) == ["idle"]
    assert "metalbox accept r1-01" in found.advice[-1]


def test_a_conflict_stays_the_answer() -> None:
    found = ask(ROUND, *ALIVE, conflict="it has the UUID of r1-02", fault=Fault("clock", "back", NOON))
    assert codes(found) == ["duplicate-uuid", "fault-clock"]


def test_without_facts_nothing_changes() -> None:
    assert why(MACHINE, ALIVE, Facts(server_address=SERVER), NOON + 100).code == "idle"
