"""`why`, as to a machine's life: its fault, who holds it, whom it waits for, how far its disks are. PURE.

`with_life` joins this with what the timeline and the power say. A machine at work whose agent does not come is
explained by them, because that is what has to be mended; a fault, a hold or a missing approval comes before all else.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from metalbox.evidence import Diagnosis, LifeFacts, View, clock
from metalbox.lifecycle import WORKING, State
from metalbox.machine import Fault, Machine

# What the rules of a boot say of a machine that gives them nothing to complain of.
QUIET = frozenset({"idle", "agent-gone", "not-seen", "local-boot", "system-running", "silent"})
# Of these nobody waits for a boot any more: whoever shall start the machine has to be told.
AWAY = QUIET - {"idle", "silent"}
MAX_DISKS = 20

# Fault: cause, and what to do, with {name} for the machine's.
FAULTS: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "erase-failed": (
        "a disk was not erased, or it could not be proved that it was; the failure records have the drive's own words",
        (
            "`metalbox certificate list {name}` lists them; `metalbox retry {name}` tries again, by other methods where"
            " there are some",
            "or replace the disk, `metalbox report {name}`, and `metalbox retry {name}`",
            "or leave it as it is, with its data: `metalbox retry {name} --keep SERIAL`",
        ),
    ),
    "disks-changed": (
        "disks came, went or were exchanged between the confirmation and the order; nothing was erased since",
        (
            "`metalbox plan {name}` shows the disks that it has now",
            "`metalbox retry {name}` shows what would be erased, and asks again",
        ),
    ),
    "cannot-erase": (
        "there is no way to erase them as they are",
        (
            "remove what the evidence names (a write protection, an ATA password), or replace the disk; then"
            " `metalbox report {name}` and `metalbox retry {name}`",
            "where only the level is too much for the drive: `metalbox retry {name} --level clear`",
            "or leave a disk as it is, with its data: `metalbox retry {name} --keep SERIAL`",
        ),
    ),
    "agent-late": (
        "it was started and its agent did not come, or nobody started it",
        (
            "`metalbox power status {name} --refresh` and `metalbox console {name} --watch` show what it does",
            "`metalbox doctor` looks whether it could boot from here",
            "then `metalbox retry {name}`: it is started again",
        ),
    ),
    "erase-late": (
        "a drive needs far longer than it said or hangs, or the agent has died; it is on record as not erased",
        (
            "`metalbox console {name} --watch` shows whether the agent still works; then wait for it",
            "a drive that hangs needs its power cut: `metalbox power cycle {name}`",
            "`metalbox retry {name}` begins again",
        ),
    ),
    "clock": (
        "this host's clock was set back, so that no order's age can be told",
        ("set the clock (`chronyc tracking`, `timedatectl`), then `metalbox retry {name}`",),
    ),
    "restored": (
        "the database was restored from a copy: the machine may have been erased and given away since",
        (
            "look who uses the machine now; nothing is sent to it before you decide",
            "it is in use: `metalbox cancel {name}`, and `metalbox adopt {name}` where it was discovered before",
            "it is not: `metalbox retry {name}` shows what would be erased, and asks",
        ),
    ),
}
OTHER = (
    "something that this metalbox does not know stopped it",
    ("`metalbox retry {name}`, or `metalbox cancel {name}`",),
)

# What the states of rest mean: what it does, whom it waits for, what can be done.
RESTS: Mapping[str, tuple[str, str, tuple[str, ...]]] = {
    State.REJECTED: (
        "rejected: it gets nothing from us",
        "nobody",
        ("`metalbox reconsider {name}` takes it back",),
    ),
    State.AVAILABLE: (
        "available: its disks are erased, and it rests",
        "nobody: it is ready for use",
        (),
    ),
    State.DEPLOYED: (
        "in use: it starts its own system, and nothing of it is touched",
        "nobody",
        ("`metalbox release {name}` or `metalbox retire {name}` takes it out of use and ERASES it",),
    ),
    State.RETIRED: (
        "retired: its disks are erased, and it gets nothing from us",
        "nobody",
        ("`metalbox forget {name}` when it has left the house; its certificates stay",),
    ),
}


def with_life(view: View, found: Diagnosis) -> Diagnosis:
    """What the timeline and the power say together with what the machine's state says; unchanged without facts."""
    machine, life = view.machine, view.facts.life
    if machine is None or life is None:
        return found
    codes = {found.code, *(one.code for one in found.also)}
    stops = [*_fault(machine), *_held(machine), *_pending(machine, life)]
    if machine.state in WORKING:
        is_alive = "idle" in codes
        stops += [] if machine.fault else [_work(machine, life, is_alive, bool(codes & AWAY))]
        # What does not boot is said by those who know boots; only an agent that is there is an affair of ours.
        comes_first = len(stops) > 1 or machine.fault is not None or is_alive or stops[-1].code == "waits-for-hand"
    else:
        comes_first = bool(stops)
        if machine.state in RESTS:
            stops.append(_rest(machine))
            comes_first = comes_first or found.code in QUIET
        elif machine.state == State.DISCOVERED and found.code == "idle":
            advice = (
                f"`metalbox accept {machine.name}` ERASES its disks, `adopt` leaves them as they are; or `reject` it"
            )
            found = replace(found, advice=(*found.advice, advice))
    if not stops:
        return found
    if found.code == "duplicate-uuid" or not comes_first:
        return replace(found, also=(*stops, *found.also))
    main, *rest = stops
    known = () if found.code == "idle" or (machine.state in RESTS and found.code in QUIET) else (found,)
    return replace(main, also=(*rest, *(replace(one, also=()) for one in known), *found.also))


