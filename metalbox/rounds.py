"""One round of work on a machine's disks: what was wished, what was confirmed, and what came of it so far. PURE.

It stands in the machine's facts from the wish until the machine rests again, and is all that a later step needs to
know: which level, which disks a person has seen in the table, which methods failed on which of them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from metalbox.comparison import size
from metalbox.erase.methods import Level, Method
from metalbox.erase.order import Verify
from metalbox.erase.plan import Plan, Verdict, plan
from metalbox.errors import InvalidValue
from metalbox.lifecycle import DESTRUCTIVE, Event
from metalbox.machine import Disk, Fault, Machine
from metalbox.report import clean

VERIFY: tuple[Verify, ...] = ("sample", "full")
# Disks that one line of the timeline names.
SHOWN = 10
MAX_NAMED = 1000
# PCI class and subclass of what disks are attached to: SCSI, RAID, SATA, SAS, NVMe (PCI Code and ID Assignment, 1.2).
STORAGE = frozenset({"0100", "0104", "0106", "0107", "0108"})
FACT = "round"


# Disks by serial number, World Wide Name, model and size in bytes.
Marks = tuple[tuple[str, str, str, int], ...]


@dataclass(frozen=True, slots=True)
class Wish:
    """What a person, or a rule, says with the verb. `keep` and the like are serial numbers or WWNs of disks.

    `disks` are those that a person was shown as to be erased; None when nobody was shown any. `kept` was said earlier
    in the same round. `unsaid` names the fields that were left open, until `settled` fills them.
    """

    level: Level = Level.CLEAR
    verify: Verify = "sample"
    keep: tuple[str, ...] = ()
    named: tuple[str, ...] = ()
    disks: tuple[str, ...] | None = None
    operator: str = ""
    reason: str = ""
    force: bool = False
    approved_by: str = ""
    kept: tuple[str, ...] = ()
    unsaid: tuple[str, ...] = field(default=(), compare=False)


@dataclass(frozen=True, slots=True)
class Round:
    """`confirmed` are the disks that were shown as to be erased; `boots` how often the machine was started for it."""

    verb: str
    at: float
    origin: str
    wish: Wish
    confirmed: Marks = ()
    failed: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    account: str = ""
    boots: int = 0
    booted_at: float = 0.0
    asked: bool = False


def identity(disk: Any) -> tuple[str, str, str, int]:
    """What tells a disk from any other: serial number, World Wide Name, model, size in bytes."""
    return disk.serial, disk.wwn, disk.model, disk.size_bytes or 0


def parse_wish(document: Any, operator: str, default: Level, verify: str) -> Wish:
    """Read what a request says. Raises InvalidValue."""
    body = {} if document is None else document
    if not isinstance(body, dict):
        raise InvalidValue(f"expected an object, got {body!r}")
    try:
        level = Level(body.get("level") or default)
    except ValueError:
        raise InvalidValue(f"level {body.get('level')!r}: write clear or purge") from None
    how = body.get("verify") or verify
    if how not in VERIFY:
        raise InvalidValue(f"verify {how!r}: write sample or full")
    reason = body.get("reason") or ""
    if not isinstance(reason, str) or len(reason) > 1000:
        raise InvalidValue("reason: expected a text of at most 1000 characters")
    return Wish(
        level,
        how,
        _names(body, "keep"),
        _names(body, "named"),
        _names(body, "disks") if "disks" in body else None,
        operator,
        reason.strip(),
        body.get("force") is True,
        unsaid=tuple(name for name in ("level", "verify") if not body.get(name)),
    )


def settled(event: Event, said: Wish, before: Round | None) -> Wish:
    """What a verb means where nothing was said: a retry goes on as its round was wished, who retires wants purge.

    A disk that was to be left alone stays so in a retry, unless it is named now.
    """
    level, verify = said.level, said.verify
    if event is Event.RETIRE and "level" in said.unsaid:
        level = Level.PURGE
    if event is not Event.RETRY or before is None:
        return dataclasses.replace(said, level=level, unsaid=())
    first = before.wish
    spared = dict.fromkeys(mark for mark in (*first.kept, *first.keep, *said.kept) if mark not in said.named)
    return dataclasses.replace(
        said,
        level=first.level if "level" in said.unsaid else level,
        verify=first.verify if "verify" in said.unsaid else verify,
        named=tuple(dict.fromkeys((*said.named, *(mark for mark in first.named if mark not in said.keep)))),
        kept=tuple(spared),
        unsaid=(),
    )


def present(disks: Sequence[Disk], marks: Sequence[str]) -> list[str]:
    """Those of the marks that are of a disk that is there, as the plan understands them."""
    return [mark for mark in dict.fromkeys(marks) if not plan(disks, Level.CLEAR, keep=[mark]).problems]


def person(operator: str) -> str:
    """Who somebody is, whether acting as himself or through root: "alice (root)" is alice."""
    return operator.partition(" (")[0]


def _names(body: Mapping[str, Any], name: str) -> tuple[str, ...]:
    value = body.get(name) or []
    if not isinstance(value, list) or len(value) > MAX_NAMED or not all(isinstance(text, str) for text in value):
        raise InvalidValue(f"{name}: expected a list of serial numbers or WWNs")
    return tuple(text.strip() for text in value if text.strip())


def to_facts(round_: Round) -> dict[str, Any]:
    """As JSON, for the machine's facts."""
    return dataclasses.asdict(round_)


