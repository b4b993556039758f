import shutil
import stat
import subprocess
from pathlib import Path

import pytest

from metalbox.build.initramfs import Device, File, Folder, Link, Node, pack, unpacked_bytes, with_folders

TREE: dict[str, Node] = {
    "init": File(b"#!/bin/sh\n", 0o755),
    "usr/bin/busybox": File(b"x" * 5001, 0o755),
    "bin": Link("usr/bin"),
    "tmp": Folder(0o1777),
    "dev/console": Device(5, 1),
    "etc/empty": File(b""),
    "etc/ünïcode": File(b"odd\n"),
}


def test_one_record_is_the_bytes_that_the_kernel_documents() -> None:
    expected = (
        b"070701" b"00000001" b"000081A4" b"00000000" b"00000000" b"00000001" b"0000002A" b"00000003" b"00000000"
        b"00000000" b"00000000" b"00000000" b"00000002" b"00000000" b"a\0" b"hi\n\0"
    )  # fmt: skip
    trailer = (
        b"070701" + b"00000000" * 4 + b"00000001" + b"00000000" * 6 + b"0000000B" + b"00000000" + b"TRAILER!!!\0\0\0\0"
    )
    assert b"".join(pack({"a": File(b"hi\n")}, 42)) == expected + trailer


def test_equal_trees_in_any_order_give_equal_bytes() -> None:
    turned = dict(reversed(TREE.items()))
    assert b"".join(pack(TREE, 1)) == b"".join(pack(turned, 1))


def test_parents_are_added_and_come_first() -> None:
    names = sorted(with_folders(TREE))
    assert names.index("usr") < names.index("usr/bin") < names.index("usr/bin/busybox")


def test_a_file_below_a_link_is_refused() -> None:
    with pytest.raises(ValueError, match="'bin/sh' lies below 'bin', which is not a folder"):
        list(pack({**TREE, "bin/sh": File(b"")}, 0))


def test_unpacked_size_counts_pages() -> None:
    assert unpacked_bytes(TREE) == 4096 + 8192 + 4096


def test_cpio_itself_extracts_it(tmp_path: Path) -> None:
    if shutil.which("cpio") is None:
        pytest.skip("needs cpio")
    tree = {path: node for path, node in TREE.items() if not isinstance(node, Device)}
    subprocess.run(["cpio", "-idm", "--quiet"], input=b"".join(pack(tree, 86400)), cwd=tmp_path, check=True)
    assert (tmp_path / "init").read_bytes() == b"#!/bin/sh\n"
    assert (tmp_path / "init").stat().st_mtime == 86400
    assert stat.S_IMODE((tmp_path / "init").stat().st_mode) == 0o755
    assert stat.S_IMODE((tmp_path / "tmp").stat().st_mode) == 0o1777
    assert str((tmp_path / "bin").readlink()) == "usr/bin"
    assert (tmp_path / "bin/busybox").stat().st_size == 5001
    assert (tmp_path / "etc/ünïcode").read_text() == "odd\n"


def test_cpio_itself_lists_the_device() -> None:
    if shutil.which("cpio") is None:
        pytest.skip("needs cpio")
    archive = b"".join(pack(TREE, 0))
    text = subprocess.run(["cpio", "-tv", "--quiet"], input=archive, capture_output=True, check=True).stdout.decode()
    console = next(line for line in text.splitlines() if line.endswith("dev/console"))
    assert console.startswith("crw-------") and "5,   1" in console
