"""What TFTP has to tell, on its way to the journal: kept as it came, put into words when the journal asks for it.

The end of a transfer costs only the reference to it. The journal asks a few times a second, later while there is much
to do, and before anybody reads.
"""

from __future__ import annotations

import logging
from collections import Counter, deque
from typing import NamedTuple

from metalbox.journal import Journal, Kind, Valve
from metalbox.machine import Mac
from metalbox.presence import Presence
from metalbox.tftp import wording
from metalbox.tftp.packet import ErrorCode
from metalbox.tftp.session import Result, Session

log = logging.getLogger("metalbox.tftp")

# About 30 MB. What comes then costs the oldest their line.
MAX_UNTOLD = 16_384


class Ended(NamedTuple):
    """A transfer that is over; `at` is Unix time."""

    address: str
    name: str
    size: int
    session: Session
    seconds: float
    at: float


class Refused(NamedTuple):
    """A request that became no transfer; `name` as it was on the wire."""

    address: str
    name: str
    code: ErrorCode
    reason: str
    at: float


class Telling:
    """The ends and refusals that are not in the journal yet, oldest first."""

    def __init__(self, journal: Journal, presence: Presence, counters: Counter[str]) -> None:
        self._journal = journal
        self._presence = presence
        self._counters = counters
        self._untold: deque[Ended | Refused] = deque()
        self._valve = Valve(log)
        journal.sources.append(self)

    def __len__(self) -> int:
        return len(self._untold)

    def add(self, told: Ended | Refused) -> None:
        """Keep one."""
        self._untold.append(told)
        if len(self._untold) > MAX_UNTOLD:
            self._untold.popleft()
            self._counters["not in the timeline"] += 1

    def tell(self, count: int) -> None:
        """Record the oldest so many."""
        macs: dict[str, Mac | None] = {}
        for _ in range(min(count, len(self._untold))):
            told = self._untold.popleft()
            address = told.address
            if address not in macs:
                # It may cost a look into the kernel's ARP table.
                macs[address] = self._presence.mac_of(address, told.at)
            mac, key, level = macs[address], "", logging.INFO
            if isinstance(told, Refused):
                result, text, data = wording.refusal(told.name, told.code, told.reason)
                key = f"{result}:{data['file']}"
                # Firmware asks for many files that it can do without.
                level = logging.DEBUG if result is Result.NOT_FOUND else logging.INFO
            else:
                outcome = told.session.outcome
                assert outcome is not None
                text = wording.ending(told.name, told.size, told.session, outcome, told.seconds)
                data = wording.ending_data(told.name, told.session, outcome, told.seconds)
            self._valve.log(level, told.at, mac or address, text)
            self._journal.record(Kind.TFTP, text, now=told.at, mac=mac, key=key, data={**data, "address": address})
