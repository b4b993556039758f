"""What DHCP has to tell, on its way to the journal: kept as it came, put into words when the journal asks for it.

A packet costs only the reference to what was said. The journal asks a few times a second and before anybody reads, so
that nobody sees the difference.
"""

from __future__ import annotations

import logging
from collections import Counter, deque
from collections.abc import Iterable

from metalbox.dhcp.exchange import Exchange
from metalbox.dhcp.express import Parts, Plan
from metalbox.dhcp.leases import Lease
from metalbox.dhcp.wording import describe
from metalbox.journal import Journal, Kind
from metalbox.machine import Mac

log = logging.getLogger("metalbox.dhcp")

# About 60 MB. What comes then costs the oldest their line: an answer is worth more than its story.
MAX_UNTOLD = 131_072
# Clients that are an operating system or a BMC; all others are in a boot.
NOT_BOOTING = frozenset({"os", "bmc"})

# An answer that was given by a plan: the holes and the lease.
Filled = tuple[Plan, Parts, Lease]
# The client's hardware address, what was said, why nothing was answered or "", the microseconds that it took, the time.
Told = tuple[str, Exchange | Filled, str, int, float]


def exchange_of(said: Exchange | Filled) -> Exchange:
    """All that was said, whichever way it was kept."""
    return said if isinstance(said, Exchange) else said[0].exchange(said[1], said[2].number)


class Telling:
    """The exchanges of one server that are not in the journal yet, oldest first."""

    def __init__(self, journal: Journal, counters: Counter[str]) -> None:
        self._journal = journal
        self._counters = counters
        self._untold: deque[Told] = deque()
        journal.sources.append(self)

    def __len__(self) -> int:
        return len(self._untold)

    def add(self, told: Iterable[Told]) -> None:
        """Keep some exchanges."""
        self._untold.extend(told)
        surplus = len(self._untold) - MAX_UNTOLD
        if surplus > 0:
            for _ in range(surplus):
                self._untold.popleft()
            self._counters["not in the timeline"] += surplus

    def tell(self, count: int) -> None:
        """Record the oldest so many."""
        is_logged = log.isEnabledFor(logging.INFO)
        for _ in range(min(count, len(self._untold))):
            mac, said, ignored, micros, now = self._untold.popleft()
            if isinstance(said, Exchange):
                client, key, text, data = said.client, said.key, describe(said, ignored), said.data(ignored)
            else:
                client = said[0].pattern.client
                text, key, data = said[0].story(said[1], said[2].address)
            data["micros"] = micros
            self._journal.record(Kind.DHCP, text, now=now, mac=Mac(mac), key=key, data=data)
            if is_logged:
                log.log(logging.DEBUG if client in NOT_BOOTING else logging.INFO, "%s: %s", mac, text)
