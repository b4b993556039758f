"""Machines with real firmware from `accept --wait` to available: what is looked at are the files behind their disks."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from shutil import which
from typing import Any

import pytest

from metalbox.cli.main import main
from metalbox.config import Mode
from metalbox.errors import BuildError
from metalbox.lab import bootable
from metalbox.lab.hypervisor import make_disk
from metalbox.lab.machines import MIB, BmcKind, Bus, Defect, Disk, Failing, Firmware, MachineSpec
from metalbox.lab.rack import Rack
from tests.stories import ondisk, san
from tests.stories.conftest import folder_of

pytestmark = pytest.mark.firmware

RackFactory = Callable[..., Rack]
SIZE = 64 * MIB
# A quarter of a minute for a disk: time to see the middle of it, and to act before its end.
SLOW = 4 * MIB


def full(number: int, *buses: Bus, **more: Any) -> tuple[Disk, ...]:
    """Disks full of random bytes, named after their way."""
    return tuple(Disk(f"{bus.upper()}{number}", bus, SIZE, "random", **more) for bus in buses)


def files(rack: Rack, name: str, *buses: Bus) -> list[Path]:
    """Where the content of a machine's disks lies, of all or of those of some kinds."""
    disks = [disk for disk in rack.spec(name).disks if not buses or disk.bus in buses]
    return [path for disk in disks for path in rack.disk_paths(name, disk.serial)]


def metalbox(rack: Rack, *words: str) -> int:
    """The command line; its exit code."""
    return main([*words, "--socket", str(rack.directory / "metalbox.sock")])


@contextmanager
def waiting(rack: Rack, *words: str) -> Iterator[None]:
    """A command with --wait beside what the story does meanwhile; it must end well."""
    argv = [sys.executable, "-m", "metalbox", *words, "--yes", "--wait", "300"]
    argv += ["--socket", str(rack.directory / "metalbox.sock")]
    log = rack.directory / "logs" / f"{words[0]}.log"
    with log.open("a") as out:
        process = subprocess.Popen(argv, stdout=out, stderr=out, stdin=subprocess.DEVNULL)
        try:
            yield
            assert process.wait(timeout=310) == 0, log.read_text()
        finally:
            process.kill()
            process.wait()


def life(rack: Rack, name: str) -> dict[str, Any]:
    row: dict[str, Any] = rack.call("GET", f"/api/v1/machines/{name}/life")
    return row


def is_in(rack: Rack, name: str, state: str) -> bool:
    return bool(life(rack, name)["state"] == state)


def texts(rack: Rack, name: str) -> list[str]:
    return [row["text"] for row in rack.events(name)]


def has_told(rack: Rack, name: str, words: str, times: int = 1) -> bool:
    return sum(words in text for text in texts(rack, name)) >= times


def in_order(rack: Rack, name: str, *words: str) -> None:
    """The timeline tells all of these, one after the other."""
    left = iter(texts(rack, name))
    for word in words:
        assert any(word in text for text in left), f"{word!r} is not told, or not there: {texts(rack, name)}"


def percent(rack: Rack, name: str, disk: str) -> float:
    """How far the erasing of a disk is; -1 before and after it."""
    row = life(rack, name)["progress"].get("disks", {}).get(disk, {})
    return float(row["percent"]) if row.get("phase") == "erase" else -1.0


def kinds(rack: Rack, name: str) -> list[str]:
    """What certificates and failure records there are of a machine, the oldest first."""
    rows = rack.call("GET", "/api/v1/certificates", {"machine": name})["certificates"]
    return [row["kind"] for row in reversed(rows)]


def transports(rack: Rack, name: str) -> list[str]:
    """How the disks of its last report are attached."""
    return [disk["transport"] for disk in rack.call("GET", f"/api/v1/machines/{name}")["hardware"]["disks"]]


def proven(rack: Rack, folder: Path, name: str) -> None:
    """A machine's certificates are sound without any service."""
    assert metalbox(rack, "certificate", "export", name, "-o", str(folder / name)) == 0
    assert main(["certificate", "verify", str(folder / name)]) == 0


def gone(paths: list[Path], before: set[bytes]) -> None:
    """Nothing of what was there is left, seen from outside."""
    assert len(before) > 1000
    assert not ondisk.blocks(paths) & before
    assert all(ondisk.is_empty(path) for path in paths)
    assert [ondisk.name(path) for path in paths] == [""] * len(paths)


def give_account(rack: Rack, name: str) -> None:
    """As an operator would; the BMC then tells whose it is."""
    bmc = rack.bmc(name)
    rack.call("POST", "/api/v1/bmcs", body={"address": bmc.address, "user": bmc.user, "password": bmc.password})
    answer = rack.call("POST", f"/api/v1/bmcs/{bmc.address}/test", body={})
    assert answer["bmc"]["machine"] == name, answer


