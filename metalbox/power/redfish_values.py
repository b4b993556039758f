"""What Redfish resources say, as the values of metalbox.power, and the bodies of the requests that change them. PURE.

Every reader takes the JSON as it came: a property may be missing, null, of another type or in a vendor's own spelling.
Properties have their names from the schemas of DSP8010.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from metalbox.errors import BmcNotSupported, InvalidValue
from metalbox.machine import Mac, is_placeholder_serial
from metalbox.power import Device, LogEntry, Mode, Override, Sensor
from metalbox.power.quirks import Behaviour, SendMode

Json = Mapping[str, Any]

RESET_TYPES = frozenset(
    {
        "On", "ForceOff", "GracefulShutdown", "GracefulRestart", "ForceRestart", "Nmi", "ForceOn", "PushPowerButton",
        "PowerCycle", "Suspend", "Pause", "Resume", "FullPowerCycle",
    }
)  # fmt: skip
# What every service of the first schema has; for those that list nothing.
USUAL_RESETS = frozenset({"On", "ForceOff", "ForceRestart", "GracefulShutdown"})
ON = ("On", "ForceOn", "PushPowerButton")
OFF = ("ForceOff",)
SHUTDOWN = ("GracefulShutdown", "PushPowerButton")
# PowerCycle is the cold start; ForceRestart is a reset on some machines and a cold start on others.
CYCLE = ("PowerCycle", "ForceRestart")

TARGETS: Mapping[Device, tuple[str, ...]] = {
    Device.PXE: ("Pxe",),
    Device.HTTP: ("UefiHttp",),
    Device.DISK: ("Hdd",),
    Device.BIOS: ("BiosSetup",),
}
DEVICES: Mapping[str, Device] = {
    "Pxe": Device.PXE,
    "UefiHttp": Device.HTTP,
    "Hdd": Device.DISK,
    "UefiHdd": Device.DISK,
    "Cd": Device.CDROM,
    "CD/DVD": Device.CDROM,
    "UsbCd": Device.CDROM,
    "UefiCd": Device.CDROM,
    "UefiUsbCd": Device.CDROM,
    "BiosSetup": Device.BIOS,
    "None": Device.NONE,
}
MODES: Mapping[str, Mode] = {"UEFI": Mode.UEFI, "Legacy": Mode.BIOS}
MODE_NAMES: Mapping[Mode, str] = {mode: name for name, mode in MODES.items()}

HEALTH = {"ok": "ok", "warning": "warning", "critical": "critical"}
UNITS = {"Cel": "C", "Celsius": "C", "Percent": "%", "RPM": "RPM"}
# The BMC's hardware log by the names in use, best first: SEL of IPMI, HPE's IML, Supermicro's Log1, OpenBMC's EventLog.
LOGS = ("sel", "iml", "platformlog", "standardlog", "log1", "eventlog", "event", "log")


def text(resource: Json, name: str) -> str:
    """A property as text without spaces at its ends; "" for what is missing, null or no text."""
    value = resource.get(name)
    return value.strip() if isinstance(value, str) else ""


def section(resource: Json, *names: str) -> Json:
    """The object below these names; empty when one is missing."""
    for name in names:
        value = resource.get(name)
        resource = value if isinstance(value, Mapping) else {}
    return resource


def items(resource: Json, name: str) -> list[Json]:
    """The objects in an array; empty when there is none."""
    value = resource.get(name)
    return [item for item in value if isinstance(item, Mapping)] if isinstance(value, list) else []


def link(resource: Json, *names: str) -> str:
    """The path that a reference below these names points to, "" for none."""
    return text(section(resource, *names), "@odata.id")


def links(resource: Json, *names: str) -> list[str]:
    """The paths in an array of references."""
    return [path for item in items(section(resource, *names[:-1]), names[-1]) if (path := text(item, "@odata.id"))]


# -- power -----------------------------------------------------------------------------------------------------------


def is_on(system: Json) -> bool:
    """Whether the system is on; one that is going down still is. Raises BmcNotSupported when it does not say."""
    state = text(system, "PowerState")
    if state in ("On", "PoweringOn", "PoweringOff", "Paused"):
        return True
    if state == "Off":
        return False
    raise BmcNotSupported(f"the BMC does not say whether the machine is on: PowerState is {state or 'missing'}")


def reset_types(system: Json, action_info: Json | None = None) -> frozenset[str]:
    """The reset types that the system offers; the usual ones when it lists none."""
    action = section(system, "Actions", "#ComputerSystem.Reset")
    offered = _strings(action.get("ResetType@Redfish.AllowableValues"))
    if not offered and action_info is not None:
        for parameter in items(action_info, "Parameters"):
            if text(parameter, "Name") == "ResetType":
                offered = _strings(parameter.get("AllowableValues"))
    return frozenset(name for value in offered for name in _unglue(value)) or USUAL_RESETS


def choose_reset(wanted: Sequence[str], offered: frozenset[str], behaviour: Behaviour) -> str | None:
    """The first wanted reset type that is offered and does something."""
    return next((name for name in wanted if name in offered - behaviour.resets_not_used), None)


def _unglue(value: str) -> list[str]:
    # A missing comma in a firmware's list: GracefulShutdownGracefulRestart (quirk supermicro-glued-resets).
    if value in RESET_TYPES:
        return [value]
    for name in RESET_TYPES:
        if value.startswith(name) and value[len(name) :] in RESET_TYPES:
            return [name, value[len(name) :]]
    return [value]


# -- boot ------------------------------------------------------------------------------------------------------------


def boot_body(boot: Json, behaviour: Behaviour, device: Device, mode: Mode, *, once: bool) -> dict[str, Any]:
    """The body of the PATCH that makes the machine boot `device`; `boot` is what is set now.

    Raises BmcNotSupported for what this BMC does not offer.
    """
    if device is Device.NONE:
        body = _clear(boot, behaviour)
    else:
        enabled = "Once" if once else "Continuous"
        offered = _strings(boot.get("BootSourceOverrideEnabled@Redfish.AllowableValues"))
        if offered and enabled not in offered:
            raise BmcNotSupported(f"the BMC sets a boot device as {', '.join(offered)} only, not {enabled}")
        body = {"BootSourceOverrideEnabled": enabled, "BootSourceOverrideTarget": _target(boot, behaviour, device)}
    if name := _mode_to_send(boot, behaviour, mode):
        body["BootSourceOverrideMode"] = name
    return {"Boot": body}


def _target(boot: Json, behaviour: Behaviour, device: Device) -> str:
    candidates = behaviour.cd_targets if device is Device.CDROM else TARGETS[device]
    offered = _strings(boot.get("BootSourceOverrideTarget@Redfish.AllowableValues"))
    # iDRAC 10 lists nothing and takes them all (dell/iDRAC-Redfish-Scripting issue 324).
    if not offered:
        if "BootSourceOverrideEnabled" not in boot and "BootSourceOverrideTarget" not in boot:
            raise BmcNotSupported("the BMC has no boot override: its system has no BootSourceOverride properties")
        return candidates[0]
    for candidate in candidates:
        if candidate in offered:
            return candidate
    raise BmcNotSupported(f"the BMC cannot set {device} as boot device: it offers {', '.join(offered)}")


def _clear(boot: Json, behaviour: Behaviour) -> dict[str, Any]:
    if not behaviour.can_clear:
        raise BmcNotSupported("this BMC cannot take a boot override back: name the device that it shall boot instead")
    body = {"BootSourceOverrideEnabled": "Disabled"}
    offered = _strings(boot.get("BootSourceOverrideTarget@Redfish.AllowableValues"))
    if behaviour.clear_target:
        body["BootSourceOverrideTarget"] = behaviour.clear_target
    elif not offered or "None" in offered:
        body["BootSourceOverrideTarget"] = "None"
    return body


def _mode_to_send(boot: Json, behaviour: Behaviour, mode: Mode) -> str:
    now = text(boot, "BootSourceOverrideMode")
    if behaviour.send_mode is SendMode.NEVER or not now:
        return ""
    wanted = MODE_NAMES.get(mode, now)
    return wanted if behaviour.send_mode is SendMode.ALWAYS or wanted != now else ""


def read_override(boot: Json) -> Override:
    """What is set. Raises BmcNotSupported for a target that has no name here, such as UefiTarget."""
    enabled, target = text(boot, "BootSourceOverrideEnabled"), text(boot, "BootSourceOverrideTarget")
    mode = MODES.get(text(boot, "BootSourceOverrideMode"), Mode.KEEP)
    if not enabled and not target:
        raise BmcNotSupported("the BMC has no boot override: its system has no BootSourceOverride properties")
    if enabled == "Disabled" or target in ("", "None"):
        return Override(Device.NONE, mode)
    if target not in DEVICES:
        raise BmcNotSupported(f"the BMC is set to boot {target}, for which metalbox has no name", evidence=target)
    return Override(DEVICES[target], mode, once=enabled == "Once")


def settings_path(system: Json, path: str, behaviour: Behaviour) -> str:
    """Where changes of the system are written that take effect later, "" when there is no such place."""
    named = link(system, "@Redfish.Settings", "SettingsObject")
    return named or (path.rstrip("/") + behaviour.settings_path if behaviour.settings_path else "")


# -- sensors ---------------------------------------------------------------------------------------------------------


def sensors_of_thermal(thermal: Json) -> list[Sensor]:
    """The temperatures and fans of a Thermal resource."""
    found = [_sensor(row, "temperature", row.get("ReadingCelsius"), "C") for row in items(thermal, "Temperatures")]
    for row in items(thermal, "Fans"):
        unit = UNITS.get(text(row, "ReadingUnits"), text(row, "ReadingUnits"))
        found.append(_sensor(row, "fan", row.get("Reading", row.get("CurrentReading")), unit))
    return found


def sensors_of_power(power: Json) -> list[Sensor]:
    """The voltages, consumption and supplies of a Power resource."""
    found = [_sensor(row, "voltage", row.get("ReadingVolts"), "V") for row in items(power, "Voltages")]
    found += [_sensor(row, "power", row.get("PowerConsumedWatts"), "W") for row in items(power, "PowerControl")]
    for row in items(power, "PowerSupplies"):
        watts = row.get("PowerInputWatts", row.get("LastPowerOutputWatts"))
        found.append(_sensor(row, "power supply", watts, "W"))
    return found


def sensor_of(resource: Json) -> Sensor:
    """A Sensor resource (schema Sensor, 2018 and later)."""
    unit = text(resource, "ReadingUnits")
    kind = text(resource, "ReadingType").lower() or {"Cel": "temperature", "RPM": "fan"}.get(unit, "")
    return _sensor(resource, kind, resource.get("Reading"), UNITS.get(unit, unit))


def _sensor(row: Json, kind: str, reading: Any, unit: str) -> Sensor:
    status = section(row, "Status")
    state = text(status, "State")
    # An absent sensor reads 0 on Supermicro X10: that is no temperature.
    is_number = isinstance(reading, int | float) and not isinstance(reading, bool) and abs(reading) < 1e15
    readable = is_number and state in ("", "Enabled", "StandbyOffline")
    return Sensor(
        name=text(row, "Name") or text(row, "FanName") or text(row, "MemberId"),
        kind=kind,
        value=float(reading) if readable else None,
        unit=unit,
        health=HEALTH.get(text(status, "Health").lower(), ""),
        states=(state.lower(),) if state not in ("", "Enabled") else (),
    )


# -- log -------------------------------------------------------------------------------------------------------------


def log_rank(path: str) -> int:
    """How well a log service fits as the hardware's log, 0 best; by the last part of its path."""
    name = path.rstrip("/").rsplit("/", 1)[-1].lower()
    return LOGS.index(name) if name in LOGS else len(LOGS)


