"""The plan as the order that an agent is given, and back. PURE.

The order names each disk by serial number, WWN, size and model, with its methods; the agent compares all of it with
what it finds. The rows also carry what a certificate says later (term, level), so that nothing is worked out anew.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

from metalbox.erase.methods import Level, Method
from metalbox.erase.plan import PARALLEL, Choice, DiskPlan, Plan, Preparation, Verdict
from metalbox.errors import InvalidValue, Refused
from metalbox.machine import Namespace

# Random positions that are read before and after, beside the fixed regions. What a drive left on one hundredth of its
# surface would be missed with a chance of 0.99^1024, 3 in 100 000.
SAMPLES = 1024

Verify = Literal["sample", "full"]


def to_order(
    plan: Plan,
    *,
    seed: str,
    verify: Verify = "sample",
    machine: Mapping[str, Any] | None = None,
    boot_id: str = "",
    issued_at: int = 0,
    samples: int = SAMPLES,
    parallel: int = PARALLEL,
) -> dict[str, Any]:
    """Return the `data` of an order to erase, as JSON can hold it. Raises Refused when the plan may not be ordered.

    `machine` is {uuid, serial, macs}, `seed` hex digits. Disks that cannot be erased are listed in `refused`: the
    order is good for the others, but the machine is not erased by it.
    """
    if plan.problems:
        raise Refused("; ".join(plan.problems))
    if not plan.of(Verdict.ERASE):
        reasons = "; ".join(f"{_shown(disk)}: {disk.reason}" for disk in plan.disks) or "it has no disk"
        raise Refused(f"there is nothing to erase: {reasons}")
    return {
        "machine": dict(machine or {}),
        "boot_id": boot_id,
        "level": str(plan.level),
        "verify": verify,
        "seed": seed,
        "samples": samples,
        "issued_at": issued_at,
        "parallel": parallel,
        "disks": [_row(disk) for disk in plan.of(Verdict.ERASE)],
        "untouched": [_reasoned(disk) for disk in plan.of(Verdict.UNTOUCHED)],
        "refused": [_reasoned(disk) for disk in plan.of(Verdict.REFUSED)],
    }


def from_order(data: Mapping[str, Any]) -> Plan:
    """Read the plan back from an order of ours. Raises InvalidValue when it is none."""
    try:
        disks = [
            *(_from_row(row) for row in data["disks"]),
            *(_from_reasoned(row, Verdict.UNTOUCHED) for row in data["untouched"]),
            *(_from_reasoned(row, Verdict.REFUSED) for row in data["refused"]),
        ]
        return Plan(Level(data["level"]), tuple(disks))
    except (KeyError, TypeError, ValueError) as error:
        raise InvalidValue(f"this is no order to erase: {error!r}") from None


def _shown(disk: DiskPlan) -> str:
    return disk.key or disk.name or "a disk"


def _identity(disk: DiskPlan) -> dict[str, Any]:
    return {
        "serial": disk.serial,
        "wwn": disk.wwn,
        "model": disk.model,
        "size_bytes": disk.size_bytes,
        "name": disk.name,
        "transport": disk.transport,
        "reason": disk.reason,
    }


_reasoned = _identity


def _row(disk: DiskPlan) -> dict[str, Any]:
    return {
        **_identity(disk),
        "namespaces": [
            {"nsid": namespace.nsid, "size_bytes": namespace.size_bytes, "wwn": namespace.wwn, "name": namespace.name}
            for namespace in disk.namespaces
        ],
        "methods": [str(method) for method in disk.methods],
        "levels": [str(choice.level) for choice in disk.choices],
        "terms": [choice.term for choice in disk.choices],
        "seconds": [choice.seconds for choice in disk.choices],
        "preparations": [str(preparation) for preparation in disk.preparations],
        "reading_seconds": disk.reading_seconds,
    }


def _from_reasoned(row: Mapping[str, Any], verdict: Verdict) -> DiskPlan:
    return DiskPlan(
        serial=row["serial"],
        wwn=row["wwn"],
        model=row["model"],
        size_bytes=row["size_bytes"],
        name=row["name"],
        transport=row["transport"],
        verdict=verdict,
        reason=row["reason"],
    )


def _from_row(row: Mapping[str, Any]) -> DiskPlan:
    columns: Sequence[Sequence[Any]] = (row["methods"], row["levels"], row["terms"], row["seconds"])
    return replace(
        _from_reasoned(row, Verdict.ERASE),
        choices=tuple(
            Choice(Method(method), Level(level), term, seconds)
            for method, level, term, seconds in zip(*columns, strict=True)
        ),
        preparations=tuple(Preparation(word) for word in row["preparations"]),
        namespaces=tuple(
            Namespace(nsid=one["nsid"], size_bytes=one["size_bytes"], wwn=one["wwn"], name=one["name"])
            for one in row["namespaces"]
        ),
        reading_seconds=row["reading_seconds"],
    )
