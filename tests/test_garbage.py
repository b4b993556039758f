"""metalbox.garbage: cycles go, and not while there is much to do."""

from __future__ import annotations

import asyncio
import gc
import subprocess
import sys
import weakref
from collections.abc import Iterator

import pytest

from metalbox import garbage


class Ring:
    """Holds itself."""

    def __init__(self) -> None:
        self.me = self


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    before = gc.get_threshold()
    yield
    gc.set_threshold(*before)


async def test_cycles_go_in_a_quiet_second_and_only_then(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(garbage, "LOOK_SECONDS", 0.01)
    gc.set_threshold(100, 1_000_000, 1_000_000)
    used, step = [0.0], [0.5]

    def cpu() -> float:
        used[0] += step[0]
        return used[0]

    old = Ring()
    gc.collect()
    ring = weakref.ref(old)
    del old
    task = asyncio.create_task(garbage.collect_when_quiet(cpu))
    try:
        kept = [[number] for number in range(5000)]
        await asyncio.sleep(0.1)
        assert 0 < gc.get_count()[1] < garbage.WORTH and ring() is not None, "a long look is not worth it"
        kept += [[number] for number in range(20_000)]
        await asyncio.sleep(0.1)
        assert gc.get_count()[1] >= garbage.WORTH and ring() is not None, "the processor is busy"
        step[0] = 0.0
        for _ in range(500):
            if ring() is None:
                break
            await asyncio.sleep(0.02)
        assert len(kept) == 25_000 and ring() is None and gc.get_count()[1] < garbage.WORTH
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def test_what_stands_at_the_start_is_not_looked_at_again() -> None:
    program = (
        "import gc; from metalbox import garbage; garbage.disable(); assert not gc.isenabled();"
        "stays = [[n] for n in range(10_000)]; garbage.spare();"
        "assert gc.isenabled() and gc.get_freeze_count() > 10_000, gc.get_freeze_count();"
        "assert gc.get_threshold() == (garbage.YOUNG, garbage.MIDDLE_AGED, garbage.OLD)"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