def from_facts(facts: Mapping[str, Any]) -> Round | None:
    """The round that is going on, or the last one; None before the first."""
    row = facts.get(FACT)
    if not row:
        return None
    wish = {**row["wish"], "level": Level(row["wish"]["level"])}
    for name in ("keep", "named", "disks", "kept", "unsaid"):
        wish[name] = None if wish.get(name) is None and name == "disks" else tuple(wish.get(name) or ())
    return Round(
        **{
            **row,
            "wish": Wish(**wish),
            "confirmed": tuple((serial, wwn, model, size_) for serial, wwn, model, size_ in row["confirmed"]),
            "failed": {key: tuple(methods) for key, methods in row["failed"].items()},
        }
    )


def surprises(confirmed: Sequence[tuple[str, str, str, int]], to_erase: Sequence[Any]) -> list[str]:
    """What is different between the disks that were confirmed and those that would be erased now, as sentences."""
    now = {identity(disk): disk for disk in to_erase}
    return [
        f"{_named(mark)} would be erased, and nobody has confirmed that" for mark in now if mark not in confirmed
    ] + [f"{_named(mark)} was to be erased, and is not there any more" for mark in confirmed if mark not in now]


def _named(mark: tuple[str, str, str, int]) -> str:
    serial, wwn, model, count = mark
    return f"the disk {serial or wwn} ({model or 'no model'}, {size(count)})"


def outcome_fault(outcome: Mapping[str, Any], documents: Sequence[Mapping[str, Any]], at: float) -> Fault:
    """What an erase order that did not do all comes to. `documents` are its certificates and failure records."""
    failures = [document for document in documents if document["kind"] == "failure"]
    evidence = [f"{_drive_name(one)}: {one['reason']} (failure record {one['number']})" for one in failures]
    words = str(outcome.get("refused") or outcome.get("error") or "")
    if words:
        text = f"the agent did not carry out the erase order: {words}"
    else:
        total = len(failures) + sum(document["kind"] == "drive" for document in documents)
        text = f"{len(failures)} of {disk_count(total)} were not erased"
    return Fault("erase-failed", text[:500], at, tuple(line[:500] for line in evidence[:50]))


