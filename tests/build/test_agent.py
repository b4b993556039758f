import contextlib
import hashlib
import json
import os
import re
import select
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from metalbox.build import agent, contents, debs
from metalbox.build.initramfs import File, Link, Node
from metalbox.cli import agent as command
from metalbox.errors import BuildError
from tests.build.conftest import Built

INIT = Path(agent.__file__).with_name("init")
USED = "mount mkdir head find sort grep xargs mv cat sed hostname setsid sleep modprobe python3 sh"
DEPENDENCIES: dict[str, tuple[str, ...]] = {
    "ahci": ("kernel/ahci.ko", "kernel/libahci.ko", "kernel/libata.ko"),
    "libahci": ("kernel/libahci.ko", "kernel/libata.ko"),
    "libata": ("kernel/libata.ko",),
    "raid456": ("kernel/raid456.ko",),
    "crc32c_intel": ("kernel/crc32c-intel.ko",),
}


def test_a_module_brings_what_it_needs_and_would_like() -> None:
    assert agent.module_closure("ahci", DEPENDENCIES, {}) == {"ahci", "libahci", "libata"}
    soft = {"raid456": ("crc32c_intel", "built_in")}
    assert agent.module_closure("raid456", DEPENDENCIES, soft) == {"raid456", "crc32c_intel"}
    assert agent.module_closure("absent", DEPENDENCIES, {}) == frozenset()


def test_memory_needed_is_a_multiple_of_32_and_grows_by_twice_the_files() -> None:
    assert agent.ram_mib(56 * 2**20) == 256
    assert agent.ram_mib(100 * 2**20) == 320


def test_parts_are_summed_by_kind() -> None:
    tree: dict[str, Node] = {
        "usr/lib/modules/6/a.ko.zst": File(b"12"),
        "usr/lib/python3.11/os.pyc": File(b"123"),
        "usr/bin/python3": Link("python3.11"),
        "usr/lib/metalbox/metalbox/agent/x.py": File(b"1"),
        "usr/sbin/nvme": File(b"1234"),
        "etc/hosts": File(b"1"),
    }
    assert agent.parts(tree) == {"programs": 4, "python": 3, "kernel modules": 2, "agent": 1, "data": 1}


def test_init_is_shell_and_uses_what_is_in_the_image(built: Built) -> None:
    if shutil.which("busybox"):
        subprocess.run(["busybox", "sh", "-n", str(INIT)], check=True)
    listing = set(contents_of(built))
    for name in USED.split():
        assert re.search(rf"\b{name}\b", INIT.read_text()), f"{name} is no longer used"
        assert f"usr/bin/{name}" in listing or f"usr/sbin/{name}" in listing


def test_its_first_word_is_the_marker() -> None:
    lines = [line for line in INIT.read_text().splitlines() if line and not line.startswith("#")]
    assert lines[0] == 'echo "metalbox: init"'


def contents_of(built: Built) -> list[str]:
    if shutil.which("zstd") is None or shutil.which("cpio") is None:
        pytest.skip("needs zstd and cpio")
    plain = subprocess.run(["zstd", "-dc", str(built.folder / "initrd")], capture_output=True, check=True).stdout
    return (
        subprocess.run(["cpio", "-t", "--quiet"], input=plain, capture_output=True, check=True)
        .stdout.decode()
        .split("\n")
    )


def test_the_image_has_what_the_agent_and_later_steps_need(built: Built) -> None:
    listing = contents_of(built)
    names = {path.rpartition("/")[2] for path in listing}
    assert {
        "nvme",
        "hdparm",
        "sg_format",
        "ipmitool",
        "dmidecode",
        "kexec",
        "blkdiscard",
        "wipefs",
        "smartctl",
    } <= names
    drivers = (
        "igb ixgbe i40e ice bnxt_en tg3 mlx5_core r8169 virtio_net vmxnet3 nvme ahci mpt3sas megaraid_sas hpsa 8021q"
    )
    assert {f"{name}.ko.zst" for name in drivers.split()} <= names
    assert "usr/lib/metalbox/metalbox/agent/__init__.py" in listing
    assert "init" in listing and "dev/console" in listing
    assert [path for path in listing if path][-1].startswith("var/")


