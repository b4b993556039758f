"""Who may be switched on when, with tasks that wait."""

from __future__ import annotations

import asyncio

import pytest

from metalbox.power.stagger import Budget
from metalbox.power.turnstile import Turnstile
from tests.power.clockwork import START, turn, turned_clock


def test_twenty_at_once_start_at_their_rate_and_without_a_budget_all_do() -> None:
    async def story(budgets: dict[str, Budget]) -> list[float]:
        gate = Turnstile(budgets, turned_clock())
        times: list[float] = []

        async def start(number: int) -> None:
            await gate.admit(number, {"rack": "r1"})
            times.append(asyncio.get_running_loop().time() - START)

        await asyncio.gather(*(start(number) for number in range(20)))
        assert gate.waiting == ()
        return times

    assert turn(story({"rack": Budget(4.0, burst=2)})) == pytest.approx([max(0, n - 1) / 4 for n in range(20)])
    assert turn(story({})) == [0.0] * 20


def test_who_waits_is_told_once_how_many_are_before_it() -> None:
    async def story() -> tuple[list[int], list[int | None]]:
        gate = Turnstile({"": Budget(1.0)}, turned_clock())
        told: list[int] = []
        tasks = [asyncio.create_task(gate.admit(key, {}, told.append)) for key in "abcd"]
        await asyncio.sleep(0.5)
        places = [gate.before(key) for key in "abcd"]
        await asyncio.gather(*tasks)
        return told, places

    assert turn(story()) == ([0, 1, 2], [None, 0, 1, 2])


def test_who_is_cancelled_gives_its_place_up() -> None:
    async def story() -> list[str]:
        gate = Turnstile({"": Budget(1.0)}, turned_clock())
        started: list[str] = []

        async def start(key: str) -> None:
            await gate.admit(key, {})
            started.append(f"{key} {asyncio.get_running_loop().time() - START:.0f}")

        tasks = {key: asyncio.create_task(start(key)) for key in "abcd"}
        await asyncio.sleep(0.5)
        tasks["b"].cancel()
        await asyncio.gather(*tasks.values(), return_exceptions=True)
        return started

    assert turn(story()) == ["a 0", "c 1", "d 2"]
