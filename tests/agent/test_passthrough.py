"""The thin layer on real block devices (loops), and the structures that it hands to the kernel."""

from __future__ import annotations

import errno
import struct
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from metalbox.agent import eraser, passthrough
from metalbox.agent.passthrough import Device, DriveError, Kernel
from tests.agent.drives import MIB, Asked
from tests.agent.loops import LoopKernel, loop, order_for
from tests.agent.snapshots import write

MARKS = {"uuid": "4c4c4544-0042-3510-8054-b7c04f333732", "serial": "MB42", "macs": []}


def test_the_structures_have_the_kernels_sizes() -> None:
    assert struct.calcsize(passthrough.NVME_FORMAT) == 72 and struct.calcsize(passthrough.SG_FORMAT) == 88


@pytest.fixture
def ioctls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, bytes]]:
    seen: list[tuple[int, bytes]] = []

    def ioctl(_descriptor: int, request: int, data: bytearray) -> int:
        seen.append((request, bytes(data)))
        if request == passthrough.SG_IO:
            data[64], data[67] = 2, 8  # status, bytes of sense written
        return 0x4002

    monkeypatch.setattr("metalbox.agent.passthrough.fcntl.ioctl", ioctl)
    return seen


def test_a_nvme_command_is_packed_as_the_kernel_wants_it(ioctls: list[tuple[int, bytes]]) -> None:
    device = Device("null")
    assert device.nvme(0x84, nsid=3, cdw10=0x1A, cdw11=7, seconds=2.5) == (0x4002, b"")
    (request, raw) = ioctls[0]
    assert request == 0xC0484E41 and raw[0] == 0x84
    assert struct.unpack_from("<I", raw, 4) == (3,) and struct.unpack_from("<II", raw, 40) == (0x1A, 7)
    assert struct.unpack_from("<I", raw, 64) == (2500,)
    device.close()


def test_a_scsi_command_is_packed_as_the_kernel_wants_it(ioctls: list[tuple[int, bytes]]) -> None:
    device = Device("null")
    answer = device.scsi(b"\x48" + bytes(9), send=b"\1" * 8, seconds=3)
    assert (answer.status, len(answer.sense), answer.data) == (2, 8, b"")
    (request, raw) = ioctls[0]
    assert request == 0x2285
    assert struct.unpack_from("<iiBBHI", raw) == (ord("S"), -2, 10, 64, 0, 8)
    assert struct.unpack_from("<I", raw, 40) == (3000,)
    device.close()


@pytest.mark.root
def test_reading_writing_and_discarding_past_the_page_cache(tmp_path: Path) -> None:
    file = tmp_path / "disk"
    with loop(file, 8 * MIB) as name:
        device = Kernel().open(name, exclusive=True)
        assert device.size() == 8 * MIB
        assert device.read(MIB, 4096) == file.read_bytes()[MIB : MIB + 4096]
        device.write(0, b"\xaa" * 4096)
        device.sync()
        assert bytes(device.read(0, 4096)) == b"\xaa" * 4096
        device.discard(4 * MIB, 4 * MIB)
        assert not any(device.read(4 * MIB, MIB))
        with pytest.raises(OSError, match="busy"):
            Kernel().open(name, exclusive=True)
        device.forget()
        device.close()
        assert file.read_bytes()[4 * MIB :].count(0) == 4 * MIB
        with pytest.raises(OSError, match="/sys says 1:1"):
            Device(name, number="1:1")


@pytest.mark.root
@pytest.mark.parametrize(("method", "verify"), [("overwrite", "sample"), ("overwrite", "full")])
def test_real_block_devices_are_erased(
    method: str, verify: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(eraser, "marks", lambda _root: MARKS)
    with loop(tmp_path / "a", 21 * MIB + 512) as one, loop(tmp_path / "b", 9 * MIB, 2) as two:
        kernel = LoopKernel({one: "A", two: "B"})
        outcome = eraser.work(Asked(order_for(kernel, MARKS, method, verify=verify)), kernel)  # type: ignore[arg-type]
    assert [(disk["result"], disk["evidence"]) for disk in outcome["disks"]] == [("erased", "")] * 2
    assert not any((tmp_path / "a").read_bytes()) and not any((tmp_path / "b").read_bytes())
    assert outcome["disks"][0]["verification"]["full"] is (verify == "full")


@contextmanager
def seen_by_all(folder: Path) -> Iterator[None]:
    """What is unmounted below this folder is unmounted everywhere.

    `ip netns exec`, as any test may run it beside, takes a copy of all mounts. Below a private root (in a container) it
    would keep the file system, and the disk busy, for as long as it runs.
    """
    subprocess.run(["mount", "--bind", "--make-shared", folder, folder], check=True, timeout=30)
    try:
        yield
    finally:
        subprocess.run(["umount", folder], check=True, timeout=30)


@pytest.mark.root
def test_a_mounted_file_system_is_unmounted_only_where_it_is_ordered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(eraser, "marks", lambda _root: MARKS)
    place = tmp_path / "a place"
    place.mkdir()
    with loop(tmp_path / "a", 16 * MIB) as name, seen_by_all(tmp_path):
        subprocess.run(["mkfs.ext4", "-q", "-F", f"/dev/{name}"], check=True, timeout=30)
        subprocess.run(["mount", f"/dev/{name}", place], check=True, timeout=30)
        kernel = LoopKernel({name: "A"})
        data = order_for(kernel, MARKS, "overwrite")
        data["disks"][0]["preparations"] = []
        try:
            (disk,) = eraser.work(Asked(data), kernel)["disks"]  # type: ignore[arg-type]
            assert disk["result"] == "refused" and "busy" in disk["evidence"].lower() and place.is_mount()
            data["disks"][0]["preparations"] = ["stop-holders"]
            (disk,) = eraser.work(Asked(data), kernel)["disks"]  # type: ignore[arg-type]
            assert disk["result"] == "erased" and not place.is_mount()
            assert disk["preparations"] == [
                {"what": "stop-holders", "result": "done", "evidence": f"unmounted {place}"}
            ]
        finally:
            if place.is_mount():
                subprocess.run(["umount", place], check=True, timeout=30)


@pytest.mark.parametrize(
    ("files", "words"),
    [({"sys/power/state": "freeze disk"}, "cannot suspend"), ({"sys/power/state": "freeze mem"}, "no clock")],
)
def test_a_machine_that_cannot_sleep_or_wake_is_not_put_to_sleep(files: Any, words: str, tmp_path: Path) -> None:
    kernel = Kernel()
    kernel.root = write(tmp_path, files)
    with pytest.raises(DriveError, match=words) as caught:
        kernel.sleep(10)
    assert not caught.value.begun and (tmp_path / "sys/power/state").read_text() == files["sys/power/state"]


def test_partitions_are_those_of_the_kernel(tmp_path: Path) -> None:
    kernel = Kernel()
    kernel.root = write(
        tmp_path,
        {
            "sys/class/block/sda/sda1/partition": "1", "sys/class/block/sda/sda1/start": "2048",
            "sys/class/block/sda/sda1/size": "8", "sys/class/block/sda/queue/nr": "1",
        },
    )  # fmt: skip
    assert kernel.partitions("sda") == [(MIB, 4096)]


def test_a_failed_system_call_is_an_oserror() -> None:
    with pytest.raises(OSError, match=r"No such file|not permitted") as caught:
        Kernel().unmount("/nowhere/at/all")
    assert caught.value.errno in (errno.ENOENT, errno.EPERM)
