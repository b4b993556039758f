"""Which BMC is this, and whose is it? PURE.

A wrong answer switches the wrong machine off. So a BMC is given to a machine only when all marks that say anything name
that one machine, and none speaks against it; else it stays without a machine, and the reason is said.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from metalbox.identity import same_uuid
from metalbox.machine import Mac, is_placeholder_serial, is_placeholder_uuid


class Source(StrEnum):
    """Who told of a BMC first."""

    IN_BAND = "in-band"
    DHCP = "dhcp"
    IMPORT = "import"
    SCAN = "scan"
    OPERATOR = "operator"


# What a person has said stays until a person says otherwise.
PEOPLE = frozenset({Source.IMPORT, Source.OPERATOR})


@dataclass(frozen=True, slots=True)
class Told:
    """What one source says of one BMC; "", None and () are: it does not say. `serial` and `uuid` are the machine's."""

    source: Source
    address: str = ""
    port: int = 0
    drivers: tuple[str, ...] = ()
    mac: Mac | None = None
    macs: tuple[Mac, ...] = ()  # the machine's own ports, as its BMC lists them
    vendor: str = ""
    model: str = ""
    firmware: str = ""
    serial: str = ""
    uuid: str = ""
    channel: int | None = None


@dataclass(frozen=True, slots=True)
class Place:
    """What two records of BMCs are compared by. `system` is the Redfish system, where a service has several."""

    address: str = ""
    port: int = 0
    mac: Mac | None = None
    system: str = ""
    machine_id: int | None = None


def is_same(one: Place, other: Place) -> bool:
    """Whether both are one BMC: by MAC where both have one, else by place, else because a machine has but one."""
    if one.system and other.system and one.system != other.system:
        return False
    if one.mac and other.mac:
        return one.mac == other.mac
    if is_at(one, other):
        return True
    return one.machine_id is not None and one.machine_id == other.machine_id


def is_at(one: Place, other: Place) -> bool:
    """Whether both are reached at the same place; port 0, the default, may be any."""
    return bool(one.address) and one.address == other.address and (one.port == other.port or not one.port * other.port)


@dataclass(frozen=True, slots=True)
class Marks:
    """By what a BMC tells which machine it is in."""

    uuid: str = ""
    serial: str = ""
    vendor: str = ""
    mac: Mac | None = None
    macs: tuple[Mac, ...] = ()


@dataclass(frozen=True, slots=True)
class Candidate:
    """What is known of one machine. `bmc_macs` are those that its agent reported, in-band."""

    id: int
    name: str
    uuid: str = ""
    serial: str = ""
    vendor: str = ""
    macs: tuple[Mac, ...] = ()
    bmc_macs: tuple[Mac, ...] = ()


@dataclass(frozen=True, slots=True)
class Match:
    """Whose a BMC is. Without a machine, `reason` says why; with one, by which marks."""

    machine_id: int | None
    reason: str


def match(marks: Marks, machines: Sequence[Candidate]) -> Match:
    """Find the one machine that all marks name. The order of `machines` makes no difference."""
    uuid = "" if is_placeholder_uuid(marks.uuid) else marks.uuid
    serial = "" if is_placeholder_serial(marks.serial) else marks.serial.strip()
    macs = {mac for mac in (marks.mac, *marks.macs) if mac is not None and mac.is_usable}
    if not (uuid or serial or macs):
        return Match(None, "it tells no UUID, serial number or MAC")
    named = {
        "UUID": {machine.id for machine in machines if uuid and same_uuid(uuid, machine.uuid)},
        "serial number": {machine.id for machine in machines if serial and _same_serial(serial, marks.vendor, machine)},
        "MAC": {machine.id for machine in machines if macs & {*machine.macs, *machine.bmc_macs}},
    }
    speaking = {mark: ids for mark, ids in named.items() if ids}
    if not speaking:
        return Match(None, "no machine has its UUID, serial number or MAC")
    names = {machine.id: machine.name for machine in machines}
    common = set.intersection(*speaking.values())
    if len(common) == 1:
        (found,) = common
        machine = next(machine for machine in machines if machine.id == found)
        if against := _against(uuid, serial, marks.vendor, machine, speaking):
            return Match(None, against)
        return Match(found, f"by its {_and(list(speaking))}")
    if common:
        return Match(None, f"its {_and(list(speaking))} {_are(speaking)} that of {_names(common, names)}")
    told = [f"its {mark} is that of {_names(ids, names)}" for mark, ids in speaking.items()]
    return Match(None, ", but ".join(told))


def _same_serial(serial: str, vendor: str, machine: Candidate) -> bool:
    """Two vendors may use the same number; their names are compared by the first word: "Dell Inc." is "Dell"."""
    if is_placeholder_serial(machine.serial) or serial.lower() != machine.serial.strip().lower():
        return False
    vendors = {name.lower().split()[0].rstrip(",.") for name in (vendor, machine.vendor) if name.strip()}
    return len(vendors) < 2 or bool(vendors <= {"hp", "hpe", "hewlett", "hewlett-packard"})


def _against(uuid: str, serial: str, vendor: str, machine: Candidate, speaking: dict[str, set[int]]) -> str:
    """A mark that the machine has too, and another one: a batch of boards with one UUID, a card that was moved."""
    if serial and "serial number" not in speaking and not is_placeholder_serial(machine.serial):
        return f"its {_and(list(speaking))} {_are(speaking)} that of {machine.name}, but not its serial number {serial}"
    if uuid and "UUID" not in speaking and "serial number" not in speaking and not is_placeholder_uuid(machine.uuid):
        return f"its {_and(list(speaking))} {_are(speaking)} that of {machine.name}, but not its UUID {uuid}"
    return ""


def _are(speaking: dict[str, set[int]]) -> str:
    return "is" if len(speaking) == 1 else "are"


def _and(words: list[str]) -> str:
    return " and ".join(([", ".join(words[:-1])] if words[:-1] else []) + words[-1:])


def _names(ids: set[int], names: dict[int, str]) -> str:
    shown = sorted(names[number] for number in ids)
    return _and(shown if len(shown) < 6 else [*shown[:5], f"{len(shown) - 5} more"])
