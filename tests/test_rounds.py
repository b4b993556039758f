"""A round as facts and back, what a request may say, and the sentences about what came of it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from metalbox.erase.methods import Level
from metalbox.errors import InvalidValue
from metalbox.lifecycle import Event
from metalbox.machine import Disk
from metalbox.rounds import (
    FACT,
    Round,
    Wish,
    disks_named,
    failed_methods,
    from_facts,
    outcome_fault,
    parse_wish,
    person,
    present,
    settled,
    surprises,
    to_facts,
    words,
)


def test_a_round_comes_back_from_the_facts() -> None:
    said = Wish(Level.PURGE, "full", ("A",), ("B",), ("C",), "alice", "old", True, "bob")
    whole = Round(
        "retire", 5.0, "deployed", said, (("S", "W", "M", 5),), {"S": ("overwrite",)}, "verified", 2, 4.0, True
    )
    for one in (whole, Round("erase", 1.0, "available", Wish())):
        assert from_facts({FACT: json.loads(json.dumps(to_facts(one)))}) == one
    assert from_facts({}) is None


def test_what_a_request_may_say() -> None:
    body = {
        "level": "purge",
        "verify": "full",
        "keep": [" A "],
        "named": ["B"],
        "disks": [],
        "reason": " x ",
        "force": 1,
    }
    assert parse_wish(body, "alice", Level.CLEAR, "sample") == Wish(
        Level.PURGE, "full", ("A",), ("B",), (), "alice", "x", False
    )
    assert parse_wish({}, "alice", Level.PURGE, "full") == Wish(Level.PURGE, "full", operator="alice")
    assert parse_wish(None, "", Level.CLEAR, "sample").disks is None


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        ([], "expected an object, got []"),
        ({"level": "shred"}, "level 'shred': write clear or purge"),
        ({"verify": "some"}, "verify 'some': write sample or full"),
        ({"keep": "A"}, "keep: expected a list"),
        ({"named": [1]}, "named: expected a list"),
        ({"reason": "x" * 1001}, "reason: expected a text of at most 1000"),
        ({"reason": 5}, "reason: expected a text"),
    ],
)
def test_what_it_may_not_say(body: Any, sentence: str) -> None:
    with pytest.raises(InvalidValue) as caught:
        parse_wish(body, "alice", Level.CLEAR, "sample")
    assert str(caught.value).startswith(sentence)


def test_surprises_name_the_disks() -> None:
    seen = (("S1", "", "M", 1000), ("S2", "0x5", "", 2000))
    assert (
        surprises(seen, [Disk(serial="S1", model="M", size_bytes=1000), Disk(serial="S2", wwn="0x5", size_bytes=2000)])
        == []
    )
    assert surprises(seen, [Disk(serial="S1", model="M", size_bytes=1001)]) == [
        "the disk S1 (M, 1 kB) would be erased, and nobody has confirmed that",
        "the disk S1 (M, 1 kB) was to be erased, and is not there any more",
        "the disk S2 (no model, 2 kB) was to be erased, and is not there any more",
    ]


DOCUMENTS = [
    {"kind": "drive", "number": 1, "drive": {"serial": "A"}},
    {"kind": "failure", "number": 2, "drive": {"serial": "", "wwn": "0x5"}, "reason": "it lied"},
]


def test_the_fault_says_which_disks_and_why() -> None:
    fault = outcome_fault({}, DOCUMENTS, 9.0)
    assert (fault.code, fault.text, fault.at) == ("erase-failed", "1 of 2 disks were not erased", 9.0)
    assert fault.evidence == ("0x5: it lied (failure record 2)",)
    assert outcome_fault({"refused": "another machine"}, [], 9.0).text == (
        "the agent did not carry out the erase order: another machine"
    )


def test_methods_that_failed_are_remembered_for_their_disk_only() -> None:
    outcome = {
        "disks": [
            {"serial": "A", "method": "overwrite", "result": "erased"},
            {"wwn": "0x5", "method": "overwrite", "attempts": [{"method": "discard"}, {"method": "nonsense"}, 5]},
            "garbage",
        ]
    }
    before = {"0x5": ("ata-sanitize-block",), "B": ("discard",)}
    assert failed_methods(before, outcome, DOCUMENTS) == {
        "0x5": ("ata-sanitize-block", "discard", "overwrite"),
        "B": ("discard",),
    }
    assert failed_methods({}, {"disks": None}, DOCUMENTS) == {}


def test_disks_by_any_mark() -> None:
    disks = [Disk(serial="Abc", wwn="0x5"), Disk(serial="", wwn="")]
    assert disks_named(disks, " aBC ") == disks_named(disks, "0X5") == disks[:1]
    assert disks_named(disks, "") == []


def test_sentences() -> None:
    assert words(Event.ERASE, Wish(operator="alice", reason="sold")) == "erase at level clear, by alice (sold)"
    assert words(Event.ADOPT, Wish()) == "adopt"


def test_what_a_verb_means_where_nothing_was_said() -> None:
    open_ = parse_wish({}, "alice", Level.CLEAR, "sample")
    assert settled(Event.RETIRE, open_, None).level is Level.PURGE
    assert settled(Event.ERASE, open_, None) == Wish(operator="alice")
    chosen = parse_wish({"level": "clear"}, "alice", Level.PURGE, "sample")
    assert settled(Event.RETIRE, chosen, None).level is Level.CLEAR
    first = Round("retire", 1.0, "deployed", Wish(Level.PURGE, "full", keep=("A",), named=("U",), kept=("B",)))
    again = settled(Event.RETRY, open_, first)
    assert (again.level, again.verify, again.named, again.keep, again.kept) == (
        *(Level.PURGE, "full", ("U",), ()),
        ("B", "A"),
    )
    assert settled(Event.RETRY, again, first) == again
    other = parse_wish({"level": "clear", "verify": "sample", "named": ["A"], "keep": ["U"]}, "", Level.PURGE, "full")
    other = settled(Event.RETRY, other, first)
    assert (other.level, other.verify, other.named, other.keep) == (Level.CLEAR, "sample", ("A",), ("U",))
    assert other.kept == ("B",)


def test_marks_are_understood_as_the_plan_does() -> None:
    disks = [Disk(serial="S1", wwn="naa.5000c500a")]
    assert present(disks, ["s1", "0x5000C500A", "S2", "s1"]) == ["s1", "0x5000C500A"]


def test_one_person_has_one_name() -> None:
    assert person("alice (root)") == person("alice") == "alice"
    assert person("root") != person("alice")
