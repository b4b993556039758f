"""Opening, migrating, refusing, and what is on disk after a crash; on SQLite and PostgreSQL."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from metalbox.bmcrecords import BmcRecord
from metalbox.bulk import MOST_ROWS
from metalbox.dhcp.leases import Lease, LeaseState
from metalbox.errors import StartError
from metalbox.machine import Mac, Machine
from metalbox.records import row_from_machine
from metalbox.schema import REVISIONS, metadata
from metalbox.store import MIGRATIONS, Database, Store, sqlite_url
from metalbox.timeline import Entry, Kind
from tests.counting import cost
from tests.databases import private_postgresql


@pytest.fixture(scope="module")
def postgresql() -> Iterator[str]:
    with private_postgresql() as url:
        yield url


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return sqlite_url(tmp_path / "metalbox.db")
    address: str = request.getfixturevalue("postgresql")
    engine = sa.create_engine(address)
    with engine.begin() as connection:
        metadata.drop_all(connection)
        connection.execute(sa.text("DROP TABLE IF EXISTS alembic_version"))
    engine.dispose()
    return address


def lease(number: int, state: LeaseState = LeaseState.BOUND, **values: str) -> Lease:
    address = f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}"
    mac = Mac.from_bytes(b"\x02\0" + number.to_bytes(4, "big"))
    return Lease("10.0.0.0/8", address, mac, "", state, 1e9 + number, **values, number=(10 << 24) + number)


def test_leases_come_back_as_they_were(url: str) -> None:
    store = Store.open(url)
    store.save_leases([lease(1), lease(2, LeaseState.DECLINED, hostname="böse\0\ud800", circuit_id="ge-0/0/1")])
    store.save_leases([])
    store.save_leases([lease(1, LeaseState.RELEASED)])
    store.close()
    store = Store.open(url)
    assert sorted(store.load_leases()) == [
        lease(1, LeaseState.RELEASED),
        lease(2, LeaseState.DECLINED, hostname="böse ?", circuit_id="ge-0/0/1"),
    ]
    store.close()


def test_a_connection_that_was_lost_is_closed_without_a_word(postgresql: str) -> None:
    store = Store.open(postgresql)
    with store.transaction():
        process = store.connection.execute(sa.select(sa.func.pg_backend_pid())).scalar_one()
    engine = sa.create_engine(postgresql)
    with engine.begin() as other:
        assert other.execute(sa.select(sa.func.pg_terminate_backend(process, 60_000))).scalar_one() is True
    engine.dispose()
    store.close()
    Store.open(postgresql).close()


def test_opening_again_changes_nothing_and_needs_no_alembic(url: str) -> None:
    store = Store.open(url)
    store.save_entries([Entry(0, 1.0, 2.0, 1, Kind.DHCP, Mac("52:54:00:00:00:01"), None, "a\0b\ud800", {"x": [1]})])
    store.close()
    code = (
        "import sys; from metalbox.store import Store;"
        f"store = Store.open({url!r});"
        "print(store.last_event_id, 'alembic' in sys.modules); store.close()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == "1 False\n"


def test_a_second_service_is_refused_by_one_sentence(url: str) -> None:
    store = Store.open(url)
    with pytest.raises(StartError, match="is in use by another metalbox service"):
        Store.open(url)
    store.close()
    Store.open(url).close()


def test_a_newer_database_is_refused(url: str) -> None:
    store = Store.open(url)
    with store.transaction():
        store.connection.execute(sa.text("UPDATE alembic_version SET version_num = '9999'"))
    store.close()
    with pytest.raises(
        StartError, match=f"was written by a newer metalbox \\(schema 9999, this one knows up to {REVISIONS[-1]}\\)"
    ):
        Store.open(url)


# What SQLAlchemy cannot read back from SQLite; whether it is there is seen by the plans below.
EXPRESSIONS = ("ix_machines_serial_lower",)


@pytest.mark.filterwarnings("ignore:Skipped unsupported reflection of expression-based index")
@pytest.mark.filterwarnings("ignore:autogenerate skipping metadata-specified expression-based index")
def test_the_migrations_make_the_schema_that_the_code_speaks(url: str) -> None:
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext

    store = Store.open(url)
    options = {"compare_type": True, "include_object": lambda thing, name, *_: name not in EXPRESSIONS}
    context = MigrationContext.configure(store.connection, opts=options)
    differences = [found for found in compare_metadata(context, metadata) if "alembic_version" not in str(found)]
    assert differences == []
    store.close()


def test_a_database_of_the_first_version_is_brought_up_to_date_with_its_rows(url: str) -> None:
    from alembic import command
    from alembic.config import Config

    engine = sa.create_engine(url)
    settings = Config()
    settings.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    with engine.begin() as connection:
        settings.attributes["connection"] = connection
        command.upgrade(settings, "0001")
        assert "bmcs" not in sa.inspect(connection).get_table_names()
        first = {column["name"] for column in sa.inspect(connection).get_columns("machines")}
        row = row_from_machine(Machine(0, "one", "discovered", serial="S1", first_seen=5.0))
        values = {name: value for name, value in row.items() if name in first}
        connection.execute(sa.insert(metadata.tables["machines"]).values(values))
        connection.execute(sa.insert(metadata.tables["orders"]).values(machine_id=1, verb="report", created_at=6.0))
        connection.execute(sa.insert(metadata.tables["macs"]).values(mac="52:54:00:00:00:01", machine_id=1, position=0))
        connection.execute(
            sa.insert(metadata.tables["events"]).values(
                id=7, at=1.0, last_at=1.0, count=1, kind="dhcp", mac=None, machine_id=1, text="old", data="{}"
            )
        )
    engine.dispose()
    for _ in range(2):
        store = Store.open(url)
        with store.transaction():
            found = store.machines.get(1)
            assert found is not None and (found.name, found.serial, found.macs) == ("one", "S1", ("52:54:00:00:00:01",))
            assert (found.labels, found.fault, found.held, found.state_since) == ({}, None, "", 5.0)
            assert [(order.verb, order.data, order.run) for order in store.orders.open_of(1)] == [("report", {}, "")]
            assert [entry.text for entry in store.events.all(10)] == ["old"]
            number = store.bmcs.add(BmcRecord(machine_id=1, address="192.0.2.10", user="root")).id
            assert [record.id for record in store.bmcs.of_machine(1)][-1] == number
        version = store.connection.execute(sa.text("SELECT version_num FROM alembic_version")).scalar()
        store.connection.commit()
        assert version == REVISIONS[-1]
        store.close()


def plans(store: Store, ask: Callable[[], object]) -> list[str]:
    """How SQLite finds the rows of each SELECT that `ask` makes."""
    found: list[str] = []

    def note(conn: Any, cursor: Any, statement: str, parameters: Any, context: Any, many: bool) -> None:
        if statement.startswith("SELECT"):
            rows = store.connection.connection.cursor().execute(f"EXPLAIN QUERY PLAN {statement}", parameters)
            found.extend(row[3] for row in rows.fetchall())

    sa.event.listen(store.connection, "before_cursor_execute", note)
    try:
        with store.transaction():
            ask()
    finally:
        sa.event.remove(store.connection, "before_cursor_execute", note)
    return found


def test_what_each_report_asks_for_is_found_by_an_index(tmp_path: Path) -> None:
    store = Store.open(sqlite_url(tmp_path / "m.db"))
    try:
        assert plans(store, lambda: store.machines.ids_by_serial("ABC")) == [
            "SEARCH machines USING INDEX ix_machines_serial_lower (<expr>=?)"
        ]
        found = plans(
            store,
            lambda: store.machines.ids_by_marks(
                "4c4c4544-0042-3510-8054-b7c04f333732", "ABC", [Mac("52:54:00:00:00:01")]
            ),
        )
        assert not [plan for plan in found if plan.startswith("SCAN")]
        machine = Machine(7, "one", "discovered", macs=(Mac("52:54:00:00:00:01"), Mac("52:54:00:00:00:02")))
        found = plans(store, lambda: store.events.of_machine(machine, 500))
        assert [plan for plan in found if plan.startswith("SEARCH")] == [
            "SEARCH events USING INDEX ix_events_machine_id_id (machine_id=?)",
            "SEARCH events USING INDEX ix_events_mac_id (mac=?)",
        ]
    finally:
        store.close()


def test_every_revision_has_its_file_and_stands_in_order() -> None:
    from alembic.config import Config
    from alembic.script import ScriptDirectory

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    scripts = ScriptDirectory.from_config(config)
    assert tuple(script.revision for script in reversed(list(scripts.walk_revisions()))) == REVISIONS


def test_a_transaction_is_all_or_nothing(url: str) -> None:
    store = Store.open(url)
    entry = Entry(0, 1.0, 1.0, 1, Kind.LOG, None, None, "x")
    with pytest.raises(ZeroDivisionError), store.transaction():
        store.save_leases([lease(1)])
        store.save_entries([entry])
        raise ZeroDivisionError
    assert store.load_leases() == []
    assert store.last_event_id == 0
    assert store.save_entries([entry]) == [1]
    assert [found.id for found in store.events.all(10)] == [1]
    store.close()


def test_a_failed_statement_does_not_break_the_next(url: str) -> None:
    store = Store.open(url)
    with pytest.raises(sa.exc.DBAPIError), store.transaction():
        store.connection.execute(sa.text("SELECT * FROM nothing_like_this"))
    store.save_leases([lease(1)])
    assert len(store.load_leases()) == 1
    store.close()


async def test_the_database_runs_calls_in_order_and_in_one_thread(url: str) -> None:
    database = Database(Store.open(url))
    for number in range(50):
        await database.run(Store.save_leases, [lease(number)])
    assert len(await database.run(Store.load_leases)) == 50
    await database.close()
    Store.open(url).close()


def test_a_damaged_file_is_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "metalbox.db"
    path.write_bytes(b"this is no database" * 1000)
    with pytest.raises(StartError, match=r"metalbox\.db is damaged \(file is not a database\): restore a copy"):
        Store.open(sqlite_url(path))


def test_a_file_damaged_inside_is_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "metalbox.db"
    store = Store.open(sqlite_url(path))
    store.save_leases([lease(number) for number in range(5000)])
    store.close()
    content = bytearray(path.read_bytes())
    content[4096 * 2 :] = os.urandom(len(content) - 4096 * 2)
    path.write_bytes(content)
    with pytest.raises(StartError, match="is damaged"):
        Store.open(sqlite_url(path)).load_leases()


def test_a_file_that_another_program_locks_is_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "metalbox.db"
    Store.open(sqlite_url(path)).close()
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StartError, match="is locked by another program"):
        Store.open(sqlite_url(path), busy_seconds=0.05)
    other.close()


def test_a_folder_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StartError, match="cannot be used"):
        Store.open(sqlite_url(tmp_path / "missing" / "metalbox.db"))
    with pytest.raises(StartError, match="cannot be used"):
        Store.open("nonsense")
    with pytest.raises(StartError, match="cannot be used"):
        Store.open("mongodb://x/y")


def test_the_pragmas(tmp_path: Path) -> None:
    store = Store.open(sqlite_url(tmp_path / "metalbox.db"))
    found = {
        name: store.connection.exec_driver_sql(f"PRAGMA {name}").scalar()
        for name in ("journal_mode", "synchronous", "busy_timeout", "foreign_keys")
    }
    assert found == {"journal_mode": "wal", "synchronous": 2, "busy_timeout": 5000, "foreign_keys": 1}
    store.close()


WRITER = """
import sys
from metalbox.dhcp.leases import Lease, LeaseState
from metalbox.store import Store, sqlite_url
from pathlib import Path
from typing import Any
from tests.test_store import lease
store = Store.open(sqlite_url(Path(sys.argv[1])))
start = int(sys.argv[2])
for batch in range(10000):
    store.save_leases([lease(start + batch * 16 + number) for number in range(16)])
    print(start + batch * 16 + 15, flush=True)
