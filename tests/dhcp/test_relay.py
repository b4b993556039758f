from __future__ import annotations

import pytest

from metalbox.dhcp.relay import location_text, source_port_wanted, sub_options
from tests.dhcp.desk import ask


def test_sub_options_are_read_as_far_as_they_are_whole() -> None:
    assert sub_options(bytes.fromhex("010261620200 05040a000001")) == {1: b"ab", 2: b"", 5: b"\x0a\0\0\x01"}
    assert sub_options(bytes.fromhex("0102616202ff61")) == {1: b"ab"}
    assert sub_options(bytes.fromhex("010161 010162 01")) == {1: b"a"}
    assert sub_options(b"") == {}


def test_source_port() -> None:
    assert source_port_wanted(ask(1, more={82: bytes.fromhex("1300")}))
    assert not source_port_wanted(ask(1, more={82: bytes.fromhex("010113")}))
    assert not source_port_wanted(ask(1))


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"ge-0/0/1.0:100", "ge-0/0/1.0:100"),
        (b"swp1\0", "swp1"),
        (bytes.fromhex("000400110105"), "vlan 17 module 1 port 5"),
        (bytes.fromhex("0006001122334455"), "00:11:22:33:44:55"),
        (b"\x00\x01\xff", "00:01:ff"),
        ("é".encode(), "c3:a9"),
        (b"", ""),
    ],
)
def test_location_text(data: bytes, text: str) -> None:
    assert location_text(data) == text
