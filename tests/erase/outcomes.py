"""An order to erase a machine with two disks, and the outcome of an agent that did it all right."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

from metalbox.erase.certificate import Erasure
from metalbox.erase.methods import TABLE, Level, Method
from metalbox.erase.order import to_order
from metalbox.erase.plan import plan
from metalbox.machine import Disk, Hardware, Mac, Machine, System
from tests.erase.disks import HDD, NVME

UUID = "4c4c4544-0042-3510-8054-b7c04f333732"
MAC = Mac("52:54:00:00:00:01")
MACHINE = Machine(
    id=7,
    name="r1-07",
    state="erasing",
    uuid=UUID,
    serial="SN7",
    macs=(MAC,),
    hardware=Hardware(system=System(vendor="ACME", product="R1")),
)
SEED = "5eed" * 8
NOW = 1_800_000_000.0


def order(disks: Sequence[Disk] = (NVME, HDD), level: Level = Level.PURGE, **how: Any) -> dict[str, Any]:
    """The data of an order for these disks; `how` goes to `plan`, `verify` to `to_order`."""
    verify = how.pop("verify", "sample")
    marks = {"uuid": UUID, "serial": "SN7", "macs": [str(MAC)]}
    made = plan(disks, level, **how)
    return to_order(made, seed=SEED, verify=verify, machine=marks, boot_id="boot-9", issued_at=int(NOW) - 60)


def outcome(data: Mapping[str, Any]) -> dict[str, Any]:
    """What the agent says when every disk was erased by the first method."""
    return {
        "machine": {"uuid": UUID, "serial": "SN7"},
        "boot_id": data["boot_id"],
        "agent": "0.1.0",
        "kernel": "6.1.0-30-amd64",
        "tools": {"nvme": "2.4", "hdparm": "9.65"},
        "seconds": 51.5,
        "refused": "",
        "disks": [_disk(data, row) for row in data["disks"]],
        "untouched": [],
    }


def _disk(data: Mapping[str, Any], row: Mapping[str, Any]) -> dict[str, Any]:
    method = Method(row["methods"][0])
    return {
        **{name: row[name] for name in ("serial", "wwn", "model", "size_bytes", "name", "transport")},
        "firmware": "FW1",
        "result": "erased",
        "method": str(method),
        "attempts": [{"method": str(method), "result": "done", "evidence": "", "seconds": 31.25}],
        "preparations": [{"what": what, "result": "done", "evidence": ""} for what in row["preparations"]],
        "started_at": NOW - 50.5,
        "seconds": 41.5,
        "firmware_status": "completed without error" if method.is_firmwares else "",
        "verification": {
            "seed": data["seed"],
            "samples": 1024,
            "regions": {"first": 16, "last": 16, "gpt": 2, "superblocks": 6, "random": 984},
            "bytes_read": row["size_bytes"] if data["verify"] == "full" else 4 * 2**20,
            "expected": str(TABLE[method].expected[0]),
            "before_digest": "ab" * 32,
            "after_digest": "cd" * 32,
            "unchanged": 0,
            "mismatches": [],
            "signatures": [],
            "full": data["verify"] == "full",
            "result": "passed",
        },
        "evidence": "",
    }


def erasure(data: Mapping[str, Any] | None = None, said: Mapping[str, Any] | None = None, **changes: Any) -> Erasure:
    """Joined; `changes` go over the fields."""
    data = order() if data is None else data
    fields: dict[str, Any] = {
        "number": 3, "created_at": NOW - 60, "data": data, "outcome": outcome(data) if said is None else said,
        "machine": MACHINE, "operator": "alice at r1", "version": "0.1.0", "now": NOW,
    }  # fmt: skip
    return Erasure(**{**fields, **changes})


def changed(document: Mapping[str, Any], path: str, value: Any) -> dict[str, Any]:
    """A deep copy with one member set; `path` is like "disks.0.model"; the value `...` takes it away."""
    whole: Any = copy.deepcopy(dict(document))
    *parents, last = (int(part) if part.isdecimal() else part for part in path.split("."))
    inner = whole
    for part in parents:
        inner = inner[part]
    if value is ...:
        del inner[last]
    else:
        inner[last] = value
    return dict(whole)
