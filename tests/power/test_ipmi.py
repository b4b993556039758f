"""The IPMI driver before OpenIPMI's simulator and virtualbmc; ipmitool is the witness."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from metalbox.errors import BmcHung, BmcNotSupported, BmcUnreachable, BmcWrongPassword, InvalidValue
from metalbox.lab.machines import MachineSpec
from metalbox.lab.rack import Rack
from metalbox.lab.services import default_folder
from metalbox.power import Device, Endpoint, Mode, Override, Power, connect
from metalbox.power.ipmi import THREADS, Ipmi
from metalbox.power.ipmisession import Patience
from tests.descriptors import opened
from tests.power.contract import Contract, Peer
from tests.power.ipmi_peers import (
    GUID,
    ONCE,
    PASSWORD,
    PATIENT,
    QUICK,
    RAKP_1,
    USER,
    LostTime,
    Simulator,
    Sink,
    Wire,
    endpoint,
    free_port,
    ipmitool,
    is_in_session,
    payload_type,
    simulator,
)


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("metalbox.power.ipmi.Patience", lambda: PATIENT)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> LostTime:
    clock = LostTime()
    monkeypatch.setattr("metalbox.power.ipmisession.time", clock)
    return clock


class BmcPeer(Peer):
    """What the BMCs on loopback have in common."""

    refused = (Device.HTTP,)
    port: int

    def __init__(self) -> None:
        self.sink = Sink()

    def endpoint(self) -> Endpoint:
        return endpoint(self.port)

    def unreachable(self) -> Endpoint:
        return endpoint(free_port())

    def hanging(self) -> Endpoint:
        return endpoint(self.sink.port)


class SimulatedBmc(BmcPeer):
    """ipmi_sim before a QEMU."""

    devices = (Device.PXE, Device.CDROM, Device.BIOS, Device.DISK)
    knows_once = False

    def __init__(self, bmc: Simulator) -> None:
        super().__init__()
        self.bmc = bmc
        self.port = bmc.port

    def is_on(self) -> bool:
        return self.bmc.chassis("get", "power") == "power:1\n"

    def set_on(self, on: bool) -> None:
        self.bmc.chassis("set", "power", str(int(on)))
        if not on:
            (self.bmc.folder / "boot").unlink(missing_ok=True)

    def starts(self) -> int:
        path = self.bmc.folder / "starts"
        return len(path.read_text().splitlines()) if path.exists() else 0

    def first_device(self) -> Device | None:
        path = self.bmc.folder / "boot"
        words = {"pxe": Device.PXE, "default": Device.DISK, "cdrom": Device.CDROM, "bios": Device.BIOS}
        return words.get(path.read_text().strip()) if path.exists() else None


@pytest.fixture(scope="module")
def bmc(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Simulator]:
    with simulator(tmp_path_factory.mktemp("ipmi") / "sim") as running:
        yield running


@pytest.fixture
async def power(bmc: Simulator) -> AsyncIterator[Power]:
    bmc.chassis("set", "power", "0")
    driver = connect(endpoint(bmc.port))
    yield driver
    await driver.close()


class TestSimulator(Contract):
    """The contract, before OpenIPMI's simulator."""

    @pytest.fixture
    def peer(self, bmc: Simulator) -> Iterator[Peer]:
        peer = SimulatedBmc(bmc)
        yield peer
        peer.sink.close()


# -- ipmitool agrees -----------------------------------------------------------------------------------------------


async def test_ipmitool_sees_the_same_power(bmc: Simulator, power: Power) -> None:
    for on in (True, False):
        await (power.on() if on else power.off())
        assert bmc.ipmitool("power", "status") == f"Chassis Power is {'on' if on else 'off'}\n"
        assert await power.is_on() is on
        bmc.ipmitool("power", "off" if on else "on")
        assert await power.is_on() is not on


async def test_ipmitool_sees_the_same_boot_device(bmc: Simulator, power: Power) -> None:
    words = {Device.PXE: "Force PXE", Device.DISK: "Force Boot from default Hard-Drive"}
    words |= {Device.CDROM: "Force Boot from CD/DVD", Device.BIOS: "Force Boot into BIOS Setup"}
    for device, said in words.items():
        await power.boot_next(device)
        assert f"Boot Device Selector : {said}\n" in bmc.ipmitool("chassis", "bootparam", "get", "5")
    bmc.ipmitool("chassis", "bootdev", "pxe")
    # The simulator keeps the device and no flags: for how long and for which firmware it does not say.
    assert await power.override() == Override(Device.PXE, Mode.KEEP, once=False)