"""


def test_kill_9_in_the_middle_of_writing_loses_nothing_acknowledged(tmp_path: Path) -> None:
    path = tmp_path / "metalbox.db"
    start = 0
    for turn in range(5):
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(path), str(start)],
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[1],
        )
        assert writer.stdout is not None
        for _ in range(20 + 13 * turn):
            assert writer.stdout.readline()
        writer.send_signal(signal.SIGKILL)
        acknowledged = [int(line) for line in writer.stdout.read().split()]
        writer.stdout.close()
        writer.wait(60)
        last = acknowledged[-1] if acknowledged else start + (20 + 13 * turn) * 16 - 1
        store = Store.open(sqlite_url(path))
        found = {row.number - (10 << 24) for row in store.load_leases()}
        store.close()
        assert found >= set(range(last + 1))
        # A batch is there as a whole or not at all.
        assert len(found) % 16 == 0
        start = len(found)


def test_many_leases_are_written_and_read_in_one_go(tmp_path: Path) -> None:
    url = sqlite_url(tmp_path / "metalbox.db")
    store = Store.open(url)
    rows = [lease(number, hostname=f"host-{number}", circuit_id="ge-0/0/1:100") for number in range(20_000)]
    with cost(store) as saving:
        store.save_leases(rows)
    store.close()
    store = Store.open(url)
    with cost(store) as loading:
        loaded = store.load_leases()
    assert loaded == rows
    store.close()
    # The same work for each row, however many there are: 34 instructions to save one, 12 to load it.
    assert len(loading.statements) == 2  # with its BEGIN
    assert len(saving.statements) <= 2 + len(rows) // MOST_ROWS + 7
    assert saving.instructions < 100 * len(rows) and loading.instructions < 40 * len(rows)


async def test_small_calls_are_done_at_once_unless_the_disk_is_slow(tmp_path: Path) -> None:
    ticks = [0.0]
    database = Database(Store.open(sqlite_url(tmp_path / "metalbox.db")), lambda: ticks[0])
    here = threading.get_ident()

    def where(store: Store, seconds: float = 0.0) -> bool:
        ticks[0] += seconds
        return threading.get_ident() == here

    assert await database.run_small(where)
    assert not await database.run(where)
    assert await database.run_small(where), "the thread has nothing to do any more"
    waiting = asyncio.create_task(database.run(where))
    await asyncio.sleep(0)
    assert not await database.run_small(where), "calls are done in order"
    await waiting
    assert await database.run_small(where, 0.004)
    assert await database.run_small(where, 0.006)
    assert await database.run_small(where, 0.004), "once is chance"
    assert await database.run_small(where, 0.006)
    assert await database.run_small(where, 0.006)
    assert not await database.run_small(where), "that was too slow"
    ticks[0] += 1.0
    assert await database.run_small(where)
    with pytest.raises(ZeroDivisionError):
        await database.run_small(lambda store: 1 / 0)
    assert await database.run_small(where)
    await database.close()


async def test_no_small_call_meets_one_whose_caller_has_gone(tmp_path: Path) -> None:
    database = Database(Store.open(sqlite_url(tmp_path / "metalbox.db")))
    begun, gate = threading.Event(), threading.Event()

    def slow(store: Store) -> None:
        begun.set()
        gate.wait(60)

    waiting = asyncio.create_task(database.run(slow))
    await asyncio.to_thread(begun.wait, 60)
    waiting.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await waiting
    here = threading.get_ident()
    asked = asyncio.create_task(database.run_small(lambda store: threading.get_ident() == here))
    await asyncio.sleep(0.05)
    assert not asked.done()
    gate.set()
    assert not await asked
    await database.close()
