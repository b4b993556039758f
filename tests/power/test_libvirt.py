"""The libvirt driver before a real libvirtd; the machines' firmware shows on the console what it was told to boot."""

from __future__ import annotations

import asyncio
import re
import shutil
import socket
import subprocess
import tempfile
import time
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path

import pytest

from metalbox.errors import BmcHung, BmcNotSupported, BmcWrongPassword, InvalidValue
from metalbox.lab import record, requirements
from metalbox.lab.machines import Bus, Disk, Firmware, MachineSpec, console_path
from metalbox.lab.rack import Rack
from metalbox.power import Device, Endpoint, Mode, Override, Power, connect, libvirt
from metalbox.power.libvirt import LibvirtPower
from tests.power.contract import Contract, Peer

MACHINES = (
    MachineSpec(name="bios", disks=(Disk("D1", Bus.VIRTIO),)),
    MachineSpec(name="uefi", firmware=Firmware.UEFI_PXE, disks=(Disk("D2", Bus.SATA),)),
    MachineSpec(name="nvme", disks=(Disk("D3", Bus.NVME),)),
    MachineSpec(name="words", disks=(Disk("D4", Bus.VIRTIO),)),  # its order stands below <os>
)


@pytest.fixture(scope="module")
def rack() -> Iterator[Rack]:
    """One private libvirt with machines that are off."""
    if reason := requirements.reason((requirements.ALWAYS, requirements.MACHINES)):
        pytest.skip(reason)
    folder = Path(tempfile.mkdtemp(prefix="mbp-"))
    rack = Rack(folder / "lab", mode="off", service="none", machines=MACHINES, owned=True)
    try:
        rack.up()
        for spec in rack.machines:
            keep_definition(rack, spec.name)
        yield rack
    finally:
        for spec in rack.machines:
            if rack.power(spec.name) == "on":
                rack.power_off(spec.name)
        rack.down()
        if rack.directory.exists():
            record.remove(rack.directory)
        shutil.rmtree(folder)


def uri(rack: Rack) -> str:
    return f"qemu:///system?socket={rack.hypervisor.home}/run/libvirt-sock"


def virsh(rack: Rack, *command: str) -> str:
    argv = ["virsh", "-q", "-c", uri(rack), *command]
    return subprocess.run(argv, capture_output=True, text=True, timeout=60, check=True).stdout.strip()


def keep_definition(rack: Rack, name: str) -> None:
    """Save what `redefine` goes back to: the lab's own, for `words` in libvirt's other way."""
    text = virsh(rack, "dumpxml", "--inactive", name)
    if name == "words":
        text = re.sub(r"<boot order='\d+'/>", "", text)
        text = text.replace("</type>", "</type><boot dev='network'/><boot dev='hd'/>", 1)
    (rack.directory / f"{name}.xml").write_text(text)


def redefine(rack: Rack, name: str) -> None:
    """Forget whatever a test has set."""
    virsh(rack, "define", str(rack.directory / f"{name}.xml"))


class Virsh(Peer):
    """The truth by virsh itself and by QEMU's process."""

    refused: tuple[Device, ...] = (Device.CDROM, Device.HTTP, Device.BIOS)

    def __init__(self, rack: Rack, name: str) -> None:
        self.rack = rack
        self.name = name
        self.set_on(False)
        redefine(rack, name)

    def endpoint(self) -> Endpoint:
        return Endpoint("libvirt", self.name, settings={"uri": uri(self.rack)})

    def is_on(self) -> bool:
        return virsh(self.rack, "domstate", self.name) == "running"

    def set_on(self, on: bool) -> None:
        if on and not self.is_on():
            self.rack.power_on(self.name)
        elif not on:
            self.rack.power_off(self.name)

    def starts(self) -> str:
        path = self.rack.hypervisor.home / "run" / "qemu" / f"{self.name}.pid"
        return path.read_text() if path.exists() else ""

    def first_device(self) -> Device | None:
        root = ET.fromstring(virsh(self.rack, "dumpxml", "--inactive", self.name))
        if (word := root.find("os/boot")) is not None:
            return {"network": Device.PXE, "hd": Device.DISK}[word.attrib["dev"]]
        orders = {int(row.attrib["order"]): "interface" for row in root.findall("devices/interface/boot")}
        orders |= {int(row.attrib["order"]): "disk" for row in root.findall("devices/disk/boot")}
        for argument in root.iter("{http://libvirt.org/schemas/domain/qemu/1.0}arg"):
            if match := re.search(r"bootindex=(\d+)", argument.attrib["value"]):
                orders[int(match[1])] = "disk"
        return Device.DISK if orders[min(orders)] == "disk" else Device.PXE

    def unknown_machine(self) -> Endpoint:
        return Endpoint("libvirt", "nowhere", settings={"uri": uri(self.rack)})

    def unreachable(self) -> Endpoint:
        return Endpoint("libvirt", self.name, settings={"uri": "qemu:///system?socket=/nowhere/libvirt-sock"})

    def hanging(self) -> Endpoint:
        """A socket that takes connections into its backlog, and nobody behind it."""
        path = self.rack.directory / "silent"
        path.unlink(missing_ok=True)
        self.silent = socket.socket(socket.AF_UNIX)
        self.silent.bind(str(path))
        self.silent.listen()
        return Endpoint("libvirt", self.name, settings={"uri": f"qemu:///system?socket={path}"})

    def close(self) -> None:
        if hasattr(self, "silent"):
            self.silent.close()


