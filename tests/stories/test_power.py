"""Machines steered through their BMCs, without touching QEMU: the firmware obeys, and foreign clients agree."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping
from shutil import which
from typing import Any

import pytest

from metalbox.cli.main import main
from metalbox.config import Mode
from metalbox.lab import bootable
from metalbox.lab.machines import BmcKind, Firmware, MachineSpec
from metalbox.lab.rack import Rack
from tests.stories.conftest import PATIENCE, finished

pytestmark = pytest.mark.firmware

RackFactory = Callable[..., Rack]
BIOS, UEFI, BOTH = "lab0001", "lab0002", "lab0003"
MACHINES = (
    MachineSpec(firmware=Firmware.BIOS, bmc=BmcKind.IPMI),
    MachineSpec(firmware=Firmware.UEFI_PXE, bmc=BmcKind.IPMI),
    MachineSpec(firmware=Firmware.UEFI_PXE, bmc=BmcKind.BOTH),
)
# What foreign clients call it.
IPMITOOL = {"pxe": "Force PXE", "disk": "Force Boot from default Hard-Drive", "none": "No override"}
# A record for the event log (IPMI 2.0 section 32.1): the temperature sensor 0x30 is too high.
EVENT = "0 0 2 0 0 0 0 0x20 0 4 1 0x30 1 0x57 0x4f 0x50"
REDFISH = {"pxe": "Pxe", "disk": "Hdd"}


def add_bmcs(rack: Rack) -> None:
    """As an operator would, with nothing but address and account: the machines are not known yet."""
    for spec in rack.machines:
        if spec.bmc is BmcKind.NONE:
            pytest.skip("the rack could not make its BMCs: see tools/packages.txt")
        bmc = rack.bmc(spec.name)
        body = {"address": bmc.address, "user": bmc.user, "password": bmc.password}
        rack.call("POST", "/api/v1/bmcs", body=body)


def metalbox(rack: Rack, *words: str) -> None:
    """The command line, waiting until it is done."""
    assert main([*words, "--socket", str(rack.directory / "metalbox.sock"), "--wait", "300"]) == 0, words


def power(rack: Rack, name: str) -> dict[str, Any]:
    """What metalbox says now: state, source, boot."""
    row: dict[str, Any] = rack.call("GET", f"/api/v1/machines/{name}/power", {"refresh": 1})
    return row


def ipmitool(rack: Rack, name: str, *words: str) -> str:
    bmc = rack.bmc(name)
    # Without -C ipmitool waits 10 s for a list of cipher suites that ipmi_sim does not give.
    account = ["-H", bmc.address, "-U", bmc.user, "-P", bmc.password]
    argv = ["ipmitool", "-I", "lanplus", "-C", "3", *PATIENCE, *account, *words]
    return rack.exec("lab", argv, timeout=120).stdout


def curl(rack: Rack, name: str) -> Mapping[str, Any]:
    bmc = rack.bmc(name)
    url = f"https://{bmc.address}/redfish/v1/Systems/{bmc.uuid}"
    done = rack.exec("lab", ["curl", "-skf", "-m", "55", "-u", f"{bmc.user}:{bmc.password}", url])
    assert done.returncode == 0, done.stderr
    found: Mapping[str, Any] = json.loads(done.stdout)
    return found


def agree(rack: Rack, name: str, state: str, device: str) -> None:
    """metalbox, ipmitool and curl say the same of the machine's power and of what it boots next."""
    said = power(rack, name)
    assert (said["state"], said["boot"]["device"]) == (state, device), said
    assert rack.power(name) == state
    if rack.spec(name).bmc.has_redfish:
        system = curl(rack, name)
        assert (system["PowerState"], system["Boot"]["BootSourceOverrideTarget"]) == (
            state.capitalize(),
            REDFISH[device],
        )
    else:
        status = ipmitool(rack, name, "chassis", "status").splitlines()[0]
        assert status.split(":")[1].strip() == state
        assert IPMITOOL[device] in ipmitool(rack, name, "chassis", "bootparam", "get", "5")


def booted_again(rack: Rack, name: str, old: str) -> bool:
    machine = rack.find_machine(name)
    return machine is not None and machine["boot_id"] != old


