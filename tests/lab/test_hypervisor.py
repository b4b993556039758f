"""The private libvirt: its own folders, and sentences when it does not run. Machines in it: test_rack.py."""

from __future__ import annotations

from pathlib import Path

import pytest

from metalbox.errors import StartError
from metalbox.lab import hypervisor
from metalbox.lab.hypervisor import Hypervisor, make_disk, tail
from metalbox.lab.machines import MIB, complete, mixed
from metalbox.lab.record import Record


def test_a_machine_of_a_lab_that_does_not_run(tmp_path: Path) -> None:
    quiet = Hypervisor(Record(tmp_path))
    (spec,) = complete(mixed(1))
    assert quiet.power(spec) == "gone"
    quiet.power_off(spec)
    with pytest.raises(StartError, match="does not run: start it with `metalbox lab up`"):
        quiet.power_on(spec)


def test_only_one_emulator_is_in_its_path_and_known_answers_are_reused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "cache"
    cache.mkdir()
    (cache / "answers.xml").write_text("<qemuCaps/>")
    monkeypatch.setattr(hypervisor, "CACHE", cache)
    quiet = Hypervisor(Record(tmp_path / "lab"))
    quiet._prepare()
    quiet._prepare()
    assert [path.name for path in (quiet.home / "bin").iterdir()] == ["qemu-system-x86_64"]
    assert (quiet.home / "cache" / "qemu" / "capabilities" / "answers.xml").read_text() == "<qemuCaps/>"


def test_new_answers_are_kept_for_the_next_rack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hypervisor, "CACHE", tmp_path / "cache" / "deep")
    quiet = Hypervisor(Record(tmp_path / "lab"))
    quiet._prepare()
    (quiet.home / "cache" / "qemu" / "capabilities" / "new.xml").write_text("<qemuCaps/>")
    quiet._keep_cache()
    assert [path.name for path in (tmp_path / "cache" / "deep").iterdir()] == ["new.xml"]


def test_the_tail_of_a_log(tmp_path: Path) -> None:
    (tmp_path / "log").write_text("1\n2\n3\n")
    assert tail(tmp_path / "log", 2) == "2\n3"
    assert tail(tmp_path / "none") == ""


def test_a_disk_is_empty_random_or_begins_with_a_file(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    make_disk(disk, 8 * MIB)
    assert (disk.stat().st_size, disk.stat().st_blocks, disk.read_bytes().strip(b"\0")) == (8 * MIB, 0, b"")
    make_disk(disk, MIB + 512, "random")
    data = disk.read_bytes()
    assert len(data) == MIB + 512
    assert len({data[place : place + 512] for place in range(0, len(data), 512)}) == len(data) // 512
    (tmp_path / "source").write_bytes(b"ext4")
    make_disk(disk, MIB, str(tmp_path / "source"))
    assert (disk.stat().st_size, disk.read_bytes().rstrip(b"\0")) == (MIB, b"ext4")
