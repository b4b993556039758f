"""The folder of boot files that firmware asks for: iPXE, shim and GRUB, taken out of Debian's packages.

Signed programs are copied byte for byte: their signatures are what Secure Boot looks at.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from metalbox.build import debs
from metalbox.errors import BuildError


@dataclass(frozen=True, slots=True)
class Source:
    """Files of one package for one Debian architecture: path in the package → name in the folder."""

    package: str
    architecture: str
    files: dict[str, str]
    needed: bool = False  # without it the machines of today do not boot


IPXE = "usr/lib/ipxe"
SOURCES = (
    # The package's names differ: 12 has boot/ipxe.efi, 13 ipxe-amd64.efi and ipxe-arm64.efi; what is there is taken.
    # ipxe.pxe brings its own drivers, for the BIOS machine whose UNDI hangs.
    Source(
        "ipxe",
        "amd64",
        {
            f"{IPXE}/undionly.kpxe": "undionly.kpxe",
            f"{IPXE}/snponly.efi": "snponly.efi",
            f"{IPXE}/ipxe.pxe": "ipxe.pxe",
            f"{IPXE}/ipxe-amd64.efi": "ipxe.efi",
            "boot/ipxe.efi": "ipxe.efi",
            f"{IPXE}/ipxe-i386.efi": "ipxe-i386.efi",
            f"{IPXE}/ipxe-arm64.efi": "ipxe-arm64.efi",
            f"{IPXE}/ipxe.lkrn": "ipxe.lkrn",
            "boot/ipxe.lkrn": "ipxe.lkrn",
        },
        needed=True,
    ),
    Source("shim-signed", "amd64", {"usr/lib/shim/shimx64.efi.signed": "shimx64.efi"}),
    Source(
        "shim-helpers-amd64-signed",
        "amd64",
        {"usr/lib/shim/mmx64.efi.signed": "mmx64.efi", "usr/lib/shim/fbx64.efi.signed": "fbx64.efi"},
    ),
    # shim asks for grubx64.efi beside itself; the network build is the one with tftp in it.
    Source("grub-efi-amd64-signed", "amd64", {"usr/lib/grub/x86_64-efi-signed/grubnetx64.efi.signed": "grubx64.efi"}),
    Source("shim-signed", "arm64", {"usr/lib/shim/shimaa64.efi.signed": "shimaa64.efi"}),
    Source("shim-helpers-arm64-signed", "arm64", {"usr/lib/shim/mmaa64.efi.signed": "mmaa64.efi"}),
    Source("grub-efi-arm64-signed", "arm64", {"usr/lib/grub/arm64-efi-signed/grubnetaa64.efi.signed": "grubaa64.efi"}),
)


def fetch(
    output: Path, cache: Path, say: Callable[[str], None], *, suite: str = "", force: bool = False
) -> dict[str, Any]:
    """Fill a folder and return its manifest. What is there already from the same packages is left as it is."""
    with debs.locked(cache):
        found: dict[str, tuple[bytes, debs.Package]] = {}
        not_included: dict[str, str] = {}
        packages: dict[tuple[str, str], tuple[debs.Package, Path]] = {}
        for arch in sorted({source.architecture for source in SOURCES}):
            packages |= _packages(debs.AptRoot(cache, arch, suite), arch, not_included, say)
        inputs = debs.key_of((package for package, _ in packages.values()), *(str(source) for source in SOURCES))
        before = _unchanged(output, inputs)
        if before is not None and not force:
            say(f"{output} already has the boot files of these packages")
            return before
        for source in SOURCES:
            here = packages.get((source.package, source.architecture))
            if here is not None:
                _take(source, *here, found, not_included)
        return _write(output, inputs, found, not_included)


def _packages(
    apt: debs.AptRoot, arch: str, not_included: dict[str, str], say: Callable[[str], None]
) -> dict[tuple[str, str], tuple[debs.Package, Path]]:
    """The packages of one architecture; only the needed ones must be there."""
    sources = [source for source in SOURCES if source.architecture == arch]
    needed = any(source.needed for source in sources)
    say(f"fetching boot files for {arch}")
    try:
        apt.refresh()
        offered = apt.candidates(source.package for source in sources)
        names = [source.package for source in sources if source.package in offered]
        pairs = zip(*apt.fetch(names, alone=True), strict=True) if names else ()
        done = {(package.name, arch): (package, file) for package, file in pairs}
    except BuildError as error:
        if needed:
            raise
        not_included[arch] = str(error)
        return {}
    if apt.warning:
        say(f"warning: {apt.warning}")
    for source in sources:
        if (source.package, arch) not in done:
            if source.needed:
                raise BuildError(f"the apt sources of this machine have no package {source.package}")
            for name in source.files.values():
                not_included[name] = f"the apt sources have no {source.package} for {arch}"
    return done


def _take(
    source: Source,
    package: debs.Package,
    deb: Path,
    found: dict[str, tuple[bytes, debs.Package]],
    not_included: dict[str, str],
) -> None:
    inside = debs.read_files(deb, source.files)
    for path, name in source.files.items():
        if path in inside and name not in found:
            found[name] = (inside[path], package)
            not_included.pop(name, None)
        elif name not in found:
            not_included[name] = f"{package.name} {package.version} does not have it"


def _unchanged(output: Path, inputs: str) -> dict[str, Any] | None:
    try:
        manifest: dict[str, Any] = json.loads((output / "manifest.json").read_text())
        same = manifest["inputs"] == inputs and all(
            hashlib.sha256((output / name).read_bytes()).hexdigest() == facts["sha256"]
            for name, facts in manifest["files"].items()
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return manifest if same else None


def _write(
    output: Path, inputs: str, found: dict[str, tuple[bytes, debs.Package]], not_included: dict[str, str]
) -> dict[str, Any]:
    output.mkdir(parents=True, exist_ok=True)
    manifest = {
        "version": 1,
        "inputs": inputs,
        "files": {
            name: {
                "bytes": len(data),
                "sha256": hashlib.sha256(data).hexdigest(),
                "package": package.name,
                "package_version": package.version,
            }
            for name, (data, package) in sorted(found.items())
        },
        "not_included": not_included,
        "packages": [asdict(package) for package in sorted({package for _, package in found.values()}, key=str)],
    }
    text = json.dumps(manifest, indent=1) + "\n"
    for name, data in {**{name: data for name, (data, _) in found.items()}, "manifest.json": text.encode()}.items():
        partial = output / f".{name}.new"
        partial.write_bytes(data)
        partial.replace(output / name)
    return manifest
