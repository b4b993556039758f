"""Each Redfish tree of the corpus, served read-only, as the driver reads it; what it cannot find is explained."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from metalbox.errors import BmcNotSupported, BmcRefused
from metalbox.power import BmcInventory, Device, Mode, Override
from metalbox.power import redfish_values as values
from metalbox.power.quirks import Behaviour, SendMode, behaviour_of
from metalbox.power.redfish import Redfish
from metalbox.power.redfish_session import Session
from tests.corpus import corpus
from tests.power.redfish_service import SESSIONS, Answer, Service, read_tree, running

WRAPPER, LENOVO, SAMPLES = "bmclib-redfishwrapper", "bmclib-lenovo/v1", "sushy-json_samples"
# GracefulRestart and the like are offered by all and never used.
EVERY_RESET = {"On", "ForceOff", "GracefulShutdown", "GracefulRestart", "ForceRestart", "Nmi"}


@dataclass(frozen=True)
class Tree:
    """One machine of the corpus, by `sources` (a later file wins over an earlier one with the same path)."""

    name: str
    sources: tuple[str, ...]
    inventory: BmcInventory
    override: Override
    devices: set[Device]  # that can be booted by an override
    resets: set[str]
    cycle: str
    is_on: bool = True
    sensors: int = 0
    log: int | None = None  # entries; None: it has no log
    behaviour: Behaviour = field(default_factory=Behaviour)
    # Why what is missing is missing, for every "" and None above.
    absent: dict[str, str] = field(default_factory=dict)


def inventory(
    vendor: str, model: str, serial: str, uuid: str, macs: str, firmware: str, bmc: str, bios: str
) -> BmcInventory:
    found = tuple(address for text in macs.split() if (address := values.first_mac([text])))
    return BmcInventory(vendor, model, serial, uuid, found, firmware, values.first_mac([bmc]), bios)


PXE_DISK_CD_BIOS = {Device.PXE, Device.DISK, Device.CDROM, Device.BIOS}
SUPERMICRO = Behaviour(send_mode=SendMode.ALWAYS, cd_targets=("UsbCd", "Cd", "CD/DVD"))
DELL = Behaviour(serial_field="SKU", light_off="Lit")
NOT_CRAWLED = "the excerpt has no such resource"

TREES = (
    Tree(
        "Dell PowerEdge R750, iDRAC9 6.00.30 (real)",
        ("nvidia-bmc-mock-dell_poweredge_r750.tar.gz",),
        inventory(
            "Dell Inc.", "PowerEdge R750", "F54P1G3", "4c4c4544-0035-3410-8050-c6c04f314733",
            "70:b5:e8:f0:52:dc e4:3d:1a:13:27:f1 e4:3d:1a:13:27:f0 70:b5:e8:f0:52:dd b8:3f:d2:90:97:c4",
            "6.00.30.00", "b0:7b:25:d6:51:82", "1.8.2",
        ),
        Override(Device.NONE, Mode.UEFI),
        PXE_DISK_CD_BIOS | {Device.HTTP},
        EVERY_RESET | {"PushPowerButton", "PowerCycle"},
        "PowerCycle",
        sensors=63,
        log=5,
        behaviour=DELL,
    ),
    Tree(
        "Supermicro X10, BMC 4.0 (real)",
        ("redfish_ctl-supermicro-x10",),
        inventory(
            "Supermicro", "Super Server", "", "00000000-0000-0000-0000-ac1f6b18a45a",
            "ac:1f:6b:18:a4:5a ac:1f:6b:18:a4:5b ac:1f:6b:18:a6:b2 ac:1f:6b:18:a6:b3",
            "4.0", "ac:1f:6b:18:a2:41", "1.2",
        ),
        Override(Device.NONE, Mode.KEEP),
        PXE_DISK_CD_BIOS,
        EVERY_RESET | {"ForceOn"},
        "ForceRestart",
        sensors=21,
        log=65,
        behaviour=Behaviour(send_mode=SendMode.NEVER, cd_targets=SUPERMICRO.cd_targets),
        absent={
            "serial": "SerialNumber is ten blanks and SKU is 'To be filled by O.E.M.'",
            "mode": "X10 boards have no BootSourceOverrideMode",
        },
    ),
    Tree(
        "HPE DL380a Gen11, iLO 6 1.66 (the vendor's simulator)",
        ("redfish_ctl-hpe",),
        inventory(
            "HPE", "ProLiant DL380a Gen11 -- SIMULATED", "2M2D2J00L4", "39343550-3330-4d32-3244-324a30304c34",
            "58:a2:e1:03:96:f2 58:a2:e1:03:96:f3", "iLO 6 v1.66", "7c:a6:2a:40:c3:e4", "U58 v2.44 (01/17/2025)",
        ),
        Override(Device.NONE, Mode.UEFI),
        PXE_DISK_CD_BIOS | {Device.HTTP},
        EVERY_RESET | {"PushPowerButton"},
        "ForceRestart",
        sensors=64,
        log=117,
        behaviour=Behaviour(send_mode=SendMode.NEVER, clear_target="Pxe"),
    ),
    Tree(
        "Supermicro SYS-510T, BMC 01.13.04 (real, excerpt)",
        tuple(f"{WRAPPER}/{name}" for name in (
            "serviceroot.json", "systems.json", "systems_1.json", "managers.json", "managers_1.json", "smc_aoc",
            "bmc_nic",
        )),
        inventory(
            "Supermicro", "SYS-510T-MR1-EI018", "FOOBAR", "0032331a-24d7-ec11-8000-3cecefcefeda",
            "3c:ec:ef:10:20:01 3c:ec:ef:10:20:02 3c:ec:ef:20:30:01 3c:ec:ef:20:30:02",
            "01.13.04", "00:00:5e:00:53:10", "1.6",
        ),
        Override(Device.DISK, Mode.UEFI, once=True),
        PXE_DISK_CD_BIOS | {Device.HTTP},
        set(values.USUAL_RESETS),
        "ForceRestart",
        behaviour=SUPERMICRO,
        absent={"log": NOT_CRAWLED, "sensors": NOT_CRAWLED, "resets": "ResetActionInfo is not in the excerpt"},
    ),
    Tree(
        "Supermicro SYS-510T, Redfish 1.14 (real, excerpt)",
        tuple(f"{WRAPPER}/smc_{name}" for name in (
            "1.14.0_serviceroot.json", "1.14.0_systems.json", "1.14.0_systems_1.json", "aoc",
        )),
        inventory(
            "Supermicro", "SYS-510T-MR-EI018", "S482931X2814218", "b11cc600-6d10-11ec-8000-3cecefc846f8",
            "3c:ec:ef:10:20:01 3c:ec:ef:10:20:02 3c:ec:ef:20:30:01 3c:ec:ef:20:30:02", "", "", "2.0",
        ),
        Override(Device.DISK, Mode.UEFI, once=False),
        PXE_DISK_CD_BIOS | {Device.HTTP},
        EVERY_RESET | {"ForceOn"},
        "ForceRestart",
        behaviour=SUPERMICRO,
        absent={"log": NOT_CRAWLED, "sensors": NOT_CRAWLED, "firmware": NOT_CRAWLED, "bmc_mac": NOT_CRAWLED},
    ),
    Tree(
        "Dell PowerEdge R6515, iDRAC (real, excerpt)",
        tuple(f"{WRAPPER}/dell/{name}.json" for name in (
            "serviceroot", "systems", "system.embedded.1", "managers",
        )),
        inventory(
            "Dell Inc.", "PowerEdge R6515", "FOOXD53", "4c4c4544-004c-4410-8058-c6c04f443533", "", "", "", "2.2.4",
        ),
        Override(Device.NONE, Mode.BIOS),
        PXE_DISK_CD_BIOS | {Device.HTTP},
        EVERY_RESET | {"PushPowerButton", "PowerCycle"},
        "PowerCycle",
        behaviour=DELL,
        absent={
            "macs": NOT_CRAWLED,
            "log": NOT_CRAWLED,
            "sensors": NOT_CRAWLED,
            "firmware": "the excerpt's manager is an R660's: it is left out",
            "bmc_mac": NOT_CRAWLED,
        },
    ),
    Tree(
        "Dell PowerEdge R660, iDRAC10 1.20.50 (real, excerpt)",
        tuple(f"{WRAPPER}/dell/{name}.json" for name in (
            "serviceroot", "systems", "system.embedded.1.virtualmedia", "managers", "manager.idrac.embedded.1",
        )),
        inventory("Dell Inc.", "PowerEdge R660", "", "", "", "1.20.50.52", "", ""),
        Override(Device.NONE, Mode.BIOS),
        PXE_DISK_CD_BIOS | {Device.HTTP},
        set(values.USUAL_RESETS),
        "ForceRestart",
        is_on=False,
        behaviour=Behaviour(serial_field="SKU", light_off="Lit", boot_in_settings=True),
        absent=dict.fromkeys(("serial", "uuid", "macs", "log", "sensors", "bmc_mac", "bios", "resets"), NOT_CRAWLED),
    ),
    Tree(
        "Lenovo ThinkSystem SR650, XCC (real, excerpt)",
        (LENOVO, f"{LENOVO}/system.lenovo.json"),
        inventory(
            "Lenovo", "ThinkSystem SR650", "J100ABCD", "92384634-2938-2342-8820-489239905423",
            "7c:d3:0a:44:55:66", "TEE142M-2.41", "7c:d3:0a:11:22:33", "TEE142M-2.41",
        ),
        Override(Device.DISK, Mode.BIOS, once=True),
        PXE_DISK_CD_BIOS,
        EVERY_RESET | {"ForceOn"},
        "ForceRestart",
        sensors=5,
        log=1,
    ),
    Tree(
        "DMTF public-rackmount1 (synthetic)",
        ("dmtf-mockup-server",),
        inventory(
            "Contoso", "3500", "437XR1138R2", "38947555-7742-3448-3784-823347823834",
            "12:44:6a:3b:04:11 12:44:6a:3b:88:90", "1.45.455b66-rev4", "", "P79 v1.45 (12/06/2017)",
        ),
        Override(Device.PXE, Mode.UEFI, once=True),
        PXE_DISK_CD_BIOS,
        EVERY_RESET | {"ForceOn", "PushPowerButton"},
        "ForceRestart",
        sensors=9,
        log=2,
        absent={"bmc_mac": "23:11:8a:33:cf:ea, the made-up address, is a multicast address"},
    ),
    Tree(
        "sushy's samples (synthetic)",
        (SAMPLES, *(f"{SAMPLES}/{name}.json" for name in ("root", "system_collection", "system", "manager"))),
        inventory(
            "Contoso", "3500", "437XR1138R2", "38947555-7742-3448-3784-823347823834",
            "12:44:6a:3b:04:11", "1.00", "", "P79 v1.45 (12/06/2017)",
        ),
        Override(Device.PXE, Mode.UEFI, once=True),
        PXE_DISK_CD_BIOS | {Device.HTTP},
        EVERY_RESET | {"ForceOn", "PushPowerButton"},
        "ForceRestart",
        absent={"log": NOT_CRAWLED, "sensors": "the chassis of the samples is another's", "bmc_mac": NOT_CRAWLED},
    ),
)  # fmt: skip


def served(tree: Tree) -> Service:
    found = read_tree(*(corpus("redfish", source) for source in tree.sources))
    service = Service(found, open_to_all=True)
    # A crawl has no session to give.
    service.faults[f"POST {SESSIONS}"] = Answer(404)
    return service


@pytest.mark.parametrize("tree", TREES, ids=lambda tree: tree.name)
async def test_a_tree_is_read(tree: Tree) -> None:
    with running(served(tree)) as service:
        power = Redfish(service.endpoint())
        assert await power.is_on() is tree.is_on
        assert await power.override() == tree.override
        assert await power.inventory() == tree.inventory
        assert len(await power.sensors()) == tree.sensors
        if tree.log is None:
            with pytest.raises(BmcNotSupported, match="no event log"):
                await power.event_log()
        else:
            entries = await power.event_log()
            assert len(entries) == tree.log
            assert all(entry.text for entry in entries)
        await power.close()
        assert {method for method, *_ in service.requests} <= {"GET", "POST"}
        assert not service.asked("POST", "Actions")


@pytest.mark.parametrize("tree", TREES, ids=lambda tree: tree.name)
def test_boot_and_reset_options(tree: Tree) -> None:
    with running(served(tree)) as service:
        session = Session(Redfish(service.endpoint())._access())
        driver = Redfish(service.endpoint())
        system = driver._system(session)
        assert behaviour_of(driver._who(session)) == tree.behaviour
        offered = driver._offered(session, system)
        assert offered == tree.resets
        assert values.choose_reset(values.CYCLE, offered, tree.behaviour) == tree.cycle
        for wanted in (values.ON, values.OFF, values.SHUTDOWN):
            assert values.choose_reset(wanted, offered, tree.behaviour)
        boot = values.section(system.body, "Boot")
        assert {device for device in Device if device is not Device.NONE and _boots(boot, tree, device)} == tree.devices
        values.boot_body(boot, tree.behaviour, Device.NONE, Mode.KEEP, once=True)
        session.close()


def _boots(boot: values.Json, tree: Tree, device: Device) -> bool:
    try:
        values.boot_body(boot, tree.behaviour, device, Mode.KEEP, once=True)
    except BmcNotSupported:
        return False
    return True


@pytest.mark.parametrize("tree", TREES, ids=lambda tree: tree.name)
def test_what_is_absent_is_explained(tree: Tree) -> None:
    found = tree.inventory
    missing = {
        name
        for name, value in {
            "serial": found.serial,
            "uuid": found.uuid,
            "macs": found.macs,
            "firmware": found.firmware,
            "bmc_mac": found.bmc_mac,
            "bios": found.bios,
            "sensors": tree.sensors,
            "log": tree.log,
            "mode": tree.override.mode is not Mode.KEEP,
        }.items()
        if not value
    }
    if tree.resets == values.USUAL_RESETS:
        missing.add("resets")
    assert missing == set(tree.absent)


async def test_an_excerpt_without_a_list_of_systems() -> None:
    """sushy's samples of a Dell R640 hold a system and no collection: it can be asked for by its path."""
    service = Service(read_tree(corpus("redfish", "sushy-oem-dell")), open_to_all=True)
    service.faults[f"POST {SESSIONS}"] = Answer(404)
    path = "/redfish/v1/Systems/System.Embedded.1"
    with running(service):
        lost = Redfish(service.endpoint())
        with pytest.raises((BmcNotSupported, BmcRefused), match="no such resource"):
            await lost.is_on()
        power = Redfish(service.endpoint(system=path))
        found = await power.inventory()
        assert (found.model, found.serial, found.bios) == ("PowerEdge R640", "8CYCZ23", "2.10.2")
        assert found.uuid == "4c4c4544-0043-5910-8043-b8c04f5a3233"
        await lost.close()
        await power.close()


def test_every_folder_of_the_corpus_is_read() -> None:
    folders = {path.name for path in corpus("redfish").iterdir()}
    assert folders == {source.split("/")[0] for tree in TREES for source in tree.sources} | {"sushy-oem-dell"}
