"""The long lists by REST: streamed in pages, and no half list that looks like a whole one."""

from __future__ import annotations

import asyncio
import sqlite3
from typing import Any

import aiohttp
import pytest
from sqlalchemy.exc import OperationalError

from metalbox import listing
from metalbox.machine import Mac, Machine
from metalbox.store import Store
from metalbox.web import list_api
from tests.web.conftest import Stack
from tests.web.test_api import get

COUNT = 23
API = "/api/v1/machines"


@pytest.fixture(autouse=True)
def small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seven machines in a page."""
    real = listing.page
    monkeypatch.setattr(list_api, "page", lambda store, wanted, after: real(store, wanted, after, 7))


async def fill(stack: Stack) -> list[str]:
    def add(store: Store) -> None:
        for n in range(COUNT):
            mac = Mac.from_bytes(b"\x02\0" + n.to_bytes(4, "big"))
            store.machines.add(Machine(0, f"m{n:02d}", "discovered", macs=(mac,), labels={"rack": f"r{n % 2}"}))

    await stack.database.run(add)
    return [f"m{n:02d}" for n in range(COUNT)]


def names(answer: Any) -> list[str]:
    return [row["name"] for row in answer["machines"]]


async def test_all_pages_are_one_document(stack: Stack) -> None:
    whole = await fill(stack)
    status, answer = await get(stack, API)
    assert (status, names(answer), answer["strangers"]) == (200, whole, [])
    assert set(answer) == {"machines", "strangers"}
    assert names((await get(stack, API, selector="rack=r1"))[1]) == whole[1::2]
    # The first pages are empty, the last one too.
    assert names((await get(stack, API, q="m15"))[1]) == ["m15"]
    assert (await get(stack, API, q="none", fields="name"))[1]["machines"] == []
    assert (await get(stack, API, q="m03", fields="state"))[1]["machines"] == [{"name": "m03", "state": "discovered"}]


@pytest.mark.parametrize("limit", [1, 6, 7, 8, 22, 23, 24])
async def test_who_asks_for_so_many_is_told_where_to_go_on(stack: Stack, limit: int) -> None:
    whole = await fill(stack)
    for query, expected in (({}, whole), ({"selector": "rack=r0"}, whole[::2])):
        found: list[str] = []
        after = ""
        while True:
            _, answer = await get(stack, API, limit=limit, after=after, fields="name", **query)
            assert len(answer["machines"]) <= limit
            found += names(answer)
            after = answer["next"]
            if not after:
                break
        assert found == expected


async def test_other_work_is_done_between_the_pages(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    await fill(stack)
    done = []
    real = list_api._machine_page

    def page(store: Store, *args: Any) -> Any:
        done.append("page")
        return real(store, *args)

    monkeypatch.setattr(list_api, "_machine_page", page)
    listed = asyncio.create_task(get(stack, API))
    while not listed.done():
        await stack.database.run(lambda store: done.append("lease"))
    assert done.count("page") == 4
    first, last = done.index("page"), len(done) - done[::-1].index("page")
    assert "lease" in done[first:last]


@pytest.mark.parametrize("query", [{"fields": "name,hardware"}, {"limit": "x"}, {"selector": "rack=r1,"}])
async def test_what_cannot_be_asked(stack: Stack, query: dict[str, str]) -> None:
    status, answer = await get(stack, API, **query)
    assert (status, answer["exit_code"]) == (400, 2)


@pytest.mark.parametrize("good", [0, 2])
async def test_a_database_that_fails_in_the_middle_leaves_no_half_list(
    stack: Stack, monkeypatch: pytest.MonkeyPatch, good: int
) -> None:
    await fill(stack)
    real = listing.page
    calls: list[int] = []

    def page(store: Store, wanted: listing.Wanted, after: str) -> listing.Page:
        calls.append(1)
        if len(calls) > good:
            raise OperationalError("SELECT", None, sqlite3.OperationalError("disk I/O error"))
        return real(store, wanted, after, 7)

    monkeypatch.setattr(list_api, "page", page)
    if not good:
        status, answer = await get(stack, API)
        assert (status, "disk I/O error" in answer["error"]) == (503, True)
        return
    with pytest.raises(aiohttp.ClientError):
        await get(stack, API)