def log_entry(resource: Json) -> LogEntry:
    """One entry of a log."""
    severity = text(resource, "Severity") or text(resource, "EntryCode")
    return LogEntry(
        id=text(resource, "Id"),
        text=text(resource, "Message") or text(resource, "Name"),
        at=seconds(text(resource, "EventTimestamp") or text(resource, "Created")),
        severity=HEALTH.get(severity.lower(), ""),
        sensor=text(resource, "SensorType"),
    )


def oldest_first(entries: Sequence[LogEntry]) -> list[LogEntry]:
    """A log in the order in which it was written; services list it from either end."""
    times = [entry.at for entry in entries if entry.at is not None]
    return list(reversed(entries)) if times and times[0] > times[-1] else list(entries)


def seconds(stamp: str) -> float | None:
    """A Redfish date as Unix seconds; None for none, such as HPE's 0000-00-00T00:00:00Z."""
    try:
        return datetime.fromisoformat(stamp).timestamp() if stamp else None
    except ValueError:
        return None


# -- who the machine is ----------------------------------------------------------------------------------------------


def serial(system: Json, behaviour: Behaviour) -> str:
    """The serial number that SMBIOS shows too, "" when there is none or only a maker's filler."""
    named = (text(system, behaviour.serial_field), text(system, "SerialNumber"))
    return next((value for value in named if not is_placeholder_serial(value)), "")


