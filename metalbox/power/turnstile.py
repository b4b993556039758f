"""Where power-ons wait for their turn: the clock and the futures around metalbox.power.stagger."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable, Mapping

from metalbox.power.desk import Clock
from metalbox.power.stagger import Budget, Stagger


class Turnstile:
    """Lets machines start within the budgets. Without a budget nobody waits."""

    def __init__(self, budgets: Mapping[str, Budget], clock: Clock) -> None:
        self._stagger = Stagger(budgets)
        self._clock = clock
        self._admitted: dict[Hashable, asyncio.Event] = {}

    @property
    def waiting(self) -> tuple[Hashable, ...]:
        """Who waits to be switched on, in order."""
        return self._stagger.waiting

    def before(self, key: Hashable) -> int | None:
        """How many wait before the machine `key`; None when it does not wait."""
        waiting = self.waiting
        return waiting.index(key) if key in waiting else None

    async def admit(self, key: Hashable, labels: Mapping[str, str], waits: Callable[[int], None] | None = None) -> None:
        """Return when the machine `key` may be switched on. Cancelling gives the place in the queue back.

        `waits` is called once, with the number of those before it, when it may not at once.
        """
        admitted = self._admitted.setdefault(key, asyncio.Event())
        self._stagger.ask(key, labels)
        try:
            while True:
                for started in self._stagger.turn(self._clock.tick()):
                    if (event := self._admitted.get(started)) is not None:
                        event.set()
                if admitted.is_set():
                    return
                if waits is not None:
                    waits(self.before(key) or 0)
                    waits = None
                await self._wait(admitted)
        finally:
            self._stagger.leave(key)
            self._admitted.pop(key, None)

    async def _wait(self, admitted: asyncio.Event) -> None:
        now = self._clock.tick()
        until = self._stagger.next_at(now)
        napping = asyncio.ensure_future(self._clock.sleep(max(0.001, (until or now) - now)))
        called = asyncio.ensure_future(admitted.wait())
        try:
            await asyncio.wait({napping, called}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            napping.cancel()
            called.cancel()
