"""Bytes of NVMe commands, by the specification."""

from __future__ import annotations

import pytest

from metalbox.agent import nvme
from metalbox.agent.passthrough import DriveError


def controller(*, sanicap: int = 0, fna: int = 0, oacs: int = 0) -> bytes:
    data = bytearray(4096)
    data[4:24], data[24:64], data[64:72] = b"S1".ljust(20), b"ACME X1".ljust(40), b"7.1".ljust(8)
    data[256:258], data[328:332], data[524] = oacs.to_bytes(2, "little"), sanicap.to_bytes(4, "little"), fna
    return bytes(data)


def test_what_a_controller_can() -> None:
    plain = nvme.parse_controller(controller())
    assert (plain["serial"], plain["model"], plain["firmware"]) == ("S1", "ACME X1", "7.1")
    assert plain["sanitize"] == plain["format"] == () and not plain["manages_namespaces"]
    rich = nvme.parse_controller(controller(sanicap=0xA0000003, fna=4, oacs=0x0A))
    assert rich["sanitize"] == ("crypto", "block") and rich["format"] == ("crypto", "user-data")
    assert rich["manages_namespaces"]
    assert nvme.parse_controller(controller(fna=4))["format"] == ()  # no Format NVM at all


def test_a_namespace_keeps_its_format() -> None:
    data = bytearray(4096)
    data[0:8] = (1000).to_bytes(8, "little")
    data[26], data[29], data[33], data[99] = 0b0011_0010, 0b1010, 0b001, 1
    data[128 + 4 * (2 | 1 << 4) + 2] = 12  # format index 18: bits 6:5 of FLBAS above bits 3:0
    space = nvme.parse_namespace(bytes(data))
    assert (space["size_bytes"], space["sector_bytes"]) == (4096000, 4096)
    assert space["discard_zeroes"] and space["write_protected"]
    # LBAF 2, metadata extended, protection type 2 in the first eight bytes, upper LBAF 1
    assert space["format_bits"] == 2 | 1 << 4 | 2 << 5 | 1 << 8 | 1 << 12


def test_the_sanitize_log() -> None:
    log = bytes.fromhex("0040 0200 02000000 ffffffff 1e000000 00000000".replace(" ", "")).ljust(512, b"\0")
    read = nvme.SanitizeLog(log)
    assert (read.state, read.progress, read.command) == (nvme.IN_PROGRESS, 0x4000, 2)
    assert (read.estimate("overwrite"), read.estimate("block"), read.estimate("crypto")) == (None, 30, None)
    with pytest.raises(DriveError, match="3 bytes"):
        nvme.SanitizeLog(b"abc")


def test_commands_of_sanitize() -> None:
    assert [nvme.sanitize_command(way) for way in ("crypto", "block", "overwrite")] == [0x04, 0x02, 0x13]


@pytest.mark.parametrize(
    ("status", "begun"),
    [(0x4001, False), (0x2002, False), (0x4020, False), (0x0006, True), (0x1C, True), (0x10A, False)],
)
def test_what_a_status_says_about_the_beginning(status: int, begun: bool) -> None:
    with pytest.raises(DriveError, match=f"{status:#06x}") as caught:
        nvme.expect("Sanitize", (status, b""))
    assert caught.value.begun is begun
