"""metalbox.bulk: many rows in few statements, in every database."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from metalbox.bulk import MOST_ROWS, Upsert, quoted
from tests.databases import private_postgresql

metadata = sa.MetaData()
things = sa.Table(
    "things",
    metadata,
    sa.Column("shelf", sa.String, primary_key=True),
    sa.Column("place", sa.Integer, primary_key=True),
    sa.Column("count", sa.Integer),
    sa.Column("text", sa.Text),
)


@pytest.fixture(params=["sqlite", "postgresql"])
def connection(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[sa.Connection]:
    if request.param == "postgresql":
        with private_postgresql() as url:
            yield from _opened(url)
    else:
        yield from _opened(f"sqlite:///{tmp_path / 'x.db'}")


def _opened(url: str) -> Iterator[sa.Connection]:
    engine = sa.create_engine(url)
    with engine.connect() as connection:
        metadata.create_all(connection)
        yield connection
    engine.dispose()


def rows(connection: sa.Connection) -> list[tuple[Any, ...]]:
    return [tuple(row) for row in connection.execute(sa.select(things).order_by(things.c.shelf, things.c.place))]


@pytest.mark.parametrize("count", [0, 1, 2, 3, 127, 128, 129, 1000])
def test_what_is_written_is_there(connection: sa.Connection, count: int) -> None:
    upsert = Upsert(connection, things, ("shelf", "place"))
    wanted = [("a", number, number * 2, f"50% of {{{number}}} ?") for number in range(count)]
    upsert.write(wanted)
    assert rows(connection) == wanted


def test_rows_of_the_same_key_are_replaced_the_last_one_counts(connection: sa.Connection) -> None:
    upsert = Upsert(connection, things, ("shelf", "place"))
    upsert.write([("a", 1, 1, "old"), ("b", 1, 1, "stays"), ("a", 1, 2, "newer")])
    upsert.write([("a", 1, 3, "newest")])
    assert rows(connection) == [("a", 1, 3, "newest"), ("b", 1, 1, "stays")]


def test_columns_may_have_a_rule_of_their_own(connection: sa.Connection) -> None:
    upsert = Upsert(connection, things, ("shelf", "place"), {"count": 'things."count" + excluded."count"'})
    upsert.write([("a", 1, 1, "first")])
    upsert.write([("a", 1, 5, "second")])
    assert rows(connection) == [("a", 1, 6, "first")]


def test_sqlite_gets_few_statements(tmp_path: Path) -> None:
    seen: list[str] = []
    for connection in _opened(f"sqlite:///{tmp_path / 'x.db'}"):
        sa.event.listen(connection, "before_cursor_execute", lambda _c, _cursor, text, *rest: seen.append(text))
        upsert = Upsert(connection, things, ("shelf", "place"))
        upsert.write([("a", number, 0, "") for number in range(3 * MOST_ROWS + 5)])
        assert len(seen) == 3 + 1
        for count in range(1, MOST_ROWS + 1):
            seen.clear()
            upsert.write([("b", number, 0, "") for number in range(count)])
            assert 1 <= len(seen) <= 2
        # All of them stay prepared.
        assert len(upsert._statements) <= 32


def test_a_name_of_the_language_is_no_trouble() -> None:
    assert quoted("count") == '"count"'
