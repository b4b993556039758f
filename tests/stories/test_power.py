"""Machines switched through their BMCs, without touching QEMU: on leads to discovery, the firmware obeys boot-next."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest

from metalbox.config import Mode
from metalbox.lab.machines import BmcKind, Firmware, MachineSpec
from metalbox.lab.rack import Rack

pytestmark = pytest.mark.firmware

RackFactory = Callable[..., Rack]
MACHINES = (
    MachineSpec(firmware=Firmware.BIOS, bmc=BmcKind.IPMI),
    MachineSpec(firmware=Firmware.UEFI_PXE, bmc=BmcKind.REDFISH),
)


def add_bmcs(rack: Rack) -> None:
    """As an operator would, with nothing but address and account: the machines are not known yet."""
    for spec in rack.machines:
        bmc = rack.bmc(spec.name)
        if bmc is None:
            pytest.skip(f"the rack could not make a BMC of kind {spec.bmc}: see tools/packages.txt")
        body = {"address": bmc.address, "user": bmc.user, "password": bmc.password}
        rack.call("POST", "/api/v1/bmcs", body=body)


def order(rack: Rack, name: str, verb: str, **boot: Any) -> int:
    body = {"verb": verb, "boot": boot or None}
    number: int = rack.call("POST", f"/api/v1/machines/{name}/power", body=body)["order"]
    return number


def booted_again(rack: Rack, name: str, old: str) -> bool:
    machine = rack.find_machine(name)
    return machine is not None and machine["boot_id"] != old


def finished(rack: Rack, number: int) -> dict[str, Any]:
    row: dict[str, Any] = rack.call("GET", f"/api/v1/orders/{number}", {"wait": 60})
    assert row["finished_at"], row
    return dict(row["outcome"])


def test_switched_and_steered_through_their_bmcs(rack_factory: RackFactory) -> None:
    rack = rack_factory(mode=Mode.FULL, machines=MACHINES)
    rack.up()
    add_bmcs(rack)
    for spec in rack.machines:
        rack.power_on(spec.name)
    for spec in rack.machines:
        rack.wait_for_machine(spec.name, 150)
    for spec in rack.machines:
        bmc = rack.bmc(spec.name)
        assert bmc is not None
        answer = rack.call("POST", f"/api/v1/bmcs/{bmc.address}/test", body={})
        # The agent told of its own BMC over KCS; of the other one the UUID that it tells.
        assert answer["bmc"]["machine"] == spec.name, answer
        assert bmc.password not in str(answer)
        assert bmc.password not in rack.service_log()

    for spec in rack.machines:
        before = rack.find_machine(spec.name)
        assert before is not None
        outcome = finished(rack, order(rack, spec.name, "off"))
        assert outcome["done"], outcome
        assert rack.power(spec.name) == "off"
        rack.watch(spec.name)
        outcome = finished(rack, order(rack, spec.name, "on", device="pxe", mode="keep", once=True))
        assert outcome["done"], outcome
        assert rack.power(spec.name) == "on"
        rack.wait_until(functools.partial(booted_again, rack, spec.name, before["boot_id"]), 150, "another report")

    number = order(rack, rack.machines[0].name, "cycle")
    rack.kill_service()
    rack.start_service()
    outcome = finished(rack, number)
    assert outcome["done"], outcome
    assert rack.power(rack.machines[0].name) == "on"