def interface_mac(interface: Json) -> Mac | None:
    """The burnt-in address of an EthernetInterface, of a NetworkDeviceFunction or of neither; None when useless.

    None too for the BMC's own cable into the machine (HostInterface) and for VLANs, whose address is another's.
    """
    if "HostInterface" in section(interface, "Links") or text(interface, "EthernetInterfaceType") == "Virtual":
        return None
    holder = section(interface, "Ethernet") or interface
    return first_mac([text(holder, "PermanentMACAddress"), text(holder, "MACAddress")])


def port_macs(port: Json) -> list[Mac]:
    """The addresses of a NetworkPort or Port."""
    ethernet = section(port, "Ethernet")
    candidates = _strings(port.get("AssociatedNetworkAddresses")) + _strings(ethernet.get("AssociatedMACAddresses"))
    return [mac for candidate in candidates if (mac := first_mac([candidate]))]


def first_mac(candidates: Iterable[str]) -> Mac | None:
    """The first of these texts that is a hardware address of somebody."""
    for candidate in candidates:
        # Some services write words here: "Not Available", or InfiniBand GUIDs.
        if re.fullmatch(r"[0-9A-Fa-f]{2}([:-]?[0-9A-Fa-f]{2}){5}", candidate.strip()):
            try:
                mac = Mac.parse(candidate)
            except InvalidValue:
                continue
            if mac.is_usable:
                return mac
    return None


def _strings(value: Any) -> list[str]:
    return [item for item in value if isinstance(item, str)] if isinstance(value, list) else []
