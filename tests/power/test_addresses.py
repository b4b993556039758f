"""The addresses that an operator names."""

from __future__ import annotations

from ipaddress import IPv4Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metalbox.errors import InvalidValue, Refused
from metalbox.power.addresses import MAX_ADDRESSES, parse_addresses


def test_every_spelling() -> None:
    assert parse_addresses(["192.0.2.7"]) == ("192.0.2.7",)
    assert parse_addresses(["192.0.2.10-192.0.2.12"]) == ("192.0.2.10", "192.0.2.11", "192.0.2.12")
    assert parse_addresses(["192.0.2.10-12, 192.0.2.12 - 13"]) == tuple(f"192.0.2.{n}" for n in range(10, 14))
    assert parse_addresses(["192.0.2.0/29"]) == tuple(f"192.0.2.{n}" for n in range(1, 7))
    assert parse_addresses(["192.0.2.2/31", "192.0.2.9/32"]) == ("192.0.2.2", "192.0.2.3", "192.0.2.9")
    assert parse_addresses(["2001:db8::fe-2001:db8::101"])[-1] == "2001:db8::101"
    assert parse_addresses(["2001:db8::/126"]) == ("2001:db8::1", "2001:db8::2", "2001:db8::3")
    assert len(parse_addresses(["10.0.0.0/16"])) == 65_534


def test_what_is_too_large_is_refused_before_anything_is_made() -> None:
    sentence = "10.0.0.0/8 is 16,777,214 addresses, more than the 65,536 of one scan: name the networks of the BMCs"
    with pytest.raises(Refused, match=sentence):
        parse_addresses(["10.0.0.0/8"])
    with pytest.raises(Refused):
        parse_addresses(["2001:db8::/64"])
    with pytest.raises(Refused):
        parse_addresses(["10.0.0.0/16", "192.0.2.1-3"])


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "names no addresses: write an address, a range like"),
        ("bmc-1", "'bmc-1' names no addresses"),
        ("192.0.2.1/24", "has host bits set"),
        ("192.0.2.9-3", "its end must not come before its beginning"),
        ("192.0.2.9-2001:db8::1", "no range"),
        ("192.0.2.9-300", "names no addresses"),
        ("192.0.2.1-", "names no addresses"),
        ("224.0.0.1", "no address of a BMC"),
        ("0.0.0.0", "no address of a BMC"),
        ("224.0.0.0/24", "names no addresses"),
        ("fe80::1", "link-local"),
        ("fe80::/120", "names no addresses"),
    ],
)
def test_what_names_no_addresses(text: str, reason: str) -> None:
    with pytest.raises(InvalidValue, match=reason):
        parse_addresses([text])
    with pytest.raises(InvalidValue, match="nothing to scan"):
        parse_addresses([])


@given(st.integers(0x0A000000, 0x0AFF0000), st.integers(0, 300))
def test_a_range_is_what_lies_between(first: int, more: int) -> None:
    found = parse_addresses([f"{IPv4Address(first)}-{IPv4Address(first + more)}"])
    assert [int(IPv4Address(address)) for address in found] == list(range(first, first + more + 1))


@given(st.lists(st.text("0123456789.:/-, abf", max_size=40), max_size=4))
def test_no_text_raises_anything_else(texts: list[str]) -> None:
    try:
        assert 0 < len(parse_addresses(texts)) <= MAX_ADDRESSES
    except (InvalidValue, Refused) as error:
        assert str(error)