def test_every_kind_of_disk_by_bios_and_uefi(rack_factory: RackFactory, tmp_path: Path) -> None:
    """Accepted by one command, erased, certified, switched off; USB sticks keep every byte."""
    bios, uefi = "lab0001", "lab0002"
    built_in = (Bus.SATA, Bus.SCSI, Bus.VIRTIO)
    nvme = Disk("NVME2", Bus.NVME, SIZE, "random", more=(16 * MIB,))
    machines = (
        MachineSpec(firmware=Firmware.BIOS, bmc=BmcKind.IPMI, disks=full(1, *Bus)),
        MachineSpec(firmware=Firmware.UEFI_PXE, bmc=BmcKind.REDFISH, disks=(nvme, *full(2, *built_in, Bus.USB))),
    )
    rack = rack_factory(mode=Mode.FULL, machines=machines)
    rack.up()
    if any(spec.bmc is BmcKind.NONE for spec in rack.machines):
        pytest.skip("the rack could not make its BMCs: see tools/packages.txt")
    array = os.urandom(16)
    for name in (bios, uefi):
        ondisk.md_member(files(rack, name, Bus.SATA)[0], 0, array)
        ondisk.md_member(files(rack, name, Bus.NVME)[0], 1, array)
        ondisk.lvm_volume(files(rack, name, Bus.VIRTIO)[0])
        ondisk.ext4(files(rack, name, Bus.SCSI)[0])
    erased = [path for name in (bios, uefi) for path in files(rack, name, Bus.NVME, *built_in)]
    sticks = [path for name in (bios, uefi) for path in files(rack, name, Bus.USB)]
    there = [ondisk.name(path) for path in erased]
    assert [there.count(kind) for kind in ("linux_raid_member", "LVM2_member", "ext4")] == [4, 2, 2]
    before, kept = ondisk.blocks(erased), [ondisk.digest(path) for path in sticks]
    for spec in rack.machines:
        rack.power_on(spec.name)
    for spec in rack.machines:
        rack.wait_for_machine(spec.name, 300)
    give_account(rack, uefi)

    assert metalbox(rack, "accept", bios, uefi, "--max", "2", "--yes", "--wait", "300") == 0
    for name in (bios, uefi):
        rack.wait_until(functools.partial(has_told, rack, name, "the machine is off"), 180, f"{name} to be off")
        assert rack.power(name) == "off"
        assert rack.call("GET", f"/api/v1/machines/{name}/power", {"refresh": 1})["state"] == "off"
    gone(erased, before)
    assert [ondisk.digest(path) for path in sticks] == kept
    for name in (bios, uefi):
        assert kinds(rack, name) == ["drive"] * 4 + ["machine"]
        proven(rack, tmp_path, name)
    account = (
        "ordered of the agent: an account",
        "the agent made the account 'metalbox'",
    )
    for name, more in ((bios, account), (uefi, ())):
        in_order(
            rack, name, "reported for the first time", "discovered -> erasing: accept at level clear",
            *more, "ordered to erase 4 disks", "begins: erase", "drive certificate", "machine certificate",
            "erasing -> available: 4 disks erased and verified", "ordered: off", "the machine is off",
        )  # fmt: skip


