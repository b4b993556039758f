"""Picks files out of an unpacked tree of packages into an image's tree: programs, their libraries, modules, data."""

from __future__ import annotations

import os
import posixpath
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

from metalbox.build import elf
from metalbox.build.contents import Architecture
from metalbox.build.initramfs import File, Folder, Link, Node
from metalbox.errors import BuildError

MERGED = ("bin", "sbin", "lib", "lib64")


def canonical(path: str) -> str:
    """A relative path as the merged tree has it: `/lib/../bin/ip` → `usr/bin/ip`."""
    clean = posixpath.normpath("/" + path).lstrip("/")
    return f"usr/{clean}" if clean.split("/", 1)[0] in MERGED else clean


class Stage:
    """An unpacked tree, read through the eyes of the image: links lead to places in the tree, never outside of it."""

    def __init__(self, root: Path, arch: Architecture) -> None:
        self.root = root
        self.arch = arch
        self.tree: dict[str, Node] = {}
        self.read = lru_cache(maxsize=256)(self._read)

    def _read(self, path: str) -> bytes:
        return (self.root / self.real(path)).read_bytes()

    def real(self, path: str) -> str:
        """Where a path leads, all links followed."""
        for _ in range(16):
            here = self.root / path
            if not here.is_symlink():
                return path
            target = str(here.readlink())
            path = canonical(target if target.startswith("/") else posixpath.join(posixpath.dirname(path), target))
        raise BuildError(f"too many links at {path} in the packages")

    def has(self, path: str) -> bool:
        return (self.root / self.real(path)).exists()

    def add(self, path: str) -> None:
        """One file into the image, with the links that lead to it."""
        here = self.root / path
        while here.is_symlink():
            target = str(here.readlink())
            self.tree[path] = Link(target)
            path = canonical(target if target.startswith("/") else posixpath.join(posixpath.dirname(path), target))
            here = self.root / path
        if here.is_dir():
            self.tree[path] = Folder()
        elif here.is_file():
            self.tree[path] = File(here.read_bytes(), 0o755 if here.stat().st_mode & 0o111 else 0o644)
        else:
            raise BuildError(f"{path} is not in the packages")

    def program(self, name: str) -> str | None:
        """The path of a program; Debian moves some between sbin and bin from one release to the next."""
        for folder in ("usr/sbin", "usr/bin"):
            if self.has(f"{folder}/{name}"):
                return f"{folder}/{name}"
        return None

    def library(self, soname: str, wanted_by: str = "", paths: tuple[str, ...] = ()) -> str | None:
        """Where the loader would find a library. Order as in ld.so(8): the file's own paths, then the standard ones."""
        del wanted_by
        for folder in (*(canonical(path) for path in paths), f"usr/lib/{self.arch.triplet}", "usr/lib", "usr/lib64"):
            if self.has(f"{folder}/{soname}"):
                return f"{folder}/{soname}"
        return None

    def add_libraries(self, extra: Iterable[str] = ()) -> tuple[str, ...]:
        """Add whatever the files chosen so far load, and `extra` sonames. Raises BuildError for a missing library."""
        files = [path for path, node in self.tree.items() if isinstance(node, File) and elf.is_elf(node.data)]
        forced = [path for path in map(self.library, extra) if path]
        found, missing = elf.libraries([*files, *forced], self.read, self.library)
        if missing:
            path, soname = sorted(missing)[0]
            raise BuildError(f"{path} needs {soname}, which no package of the image has")
        for path in sorted({*found, *forced, self.arch.loader}):
            self.add(path)
        return tuple(sorted(found | set(forced)))

    def files_below(self, folder: str) -> list[str]:
        """Every file and link below a folder, sorted, as paths of the tree."""
        top = self.root / folder
        return sorted(str(Path(base, name).relative_to(self.root)) for base, _, names in os.walk(top) for name in names)
