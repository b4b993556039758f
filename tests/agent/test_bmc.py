"""BMCs that answer, answer half, and do not answer."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from metalbox.agent import bmc

DEVICE_ID = bytes.fromhex("00 20 81 02 13 02 df a2 02 00 00 01 00 00 00 00".replace(" ", ""))  # Dell, firmware 2.13
UNSUPPORTED = b"\xc1"


class FakeBmc:
    """Answers by table: channels that are LANs, and their parameters."""

    def __init__(self, lans: dict[int, dict[int, bytes]], device_id: bytes = DEVICE_ID) -> None:
        self.lans = lans
        self.device_id = device_id
        self.asked: list[tuple[int, int, bytes]] = []

    def __call__(self, function: int, command: int, data: bytes) -> bytes:
        self.asked.append((function, command, data))
        if (function, command) == (0x06, 0x01):
            return self.device_id
        if (function, command) == (0x06, 0x42):
            medium = 4 if data[0] in self.lans else 1
            return bytes([0, data[0], medium, 1, 0x84, 0, 0, 0, 0, 0]) if data[0] < 12 else b"\xcc"
        value = self.lans[data[0]].get(data[1])
        return UNSUPPORTED if value is None else b"\0\x11" + value


MAC = bytes.fromhex("3cecef112233")


def test_the_lan_on_channel_1() -> None:
    fake = FakeBmc({1: {3: bytes([192, 0, 2, 50]), 4: b"\x02", 5: MAC}})
    assert bmc.interrogate(fake) == {
        "firmware": "2.13",
        "vendor": "Dell",
        "channel": 1,
        "address": "192.0.2.50",
        "mac": "3c:ec:ef:11:22:33",
        "address_source": "dhcp",
    }
    assert (0x06, 0x42, b"\x02") not in fake.asked, "channel 1 answered, the others need not be disturbed"


def test_the_channel_with_an_address_is_preferred_to_the_first() -> None:
    fake = FakeBmc({1: {3: bytes(4), 5: MAC}, 8: {3: bytes([192, 0, 2, 8]), 4: b"\x01", 5: MAC}})
    found = bmc.interrogate(fake)
    assert (found["channel"], found["address"], found["address_source"]) == (8, "192.0.2.8", "static")


def test_a_channel_without_address_is_told_when_there_is_no_other() -> None:
    found = bmc.interrogate(FakeBmc({3: {3: bytes(4), 4: b"\x02", 5: MAC}}))
    assert (found["channel"], found["address"], found["mac"]) == (3, "", "3c:ec:ef:11:22:33")


def test_ipv6_only() -> None:
    address = bytes.fromhex("20010db8000000000000000000000050")
    lan = {3: bytes(4), 5: MAC, 56: b"\0\0" + bytes(16) + b"\0\1", 59: b"\0\x02" + address + b"\x40\0"}
    assert bmc.interrogate(FakeBmc({1: lan}))["address"] == "2001:db8::50"


def test_a_bmc_without_lan_is_still_a_bmc() -> None:
    assert bmc.interrogate(FakeBmc({}, bytes.fromhex("0020000902028f91120002 0f".replace(" ", "")))) == {
        "firmware": "9.02",
        "vendor": "enterprise 4753",
    }


def test_a_bmc_that_answers_nonsense_does_not_raise() -> None:
    rng = random.Random(6)
    for _ in range(5_000):
        bmc.interrogate(lambda _function, _command, _data: rng.randbytes(rng.randrange(24)))


def test_a_device_that_is_no_bmc(tmp_path: Path) -> None:
    with pytest.raises(bmc.BmcFailed, match="cannot be opened: No such file or directory"):
        bmc.bmc(str(tmp_path / "ipmi0"))
    (tmp_path / "ipmi0").touch()
    with pytest.raises(bmc.BmcFailed, match="does not answer: Inappropriate ioctl"):
        bmc.bmc(str(tmp_path / "ipmi0"))
