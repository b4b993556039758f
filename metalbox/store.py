"""The one store: opens the database, keeps it at this version's schema, and begins and ends transactions.

SQLite by default, with one connection that one thread uses; PostgreSQL by the same statements. A transaction is on
disk when it returns (WAL, synchronous=FULL): an ACK or an agent's 200 may then leave. No rules live here.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from socket import inet_aton
from typing import IO, Any, Concatenate, ParamSpec, TypeVar

import sqlalchemy as sa
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError

from metalbox.bmcrecords import Bmcs
from metalbox.bulk import Upsert
from metalbox.certificaterecords import Certificates
from metalbox.checkpoints import MOST_PAGES, Checkpoints
from metalbox.dhcp.leases import Lease, LeaseState
from metalbox.entries import Events, Line
from metalbox.errors import StartError
from metalbox.orderrecords import Orders
from metalbox.powerrecords import PowerOrders
from metalbox.records import Machines, storable
from metalbox.schema import REVISIONS, leases
from metalbox.timeline import Entry

P = ParamSpec("P")
R = TypeVar("R")

# How long to wait for another program (a backup) that holds SQLite's write lock.
BUSY_SECONDS = 5.0
# A small call that takes longer than this, as the one before it did, stops the service's loop for too long; then the
# thread has them so long.
SLOW_SECONDS = 0.005
SLOW_FOR_SECONDS = 1.0
# Any number that no other program would choose: PostgreSQL's advisory lock says that a metalbox service is at work.
ADVISORY_LOCK = 0x6D657461_6C626F78
MIGRATIONS = Path(__file__).parent / "migrations"


def sqlite_url(path: Path) -> str:
    """The SQLAlchemy URL of a SQLite file."""
    return str(sa.URL.create("sqlite", database=str(path)))


class Store:
    """An open database. Synchronous, and used by one thread at a time.

    `machines`, `orders`, `bmcs`, `certificates` and `events` hold the queries; they are called inside
    `with store.transaction()`, or by `Database.run`, which makes one transaction of each call.
    """

    def __init__(self, engine: sa.Engine, connection: sa.Connection, lock: IO[str] | None, shown: str) -> None:
        self._engine = engine
        self._lock = lock
        self._depth = 0
        self.shown = shown
        self.connection = connection
        self.machines = Machines(connection)
        self.orders = Orders(connection)
        self.bmcs = Bmcs(connection)
        self.certificates = Certificates(connection)
        self.power_orders = PowerOrders(connection)
        self.events = Events(connection)
        self._leases = Upsert(connection, leases, ("subnet", "address"))
        connection.commit()

    @classmethod
    def open(cls, url: str, *, busy_seconds: float = BUSY_SECONDS) -> Store:
        """Open, and create or migrate where needed. Raises StartError when it cannot be used, with the reason."""
        try:
            engine = _engine(sa.make_url(url), busy_seconds)
        except (ArgumentError, NoSuchModuleError, ModuleNotFoundError, ValueError) as error:
            raise StartError(f"the database {url!r} cannot be used: {error}") from None
        file = engine.url.database if engine.dialect.name == "sqlite" else ""
        shown = file or engine.url.render_as_string()
        lock = _lock_file(Path(file)) if file else None
        connection: sa.Connection | None = None
        try:
            connection = engine.connect()
            _claim(connection)
            _migrate(connection, shown)
            return cls(engine, connection, lock, shown)
        except BaseException as error:
            if connection is not None:
                connection.close()
            engine.dispose()
            if lock is not None:
                lock.close()
            if isinstance(error, DBAPIError):
                raise StartError(_why_not(error, shown)) from error
            raise

    def close(self) -> None:
        """Close the database and let another service have it."""
        self.save_seen()
        _give_back(self.connection)
        self.connection.close()
        self._engine.dispose()
        if self._lock is not None:
            self._lock.close()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All or nothing, on disk at the end. May be nested: the outermost one counts."""
        self._depth += 1
        try:
            yield
            if self._depth == 1:
                self.connection.commit()
                self.events.committed(True)
        except BaseException:
            if self._depth == 1:
                self.connection.rollback()
                self.events.committed(False)
            raise
        finally:
            self._depth -= 1

    @property
    def last_event_id(self) -> int:
        """The id of the newest line of the timeline that is stored. May be read from any thread."""
        return self.events.last_id

    def save_entries(self, entries: Sequence[Entry]) -> list[int]:
        """Store lines of the timeline; returns their ids."""
        with self.transaction():
            return self.events.save(entries)

    def save_lines(self, lines: Sequence[Line]) -> list[int]:
        """The same as `save_entries`, for who has many."""
        with self.transaction():
            return self.events.write(lines)

    def find_overfull(self, limit: int) -> None:
        """See `Events.find_overfull`."""
        self.events.find_overfull(limit)

    def prune_step(self, limit_each: int, limit_total: int) -> int:
        """See `Events.prune_step`."""
        with self.transaction():
            return self.events.prune_step(limit_each, limit_total)

    def save_seen(self) -> None:
        """See `Machines.save_seen`."""
        with self.transaction():
            self.machines.save_seen()

    def save_leases(self, rows: Sequence[Lease], lines: Sequence[Line] = ()) -> list[int]:
        """Write leases (one per subnet and address), all in one transaction: on disk when this returns.

        `lines` of the timeline go with them; returns their ids.
        """
        with self.transaction():
            self._leases.write([_row_from_lease(lease) for lease in rows])
            return self.events.write(lines) if lines else []

    def load_leases(self) -> list[Lease]:
        """All leases that were ever saved, whatever their state. Raises StartError when they cannot be read."""
        states = {state.value: state for state in LeaseState}
        try:
            with self.transaction():
                rows = self.connection.execute(sa.select(leases)).cursor.fetchall()
        except DBAPIError as error:
            raise StartError(_why_not(error, self.shown)) from error
        # In the order of the columns, which is that of Lease's fields; the number is derived.
        return [
            Lease(subnet, address, mac, client_id, states[state], until, host, circuit, remote, _number(address))
            for subnet, address, mac, client_id, state, until, host, circuit, remote in rows
        ]


