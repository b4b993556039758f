"""What work costs, counted instead of timed: the same on every machine, however busy it is."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

import sqlalchemy as sa

from metalbox.store import Store

# SQLite calls back after so many instructions of its virtual machine.
GRAIN = 50


@dataclass
class Cost:
    """What SQLite's virtual machine did, about ten instructions for a row; and the statements as they were sent."""

    instructions: int = 0
    statements: list[str] = field(default_factory=list)


@contextmanager
def cost(store: Store) -> Iterator[Cost]:
    """Count what a SQLite store does inside the `with` block."""
    counted = Cost()

    def tick() -> int:
        counted.instructions += GRAIN
        return 0

    def sent(_connection: Any, _cursor: Any, statement: str, *_rest: Any) -> None:
        counted.statements.append(statement)

    raw: Any = store.connection.connection.driver_connection
    raw.set_progress_handler(tick, GRAIN)
    sa.event.listen(store.connection, "before_cursor_execute", sent)
    try:
        yield counted
    finally:
        sa.event.remove(store.connection, "before_cursor_execute", sent)
        raw.set_progress_handler(None, 0)


def calls(function: Callable[[], object]) -> int:
    """How many functions are called, of Python and of C, until `function` has returned."""
    counted = 0

    def seen(_frame: FrameType, event: str, _argument: object) -> None:
        nonlocal counted
        counted += event in {"call", "c_call"}

    before = sys.getprofile()
    sys.setprofile(seen)
    try:
        function()
    finally:
        sys.setprofile(before)
    return counted
