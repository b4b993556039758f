"""Small files that are absent, refuse to be read, or hold something else."""

from __future__ import annotations

from pathlib import Path

import pytest

from metalbox.agent import sysfs
from tests.agent.snapshots import write


def test_values(tmp_path: Path) -> None:
    root = write(tmp_path, {"size": "2048\n", "vendor": "0x8086\n", "model": " QEMU HARDDISK   \n", "nul": b"ab\0c\0"})
    assert sysfs.number(root / "size") == 2048
    assert sysfs.number(root / "vendor") == 0x8086
    assert sysfs.text(root / "model") == "QEMU HARDDISK"
    assert sysfs.text(root / "nul") == "ab c"
    assert sysfs.truth(root / "size") is True


def test_what_cannot_be_read_is_absent(tmp_path: Path) -> None:
    missing = tmp_path / "missing"
    assert sysfs.content(tmp_path) == b""  # a folder
    assert sysfs.text(missing) == "" and sysfs.number(missing) is None and sysfs.truth(missing) is None
    assert sysfs.link_name(missing) == "" and sysfs.entries(missing) == []


def test_entries_are_in_the_order_people_count(tmp_path: Path) -> None:
    for name in ("sdaa", "sdb", "sda"):
        (tmp_path / name).touch()
    assert [path.name for path in sysfs.entries(tmp_path)] == ["sda", "sdb", "sdaa"]


@pytest.mark.parametrize(
    ("path", "address"),
    [
        ("/sys/devices/pci0000:00/0000:00:1c.0/0000:03:00.0/host2/target2:2:0/2:2:0:0/block/sda", "0000:03:00.0"),
        ("/sys/devices/pci0000:00/0000:00:0e.0/pci10000:e0/10000:e0:06.0/10000:e1:00.0/nvme/nvme0", "10000:e1:00.0"),
        ("/sys/devices/platform/soc/mmc_host/mmc0", ""),
    ],
)
def test_pci_addresses(path: str, address: str) -> None:
    assert sysfs.pci_address(Path(path)) == address
