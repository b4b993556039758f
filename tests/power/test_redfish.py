"""The Redfish driver: what it says to a service, and the contract of all drivers before sushy-tools and libvirt."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from metalbox.errors import (
    BmcGarbage,
    BmcHung,
    BmcNotSupported,
    BmcRefused,
    BmcSessionsFull,
    InvalidValue,
)
from metalbox.lab import bmcs, record, requirements
from metalbox.lab.machines import BmcKind, Bus, Disk, Firmware, MachineSpec
from metalbox.lab.rack import Rack
from metalbox.power import (
    BmcInventory,
    Credentials,
    Device,
    Endpoint,
    LogEntry,
    Mode,
    Override,
    Power,
    Sensor,
    connect,
)
from metalbox.power.redfish import THREADS, Redfish
from tests.power import ipmi_peers
from tests.power.contract import Contract, Peer
from tests.power.redfish_service import PASSWORD, USER, Answer, Service, error, make_certificate, plain_tree, running
from tests.power.test_libvirt import Virsh, keep_definition, uri, virsh

SYSTEM = "/redfish/v1/Systems/1"
RESET = f"{SYSTEM}/Actions/ComputerSystem.Reset"


@pytest.fixture
def service() -> Iterator[Service]:
    with running(Service()) as service:
        yield service


@pytest.fixture
async def power(service: Service) -> AsyncIterator[Redfish]:
    power = Redfish(service.endpoint(), request_seconds=60)
    yield power
    await power.close()


def vendor(service: Service, manufacturer: str, model: str = "", bmc: str = "", firmware: str = "") -> None:
    service.system.update(Manufacturer=manufacturer, Model=model)
    service.tree["/redfish/v1/Managers/1"].update(Model=bmc, FirmwareVersion=firmware)


def offer(service: Service, *kinds: str) -> None:
    service.system["Actions"]["#ComputerSystem.Reset"]["ResetType@Redfish.AllowableValues"] = list(kinds)


def resets(service: Service) -> list[str]:
    return [body["ResetType"] for _, body in service.asked("POST", "Reset$")]


def patches(service: Service) -> list[tuple[str, Any]]:
    return service.asked("PATCH")


# -- the console ------------------------------------------------------------------------------------------------------


async def test_a_console_by_ipmi_where_the_service_offers_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("metalbox.power.ipmi.Patience", lambda: ipmi_peers.PATIENT)
    heard, over = asyncio.Event(), asyncio.Event()
    lines: list[asyncio.StreamWriter] = []

    async def machine(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        lines.append(writer)
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError), contextlib.closing(writer):
            assert await reader.readexactly(3) == b"key"
            heard.set()
            await reader.read()
        over.set()

    server = await asyncio.start_server(machine, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    line = f'  sol "tcp:127.0.0.1:{port}" 115200 history=4000\n'
    with ipmi_peers.simulator(tmp_path / "bmc", users=line) as bmc, running(Service(open_to_all=True)) as service:
        service.system["SerialConsole"] = {"IPMI": {"ServiceEnabled": True, "Port": bmc.port}}
        power = Redfish(service.endpoint(ipmi_peers.USER, ipmi_peers.PASSWORD, auth="basic"), request_seconds=60)
        console = await power.console()
        lines[0].write(b"login: ")
        assert await asyncio.wait_for(console.read(), 60)
        await console.write(b"key")
        await asyncio.wait_for(heard.wait(), 60)
        await console.close()
        await power.close()
    server.close()
    await asyncio.wait_for(over.wait(), 60)
    await asyncio.sleep(0)  # for `machine` to return


async def test_a_console_that_is_offered_by_other_means_is_told(service: Service, power: Redfish) -> None:
    with pytest.raises(BmcNotSupported, match="offers no serial console"):
        await power.console()
    service.system["SerialConsole"] = {"SSH": {"ServiceEnabled": True, "Port": 2200}}
    with pytest.raises(BmcNotSupported, match="ssh -p 2200"):
        await power.console()


# -- one session -------------------------------------------------------------------------------------------------------


async def test_one_session_for_all_verbs_and_none_after_close(service: Service, power: Redfish) -> None:
    await power.is_on()
    await power.is_on()
    await power.override()
    assert len(service.asked("POST", "Sessions$")) == 1
    assert len(service.sessions) == 1
    await power.close()
    assert service.sessions == {}
    # Thrown away or not, it can be used again.
    assert await power.is_on() is False
    assert len(service.sessions) == 1


async def test_a_known_driver_asks_once_for_the_power(service: Service, power: Redfish) -> None:
    await power.is_on()
    before = len(service.requests)
    await power.is_on()
    assert len(service.requests) == before + 1


def test_sushy_is_not_loaded_before_a_verb_needs_it() -> None:
    program = "import sys, metalbox.power.redfish; sys.exit('sushy' in sys.modules or 'requests' in sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


@pytest.mark.parametrize(
    ("endpoint", "words"),
    [
        (Endpoint("redfish", "192.0.2.1", settings={"scheme": "ftp"}), "scheme cannot be 'ftp': write https or http"),
        (Endpoint("redfish", "192.0.2.1", settings={"auth": "digest"}), "auth cannot be 'digest'"),
        (Endpoint("redfish", "192.0.2.1", settings={"verify": "/nowhere/ca.pem"}), "which is no file"),
        (Endpoint("redfish", "192.0.2.1", settings={"verify": "sha256:12"}), "no SHA-256 fingerprint"),
        (Endpoint("redfish", "user:x@bmc"), "not the address of a BMC"),
        (Endpoint("redfish", ""), "not the address of a BMC"),
        (Endpoint("redfish", "192.0.2.1", settings={"sistem": "1"}), "no setting sistem"),
    ],
)
def test_endpoints_that_cannot_be_right(endpoint: Endpoint, words: str) -> None:
    with pytest.raises(InvalidValue, match=words):
        connect(endpoint)


def test_addresses() -> None:
    assert Redfish(Endpoint("redfish", "bmc1.example")).url == "https://bmc1.example"
    assert Redfish(Endpoint("redfish", "2001:db8::1", 8443)).url == "https://[2001:db8::1]:8443"


# -- power -------------------------------------------------------------------------------------------------------------


async def test_on_and_off(service: Service, power: Redfish) -> None:
    await power.on()
    await power.on()
    await power.off(graceful=True)
    await power.off()
    assert resets(service) == ["On", "GracefulShutdown"]
    service.system["PowerState"] = "On"
    await power.off()
    assert resets(service)[-1] == "ForceOff"


@pytest.mark.parametrize(
    ("offered", "said"),
    [
        (("On", "ForceOff", "ForceRestart", "PowerCycle"), ["PowerCycle"]),
        (("On", "ForceOff", "ForceRestart"), ["ForceRestart"]),
        (("On", "ForceOff"), ["ForceOff", "On"]),
        (("ForceOn", "ForceOff"), ["ForceOff", "ForceOn"]),
    ],
)
async def test_cycle_takes_what_is_offered(
    service: Service, power: Redfish, offered: tuple[str, ...], said: list[str]
) -> None:
    offer(service, *offered)
    service.system["PowerState"] = "On"
    await power.cycle()
    assert resets(service) == said


async def test_cycle_of_a_machine_that_is_off(service: Service, power: Redfish) -> None:
    await power.cycle()
    assert resets(service) == ["On"]


async def test_reset_types_in_an_action_info(service: Service, power: Redfish) -> None:
    action = service.system["Actions"]["#ComputerSystem.Reset"]
    del action["ResetType@Redfish.AllowableValues"]
    action["@Redfish.ActionInfo"] = f"{SYSTEM}/ResetActionInfo"
    allowed = [{"Name": "ResetType", "AllowableValues": ["On", "ForceOff", "PowerCycle"]}]
    service.tree[f"{SYSTEM}/ResetActionInfo"] = {"@odata.id": f"{SYSTEM}/ResetActionInfo", "Parameters": allowed}
    service.system["PowerState"] = "On"
    await power.cycle()
    assert resets(service) == ["PowerCycle"]


async def test_what_is_not_offered_is_not_sent(service: Service, power: Redfish) -> None:
    offer(service, "On", "ForceOff")
    service.system["PowerState"] = "On"
    with pytest.raises(BmcNotSupported, match="cannot ask the operating system to shut down: it offers ForceOff, On"):
        await power.off(graceful=True)
    assert resets(service) == []


async def test_a_bmc_that_lies_about_power_is_seen_through_by_reading_back(service: Service, power: Redfish) -> None:
    service.lies_about_power = True
    await power.on()
    assert await power.is_on() is False


async def test_no_power_state_is_unknown(service: Service, power: Redfish) -> None:
    service.system["PowerState"] = None
    assert await power.state() == "unknown"


# -- several systems ---------------------------------------------------------------------------------------------------


def two_systems() -> dict[str, dict[str, Any]]:
    tree = plain_tree()
    other = json.loads(json.dumps(tree[SYSTEM]).replace("Systems/1", "Systems/B"))
    other.update(Id="B", SerialNumber="SN2", UUID="11111111-2222-3333-4444-555555555555", PowerState="On")
    tree["/redfish/v1/Systems/B"] = other
    tree["/redfish/v1/Systems"]["Members"].append({"@odata.id": "/redfish/v1/Systems/B"})
    return tree


@pytest.mark.parametrize("named", ["/redfish/v1/Systems/B", "B", "SN2", "sn2", "11111111-2222-3333-4444-555555555555"])
async def test_the_system_that_is_named(named: str) -> None:
    with running(Service(two_systems())) as service:
        power = Redfish(service.endpoint(system=named))
        assert await power.is_on() is True
        assert (await power.inventory()).serial == "SN2"
        await power.close()


async def test_a_rebooted_bmc_has_forgotten_the_session(service: Service, power: Redfish) -> None:
    await power.is_on()
    service.faults["GET .*"] = Answer(raw=b"booting")
    with pytest.raises(BmcGarbage):
        await power.is_on()
    service.faults.clear()
    service.sessions.clear()
    assert await power.is_on() is False
    assert len(service.sessions) == 1


async def test_several_systems_and_none_named() -> None:
    with running(Service(two_systems())) as service:
        power = Redfish(service.endpoint())
        with pytest.raises(BmcRefused, match="stands for 2 machines: set `system` to a path, serial or UUID") as caught:
            await power.is_on()
        assert caught.value.evidence == f"{SYSTEM}, /redfish/v1/Systems/B"
        await power.close()
        assert service.sessions == {}


@pytest.mark.parametrize("named", ["SN9", "/redfish/v1/Systems/9"])
async def test_a_system_that_is_not_there(named: str) -> None:
    with running(Service(two_systems())) as service:
        power = Redfish(service.endpoint(system=named))
        with pytest.raises(BmcRefused, match="has no system"):
            await power.is_on()
        await power.close()


# -- boot --------------------------------------------------------------------------------------------------------------


async def test_boot_next_and_read_back(service: Service, power: Redfish) -> None:
    assert await power.override() == Override(Device.NONE, Mode.UEFI)
    await power.boot_next(Device.PXE)
    assert await power.override() == Override(Device.PXE, Mode.UEFI, once=True)
    await power.boot_next(Device.DISK, mode=Mode.BIOS, once=False)
    assert await power.override() == Override(Device.DISK, Mode.BIOS, once=False)
    await power.boot_next(Device.NONE)
    assert (await power.override()).device is Device.NONE
    with pytest.raises(BmcNotSupported, match="cannot set http as boot device: it offers None, Pxe, Hdd, Cd"):
        await power.boot_next(Device.HTTP)


async def test_a_lost_override_is_seen_by_reading_back(service: Service, power: Redfish) -> None:
    service.loses_override = True
    await power.boot_next(Device.PXE)
    assert (await power.override()).device is Device.NONE


async def test_hpe_clears_with_a_target(service: Service, power: Redfish) -> None:
    vendor(service, "HPE", "ProLiant DL380 Gen11", "iLO 6", "iLO 6 v1.66")
    await power.boot_next(Device.PXE, mode=Mode.BIOS)
    await power.boot_next(Device.NONE)
    assert [body["Boot"] for _, body in patches(service)] == [
        {"BootSourceOverrideEnabled": "Once", "BootSourceOverrideTarget": "Pxe"},
        {"BootSourceOverrideEnabled": "Disabled", "BootSourceOverrideTarget": "Pxe"},
    ]
    assert (await power.override()).device is Device.NONE


async def test_supermicro_hears_the_mode_again(service: Service, power: Redfish) -> None:
    vendor(service, "Supermicro", "SYS-510T", "ASPEED", "01.13.04")
    await power.boot_next(Device.PXE)
    assert patches(service)[-1][1]["Boot"]["BootSourceOverrideMode"] == "UEFI"


def add_future(service: Service, name: str) -> str:
    path = f"{SYSTEM}{name}"
    boot = dict(service.system["Boot"])
    service.tree[path] = {"@odata.id": path, "Id": "Future", "Boot": boot}
    return path


async def test_ami_takes_boot_in_its_future_state_with_an_etag(service: Service, power: Redfish) -> None:
    vendor(service, "ASRockRack", "WRX80", "AMI Redfish Server", "1.04.00")
    path = add_future(service, "/SD")
    service.wants_etag = True
    await power.boot_next(Device.PXE)
    assert [target for target, _ in patches(service)] == [path]
    assert (await power.override()).device is Device.PXE


async def test_a_stranger_that_says_where_it_wants_boot(service: Service, power: Redfish) -> None:
    """No row of the table knows this vendor: the service's own words are enough."""
    path = add_future(service, "/SD")
    moved = "Support of this Operation for Boot Properties is moved to FutureState URI"
    service.faults[f"PATCH {SYSTEM}"] = error(400, "Ami.1.0.OperationSupportedInFutureStateURI", moved)
    await power.boot_next(Device.PXE)
    assert [target for target, _ in patches(service)] == [SYSTEM, path]


