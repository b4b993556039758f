from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metalbox.errors import BmcNotSupported
from metalbox.power import Device, LogEntry, Mode, Override, Sensor
from metalbox.power import redfish_values as values
from metalbox.power.quirks import Behaviour, SendMode

TARGETS = "BootSourceOverrideTarget@Redfish.AllowableValues"
ENABLED = "BootSourceOverrideEnabled@Redfish.AllowableValues"
BOOT: dict[str, Any] = {
    "BootSourceOverrideEnabled": "Disabled",
    "BootSourceOverrideTarget": "None",
    "BootSourceOverrideMode": "UEFI",
    TARGETS: ["None", "Pxe", "UefiHttp", "Hdd", "Cd", "UsbCd", "BiosSetup"],
}
# Whatever a BMC may write where an object, a list, a text or a number belongs.
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@pytest.mark.parametrize(
    ("state", "on"), [("On", True), ("Off", False), ("PoweringOn", True), ("PoweringOff", True), ("Paused", True)]
)
def test_power_state(state: str, on: bool) -> None:
    assert values.is_on({"PowerState": state}) is on


@pytest.mark.parametrize("system", [{}, {"PowerState": None}, {"PowerState": "Reset"}, {"PowerState": 1}])
def test_no_power_state(system: dict[str, Any]) -> None:
    with pytest.raises(BmcNotSupported, match="does not say whether the machine is on"):
        values.is_on(system)


def _action(*offered: str, **more: Any) -> dict[str, Any]:
    allowed = {"ResetType@Redfish.AllowableValues": list(offered)} if offered else {}
    return {"Actions": {"#ComputerSystem.Reset": {**allowed, **more}}}


def test_reset_types() -> None:
    info = {"Parameters": [{"Name": "ResetType", "AllowableValues": ["On", "PowerCycle"]}, {"Name": "x"}]}
    assert values.reset_types(_action("On", "ForceOff")) == {"On", "ForceOff"}
    assert values.reset_types(_action(), info) == {"On", "PowerCycle"}
    assert values.reset_types({}) == values.USUAL_RESETS
    assert values.reset_types(_action("On", "GracefulShutdownGracefulRestart")) == {
        "On",
        "GracefulShutdown",
        "GracefulRestart",
    }


def test_the_reset_is_chosen_among_what_is_offered_and_works() -> None:
    everything = frozenset(values.RESET_TYPES)
    assert values.choose_reset(values.CYCLE, everything, Behaviour()) == "PowerCycle"
    without = Behaviour(resets_not_used=frozenset({"PowerCycle"}))
    assert values.choose_reset(values.CYCLE, everything, without) == "ForceRestart"
    assert values.choose_reset(values.CYCLE, frozenset({"On", "ForceOff"}), Behaviour()) is None
    assert values.choose_reset(values.SHUTDOWN, frozenset({"PushPowerButton"}), Behaviour()) == "PushPowerButton"


@pytest.mark.parametrize(
    ("changes", "device", "mode", "once", "expected"),
    [
        ({}, Device.PXE, Mode.KEEP, True, {"Enabled": "Once", "Target": "Pxe"}),
        ({}, Device.PXE, Mode.UEFI, True, {"Enabled": "Once", "Target": "Pxe"}),
        ({}, Device.PXE, Mode.BIOS, False, {"Enabled": "Continuous", "Target": "Pxe", "Mode": "Legacy"}),
        ({}, Device.HTTP, Mode.KEEP, True, {"Enabled": "Once", "Target": "UefiHttp"}),
        ({}, Device.CDROM, Mode.KEEP, True, {"Enabled": "Once", "Target": "Cd"}),
        ({"cd_targets": ("UsbCd", "Cd")}, Device.CDROM, Mode.KEEP, True, {"Enabled": "Once", "Target": "UsbCd"}),
        (
            {"send_mode": SendMode.ALWAYS},
            Device.DISK,
            Mode.KEEP,
            True,
            {"Enabled": "Once", "Target": "Hdd", "Mode": "UEFI"},
        ),
        ({"send_mode": SendMode.NEVER}, Device.DISK, Mode.BIOS, True, {"Enabled": "Once", "Target": "Hdd"}),
        ({}, Device.NONE, Mode.KEEP, True, {"Enabled": "Disabled", "Target": "None"}),
        ({"clear_target": "Pxe"}, Device.NONE, Mode.KEEP, True, {"Enabled": "Disabled", "Target": "Pxe"}),
        (
            {"send_mode": SendMode.ALWAYS},
            Device.NONE,
            Mode.KEEP,
            True,
            {"Enabled": "Disabled", "Target": "None", "Mode": "UEFI"},
        ),
    ],
)
def test_boot_bodies(changes: dict[str, Any], device: Device, mode: Mode, once: bool, expected: dict[str, str]) -> None:
    body = values.boot_body(BOOT, Behaviour(**changes), device, mode, once=once)
    assert body == {"Boot": {f"BootSourceOverride{name}": value for name, value in expected.items()}}


