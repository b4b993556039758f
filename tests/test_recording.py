"""Recordings on a real disk: whole across files, bounded, private, and no console ends because a disk is full."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from metalbox.recording import Recording


def recording(folder: Path, *, max_bytes: int = 10, files: int = 3, name: str = "r1-01") -> Recording:
    return Recording(folder / "consoles", name, max_bytes=max_bytes, files=files)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((folder / "consoles").iterdir())}


def test_bytes_are_kept_as_they_came_and_only_for_us(tmp_path: Path) -> None:
    one = recording(tmp_path, max_bytes=1000)
    one.append(b"\x1b[1mGRUB\x1b[0m\r\n\xff\x00")
    assert contents(tmp_path) == {"r1-01.log": b"\x1b[1mGRUB\x1b[0m\r\n\xff\x00"}
    assert one.path.stat().st_mode & 0o777 == 0o600
    assert one.path.parent.stat().st_mode & 0o777 == 0o700
    one.close()
    one.close()


def test_full_files_turn_over_and_the_oldest_goes(tmp_path: Path) -> None:
    one = recording(tmp_path)
    one.append(b"0123456789abcde")
    assert contents(tmp_path) == {"r1-01.log": b"abcde", "r1-01.log.1": b"0123456789"}
    one.append(b"fghijKLMNOPQRSTuvw")
    assert contents(tmp_path) == {"r1-01.log": b"uvw", "r1-01.log.1": b"KLMNOPQRST", "r1-01.log.2": b"abcdefghij"}
    one.append(b"x" * 100)
    assert sum(map(len, contents(tmp_path).values())) <= 30
    one.close()


def test_one_file_only(tmp_path: Path) -> None:
    one = recording(tmp_path, files=1)
    one.append(b"0123456789abc")
    assert contents(tmp_path) == {"r1-01.log": b"abc"}
    one.close()


def test_it_goes_on_where_it_was(tmp_path: Path) -> None:
    one = recording(tmp_path)
    one.append(b"0123456")
    one.close()
    two = recording(tmp_path)
    two.append(b"789ab")
    assert contents(tmp_path) == {"r1-01.log": b"ab", "r1-01.log.1": b"0123456789"}
    two.close()


@pytest.mark.parametrize("count", [0, 1, 3, 5, 13, 14, 15, 23, 24, 1000])
def test_the_tail_reaches_into_older_files(tmp_path: Path, count: int) -> None:
    one = recording(tmp_path)
    text = b"abcdefghijklmnopqrstuvwx"
    for start in range(0, len(text), 5):
        one.append(text[start : start + 5])
    assert one.tail(count) == (text[-count:] if count else b"")
    one.close()


def test_the_tail_of_nothing(tmp_path: Path) -> None:
    assert recording(tmp_path).tail(100) == b""


@pytest.mark.parametrize("name", ["../../etc/passwd", "a/b", "..", "ü %"])
def test_no_name_leads_out_of_the_folder(tmp_path: Path, name: str) -> None:
    one = recording(tmp_path, name=name)
    one.append(b"x")
    assert [path.parent for path in tmp_path.rglob("*.log")] == [tmp_path / "consoles"]
    one.close()


def test_a_disk_that_cannot_be_written_is_said_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "consoles").write_text("a file in the way")
    one = recording(tmp_path)
    for _ in range(3):
        one.append(b"x")
    assert [record.levelno for record in caplog.records] == [logging.ERROR]
    assert "is not recorded" in caplog.text
    (tmp_path / "consoles").unlink()
    one.append(b"y")
    assert contents(tmp_path) == {"r1-01.log": b"y"}
    one.close()
