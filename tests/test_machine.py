"""The nouns: how a MAC and a UUID are read, and which of them name nobody."""

from __future__ import annotations

import pytest

from metalbox.errors import InvalidValue
from metalbox.machine import (
    Hardware,
    Mac,
    Nic,
    Pci,
    is_placeholder_serial,
    is_placeholder_uuid,
    parse_uuid,
    swap_uuid,
    uuid_from_option97,
)


@pytest.mark.parametrize(
    "text", ["52:54:00:ab:cd:ef", "52-54-00-AB-CD-EF", "5254.00ab.cdef", " 525400ABCDEF ", "525400abcdef"]
)
def test_a_mac_in_any_usual_spelling(text: str) -> None:
    mac = Mac.parse(text)
    assert mac == "52:54:00:ab:cd:ef"
    assert isinstance(mac, Mac)
    assert mac.raw == bytes.fromhex("525400abcdef")
    assert Mac.from_bytes(mac.raw) == mac


def test_infiniband_has_twenty_bytes() -> None:
    assert len(Mac.parse("80:00:02:08:fe:80:00:00:00:00:00:00:f4:52:14:03:00:7b:cb:a1").raw) == 20


@pytest.mark.parametrize("text", ["", "52:54:00:ab:cd", "52:54:00:ab:cd:zz", "hello", "5 2:54:00:ab:cd:ef", "a" * 100])
def test_what_is_no_mac_is_said_with_its_value(text: str) -> None:
    with pytest.raises(InvalidValue, match="is not a MAC address: write it like"):
        Mac.parse(text)


@pytest.mark.parametrize(
    ("text", "usable"),
    [
        ("52:54:00:00:00:01", True),
        ("00:00:00:00:00:00", False),
        ("ff:ff:ff:ff:ff:ff", False),
        ("01:00:5e:00:00:01", False),
    ],
)
def test_addresses_that_name_nobody(text: str, usable: bool) -> None:
    assert Mac.parse(text).is_usable is usable


def test_a_uuid_is_text_in_one_form() -> None:
    assert parse_uuid(" 4C4C4544-0042-3510-8054-B7C04F333732 ") == "4c4c4544-0042-3510-8054-b7c04f333732"
    with pytest.raises(InvalidValue, match="'nope' is not a UUID"):
        parse_uuid("nope")


def test_both_byte_orders() -> None:
    swapped = swap_uuid("11112222-3333-4444-5555-666677778821")
    assert swapped == "22221111-3333-4444-5555-666677778821"
    assert swap_uuid(swapped) == "11112222-3333-4444-5555-666677778821"


def test_option_97_as_edk2_sends_it() -> None:
    wire = bytes.fromhex("00222211113333444455556666777788" + "21")
    assert uuid_from_option97(wire) == "11112222-3333-4444-5555-666677778821"


@pytest.mark.parametrize("data", [b"", bytes(17), b"\x01" + bytes(16), b"\x00" + b"\x44" * 16, b"\x00\xff" * 8])
def test_an_option_97_that_says_nothing(data: bytes) -> None:
    assert uuid_from_option97(data) == ""


def test_a_vendors_placeholder_in_either_order() -> None:
    assert is_placeholder_uuid("03000200-0400-0500-0006-000700080009")
    assert is_placeholder_uuid("00020003-0004-0005-0006-000700080009")
    assert is_placeholder_uuid("")
    assert not is_placeholder_uuid("4c4c4544-0042-3510-8054-b7c04f333732")


@pytest.mark.parametrize(
    "serial", ["", "To Be Filled By O.E.M.", "Default string", "0000000", "  None ", "1234567890", "-"]
)
def test_serials_that_say_nothing(serial: str) -> None:
    assert is_placeholder_serial(serial)


@pytest.mark.parametrize("serial", ["7XK2P53", "CZJ1234567", "LAB0001"])
def test_serials_that_say_something(serial: str) -> None:
    assert not is_placeholder_serial(serial)


def test_what_hardware_tells_of_itself() -> None:
    nics = (
        Nic("52:54:00:00:00:02"),
        Nic("not one"),
        Nic("00:00:00:00:00:00"),
        Nic("52-54-00-00-00-01"),
        Nic("525400000002"),
    )
    pci = (Pci("a", "030000"), Pci("b", "020000"), Pci("c", "120000"))
    hardware = Hardware(nics=nics, pci=pci)
    assert hardware.macs == ("52:54:00:00:00:02", "52:54:00:00:00:01")
    assert [device.address for device in hardware.gpus] == ["a", "c"]