def test_boards_without_a_mode_are_sent_none() -> None:
    boot = {name: value for name, value in BOOT.items() if name != "BootSourceOverrideMode"}
    body = values.boot_body(boot, Behaviour(send_mode=SendMode.ALWAYS), Device.PXE, Mode.UEFI, once=True)
    assert body == {"Boot": {"BootSourceOverrideEnabled": "Once", "BootSourceOverrideTarget": "Pxe"}}


def test_idrac_10_lists_nothing_and_takes_all() -> None:
    boot = {"BootSourceOverrideEnabled": "Disabled", "BootSourceOverrideTarget": "None"}
    body = values.boot_body(boot, Behaviour(), Device.HTTP, Mode.KEEP, once=True)
    assert body["Boot"]["BootSourceOverrideTarget"] == "UefiHttp"


@pytest.mark.parametrize(
    ("boot", "behaviour", "device", "once", "words"),
    [
        (BOOT | {TARGETS: ["Pxe", "Hdd"]}, Behaviour(), Device.BIOS, True, "cannot set bios .* offers Pxe, Hdd"),
        (BOOT | {ENABLED: ["Once", "Disabled"]}, Behaviour(), Device.PXE, False, "as Once, Disabled only"),
        (BOOT, Behaviour(can_clear=False), Device.NONE, True, "cannot take a boot override back"),
        ({}, Behaviour(), Device.PXE, True, "no boot override"),
    ],
)
def test_what_is_not_offered(
    boot: dict[str, Any], behaviour: Behaviour, device: Device, once: bool, words: str
) -> None:
    with pytest.raises(BmcNotSupported, match=words):
        values.boot_body(boot, behaviour, device, Mode.KEEP, once=once)


@pytest.mark.parametrize(
    ("enabled", "target", "mode", "expected"),
    [
        ("Once", "Pxe", "UEFI", Override(Device.PXE, Mode.UEFI, True)),
        ("Continuous", "Hdd", "Legacy", Override(Device.DISK, Mode.BIOS, False)),
        ("Once", "UsbCd", None, Override(Device.CDROM, Mode.KEEP, True)),
        ("Disabled", "Pxe", "UEFI", Override(Device.NONE, Mode.UEFI, True)),
        ("Once", "None", "UEFI", Override(Device.NONE, Mode.UEFI, True)),
    ],
)
def test_overrides(enabled: str, target: str, mode: str | None, expected: Override) -> None:
    boot = {
        "BootSourceOverrideEnabled": enabled,
        "BootSourceOverrideTarget": target,
        "BootSourceOverrideMode": mode,
    }
    assert values.read_override(boot) == expected


@pytest.mark.parametrize("boot", [{}, {"BootSourceOverrideEnabled": "Once", "BootSourceOverrideTarget": "UefiTarget"}])
def test_overrides_without_a_name(boot: dict[str, Any]) -> None:
    with pytest.raises(BmcNotSupported):
        values.read_override(boot)


def test_sensors() -> None:
    ok = {"State": "Enabled", "Health": "OK"}
    thermal = {
        "Temperatures": [
            {"Name": "Inlet", "ReadingCelsius": 24, "Status": ok},
            {"Name": "CPU Temp", "ReadingCelsius": 0, "Status": {"State": "Absent"}},
            "not a sensor",
        ],
        "Fans": [{"FanName": "Fan 1", "Reading": 30, "ReadingUnits": "Percent", "Status": {"Health": "Critical"}}],
    }
    assert values.sensors_of_thermal(thermal) == [
        Sensor("Inlet", "temperature", 24.0, "C", "ok"),
        Sensor("CPU Temp", "temperature", None, "C", "", ("absent",)),
        Sensor("Fan 1", "fan", 30.0, "%", "critical"),
    ]
    power = {
        "Voltages": [{"Name": "12V", "ReadingVolts": 12.1}],
        "PowerControl": [{"Name": "System", "PowerConsumedWatts": 287}],
        "PowerSupplies": [{"Name": "PSU 1", "LastPowerOutputWatts": None}],
    }
    assert values.sensors_of_power(power) == [
        Sensor("12V", "voltage", 12.1, "V"),
        Sensor("System", "power", 287.0, "W"),
        Sensor("PSU 1", "power supply", None, "W"),
    ]
    reading = {"Name": "Intake", "ReadingUnits": "Cel", "Reading": 21.5, "Status": ok}
    assert values.sensor_of(reading) == Sensor("Intake", "temperature", 21.5, "C", "ok")


