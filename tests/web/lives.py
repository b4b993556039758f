"""One machine with disks and an agent that speaks over real HTTP, for the tests of lives."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from metalbox import inventory
from metalbox.lifecycle import State
from metalbox.orderrecords import Order
from metalbox.store import Store
from tests.erasures import MAC, outcome, report
from tests.reports import UUID
from tests.web.conftest import Stack

NAME = "sn1001"


async def present(stack: Stack, *disks: dict[str, Any], uuid: str = UUID, **marks: str) -> None:
    """The machine reports these disks."""
    document = report(*disks, **{"mac": MAC, "serial": "SN1001", "boot_id": marks.get("serial", "b1"), **marks})
    document["hardware"]["system"]["uuid"] = uuid
    async with stack.http.post("/agent/v1/report", json=document) as answer:
        assert answer.status == 200, await answer.text()


async def put_in(stack: Stack, state: State, **more: Any) -> None:
    """Write the state into the database, as if the machine had come there."""

    def write(store: Store) -> None:
        machine = inventory.find(store, NAME)
        for name, value in {"state": str(state), **more}.items():
            object.__setattr__(machine, name, value)
        store.machines.save(machine)

    await stack.database.run(write)


async def post(stack: Stack, verb: str, body: Any = None, name: str = NAME, **headers: str) -> tuple[int, Any]:
    async with stack.rest.post(f"/api/v1/machines/{name}/{verb}", json=body, headers=headers) as answer:
        return answer.status, await answer.json()


async def life(stack: Stack, name: str = NAME) -> Any:
    async with stack.rest.get(f"/api/v1/machines/{name}/life") as answer:
        return await answer.json()


async def poll(stack: Stack) -> list[Mapping[str, Any]]:
    async with stack.http.get("/agent/v1/orders", params={"boot_id": "b1", "run": "r1", "wait": "0"}) as answer:
        return list((await answer.json())["orders"])


async def erase_order(stack: Stack, *disks: dict[str, Any]) -> Mapping[str, Any]:
    """Go on until the erase order is told, as an agent would."""
    for _ in range(1200):
        if (await life(stack))["state"] not in ("erasing", "retiring"):
            await asyncio.sleep(0.05)  # the wish is still on its way
            continue
        for order in await poll(stack):
            if order["verb"] == "report":
                await present(stack, *disks)
            elif order["verb"] == "erase":
                return order
    raise AssertionError(await life(stack))


async def say(stack: Stack, order: Mapping[str, Any], what: str, **more: Any) -> int:
    body = {"boot_id": "b1", "run": "r1", "token": order["token"], **more}
    async with stack.http.post(f"/agent/v1/orders/{order['id']}/{what}", json=body) as answer:
        return answer.status


async def claim(stack: Stack, order: Mapping[str, Any]) -> None:
    assert await say(stack, order, "claim") == 200


async def done(stack: Stack, order: Mapping[str, Any], **per_disk: Mapping[str, Any]) -> None:
    """The agent says what came of it."""
    whole = Order(order["id"], 0, "erase", 0.0, data=order["data"])
    assert await say(stack, order, "done", outcome=outcome(whole, **per_disk)) == 200
