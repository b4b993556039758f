"""The erase plan: what is done with each disk of a machine, by which methods, and why. PURE.

Each disk gets exactly one verdict. "erase" and "untouched" are settled; "refused" must be erased and cannot be, so
that the machine cannot be ready: a disk is never left out because it is difficult. Disks are meant by serial number
and World Wide Name, never by place or kernel name.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from metalbox.erase.methods import (
    SANITIZE,
    SECURITY,
    Level,
    Medium,
    Method,
    level_of,
    medium,
    rate,
    reported,
    seconds,
    term,
)
from metalbox.machine import Disk, Erasing, Namespace, is_placeholder_serial

__all__ = ["Choice", "DiskPlan", "Level", "Method", "Plan", "Preparation", "Verdict", "plan", "table"]

SECTOR = 512  # the unit of READ NATIVE MAX and its relatives, as the agent reports them

# Disks that are erased at the same time, at most: more than that is more heat and power than shelves are made for.
PARALLEL = 24


class Verdict(StrEnum):
    """What becomes of a disk."""

    ERASE = "erase"
    UNTOUCHED = "untouched"
    REFUSED = "refused"


class Preparation(StrEnum):
    """What the agent does before the first method, in this order."""

    WAIT_SANITIZE = "wait-sanitize"
    STOP_HOLDERS = "stop-holders"
    UNFREEZE = "unfreeze"
    REMOVE_DCO = "remove-dco"
    REMOVE_HPA = "remove-hpa"


@dataclass(frozen=True, slots=True)
class Choice:
    """One method that may be used on a disk: the level it reaches there, the standards' term, about how long."""

    method: Method
    level: Level
    term: str
    seconds: float


@dataclass(frozen=True, slots=True)
class DiskPlan:
    """One disk. `choices` are the methods, preferred first; all reach the level. `reason` is a sentence, never empty.

    `reading_seconds` is what reading the whole disk once takes, for `--verify=full`.
    """

    serial: str
    wwn: str
    model: str
    size_bytes: int
    name: str
    transport: str
    verdict: Verdict
    reason: str
    choices: tuple[Choice, ...] = ()
    preparations: tuple[Preparation, ...] = ()
    namespaces: tuple[Namespace, ...] = ()
    reading_seconds: float = 0.0

    @property
    def methods(self) -> tuple[Method, ...]:
        """The methods in the order they are tried."""
        return tuple(choice.method for choice in self.choices)

    @property
    def term(self) -> str:
        """The standards' term for the preferred method; "" when there is none."""
        return self.choices[0].term if self.choices else ""

    @property
    def seconds(self) -> float:
        """About how long the preferred method takes, samples included."""
        return self.choices[0].seconds if self.choices else 0.0

    @property
    def key(self) -> str:
        """By what progress names the disk."""
        return self.serial or self.wwn

    def term_of(self, method: Method) -> str:
        """The standards' term for one of the methods; "" for another."""
        return next((choice.term for choice in self.choices if choice.method is method), "")


@dataclass(frozen=True, slots=True)
class Plan:
    """All disks of a machine. `problems` are sentences for which nothing of it may be ordered."""

    level: Level
    disks: tuple[DiskPlan, ...]
    problems: tuple[str, ...] = ()

    def of(self, verdict: Verdict) -> tuple[DiskPlan, ...]:
        """The disks with this verdict."""
        return tuple(disk for disk in self.disks if disk.verdict is verdict)

    def seconds(self, *, full: bool = False, parallel: int = PARALLEL) -> float:
        """About how long all disks take, `parallel` at a time; `full` reads each whole afterwards."""
        return _schedule([disk.seconds + full * disk.reading_seconds for disk in self.of(Verdict.ERASE)], parallel)

    def limit_seconds(self, *, full: bool = False, parallel: int = PARALLEL) -> float:
        """After which time nobody needs to hope: every method of every disk in turn, each at half its rate."""
        each = [
            sum(2 * choice.seconds + full * 2 * disk.reading_seconds for choice in disk.choices)
            for disk in self.of(Verdict.ERASE)
        ]
        return _schedule(each, parallel)


def _schedule(lengths: Sequence[float], parallel: int) -> float:
    """When the last one ends if each free place takes the next one: at most the longest beyond a fair share."""
    places = [0.0] * max(1, min(parallel, len(lengths) or 1))
    for length in sorted(lengths, reverse=True):
        places[places.index(min(places))] += length
    return max(places)


