"""tftp.content: sheets are right at every edge, shared, bounded, and never of two versions of a file."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path
from random import Random

import pytest

from metalbox.tftp.content import (
    LARGEST_SHEET,
    MAX_NETASCII_BYTES,
    SHEET_BLOCKS,
    FileContent,
    MemoryContent,
    Shelf,
    make_sheet,
    sheet_blocks,
)
from metalbox.tftp.packet import build_data
from tests.descriptors import opened


def whole(content: FileContent | MemoryContent, blksize: int, count: int) -> bytes:
    """All datagrams, asked for `count` blocks at a time."""
    packets, out, block = content.cut(blksize), b"", 1
    total = content.size // blksize + 1
    while block <= total:
        part = bytes(packets(block, min(count, total - block + 1)))
        out += part
        block += -(-len(part) // (blksize + 4))
    return out


@pytest.mark.parametrize("count", [1, 3, 16, 64, 100])
@pytest.mark.parametrize("size", [0, 1, 7, 8, 9, 8 * SHEET_BLOCKS - 1, 8 * SHEET_BLOCKS, 8 * SHEET_BLOCKS + 1, 5000])
def test_every_edge(tmp_path: Path, size: int, count: int) -> None:
    data = Random(size).randbytes(size)
    (tmp_path / "f").write_bytes(data)
    content = Shelf().open(tmp_path / "f")
    expected = build_data(1, 8, data, is_end=True)
    assert whole(content, 8, count) == expected
    assert whole(MemoryContent(data), 8, count) == expected
    content.close()


def test_transfers_share_sheets_also_when_they_begin_together(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(bytes(512 * 2000))
    shelf = Shelf()
    contents = [shelf.open(tmp_path / "f") for _ in range(3)]
    cuts = [content.cut(512) for content in contents]
    for block in (1, 2, 1000, 2000):
        assert len({id(cut(block, 1).obj) for cut in cuts}) == 1  # type: ignore[union-attr]
    assert shelf.bytes < 512 * 2000 * 1.1
    for content in contents:
        content.close()


def test_a_file_is_open_once_and_not_longer_than_it_is_read(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"text")
    shelf = Shelf()

    before = opened()
    contents = [shelf.open(tmp_path / "f") for _ in range(5)]
    assert len(opened() - before) == 1
    for content in contents:
        content.close()
    assert not opened() - before
    again = shelf.open(tmp_path / "f")
    assert bytes(again.cut(512)(1, 1)) == b"\0\3\0\1text"
    again.close()


@pytest.mark.parametrize("blksize", [8, 512, 1468, 65464])
def test_a_sheet_is_where_it_says(tmp_path: Path, blksize: int) -> None:
    blocks = sheet_blocks(blksize)
    assert blocks * blksize <= max(LARGEST_SHEET, 16 * blksize) and blocks <= SHEET_BLOCKS
    data = Random(blksize).randbytes(blksize * (blocks + 3) + 5)
    (tmp_path / "f").write_bytes(data)
    content = Shelf().open(tmp_path / "f")
    content.cut(blksize)
    first, last = content.sheet(blocks), content.sheet(blocks + 1)
    assert first is content.sheet(1) and first is not None and last is not None
    assert (first.first, first.end, last.first, last.end) == (1, blocks + 1, blocks + 1, blocks + 5)
    laid = b"".join(ctypes.string_at(sheet.address, len(sheet.view)) for sheet in (first, last))
    assert laid == build_data(1, blksize, data, is_end=True)
    content.close()


def test_the_end_of_a_sheet_at_the_end_of_a_file() -> None:
    assert [make_sheet(7, 8, bytes(size), is_end=True).end for size in (0, 7, 8, 9)] == [8, 8, 9, 9]
    assert make_sheet(7, 8, bytes(16), is_end=False).end == 9


def test_memory_is_bounded(tmp_path: Path) -> None:
    data = Random(1).randbytes(1024 * 1024)
    (tmp_path / "f").write_bytes(data)
    shelf = Shelf(max_bytes=1_000_000)
    for blksize in (8, 512, 1468):
        content = shelf.open(tmp_path / "f")
        assert whole(content, blksize, 64) == build_data(1, blksize, data, is_end=True)
        assert shelf.bytes <= 1_000_000
        content.close()
    assert len(shelf._books) <= 1 and len(shelf._made) < 3


def test_a_file_replaced_under_its_name_is_sent_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"a" * 512 * 2000)
    shelf = Shelf()
    old = shelf.open(tmp_path / "f")
    old_cut = old.cut(512)
    old_cut(1, 1)
    (tmp_path / "g").write_bytes(b"b" * 512 * 2000)
    (tmp_path / "g").rename(tmp_path / "f")
    new = shelf.open(tmp_path / "f")
    assert bytes(new.cut(512)(1999, 1))[4:] == b"b" * 512
    assert bytes(old_cut(1999, 1))[4:] == b"a" * 512
    old.close()
    new.close()


@pytest.mark.parametrize("change", ["truncate", "write"])
def test_a_file_changed_in_place_is_not_mixed(tmp_path: Path, change: str) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"a" * 512 * 2000)
    content = Shelf().open(path)
    cut = content.cut(512)
    cut(1, 1)
    if change == "truncate":
        os.truncate(path, 1000)
    else:
        path.write_bytes(b"b" * 512 * 2000)
        os.utime(path, (1, 1))
    with pytest.raises(OSError, match="changed while it was sent"):
        cut(1999, 1)
    content.close()


def test_what_is_no_regular_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path, tmp_path / "missing"):
        with pytest.raises(OSError):
            Shelf().open(path)


def test_netascii(tmp_path: Path) -> None:
    (tmp_path / "text").write_bytes(b"one\ntwo\n")
    content = Shelf().open_netascii(tmp_path / "text")
    assert whole(content, 512, 1) == b"\0\3\0\1one\r\ntwo\r\n"
    content.close()
    with open(tmp_path / "big", "wb") as big:
        big.truncate(MAX_NETASCII_BYTES + 1)
    with pytest.raises(OSError, match="too large for netascii"):
        Shelf().open_netascii(tmp_path / "big")
