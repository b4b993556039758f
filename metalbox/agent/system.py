"""What the firmware says of the machine, by the best source: its tables, dmidecode, /sys/class/dmi/id, device tree."""

from __future__ import annotations

from pathlib import Path

from metalbox.agent import command, dmidecode, smbios, sysfs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

SECONDS = 10.0

# Field of the report -> file below /sys/class/dmi/id. Serials and the UUID are readable by root only.
SYSTEM_FILES = {
    "vendor": "sys_vendor",
    "product": "product_name",
    "version": "product_version",
    "serial": "product_serial",
    "uuid": "product_uuid",
    "asset_tag": "chassis_asset_tag",
    "sku": "product_sku",
    "chassis_serial": "chassis_serial",
    "board_vendor": "board_vendor",
    "board_product": "board_name",
    "board_serial": "board_serial",
}
FIRMWARE_FILES = {"vendor": "bios_vendor", "version": "bios_version", "date": "bios_date"}


def read(root: Path, problems: list[str]) -> dict[str, Any]:
    """The facts as `smbios.facts` gives them; what could not be read becomes a sentence in `problems`."""
    tables = root / "sys/firmware/dmi/tables"
    data = sysfs.content(tables / "DMI")
    if structures := smbios.parse_tables(data):
        version = smbios.parse_entry_point(sysfs.content(tables / "smbios_entry_point"))
        return smbios.facts(structures, version if any(version) else (3, 0))
    if root == Path("/") and (found := _ask_dmidecode()):
        return found
    found = from_sysfs(root)
    if not found["system"]["vendor"] and not found["system"]["product"]:
        problems.append("this machine has no SMBIOS: vendor, product, serial and DIMMs are unknown")
    else:
        problems.append("the SMBIOS tables cannot be read (that takes root): DIMMs and serial numbers are unknown")
    return found


def _ask_dmidecode() -> dict[str, Any]:
    program = command.find("dmidecode")
    if not program:
        return {}
    try:
        _, output = command.run([program], SECONDS)
    except command.CommandFailed:
        return {}
    text = output.decode("utf-8", "replace")
    return dmidecode.facts(text) if dmidecode.parse(text) else {}


def from_sysfs(root: Path) -> dict[str, Any]:
    """The facts that the kernel shows as files, without processors and DIMMs; on arm64 boards from the device tree."""
    folder = root / "sys/class/dmi/id"
    system = {field: sysfs.text(folder / name) for field, name in SYSTEM_FILES.items()}
    kind = sysfs.number(folder / "chassis_type") or 0
    system["chassis_type"] = smbios.CHASSIS_TYPES[kind] if kind < len(smbios.CHASSIS_TYPES) else ""
    system["uuid"] = system["uuid"].lower()
    system["product"] = system["product"] or sysfs.text(root / "proc/device-tree/model")
    system["serial"] = system["serial"] or sysfs.text(root / "proc/device-tree/serial-number")
    firmware = {field: sysfs.text(folder / name) for field, name in FIRMWARE_FILES.items()}
    return {"system": system, "firmware": firmware, "cpus": [], "dimms": [], "tpm": "", "has_bmc": False}