def plan(
    disks: Sequence[Disk],
    level: Level,
    *,
    keep: Collection[str] = (),
    exclude: Collection[str] = (),
    named: Collection[str] = (),
    failed: Mapping[str, Collection[Method]] | None = None,
    ours: Collection[str] = (),
) -> Plan:
    """Decide for each disk. `keep`, `exclude` and `named` are serial numbers or WWNs; `failed` what has failed before.

    `ours` are disks that may be locked because an ATA erase of ours was interrupted: the agent knows that password.

    `keep` and `exclude` hold for every disk they fit, `named` only where it fits exactly one.
    """
    twins = Counter(_marks(disk) for disk in disks)
    fits = {word: [disk for disk in disks if _fits(word, disk)] for word in (*keep, *exclude, *named)}
    problems = [
        f"no disk of this machine has the serial number or WWN {word!r}: disks are not meant by their kernel names, "
        "which change from boot to boot"
        for word, found in fits.items()
        if not found
    ]
    problems += [
        f"{word!r} is the serial number or WWN of {len(fits[word])} disks: name the disk by the mark that differs"
        for word in dict.fromkeys(named)
        if len(fits[word]) > 1
    ]
    problems += [
        f"{word!r} is to be erased and to be left alone: say which"
        for word in dict.fromkeys(named)
        if any(disk in fits[other] for other in (*keep, *exclude) for disk in fits[word])
    ]
    chosen = [fits[word][0] for word in named if len(fits[word]) == 1]
    kept = {_marks(disk) for word in keep for disk in fits[word]}
    excluded = {_marks(disk) for word in exclude for disk in fits[word]}
    rows = []
    for disk in disks:
        marks = _marks(disk)
        is_named = any(disk is one for one in chosen)
        why = _left_alone(disk, is_named, is_kept=marks in kept, is_excluded=marks in excluded)
        if why:
            rows.append(_row(disk, Verdict.UNTOUCHED, why))
        elif why := _impossible(disk, is_named, twins[marks] > 1, any(_fits(word, disk) for word in ours)):
            rows.append(_row(disk, Verdict.REFUSED, why))
        else:
            tried = {method for word, methods in (failed or {}).items() if _fits(word, disk) for method in methods}
            rows.append(_choose(disk, level, tried))
    return Plan(level, tuple(rows), tuple(problems))


def _plain(mark: str) -> str:
    """A mark without what tools write around it: 0x5000..., naa.5000... and wwn-0x5000... are one WWN."""
    text = mark.strip().casefold()
    for prefix in ("wwn-", "naa.", "eui.", "uuid.", "0x"):
        text = text.removeprefix(prefix)
    return text


def _marks(disk: Disk) -> tuple[str, str]:
    return disk.serial.strip().casefold(), _plain(disk.wwn)


def _fits(word: str, disk: Disk) -> bool:
    """Whether a word is the disk's serial number or WWN, or that of one of its namespaces."""
    wwns = {_plain(mark) for mark in (disk.wwn, *(namespace.wwn for namespace in disk.namespaces))} - {""}
    serials = {disk.serial.strip().casefold()} - {""}
    return word.strip().casefold() in serials or _plain(word) in wwns


def _left_alone(disk: Disk, is_named: bool, *, is_kept: bool, is_excluded: bool) -> str:
    """Why nothing is done to this disk; "" when it is one of those to be erased."""
    if is_excluded:
        return "the operator excluded it"
    if is_kept:
        return "it is labelled to be kept"
    if is_named:
        return ""
    told = disk.erasing or Erasing()
    if told.virtual_media:
        return "it is virtual media of a management processor: its bytes are in somebody's file, elsewhere"
    if disk.transport in ("iscsi", "fc"):
        return f"it is a LUN in a storage network ({disk.transport}), and others may use it: name it to erase it"
    if told.multipath:
        return "several paths lead to it, as to a LUN that others may use: name it to erase it"
    if disk.name.startswith("sr"):
        return "it is an optical drive"
    if disk.name.startswith("mmcblk") and "boot" in disk.name:
        return "it is the boot area of an eMMC chip, which holds firmware"
    if disk.transport == "usb":
        return "it is attached by USB: name it to erase it"
    if disk.transport == "mmc":
        return "it is an SD card or eMMC chip, and which of them cannot be told: name it to erase it"
    if disk.removable:
        return "its medium is removable: name it to erase it"
    return ""


def _impossible(disk: Disk, is_named: bool, is_twin: bool, is_ours: bool) -> str:
    """Why this disk, which must be erased, cannot be, whatever the method; "" when it can."""
    told = disk.erasing
    if is_placeholder_serial(disk.serial) and not disk.wwn.strip():
        return "it has neither a serial number nor a WWN, and cannot be told from another: take it out"
    if is_twin:
        return "another disk of this machine has the same serial number and WWN: nothing is erased by its position"
    if not is_named and not disk.transport:
        return "how it is attached is not known, so that it may be a LUN or a stick: name it to erase it, or exclude it"
    if not is_named and disk.transport == "nvme" and not disk.pci_address:
        return "it is NVMe without a PCI address, as over a fabric: name it to erase it, or exclude it"
    if told is None:
        return "the agent that reported it did not tell what it can do: report again with this version's agent"
    if not disk.size_bytes:
        detail = (
            ": create a namespace" if disk.transport == "nvme" else ", as a dead disk does: replace it, or exclude it"
        )
        return f"it has no size{detail}"
    if disk.read_only or told.write_protected:
        return "it is write protected: remove the protection, or exclude it"
    if told.ata_locked and not is_ours:
        return "it is locked with an ATA password: unlock it (`hdparm --security-unlock`), or exclude it"
    return ""


