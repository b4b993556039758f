from pathlib import Path

from metalbox.build import bootfiles, debs


def test_the_folder_is_filled_and_then_left_alone(apt: debs.AptRoot, cache: Path, tmp_path: Path) -> None:
    output = tmp_path / "boot"
    manifest = bootfiles.fetch(output, cache, lambda line: None)
    assert {"undionly.kpxe", "snponly.efi", "ipxe.efi", "shimx64.efi", "grubx64.efi", "mmx64.efi"} <= set(
        manifest["files"]
    )
    assert {path.name for path in output.iterdir()} == {*manifest["files"], "manifest.json"}
    for name in manifest["files"]:
        if name.endswith(".efi"):
            assert (output / name).read_bytes()[:2] == b"MZ"
    # GRUB signed by Debian, with tftp in it.
    assert b"tftp" in (output / "grubx64.efi").read_bytes()

    stamps = {path.name: path.stat().st_mtime_ns for path in output.iterdir()}
    said: list[str] = []
    assert bootfiles.fetch(output, cache, said.append) == manifest
    assert stamps == {path.name: path.stat().st_mtime_ns for path in output.iterdir()}
    assert said[-1] == f"{output} already has the boot files of these packages"

    (output / "snponly.efi").write_bytes(b"damaged")
    bootfiles.fetch(output, cache, said.append)
    assert (output / "snponly.efi").read_bytes()[:2] == b"MZ"