async def test_idrac_10_takes_boot_in_its_settings(service: Service, power: Redfish) -> None:
    vendor(service, "Dell Inc.", "PowerEdge R470", "17G Monolithic", "1.20.50.52")
    path = add_future(service, "/Settings")
    service.system["@Redfish.Settings"] = {"SettingsObject": {"@odata.id": path}}
    await power.boot_next(Device.CDROM)
    assert [target for target, _ in patches(service)] == [path]
    assert (await power.override()).device is Device.CDROM


async def test_the_rows_of_the_table_are_told(service: Service, power: Redfish) -> None:
    vendor(service, "Dell Inc.", "PowerEdge R750", "15G Monolithic", "6.00.30.00")
    assert [row.name for row in await power.quirks()] == ["dell-service-tag", "dell-light", "idrac9-override"]


# -- light, sensors, log, inventory ------------------------------------------------------------------------------------


async def test_the_light(service: Service, power: Redfish) -> None:
    await power.identify()
    await power.identify(0)
    vendor(service, "Dell Inc.")
    again = Redfish(service.endpoint())
    await again.identify(0)
    await again.close()
    service.system["LocationIndicatorActive"] = False
    await power.identify(5)
    assert [body for _, body in patches(service)] == [
        {"IndicatorLED": "Blinking"},
        {"IndicatorLED": "Off"},
        {"IndicatorLED": "Lit"},
        {"LocationIndicatorActive": True},
    ]


