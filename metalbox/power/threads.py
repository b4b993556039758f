"""Threads for libraries that block: so many calls at once, each with a time limit; one that hangs costs only itself.

    THREADS = threads(16)
    state = await THREADS.run(session.get_power, key=endpoint.address, seconds=20)

Python cannot end a thread. A call that overstays its time is *lost*: its caller gets BmcHung, and until it returns by
itself no second call with its `key` (the BMC) is begun. So a BMC that hangs holds at most one thread. It holds nobody
up either: a call that waits gives its place to the next one, and keys whose last call was lost, or that never came
back, have few places of their own. Threads are daemons: one that hangs does not keep the service from stopping.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

from metalbox.errors import BmcHung

T = TypeVar("T")
# Lost calls of one driver. Each holds a stack and a socket; so many at once mean that not the BMCs are sick but the way
# to them, and one more thread would not help.
MAX_LOST = 1024
# A place stands for work. A call that is still under way after this waits for its BMC, and works no more.
PROMPT_SECONDS = 0.1
# Which part of the places those have that are not known to come back.
DOUBTFUL = 4


class Place:
    """One place, held until it is given back; twice is as good as once."""

    def __init__(self, semaphore: asyncio.Semaphore) -> None:
        self._semaphore: asyncio.Semaphore | None = semaphore

    def give_back(self) -> None:
        """Let the next one in."""
        if self._semaphore is not None:
            self._semaphore.release()
            self._semaphore = None


class Slots:
    """At most `count` bodies of `async with slots.take()` at once in an event loop; the others wait in order."""

    def __init__(self, count: int) -> None:
        self.count = count
        # A semaphore belongs to the loop that it first waits in, and a module outlives a loop.
        self._semaphores: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Semaphore] = WeakKeyDictionary()

    @asynccontextmanager
    async def take(self) -> AsyncIterator[Place]:
        """Wait for a place and hold it, to the end of the block at most."""
        semaphore = self._semaphores.setdefault(asyncio.get_running_loop(), asyncio.Semaphore(self.count))
        await semaphore.acquire()
        place = Place(semaphore)
        try:
            yield place
        finally:
            place.give_back()


class Threads:
    """The threads of one driver. `lost` names the keys whose last call still hangs, for the status page."""

    def __init__(self, count: int, max_lost: int = MAX_LOST) -> None:
        self.slots = Slots(count)
        self.doubtful = Slots(max(1, count // DOUBTFUL))
        self.max_lost = max_lost
        self._well: set[str] = set()
        self._lost: dict[threading.Thread, str] = {}
        self._running: set[threading.Thread] = set()
        self._lock = threading.Lock()

    @property
    def lost(self) -> frozenset[str]:
        """The keys of calls that outstayed their time and have not returned yet."""
        with self._lock:
            return frozenset(self._lost.values())

    async def run(self, call: Callable[..., T], *arguments: Any, key: str, seconds: float) -> T:
        """Return what `call(*arguments)` returns, or raise what it raises; BmcHung after `seconds`.

        The time counts from the start of the thread, not while waiting for a place. Cancelling loses the call too.
        """
        is_well = key in self._well
        async with (self.slots if is_well else self.doubtful).take() as place:
            self._refuse_if_lost(key, is_well)
            loop = asyncio.get_running_loop()
            answer: asyncio.Future[T] = loop.create_future()
            work = (loop, answer, call, arguments)
            thread = threading.Thread(target=self._work, args=work, name=f"power {key}", daemon=True)
            self._running.add(thread)
            thread.start()
            try:
                async with asyncio.timeout(seconds):
                    await asyncio.wait({answer}, timeout=PROMPT_SECONDS)
                    if len(self._running) <= self.slots.count + self.max_lost:
                        place.give_back()
                    return await answer
            except TimeoutError:
                # The call itself raised it, or the loop stood still until both were due.
                if answer.done() and not answer.cancelled():
                    return answer.result()
                raise BmcHung(f"{key} did not answer within {seconds:g} s") from None
            finally:
                answer.cancel()
                self._lose_if_running(thread, key)

    def _refuse_if_lost(self, key: str, is_well: bool) -> None:
        lost = self.lost
        if key in lost:
            raise BmcHung(f"{key} still hangs in the last call to it", evidence="the call has not returned")
        if len(lost) >= self.max_lost and not is_well:
            raise BmcHung(
                f"{key} was not asked: calls to {len(lost)} other BMCs hang", evidence=", ".join(sorted(lost))
            )

    def _lose_if_running(self, thread: threading.Thread, key: str) -> None:
        with self._lock:
            if thread in self._running:
                self._lost[thread] = key
                self._well.discard(key)
            else:
                self._well.add(key)

    def _work(
        self,
        loop: asyncio.AbstractEventLoop,
        answer: asyncio.Future[T],
        call: Callable[..., T],
        arguments: tuple[Any, ...],
    ) -> None:
        value: T | None = None
        error: BaseException | None = None
        try:
            value = call(*arguments)
        except BaseException as raised:  # handed to the caller, whatever it is
            error = raised
        with self._lock:
            self._running.discard(threading.current_thread())
            self._lost.pop(threading.current_thread(), None)

        def give() -> None:
            if answer.done():
                return
            if error is not None:
                answer.set_exception(error)
            else:
                answer.set_result(value)  # type: ignore[arg-type]

        # The loop may have ended while the call hung; nobody waits then.
        with suppress(RuntimeError):
            loop.call_soon_threadsafe(give)


def threads(count: int) -> Threads:
    """The bounded threads of one driver module."""
    return Threads(count)