def test_adopted_untouched_released_retired(
    rack_factory: RackFactory, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A machine in use boots from its own disk and keeps every byte, until it is released; then it is retired."""
    name = "lab0001"
    disks = full(1, Bus.VIRTIO, Bus.SATA, Bus.USB)
    rack = rack_factory(mode=Mode.FULL, machines=[MachineSpec(bmc=BmcKind.IPMI, disks=disks)])
    rack.up()
    if rack.machines[0].bmc is BmcKind.NONE:
        pytest.skip("the rack could not make its BMC: see tools/packages.txt")
    rack.make_bootable(name)
    content = {path: ondisk.digest(path) for path in files(rack, name)}
    rack.power_on(name)
    rack.wait_for_machine(name, 240)
    give_account(rack, name)

    assert metalbox(rack, "adopt", name) == 0
    assert metalbox(rack, "erase", name, "--yes") == 4
    rack.watch(name)
    assert metalbox(rack, "power", "cycle", name, "--wait", "180") == 0
    rack.wait_console(name, bootable.LINE, 180)
    assert {path: ondisk.digest(path) for path in files(rack, name)} == content
    assert kinds(rack, name) == []

    before = ondisk.blocks(files(rack, name, Bus.VIRTIO, Bus.SATA))
    rack.watch(name)
    assert metalbox(rack, "release", name, "--yes", "--wait", "300") == 0
    gone(files(rack, name, Bus.VIRTIO, Bus.SATA), before)
    rack.wait_until(lambda: rack.power(name) == "off", 180, "the machine to be off")

    for path in files(rack, name, Bus.VIRTIO, Bus.SATA):
        make_disk(path, SIZE, "random")
    refilled = {path: ondisk.digest(path) for path in files(rack, name)}
    before = ondisk.blocks(files(rack, name, Bus.VIRTIO, Bus.SATA))
    rack.watch(name)
    capsys.readouterr()
    assert metalbox(rack, "retire", name, "--yes", "--wait", "300") == 1
    assert "2 disks cannot be erased so: lab0001 would stop with a fault" in capsys.readouterr().out
    fault = life(rack, name)["fault"]
    assert fault["code"] == "cannot-erase", fault
    assert all("no method reaches purge: it is a virtual disk" in line for line in fault["evidence"]), fault
    assert {path: ondisk.digest(path) for path in files(rack, name)} == refilled
    assert metalbox(rack, "retry", name, "--level", "clear", "--verify", "full", "--yes", "--wait", "300") == 0
    assert is_in(rack, name, "retired")
    gone(files(rack, name, Bus.VIRTIO, Bus.SATA), before)
    rack.wait_until(lambda: rack.power(name) == "off", 180, "the machine to be off")
    assert kinds(rack, name) == ["drive", "drive", "machine"] * 2
    assert rack.call("GET", "/api/v1/certificates/5")["verification"]["full"] is True
    proven(rack, tmp_path, name)
    assert ondisk.digest(files(rack, name, Bus.USB)[0]) == content[files(rack, name, Bus.USB)[0]]


def test_killed_cut_off_and_without_power(rack_factory: RackFactory, tmp_path: Path) -> None:
    """A machine without BMC: a person presses the button, and whatever dies in between, each round has one proof."""
    name, slow = "lab0001", "SATA1"
    disks = (*full(1, Bus.SATA, speed=SLOW), *full(1, Bus.VIRTIO, Bus.USB))
    rack = rack_factory(mode=Mode.FULL, machines=[MachineSpec(disks=disks)])
    rack.up()
    built_in, (stick,) = files(rack, name, Bus.SATA, Bus.VIRTIO), files(rack, name, Bus.USB)
    before, kept = ondisk.blocks(built_in), ondisk.digest(stick)
    rack.power_on(name)
    rack.wait_for_machine(name, 240)

    with waiting(rack, "accept", name):
        for what, look in (
            ("the wish", lambda: is_in(rack, name, "erasing")),
            ("the order", lambda: has_told(rack, name, "ordered to erase 2 disks")),
            ("the claim", lambda: has_told(rack, name, "begins: erase")),
            ("the middle", lambda: percent(rack, name, slow) > 30 or is_in(rack, name, "available")),
            ("the end", lambda: percent(rack, name, slow) > 80 or is_in(rack, name, "available")),
        ):
            rack.wait_until(look, 180, what)
            rack.kill_service()
            rack.start_service()
    rack.wait_until(lambda: rack.power(name) == "off", 180, "the agent to switch the machine off")
    gone(built_in, before)
    assert kinds(rack, name) == ["drive", "drive", "machine"]

    for path in built_in:
        make_disk(path, SIZE, "random")
    before = ondisk.blocks(built_in)
    with waiting(rack, "erase", name):
        rack.wait_until(lambda: has_told(rack, name, "please start it from the network"), 180, "a person to be asked")
        rack.power_on(name)
        rack.wait_until(lambda: percent(rack, name, slow) > 20, 240, "the middle of it")
        rack.power_off(name)
        assert ondisk.blocks(built_in) & before, "it was over when the power went"
        rack.power_on(name)
        rack.wait_until(lambda: has_told(rack, name, "begins: erase", 3), 240, "it to begin anew")
        rack.wait_until(lambda: percent(rack, name, slow) > 20, 180, "the middle of it")
        rack.block("http")
        rack.wait_until(lambda: ondisk.is_empty(built_in[0]), 180, "the agent to go on by itself")
        rack.unblock()
    rack.wait_until(lambda: rack.power(name) == "off", 180, "the agent to switch the machine off")
    in_order(
        rack, name, "please start it from the network", "the machine was started anew, after it had begun",
        "erasing -> available: 2 disks erased and verified",
    )  # fmt: skip
    gone(built_in, before)
    assert kinds(rack, name) == ["drive", "drive", "machine"] * 2
    proven(rack, tmp_path, name)
    assert ondisk.digest(stick) == kept


def test_a_swapped_disk_and_one_that_fails(
    rack_factory: RackFactory, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What nobody has confirmed is not touched; a disk that cannot be written gets a failure record, and no proof."""
    name = "lab0001"
    disks = full(1, Bus.SATA, Bus.VIRTIO, Bus.USB)
    rack = rack_factory(mode=Mode.FULL, machines=[MachineSpec(disks=disks)])
    rack.up()
    (good,), (old,), (stick,) = (files(rack, name, bus) for bus in (Bus.SATA, Bus.VIRTIO, Bus.USB))
    kept = {path: ondisk.digest(path) for path in (good, old, stick)}
    rack.power_on(name)
    rack.wait_for_machine(name, 240)
    rack.power_off(name)

    assert metalbox(rack, "accept", name, "--yes") == 0
    broken = Disk("NEW1", Bus.VIRTIO, SIZE, "random", defects=(Defect(Failing.WRITE, sector=SIZE // 1024),))
    rack.change_disk(name, "VIRTIO1", broken)
    (new,) = files(rack, name, Bus.VIRTIO)
    kept[new] = ondisk.digest(new)
    rack.power_on(name)
    fault = rack.wait_until(lambda: life(rack, name)["fault"], 240, "the swap to be seen")
    assert fault["code"] == "disks-changed", fault
    assert any("NEW1" in line for line in fault["evidence"]) and any("VIRTIO1" in line for line in fault["evidence"])
    assert {path: ondisk.digest(path) for path in kept} == kept
    assert kinds(rack, name) == []

    before = ondisk.blocks([good])
    assert metalbox(rack, "retry", name, "--yes", "--wait", "300") == 1
    fault = life(rack, name)["fault"]
    assert (fault["code"], fault["text"]) == ("erase-failed", "1 of 2 disks were not erased"), fault
    assert "NEW1" in fault["evidence"][0] and "Input/output error" in fault["evidence"][0], fault
    gone([good], before)
    assert sorted(kinds(rack, name)) == ["drive", "failure"]
    capsys.readouterr()
    assert metalbox(rack, "why", name) == 0
    assert "NEW1" in capsys.readouterr().out
    assert metalbox(rack, "erase", name, "--yes") == 4

    rack.power_off(name)
    rack.change_disk(name, "NEW1", Disk("NEW1", Bus.VIRTIO, SIZE))
    before = ondisk.blocks([new])
    rack.power_on(name)
    assert metalbox(rack, "retry", name, "--yes", "--wait", "300") == 0
    gone([good, new], before)
    assert kinds(rack, name)[2:] == ["drive", "drive", "machine"]
    proven(rack, tmp_path, name)
    assert {path: ondisk.digest(path) for path in (old, stick)} == {path: kept[path] for path in (old, stick)}


def test_a_lun_keeps_every_byte_though_the_agent_is_killed(rack_factory: RackFactory, tmp_path: Path) -> None:
    """An operator has attached a LUN to the agent: the disk beside it is erased, by two runs of the agent."""
    if which("tgtd") is None:
        pytest.skip("there is no iSCSI target: install Debian's package tgt")
    try:
        agent = san.image(folder_of("agent"), tmp_path / "agent")
    except BuildError as error:
        pytest.skip(f"there is no initiator for the agent's image: {error}")
    name = "lab0001"
    rack = rack_factory(mode=Mode.FULL, machines=[MachineSpec(disks=full(1, Bus.SATA, speed=SLOW))], agent=agent)
    rack.up()
    (built_in,), lun = files(rack, name), tmp_path / "lun"
    make_disk(lun, SIZE, "random")
    ondisk.lvm_volume(lun)
    before, kept = ondisk.blocks([built_in]), ondisk.digest(lun)
    with san.target(rack, lun):
        rack.power_on(name)
        rack.wait_console(name, san.ATTACHED, 300)
        rack.wait_for_machine(name, 180)
        assert metalbox(rack, "report", name) == 0
        rack.wait_until(lambda: "iscsi" in transports(rack, name), 180, "the LUN to be reported")
        assert metalbox(rack, "accept", name, "--yes", "--wait", "300") == 0
        gone([built_in], before)
        assert ondisk.digest(lun) == kept
    assert "the agent ended with code 137" in rack.console(name) and has_told(rack, name, "begins: erase", 2)
    rows = rack.call("GET", "/api/v1/certificates", {"machine": name})["certificates"]
    assert [row["kind"] for row in rows] == ["machine", "drive"]
    document = rack.call("GET", f"/api/v1/certificates/{rows[0]['number']}")
    (untouched,) = document["untouched"]
    assert "it is a LUN in a storage network (iscsi), and others may use it" in untouched["reason"], untouched
