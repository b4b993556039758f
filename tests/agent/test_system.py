"""The sources of what the firmware says, from the best to the poorest."""

from __future__ import annotations

from pathlib import Path

from metalbox.agent import system
from tests.agent.snapshots import write
from tests.agent.tables import build_tables, entry_point


def test_the_tables_come_first(tmp_path: Path) -> None:
    fields = {"Manufacturer": "QEMU", "Serial Number": "SN1", "UUID": "4c4c4544-0042-3510-8054-b7c04f333732"}
    tables = build_tables([(1, fields), (17, {"Size": "8 GB", "Locator": "DIMM 0"})])
    folder = "sys/firmware/dmi/tables"
    root = write(tmp_path, {f"{folder}/DMI": tables, f"{folder}/smbios_entry_point": entry_point(tables)})
    problems: list[str] = []
    facts = system.read(root, problems)
    assert facts["system"]["serial"] == "SN1" and facts["system"]["uuid"] == "4c4c4544-0042-3510-8054-b7c04f333732"
    assert facts["dimms"][0]["locator"] == "DIMM 0" and problems == []


def test_old_tables_have_their_uuid_in_text_order(tmp_path: Path) -> None:
    tables = build_tables([(1, {"UUID": "4c4c4544-0042-3510-8054-b7c04f333732"})])
    folder = "sys/firmware/dmi/tables"
    root = write(tmp_path, {f"{folder}/DMI": tables, f"{folder}/smbios_entry_point": entry_point(tables, (2, 4))})
    assert system.read(root, [])["system"]["uuid"] == "44454c4c-4200-1035-8054-b7c04f333732"


def test_without_root_the_kernels_files_are_read(tmp_path: Path) -> None:
    folder = "sys/class/dmi/id"
    root = write(
        tmp_path,
        {
            f"{folder}/sys_vendor": "Dell Inc.\n",
            f"{folder}/product_name": "PowerEdge R750\n",
            f"{folder}/chassis_type": "23\n",
            f"{folder}/bios_version": "1.13.0\n",
        },
    )
    problems: list[str] = []
    facts = system.read(root, problems)
    assert facts["system"]["product"] == "PowerEdge R750" and facts["system"]["chassis_type"] == "Rack Mount Chassis"
    assert facts["firmware"]["version"] == "1.13.0" and facts["system"]["serial"] == ""
    assert problems == ["the SMBIOS tables cannot be read (that takes root): DIMMs and serial numbers are unknown"]


def test_a_board_with_a_device_tree_only(tmp_path: Path) -> None:
    model = b"Raspberry Pi 4 Model B Rev 1.4\0"
    root = write(tmp_path, {"proc/device-tree/model": model, "proc/device-tree/serial-number": b"10000000abcd\0"})
    facts = system.read(root, [])["system"]
    assert (facts["product"], facts["serial"]) == ("Raspberry Pi 4 Model B Rev 1.4", "10000000abcd")


def test_nothing_at_all(tmp_path: Path) -> None:
    problems: list[str] = []
    assert system.read(tmp_path, problems)["system"]["vendor"] == ""
    assert problems == ["this machine has no SMBIOS: vendor, product, serial and DIMMs are unknown"]
