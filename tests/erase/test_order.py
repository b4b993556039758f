"""The plan as an order: whole, unique, and the same when read back."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metalbox.erase.methods import Level
from metalbox.erase.order import from_order, to_order
from metalbox.erase.plan import Plan, Verdict, plan
from metalbox.errors import InvalidValue, Refused
from metalbox.machine import Disk
from tests.erase.disks import HDD, NVME, VIRTIO, disks

MACHINE = {"uuid": "4c4c4544-0042-3510-8054-b7c04f333732", "serial": "SN1", "macs": ["52:54:00:00:00:01"]}


def test_what_the_agent_reads() -> None:
    stick = replace(HDD, serial="USB1", wwn="", transport="usb")
    made = plan([NVME, stick, VIRTIO], Level.PURGE)
    data = to_order(made, seed="00ff", verify="full", machine=MACHINE, boot_id="b", issued_at=7)
    assert {name: data[name] for name in ("machine", "boot_id", "level", "verify", "seed", "issued_at")} == {
        "machine": MACHINE, "boot_id": "b", "level": "purge", "verify": "full", "seed": "00ff", "issued_at": 7,
    }  # fmt: skip
    (row,) = data["disks"]
    assert (row["serial"], row["wwn"], row["model"], row["size_bytes"]) == (
        NVME.serial, NVME.wwn, NVME.model, NVME.size_bytes,
    )  # fmt: skip
    assert row["methods"][0] == "nvme-sanitize-crypto"
    assert row["levels"] == ["purge"] * 4
    assert row["namespaces"][0]["nsid"] == 1
    assert [row["serial"] for row in data["untouched"]] == ["USB1"]
    assert [row["serial"] for row in data["refused"]] == [VIRTIO.serial]


def test_nothing_to_erase_is_no_order() -> None:
    with pytest.raises(Refused, match=r"nothing to erase: lab-1: the operator excluded it"):
        to_order(plan([VIRTIO], Level.CLEAR, exclude=[VIRTIO.serial]), seed="00")
    with pytest.raises(Refused, match="it has no disk"):
        to_order(plan([], Level.CLEAR), seed="00")
    with pytest.raises(Refused, match="'sda'"):
        to_order(plan([VIRTIO], Level.CLEAR, keep=["sda"]), seed="00")


@pytest.mark.parametrize("wrong", [{}, {"level": "purge"}, {"level": "x", "disks": [], "untouched": [], "refused": []}])
def test_what_is_no_order(wrong: dict[str, object]) -> None:
    with pytest.raises(InvalidValue, match="this is no order to erase"):
        from_order(wrong)


@settings(max_examples=200, deadline=None)
@given(st.lists(disks, max_size=6), st.sampled_from(Level))
def test_round_trip(some: list[Disk], level: Level) -> None:
    made = plan(some, level)
    if not made.of(Verdict.ERASE):
        return
    data = json.loads(json.dumps(to_order(made, seed="00")))
    kinds = (Verdict.ERASE, Verdict.UNTOUCHED, Verdict.REFUSED)
    assert from_order(data) == Plan(level, tuple(disk for kind in kinds for disk in made.of(kind)))
    # Each disk is named once, by marks that no other disk of the machine has.
    marks = [(row["serial"], row["wwn"]) for row in data["disks"]]
    for mark in marks:
        assert sum((disk.serial, disk.wwn) == mark for disk in some) == 1
