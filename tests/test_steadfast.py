"""A database that fails for a while: nothing is lost, and nobody is asked in a hurry."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy.exc import OperationalError

from metalbox.errors import Refused
from metalbox.steadfast import LONGEST_SECONDS, Steadfast
from metalbox.store import Database, Store


class Failing(Database):
    """Fails so many times, as a full disk does."""

    def __init__(self, times: int) -> None:
        self.store = None  # type: ignore[assignment]
        self.times = times

    async def run(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        self.times -= 1
        if self.times >= 0:
            raise OperationalError("INSERT", {}, Exception("database or disk is full"))
        return function(self.store, *args, **kwargs)


async def test_it_is_tried_again_with_growing_pauses() -> None:
    pauses: list[float] = []

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)

    steadfast = Steadfast(Failing(9), sleep)
    assert await steadfast.run(lambda store, number: number + 1, 6) == 7
    assert pauses == [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0, LONGEST_SECONDS]
    assert steadfast.counters == {"database failed": 9}
    await steadfast.close()


async def test_what_else_goes_wrong_is_raised() -> None:
    def refuse(store: Store) -> None:
        raise Refused("no")

    with pytest.raises(Refused):
        await Steadfast(Failing(0)).run(refuse)