class Database:
    """The store, in a thread of its own, for the asyncio world."""

    def __init__(self, store: Store, clock: Callable[[], float] = time.perf_counter) -> None:
        self.store = store
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="metalbox-database")
        self._clock = clock
        # Held while the store is used. A call whose caller was cancelled may still be at work.
        self._in_use = threading.Lock()
        self._checkpoints = Checkpoints(Path(store.shown), self._in_use) if self.is_quick else None
        # Calls that somebody waits for, and until when the thread is given the small ones too.
        self._under_way = 0
        self._was_slow = False
        self._slow_until = 0.0

    async def run(self, function: Callable[Concatenate[Store, P], R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Call `function(store, ...)` in the database's thread, as one transaction; calls are done in order."""
        self._under_way += 1
        future = asyncio.get_running_loop().run_in_executor(self._thread, lambda: self._call(function, *args, **kwargs))
        future.add_done_callback(self._finished)
        return await future

    def _finished(self, _future: asyncio.Future[Any]) -> None:
        self._under_way -= 1

    async def run_small(self, function: Callable[Concatenate[Store, P], R], *args: P.args, **kwargs: P.kwargs) -> R:
        """The same for what takes a fraction of a millisecond: done at once while the thread has nothing to do.

        To wait for a thread and for our turn takes longer than to write a few leases on a quick disk. Two slow calls,
        and the thread gets them for a while.
        """
        if not self.is_idle or not self._in_use.acquire(blocking=False):
            return await self.run(function, *args, **kwargs)
        began = self._clock()
        try:
            with self.store.transaction():
                return function(self.store, *args, **kwargs)
        finally:
            self._in_use.release()
            self._note()
            ended = self._clock()
            is_slow = ended - began > SLOW_SECONDS
            if is_slow and self._was_slow:
                self._slow_until = ended + SLOW_FOR_SECONDS
            self._was_slow = is_slow

    @property
    def is_idle(self) -> bool:
        """Whether the thread has nothing to do, and a small call is done at once."""
        is_free = not self._under_way and not self._in_use.locked()
        return is_free and self.is_quick and self._clock() >= self._slow_until

    @property
    def is_quick(self) -> bool:
        """Whether a call can be as quick as that: the database is in this process."""
        return self.store.connection.dialect.name == "sqlite"

    def _call(self, function: Callable[Concatenate[Store, P], R], *args: P.args, **kwargs: P.kwargs) -> R:
        try:
            with self._in_use, self.store.transaction():
                return function(self.store, *args, **kwargs)
        finally:
            self._note()

    def _note(self) -> None:
        if self._checkpoints is not None:
            self._checkpoints.note()

    def _close(self) -> None:
        if self._checkpoints is not None:
            self._checkpoints.close()
        self.store.close()

    async def close(self) -> None:
        """Finish what was asked for, and close the store."""
        await asyncio.get_running_loop().run_in_executor(self._thread, self._close)
        self._thread.shutdown()


def _engine(url: sa.URL, busy_seconds: float) -> sa.Engine:
    if url.get_backend_name() != "sqlite":
        return sa.create_engine(url, pool_size=1, max_overflow=0)
    engine = sa.create_engine(
        url, connect_args={"timeout": busy_seconds, "check_same_thread": False, "cached_statements": 256}
    )

    # Python's sqlite3 begins transactions by itself, and too late; SQLAlchemy's documentation gives this remedy.
    @sa.event.listens_for(engine, "connect")
    def prepare(connection: Any, record: Any) -> None:
        connection.isolation_level = None
        for pragma in (
            "journal_mode=WAL",
            "synchronous=FULL",
            "foreign_keys=ON",
            "journal_size_limit=67108864",
            f"wal_autocheckpoint={MOST_PAGES}",
        ):
            connection.execute(f"PRAGMA {pragma}").close()

    @sa.event.listens_for(engine, "begin")
    def begin(connection: sa.Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    return engine


def _lock_file(database: Path) -> IO[str]:
    """Hold `<database>.lock` while we live; the kernel lets go of it when the process dies, however it dies."""
    path = database.with_name(database.name + ".lock")
    try:
        lock = path.open("a+")
    except OSError as error:
        raise StartError(f"the database {database} cannot be used: {path}: {error.strerror}") from None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        lock.seek(0)
        owner = lock.read(20).strip() or "unknown"
        lock.close()
        raise StartError(
            f"the database {database} is in use by another metalbox service (process {owner}): stop that one first"
        ) from None
    lock.truncate(0)
    lock.write(f"{os.getpid()}\n")
    lock.flush()
    return lock


def _claim(connection: sa.Connection) -> None:
    """PostgreSQL's way of saying that a service is at work; SQLite has the lock file."""
    if connection.dialect.name != "postgresql":
        return
    if not connection.execute(sa.select(sa.func.pg_try_advisory_lock(ADVISORY_LOCK))).scalar():
        raise StartError(
            f"the database {connection.engine.url.render_as_string()} is in use by another metalbox service: "
            "stop that one first"
        )


def _give_back(connection: sa.Connection) -> None:
    """Unlock: of a closed connection PostgreSQL lets go some time later, and the next service may come before that."""
    if connection.dialect.name == "postgresql":
        with suppress(DBAPIError):  # a connection that is lost holds no lock
            connection.execute(sa.select(sa.func.pg_advisory_unlock(ADVISORY_LOCK)))
            connection.commit()


def _migrate(connection: sa.Connection, shown: str) -> None:
    """Bring the schema to the last of REVISIONS. Alembic is imported only when there is something to do."""
    found = ""
    if sa.inspect(connection).has_table("alembic_version"):
        found = connection.execute(sa.text("SELECT version_num FROM alembic_version")).scalar() or ""
    if found == REVISIONS[-1]:
        return
    if found and found not in REVISIONS:
        raise StartError(
            f"the database {shown} was written by a newer metalbox (schema {found}, this one knows up to "
            f"{REVISIONS[-1]}): install that version again, or restore a copy from before the upgrade"
        )
    from alembic import command
    from alembic.config import Config

    settings = Config()
    settings.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    settings.attributes["connection"] = connection
    command.upgrade(settings, "head")
    connection.commit()


def _why_not(error: DBAPIError, shown: str) -> str:
    reason = str(error.orig).strip().split("\n")[0]
    if "locked" in reason:
        return f"the database {shown} is locked by another program: stop it first"
    if "malformed" in reason or "not a database" in reason:
        return f"the database {shown} is damaged ({reason}): restore a copy, or move the file away to begin anew"
    return f"the database {shown} cannot be used: {reason}"


def _number(address: str) -> int:
    return int.from_bytes(inet_aton(address))


def _row_from_lease(lease: Lease) -> tuple[str | float, ...]:
    subnet, address, mac, client_id, state, until, hostname, circuit_id, remote_id, _ = lease
    if hostname or circuit_id or remote_id:
        hostname, circuit_id, remote_id = storable(hostname), storable(circuit_id), storable(remote_id)
    # The driver takes a subclass of str the long way round.
    return (subnet, address, str(mac), client_id, _STATES[state], until, hostname, circuit_id, remote_id)


_STATES = {state: state.value for state in LeaseState}
