"""What the Redfish trees of the corpus say of their consoles, as read and as told to an operator."""

from __future__ import annotations

import json
import tarfile
from typing import Any

import pytest

from metalbox.power.consoleoffer import Offer, Way, read_offer
from tests.corpus import corpus


def read(*parts: str) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(corpus("redfish", *parts).read_text())
    return document


def test_a_system_that_names_ports_and_commands() -> None:
    offer = read_offer(read("bmclib-redfishwrapper", "smc_1.14.0_systems_1.json"), {})
    assert offer == Offer(
        (Way("IPMI", 623), Way("SSH", 22, "cd system1/sol1; start")),
        (),
        ("KVMIP",),
    )
    assert offer.ipmi_port == 623


@pytest.mark.parametrize(
    ("parts", "ways"),
    [
        (("bmclib-redfishwrapper", "managers_1.json"), ["IPMI", "SSH"]),
        (("redfish_ctl-hpe", "_redfish_v1_Managers_1.json"), ["IPMI", "SSH", "Oem"]),
        (("redfish_ctl-supermicro-x10", "_redfish_v1_Managers_1.json"), ["IPMI", "SSH"]),
        (("dmtf-mockup-server", "public-rackmount1", "Managers", "BMC", "index.json"), ["IPMI", "SSH", "Telnet"]),
        (("sushy-json_samples", "manager.json"), ["IPMI", "SSH", "Telnet"]),
        (("sushy-json_samples", "managerv1_18.json"), ["IPMI", "SSH", "Telnet"]),
    ],
)
def test_managers_that_name_words_only(parts: tuple[str, ...], ways: list[str]) -> None:
    offer = read_offer({}, read(*parts))
    assert [way.name for way in offer.ways] == ways
    assert offer.ipmi_port == 623
    assert offer.graphical == ("KVMIP",)


def test_a_dell_that_offers_no_serial_console() -> None:
    for manager in (read("sushy-oem-dell", "manager.json"), real_idrac()):
        offer = read_offer({}, manager)
        assert offer.ipmi_port == 0
        sentence = offer.sentence("https://192.0.2.9")
        assert sentence == (
            "https://192.0.2.9 offers no serial console; it has a graphical one (KVMIP), for its web page"
        )


def real_idrac() -> dict[str, Any]:
    with tarfile.open(corpus("redfish", "nvidia-bmc-mock-dell_poweredge_r750.tar.gz")) as tar:
        name = next(name for name in tar.getnames() if name.endswith("Managers/iDRAC.Embedded.1/index.json"))
        file = tar.extractfile(name)
        assert file is not None
        document: dict[str, Any] = json.load(file)
        return document


def test_what_is_switched_off_is_not_offered_and_said() -> None:
    system = {"SerialConsole": {"IPMI": {"ServiceEnabled": False}, "SSH": {"ServiceEnabled": True, "Port": 2200}}}
    offer = read_offer(system, {"SerialConsole": {"ServiceEnabled": True, "ConnectTypesSupported": ["IPMI"]}})
    assert offer == Offer((Way("SSH", 2200),), ("IPMI",))
    assert offer.sentence("https://b") == (
        "https://b offers its console by SSH at port 2200 only, which metalbox does not speak: "
        "use `ssh -p 2200` with the BMC's account"
    )
    closed = read_offer({}, {"SerialConsole": {"ServiceEnabled": False, "ConnectTypesSupported": ["IPMI", "SSH"]}})
    assert closed.sentence("b") == "the serial console of b is switched off (IPMI, SSH): switch it on in the BMC"


def test_ssh_that_wants_a_command() -> None:
    system = {"SerialConsole": {"SSH": {"ServiceEnabled": True, "Port": 22, "ConsoleEntryCommand": "start"}}}
    assert read_offer(system, {}).sentence("b") == (
        "b offers its console by SSH (then `start`) only, which metalbox does not speak: "
        "use `ssh -p 22` with the BMC's account"
    )


@pytest.mark.parametrize(
    "broken",
    [
        {"SerialConsole": None, "GraphicalConsole": "yes"},
        {"SerialConsole": ["IPMI"]},
        {"SerialConsole": {"IPMI": True, "ConnectTypesSupported": "IPMI"}},
        {"SerialConsole": {"ServiceEnabled": True, "ConnectTypesSupported": [None, 3, "Carrier pigeon"]}},
    ],
)
def test_what_makes_no_sense_offers_nothing(broken: dict[str, Any]) -> None:
    assert read_offer(broken, broken) == Offer()
    assert read_offer({}, {}).sentence("b") == "b offers no serial console"
