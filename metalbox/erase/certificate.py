"""Certificates of an order to erase: for each drive that is proved erased, for the machine, failures else. PURE.

What is made here are drafts: `certificaterecords` gives each its number and its place in the chain when it is stored.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from metalbox.erase.document import FORMAT, Kind, digest
from metalbox.erase.proof import check_disk, check_order, mapping, marks, rows, text, whole
from metalbox.errors import Refused
from metalbox.machine import Machine

# Of what an agent sent, at most this much is kept in a failure record.
MAX_ITEMS = 100
MAX_DEPTH = 6


@dataclass(frozen=True, slots=True)
class Erasure:
    """One order to erase, what came of it, and whose it was. `operator` is who asked for it, in their own words."""

    number: int
    created_at: float
    data: Mapping[str, Any]
    outcome: Mapping[str, Any]
    machine: Machine
    operator: str
    version: str
    now: float

    @property
    def mark(self) -> dict[str, Any]:
        """What names this order for ever, though its number may be used again in another database."""
        order = {"number": self.number, "created_at": self.created_at, "data": self.data}
        return {"number": self.number, "digest": digest(tidy(order)), "created_at": iso(self.created_at)}


def drive(erasure: Erasure, row: Mapping[str, Any]) -> dict[str, Any]:
    """The certificate of one disk of the order. Raises Refused, with the sentence, unless everything holds."""
    check_order(erasure.data, erasure.outcome, erasure.machine)
    found = check_disk(erasure.data, row, erasure.outcome)
    told = mapping(found["verification"])
    place = row["methods"].index(found["method"])
    return {
        **_head(erasure, Kind.DRIVE),
        "result": "erased",
        "drive": _drive(row, found),
        "method": found["method"],
        "reached": row["levels"][place],
        "standard": row["terms"][place],
        "started_at": _moment(found.get("started_at")),
        "seconds": _seconds(found.get("seconds")),
        "firmware_status": text(found.get("firmware_status")),
        "attempts": tidy(rows(found.get("attempts"))),
        "preparations": tidy(rows(found.get("preparations"))),
        "verification": {
            **{name: told[name] for name in ("seed", "samples", "bytes_read", "expected", "unchanged", "result")},
            **{name: told[name] for name in ("before_digest", "after_digest")},
            "regions": {text(name): whole(count) or 0 for name, count in mapping(told["regions"]).items()},
            "samples_ordered": whole(erasure.data.get("samples")) or 0,
            "full": told.get("full") is True,
            "block": whole(told.get("block")) or 0,
        },
    }


def machine(erasure: Erasure, drives: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The certificate of the machine, `drives` being the signed documents of its disks. Raises Refused."""
    check_order(erasure.data, erasure.outcome, erasure.machine)
    certified = {(one["drive"]["serial"], one["drive"]["wwn"]): one for one in drives if one["kind"] == Kind.DRIVE}
    wanted = [(row["serial"], row["wwn"]) for row in erasure.data["disks"]]
    if not wanted:
        raise Refused("no disk of it was erased")
    missing = [serial or wwn for serial, wwn in wanted if (serial, wwn) not in certified]
    missing += [row["serial"] or row["wwn"] or row["name"] for row in erasure.data["refused"]]
    missing += [text(row.get("serial")) or text(row.get("wwn")) or "a disk" for row in strangers(erasure)]
    if missing:
        raise Refused(f"there is no certificate for {', '.join(missing)}")
    chosen = [certified[marks] for marks in wanted]
    mine = erasure.mark
    if any(one["order"] != mine for one in chosen):
        raise Refused("a certificate of another order is among those of its disks")
    return {
        **_head(erasure, Kind.MACHINE),
        "result": "erased",
        "drives": [
            {
                "number": one["number"],
                "digest": digest(one),
                **{name: one["drive"][name] for name in ("serial", "wwn", "model", "size_bytes")},
                "method": one["method"],
                "standard": one["standard"],
            }
            for one in chosen
        ],
        "untouched": [
            {name: row[name] for name in ("serial", "wwn", "model", "size_bytes", "reason")}
            for row in erasure.data["untouched"]
        ],
    }


