"""metalbox.checkpoints: the log is carried over beside the commits, and is begun anew while they go on."""

from __future__ import annotations

import contextlib
import logging
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from metalbox import checkpoints
from metalbox.checkpoints import Checkpoints, checkpoint
from metalbox.dhcp.leases import Lease, LeaseState
from metalbox.store import Database, Store, sqlite_url

PATIENCE = 60.0


@pytest.fixture
def writer(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    """A database whose commits never carry anything over."""
    connection = sqlite3.connect(tmp_path / "db", isolation_level=None, check_same_thread=False)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA wal_autocheckpoint=0")
    connection.execute("CREATE TABLE t (x)")
    yield connection
    connection.close()


def put(connection: sqlite3.Connection, count: int) -> None:
    for _ in range(count):
        connection.execute("INSERT INTO t VALUES (zeroblob(4000))")


def until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def whole(path: Path, table: str = "t") -> int:
    """How many rows the database file has without its log; 0 while it is written to."""
    with contextlib.closing(sqlite3.connect(f"file:{path}?immutable=1", uri=True)) as alone:
        try:
            return int(alone.execute(f"SELECT count(*) FROM {table}").fetchone()[0])
        except sqlite3.DatabaseError:
            return 0


def test_what_was_committed_gets_into_the_database_without_a_commit_that_does_it(
    writer: sqlite3.Connection, tmp_path: Path
) -> None:
    carrier = Checkpoints(tmp_path / "db", threading.Lock())
    try:
        put(writer, 50)
        carrier.note()
        until(lambda: whole(tmp_path / "db") == 50)
        put(writer, 5)
        carrier.note()
        until(lambda: whole(tmp_path / "db") == 55)
    finally:
        carrier.close()


def test_the_log_does_not_grow_while_there_is_always_one_who_writes(
    writer: sqlite3.Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoints, "MANY_PAGES", 100)
    writing = threading.Lock()
    carrier = Checkpoints(tmp_path / "db", writing)
    passes: list[bool] = []

    def amid_writes(connection: sqlite3.Connection) -> int:
        pages = checkpoint(connection)
        passes.append(writing.locked())
        if not writing.locked():
            put(writer, 10)
        return pages

    monkeypatch.setattr(checkpoints, "checkpoint", amid_writes)
    with contextlib.closing(sqlite3.connect(tmp_path / "db", isolation_level=None)) as other:
        for _ in range(50):
            put(writer, 120)
            passes.clear()
            carrier._carry(other)
            assert passes == [False, False, True], "only the last few pages keep a writer waiting"
        assert whole(tmp_path / "db") == 7000
        # 7,000 rows of a page each would be 28 MB and more.
        assert (tmp_path / "db-wal").stat().st_size < 4e6
        passes.clear()
        carrier._carry(other)
        assert passes == [False], "what is little is left in the log"
    assert writer.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_a_reader_delays_it_and_nobody_else(writer: sqlite3.Connection, tmp_path: Path) -> None:
    reader = sqlite3.connect(tmp_path / "db", isolation_level=None)
    reader.execute("BEGIN")
    assert reader.execute("SELECT count(*) FROM t").fetchone() == (0,)
    put(writer, 30)
    assert checkpoint(writer) >= 30
    assert whole(tmp_path / "db") == 0
    reader.execute("COMMIT")
    checkpoint(writer)
    assert whole(tmp_path / "db") == 30
    reader.close()


def test_a_fault_is_said_once_and_ends_nothing(
    writer: sqlite3.Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(checkpoints, "LOOK_SECONDS", 0.001)
    calls = []

    def failing(connection: sqlite3.Connection) -> int:
        calls.append(1)
        if len(calls) < 4:
            raise sqlite3.OperationalError("database or disk is full")
        return checkpoint(connection)

    def has_called(times: int) -> bool:
        return len(calls) >= times

    monkeypatch.setattr(checkpoints, "checkpoint", failing)
    carrier = Checkpoints(tmp_path / "db", threading.Lock())
    put(writer, 3)
    with caplog.at_level(logging.ERROR):
        for turn in range(1, 5):
            carrier.note()
            until(partial(has_called, turn))
        until(lambda: whole(tmp_path / "db") == 3)
    carrier.close()
    assert [record.getMessage() for record in caplog.records] == [
        f"the log of {tmp_path / 'db'} cannot be carried over: database or disk is full"
    ]


def test_a_database_that_cannot_be_opened_is_tried_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "later" / "db"
    carrier = Checkpoints(path, threading.Lock())
    with caplog.at_level(logging.ERROR):
        carrier.note()
        until(lambda: len(caplog.records) == 1)
        path.parent.mkdir()
        with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA wal_autocheckpoint=0")
            connection.execute("CREATE TABLE t (x)")
            put(connection, 7)
            carrier.note()
            until(lambda: whole(path) == 7)
    carrier.close()
    assert "unable to open" in caplog.text and len(caplog.records) == 1


def test_closing_ends_it_also_in_the_moment_when_it_goes_to_work(
    writer: sqlite3.Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    carrier = Checkpoints(tmp_path / "db", threading.Lock())
    wait_for = carrier._changed.wait_for
    closing, has_looked = threading.Thread(target=carrier.close, daemon=True), threading.Event()

    def look(is_so: Callable[[], bool], seconds: float | None = None) -> bool:
        is_closing = wait_for(is_so, seconds)
        if seconds is not None and not has_looked.is_set():
            assert not is_closing
            closing.start()
            has_looked.set()
        return is_closing

    monkeypatch.setattr(carrier._changed, "wait_for", look)
    carrier.note()
    assert has_looked.wait(PATIENCE)
    closing.join(PATIENCE)
    assert not closing.is_alive()


async def test_the_service_s_database_is_carried_over_by_itself(tmp_path: Path) -> None:
    path = tmp_path / "metalbox.db"
    before = set(threading.enumerate())
    database = Database(Store.open(sqlite_url(path)))
    lease = Lease("192.0.2.0/24", "192.0.2.7", "52:54:00:00:00:07", "", LeaseState.BOUND, 1e9)
    await database.run_small(Store.save_leases, [lease])
    until(lambda: whole(path, "leases") == 1)
    await database.close()
    begun = set(threading.enumerate()) - before
    assert not [thread for thread in begun if thread.name == "metalbox-checkpoints"]
    # The last one closes the log.
    assert not path.with_name("metalbox.db-wal").exists()
