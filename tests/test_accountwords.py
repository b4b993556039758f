"""What an agent says of an account: taken when it can be right, an error otherwise."""

from __future__ import annotations

from typing import Any

import pytest

from metalbox.accountwords import parse, read_key

KEY = "ab" * 32
GOOD: dict[str, Any] = {
    "public_key": KEY,
    "user_id": 4,
    "channel": 1,
    "address": "192.0.2.11",
    "privilege": "operator",
    "is_new": True,
    "notes": ["the BMC stores passwords with 20 bytes only\x07"],
    "error": "",
}


def test_a_good_word() -> None:
    said = parse(GOOD)
    assert (said.error, said.public_key, said.address, said.is_new) == ("", KEY, "192.0.2.11", True)
    assert said.account == "id 4, operator, channel 1"
    assert said.notes == ("the BMC stores passwords with 20 bytes only",)


@pytest.mark.parametrize(
    "change",
    [
        {"public_key": KEY[:-2]},
        {"public_key": "zz" * 32},
        {"public_key": 7},
        {"privilege": "root"},
        {"privilege": ["operator"]},
        {"user_id": 0},
        {"user_id": 64},
        {"user_id": True},
        {"user_id": "4"},
        {"channel": 16},
        {"channel": None},
    ],
)
def test_what_cannot_be_right_is_an_error(change: dict[str, Any]) -> None:
    assert parse({**GOOD, **change}).error.startswith("the agent's answer has no")


def test_an_address_that_is_none_is_none() -> None:
    for address in ("0.0.0.0", "::", "bmc.example", None, 7.5, ["192.0.2.1"]):
        assert parse({**GOOD, "address": address}).address == ""


def test_an_error_is_bounded_and_printable() -> None:
    said = parse({"error": "the table is full\n\x1b[2J" + "x" * 5000, "notes": ["n"] * 100})
    assert said.error.startswith("the table is full") and "\x1b" not in said.error
    assert len(said.error) <= 1000 and len(said.notes) == 20
    assert parse({}).error and parse({"error": {"a": 1}}).error


def test_keys() -> None:
    assert read_key(KEY) == bytes([0xAB]) * 32
    # Blanks between the digits are no digits.
    assert read_key("AB" * 20 + " " * 24) is None