@pytest.mark.firmware
class TestLibvirt(Contract):
    @pytest.fixture(params=["uefi", "nvme", "words"])
    def peer(self, rack: Rack, request: pytest.FixtureRequest) -> Iterator[Peer]:
        peer = Virsh(rack, request.param)
        yield peer
        peer.set_on(False)
        peer.close()


# -- what the firmware does with it ------------------------------------------------------------------------------

# SeaBIOS names the device that it tries; OVMF the disk that it cannot load from (it is empty), and PXE as it begins.
TRIED = re.compile(rb"Booting from (ROM|Hard Disk)|>>Start (PXE)|failed to load Boot\w+ \"UEFI (QEMU HARDDISK)")
MEANS = {b"ROM": Device.PXE, b"PXE": Device.PXE, b"Hard Disk": Device.DISK, b"QEMU HARDDISK": Device.DISK}


class Screen:
    """What a machine writes to its console from now on."""

    def __init__(self, rack: Rack, name: str) -> None:
        self.path = console_path(rack.directory, rack.spec(name))
        self.seen = self.path.stat().st_size

    async def first_tried(self) -> Device:
        """What the firmware starts from first, from the last call on."""
        deadline = time.monotonic() + 180
        while True:
            text = self.path.read_bytes()
            if match := TRIED.search(text, self.seen):
                self.seen = len(text)
                return MEANS[match[match.lastindex or 0]]
            assert time.monotonic() < deadline, text[self.seen :][-500:]
            await asyncio.sleep(0.05)


@pytest.fixture(params=["bios", "uefi", "words"])
async def machine(rack: Rack, request: pytest.FixtureRequest) -> str:
    Virsh(rack, request.param)
    return str(request.param)


def driver(rack: Rack, name: str) -> Power:
    return connect(Endpoint("libvirt", name, settings={"uri": uri(rack)}))


@pytest.mark.firmware
async def test_the_firmware_obeys_once_and_no_more(rack: Rack, machine: str) -> None:
    power, screen = driver(rack, machine), Screen(rack, machine)
    await power.boot_next(Device.DISK)
    assert await power.override() == Override(Device.DISK, Mode.UEFI if machine == "uefi" else Mode.BIOS, True)
    await power.on()
    assert await screen.first_tried() is Device.DISK
    assert await power.override() == Override()
    screen.seen = screen.path.stat().st_size
    virsh(rack, "reset", machine)  # as the guest does that reboots
    assert await screen.first_tried() is Device.PXE
    await power.off()


@pytest.mark.firmware
async def test_the_firmware_obeys_what_lasts_also_in_a_guests_reboot(rack: Rack) -> None:
    Virsh(rack, "bios")
    power, screen = driver(rack, "bios"), Screen(rack, "bios")
    await power.on()
    assert await screen.first_tried() is Device.PXE
    await power.boot_next(Device.DISK, once=False)
    screen.seen = screen.path.stat().st_size
    virsh(rack, "reset", "bios")
    assert await screen.first_tried() is Device.DISK
    await power.off()
    # What the boot before still wrote, going on to its next device, is not this one's.
    screen.seen = screen.path.stat().st_size
    await power.on()
    assert await screen.first_tried() is Device.DISK
    assert (await power.override()).device is Device.DISK
    await power.boot_next(Device.NONE)
    await power.off()
    # What the boot before still wrote, going on to its next device, is not this one's.
    screen.seen = screen.path.stat().st_size
    await power.on()
    assert await screen.first_tried() is Device.PXE
    await power.off()


