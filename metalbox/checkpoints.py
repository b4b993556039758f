"""SQLite's checkpoints in a thread of their own, so that no commit waits for one.

A commit appends to the log (WAL) and syncs it. Somebody must carry the pages into the database some time, which syncs
both files; left to SQLite, that is the commit that finds 1,000 pages in the log, and its ACKs leave 5 to 30 ms late.
"""

from __future__ import annotations

import logging
import sqlite3
import threading
from pathlib import Path

log = logging.getLogger("metalbox.store")

# A log that was written to is looked at this often.
LOOK_SECONDS = 0.1
# With more pages in the log (4 KiB each) it is begun anew, for which nobody may write: the last few pages' time.
MANY_PAGES = 4000
# In SQLite's own hands only when this thread does not come to it: 64 MiB.
MOST_PAGES = 16_384


class Checkpoints:
    """Carries the log of one database over. `note` each commit, `close` before the database is closed."""

    def __init__(self, database: Path, writing: threading.Lock) -> None:
        """`writing` is held by whoever uses the database."""
        self._database = database
        self._writing = writing
        self._changed = threading.Condition()
        self._is_wanted = self._is_closing = False
        self._thread: threading.Thread | None = None

    def note(self) -> None:
        """Something was committed, by whichever thread."""
        if self._is_wanted:
            return
        with self._changed:
            self._is_wanted = True
            self._changed.notify()
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="metalbox-checkpoints", daemon=True)
                self._thread.start()

    def close(self) -> None:
        """End the thread. What is left in the log is carried over when the database is closed."""
        with self._changed:
            self._is_closing = True
            self._changed.notify()
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        # One connection for all: SQLite keeps the descriptors of closed ones while others have locks on the file.
        connection: sqlite3.Connection | None = None
        is_failing = False
        while self._comes_something():
            try:
                if connection is None:
                    connection = sqlite3.connect(self._database, isolation_level=None)
                    connection.execute("PRAGMA synchronous=FULL")
                self._carry(connection)
                is_failing = False
            except sqlite3.Error as error:
                # A full disk or no descriptor left, for one. The log grows meanwhile, and nothing is lost.
                if not is_failing:
                    log.error("the log of %s cannot be carried over: %s", self._database, error)
                is_failing = True
        if connection is not None:
            connection.close()

    def _comes_something(self) -> bool:
        """Wait until there is something to carry over, and some time for more; False at the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._is_wanted or self._is_closing)
            self._changed.wait_for(lambda: self._is_closing, LOOK_SECONDS)
            self._is_wanted = False
            return not self._is_closing

    def _carry(self, connection: sqlite3.Connection) -> None:
        if checkpoint(connection) < MANY_PAGES:
            return
        # What came meanwhile, and then what came during that.
        checkpoint(connection)
        with self._writing:
            checkpoint(connection)


def checkpoint(connection: sqlite3.Connection) -> int:
    """Carry over what can be without waiting for anybody; returns how many pages are in the log. Raises sqlite3.Error.

    A log that was carried over whole begins anew with the next commit (sqlite.org/wal.html, "Checkpointing").
    """
    _, pages, _ = connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
    return int(pages)
