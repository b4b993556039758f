"""The reader of SMBIOS tables: real machines' tables rebuilt, read also by dmidecode, and 100,000 damaged ones."""

from __future__ import annotations

import random
import shutil
import subprocess
import tracemalloc
from pathlib import Path

import pytest

from metalbox.agent import dmidecode, smbios
from tests.agent.tables import Entry, build_tables, entry_point
from tests.agent.test_dmidecode import DUMPS

MUTATIONS = 100_000


@pytest.mark.parametrize("path", DUMPS, ids=lambda path: path.stem[-40:])
def test_bytes_and_text_say_the_same(path: Path) -> None:
    text = path.read_text(errors="replace")
    tables = build_tables(dmidecode.parse(text))
    told = smbios.facts(smbios.parse_tables(tables))
    assert told == dmidecode.facts(text)


@pytest.mark.skipif(not shutil.which("dmidecode"), reason="dmidecode is not installed")
@pytest.mark.parametrize("path", DUMPS[::4], ids=lambda path: path.stem[-40:])
def test_dmidecode_reads_our_tables_as_we_do(path: Path, tmp_path: Path) -> None:
    structures = dmidecode.parse(path.read_text(errors="replace"))
    for kind, fields in structures:
        if kind == 1:
            fields.update({"Serial Number": "SN 4711", "UUID": "4c4c4544-0042-3510-8054-b7c04f333732"})
    tables = build_tables(structures)
    dump = tmp_path / "dump"
    dump.write_bytes(entry_point(tables).ljust(0x20, b"\0") + tables)
    done = subprocess.run(["dmidecode", "--from-dump", dump], capture_output=True, text=True, timeout=30, check=True)
    foreign = dmidecode.facts(done.stdout)
    ours = smbios.facts(smbios.parse_tables(tables), (3, 4))
    assert ours == foreign
    assert ours["system"]["uuid"] == "4c4c4544-0042-3510-8054-b7c04f333732"


def test_the_byte_order_of_the_uuid_follows_the_version() -> None:
    raw = bytes(range(16))
    assert smbios.format_uuid(raw, (2, 6)) == "03020100-0504-0706-0809-0a0b0c0d0e0f"
    assert smbios.format_uuid(raw, (2, 5)) == "00010203-0405-0607-0809-0a0b0c0d0e0f"
    assert smbios.format_uuid(b"\xff" * 16, (3, 0)) == smbios.format_uuid(b"\0" * 16, (3, 0)) == ""


def test_entry_points() -> None:
    assert smbios.parse_entry_point(b"_SM3_\x00\x18\x03\x04\x00") == (3, 4)
    assert smbios.parse_entry_point(b"_SM_\x00\x1f\x02\x08") == (2, 8)
    assert smbios.parse_entry_point(b"") == (0, 0)


def test_a_large_dimm_and_a_large_processor_use_the_extended_fields() -> None:
    memory = Entry(17, 92)
    memory.number(0x0C, "<H", 0x7FFF)
    memory.number(0x1C, "<I", 256 * 1024)
    memory.number(0x15, "<H", 0xFFFF)
    memory.number(0x54, "<I", 70000)
    processor = Entry(4, 50)
    processor.data[5], processor.data[0x18], processor.data[0x23] = 3, 0x41, 0xFF
    processor.number(0x2A, "<H", 288)
    facts = smbios.facts(smbios.parse_tables(memory.build(1) + processor.build(2)))
    assert (facts["dimms"][0]["size_bytes"], facts["dimms"][0]["speed_mts"]) == (256 << 30, 70000)
    assert facts["cpus"][0]["cores"] == 288


def test_the_motherboard_is_named_rather_than_a_riser() -> None:
    tables = build_tables([(2, {"Product Name": "Riser"}), (2, {"Product Name": "X11", "Type": "Motherboard"})])
    assert smbios.facts(smbios.parse_tables(tables))["system"]["board_product"] == "X11"


def test_unprintable_strings_become_dots() -> None:
    assert smbios.parse_tables(b"\x01\x05\x00\x00\x01DELL\xae\x01 \0\0")[0].string(4) == "DELL.."


def test_damaged_tables_never_raise() -> None:
    texts = [path.read_text(errors="replace") for path in DUMPS]
    seeds = [build_tables(dmidecode.parse(text))[:4096] for text in texts] or [build_tables([(1, {}), (17, {})])]
    rng = random.Random(20261121)
    tracemalloc.start()
    try:
        for number in range(MUTATIONS):
            damaged = bytearray(rng.choice(seeds)[: rng.randrange(1, 700)])
            for _ in range(rng.randrange(1, 12)):
                damaged[rng.randrange(len(damaged))] = rng.choice((0, 1, 4, 17, 127, 255, rng.randrange(256)))
            structures = smbios.parse_tables(bytes(damaged))
            facts = smbios.facts(structures, (rng.randrange(4), rng.randrange(9)))
            assert sum(len(item.data) for item in structures) <= len(damaged)
            assert all(isinstance(value, str) for value in facts["system"].values())
            if number == 1000:
                before = tracemalloc.get_traced_memory()[0]
        assert tracemalloc.get_traced_memory()[0] < before + 500_000
    finally:
        tracemalloc.stop()