async def test_no_light_no_log_no_sensors(service: Service, power: Redfish) -> None:
    del service.system["IndicatorLED"]
    with pytest.raises(BmcNotSupported, match="no light"):
        await power.identify()
    with pytest.raises(BmcNotSupported, match="no event log"):
        await power.event_log()
    assert await power.sensors() == []


def collection(service: Service, path: str, *members: dict[str, Any], **more: Any) -> dict[str, str]:
    for number, member in enumerate(members):
        member.setdefault("@odata.id", f"{path}/{number}")
        service.tree[member["@odata.id"]] = {"Id": str(number), **member}
    references = [{"@odata.id": member["@odata.id"]} for member in members]
    service.tree[path] = {"@odata.id": path, "Members": references, **more}
    return {"@odata.id": path}


async def test_sensors_of_a_service_without_thermal(service: Service, power: Redfish) -> None:
    chassis = "/redfish/v1/Chassis/1"
    readings = collection(service, f"{chassis}/Sensors", {"Name": "Inlet", "Reading": 21, "ReadingUnits": "Cel"})
    service.tree[chassis] = {"@odata.id": chassis, "Id": "1", "Sensors": readings}
    service.system["Links"]["Chassis"] = [{"@odata.id": chassis}]
    assert await power.sensors() == [Sensor("Inlet", "temperature", 21.0, "C")]