async def test_sensors_are_those_of_ipmitool(bmc: Simulator, power: Power) -> None:
    rows = [[cell.strip() for cell in line.split("|")] for line in bmc.ipmitool("sdr", "list").splitlines()]
    assert rows == [["Inlet Temp", "24 degrees C", "ok"], ["Fan 1", "4800 RPM", "ok"], ["12V", "12.06 Volts", "ok"]]
    found = [(one.name, one.kind, one.value, one.unit, one.health) for one in await power.sensors()]
    assert found == [
        ("Inlet Temp", "temperature", 24.0, "C", "ok"),
        ("Fan 1", "fan", 4800.0, "RPM", "ok"),
        ("12V", "voltage", 12.06, "V", "ok"),
    ]


async def test_the_event_log_is_that_of_ipmitool(bmc: Simulator, power: Power) -> None:
    rows = bmc.ipmitool("sel", "list").splitlines()
    entries = await power.event_log()
    assert len(rows) == len(entries) == 3
    assert "Upper Non-critical going high" in rows[0]
    assert [(one.text, one.severity, one.sensor) for one in entries] == [
        ("Inlet Temp: Upper non-critical", "warning", "Inlet Temp"),
        ("Sensor 32.8.0: Thermal trip", "critical", "Sensor 32.8.0"),
        ("record of type 0xc1: 01 02 03 04 05 06 07 08 09", "", ""),
    ]


async def test_the_inventory_is_that_of_ipmitool(bmc: Simulator, power: Power) -> None:
    told = await power.inventory()
    fru = bmc.ipmitool("fru", "print", "0")
    assert "Board Mfg             : MetalBox" in fru and "Board Serial          : SN01" in fru
    assert (told.vendor, told.model, told.serial) == ("MetalBox", "Board", "SN01")
    assert f"System GUID  : {GUID}" in bmc.ipmitool("mc", "guid").replace("   :", "  :")
    assert told.uuid == GUID
    assert f"Firmware Revision         : {told.firmware}\n" in bmc.ipmitool("mc", "info")
    assert told.bmc_mac is None  # ipmitool: 00:00:00:00:00:00


async def test_identify_counts_to_255(bmc: Simulator) -> None:
    power = Ipmi(endpoint(bmc.port), patience=ONCE)
    await power.identify(30)
    await power.identify(1000)
    await power.identify(0)
    await power.close()
    assert [bmc.calls(f"set identify {seconds} 0") for seconds in (30, 255, 0)] == [1, 1, 1]


# -- sessions ------------------------------------------------------------------------------------------------------


async def test_one_session_serves_many_verbs_and_is_given_back(bmc: Simulator) -> None:
    before = opened()
    with Wire(bmc.port, lambda data, _: (data, None)) as wire:
        driver = Ipmi(endpoint(wire.port), patience=ONCE)
        for _ in range(5):
            await driver.is_on()
        assert sum(payload_type(data) == RAKP_1 for data, _ in wire.seen) == 1
        said = len(wire.seen)
        await driver.close()
        # Close session, and its answer, which a driver that closes does not wait for longer than a second.
        deadline = time.monotonic() + 60
        while [from_bmc for data, from_bmc in wire.seen[said:] if is_in_session(data)] != [False, True]:
            assert time.monotonic() < deadline, wire.seen[said:]
            await asyncio.sleep(0.01)
    assert not opened() - before
    _no_io_thread()


def _no_io_thread() -> None:
    usual = sys.modules.get("pyghmi.ipmi.private.session")
    assert usual is None or (usual.iothread is None and not usual.iosockets)


async def test_a_hundred_bmcs_that_hang_delay_nobody(bmc: Simulator, power: Power) -> None:
    sink = Sink()
    account, slow = endpoint(1).credentials, Patience(greeting=15)
    sick = [Ipmi(Endpoint("ipmi", f"127.0.7.{one}", sink.port, account), patience=slow) for one in range(1, 101)]
    hanging = [asyncio.create_task(one.is_on()) for one in sick]
    for _ in range(10):
        await power.is_on()
        await asyncio.sleep(0.01)
    # Had it waited for one of them, that one had come to its end.
    assert not any(task.done() for task in hanging)
    for task in hanging:
        task.cancel()
    await asyncio.gather(*hanging, return_exceptions=True)
    sink.close()
    await _until_idle()


async def _until_idle() -> None:
    deadline = time.monotonic() + 60
    while THREADS.lost or any(thread.name.startswith("power ") for thread in threading.enumerate()):
        assert time.monotonic() < deadline, f"threads are left: {threading.enumerate()}"
        await asyncio.sleep(0.05)


