"""The steward joined to the parts that it drives: what the database's thread orders is carried out, clocks, copies."""

from __future__ import annotations

import asyncio

from metalbox import inventory
from metalbox.lifecycle import Event
from metalbox.rounds import Wish
from tests.web.conftest import Stack, stack

__all__ = ["stack"]


async def test_what_a_verb_orders_is_carried_out(stack: Stack) -> None:
    await stack.report()
    wish = Wish(operator="alice", reason="in use")
    moved = await stack.database.run(stack.steward.lives.wish, "sn12345", Event.ADOPT, wish, 1000.0)
    stack.steward.moved(moved)
    ((machine, is_gone),) = stack.changed
    assert (machine.state, is_gone) == ("deployed", False)
    moved = await stack.database.run(
        stack.steward.lives.wish, "sn12345", Event.FORGET, Wish(operator="alice", force=True), 1001.0
    )
    stack.steward.moved(moved)
    assert stack.changed[-1][1]
    await asyncio.sleep(0)
    assert await stack.database.run(inventory.listing, "", "", 0.0) == {"machines": [], "strangers": []}
