"""What is sent: files and bytes as runs of DATA datagrams, laid out once and shared by all who fetch the same.

A thousand machines fetch one file. It is read and cut into datagrams, headers included, in sheets of 64 blocks; each
transfer then sends slices of the same memory, a whole window in one call where the kernel can cut it (UDP_SEGMENT).
"""

from __future__ import annotations

import errno
import os
import stat
from collections import deque
from pathlib import Path

from metalbox.tftp.packet import HEADER_BYTES, build_data, netascii
from metalbox.tftp.session import Packets

# 92 KiB at a blksize of 1468: 20 us to make, so that even a transfer that has every sheet to itself costs little.
SHEET_BLOCKS = 64
# All the boot files of a site, or the part of a big initrd where a crowd of machines reads at about the same place.
MAX_SHEET_BYTES = 64 * 1024 * 1024
# The Python objects around a sheet; at a blksize of 8 they are the larger part.
SHEET_OVERHEAD = 512
# netascii changes the length, so the file is converted whole. It is for texts.
MAX_NETASCII_BYTES = 4 * 1024 * 1024

# (device, inode, size, mtime in ns): another identity is another content.
Identity = tuple[int, int, int, int]
Book = dict[int, memoryview]


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

    def close(self) -> None:
        """Nothing is held."""


class FileContent:
    """One file, open for one transfer. A file replaced under its name goes on being sent as it was."""

    def __init__(self, fd: int, identity: Identity, shelf: Shelf) -> None:
        self._fd = fd
        self._identity = identity
        self._shelf = shelf
        self._blksize = 0
        self._segment = 0
        self._book: Book = {}
        self.size = identity[2]

    def cut(self, blksize: int) -> Packets:
        """See `session.Content`. One transfer has one block size."""
        self._blksize = blksize
        self._segment = blksize + HEADER_BYTES
        self._book = self._shelf.book(self._identity, blksize)
        return self._packets

    def _packets(self, first: int, count: int) -> memoryview:
        index = (first - 1) // SHEET_BLOCKS
        sheet = self._book.get(index) or self._lay(index)
        offset = (first - 1) % SHEET_BLOCKS
        segment = self._segment
        return sheet[offset * segment : (offset + count) * segment]

    def _lay(self, index: int) -> memoryview:
        """Read and keep one sheet. The kernel has mostly read ahead; a cold disk holds up everyone for some ms."""
        blksize = self._blksize
        offset = index * SHEET_BLOCKS * blksize
        wanted = min(SHEET_BLOCKS * blksize, self.size - offset)
        data = os.pread(self._fd, wanted, offset)
        if len(data) != wanted or identity_of(os.fstat(self._fd)) != self._identity:
            raise OSError(errno.ESTALE, "it was changed while it was sent")
        is_end = wanted < SHEET_BLOCKS * blksize
        sheet = memoryview(build_data(index * SHEET_BLOCKS + 1, blksize, data, is_end=is_end))
        self._book = self._shelf.keep(self._identity, blksize, self._book, index, sheet)
        return sheet

    def close(self) -> None:
        """Let go of the file."""
        os.close(self._fd)


class Shelf:
    """The sheets of all files. Given up in the order they were made: readers move on, and never come back."""

    def __init__(self, max_bytes: int = MAX_SHEET_BYTES) -> None:
        self.bytes = 0
        self._max_bytes = max_bytes
        self._books: dict[tuple[Identity, int], Book] = {}
        self._made: deque[tuple[Identity, int, Book, int]] = deque()

    def open(self, path: Path) -> FileContent:
        """Raises OSError, also for what is no regular file."""
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            os.close(fd)
            raise OSError(errno.EINVAL, "not a regular file")
        return FileContent(fd, identity_of(status), self)

    def open_netascii(self, path: Path) -> MemoryContent:
        """The same as text. Raises OSError."""
        content = self.open(path)
        try:
            if content.size > MAX_NETASCII_BYTES:
                raise OSError(errno.EFBIG, "too large for netascii: ask in mode octet")
            return MemoryContent(netascii(os.pread(content._fd, content.size, 0)))
        finally:
            content.close()

    def book(self, identity: Identity, blksize: int) -> Book:
        """The sheets of one file in one block size; empty at first."""
        return self._books.get((identity, blksize), {})

    def keep(self, identity: Identity, blksize: int, book: Book, index: int, sheet: memoryview) -> Book:
        """Add a sheet, and give up the oldest beyond the limit. Returns the book to look into from now on."""
        book = self._books.setdefault((identity, blksize), book)
        if index in book:
            return book
        book[index] = sheet
        self._made.append((identity, blksize, book, index))
        self.bytes += len(sheet) + SHEET_OVERHEAD
        while self.bytes > self._max_bytes:
            old_identity, old_blksize, old_book, old_index = self._made.popleft()
            self.bytes -= len(old_book.pop(old_index)) + SHEET_OVERHEAD
            if not old_book:
                self._books.pop((old_identity, old_blksize), None)
        return book


def identity_of(status: os.stat_result) -> Identity:
    """What tells one content from another without reading it."""
    return (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)
