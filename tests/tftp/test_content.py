"""tftp.content: sheets are right at every edge, shared, bounded, and never of two versions of a file."""

from __future__ import annotations

import os
from pathlib import Path
from random import Random

import pytest

from metalbox.tftp.content import MAX_NETASCII_BYTES, SHEET_BLOCKS, FileContent, MemoryContent, Shelf
from metalbox.tftp.packet import build_data


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
    (tmp_path / "f").write_bytes(bytes(512 * 200))
    shelf = Shelf()
    contents = [shelf.open(tmp_path / "f") for _ in range(3)]
    cuts = [content.cut(512) for content in contents]
    for block in (1, 2, 100, 200):
        sheets = {id(cut(block, 1).obj) for cut in cuts for _ in range(2) if isinstance(cut(block, 1), memoryview)}  # type: ignore[union-attr]
        assert len(sheets) <= 3
    assert len({id(cut(150, 1).obj) for cut in cuts}) == 1  # type: ignore[union-attr]
    for content in contents:
        content.close()


def test_memory_is_bounded(tmp_path: Path) -> None:
    data = Random(1).randbytes(1024 * 1024)
    (tmp_path / "f").write_bytes(data)
    shelf = Shelf(max_bytes=200_000)
    for blksize in (8, 512, 1468):
        content = shelf.open(tmp_path / "f")
        assert whole(content, blksize, 64) == build_data(1, blksize, data, is_end=True)
        assert shelf.bytes <= 200_000
        content.close()
    assert len(shelf._books) <= 1 and len(shelf._made) < 10


def test_a_file_replaced_under_its_name_is_sent_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"a" * 512 * 200)
    shelf = Shelf()
    old = shelf.open(tmp_path / "f")
    old_cut = old.cut(512)
    old_cut(1, 1)
    (tmp_path / "g").write_bytes(b"b" * 512 * 200)
    (tmp_path / "g").rename(tmp_path / "f")
    new = shelf.open(tmp_path / "f")
    assert bytes(new.cut(512)(199, 1))[4:] == b"b" * 512
    assert bytes(old_cut(199, 1))[4:] == b"a" * 512
    old.close()
    new.close()


@pytest.mark.parametrize("change", ["truncate", "write"])
def test_a_file_changed_in_place_is_not_mixed(tmp_path: Path, change: str) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"a" * 512 * 200)
    content = Shelf().open(path)
    cut = content.cut(512)
    cut(1, 1)
    if change == "truncate":
        os.truncate(path, 1000)
    else:
        path.write_bytes(b"b" * 512 * 200)
        os.utime(path, (1, 1))
    with pytest.raises(OSError, match="changed while it was sent"):
        cut(199, 1)
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
