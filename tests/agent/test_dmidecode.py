"""The text of dmidecode from 41 real servers: each is read, and for one of each vendor the facts are those printed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from metalbox.agent import dmidecode
from tests.corpus import ROOT, corpus

GIB = 1 << 30
DUMPS = sorted((ROOT / "hw/linuxhw-DMI").glob("*.txt")) + sorted((ROOT / "hw/ironlib/asrr").glob("*/dmidecode*"))


def read(name: str) -> dict[str, Any]:
    folder = corpus("hw", "linuxhw-DMI")
    (path,) = folder.glob(f"*{name}*")
    return dmidecode.facts(path.read_text(errors="replace"))


@pytest.mark.parametrize("path", DUMPS, ids=lambda path: path.stem[-40:])
def test_every_dump_tells_the_machine_its_processors_and_memory(path: Path) -> None:
    facts = dmidecode.facts(path.read_text(errors="replace"))
    assert facts["system"]["vendor"] and facts["system"]["product"] and facts["firmware"]["version"]
    assert facts["cpus"] and all(cpu["socket"] for cpu in facts["cpus"])
    assert facts["dimms"] and all(dimm["size_bytes"] >= 1 << 29 and dimm["locator"] for dimm in facts["dimms"])


@pytest.mark.parametrize(
    (
        "name", "vendor", "product", "chassis", "bios", "sockets", "cores", "model",
        "dimms", "gib", "kind", "speed", "has_bmc",
    ),
    [
        ("PowerEdge_R6515", "Dell Inc.", "PowerEdge R6515", "Rack Mount Chassis", "1.4.8",
         1, 32, "AMD EPYC 7452 32-Core Processor", 6, 96, "DDR4", 3200, True),
        ("DL385_Gen10", "HPE", "ProLiant DL385 Gen10 Plus v2", "Rack Mount Chassis", "A42",
         2, 64, "AMD EPYC 7763 64-Core Processor", 32, 4096, "DDR4", 3200, True),
        ("DL360p_Gen8", "HP", "ProLiant DL360p Gen8", "Rack Mount Chassis", "P71",
         2, 6, "Intel(R) Xeon(R) CPU E5-2640 0 @ 2.50GHz", 16, 64, "DDR3", 1333, True),
        ("X8DTT", "Supermicro", "X8DTT", "Main Server Chassis", "2.2",
         2, 4, "Intel(R) Xeon(R) CPU X5570 @ 2.93GHz", 10, 16, "DDR3", 1066, True),
        ("ThinkSystem_SR650", "Lenovo", "ThinkSystem SR650 -[7X06CTO1WW]-", "Rack Mount Chassis", "-[IVE164L-2.80]-",
         2, 20, "Intel(R) Xeon(R) Gold 6248 CPU @ 2.50GHz", 8, 512, "DDR4", 2933, True),
        ("UCSC-C220", "Cisco Systems Inc", "UCSC-C220-M4S", "Rack Mount Chassis", "C220M4.4.1.2b.0.0625202204",
         2, 10, "Intel(R) Xeon(R) CPU E5-2640 v4 @ 2.40GHz", 8, 128, "DDR4", 2400, True),
        ("MP32-AR0", "GIGABYTE", "MP32-AR0", "Rack Mount Chassis", "F31L (SCP: 2.10.20220531)",
         1, 64, "Ampere(R) Altra(R) Processor", 2, 32, "DDR4", 3200, False),
    ],
)  # fmt: skip
def test_facts_of_one_machine_of_each_vendor(
    name: str, vendor: str, product: str, chassis: str, bios: str, sockets: int, cores: int, model: str,
    dimms: int, gib: int, kind: str, speed: int, has_bmc: bool,
) -> None:  # fmt: skip
    facts = read(name)
    assert (facts["system"]["vendor"], facts["system"]["product"]) == (vendor, product)
    assert (facts["system"]["chassis_type"], facts["firmware"]["version"]) == (chassis, bios)
    assert [(cpu["cores"], cpu["model"]) for cpu in facts["cpus"]] == [(cores, model)] * sockets
    assert sum(dimm["size_bytes"] for dimm in facts["dimms"]) == gib * GIB
    assert [(dimm["type"], dimm["speed_mts"]) for dimm in facts["dimms"]] == [(kind, speed)] * dimms
    assert facts["has_bmc"] is has_bmc


def test_a_dimm_is_told_whole() -> None:
    assert read("PowerEdge_R6515")["dimms"][0] == {
        "locator": "A1",
        "bank": "",
        "size_bytes": 16 * GIB,
        "type": "DDR4",
        "speed_mts": 3200,
        "manufacturer": "80AD80B380AD",
        "part_number": "HMA82GR7CJR8N-XN",
        "serial": "--",
    }


def test_the_tpm_of_a_supermicro_board() -> None:
    text = corpus("hw", "ironlib", "supermicro", "x11dph-t", "dmidecode", "tpm").read_text()
    assert dmidecode.facts(text)["tpm"] == "2.0"


def test_the_chip_that_holds_the_bios_is_no_memory() -> None:
    text = (
        "Handle 0x0011, DMI type 17, 40 bytes\nMemory Device\n\tSize: 16 MB\n\tLocator: SYSTEM ROM\n\tType: Flash\n"
        "\nHandle 0x0012, DMI type 17, 40 bytes\nMemory Device\n\tSize: No Module Installed\n\tLocator: B2\n"
    )
    assert dmidecode.facts(text)["dimms"] == []


@pytest.mark.parametrize("text", ["", "no such device", "Handle 0x1, DMI type 1, 27 bytes\nSystem Information\n"])
def test_text_that_says_nothing(text: str) -> None:
    facts = dmidecode.facts(text)
    assert facts["system"]["serial"] == "" and facts["cpus"] == [] and not facts["has_bmc"]
