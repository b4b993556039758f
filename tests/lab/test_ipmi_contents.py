"""The bytes of an IPMI BMC's FRU and sensor records. ipmitool and pyghmi read them: test_bmcs.py, tests/power."""

from __future__ import annotations

from metalbox.lab import ipmi_contents
from metalbox.lab.ipmi_contents import GAUGES
from metalbox.lab.machines import MachineSpec, complete

(SPEC,) = complete([MachineSpec(vendor="Kestrel", product="K", serial="LAB0001", asset="AT-0001")])


def test_every_area_begins_where_the_header_says_and_sums_to_nothing() -> None:
    data = ipmi_contents.fru(SPEC)
    assert len(data) < ipmi_contents.FRU_SIZE
    assert sum(data[:8]) % 256 == 0
    places = [offset * 8 for offset in data[2:5]]
    for place, end in zip(places, [*places[1:], len(data)], strict=True):
        area = data[place:end]
        assert (area[0], area[1] * 8, sum(area) % 256) == (1, len(area), 0)


def test_the_product_area_has_the_machines_names() -> None:
    data = ipmi_contents.fru(SPEC)
    product = data[data[4] * 8 :]
    assert product[3:].startswith(b"\xc7Kestrel\xc2K \xc0\xc0\xc7LAB0001\xc7AT-0001\xc0\xc1")


def test_a_uuid_is_told_in_smbios_order() -> None:
    assert ipmi_contents.guid("f2b1de8f-e12a-5028-8198-2a88a09e820d") == "8fdeb1f22ae128508198" + "2a88a09e820d"


def test_a_sensors_record_says_its_own_length_and_limits() -> None:
    record = ipmi_contents.sensor_record(1, GAUGES[0])
    assert record[:6] == bytes((0, 0, 0x51, 1, len(record) - 5, 0x20))
    assert record[7] == 1
    assert record[36:39] == bytes((95, 90, 85))
    assert record[47:] == b"\xc8CPU Temp"


def test_the_commands_make_the_bmc_before_its_parts_and_switch_it_on_last() -> None:
    lines = ipmi_contents.commands(SPEC).splitlines()
    assert lines[1].startswith("mc_add 0x20 0 no-device-sdrs 0x23 9 8 0x9f 0x1291 0xf02 ")
    assert lines[-1] == "mc_enable 0x20"
    assert sum(line.startswith("main_sdr_add") for line in lines) == len(GAUGES)
