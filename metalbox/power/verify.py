"""Reading back: whether the machine's power really changed, whether the override is really set.

Polls quickly at first and slower later, until it is as wanted or the deadline has passed. A reading that fails is not
an answer: some BMCs are deaf for seconds while they switch.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

from metalbox.errors import BmcNotSupported, PowerError
from metalbox.power import Device, Mode, Override

T = TypeVar("T")

# Simulated BMCs switch in 0.3 to 2.5 s, real ones in 1 to 20 s.
POLL_SECONDS = (0.3, 0.5, 1.0, 2.0)
THEN_SECONDS = 3.0


@dataclass(frozen=True, slots=True)
class ReadBack(Generic[T]):
    """What was read last. `error` is set when nothing could be read at all."""

    matches: bool
    value: T | None
    error: PowerError | None = None
    seconds: float = 0.0


def poll_pauses(deadline: float) -> Iterator[float]:
    """The pauses between readings; together they are `deadline` seconds."""
    left = deadline
    number = 0
    while left > 0:
        pause = min(left, POLL_SECONDS[number] if number < len(POLL_SECONDS) else THEN_SECONDS)
        yield pause
        left -= pause
        number += 1


async def read_back(
    read: Callable[[], Awaitable[T]],
    matches: Callable[[T], bool],
    *,
    deadline: float,
    tick: Callable[[], float],
    sleep: Callable[[float], Awaitable[None]],
) -> ReadBack[T]:
    """Read until `matches`, at most `deadline` seconds by `tick`; the last reading begins before the deadline."""
    started = tick()
    value: T | None = None
    error: PowerError | None = None
    for pause in poll_pauses(deadline):
        await sleep(pause)
        try:
            value = await read()
            error = None
        except BmcNotSupported as failure:
            return ReadBack(False, value, failure, tick() - started)
        except PowerError as failure:
            error = failure
        else:
            if matches(value):
                return ReadBack(True, value, None, tick() - started)
        if tick() - started >= deadline:
            break
    return ReadBack(False, value, error, tick() - started)


def is_set(wanted: Override, found: Override) -> bool:
    """Whether the BMC's override is the wanted one. An override that stays is one: see `stays`."""
    if wanted.device is not found.device:
        return False
    return wanted.device is Device.NONE or Mode.KEEP in (wanted.mode, found.mode) or wanted.mode is found.mode


def stays(wanted: Override, found: Override) -> bool:
    """Whether it was wanted for one boot and is set for all (sushy-tools always does that)."""
    return wanted.once and not found.once and found.device is not Device.NONE


def describe(override: Override) -> str:
    """`pxe (uefi), once`: for sentences."""
    if override.device is Device.NONE:
        return "none"
    mode = "" if override.mode is Mode.KEEP else f" ({override.mode})"
    return f"{override.device}{mode}, {'once' if override.once else 'always'}"
