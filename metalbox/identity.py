"""Which machine of the inventory is the one that speaks? PURE.

No single mark can be trusted: firmware leaves placeholders, boards and cards are exchanged, vendors ship whole series
with one UUID. So the marks are weighed, in one table: see `fits`.
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import dataclass

from metalbox.machine import Mac, Machine, is_placeholder_serial, is_placeholder_uuid, swap_uuid

# The agent polls every 30 s: who has not spoken for three of these is not alive. No box reboots to a report faster
# with all its network cards exchanged.
ALIVE_SECONDS = 90.0
# A machine that was not heard of for a day no longer holds a UUID against another: it was taken away, or is switched
# off and will be in conflict again with its first report.
GONE_SECONDS = 86_400.0


@dataclass(frozen=True, slots=True)
class Identity:
    """The marks by which a speaker can be told. `uuid` and `serial` are "" when they are placeholders."""

    uuid: str
    serial: str
    vendor: str
    macs: tuple[Mac, ...]
    boot_id: str

    @classmethod
    def of(cls, uuid: str, serial: str, vendor: str, macs: Sequence[Mac], boot_id: str) -> Identity:
        """Take the marks as reported, and forget the placeholders."""
        return cls(
            "" if is_placeholder_uuid(uuid) else uuid,
            "" if is_placeholder_serial(serial) else serial.strip(),
            vendor.strip(),
            tuple(macs),
            boot_id,
        )


def same_uuid(one: str, other: str) -> bool:
    """Whether two UUIDs are equal in either byte order, and neither is a placeholder."""
    return bool(one) and bool(other) and other in (one, swap_uuid(one)) and not is_placeholder_uuid(one)


@dataclass(frozen=True, slots=True)
class _Marks:
    """How the speaker's marks compare with those of one machine; None where one of them has no such mark."""

    serial: bool | None
    uuid: bool | None
    shared: int
    fewer: int

    @property
    def most_macs(self) -> bool:
        return self.shared * 2 > self.fewer


def _compare(who: Identity, machine: Machine) -> _Marks:
    serial: bool | None = None
    if who.serial and not is_placeholder_serial(machine.serial):
        # Two vendors may use the same number; a report without vendor is compared by the number alone.
        vendors = {who.vendor.lower(), machine.hardware.system.vendor.lower()} - {""}
        serial = who.serial.lower() == machine.serial.lower() and len(vendors) < 2
    uuid: bool | None = None
    if who.uuid and not is_placeholder_uuid(machine.uuid):
        uuid = same_uuid(who.uuid, machine.uuid)
    reported = machine.hardware.macs or machine.macs
    shared = len(set(who.macs) & set(machine.macs))
    return _Marks(serial, uuid, shared, min(len(who.macs), len(reported)))


def fits(who: Identity, machine: Machine) -> bool:
    """Whether the speaker can be this machine.

    | serial  | UUID    | MACs        | verdict |
    |---------|---------|-------------|---------|
    | same    | any     | any         | the same box: its board or its cards may be new |
    | differs | same    | most shared | the same box, whose serial number was written anew |
    | differs | any     | else        | another box: a card, or a batch of boards with one UUID |
    | unknown | same    | any         | the same box: its cards may be new |
    | unknown | differs | most shared | the same box with a new board |
    | unknown | differs | else        | another box, which got a card of this one |
    | unknown | unknown | one shared  | the same box |
    """
    marks = _compare(who, machine)
    if marks.serial:
        return True
    if marks.serial is False:
        return marks.uuid is True and marks.most_macs
    if marks.uuid is None:
        return marks.shared > 0
    return marks.uuid or marks.most_macs


def is_elsewhere(who: Identity, machine: Machine, now: float) -> bool:
    """Whether this machine is alive right now as somebody else: another boot, and not one MAC in common."""
    alive = bool(machine.boot_id) and machine.boot_id != who.boot_id and now - machine.last_seen <= ALIVE_SECONDS
    # All that it ever had: a box in the middle of a card's exchange is still the same.
    return alive and not set(who.macs) & set(machine.macs)


def choose(who: Identity, candidates: Sequence[Machine], now: float) -> Machine | None:
    """Return the machine that speaks, or None when it is a new one."""
    possible = [machine for machine in candidates if fits(who, machine) and not is_elsewhere(who, machine, now)]

    def weight(machine: Machine) -> tuple[bool, bool, int, bool, float]:
        marks = _compare(who, machine)
        return (
            machine.boot_id == who.boot_id,
            marks.serial is True,
            marks.shared,
            marks.uuid is True,
            machine.last_seen,
        )

    return max(possible, key=weight, default=None)


def in_conflict(holders: Sequence[Machine], now: float) -> list[Machine]:
    """Of the machines that hold one UUID, those that hold it against each other: two or more, heard of within a day."""
    present = [machine for machine in holders if now - machine.last_seen <= GONE_SECONDS]
    return present if len(present) > 1 else []


def default_name(serial: str, macs: Sequence[Mac], uuid: str, taken: Container[str]) -> str:
    """Name a new machine: by its serial number if that is one, else `m-` and its MAC; never one that is taken."""
    names = []
    if not is_placeholder_serial(serial):
        plain = "".join(letter if letter.isascii() and letter.isalnum() else "-" for letter in serial.lower())
        plain = "-".join(part for part in plain.split("-") if part)[:48]
        # Shorter numbers would be taken for an id.
        if len(plain) >= 4:
            names.append(plain)
    names.append("m-" + (macs[0].replace(":", "") if macs else uuid.replace("-", "")[:12] or "unnamed"))
    for name in names:
        if name not in taken:
            return name
    number = 2
    while f"{names[0]}-{number}" in taken:
        number += 1
    return f"{names[0]}-{number}"