def failure(erasure: Erasure, row: Mapping[str, Any], reason: str) -> dict[str, Any]:
    """The record of a disk that was to be erased, or was found beside the order, and of which nothing is certified."""
    told = [one for one in rows(erasure.outcome.get("disks")) if marks(one) == marks(row)]
    return {
        **_head(erasure, Kind.FAILURE),
        "result": "failed",
        "drive": _drive(row, told[0] if len(told) == 1 else {}),
        "reason": text(reason),
        "said": tidy(told),
    }


def strangers(erasure: Erasure) -> list[Mapping[str, Any]]:
    """The disks that the agent tells of and that the order does not name."""
    known = {marks(row) for name in ("disks", "refused") for row in erasure.data[name]}
    return [row for row in rows(erasure.outcome.get("disks")) if marks(row) not in known]


def _head(erasure: Erasure, kind: Kind) -> dict[str, Any]:
    owner, outcome = erasure.machine, erasure.outcome
    system = owner.hardware.system
    return {
        "format": FORMAT,
        "kind": str(kind),
        "issued_at": iso(erasure.now),
        "issuer": {"product": "metalbox", "version": erasure.version},
        "operator": text(erasure.operator),
        "machine": {
            "id": owner.id,
            "name": text(owner.name),
            "uuid": owner.uuid,
            "serial": text(owner.serial),
            "vendor": text(system.vendor),
            "product": text(system.product),
            "macs": [str(mac) for mac in owner.macs],
        },
        "order": erasure.mark,
        "level": text(erasure.data.get("level")),
        "agent": {
            "version": text(outcome.get("agent")),
            "kernel": text(outcome.get("kernel")),
            "boot_id": text(outcome.get("boot_id")),
            "tools": {text(name): text(version) for name, version in mapping(outcome.get("tools")).items()},
        },
    }


def _drive(row: Mapping[str, Any], found: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "serial": text(row.get("serial")),
        "wwn": text(row.get("wwn")),
        "model": text(row.get("model")),
        "firmware": text(found.get("firmware")),
        # More than the order named where hidden sectors were brought to light first.
        "size_bytes": whole(found.get("size_bytes")) or whole(row.get("size_bytes")) or 0,
        "transport": text(row.get("transport")),
        "namespaces": [
            {
                "nsid": whole(one.get("nsid")) or 0,
                "size_bytes": whole(one.get("size_bytes")),
                "wwn": text(one.get("wwn")),
            }
            for one in rows(row.get("namespaces"))
        ],
    }


def iso(at: float) -> str:
    """Unix time as UTC to the second, "2026-01-31T12:00:00Z"; "" for what is no time."""
    try:
        return datetime.fromtimestamp(int(at), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    except (OverflowError, ValueError, OSError):
        return ""


def _moment(value: Any) -> str:
    """When the agent says that it began: a number or its own text."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return iso(value)
    return text(value)


def _seconds(value: Any) -> int | None:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return round(value) if is_number and 0 <= value < 10**9 else None


def tidy(value: Any, depth: int = 0) -> Any:
    """Any JSON in the shape that documents can hold: texts that can be printed, fractions as text, bounded."""
    if depth > MAX_DEPTH:
        return "..."
    if isinstance(value, Mapping):
        return {text(name): tidy(inner, depth + 1) for name, inner in list(value.items())[:MAX_ITEMS]}
    if isinstance(value, (list, tuple)):
        return [tidy(inner, depth + 1) for inner in value[:MAX_ITEMS]]
    if isinstance(value, str):
        return text(value)
    if value is None or isinstance(value, (bool, int)):
        return value
    return repr(value)