async def test_a_log_of_references_over_two_pages(service: Service, power: Redfish) -> None:
    entries = f"{SYSTEM}/LogServices/Sel/Entries"
    collection(service, f"{entries}2", {"Message": "old", "Created": "2025-01-01T00:00:10Z"})
    first = {"Message": "new", "Created": "2025-01-01T00:00:20Z"}
    listed = collection(service, entries, first, **{"Members@odata.nextLink": f"{entries}2"})
    sel = {"@odata.id": f"{SYSTEM}/LogServices/Sel", "Entries": listed}
    audit = {"@odata.id": f"{SYSTEM}/LogServices/Audit", "Entries": {"@odata.id": "/nowhere"}}
    service.system["LogServices"] = collection(service, f"{SYSTEM}/LogServices", audit, sel)
    assert await power.event_log() == [
        LogEntry("0", "old", 1735689610.0),
        LogEntry("0", "new", 1735689620.0),
    ]


async def test_inventory(service: Service, power: Redfish) -> None:
    adapter = "/redfish/v1/Chassis/1/NetworkAdapters/1"
    functions = collection(service, f"{adapter}/Functions", {"Ethernet": {"MACAddress": "3C:EC:EF:20:30:01"}})
    service.tree[adapter] = {"@odata.id": adapter, "Id": "1", "NetworkDeviceFunctions": functions}
    wire = {"Links": {"NetworkAdapter": {"@odata.id": adapter}}}
    service.system["NetworkInterfaces"] = collection(service, f"{SYSTEM}/NetworkInterfaces", wire)
    manager = service.tree["/redfish/v1/Managers/1"]
    manager["EthernetInterfaces"] = collection(
        service,
        "/redfish/v1/Managers/1/EthernetInterfaces",
        {"MACAddress": "7C:A6:2A:40:C3:E5", "InterfaceEnabled": False},
        {"MACAddress": "0A:CA:FE:F0:0D:04", "Links": {"HostInterface": {"@odata.id": "/x"}}},
        {"MACAddress": "7C:A6:2A:40:C3:E4", "InterfaceEnabled": True},
    )
    inventory = await power.inventory()
    assert inventory == BmcInventory(
        vendor="Contoso",
        model="3500",
        serial="SN1",
        uuid="38947555-7742-3448-3784-823347823834",
        macs=inventory.macs,
        firmware="1.0",
        bmc_mac=inventory.bmc_mac,
        bios="P79",
    )
    assert inventory.macs == ("3c:ec:ef:20:30:01",)
    assert inventory.bmc_mac == "7c:a6:2a:40:c3:e4"


