import os
import shutil
import subprocess
from pathlib import Path

import pytest

from metalbox.build import debs
from metalbox.errors import BuildError

ONE_LINE = """# comment
deb http://a.example/debian bookworm main
deb [signed-by=/k.gpg] http://a.example/debian bookworm-updates main contrib
deb-src http://a.example/debian bookworm main
deb http://b.example/tool stable main
"""
DEB822 = """Types: deb
URIs: http://a.example/debian
Suites: bookworm bookworm-updates
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Types: deb
URIs: http://a.example/debian-security
Suites: bookworm-security
Components: main

Types: deb
URIs: http://b.example/tool
Suites: stable
Components: main
"""


def test_print_uris_becomes_packages() -> None:
    text = (
        "'http://a.example/pool/h/hdparm_9.65%2bds-1_amd64.deb' hdparm_9.65+ds-1_amd64.deb 116200 SHA256:"
        + "ab" * 32
        + "\n"
        "'http://a.example/pool/a/adduser.deb' adduser_1%3a3.134_all.deb 183272 SHA256:" + "cd" * 32 + "\n"
        "some other line\n"
    )
    assert debs.parse_uris(text) == (
        debs.Package("adduser", "1:3.134", "all", "adduser_1%3a3.134_all.deb", 183272, "cd" * 32),
        debs.Package("hdparm", "9.65+ds-1", "amd64", "hdparm_9.65+ds-1_amd64.deb", 116200, "ab" * 32),
    )


def test_one_line_sources_are_turned_to_another_suite() -> None:
    assert debs.rewrite_sources(ONE_LINE, "bookworm", "trixie") == (
        "deb http://a.example/debian trixie main\n"
        "deb [signed-by=/k.gpg] http://a.example/debian trixie-updates main contrib\n"
    )


def test_deb822_sources_are_turned_to_another_suite() -> None:
    text = debs.rewrite_sources(DEB822, "bookworm", "trixie")
    assert "Suites: trixie trixie-updates\n" in text
    assert "Suites: trixie-security\n" in text
    assert "b.example" not in text
    assert text.count("\n\n") == 1


def test_sources_that_never_name_the_suite_give_nothing() -> None:
    assert debs.rewrite_sources("deb http://b.example/tool stable main\n", "bookworm", "trixie") == ""


def test_without_apt_it_says_where_to_build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BuildError, match="build on Debian 12 or 13"):
        debs.AptRoot(tmp_path, "amd64")


def make_deb(folder: Path, name: str, files: dict[str, str]) -> Path:
    if shutil.which("dpkg-deb") is None:
        pytest.skip("needs dpkg-deb")
    root = folder / name
    (root / "DEBIAN").mkdir(parents=True)
    (root / "DEBIAN/control").write_text(
        f"Package: {name}\nVersion: 1\nArchitecture: all\nMaintainer: a <a@a.example>\nDescription: x\n"
    )
    for path, text in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)
    deb = folder / f"{name}.deb"
    command = ["dpkg-deb", "--build", "--root-owner-group", str(root), str(deb)]
    subprocess.run(command, check=True, capture_output=True)
    return deb


def test_unpacking_merges_lib_into_usr_and_leaves_documentation_out(tmp_path: Path) -> None:
    old = make_deb(tmp_path, "old", {"lib/a.so": "a", "sbin/tool": "t", "usr/share/doc/old/copyright": "c"})
    new = make_deb(tmp_path, "new", {"usr/lib/b.so": "b", "usr/sbin/other": "o"})
    into = tmp_path / "stage"
    assert debs.unpack([old, new], into, key="1")
    assert {path.name for path in (into / "usr/lib").iterdir()} == {"a.so", "b.so"}
    assert {path.name for path in (into / "usr/sbin").iterdir()} == {"tool", "other"}
    assert (into / "sbin").is_symlink()
    assert not (into / "usr/share/doc").exists()
    assert not debs.unpack([old, new], into, key="1"), "the same key means it is done"
    assert debs.unpack([new], into, key="2")
    assert not (into / "usr/lib/a.so").exists()


def test_files_are_read_out_of_a_package(tmp_path: Path) -> None:
    deb = make_deb(tmp_path, "one", {"lib/a": "A", "usr/lib/ipxe/b": "B"})
    assert debs.list_files(deb) == ["usr/lib/a", "usr/lib/ipxe/b"]
    assert debs.read_files(deb, ["usr/lib/a", "usr/lib/none"]) == {"usr/lib/a": b"A"}


def test_a_broken_package_is_a_sentence(tmp_path: Path) -> None:
    broken = tmp_path / "broken.deb"
    broken.write_bytes(b"not a package")
    with pytest.raises(BuildError, match=r"cannot unpack broken\.deb"):
        debs.unpack([broken], tmp_path / "stage", key="1")


def test_a_damaged_download_is_fetched_again(apt: debs.AptRoot, cache: Path) -> None:
    with debs.locked(cache):
        packages, files = apt.fetch(["pci.ids"], alone=True)
        whole = files[0].read_bytes()
        files[0].write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        try:
            assert apt.download(packages) == files
            assert files[0].read_bytes() == whole
        finally:
            if files[0].read_bytes() != whole:
                files[0].unlink()


def test_an_unknown_package_is_a_sentence(apt: debs.AptRoot) -> None:
    with pytest.raises(BuildError, match="no-such-package"):
        apt.resolve(["no-such-package"])
    assert apt.candidates(["no-such-package", "busybox"]) == {"busybox"}


def test_the_machine_is_left_alone(apt: debs.AptRoot) -> None:
    dump = subprocess.run(
        ["apt-config", "dump"],
        env={**os.environ, "APT_CONFIG": str(apt.root / "apt.conf")},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert f'Dir::State::lists "{apt.root}/lists";' in dump
    assert "Post-Invoke" not in dump
