"""Bounded threads: what a call that hangs costs, and whom."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest

from metalbox.errors import BmcHung, BmcRefused
from metalbox.power.threads import Slots, Threads, threads


async def test_what_the_call_returns_and_raises_is_handed_on() -> None:
    pool = threads(2)
    assert await pool.run(max, 3, 5, key="a", seconds=60) == 5

    def fail() -> None:
        raise BmcRefused("no")

    with pytest.raises(BmcRefused, match="no"):
        await pool.run(fail, key="a", seconds=60)
    assert not pool.lost


async def test_a_timeout_of_the_library_is_not_mistaken_for_ours() -> None:
    def fail() -> None:
        raise TimeoutError("from the library")

    with pytest.raises(TimeoutError, match="from the library"):
        await threads(1).run(fail, key="a", seconds=60)


async def test_an_answer_that_is_there_when_its_time_is_over_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """After the loop stood still both are due in the same moment."""
    pool, begun, released = threads(2), threading.Event(), threading.Event()

    def work() -> bool:
        begun.set()
        return released.wait(60)

    def fail() -> None:
        work()
        raise BmcRefused("no")

    loop = asyncio.get_running_loop()
    real = loop.time
    for call, expected in ((work, True), (fail, BmcRefused)):
        begun.clear()
        released.clear()
        asking = asyncio.create_task(pool.run(call, key="a", seconds=600))
        assert await asyncio.to_thread(begun.wait, 60)
        (thread,) = pool._running
        released.set()
        thread.join()
        with monkeypatch.context() as patch:
            patch.setattr(loop, "time", lambda: real() + 600)
            (found,) = await asyncio.gather(asking, return_exceptions=True)
        assert found is True if expected is True else isinstance(found, BmcRefused), found
        assert not pool.lost


async def test_a_call_that_hangs_is_lost_and_its_place_given_to_others() -> None:
    pool, release = Threads(1), threading.Event()
    with pytest.raises(BmcHung, match=r"192\.0\.2\.9 did not answer within 0\.02 s"):
        await pool.run(release.wait, key="192.0.2.9", seconds=0.02)
    assert pool.lost == {"192.0.2.9"}
    assert await pool.run(max, 1, 2, key="192.0.2.10", seconds=60) == 2  # the only place is free again
    with pytest.raises(BmcHung, match="still hangs in the last call"):
        await pool.run(max, 1, 2, key="192.0.2.9", seconds=60)
    release.set()
    await _until(lambda: not pool.lost)
    assert await pool.run(max, 1, 2, key="192.0.2.9", seconds=60) == 2


async def test_cancelling_loses_the_call_too() -> None:
    pool, release = Threads(1), threading.Event()
    task = asyncio.create_task(pool.run(release.wait, key="a", seconds=60))
    await _until(lambda: threading.active_count() > 1 and any(t.name == "power a" for t in threading.enumerate()))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert pool.lost == {"a"}
    release.set()
    await _until(lambda: not pool.lost)


async def test_lost_calls_are_bounded() -> None:
    pool, release = Threads(1, max_lost=2), threading.Event()
    for key in ("a", "b"):
        with pytest.raises(BmcHung):
            await pool.run(release.wait, key=key, seconds=0.01)
    with pytest.raises(BmcHung, match="c was not asked: calls to 2 other BMCs hang"):
        await pool.run(release.wait, key="c", seconds=0.01)
    release.set()
    await _until(lambda: not pool.lost)


async def test_no_more_than_so_many_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    # What only stands still gives no place away.
    monkeypatch.setattr("metalbox.power.threads.PROMPT_SECONDS", 60.0)
    pool, running, most, lock = Threads(3), 0, 0, threading.Lock()
    full = threading.Event()

    def call() -> None:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
            if running == expected:
                full.set()
        full.wait(60)
        time.sleep(0.005)
        with lock:
            running -= 1

    for expected in (1, 3):
        # Who has not come back yet has a part of the places.
        most = 0
        full.clear()
        await asyncio.gather(*(pool.run(call, key=str(number), seconds=60) for number in range(20)))
        assert most == expected


async def test_calls_that_wait_for_their_bmcs_do_not_hold_up_others() -> None:
    pool, release = Threads(2), threading.Event()
    keys = [f"sick {number}" for number in range(20)]
    for key in (*keys, "well"):
        await pool.run(max, 1, 2, key=key, seconds=60)
    hanging = [asyncio.create_task(pool.run(release.wait, key=key, seconds=60)) for key in keys]
    await asyncio.sleep(0)
    # Twenty that fall ill in the same moment, at two places: ten times a tenth of a second, once. They hang a minute.
    assert await asyncio.wait_for(pool.run(max, 1, 2, key="well", seconds=30), 30) == 2
    assert not any(task.done() for task in hanging)
    for task in hanging:
        task.cancel()
    await asyncio.gather(*hanging, return_exceptions=True)
    assert len(pool.lost) == 20
    release.set()
    await _until(lambda: not pool.lost)


async def test_those_that_overstayed_wait_among_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("metalbox.power.threads.PROMPT_SECONDS", 1.0)
    pool, release, begun = Threads(4), threading.Event(), []

    def hang(number: int) -> bool:
        begun.append(number)
        return release.wait()

    await pool.run(max, 1, 2, key="well", seconds=60)
    hanging = [asyncio.create_task(pool.run(hang, number, key=f"new {number}", seconds=60)) for number in range(30)]
    await asyncio.sleep(0)
    assert await pool.run(max, 1, 2, key="well", seconds=30) == 2
    # They begin one after the other, a second each.
    assert len(begun) < 20
    release.set()
    assert await asyncio.gather(*hanging) == [True] * 30


async def test_who_is_well_is_asked_however_many_hang() -> None:
    pool, release = Threads(4, max_lost=2), threading.Event()
    await pool.run(max, 1, 2, key="well", seconds=60)
    for key in ("a", "b"):
        with pytest.raises(BmcHung):
            await pool.run(release.wait, key=key, seconds=0.01)
    assert await pool.run(max, 1, 2, key="well", seconds=60) == 2
    release.set()
    await _until(lambda: not pool.lost)


def test_slots_outlive_an_event_loop() -> None:
    slots = Slots(1)

    async def crowd() -> int:
        async def one() -> int:
            async with slots.take():
                await asyncio.sleep(0)
                return 1

        return sum(await asyncio.gather(*(one() for _ in range(5))))

    assert [asyncio.run(crowd()) for _ in range(3)] == [5, 5, 5]


async def _until(true: object) -> None:
    assert callable(true)
    deadline = time.monotonic() + 60
    while not true():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.002)
