"""The real outcomes of the agent with simulated drives: certified exactly when the bytes are gone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from metalbox.agent import eraser
from metalbox.erase import certificate
from metalbox.erase.certificate import Erasure
from metalbox.erase.document import canonical
from metalbox.errors import Refused
from metalbox.machine import Machine
from tests.agent.drives import MIB, SERIAL, UUID, Asked, AtaDrive, Drive, SimulatedKernel, order, row
from tests.agent.test_eraser import IDS, PAIRS

FAULTS = ["lies", "fails", "vanishes", "stale", "one-sector", "unreadable-after", "stuck", "refuses"]


def erased(folder: Path, drive: Drive, method: str, *preparations: str, **more: Any) -> Erasure:
    """What comes of an order to erase this drive by this method."""
    words = {**row(drive, method, preparations=preparations), "levels": ["clear"], "terms": ["Clear"]}
    data = order({**words, "name": drive.name, "transport": ""}, level="clear", **more)
    outcome = eraser.work(Asked(data), SimulatedKernel(folder, drive))  # type: ignore[arg-type]
    machine = Machine(id=1, name="m", state="erasing", uuid=UUID, serial=SERIAL)
    return Erasure(1, 1.0, data, outcome, machine, "alice", "0.1.0", 2.0)


@pytest.mark.parametrize(("kind", "method"), PAIRS, ids=IDS)
@pytest.mark.parametrize("verify", ["sample", "full"])
def test_a_good_drive_is_certified(kind: type[Drive], method: str, verify: str, tmp_path: Path) -> None:
    drive = kind("sda", "S1")
    case = erased(tmp_path, drive, method, verify=verify)
    made = certificate.drive(case, case.data["disks"][0])
    assert canonical(made)
    assert (made["method"], made["verification"]["full"]) == (method, verify == "full")
    assert drive.is_gone()


@pytest.mark.parametrize(("kind", "method"), PAIRS, ids=IDS)
@pytest.mark.parametrize("fault", FAULTS)
def test_any_other_is_not(kind: type[Drive], method: str, fault: str, tmp_path: Path) -> None:
    drive = kind("sda", "S1", fault)
    case = erased(tmp_path, drive, method)
    if drive.is_gone() and case.outcome["disks"][0]["result"] == "erased":
        return  # a fault that this method does not meet
    with pytest.raises(Refused):
        certificate.drive(case, case.data["disks"][0])
    assert canonical(certificate.failure(case, case.data["disks"][0], "x"))


@pytest.mark.parametrize("fault", ["hpa", "dco"])
def test_hidden_sectors_are_certified_with_the_size_that_was_erased(fault: str, tmp_path: Path) -> None:
    case = erased(tmp_path, AtaDrive("sda", "S1", fault), "overwrite", f"remove-{fault}", verify="full")
    made = certificate.drive(case, case.data["disks"][0])
    assert made["drive"]["size_bytes"] == 4 * MIB > case.data["disks"][0]["size_bytes"]
