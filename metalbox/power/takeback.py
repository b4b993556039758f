"""An override that was set for one boot is taken back after it, where the BMC keeps it: one reading, rarely one write.

Emulators (sushy-tools, OpenIPMI's simulator) and some BMCs keep what they were told to forget. Nothing is written
unless the BMC still has exactly what was set.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import TYPE_CHECKING

from metalbox.errors import BmcNotObeyed
from metalbox.power import Endpoint, Override, Power
from metalbox.power.orders import Kept
from metalbox.power.verify import describe, is_set, read_back

if TYPE_CHECKING:
    from metalbox.power.polite import Front, Key


class Fate(StrEnum):
    """What became of an override that was set for one boot."""

    GONE = "gone"  # the BMC forgot it as it should, someone set another one, or the BMC is not known any more
    TAKEN_BACK = "taken back"


async def take_back(front: Front, machine: Key, endpoints: Sequence[Endpoint], kept: Kept) -> Fate:
    """Look whether it is still set, take it back, and read back that it is. Raises PowerError."""
    place = (kept.driver, kept.address)
    link = next((one for one in front.links(machine, endpoints) if place == (one.driver, one.endpoint.address)), None)
    if link is None:
        return Fate.GONE
    wanted = kept.undone

    async def read() -> Override:
        return await front.say(link, "override", lambda power: power.override())

    async def set_it(power: Power) -> None:
        await power.boot_next(wanted.device, mode=wanted.mode, once=wanted.once)

    if await read() != kept.found:
        return Fate.GONE
    await front.say(link, "boot_next", set_it, seconds=front.manners.write)
    clock, deadline = front.clock, front.manners.override
    seen = await read_back(
        read, lambda found: is_set(wanted, found), deadline=deadline, tick=clock.tick, sleep=clock.sleep
    )
    if seen.matches:
        return Fate.TAKEN_BACK
    if seen.error is not None:
        raise seen.error
    assert seen.value is not None, "read_back has a value or an error"
    raise BmcNotObeyed(
        f"{link.driver} was told {describe(wanted)} and still has {describe(seen.value)}",
        evidence=f"{link.driver} reads back: {describe(seen.value)}",
    )
