"""REST for machines' lives: every verb in every state over the real socket, who asks, plans, approvals."""

from __future__ import annotations

from typing import Any

import pytest

from metalbox import inventory
from metalbox.lifecycle import Event, State, legal
from metalbox.store import Store
from metalbox.web.life_api import VERBS
from tests.web.conftest import Stack

STATES = [state for state in State if state is not State.UNKNOWN]


async def post(stack: Stack, verb: str, body: Any = None, name: str = "sn12345") -> tuple[int, Any]:
    async with stack.rest.post(f"/api/v1/machines/{name}/{verb}", json=body) as answer:
        return answer.status, await answer.json()


async def put_in(stack: Stack, state: State) -> None:
    """Write the state into the database, as if the machine had come there."""
    await stack.report()

    def write(store: Store) -> None:
        machine = inventory.find(store, "sn12345")
        object.__setattr__(machine, "state", str(state))
        store.machines.save(machine)

    await stack.database.run(write)


@pytest.mark.parametrize("state", STATES)
async def test_a_verb_that_is_not_in_the_table_is_refused_with_what_would_be(stack: Stack, state: State) -> None:
    await put_in(stack, state)
    refused = [verb for verb in VERBS.split("|") if verb not in legal(state)]
    for verb in refused:
        status, answer = await post(stack, verb)
        assert (status, answer["exit_code"]) == (409, 4), verb
        expected = f"{Event(verb)} is not possible in state {state}; possible is: {', '.join(legal(state))}"
        assert answer["error"] == expected
    async with stack.rest.get("/api/v1/machines/sn12345/life") as answer:
        row = await answer.json()
    assert (row["state"], row["possible"]) == (str(state), legal(state))
