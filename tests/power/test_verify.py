"""Reading back, by the turned clock."""

from __future__ import annotations

import asyncio

import pytest

from metalbox.errors import BmcHung
from metalbox.power import Device, Mode, Override
from metalbox.power.verify import ReadBack, describe, is_set, poll_pauses, read_back, stays
from tests.power.clockwork import turn

PXE = Override(Device.PXE, Mode.UEFI, once=True)


async def _read(values: list[int | Exception], deadline: float) -> ReadBack[int]:
    async def read() -> int:
        value = values.pop(0) if len(values) > 1 else values[0]
        if isinstance(value, Exception):
            raise value
        return value

    tick = asyncio.get_running_loop().time
    return await read_back(read, lambda value: value == 1, deadline=deadline, tick=tick, sleep=asyncio.sleep)


def test_it_ends_as_soon_as_it_is_as_wanted() -> None:
    seen = turn(_read([0, 0, 1], 60.0))
    assert (seen.matches, seen.value) == (True, 1)
    assert seen.seconds == pytest.approx(1.8)


def test_a_reading_that_fails_is_no_answer() -> None:
    assert turn(_read([BmcHung("deaf"), BmcHung("deaf"), 1], 60.0)).matches


def test_at_the_deadline_the_last_reading_is_told() -> None:
    seen = turn(_read([0], 10.0))
    assert (seen.matches, seen.value, seen.error) == (False, 0, None)
    assert seen.seconds == pytest.approx(10.0)
    deaf = turn(_read([BmcHung("deaf")], 10.0))
    assert deaf.value is None and isinstance(deaf.error, BmcHung)


@pytest.mark.parametrize("deadline", [0.1, 1.0, 6.0, 60.0])
def test_the_pauses_are_the_deadline(deadline: float) -> None:
    pauses = list(poll_pauses(deadline))
    assert sum(pauses) == pytest.approx(deadline)
    assert max(pauses) <= 3.0


@pytest.mark.parametrize(
    ("wanted", "found", "fits"),
    [
        (PXE, PXE, True),
        (PXE, Override(Device.PXE, Mode.KEEP, once=True), True),  # IPMI BMCs that do not tell the mode
        (PXE, Override(Device.PXE, Mode.BIOS, once=True), False),
        (PXE, Override(Device.DISK, Mode.UEFI, once=True), False),
        (PXE, Override(), False),
        (Override(Device.PXE), PXE, True),
        (PXE, Override(Device.PXE, Mode.UEFI, once=False), True),
        (Override(Device.NONE, Mode.UEFI), Override(Device.NONE, Mode.BIOS), True),
    ],
)
def test_whether_the_override_is_set(wanted: Override, found: Override, fits: bool) -> None:
    assert is_set(wanted, found) is fits


def test_an_override_that_stays_is_told_from_one_that_does_not() -> None:
    always = Override(Device.PXE, Mode.UEFI, once=False)
    assert stays(PXE, always)
    assert not stays(always, always) and not stays(PXE, PXE) and not stays(PXE, Override(Device.NONE, once=False))
    assert [describe(PXE), describe(always), describe(Override())] == ["pxe (uefi), once", "pxe (uefi), always", "none"]
