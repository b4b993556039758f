from pathlib import Path

import pytest

from metalbox.build.contents import ARCHITECTURES
from metalbox.build.initramfs import File, Folder, Link
from metalbox.build.stage import Stage, canonical
from metalbox.errors import BuildError


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    for folder in ("usr/bin", "usr/sbin", "usr/lib/x86_64-linux-gnu", "etc"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "usr/bin/tool-2").write_bytes(b"tool")
    (tmp_path / "usr/bin/tool-2").chmod(0o755)
    (tmp_path / "usr/sbin/tool").symlink_to("/bin/tool-2")
    (tmp_path / "usr/lib/x86_64-linux-gnu/liba.so.1").symlink_to("liba.so.1.2")
    (tmp_path / "usr/lib/x86_64-linux-gnu/liba.so.1.2").write_bytes(b"lib")
    (tmp_path / "etc/loop").symlink_to("loop")
    return Stage(tmp_path, ARCHITECTURES["x86_64"])


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/bin/sh", "usr/bin/sh"),
        ("lib64/ld.so", "usr/lib64/ld.so"),
        ("usr/lib/../bin/ip", "usr/bin/ip"),
        ("etc/x", "etc/x"),
        ("../../../etc/x", "etc/x"),
    ],
)
def test_paths_of_the_merged_tree(path: str, expected: str) -> None:
    assert canonical(path) == expected


def test_a_link_comes_with_what_it_leads_to(stage: Stage) -> None:
    assert stage.program("tool") == "usr/sbin/tool"
    stage.add("usr/sbin/tool")
    assert stage.tree == {"usr/sbin/tool": Link("/bin/tool-2"), "usr/bin/tool-2": File(b"tool", 0o755)}


def test_a_library_is_found_where_the_loader_looks(stage: Stage) -> None:
    assert stage.library("liba.so.1") == "usr/lib/x86_64-linux-gnu/liba.so.1"
    assert stage.library("libb.so.1") is None


def test_folders_keep_their_place(stage: Stage) -> None:
    stage.add("usr/lib")
    assert stage.tree == {"usr/lib": Folder()}


def test_what_is_missing_or_endless_is_said(stage: Stage) -> None:
    with pytest.raises(BuildError, match="usr/bin/none is not in the packages"):
        stage.add("usr/bin/none")
    with pytest.raises(BuildError, match="too many links"):
        stage.real("etc/loop")


def test_files_below_are_sorted(stage: Stage) -> None:
    assert stage.files_below("usr/bin") == ["usr/bin/tool-2"]
