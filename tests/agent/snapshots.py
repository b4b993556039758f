"""Trees of /sys and /proc for the collectors: unpacked snapshots of real machines, and small ones written by a test."""

from __future__ import annotations

import tarfile
from pathlib import Path

import pytest

from tests.corpus import corpus


def unpack(name: str, folder: Path) -> Path:
    """A snapshot of jaypipes/ghw; skips when it was stored as a link to another repository's file."""
    archive = corpus("hw", "ghw-snapshots", f"{name}.tar.gz")
    if not tarfile.is_tarfile(archive):
        pytest.skip(f"{archive.name} is no archive")
    with tarfile.open(archive) as tar:
        tar.extractall(folder, filter="fully_trusted")
    return folder


def write(root: Path, files: dict[str, str | bytes]) -> Path:
    """Write files below root; a text that begins with "->" makes a symbolic link."""
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, bytes):
            path.write_bytes(content)
        elif content.startswith("->"):
            path.symlink_to(content[2:])
        else:
            path.write_text(content)
    return root
