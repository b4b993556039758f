"""What uses a disk: md on partitions, LVM above it, mounts and swap, in trees of /sys; and stopping it from the top."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from metalbox.agent import holders
from metalbox.agent.passthrough import DriveError, Kernel
from tests.agent.snapshots import write

BLOCK = "sys/class/block"


def tree(root: Path) -> Path:
    """LVM on md127 on sda1 and sdb1; the volume is mounted, sda2 is swap."""
    files: dict[str, str | bytes] = {}
    for letter, major in (("a", 0), ("b", 16)):
        disk = f"sys/devices/sd{letter}"
        files |= {f"{BLOCK}/sd{letter}": f"->../../devices/sd{letter}", f"{disk}/dev": f"8:{major}"}
        for part in (1, 2):
            name = f"sd{letter}{part}"
            files |= {f"{BLOCK}/{name}": f"->../../devices/sd{letter}/{name}", f"{disk}/{name}/partition": str(part),
                      f"{disk}/{name}/dev": f"8:{major + part}"}  # fmt: skip
        files[f"{disk}/sd{letter}1/holders/md127"] = "->../../../md127"
    files |= {
        f"{BLOCK}/md127": "->../../devices/md127", f"{BLOCK}/dm-0": "->../../devices/dm-0",
        "sys/devices/md127/dev": "9:127", "sys/devices/dm-0/dev": "254:0",
        "sys/devices/md127/slaves/sda1": "->../../sda/sda1", "sys/devices/md127/slaves/sdb1": "->../../sdb/sdb1",
        "sys/devices/md127/holders/dm-0": "->../../dm-0", "sys/devices/dm-0/slaves/md127": "->../../md127",
        "sys/devices/dm-0/dm/name": "vg-root", "sys/devices/dm-0/dm/uuid": "LVM-abc",
        "sys/block/dm-0": "->../devices/dm-0", "sys/block/md127": "->../devices/md127",
        "sys/devices/md127/md/array_state": "active",
        "proc/self/mountinfo": "36 35 254:0 / /mnt/a\\040b rw - ext4 /dev/mapper/vg-root rw\n"
                               "37 35 9:1 / /other rw - ext4 /dev/md1 rw\n",
        "proc/swaps": "Filename Type Size Used Priority\n/dev/sda2 partition 1 0 -2\n",
    }  # fmt: skip
    return write(root, files)


class Recorded(Kernel):
    """Does nothing but remember."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.did: list[tuple[str, ...]] = []

    def unmount(self, path: str) -> None:
        self.did.append(("unmount", path))

    def swap_off(self, path: str) -> None:
        self.did.append(("swapoff", path))

    def control(self, path: str, request: int, data: bytearray) -> None:
        self.did.append(("control", path, hex(request), data[48:55].decode()))

    def set(self, path: str, text: str) -> None:
        self.did.append(("set", path, text))


def test_all_that_stands_on_a_disk_is_named(tmp_path: Path) -> None:
    root = tree(tmp_path)
    assert set(holders.holders(root, ["sda"])) == {
        "md127", "dm-0 (LVM vg-root)", "mounted at /mnt/a b", "swap on sda2",
    }  # fmt: skip
    assert "swap on sda2" not in holders.holders(root, ["sdb"])
    assert holders.holders(root, ["sdc"]) == ()


def test_it_is_stopped_from_the_top(tmp_path: Path) -> None:
    kernel = Recorded(tree(tmp_path))
    said = holders.stop(kernel, ["sda"], ["sda", "sdb"])
    assert [step[0] for step in kernel.did if step[0] != "swapoff"] == ["unmount", "control", "set"]
    assert kernel.did[-1] == ("swapoff", "/dev/sda2") or ("swapoff", "/dev/sda2") in kernel.did
    assert ("control", "/dev/mapper/control", "0xc138fd04", "vg-root") in kernel.did
    assert ("set", "sys/block/md127/md/array_state", "clear") in kernel.did
    assert said.index("stopped dm-0") < said.index("stopped md127")


def test_nothing_is_stopped_that_another_disk_has_a_part_in(tmp_path: Path) -> None:
    kernel = Recorded(tree(tmp_path))
    with pytest.raises(DriveError, match="also uses sdb, which is not to be erased"):
        holders.stop(kernel, ["sda"], ["sda"])
    assert kernel.did == []


def test_a_holder_of_an_unknown_kind_is_not_stopped(tmp_path: Path) -> None:
    root = write(tmp_path, {f"{BLOCK}/sda/dev": "8:0", f"{BLOCK}/sda/holders/drbd0": "->../../drbd0",
                            f"{BLOCK}/drbd0/slaves/sda": "->../../sda"})  # fmt: skip
    with pytest.raises(DriveError, match="drbd0 uses the disk"):
        holders.stop(Recorded(root), ["sda"], ["sda"])


def test_a_path_of_a_multipath_map_is_known(tmp_path: Path) -> None:
    root = write(tmp_path, {f"{BLOCK}/sda/holders/dm-1": "->../../dm-1", f"{BLOCK}/dm-1/dm/uuid": "mpath-36001",
                            f"{BLOCK}/dm-1/dm/name": "mpatha"})  # fmt: skip
    assert holders.is_multipath(root, "sda") and not holders.is_multipath(root, "sdb")
    assert holders.holders(root, ["sda"]) == ("dm-1 (multipath mpatha)",)


def test_the_request_to_the_device_mapper() -> None:
    request = holders.dm_request("vg-root")
    assert len(request) == 312 and struct.unpack_from("<5I", request) == (4, 0, 0, 312, 312)
    assert request[48:56] == b"vg-root\0"