def test_log_entries() -> None:
    entry = {"Id": "3", "Created": "2025-04-04T18:17:40Z", "Message": "IML Cleared", "Severity": "OK"}
    assert values.log_entry(entry) == LogEntry("3", "IML Cleared", 1743790660.0, "ok", "")
    assert values.log_entry({"Id": "4", "Created": "0000-00-00T00:00:00Z"}).at is None
    newest, oldest = LogEntry("2", "b", 20.0), LogEntry("1", "a", 10.0)
    assert values.oldest_first([newest, oldest]) == [oldest, newest] == values.oldest_first([oldest, newest])
    assert sorted(["/x/Audit", "/x/Log1", "/x/Sel/"], key=values.log_rank) == ["/x/Sel/", "/x/Log1", "/x/Audit"]


@pytest.mark.parametrize(
    ("interface", "mac"),
    [
        ({"MACAddress": "AC:1F:6B:18:A2:41"}, "ac:1f:6b:18:a2:41"),
        ({"MACAddress": "AA:BB:CC:DD:EE:00", "PermanentMACAddress": "12:44:6A:3B:88:90"}, "12:44:6a:3b:88:90"),
        ({"MACAddress": "00:00:00:00:00:00", "PermanentMACAddress": "00:00:5e:00:53:10"}, "00:00:5e:00:53:10"),
        ({"Ethernet": {"MACAddress": "b8:3f:d2:90:97:c4"}}, "b8:3f:d2:90:97:c4"),
        ({"MACAddress": "Not Available"}, None),
        ({"MACAddress": None}, None),
        ({"MACAddress": "12:44:6A:3B:04:11", "EthernetInterfaceType": "Virtual"}, None),
        ({"MACAddress": "12:44:6A:3B:04:11", "Links": {"HostInterface": {"@odata.id": "/x"}}}, None),
    ],
)
def test_interface_macs(interface: dict[str, Any], mac: str | None) -> None:
    assert values.interface_mac(interface) == mac


def test_port_macs_and_serials() -> None:
    port = {"AssociatedNetworkAddresses": ["3c:ec:ef:10:20:01", "x", 5]}
    assert values.port_macs(port) == ["3c:ec:ef:10:20:01"]
    dell = Behaviour(serial_field="SKU")
    assert values.serial({"SKU": "F54P1G3", "SerialNumber": "CNIVC0014M0388"}, dell) == "F54P1G3"
    assert values.serial({"SKU": None, "SerialNumber": "CNIVC0014M0388"}, dell) == "CNIVC0014M0388"
    assert values.serial({"SerialNumber": "          "}, Behaviour()) == ""


@given(st.dictionaries(st.sampled_from([
    "PowerState", "Boot", "Actions", "Links", "Members", "Temperatures", "Fans", "Voltages", "PowerControl", "Status",
    "MACAddress", "PermanentMACAddress", "Ethernet", "Created", "Severity", "Message", "SKU", "SerialNumber",
    "BootSourceOverrideEnabled", "BootSourceOverrideTarget", "BootSourceOverrideMode", TARGETS, ENABLED,
    "AssociatedNetworkAddresses", "@Redfish.Settings", "Reading", "ReadingUnits", "Parameters",
]), JSON))  # fmt: skip
def test_no_json_is_too_strange(resource: dict[str, Any]) -> None:
    values.reset_types(resource, resource)
    values.sensors_of_thermal(resource)
    values.sensors_of_power(resource)
    values.sensor_of(resource)
    values.log_entry(resource)
    values.interface_mac(resource)
    values.port_macs(resource)
    values.serial(resource, Behaviour())
    values.settings_path(resource, "/x", Behaviour())
    values.links(resource, "Links", "ManagedBy")
    for read in (
        lambda: values.is_on(resource),
        lambda: values.read_override(resource),
        lambda: values.boot_body(resource, Behaviour(), Device.PXE, Mode.UEFI, once=True),
    ):
        try:
            read()
        except BmcNotSupported as error:
            assert str(error)