async def test_a_bmc_that_stumbles_over_a_part_still_tells_the_rest(service: Service, power: Redfish) -> None:
    service.system["EthernetInterfaces"] = {"@odata.id": f"{SYSTEM}/EthernetInterfaces"}
    service.faults[f"GET {SYSTEM}/EthernetInterfaces"] = Answer(500)
    assert (await power.inventory()).serial == "SN1"


# -- what goes wrong ---------------------------------------------------------------------------------------------------


async def test_a_hanging_bmc_delays_no_other(service: Service) -> None:
    with running(Service()) as sick:
        sick.faults["GET .*"] = Answer(hang=600)
        hung = [Redfish(sick.endpoint(), request_seconds=50), Redfish(sick.endpoint(), request_seconds=50)]
        sound = Redfish(service.endpoint())
        await sound.is_on()
        tasks = [asyncio.create_task(power.is_on()) for power in hung]
        await asyncio.sleep(0.05)
        await sound.is_on()
        assert not any(task.done() for task in tasks)
        sick.stopped.set()
        for result in await asyncio.gather(*tasks, return_exceptions=True):
            assert isinstance(result, BmcHung)
        await sound.close()


async def test_a_caller_that_gave_up_leaves_no_session_behind(service: Service) -> None:
    service.faults[f"GET {SYSTEM}"] = Answer(hang=600)
    power = Redfish(service.endpoint(), request_seconds=50)
    asking = asyncio.create_task(power.is_on())
    deadline = time.monotonic() + 60
    while not service.sessions:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    assert len(service.sessions) == 1
    await power.close()
    service.stopped.set()
    while service.sessions or THREADS.lost:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)


