"""An event loop whose clock jumps to the next timer instead of waiting: minutes of retries take milliseconds.

Everything in asyncio goes by it, `asyncio.sleep` and timeouts too. When all tasks wait and no timer is set, that is a
deadlock and raised as one.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Coroutine, Mapping
from typing import Any, TypeVar

from metalbox.power.desk import Clock

T = TypeVar("T")
START = 1_000.0
EPOCH = 1_800_000_000.0


class _Selector(selectors.SelectSelector):
    now = START

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if ready:
            return ready
        if timeout is None:
            raise RuntimeError("every task waits, and no timer is set")
        # Timers are compared by the loop with a resolution of a nanosecond.
        self.now += max(0.0, timeout)
        return []


class TurnedLoop(asyncio.SelectorEventLoop):
    """Its time is the selector's."""

    def __init__(self) -> None:
        self._turned = _Selector()
        super().__init__(self._turned)

    def time(self) -> float:
        return self._turned.now


def turned_clock() -> Clock:
    """The running loop's clock; chance always says one half."""
    loop = asyncio.get_running_loop()
    return Clock(now=lambda: EPOCH + loop.time(), tick=loop.time, sleep=asyncio.sleep, jitter=lambda: 0.5)


def turn(story: Coroutine[Any, Any, T]) -> T:
    """Run a story by the turned clock. An exception that nobody looked at fails it."""
    unseen: list[Mapping[str, Any]] = []
    loop = TurnedLoop()
    loop.set_exception_handler(lambda _, context: unseen.append(context))
    try:
        result = loop.run_until_complete(story)
        loop.run_until_complete(asyncio.sleep(0))
    finally:
        for task in asyncio.all_tasks(loop):
            task.cancel()
        loop.run_until_complete(asyncio.sleep(0))
        loop.close()
    assert not unseen, unseen
    return result