def told(rack: Rack, name: str, begin: str, end: str = "") -> bool:
    """Whether the timeline has such a line of the machine's power."""
    texts = [row["text"] for row in rack.events(name) if row["kind"] == "power"]
    return any(text.startswith(begin) and text.endswith(end) for text in texts)


def test_switched_and_steered_through_their_bmcs(rack_factory: RackFactory) -> None:
    for client in ("ipmitool", "curl"):
        if which(client) is None:
            pytest.skip(f"there is no {client}")
    rack = rack_factory(mode=Mode.FULL, machines=MACHINES)
    rack.up()
    add_bmcs(rack)
    for spec in rack.machines:
        rack.make_bootable(spec.name)
        rack.power_on(spec.name)
    for spec in rack.machines:
        rack.wait_for_machine(spec.name, 600)
    for spec in rack.machines:
        bmc = rack.bmc(spec.name)
        answer = rack.call("POST", f"/api/v1/bmcs/{bmc.address}/test", body={})
        # The agent told of its own BMC over KCS; of one with Redfish the UUID that it tells.
        assert answer["bmc"]["machine"] == spec.name, answer
        assert bmc.password not in str(answer)
        assert bmc.password not in rack.service_log()
    boots = {spec.name: rack.find_machine(spec.name) or {} for spec in rack.machines}

    metalbox(rack, "boot-next", "disk", *boots, "--max", "3")
    for name in boots:
        agree(rack, name, "on", "disk")
        rack.watch(name)
    metalbox(rack, "power", "cycle", *boots, "--max", "3")
    for name in boots:
        rack.wait_console(name, bootable.LINE, 360)

    metalbox(rack, "boot-next", "pxe", *boots, "--max", "3")
    for name in boots:
        agree(rack, name, "on", "pxe")
        rack.watch(name)
    metalbox(rack, "power", "cycle", *boots, "--max", "3")
    for name, before in boots.items():
        rack.wait_until(functools.partial(booted_again, rack, name, before["boot_id"]), 600, f"a report of {name}")
    for name in (BIOS, UEFI):
        # ipmi_sim keeps for all boots what was set for one.
        rack.wait_until(functools.partial(told, rack, name, "", "it is none again"), 300, f"pxe taken back at {name}")
        agree(rack, name, "on", "none")

    falls_back_by_verb(rack)

    number = rack.call("POST", f"/api/v1/machines/{BIOS}/power", body={"verb": "cycle"})["order"]
    rack.kill_service()
    rack.start_service()
    row = finished(rack, number)
    assert row["outcome"]["done"], row
    assert rack.power(BIOS) == "on"


def falls_back_by_verb(rack: Rack) -> None:
    """A machine with both: what Redfish does not have goes by IPMI, and all of it while Redfish is away."""
    ipmitool(rack, BOTH, "raw", "0x0a", "0x44", *EVENT.split())
    log = rack.call("GET", f"/api/v1/machines/{BOTH}/sel")["entries"]
    assert len(log) == len(ipmitool(rack, BOTH, "sel", "list").splitlines()) > 0
    assert power(rack, BOTH)["source"] == "redfish"
    rack.bmcs.stop_redfish()
    metalbox(rack, "power", "off", BOTH)
    assert rack.power(BOTH) == "off"
    assert told(rack, BOTH, "off: off was sent by ipmi, and read back: the machine is off; redfish was passed over: ")
    assert power(rack, BOTH)["source"] == "ipmi"
    rack.bmcs.start_redfish()
    rack.wait_until(lambda: power(rack, BOTH)["source"] == "redfish", 360, "Redfish to be used again")
    metalbox(rack, "boot-next", "disk", BOTH, "--always")
    metalbox(rack, "power", "on", BOTH, "--boot", "pxe")
    assert rack.power(BOTH) == "on"
    assert told(rack, BOTH, "on with pxe once: on was sent by redfish, and read back: the machine is on")
    # sushy-tools keeps it, and cannot clear it: what was there before is set again once the machine has asked us.
    taken_back = functools.partial(told, rack, BOTH, "redfish had kept pxe (uefi), always", "disk (uefi), always again")
    rack.wait_until(taken_back, 300, "disk to be set again")
    agree(rack, BOTH, "on", "disk")