async def test_a_full_session_table_is_named(service: Service, power: Redfish) -> None:
    service.max_sessions = 0
    with pytest.raises(BmcSessionsFull):
        await power.is_on()


# -- the contract, before sushy-tools' emulator and libvirt ------------------------------------------------------------


@dataclass
class Emulator:
    """sushy-tools as it comes: every machine of the rack behind one TLS service with one password."""

    rack: Rack
    port: int
    folder: Path
    silent: socket.socket

    def curl(self, path: str) -> dict[str, Any]:
        """What another client is told."""
        url = f"https://127.0.0.1:{self.port}{path}"
        argv = ["curl", "-sS", "--fail", "-k", "-m", "20", "-u", f"{USER}:{PASSWORD}", url]
        answer = subprocess.run(argv, capture_output=True, text=True, timeout=30, check=True).stdout
        document: dict[str, Any] = json.loads(answer)
        return document


MACHINES = (
    MachineSpec(name="bios", disks=(Disk("D1", Bus.VIRTIO),)),
    MachineSpec(name="uefi", firmware=Firmware.UEFI_PXE, disks=(Disk("D2", Bus.SATA),)),
)


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port: int = taken.getsockname()[1]
        return port


def start_emulator(rack: Rack, folder: Path, port: int) -> subprocess.Popen[bytes]:
    certificate = make_certificate(folder)
    program = "import bcrypt, sys; print(bcrypt.hashpw(sys.argv[1].encode(), bcrypt.gensalt(4)).decode())"
    argv = [str(bmcs.python()), "-c", program, PASSWORD]
    hashed = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=True).stdout.strip()
    (folder / "htpasswd").write_text(f"{USER}:{hashed}\n")
    settings = {
        "LISTEN_IP": "127.0.0.1",
        "LISTEN_PORT": port,
        "SSL_CERT": str(certificate.with_suffix(".crt")),
        "SSL_KEY": str(certificate.with_suffix(".key")),
        "AUTH_FILE": str(folder / "htpasswd"),
        "LIBVIRT_URI": uri(rack),
        "STATE_DIR": str(folder),
        "OS_CLOUD": None,
    }
    config = folder / "emulator.conf"
    config.write_text("".join(f"SUSHY_EMULATOR_{name} = {value!r}\n" for name, value in settings.items()))
    argv = [str(bmcs.python()), "-m", "sushy_tools.emulator.main", "--config", str(config)]
    with (folder / "emulator.log").open("wb") as log:
        return subprocess.Popen(argv, stdout=log, stderr=log, cwd=folder)


@pytest.fixture(scope="module")
def emulator() -> Iterator[Emulator]:
    if reason := requirements.reason((requirements.ALWAYS, requirements.MACHINES)) or bmcs.missing(BmcKind.REDFISH):
        pytest.skip(reason)
    folder = Path(tempfile.mkdtemp(prefix="mbr-"))
    rack = Rack(folder / "lab", mode="off", service="none", machines=MACHINES, owned=True)
    try:
        rack.up()
        for spec in rack.machines:
            keep_definition(rack, spec.name)
        with socket.create_server(("127.0.0.1", 0)) as silent:
            emulator = Emulator(rack, free_port(), folder, silent)
            process = start_emulator(rack, folder, emulator.port)
            try:
                rack.wait_until(lambda: _answers(emulator), 60, "the emulator to answer")
                yield emulator
            finally:
                process.terminate()
                process.wait(60)
    finally:
        for spec in rack.machines:
            if rack.power(spec.name) == "on":
                rack.power_off(spec.name)
        rack.down()
        if rack.directory.exists():
            record.remove(rack.directory)
        shutil.rmtree(folder)


