from pathlib import Path

import pytest

from metalbox.build import contents, debs
from metalbox.build.stage import Stage
from metalbox.build.toolbox import Toolbox
from metalbox.errors import BuildError


@pytest.fixture(scope="module")
def tools(apt: debs.AptRoot, cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Toolbox:
    with debs.locked(cache):
        packages, files = apt.fetch(contents.BUILD_TOOLS)
    root = tmp_path_factory.mktemp("builder") / "stage"
    debs.unpack(files, root, key=debs.key_of(packages))
    return Toolbox(Stage(root, contents.ARCHITECTURES["x86_64"]))


def test_busybox_names_its_applets(tools: Toolbox) -> None:
    assert {"usr/bin/sh", "usr/bin/xargs", "usr/bin/mount"} <= set(tools.applets())


def test_zstd_gives_the_same_bytes_each_time(tools: Toolbox) -> None:
    data = [b"metalbox " * 10000, bytes(range(256)) * 100]
    packed = tools.zstd(data, 5)
    assert packed == tools.zstd(iter(data), 5)
    assert packed[:4] == bytes.fromhex("28b52ffd")


def test_files_are_packed_beside_each_other(tools: Toolbox, tmp_path: Path) -> None:
    files = [tmp_path / f"{number}.ko" for number in range(5)]
    for number, path in enumerate(files):
        path.write_bytes(bytes([number]) * 1000)
    tools.zstd_files(files, 3)
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"{number}.ko.zst" for number in range(5)]


def test_python_is_compiled_for_the_image(tools: Toolbox, tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text('"""doc"""\nNAMES = {"x", "y", "z"}\n')
    tools.compile_python(tmp_path, "/usr/lib/python", sourceless=True)
    first = (tmp_path / "a.pyc").read_bytes()
    assert b"/usr/lib/python/a.py" in first and str(tmp_path).encode() not in first
    assert first[4:8] == b"\1\0\0\0", "unchecked: the source is not looked at"
    tools.compile_python(tmp_path, "/usr/lib/python", sourceless=True)
    assert (tmp_path / "a.pyc").read_bytes() == first


def test_what_fails_is_named(tools: Toolbox, tmp_path: Path) -> None:
    (tmp_path / "bad.py").write_text("def (:\n")
    with pytest.raises(BuildError, match="python3 failed while building"):
        tools.compile_python(tmp_path, "/x", sourceless=True)
    with pytest.raises(BuildError, match="nothing is not in the packages"):
        tools.command("nothing")
