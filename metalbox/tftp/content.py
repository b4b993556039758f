"""What is sent: files and bytes as runs of DATA datagrams, laid out once and shared by all who fetch the same.

A thousand machines fetch one file. It is opened, read and cut into datagrams once, headers included, in sheets of some
hundred blocks; each transfer then sends from the same memory, a whole window in one call where the kernel can cut it
(UDP_SEGMENT), and by address, so that many clients' windows leave in one call (see `batch`).
"""

from __future__ import annotations

import ctypes
import errno
import os
import stat
from collections import deque
from pathlib import Path
from typing import NamedTuple

from metalbox.tftp.packet import HEADER_BYTES, build_data, netascii
from metalbox.tftp.session import Packets

# 750 KB at a blksize of 1468: a quarter of a millisecond to make. The larger, the fewer windows end at the edge of a
# sheet, which costs ten times the work of one that does not.
SHEET_BLOCKS = 512
LARGEST_SHEET = 1024 * 1024
# All the boot files of a site, or the part of a big initrd where a crowd of machines reads at about the same place.
MAX_SHEET_BYTES = 64 * 1024 * 1024
# The Python objects around a sheet; at a blksize of 8 they are the larger part.
SHEET_OVERHEAD = 512
# netascii changes the length, so the file is converted whole. It is for texts.
MAX_NETASCII_BYTES = 4 * 1024 * 1024

# (device, inode, size, mtime in ns): another identity is another content.
Identity = tuple[int, int, int, int]


class Sheet(NamedTuple):
    """Datagrams one behind the other, from the block `first` to before the block `end`. `address` is where they stand
    in memory, for as long as somebody holds the sheet."""

    view: memoryview
    address: int
    first: int
    end: int


Book = dict[int, Sheet]


