"""What may be ordered of a machine's power, what comes of it, and the one table that says which write comes next.

An order is idempotent: `next_write` looks at the state that was just read and at what was sent already, so off is never
sent to a machine that is off, on never to one that is on, and an order that is taken up again after a crash goes on
where the machine is. Values only, no I/O.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from metalbox.power import Asked, Device, Override, PowerState


class Verb(StrEnum):
    """What is wanted."""

    ON = "on"
    OFF = "off"  # hard: as if the cable was pulled
    SOFT_OFF = "soft-off"  # the operating system is asked; never becomes a hard one by itself
    CYCLE = "cycle"  # off, read back, on, read back; a machine that is off is switched on
    RESET = "reset"  # one command of the BMC, which cannot be read back; a machine that is off is switched on
    BOOT_NEXT = "boot-next"  # only the override


class Write(StrEnum):
    """One command that changes something."""

    ON = "on"
    OFF = "off"
    SOFT_OFF = "soft-off"
    CYCLE = "cycle"


# The state that shows that a write was obeyed.
WANTED: Mapping[Write, PowerState] = {
    Write.ON: PowerState.ON,
    Write.OFF: PowerState.OFF,
    Write.SOFT_OFF: PowerState.OFF,
    Write.CYCLE: PowerState.ON,
}


# Drivers that cannot read the state and cannot act against it: a person looks, and Wake-on-LAN only wakes.
BLIND = frozenset({"none", "wol"})


@dataclass(frozen=True, slots=True)
class Kept:
    """An override that was set for one boot, which its BMC may keep for all: to be looked at after that boot.

    `before` and `found` are what was read before and after it was set, by this driver at this address.
    """

    driver: str
    address: str
    before: Override
    found: Override
    at: float

    @property
    def undone(self) -> Override:
        """What is set to take it back: what someone had set for all boots, else nothing."""
        return self.before if self.before.device is not Device.NONE and not self.before.once else Override()


@dataclass(frozen=True, slots=True)
class PowerOrder:
    """An order. `boot` is set before the machine starts; `labels` are what power-ons are budgeted by.

    `sent` is what an earlier life of the service had saved as about to be sent, oldest first, and `kept` what it had
    saved before it set the override.
    """

    verb: Verb
    boot: Override | None = None
    labels: Mapping[str, str] = field(default_factory=dict, hash=False)
    sent: tuple[Write, ...] = ()
    kept: Kept | None = None


@dataclass(frozen=True, slots=True)
class Note:
    """Something that went wrong: a PowerError as a value. `verb` is what was asked of which `driver`."""

    code: str
    text: str
    evidence: str = ""
    driver: str = ""
    verb: str = ""
    at: float = 0.0


@dataclass(slots=True)
class Answer:
    """Who answered. Filled by `Front.ask`, for callers that want to know."""

    driver: str = ""
    failures: list[Note] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of an order. `done`: the wanted state was read back, or nobody can read it and `warnings` says so.

    `text` is a sentence for people; `code` and `evidence` are set when it was not done; `warnings` did not stop it;
    `attempts` is every failure on the way. `asked`: a person has to do it, nothing is wrong.
    """

    done: bool
    state: PowerState
    text: str
    code: str = ""
    evidence: str = ""
    driver: str = ""  # who carried out the last write, "" when none was needed
    writes: tuple[Write, ...] = ()  # sent by this run, oldest first
    warnings: tuple[Note, ...] = ()
    attempts: tuple[Note, ...] = ()
    asked: Asked | None = None
    seconds: float = 0.0
    kept: Kept | None = None  # what is to be looked at after the boot


@dataclass(frozen=True, slots=True)
class Observation:
    """What is known of a machine's power: `state` was read at `at` by the driver `source`.

    `code`, `text` and `evidence` tell why the last try at `tried_at` failed, and are "" when it did not.
    """

    state: PowerState = PowerState.UNKNOWN
    at: float = 0.0
    source: str = ""
    code: str = ""
    text: str = ""
    evidence: str = ""
    tried_at: float = 0.0

    def age(self, now: float) -> float | None:
        """Seconds since the state was read; None when it never was."""
        return max(0.0, now - self.at) if self.source else None


def next_write(verb: Verb, state: PowerState, sent: Sequence[Write]) -> Write | None:
    """Return what to send to a machine that is in `state`, or None when nothing is left to do.

    `sent` is everything that this order has sent so far. UNKNOWN is a machine whose power nobody can read (Wake-on-LAN,
    a person): each command goes out once. A state that could not be read because the BMC is sick never comes here.
    """
    if verb is Verb.BOOT_NEXT:
        return None
    if state is PowerState.UNKNOWN:
        once = {Verb.ON: Write.ON, Verb.OFF: Write.OFF, Verb.SOFT_OFF: Write.SOFT_OFF}.get(verb, Write.CYCLE)
        return None if once in sent else once
    if verb in (Verb.OFF, Verb.SOFT_OFF):
        wanted = Write.OFF if verb is Verb.OFF else Write.SOFT_OFF
        return wanted if state is PowerState.ON else None
    if state is PowerState.OFF:
        return Write.ON
    # The machine is on. After a cycle's own ON, or a restart that was sent, that is the end of it.
    if verb is Verb.CYCLE:
        return None if Write.ON in sent or Write.CYCLE in sent else Write.OFF
    if verb is Verb.RESET:
        return None if Write.ON in sent or Write.CYCLE in sent else Write.CYCLE
    return None
