"""The rack's record: saved whole, read back, and enough to remove what a crash left."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from metalbox.errors import Refused
from metalbox.lab import processes, record
from metalbox.lab.record import Record


def test_a_record_is_read_back(tmp_path: Path) -> None:
    mine = processes.Process(1, 2, "dnsmasq")
    written = Record(tmp_path, {"mode": "proxy"}, [mine], replace(mine, what="up"), True)
    written.save()
    assert Record.load(tmp_path) == written


@pytest.mark.parametrize("text", ["", "{", "{}", "[]", '{"settings": {}, "processes": [[1]]}'])
def test_a_damaged_record_is_no_record(tmp_path: Path, text: str) -> None:
    (tmp_path / "rack.json").write_text(text)
    assert Record.load(tmp_path) is None


def test_there_is_none_in_an_empty_folder(tmp_path: Path) -> None:
    assert Record.load(tmp_path) is None
    assert not record.exists(tmp_path)
    record.remove(tmp_path / "nowhere")


def test_removing_ends_its_processes_and_leaves_foreign_files(tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    (tmp_path / "mine.txt").write_text("keep")
    process = processes.spawn(["sleep", "60"], what="sleep", log=tmp_path / "logs" / "log")
    Record(tmp_path).add(process)
    assert record.exists(tmp_path)
    record.remove(tmp_path)
    assert not process.is_alive
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_processes_of_an_earlier_boot_are_not_ours(tmp_path: Path) -> None:
    process = processes.spawn(["sleep", "60"], what="sleep", log=tmp_path / "log")
    try:
        earlier = Record(tmp_path, boot_id="another boot", is_complete=True)
        earlier.add(process)
        assert not earlier.is_running
        record.remove(tmp_path)
        assert process.is_alive
    finally:
        processes.end([process])


def test_names_of_namespaces_come_from_the_folder(tmp_path: Path) -> None:
    one = record.namespace(tmp_path)
    assert one == record.namespace(tmp_path / "x" / "..")
    assert one != record.namespace(tmp_path / "x")
    assert record.namespace(tmp_path, "site") == f"{one}-site"


def test_two_commands_at_once_are_refused(tmp_path: Path) -> None:
    with record.locked(tmp_path), pytest.raises(Refused, match="another command"), record.locked(tmp_path):
        pass
