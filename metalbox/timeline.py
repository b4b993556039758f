"""One line of the timeline, and its kinds: the nouns that the journal writes and `why` reads. Values only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from metalbox.machine import Mac


class Kind(StrEnum):
    """What a line of the timeline tells of."""

    DHCP = "dhcp"
    TFTP = "tftp"
    HTTP = "http"
    DECISION = "decision"
    AGENT = "agent"
    REPORT = "report"
    CHANGE = "change"
    CONFLICT = "conflict"
    LEASE = "lease"
    RIVAL = "server"
    RA = "ra"
    POWER = "power"
    LIFE = "life"
    ERASE = "erase"
    CONSOLE = "console"
    LOG = "log"
    SERVICE = "service"


# What is given up first when there is too much: it is told again by itself, or is only the colour of the story.
LOW_VALUE = frozenset({Kind.LOG, Kind.RA, Kind.RIVAL})


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of the timeline. `id` is 0 until it is stored; it happened `count` times from `at` to `last_at`.

    `text` is a sentence for people, without the machine's name; `data` is the same for programs. An entry belongs to
    the machine `machine_id`, or, when that is None, to whichever machine owns `mac` at the time of reading.
    """

    id: int
    at: float
    last_at: float
    count: int
    kind: Kind
    mac: Mac | None
    machine_id: int | None
    text: str
    data: dict[str, Any] = field(default_factory=dict)


# Repeats are told as one line when less than this lies between them. Firmware retries within 32 s at most (EDK2's
# DISCOVERs come after 4, 8, 16 and 32 s), and the agent polls every 30 s.
COALESCE_SECONDS = 60.0
# A DHCP exchange has 4 messages, 8 with the PXE port; a client that repeats one for ever must not grow its line.
MAX_MESSAGES = 32
# Numbers that are added up when lines are merged; lists under "messages" are joined, all else is the newest.
SUMMED = frozenset({"micros"})


def merge_data(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Any]:
    """Return the data of one line that tells of both; neither argument is changed."""
    merged = {**before, **after}
    if "messages" in before and "messages" in after:
        merged["messages"] = [*before["messages"], *after["messages"]][:MAX_MESSAGES]
    for name in SUMMED:
        if name in before and name in after:
            merged[name] = before[name] + after[name]
    return merged
