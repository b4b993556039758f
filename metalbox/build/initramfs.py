"""A tree of files in memory, and its bytes as a cpio archive that the Linux kernel unpacks at boot. PURE.

The format is "newc" (kernel documentation, driver-api/early-userspace/buffer-format). Equal trees give equal bytes:
names are sorted, owners are root, inode numbers count up, and one time stamp serves all.
"""

from __future__ import annotations

import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

TRAILER = "TRAILER!!!"


@dataclass(frozen=True, slots=True)
class Folder:
    mode: int = 0o755


@dataclass(frozen=True, slots=True)
class File:
    data: bytes
    mode: int = 0o644


@dataclass(frozen=True, slots=True)
class Link:
    target: str


@dataclass(frozen=True, slots=True)
class Device:
    """A character device. The kernel opens /dev/console for /init before anything is mounted."""

    major: int
    minor: int
    mode: int = 0o600


Node = Folder | File | Link | Device
Tree = Mapping[str, Node]


def unpacked_bytes(tree: Tree) -> int:
    """What the tree takes from the machine's RAM: file contents rounded up to pages of 4096 bytes."""
    return sum(-(-len(node.data) // 4096) * 4096 for node in tree.values() if isinstance(node, File))


def with_folders(tree: Tree) -> dict[str, Node]:
    """The tree with every parent folder that nobody named. Raises ValueError when a parent is a file or link."""
    full: dict[str, Node] = dict(tree)
    for path in tree:
        parent = path.rpartition("/")[0]
        while parent:
            if not isinstance(full.setdefault(parent, Folder()), Folder):
                raise ValueError(f"{path!r} lies below {parent!r}, which is not a folder")
            parent = parent.rpartition("/")[0]
    return full


def _record(name: str, inode: int, mode: int, data: bytes, mtime: int, links: int, device: tuple[int, int]) -> bytes:
    encoded = name.encode() + b"\0"
    fields = (inode, mode, 0, 0, links, mtime, len(data), 0, 0, *device, len(encoded), 0)
    head = b"070701" + b"".join(b"%08X" % value for value in fields) + encoded
    head += b"\0" * (-len(head) % 4)
    return head + data + b"\0" * (-len(data) % 4)


def pack(tree: Tree, mtime: int) -> Iterator[bytes]:
    """The archive, piece by piece. Paths are relative and without `./`; parents come before their children."""
    full = with_folders(tree)
    for inode, path in enumerate(sorted(full), start=1):
        node = full[path]
        match node:
            case Folder(mode):
                yield _record(path, inode, stat.S_IFDIR | mode, b"", mtime, 2, (0, 0))
            case File(data, mode):
                yield _record(path, inode, stat.S_IFREG | mode, data, mtime, 1, (0, 0))
            case Link(target):
                yield _record(path, inode, stat.S_IFLNK | 0o777, target.encode(), mtime, 1, (0, 0))
            case Device(major, minor, mode):
                yield _record(path, inode, stat.S_IFCHR | mode, b"", mtime, 1, (major, minor))
    yield _record(TRAILER, 0, 0, b"", 0, 1, (0, 0))
