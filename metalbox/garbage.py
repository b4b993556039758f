"""When Python looks for cycles: among the newest often, among all the others only while no packets come.

Cycles are rare here and packets many. What a flood makes (leases, lines of the timeline) stays: to look at it again is
in vain, and takes longer than it did to make it, for it is in no cache any more. With 100,000 leases one look at a
middle-aged generation stops the service for 50 ms, one at all for 180.
"""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Callable

# New objects that make a look worth it: 0.4 ms, while they are in the processor's cache (20,000 take 4 to 13 ms).
YOUNG = 2000
# So many looks make one at what they have left, 4 million objects, without a quiet second in between. And of those.
MIDDLE_AGED, OLD = 2000, 100
# In a quiet second this process uses less than so much of a processor; 200,000 objects more are worth a long look.
LOOK_SECONDS = 1.0
QUIET_SECONDS = 0.1
WORTH = 100


def disable() -> None:
    """No collection during the start: nearly all that it makes stays, and looking at it doubles the time it takes."""
    gc.disable()


def spare() -> None:
    """At the end of the start: what stands now is never looked at again, the rest as described above."""
    gc.collect()
    gc.freeze()
    gc.enable()
    gc.set_threshold(YOUNG, MIDDLE_AGED, OLD)


async def collect_when_quiet(cpu: Callable[[], float] = time.process_time) -> None:
    """Look at everything in quiet seconds, when there is much that is new. Runs until cancelled."""
    used = cpu()
    while True:
        await asyncio.sleep(LOOK_SECONDS)
        before, used = used, cpu()
        _, middle_aged, old = gc.get_count()
        if (middle_aged >= WORTH or old) and used - before < QUIET_SECONDS:
            gc.collect()
            used = cpu()
