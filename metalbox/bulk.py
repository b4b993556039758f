"""Many rows written over those with the same key, with few steps of the database.

SQLite gets statements of many rows at once: the interpreter's lock is given up and taken back once for each step, so
that a batch row by row would wait for the packet path as often as it has rows. Others get the driver's own way.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa

# SQLite has place for 32,766 values in a statement; more rows in one make it no faster. So few sizes that the driver
# finds each of them prepared, and so many that nearly all batches are two statements.
MOST_ROWS = 128
EXACT_ROWS, GRAIN = 16, 8


class Upsert:
    """Writes rows of one table; `keys` are the columns that are unique together, the other columns are replaced."""

    def __init__(
        self,
        connection: sa.Connection,
        table: sa.Table,
        keys: Sequence[str],
        replaced: Mapping[str, str] | None = None,
    ) -> None:
        """`replaced` gives columns and their new values in SQL, where `excluded` is the row as it is offered."""
        self._connection = connection
        self.columns = tuple(column.name for column in table.columns)
        if replaced is None:
            replaced = {name: f"excluded.{quoted(name)}" for name in self.columns if name not in keys}
        self._is_sqlite = connection.dialect.name == "sqlite"
        changes = ", ".join(f"{quoted(name)} = {value}" for name, value in replaced.items())
        self._head = f"INSERT INTO {quoted(table.name)} ({', '.join(map(quoted, self.columns))}) VALUES "
        self._tail = f" ON CONFLICT ({', '.join(map(quoted, keys))}) DO UPDATE SET {changes}"
        self._statements: dict[int, str] = {}

    def write(self, rows: Sequence[tuple[Any, ...]]) -> None:
        """Write rows, values in the order of `columns`; the caller holds the transaction."""
        if not rows:
            return
        if not self._is_sqlite:
            named = [dict(zip(self.columns, row, strict=True)) for row in rows]
            places = ", ".join(f"%({name})s" for name in self.columns)
            self._connection.exec_driver_sql(f"{self._head}({places}){self._tail}", named)
            return
        at = 0
        while at < len(rows):
            left = min(MOST_ROWS, len(rows) - at)
            count = left if left <= EXACT_ROWS else left - left % GRAIN
            values = tuple([value for row in rows[at : at + count] for value in row])
            self._connection.exec_driver_sql(self._statement(count), values)
            at += count

    def _statement(self, count: int) -> str:
        statement = self._statements.get(count)
        if statement is None:
            row = f"({', '.join('?' * len(self.columns))})"
            statement = self._statements[count] = self._head + ", ".join([row] * count) + self._tail
        return statement


def quoted(name: str) -> str:
    """A name as SQL has it, also one that is a word of the language (`count`, `at`)."""
    return f'"{name}"'