def sheet_blocks(blksize: int) -> int:
    """How many blocks stand on one sheet."""
    return max(16, min(SHEET_BLOCKS, LARGEST_SHEET // blksize))


def make_sheet(first: int, blksize: int, data: bytes, *, is_end: bool) -> Sheet:
    """Lay out `data`, which begins with block `first`; `is_end` as for `packet.build_data`."""
    laid = build_data(first, blksize, data, is_end=is_end)
    address = ctypes.cast(ctypes.c_char_p(laid), ctypes.c_void_p).value
    assert address is not None
    return Sheet(memoryview(laid), address, first, first + -(-len(laid) // (blksize + HEADER_BYTES)))


class MemoryContent:
    """Bytes made for one client."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.size = len(data)

    def cut(self, blksize: int) -> Packets:
        """See `session.Content`."""

        def packets(first: int, count: int) -> bytes:
            offset = (first - 1) * blksize
            data = self._data[offset : offset + count * blksize]
            return build_data(first, blksize, data, is_end=len(data) < count * blksize)

        return packets

    def sheet(self, _: int) -> Sheet | None:
        """None: what is for one client only is not worth laying out."""
        return None

    def close(self) -> None:
        """Nothing is held."""


class FileContent:
    """One file for one transfer. A file replaced under its name goes on being sent as it was."""

    def __init__(self, file: OpenFile, shelf: Shelf) -> None:
        self._file = file
        self._shelf = shelf
        self._blksize = 0
        self._segment = 0
        self._blocks = 0
        self._book: Book = {}
        self.size = file.identity[2]

    def cut(self, blksize: int) -> Packets:
        """See `session.Content`. One transfer has one block size."""
        self._blksize = blksize
        self._segment = blksize + HEADER_BYTES
        self._blocks = sheet_blocks(blksize)
        self._book = self._shelf.book(self._file.identity, blksize)
        return self._packets

    def sheet(self, block: int) -> Sheet | None:
        """The sheet with this block (from 1, not wrapped), once `cut` was called. Raises OSError."""
        index = (block - 1) // self._blocks
        return self._book.get(index) or self._lay(index)

    def _packets(self, first: int, count: int) -> memoryview:
        index = (first - 1) // self._blocks
        sheet = self._book.get(index) or self._lay(index)
        offset = first - sheet.first
        segment = self._segment
        return sheet.view[offset * segment : (offset + count) * segment]

    def _lay(self, index: int) -> Sheet:
        """Read and keep one sheet. The kernel has mostly read ahead; a cold disk holds up everyone for some ms."""
        blksize, blocks = self._blksize, self._blocks
        # Another transfer may have made it, or the whole book, since this one began.
        self._book = self._shelf.book(self._file.identity, blksize)
        if index in self._book:
            return self._book[index]
        offset = index * blocks * blksize
        wanted = min(blocks * blksize, self.size - offset)
        data = self._file.read(wanted, offset)
        sheet = make_sheet(index * blocks + 1, blksize, data, is_end=wanted < blocks * blksize)
        self._book = self._shelf.keep(self._file.identity, blksize, self._book, index, sheet)
        return sheet

    def close(self) -> None:
        """Let go of the file."""
        self._shelf.leave(self._file)


class OpenFile:
    """An open file, shared by all transfers of the same content."""

    def __init__(self, fd: int, identity: Identity) -> None:
        self.fd = fd
        self.identity = identity
        self.readers = 0

    def read(self, wanted: int, offset: int) -> bytes:
        """Exactly so much. Raises OSError, also when the file was changed in place since it was opened."""
        data = os.pread(self.fd, wanted, offset)
        if len(data) != wanted or identity_of(os.fstat(self.fd)) != self.identity:
            raise OSError(errno.ESTALE, "it was changed while it was sent")
        return data


class Shelf:
    """The sheets of all files. Given up in the order they were made: readers move on, and never come back."""

    def __init__(self, max_bytes: int = MAX_SHEET_BYTES) -> None:
        self.bytes = 0
        self._max_bytes = max_bytes
        self._open: dict[Identity, OpenFile] = {}
        self._books: dict[tuple[Identity, int], Book] = {}
        self._made: deque[tuple[Identity, int, Book, int]] = deque()

    def open(self, path: Path) -> FileContent:
        """Raises OSError, also for what is no regular file."""
        file = self._open.get(identity_of(path.stat())) or self._open_anew(path)
        file.readers += 1
        return FileContent(file, self)

    def _open_anew(self, path: Path) -> OpenFile:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            os.close(fd)
            raise OSError(errno.EINVAL, "not a regular file")
        identity = identity_of(status)
        if identity in self._open:
            os.close(fd)
            return self._open[identity]
        file = self._open[identity] = OpenFile(fd, identity)
        return file

    def leave(self, file: OpenFile) -> None:
        """One reader less; the last one closes it."""
        file.readers -= 1
        if not file.readers:
            del self._open[file.identity]
            os.close(file.fd)

    def open_netascii(self, path: Path) -> MemoryContent:
        """The same as text. Raises OSError."""
        content = self.open(path)
        try:
            if content.size > MAX_NETASCII_BYTES:
                raise OSError(errno.EFBIG, "too large for netascii: ask in mode octet")
            return MemoryContent(netascii(content._file.read(content.size, 0)))
        finally:
            content.close()

    def book(self, identity: Identity, blksize: int) -> Book:
        """The sheets of one file in one block size; empty at first."""
        return self._books.get((identity, blksize), {})

    def keep(self, identity: Identity, blksize: int, book: Book, index: int, sheet: Sheet) -> Book:
        """Add a sheet, and give up the oldest beyond the limit. Returns the book to look into from now on."""
        book = self._books.setdefault((identity, blksize), book)
        book[index] = sheet
        self._made.append((identity, blksize, book, index))
        self.bytes += len(sheet.view) + SHEET_OVERHEAD
        while self.bytes > self._max_bytes:
            old_identity, old_blksize, old_book, old_index = self._made.popleft()
            self.bytes -= len(old_book.pop(old_index).view) + SHEET_OVERHEAD
            if not old_book:
                self._books.pop((old_identity, old_blksize), None)
        return book


def identity_of(status: os.stat_result) -> Identity:
    """What tells one content from another without reading it."""
    return (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)