async def test_a_caller_that_left_leaves_no_socket(bmc: Simulator) -> None:
    before = opened()
    held = threading.Event()
    with Wire(bmc.port, lambda data, _: (None if held.is_set() else data, None)) as wire:
        driver = Ipmi(endpoint(wire.port))
        await driver.is_on()
        held.set()
        task = asyncio.create_task(driver.is_on())
        await asyncio.sleep(0.1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        held.clear()
        await _until_idle()
        assert await driver.is_on() in (True, False)
        await driver.close()
    assert not opened() - before


async def test_a_command_without_answer_is_not_said_twice(bmc: Simulator, clock: LostTime) -> None:
    """A lost answer to "cycle" must not become a second cycle; reading may be repeated."""
    bmc.chassis("set", "power", "1")
    off, on = bmc.calls("set power 0"), bmc.calls("set power 1")

    def loses_the_answer_to_the_cycle(data: bytes, from_bmc: bool) -> tuple[bytes | None, None]:
        return (None if from_bmc and bmc.calls("set power 0") > off else data), None

    with Wire(bmc.port, loses_the_answer_to_the_cycle, clock) as wire:
        driver = Ipmi(endpoint(wire.port), patience=QUICK)
        with pytest.raises(BmcHung):
            await driver.cycle()
        await driver.close()
    # The simulator switches on again some seconds later: not into the next test.
    deadline = time.monotonic() + 60
    while bmc.calls("set power 1") == on:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.05)
    assert bmc.calls("set power 0") == off + 1


async def test_a_machine_without_credentials() -> None:
    with pytest.raises(BmcWrongPassword, match="no user and password"):
        await connect(Endpoint("ipmi", "192.0.2.1")).is_on()


async def test_what_is_too_long_for_ipmi_is_refused_before_a_byte_is_sent() -> None:
    sink = Sink()
    for user, password, said in (
        (USER, "x" * 21, "the password for 127.0.0.1 port .* has 21 bytes: IPMI takes at most 20"),
        (USER, "\u00e9" * 11, "has 22 bytes"),
        ("a-user-of-17-byte", PASSWORD, "the user for .* has 17 bytes: IPMI takes at most 16"),
        (USER, "x\0y", "contains a NUL"),
        (USER, "\ud800", "half of a character"),
    ):
        driver = connect(endpoint(sink.port, password, user))
        with pytest.raises(BmcWrongPassword, match=said):
            await driver.is_on()
        await driver.close()
    assert sink.received() == 0
    sink.close()


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"privilege": "root"}, "administrator or operator"),
        ({"channel": "lan"}, "a number from 0 to 15"),
        ({"channel": "16"}, "a number from 0 to 15"),
        ({"kg": "xyz"}, "hexadecimal"),
        ({"kg": "00" * 21}, "21 bytes"),
    ],
)
def test_settings_that_cannot_be_right(settings: dict[str, str], said: str) -> None:
    with pytest.raises(InvalidValue, match=said):
        connect(endpoint(623, **settings))


async def test_http_has_no_word_in_ipmi(power: Power) -> None:
    with pytest.raises(BmcNotSupported, match="IPMI has no word for starting from http"):
        await power.boot_next(Device.HTTP)


async def test_an_operator_is_enough(tmp_path: Path) -> None:
    account = '  user 3 true "oper" "oper-pass" operator 10 none md2 md5 straight\n'
    with simulator(tmp_path / "sim", users=account) as bmc:
        for settings in ({}, {"privilege": "operator"}):
            driver = connect(endpoint(bmc.port, "oper-pass", "oper", **settings))
            await driver.on()
            assert await driver.is_on()
            await driver.boot_next(Device.PXE)
            assert (await driver.override()).device is Device.PXE
            await driver.off()
            await driver.close()


# -- virtualbmc ----------------------------------------------------------------------------------------------------

SERVE = """
import sys
from virtualbmc.vbmc import VirtualBMC
port, domain, uri, user, password = sys.argv[1:]
VirtualBMC(user, password, int(port), "127.0.0.1", domain, uri).listen(timeout=1)
"""


def _virtualbmc_python() -> str:
    """A Python that has virtualbmc and libvirt's binding."""
    for python in (os.environ.get("METALBOX_VIRTUALBMC", ""), str(default_folder("bmc-venv") / "bin" / "python")):
        if python and shutil.which(python):
            done = subprocess.run([python, "-c", "import virtualbmc.vbmc, libvirt"], capture_output=True, check=False)
            if done.returncode == 0:
                return python
    pytest.skip("no virtualbmc: install it beside sushy-tools (tools/setup), or name a Python in METALBOX_VIRTUALBMC")


# As long as IPMI allows; the simulator keeps 16 bytes.
LONG_PASSWORD = "Zk3-virtualbmc-20-by"