def test_the_manifest_tells_the_truth(built: Built) -> None:
    manifest = json.loads((built.folder / "manifest.json").read_text())
    for name, facts in manifest["files"].items():
        data = (built.folder / name).read_bytes()
        assert (len(data), hashlib.sha256(data).hexdigest()) == (facts["bytes"], facts["sha256"])
    assert {"python3", "nvme-cli", "busybox"} <= {package["name"] for package in manifest["packages"]}
    assert manifest["unpacked_bytes"] < 80e6
    text = command.table(manifest, built.folder)
    assert "MiB of RAM" in text and "nvme-cli" in text


def test_equal_inputs_give_equal_bytes(built: Built, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another folder, another time, a cache that holds only the downloaded packages."""
    cache = tmp_path / "elsewhere"
    copy = os.link if same_disk(built.cache, tmp_path) else shutil.copy
    with debs.locked(built.cache):
        shutil.copytree(built.cache / "debs", cache / "debs", copy_function=copy)
        shutil.copytree(built.cache / "apt", cache / "apt")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TZ", "Pacific/Auckland")
    options = agent.Options(contents.ARCHITECTURES["x86_64"], tmp_path / "out", cache, level=1)
    second = agent.build(options, lambda line: None)
    assert second["files"] == built.manifest["files"]
    first = json.loads((built.folder / "manifest.json").read_text())
    assert json.loads((tmp_path / "out/x86_64/manifest.json").read_text()) == first


def same_disk(one: Path, other: Path) -> bool:
    return one.stat().st_dev == other.stat().st_dev


def test_nothing_is_done_twice(built: Built) -> None:
    said: list[str] = []
    options = agent.Options(contents.ARCHITECTURES["x86_64"], built.folder.parent, built.cache, level=1)
    before = (built.folder / "initrd").stat().st_mtime_ns
    assert agent.build(options, said.append)["files"] == built.manifest["files"]
    assert (built.folder / "initrd").stat().st_mtime_ns == before
    assert said[-1].endswith("is already built from the same packages and agent")


def test_an_unknown_extra_package_is_a_sentence(built: Built, tmp_path: Path) -> None:
    options = agent.Options(contents.ARCHITECTURES["x86_64"], tmp_path, built.cache, extra=("no-such-thing",))
    with pytest.raises(BuildError, match="no package 'no-such-thing'"):
        agent.build(options, lambda line: None)


@contextlib.contextmanager
def machine(built: Built, memory: int) -> Iterator[subprocess.Popen[bytes]]:
    arguments = f"""-M q35 -accel tcg -m {memory} -nodefaults -display none -serial stdio -no-reboot
        -kernel {built.folder}/vmlinuz -initrd {built.folder}/initrd
        -netdev user,id=n0,restrict=on -device virtio-net-pci,netdev=n0,romfile=""".split()
    process = subprocess.Popen(
        ["qemu-system-x86_64", *arguments, "-append", "console=ttyS0 quiet metalbox.server=http://10.0.2.2:9"],
        stdout=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        if process.stdout:
            process.stdout.close()


def console(process: subprocess.Popen[bytes], until: str, seconds: float) -> str:
    """The serial console up to a text; what there is of it when the time is over."""
    assert process.stdout is not None
    text, end = b"", time.monotonic() + seconds
    while until.encode() not in text and time.monotonic() < end:
        if select.select([process.stdout], [], [], 1)[0]:
            piece = os.read(process.stdout.fileno(), 65536)
            if not piece:
                break
            text += piece
    return text.decode(errors="replace")


@pytest.mark.firmware
def test_it_boots_to_the_agent_in_the_memory_that_it_says(built: Built) -> None:
    if shutil.which("qemu-system-x86_64") is None:
        pytest.skip("needs qemu-system-x86")
    with machine(built, built.manifest["ram_mib"]) as process:
        text = console(process, "metalbox: agent ", 400)
    marks = [text.find(mark) for mark in ("metalbox: init", "metalbox: drivers loaded", "metalbox: agent ")]
    assert -1 not in marks and marks == sorted(marks), text
    assert "not found" not in text and "too little memory" not in text, text
