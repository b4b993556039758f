"""What this process holds open: which files, not how many. One that the collector closes meanwhile does not count."""

from __future__ import annotations

from pathlib import Path


def opened() -> set[tuple[str, Path]]:
    """Each descriptor and what it leads to (inodes tell sockets apart); what opened since is `opened() - before`."""
    found = set()
    for link in Path("/proc/self/fd").iterdir():
        try:
            found.add((link.name, link.readlink()))
        except FileNotFoundError:  # The listing's own.
            continue
    return found
