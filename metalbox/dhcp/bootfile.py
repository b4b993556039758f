"""Which firmware asks, and what it is told to load: options 60, 77, 93 and 175 in; 43, 60, 66, 67 and header out."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import NamedTuple


class BootAnswer(NamedTuple):
    """What a boot client is told. `options` are encoded, most important first."""

    name: str
    siaddr: int
    sname: bytes
    file: bytes
    options: bytes


def boot_names(boot_files: Collection[str], uefi_loader: str) -> Mapping[int, str]:
    """For each client architecture the first of its boot files that exists."""
    raise NotImplementedError