class VirtualBmc(BmcPeer):
    """virtualbmc before a libvirt domain of a rack."""

    devices = (Device.PXE, Device.DISK)
    knows_once = False

    def __init__(self, rack: Rack, port: int) -> None:
        super().__init__()
        self.rack = rack
        self.port = port
        self.lacks = frozenset({"identify", "sensors", "event_log"})

    def endpoint(self) -> Endpoint:
        return endpoint(self.port, LONG_PASSWORD)

    def is_on(self) -> bool:
        return self.rack.power("vbmc1") == "on"

    def set_on(self, on: bool) -> None:
        if on != self.is_on():
            (self.rack.power_on if on else self.rack.power_off)("vbmc1")

    def starts(self) -> str:
        path = self.rack.hypervisor.home / "run" / "qemu" / "vbmc1.pid"
        return path.read_text() if path.exists() else ""

    def first_device(self) -> Device | None:
        argv = ["virsh", "-q", "-c", self.rack.hypervisor.uri, "dumpxml", "--inactive", "vbmc1"]
        text = subprocess.run(argv, capture_output=True, text=True, timeout=30, check=True).stdout
        words = {"<boot dev='network'/>": Device.PXE, "<boot dev='hd'/>": Device.DISK}
        places = {text.index(word): device for word, device in words.items() if word in text}
        return places[min(places)] if places else None


@pytest.fixture(scope="module")
def virtualbmc(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Rack, int]]:
    if os.geteuid():
        pytest.skip("needs root for libvirt and its namespace")
    python = _virtualbmc_python()
    folder = tmp_path_factory.mktemp("vbmc")
    rack = Rack(folder / "rack", machines=[MachineSpec(name="vbmc1", memory_mib=64)], service="none", owned=True)
    rack.up()
    port = free_port()
    argv = [python, "-c", SERVE, str(port), "vbmc1", rack.hypervisor.uri, USER, LONG_PASSWORD]
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(argv, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 90
        while "Chassis Power" not in _status(port):
            assert server.poll() is None and time.monotonic() < deadline, (folder / "log").read_text()
            time.sleep(0.1)
        yield rack, port
    finally:
        server.terminate()
        server.wait(timeout=60)
        rack.down()


def _status(port: int) -> str:
    try:
        return ipmitool(port, "power", "status", password=LONG_PASSWORD)
    except subprocess.CalledProcessError:
        return ""


@pytest.mark.root
class TestVirtualBmc(Contract):
    """The contract, before virtualbmc, which no pyghmi client can log in to as it is."""

    @pytest.fixture
    def peer(self, virtualbmc: tuple[Rack, int]) -> Iterator[Peer]:
        peer = VirtualBmc(*virtualbmc)
        yield peer
        peer.sink.close()

    async def test_what_it_can_works_and_the_rest_is_said(self, peer: Peer, power: Power) -> None:
        """The driver has the verbs; this BMC does not, and that is said with its completion code."""
        for verb in (power.identify, power.sensors, power.event_log):
            with pytest.raises(BmcNotSupported) as caught:
                await verb()
            assert "0xc1" in caught.value.evidence or "describes no sensors" in str(caught.value)
        assert (await power.inventory()).firmware == "1.00"

    async def test_boot_next_none_clears(self, peer: Peer, power: Power) -> None:
        """virtualbmc answers yes to clearing and does nothing: reading back shows it."""
        await power.boot_next(Device.DISK)
        await power.boot_next(Device.NONE)
        assert (await power.override()).device is Device.DISK
        assert peer.first_device() is Device.DISK

    async def test_ipmitool_agrees(self, peer: Peer, power: Power) -> None:
        assert isinstance(peer, VirtualBmc)
        await power.on()
        assert "is on" in ipmitool(peer.port, "power", "status", password=LONG_PASSWORD)
        await power.off()
        assert "is off" in ipmitool(peer.port, "power", "status", password=LONG_PASSWORD)
        await power.boot_next(Device.PXE)
        told = ipmitool(peer.port, "chassis", "bootparam", "get", "5", password=LONG_PASSWORD)
        assert "Boot Device Selector : Force PXE" in told

    async def test_a_user_it_does_not_know_gets_silence(self, peer: Peer, clock: LostTime) -> None:
        assert isinstance(peer, VirtualBmc)

        def rule(data: bytes, from_bmc: bool) -> tuple[bytes, None]:
            clock.is_lost = payload_type(data) == RAKP_1
            return data, None

        with Wire(peer.port, rule) as wire:
            driver = Ipmi(endpoint(wire.port, PASSWORD, "nobody"), patience=QUICK)
            with pytest.raises(BmcHung, match="some BMCs do so to a user they do not know"):
                await driver.is_on()
            await driver.close()


async def test_nothing_at_the_address() -> None:
    driver = Ipmi(endpoint(free_port()))
    with pytest.raises(BmcUnreachable, match="nothing listens for IPMI at 127"):
        await driver.is_on()
    for address in ("bad..name", "x" * 64):
        with pytest.raises(BmcUnreachable, match="no address and no known name"):
            await Ipmi(Endpoint("ipmi", address, credentials=endpoint(1).credentials)).is_on()