def _fault(machine: Machine) -> list[Diagnosis]:
    fault = machine.fault
    if fault is None:
        return []
    cause, advice = FAULTS.get(fault.code, OTHER)
    return [
        Diagnosis(
            f"fault-{fault.code}",
            f"in state {machine.state}, stopped by a fault: {fault.text}",
            "you: nothing is ordered of it until you decide",
            fault.at,
            cause,
            _lines(fault),
            tuple(line.format(name=machine.name) for line in advice),
        )
    ]


def _lines(fault: Fault) -> tuple[str, ...]:
    more = (f"and {len(fault.evidence) - MAX_DISKS} more: see `metalbox show`",)
    return (*fault.evidence[:MAX_DISKS], *(more if len(fault.evidence) > MAX_DISKS else ()))


def _held(machine: Machine) -> list[Diagnosis]:
    if not machine.held:
        return []
    doing = f"in state {machine.state}, held for maintenance"
    advice = (f"`metalbox unhold {machine.name}` when it is done",)
    return [Diagnosis("held", doing, "whoever holds it", 0.0, machine.held, (), advice)]


def _pending(machine: Machine, life: LifeFacts) -> list[Diagnosis]:
    if not life.pending:
        return []
    return [
        Diagnosis(
            "waits-for-approval",
            f"in state {machine.state}; to {life.pending} it was wished, and not granted yet",
            f"a second person, not {life.pending_by or 'who wished it'}",
            life.pending_at,
            "more machines were sent to be erased within an hour than erase.per_hour allows",
            (),
            (f"a second person says `metalbox approve {machine.name}` within a day", "or it is wished anew later"),
        )
    ]


def _work(machine: Machine, life: LifeFacts, is_alive: bool, is_away: bool) -> Diagnosis:
    """What a machine at work does now. `is_away`: it neither boots nor runs an agent."""
    name, state = machine.name, machine.state
    wished = f"{clock(life.at)}: {life.verb} at level {life.level}" + (f", by {life.operator}" if life.operator else "")
    until = (f"in time until {clock(machine.deadline_at)}",) if machine.deadline_at else ()
    refused = tuple(f"the disk {disk} cannot be erased: {why}" for disk, why in life.refused[:MAX_DISKS])
    if life.begun_at:
        lines = (wished, *_disks(life.progress), *refused, *until)
        doing = f"in state {state}, its disks are being erased"
        cause = "nothing is wrong: it is in time" if is_alive else ""
        advice = () if is_alive else ("do not cut its power: the drives may be at work without the agent",)
        return Diagnosis("erasing", doing, "its disks", life.begun_at, cause, lines, advice)
    lines = (wished, *refused, *until)
    if not is_alive and is_away and not life.can_power:
        doing = f"in state {state}, its agent is wanted"
        cause = "nothing is known that switches it"
        by_hand = (f"start {name} from the network (PXE)", "or tell of its BMC: `metalbox bmc add`")
        return Diagnosis("waits-for-hand", doing, "a person, to switch it on", life.at, cause, lines, by_hand)
    if not is_alive:
        starts = f"it was started for this by us: {life.boots} of 3 times" if life.boots else ""
        doing = f"in state {state}, it waits for its agent"
        return Diagnosis("waits-for-agent", doing, "its agent, to boot", life.at, starts, lines)
    if "bmc-account" in life.waiting:
        doing = f"in state {state}, its agent makes metalbox's account at the BMC"
    elif "report" in life.waiting:
        doing = f"in state {state}, its agent looks at the disks"
    elif "erase" in life.waiting:
        doing = f"in state {state}, its agent compares the disks with the order"
    else:
        doing = f"in state {state}, its agent is about to get its order"
    return Diagnosis("prepares", doing, "its agent", life.at, "nothing is wrong: it is in time", lines)


def _disks(progress: Mapping[str, Any]) -> list[str]:
    """How far each disk is; what an agent says is not believed to have any shape."""
    disks = progress.get("disks")
    items = disks.items() if isinstance(disks, Mapping) else ()
    rows = [(str(name), row) for name, row in items if isinstance(row, Mapping)]
    lines = []
    for name, row in rows[:MAX_DISKS]:
        parts = [f"{row.get('phase', 'waits')}"[:40]]
        if _is_number(row.get("percent")):
            parts.append(f"{row['percent']:.0f} %")
        if row.get("method"):
            parts.append(f"by {row['method']}"[:60])
        if _is_number(row.get("left")):
            parts.append(f"about {_length(row['left'])} left")
        lines.append(f"{name[:60]}: {', '.join(parts)}")
    return lines + ([f"and {len(rows) - MAX_DISKS} disks more"] if len(rows) > MAX_DISKS else [])


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e12


def _length(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def _rest(machine: Machine) -> Diagnosis:
    doing, waiting_for, advice = RESTS[machine.state]
    lines = tuple(line.format(name=machine.name) for line in advice)
    return Diagnosis(machine.state, doing, waiting_for, machine.state_since, "", (), lines)
