import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from metalbox.build import elf

PROGRAMS = [
    path
    for path in map(Path, ("/bin/ls", "/usr/bin/apt-get", "/usr/bin/tar", "/bin/mount", sys.executable))
    if path.exists()
]


@pytest.mark.parametrize("path", PROGRAMS, ids=str)
def test_needed_is_what_readelf_says(path: Path) -> None:
    if shutil.which("readelf") is None:
        pytest.skip("needs readelf (binutils)")
    text = subprocess.run(["readelf", "-dl", str(path)], capture_output=True, text=True, check=True).stdout
    found = elf.dynamic(path.read_bytes())
    assert list(found.needed) == re.findall(r"\(NEEDED\).*\[(.+?)\]", text)
    assert found.interpreter == "".join(re.findall(r"interpreter: (\S+?)\]", text))
    assert list(found.paths) == [
        part for row in re.findall(r"R(?:UN)?PATH\).*\[(.+?)\]", text) for part in row.split(":")
    ]


def test_libraries_follow_each_other_and_a_missing_one_is_named() -> None:
    real = Path("/bin/ls").read_bytes()
    wanted = elf.dynamic(real).needed
    found, missing = elf.libraries(
        ["/bin/ls"], lambda path: real if path == "/bin/ls" else b"text", lambda s, w, p: None
    )
    assert found == frozenset()
    assert missing == {("/bin/ls", soname) for soname in wanted}
    found, missing = elf.libraries(
        ["/bin/ls"], lambda path: real if path == "/bin/ls" else b"text", lambda s, w, p: f"/lib/{s}"
    )
    assert found == {f"/lib/{soname}" for soname in wanted}
    assert not missing


def test_a_cut_off_file_is_a_value_error() -> None:
    data = Path("/bin/ls").read_bytes()
    for length in (5, 20, 60, 100):
        with pytest.raises(ValueError, match="not a readable ELF file"):
            elf.dynamic(data[:length])


def test_modinfo_of_a_module(tmp_path: Path) -> None:
    if shutil.which("as") is None or shutil.which("objcopy") is None:
        pytest.skip("needs as and objcopy (binutils)")
    info = tmp_path / "info"
    info.write_bytes(b"license=GPL\0alias=pci:v1*\0alias=pci:v2*\0depends=libata,scsi_mod\0firmware=x/y.bin\0")
    plain, module = tmp_path / "plain.o", tmp_path / "module.ko"
    subprocess.run(["as", "-o", str(plain), "-"], input=b"", check=True)
    subprocess.run(["objcopy", "--add-section", f".modinfo={info}", str(plain), str(module)], check=True)
    assert elf.modinfo(module.read_bytes()) == {
        "license": ("GPL",),
        "alias": ("pci:v1*", "pci:v2*"),
        "depends": ("libata,scsi_mod",),
        "firmware": ("x/y.bin",),
    }
    assert elf.modinfo(plain.read_bytes()) == {}
