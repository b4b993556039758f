"""Values of the configuration file: what is taken, and the sentence for what is not."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network
from typing import Any

import pytest

from metalbox import configvalues
from metalbox.configvalues import Parse
from metalbox.errors import InvalidValue
from metalbox.machine import Mac

TAKEN: list[tuple[Parse, Any, Any]] = [
    (configvalues.as_text, 10, "10"),
    (configvalues.as_decimal(0.5, 4.0), 1, 1.0),
    (configvalues.as_decimal(0.5, 4.0), 0.5, 0.5),
    (configvalues.as_number(1, 3), 3, 3),
    (configvalues.as_address, "192.0.2.1", IPv4Address("192.0.2.1")),
    (configvalues.as_network, "192.0.2.0/24", IPv4Network("192.0.2.0/24")),
    (configvalues.as_mac, "52-54-00-11-22-AA", Mac("52:54:00:11:22:aa")),
    (configvalues.as_optional(configvalues.as_text), None, None),
    (configvalues.as_list(configvalues.as_text), ["a", 1], ("a", "1")),
]
REFUSED: list[tuple[Parse, Any, str]] = [
    (configvalues.as_text, True, "expected a text, got True"),
    (configvalues.as_truth, "yes", "expected true or false, got 'yes'"),
    (configvalues.as_decimal(0.5, 4.0), True, "expected a number from 0.5 to 4, got True"),
    (configvalues.as_decimal(0.5, 4.0), "1", "got '1'"),
    (configvalues.as_decimal(0.5, 4.0), float("nan"), "got nan"),
    (configvalues.as_number(1, 3), 2.0, "expected a whole number from 1 to 3, got 2.0"),
    (configvalues.as_word("a", "b"), "c", "expected one of a, b, got 'c'"),
    (configvalues.as_path, "", "expected a path, got ''"),
    (configvalues.as_mac, 191_223_344, "put the address in quotes"),
    (configvalues.as_interface, "a" * 16, "expected the name of a network interface"),
    (configvalues.as_list(configvalues.as_text), "a", "expected a list, got 'a'"),
]


@pytest.mark.parametrize(("parse", "value", "expected"), TAKEN)
def test_taken(parse: Parse, value: Any, expected: Any) -> None:
    assert parse(value) == expected
    assert type(parse(value)) is type(expected)


@pytest.mark.parametrize(("parse", "value", "sentence"), REFUSED)
def test_refused_with_the_value(parse: Parse, value: Any, sentence: str) -> None:
    with pytest.raises(InvalidValue, match=sentence.replace("[", r"\[")):
        parse(value)
