"""Work in the database that has to be done: while the database fails, it is tried again with growing pauses.

For what must not be lost and nobody waits for at a keyboard: an order that was accepted, the note of a command that is
about to leave. A full disk then holds up the orders, and not the service.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Concatenate, ParamSpec, TypeVar

from sqlalchemy.exc import DBAPIError

from metalbox.store import Database, Store

P = ParamSpec("P")
R = TypeVar("R")

log = logging.getLogger("metalbox.power")

FIRST_SECONDS = 0.5
LONGEST_SECONDS = 30.0


class Steadfast(Database):
    """A database whose `run` does not give up. Its thread is the other one's, and so are its transactions."""

    def __init__(self, database: Database, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep) -> None:
        self.store = database.store
        self.counters: Counter[str] = Counter()
        self._database = database
        self._sleep = sleep

    async def run(self, function: Callable[Concatenate[Store, P], R], *args: P.args, **kwargs: P.kwargs) -> R:
        """As Database.run, until it is done; what else than the database fails is raised. Cancelling ends it."""
        pause = FIRST_SECONDS
        while True:
            try:
                return await self._database.run(function, *args, **kwargs)
            except DBAPIError as error:
                self.counters["database failed"] += 1
                log.error("the database fails, it is tried again in %.1f s: %s", pause, error.orig)
            await self._sleep(pause)
            pause = min(LONGEST_SECONDS, 2 * pause)

    async def close(self) -> None:
        """Nothing: the database is closed by whoever opened it."""