def failed_methods(
    before: Mapping[str, tuple[str, ...]], outcome: Mapping[str, Any], documents: Sequence[Mapping[str, Any]]
) -> dict[str, tuple[str, ...]]:
    """The methods that failed on each disk so far, by serial number or WWN: a retry takes others."""
    found = dict(before)
    failures = {_drive_name(document) for document in documents if document["kind"] == "failure"}
    disks = outcome.get("disks")
    for disk in disks if isinstance(disks, list) else []:
        key = disk.get("serial") or disk.get("wwn") if isinstance(disk, Mapping) else None
        if key not in failures:
            continue
        attempts = disk.get("attempts")
        tried = (
            [row.get("method") for row in attempts if isinstance(row, Mapping)] if isinstance(attempts, list) else []
        )
        words = [word for word in (*tried, disk.get("method")) if word in list(Method)]
        if words:
            found[str(key)] = tuple(dict.fromkeys((*found.get(str(key), ()), *words)))
    return found


def _drive_name(document: Mapping[str, Any]) -> str:
    drive = document["drive"]
    return str(drive.get("serial") or drive.get("wwn") or "a disk without a serial number")


def disks_named(disks: Sequence[Disk], text: str) -> list[Disk]:
    """The disks that an operator means by a serial number or a WWN, in any case."""
    wanted = text.strip().lower()
    return [disk for disk in disks if wanted and wanted in (disk.serial.lower(), disk.wwn.lower())]


def unread(machine: Machine) -> list[str]:
    """Why the disks of the last report may not be all that there are; [] when nothing speaks against it."""
    told = machine.facts.get("problems", ())
    found = [f"the agent could not read the {line}" for line in told if str(line).startswith("disks: ")]
    if not machine.hardware.disks:
        found += [
            f"the storage controller at {pci.address} ({pci.device or pci.device_id}) has no driver in the agent: it "
            "may have disks"
            for pci in machine.hardware.pci
            if pci.class_code[:4] in STORAGE and not pci.driver
        ]
    return found


def words(event: Event, said: Wish) -> str:
    """What is wished, by whom and why, in one clause."""
    what = str(event)
    if event in DESTRUCTIVE:
        what += f" at level {said.level}"
    because = f" ({said.reason})" if said.reason else ""
    approved = f", approved by {said.approved_by}" if said.approved_by else ""
    return f"{what}{by(said.operator)}{approved}{because}"


def by(operator: str) -> str:
    """The end of a sentence that names who wanted it."""
    return f", by {operator}" if operator else ""


def promise(found: Plan) -> str:
    """What a plan will do, in one clause."""
    to_erase = found.of(Verdict.ERASE)
    parts = [f"{disk.key} by {disk.methods[0]}" for disk in to_erase[:SHOWN]]
    parts += [f"and {len(to_erase) - SHOWN} more"] if len(to_erase) > SHOWN else []
    text = ", ".join(parts) or "no disk"
    for verdict in (Verdict.UNTOUCHED, Verdict.REFUSED):
        if disks := found.of(verdict):
            text += f"; {verdict}: {', '.join(disk.key or disk.name for disk in disks[:SHOWN])}"
    return text


def disk_count(number: int) -> str:
    """So many disks."""
    return "1 disk" if number == 1 else f"{number} disks"


def progress_line(progress: Mapping[str, Any]) -> str:
    """How far the disks of an order are, as the timeline tells it; "" when nothing is told that can be read."""
    disks = progress.get("disks")
    parts = []
    for name, row in disks.items() if isinstance(disks, Mapping) else ():
        if not isinstance(row, Mapping):
            continue
        percent = row.get("percent")
        much = f" {percent:.0f}%" if isinstance(percent, int | float) and not isinstance(percent, bool) else ""
        parts.append(f"{clean(str(name))[:60]} {clean(str(row.get('phase', '')))[:20]}{much}")
    shown = ", ".join(parts[:SHOWN]) + (f", and {len(parts) - SHOWN} more" if len(parts) > SHOWN else "")
    return f"erasing: {shown}" if parts else ""