@pytest.mark.firmware
async def test_a_secret_of_the_definition_survives(rack: Rack) -> None:
    """libvirt shows a VNC password only on request; a definition written back without it would have lost it."""
    redefine(rack, "bios")
    text = virsh(rack, "dumpxml", "--inactive", "bios")
    graphics = "<graphics type='vnc' port='-1' autoport='yes' passwd='geheim'/></devices>"
    path = rack.directory / "vnc.xml"
    path.write_text(text.replace("</devices>", graphics))
    virsh(rack, "define", str(path))
    await driver(rack, "bios").boot_next(Device.DISK)
    assert "passwd='geheim'" in virsh(rack, "dumpxml", "--inactive", "--security-info", "bios")
    redefine(rack, "bios")


@pytest.mark.firmware
async def test_who_the_machine_is(rack: Rack) -> None:
    spec = rack.spec("uefi")
    inventory = await driver(rack, "uefi").inventory()
    assert (inventory.vendor, inventory.model, inventory.serial) == (spec.vendor, spec.product, spec.serial)
    assert inventory.uuid == spec.uuid
    assert inventory.macs == (spec.mac,)


@pytest.mark.firmware
async def test_many_at_once(rack: Rack) -> None:
    """No more processes than there are places, and each gets its own answer."""
    names = [spec.name for spec in MACHINES]
    for name in names:
        Virsh(rack, name)
    answers = await asyncio.gather(*(driver(rack, names[place % 4]).inventory() for place in range(40)))
    assert [answer.serial for answer in answers] == [rack.spec(names[place % 4]).serial for place in range(40)]


# -- without a libvirt -------------------------------------------------------------------------------------------


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A `virsh` that comes before the real one; `script` says what it does."""
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    path = tmp_path / "virsh"
    path.touch(0o755)
    return path


def script(path: Path, text: str) -> None:
    path.write_text(f"#!/bin/sh\n{text}\n")


async def test_a_virsh_that_hangs_is_killed_with_its_children(stand_in: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pid = Path(f"{stand_in}.pid")
    script(stand_in, f"sleep 1000 &\necho $! > {pid}.new\nmv {pid}.new {pid}\nwait")
    asking = asyncio.create_task(LibvirtPower("guest", "qemu:///system")._virsh("domstate", "guest", seconds=600))
    deadline = time.monotonic() + 60
    while not is_there(pid):
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)
    # Now its time is over.
    loop = asyncio.get_running_loop()
    real = loop.time
    with monkeypatch.context() as patch:
        patch.setattr(loop, "time", lambda: real() + 600)
        with pytest.raises(BmcHung, match=r"virsh domstate guest did not end within 600 s"):
            await asking
    while is_alive(pid):
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)


def is_there(path: Path) -> bool:
    return path.exists()


def is_alive(pid_file: Path) -> bool:
    try:
        return Path("/proc", pid_file.read_text().strip(), "stat").read_text().split()[2] != "Z"
    except OSError:  # it ends whenever it likes, also between two calls
        return False


@pytest.mark.parametrize(
    ("words", "kind"),
    [
        ("error: failed to connect to the hypervisor\nerror: authentication failed: no way", BmcWrongPassword),
        ("error: this function is not supported by the connection driver: virDomainReset", BmcNotSupported),
    ],
)
def test_what_virsh_says_is_understood(stand_in: Path, words: str, kind: type[Exception]) -> None:
    script(stand_in, f"echo '{words}' >&2\nexit 1")
    with pytest.raises(kind):
        asyncio.run(LibvirtPower("guest", "qemu:///system").is_on())


async def test_no_virsh_at_all(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BmcNotSupported, match="install the package libvirt-clients"):
        await LibvirtPower("guest", "qemu:///system").is_on()


@pytest.mark.parametrize(
    ("endpoint", "sentence"),
    [
        (Endpoint("libvirt", ""), "'' is no name of a libvirt domain"),
        (Endpoint("libvirt", "5"), "'5' is no name of a libvirt domain: write its name, or its UUID"),
        (
            Endpoint("libvirt", "a", settings={"uri": "qemu+tcp://me:geheim@host/system"}),
            "takes no password from its URI",
        ),
    ],
)
def test_what_cannot_be_right_is_said_at_the_door(endpoint: Endpoint, sentence: str) -> None:
    with pytest.raises(InvalidValue, match=sentence) as caught:
        connect(endpoint)
    assert "geheim" not in str(caught.value)


def test_the_default_is_the_hosts_own_libvirt() -> None:
    power = connect(Endpoint("libvirt", "guest"))
    assert isinstance(power, LibvirtPower)
    assert power.uri == libvirt.DEFAULT_URI
