"""What DHCP has to tell, on its way to the journal: kept as it came, put into words when the journal asks for it.

A packet costs only the reference to what was said, and the messages of one conversation become one line before
anybody puts it into words. The journal asks a few times a second and before anybody reads, so that nobody sees the
difference.
"""

from __future__ import annotations

import logging
from collections import Counter, deque
from collections.abc import Sequence
from typing import Any, NamedTuple

from metalbox.dhcp.exchange import Exchange
from metalbox.dhcp.express import Parts, Plan
from metalbox.dhcp.wording import describe
from metalbox.journal import Journal, Kind, Valve
from metalbox.machine import Mac
from metalbox.records import dump
from metalbox.timeline import merge_data

log = logging.getLogger("metalbox.dhcp")

# About 60 MB. What comes then costs the oldest their line: an answer is worth more than its story.
MAX_UNTOLD = 131_072
# Kinds of conversations whose words are remembered.
MAX_FRAMES = 1024
# Clients that are an operating system or a BMC; all others are in a boot.
NOT_BOOTING = frozenset({"os", "bmc"})

# One answer by plan: the client's hardware address, the holes, the address, the microseconds that it took.
Said = tuple[str, Parts, str, int]
# The same for the journal, which has the hardware address.
Tale = tuple[Plan, Parts, str, int]


class _One(NamedTuple):
    """An exchange with a story of its own; `ignored` is why nothing was answered or ""."""

    mac: Mac
    exchange: Exchange
    ignored: str
    micros: int
    now: float


class _Alike(NamedTuple):
    """Answers of one plan that left together."""

    plan: Plan
    said: Sequence[Said]
    now: float


class Telling:
    """The exchanges of one server that are not in the journal yet, oldest first; and their words."""

    def __init__(self, journal: Journal, counters: Counter[str]) -> None:
        self._journal = journal
        self._counters = counters
        self._untold: deque[_One | _Alike] = deque()
        # How many exchanges that is, without those of the oldest that were told already.
        self._count = 0
        self._told = 0
        self._frames: dict[tuple[Plan, ...], str] = {}
        self._valve = Valve(log)
        journal.sources.append(self)

    def __len__(self) -> int:
        return self._count

    def add(self, exchange: Exchange, ignored: str, micros: int, now: float) -> None:
        """Keep one exchange."""
        self._untold.append(_One(exchange.mac, exchange, ignored, micros, now))
        self._count += 1
        self._give_up()

    def add_alike(self, plan: Plan, said: Sequence[Said], now: float) -> None:
        """Keep some answers of one plan."""
        if said:
            self._untold.append(_Alike(plan, said, now))
            self._count += len(said)
            self._give_up()

    def _give_up(self) -> None:
        surplus = self._count - MAX_UNTOLD
        while self._count > MAX_UNTOLD:
            self._take(self._count - MAX_UNTOLD)
        if surplus > 0:
            self._counters["not in the timeline"] += surplus

    def _take(self, count: int) -> _One | _Alike:
        """The oldest, and of answers that left together at most so many."""
        oldest = self._untold[0]
        if isinstance(oldest, _One):
            self._count -= 1
            return self._untold.popleft()
        said = oldest.said[self._told : self._told + count]
        self._count -= len(said)
        self._told += len(said)
        if self._told == len(oldest.said):
            self._untold.popleft()
            self._told = 0
        return oldest._replace(said=said)

    def tell(self, count: int) -> None:
        """Record the oldest so many."""
        last = max(0, self._count - count)
        while self._count > last:
            told = self._take(self._count - last)
            if isinstance(told, _One):
                self._tell_one(told)
                continue
            plan, alike, now = told
            keep, key = self._journal.keep, plan.key
            level = _level(plan.pattern.client)
            is_logged = log.isEnabledFor(level)
            for mac, parts, address, micros in alike:
                tale = (plan, parts, address, micros)
                keep(Kind.DHCP, tale, self, now=now, mac=Mac(mac), key=key + parts[0].hex())
                if is_logged:
                    self._valve.log(level, now, mac, self.text(tale))

    def _tell_one(self, told: _One) -> None:
        mac, exchange, ignored, micros, now = told
        text, data = describe(exchange, ignored), {**exchange.data(ignored), "micros": micros}
        self._journal.record(Kind.DHCP, text, now=now, mac=mac, key=exchange.key, data=data)
        self._valve.log(_level(exchange.client), now, mac, text)

    def text(self, tale: Tale) -> str:
        """As `describe` says it."""
        plan, _, address, _ = tale
        return address.join(plan.sentence)

    def data(self, tale: Tale) -> dict[str, Any]:
        """As the exchange tells it."""
        plan, parts, address, micros = tale
        return {**plan.data, **plan.told(parts), "address": address, "micros": micros}

    def encode(self, tales: Sequence[Tale]) -> str:
        """What all of them have in common with others of their kinds is put into JSON once."""
        plans = tuple([tale[0] for tale in tales])
        frame = self._frames.get(plans)
        if frame is None:
            if len(self._frames) >= MAX_FRAMES:
                self._frames.clear()
            frame = self._frames[plans] = _frame(plans)
        told = {}
        micros = 0
        for plan, parts, _, spent in tales:
            micros += spent
            if plan.is_talkative:
                told.update(plan.told(parts))
        own = "".join([f',"{name}":{dump(value)}' for name, value in told.items()]) if told else ""
        return f'{frame},"address":"{tales[-1][2]}","micros":{micros}{own}}}'


def _frame(plans: Sequence[Plan]) -> str:
    data: dict[str, Any] = {}
    for plan in plans:
        data = merge_data(data, plan.data)
    return dump(data).removesuffix("}")


def _level(client: str) -> int:
    return logging.DEBUG if client in NOT_BOOTING else logging.INFO
