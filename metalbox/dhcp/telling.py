"""What DHCP has to tell, on its way to the journal: kept as it came, put into words when the journal asks for it.

A packet costs only the reference to what was said. The journal asks a few times a second and before anybody reads, so
that nobody sees the difference.
"""

from __future__ import annotations

import logging
from collections import Counter, deque

from metalbox.dhcp.exchange import Exchange
from metalbox.dhcp.express import Parts, Plan
from metalbox.dhcp.wording import describe
from metalbox.journal import Journal, Kind
from metalbox.machine import Mac

log = logging.getLogger("metalbox.dhcp")

# About 40 MB. What comes then costs the oldest their line: an answer is worth more than its story.
MAX_UNTOLD = 65_536
# Clients that are an operating system or a BMC; all others are in a boot.
NOT_BOOTING = frozenset({"os", "bmc"})

# The holes of an answer that was given by a plan, and the number of its address.
Filled = tuple[Plan, Parts, int]


def exchange_of(said: Exchange | Filled) -> Exchange:
    """All that was said, whichever way it was kept."""
    return said if isinstance(said, Exchange) else said[0].exchange(said[1], said[2])


class Telling:
    """The exchanges of one server that are not in the journal yet, oldest first."""

    def __init__(self, journal: Journal, counters: Counter[str]) -> None:
        self._journal = journal
        self._counters = counters
        self._untold: deque[tuple[Mac, Exchange | Filled, str, int, float]] = deque()
        journal.sources.append(self)

    def __len__(self) -> int:
        return len(self._untold)

    def add(self, mac: Mac, said: Exchange | Filled, ignored: str, micros: int, now: float) -> None:
        """Keep one exchange; `ignored` is the reason when nothing was answered, `micros` what it took us."""
        self._untold.append((mac, said, ignored, micros, now))
        if len(self._untold) > MAX_UNTOLD:
            self._untold.popleft()
            self._counters["not in the timeline"] += 1

    def tell(self, count: int) -> None:
        """Record the oldest so many."""
        is_logged = log.isEnabledFor(logging.INFO)
        for _ in range(min(count, len(self._untold))):
            mac, said, ignored, micros, now = self._untold.popleft()
            if isinstance(said, Exchange):
                client, key, text, data = said.client, said.key, describe(said, ignored), said.data(ignored)
            else:
                client = said[0].pattern.client
                text, key, data = said[0].story(said[1], said[2])
            data["micros"] = micros
            self._journal.record(Kind.DHCP, text, now=now, mac=mac, key=key, data=data)
            if is_logged:
                log.log(logging.DEBUG if client in NOT_BOOTING else logging.INFO, "%s: %s", mac, text)
