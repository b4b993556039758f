"""Rules for new machines: the first that fits decides, all its conditions must hold, and none fits by accident."""

from __future__ import annotations

import pytest

from metalbox.acceptance import Chosen, choose
from metalbox.config import AcceptRule, Policy
from metalbox.erase.methods import Level
from metalbox.machine import Hardware, Mac, Machine, System

MACHINE = Machine(
    1,
    "m1",
    "discovered",
    serial="8FZC1P1",
    macs=(Mac("52:54:00:00:00:01"), Mac("52:54:00:00:00:02")),
    hardware=Hardware(system=System(vendor="Dell Inc.", product="PowerEdge R610")),
    location="tor-7 Gi1/0/1",
)
ACCEPT = Policy.ACCEPT


@pytest.mark.parametrize(
    ("rule", "reason"),
    [
        (AcceptRule(policy=ACCEPT, serials=("x", "8fzc1p1")), "serial number 8FZC1P1"),
        (AcceptRule(policy=ACCEPT, macs=("52:54:00:00:00:02",)), "MAC 52:54:00:00:00:02"),
        (AcceptRule(policy=ACCEPT, vendor="dell*"), "vendor Dell Inc. is dell*"),
        (AcceptRule(policy=ACCEPT, product="*R6?0", location="tor-7 *"), "product PowerEdge R610 is *R6?0, location"),
    ],
)
def test_rules_that_fit_say_why(rule: AcceptRule, reason: str) -> None:
    chosen = choose(MACHINE, [rule])
    assert chosen.policy is ACCEPT
    assert chosen.reason.startswith(f"rule number 1: {reason}")


@pytest.mark.parametrize(
    "rule",
    [
        AcceptRule(policy=ACCEPT),
        AcceptRule(policy=ACCEPT, serials=("8FZC1P",)),
        AcceptRule(policy=ACCEPT, serials=("8FZC1P1",), vendor="HPE"),
        AcceptRule(policy=ACCEPT, macs=("52:54:00:00:00:03",)),
        AcceptRule(policy=ACCEPT, location="tor-8 *"),
    ],
)
def test_rules_that_do_not_fit_leave_it_to_a_person(rule: AcceptRule) -> None:
    assert choose(MACHINE, [rule]) == Chosen(Policy.MANUAL, "no rule fits")


def test_what_a_machine_does_not_tell_fits_nothing() -> None:
    bare = Machine(1, "m1", "discovered")
    for rule in (AcceptRule(policy=ACCEPT, vendor="*"), AcceptRule(policy=ACCEPT, serials=("*",))):
        assert choose(bare, [rule]).policy is Policy.MANUAL


def test_the_first_rule_that_fits_decides() -> None:
    rules = [
        AcceptRule(name="not hp", policy=Policy.REJECT, vendor="HP*"),
        AcceptRule(name="dells", policy=ACCEPT, vendor="Dell*", level=Level.PURGE),
        AcceptRule(name="rest", policy=Policy.ADOPT, vendor="*"),
    ]
    assert choose(MACHINE, rules) == Chosen(ACCEPT, "rule dells: vendor Dell Inc. is Dell*", Level.PURGE)
