"""Bytes of ATA commands inside SCSI, and IDENTIFY data of real and made drives."""

from __future__ import annotations

import random

import pytest

from metalbox.agent import ata
from metalbox.agent.passthrough import ScsiAnswer
from tests.agent.drives import AtaDrive, registers


def test_commands_as_sat_wants_them() -> None:
    identify = ata.cdb(0xEC, ata.PIO_IN, count=1, wide=False)
    assert (identify[1], identify[2], identify[6], identify[14]) == (0x08, 0x0E, 1, 0xEC)
    crypto = ata.cdb(0xB4, ata.NON_DATA, features=0x11, lba=0x43727970)
    assert (crypto[1], crypto[2], crypto[3:5]) == (0x07, 0x20, b"\0\x11")
    assert (crypto[7], crypto[8], crypto[10], crypto[12]) == (0x43, 0x70, 0x79, 0x72)
    send = ata.cdb(0xF4, ata.PIO_OUT, count=1, wide=False)
    assert (send[1], send[2]) == (0x0A, 0x06)


def test_registers_of_both_formats() -> None:
    told = ata.parse_registers(registers(0x8001, 0x123456789ABC, error=4, status=0x51).sense)
    assert told and (told.count, told.lba, told.error, told.status) == (0x8001, 0x123456789ABC, 4, 0x51)
    fixed = bytes([0x70, 0, 1, 0x04, 0x51, 0x40, 0x07, 10, 0, 0x01, 0x02, 0x03, 0, 0x1D]) + bytes(4)
    told = ata.parse_registers(fixed)
    assert told and (told.error, told.status, told.count, told.lba) == (4, 0x51, 7, 0x030201)
    assert ata.parse_registers(b"") is None
    # What Linux 6.1 gave for SANITIZE DEVICE on QEMU's AHCI disk.
    told = ata.parse_registers(bytes.fromhex("70000b000000000a0441400000000000a072"))
    assert told and (told.error, told.status, told.lba) == (4, 0x41, 0x72)
    assert ata.parse_registers(bytes.fromhex("700005000000000a00410000200000000000")) is None


def test_damaged_sense_never_raises() -> None:
    rng = random.Random(2)
    for _ in range(20_000):
        ata.parse_registers(bytes([rng.choice((0x70, 0x72))]) + rng.randbytes(rng.randrange(40)))


@pytest.mark.parametrize(("word", "told"), [(0, None), (1, 2), (254, 508), (0x8001, 2), (0x8100, 512), (0x0101, 2)])
def test_minutes(word: int, told: int | None) -> None:
    assert ata.minutes(word) == told


def test_identify_of_a_drive() -> None:
    identity = ata.Identity(AtaDrive("sda", "S1", "frozen")._identify())
    assert identity.facts["serial"] == "S1" and identity.sectors * identity.sector_bytes == 3 << 20
    assert identity.sanitize == ("crypto", "block", "overwrite") and identity.guarantees_zeroes
    assert (identity.security, identity.frozen, identity.locked, identity.enhanced) == (True, True, False, True)
    assert ata.Identity(bytes(512)).sanitize == () and not ata.Identity(bytes(512)).security


@pytest.mark.parametrize(
    ("answer", "state", "completed"),
    [
        (registers(0x4000, 0x8000), "in progress", False),
        (registers(0x8000, 0xFFFF), "", True),
        (registers(0x0000), "", False),
        (registers(0x2000), "frozen", False),
        (registers(0, 1, 0x51, 4), "failed", False),
        (registers(0, 3, 0x51, 4), "frozen", False),
        (registers(0, 0, 0x51, 4), "unknown", False),
    ],
)
def test_states_of_sanitize(answer: ScsiAnswer, state: str, completed: bool) -> None:
    told = ata.parse_registers(answer.sense)
    assert told
    status = ata.SanitizeStatus(told)
    assert (status.state, status.completed) == (state, completed)


def test_the_security_block() -> None:
    block = ata.security_block(2)
    assert len(block) == 512 and block[:2] == b"\2\0" and block[2:34] == ata.PASSWORD and not any(block[34:])