def _choose(disk: Disk, level: Level, tried: Collection[Method]) -> DiskPlan:
    """The methods for a disk that may be erased, or the refusal that says what is missing."""
    told = disk.erasing or Erasing()
    on = medium(disk)
    known = reported(disk)
    able = [method for method in known if told.sanitizing != "failed" or method in SANITIZE]
    if not able:
        return _row(disk, Verdict.REFUSED, "a sanitize has failed on it, and until one succeeds it does nothing else")
    enough = [method for method in able if level_of(method, on).reaches(level)]
    if not enough:
        return _row(disk, Verdict.REFUSED, _short_of(disk, on, level))
    left = [method for method in enough if method not in tried]
    if not left:
        return _row(disk, Verdict.REFUSED, f"every method for it has failed: {', '.join(enough)}")
    choices = tuple(Choice(method, level_of(method, on), term(method, on), seconds(method, disk)) for method in left)
    rest = [method for method in tried if method in enough]
    after = f"after {', '.join(sorted(rest))} failed" if rest else f"of {len(known)} that it reports"
    reason = f"{left[0]} is the strongest method {after}" if len(known) > 1 else f"{left[0]} is the only method for it"
    return _row(disk, Verdict.ERASE, reason, choices, _preparations(disk, told, left[0]))


def _short_of(disk: Disk, on: Medium, level: Level) -> str:
    what = {
        Medium.VIRTUAL: "it is a virtual disk, whose storage belongs to a hypervisor",
        Medium.FLASH: "on flash only a sanitize or NVMe format does, and it reports none that can be used",
        Medium.MAGNETIC: "on a magnetic disk only a sanitize or enhanced secure erase does, and it reports none "
        "that can be used",
    }[on]
    if disk.erasing is not None and disk.erasing.ata_enabled:
        what += ", and an ATA password is set"
    return f"no method reaches {level}: {what}; `--level clear` is possible, or exclude it"


def _preparations(disk: Disk, told: Erasing, first: Method) -> tuple[Preparation, ...]:
    """What must come first. Sleeping to thaw a drive is a risk of its own: only for the method that is tried first."""
    size = disk.size_bytes or 0
    native = (told.native_sectors or 0) * SECTOR
    wanted = {
        Preparation.WAIT_SANITIZE: told.sanitizing == "in progress",
        Preparation.STOP_HOLDERS: bool(told.holders),
        Preparation.UNFREEZE: first in SECURITY and told.ata_frozen is True,
        Preparation.REMOVE_DCO: (told.dco_sectors or 0) * SECTOR > max(native, size),
        Preparation.REMOVE_HPA: native > size,
    }
    return tuple(preparation for preparation, is_wanted in wanted.items() if is_wanted)


def _row(
    disk: Disk,
    verdict: Verdict,
    reason: str,
    choices: tuple[Choice, ...] = (),
    preparations: tuple[Preparation, ...] = (),
) -> DiskPlan:
    return DiskPlan(
        serial=disk.serial,
        wwn=disk.wwn,
        model=disk.model,
        size_bytes=disk.size_bytes or 0,
        name=disk.name,
        transport=disk.transport,
        verdict=verdict,
        reason=reason,
        choices=choices,
        preparations=preparations,
        namespaces=disk.namespaces if verdict is Verdict.ERASE else (),
        reading_seconds=round((disk.size_bytes or 0) / rate(disk), 1) if verdict is Verdict.ERASE else 0.0,
    )


def table(plan: Plan) -> list[dict[str, object]]:
    """The plan for people and programs: one row for each disk, those to be erased first."""
    order = {Verdict.ERASE: 0, Verdict.REFUSED: 1, Verdict.UNTOUCHED: 2}
    return [
        {
            "serial": disk.serial,
            "wwn": disk.wwn,
            "model": disk.model,
            "size_bytes": disk.size_bytes,
            "name": disk.name,
            "transport": disk.transport,
            "verdict": str(disk.verdict),
            "method": str(disk.methods[0]) if disk.methods else "",
            "methods": [str(method) for method in disk.methods],
            "reason": disk.reason,
            "seconds": disk.seconds,
            "term": disk.term,
            "preparations": [str(preparation) for preparation in disk.preparations],
        }
        for disk in sorted(plan.disks, key=lambda disk: order[disk.verdict])
    ]