def _answers(emulator: Emulator) -> bool:
    try:
        return bool(emulator.curl("/redfish/v1/Systems"))
    except subprocess.CalledProcessError:
        return False


class Sushy(Virsh):
    """The truth by virsh; the BMC in between is sushy-tools."""

    # The emulator lists UefiHttp for UEFI machines and sets PXE instead; it has no setup and no medium is inserted.
    refused: tuple[Device, ...] = (Device.BIOS,)
    knows_once = False

    def __init__(self, emulator: Emulator, name: str) -> None:
        super().__init__(emulator.rack, name)
        self.emulator = emulator
        self.uuid = virsh(emulator.rack, "domuuid", name)

    def endpoint(self) -> Endpoint:
        account = Credentials(USER, PASSWORD)
        return Endpoint("redfish", "127.0.0.1", self.emulator.port, account, {"system": self.uuid})

    def unknown_machine(self) -> Endpoint:
        return replace(self.endpoint(), settings={"system": "/redfish/v1/Systems/nowhere"})

    def unreachable(self) -> Endpoint:
        return replace(self.endpoint(), port=1)

    def hanging(self) -> Endpoint:
        """A port where connections are made and nothing is said: not even TLS."""
        return replace(self.endpoint(), port=self.emulator.silent.getsockname()[1])


@pytest.mark.root
class TestSushyTools(Contract):
    @pytest.fixture(params=["bios", "uefi"])
    def peer(self, request: pytest.FixtureRequest, emulator: Emulator) -> Sushy:
        return Sushy(emulator, request.param)

    async def test_boot_next_none_clears(self, peer: Peer, power: Power) -> None:
        """The emulator cannot, and metalbox knows and says so instead of believing its 204."""
        await power.boot_next(Device.DISK)
        with pytest.raises(BmcNotSupported, match="cannot take a boot override back"):
            await power.boot_next(Device.NONE)
        assert peer.first_device() is Device.DISK

    async def test_what_it_can_works_and_the_rest_is_said(self, peer: Peer, power: Power) -> None:
        """The emulator has a light and sensors and no log: that is known only when it is asked."""
        await power.identify(1)
        await power.identify(0)
        assert {sensor.kind for sensor in await power.sensors()} == {"temperature", "fan"}
        with pytest.raises(BmcNotSupported, match="no event log"):
            await power.event_log()

    async def test_curl_agrees(self, peer: Sushy, power: Power) -> None:
        path = f"/redfish/v1/Systems/{peer.uuid}"
        await power.boot_next(Device.PXE)
        await power.on()
        seen = peer.emulator.curl(path)
        assert seen["PowerState"] == "On"
        assert await power.is_on() is True
        assert seen["Boot"]["BootSourceOverrideTarget"] == "Pxe"
        assert (await power.override()).device is Device.PXE
        await power.off()
        assert peer.emulator.curl(path)["PowerState"] == "Off"

    async def test_inventory_is_the_machines(self, peer: Sushy, power: Power) -> None:
        spec = peer.emulator.rack.spec(peer.name)
        inventory = await power.inventory()
        assert inventory.uuid == peer.uuid
        assert inventory.macs == tuple(nic.mac for nic in spec.nics)

    async def test_several_machines_behind_one_service(self, peer: Sushy) -> None:
        power = Redfish(replace(peer.endpoint(), settings={}))
        with pytest.raises(BmcRefused, match="stands for 2 machines"):
            await power.is_on()
        await power.close()

    async def test_the_certificate(self, peer: Sushy) -> None:
        certificate = peer.emulator.folder / "bmc.crt"
        power = Redfish(replace(peer.endpoint(), settings={"system": peer.uuid, "verify": str(certificate)}))
        assert await power.is_on() is False
        await power.close()
