"""REST for the command line: what each URL answers, the long poll for events, and errors with their exit codes."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from metalbox.journal import Kind
from metalbox.machine import Mac
from tests.web.conftest import MAC, UUID, Stack, report

STRANGER = Mac("52:54:00:00:00:99")


async def get(stack: Stack, path: str, **query: Any) -> tuple[int, Any]:
    async with stack.rest.get(path, params={name: str(value) for name, value in query.items()}) as answer:
        return answer.status, await answer.json()


def stranger_boots(stack: Stack) -> None:
    data = {"messages": ["DISCOVER", "OFFER"], "client": "bios", "mode": "proxy", "port": 67}
    stack.journal.record(Kind.DHCP, "asked for an address", now=time.time(), mac=STRANGER, data=data)


async def test_status_comes_from_the_service(stack: Stack) -> None:
    assert await get(stack, "/api/v1/status") == (200, {"version": "x"})


async def test_machines_and_strangers(stack: Stack) -> None:
    assert await get(stack, "/api/v1/machines") == (200, {"machines": [], "strangers": []})
    await stack.report()
    stranger_boots(stack)
    _, answer = await get(stack, "/api/v1/machines")
    (machine,) = answer["machines"]
    (stranger,) = answer["strangers"]
    assert (machine["name"], machine["state"], machine["macs"]) == ("sn12345", "discovered", [MAC])
    assert (machine["disks"], machine["disk_bytes"], machine["cpus"], machine["mode"]) == (1, 10**12, 1, "bios")
    assert (stranger["mac"], stranger["text"]) == (STRANGER, "asked for an address")
    assert (await get(stack, "/api/v1/machines", state="retired"))[1]["machines"] == []
    assert len((await get(stack, "/api/v1/machines", q="acme"))[1]["machines"]) == 1


@pytest.mark.parametrize("name", ["sn12345", "SN12345", "1", str(MAC), MAC.replace(":", "-"), UUID])
async def test_a_machine_by_all_its_names(stack: Stack, name: str) -> None:
    await stack.report()
    status, machine = await get(stack, f"/api/v1/machines/{name}")
    assert status == 200
    assert machine["hardware"]["disks"][0]["serial"] == "D1"
    assert machine["macs"] == [MAC]


async def test_what_is_not_there(stack: Stack) -> None:
    for path in ("", "/events", "/why"):
        status, answer = await get(stack, f"/api/v1/machines/none{path}")
        assert (status, answer["exit_code"]) == (404, 3)
        assert answer["error"] == "there is no machine 'none': `metalbox list` shows all"
    status, answer = await get(stack, "/api/v1/machines/52:54:00:00:00:01/why")
    assert (status, answer["exit_code"]) == (404, 3)
    assert await get(stack, "/api/v2") == (404, {"error": "there is nothing at '/api/v2'", "exit_code": 3})
    async with stack.rest.delete("/api/v1/machines") as gone:
        assert (gone.status, gone.headers["Allow"]) == (405, "GET,HEAD")


async def test_events_of_all_of_a_machine_and_of_a_stranger(stack: Stack) -> None:
    await stack.report()
    stranger_boots(stack)
    _, everything = await get(stack, "/api/v1/events")
    assert [(event["kind"], event["machine"]) for event in everything["events"]] == [
        ("report", "sn12345"),
        ("dhcp", ""),
    ]
    assert everything["next"] == everything["events"][-1]["id"]
    _, mine = await get(stack, "/api/v1/machines/sn12345/events")
    assert [event["kind"] for event in mine["events"]] == ["report"]
    # Nothing below `next` can still come: who follows goes on from the newest line of all.
    assert mine["next"] == everything["next"]
    _, theirs = await get(stack, f"/api/v1/machines/{STRANGER}/events")
    assert [event["text"] for event in theirs["events"]] == ["asked for an address"]


async def test_events_page_by_page(stack: Stack) -> None:
    for number in range(5):
        stack.journal.record(Kind.SERVICE, f"line {number}", now=time.time())
    _, newest = await get(stack, "/api/v1/events", limit=2)
    assert [event["text"] for event in newest["events"]] == ["line 3", "line 4"]
    seen = []
    after = 0
    for _ in range(3):
        _, page = await get(stack, "/api/v1/events", limit=2, after=after)
        seen += [event["text"] for event in page["events"]]
        after = page["next"]
    assert seen == [f"line {number}" for number in range(5)]


async def test_following_wakes_when_something_happens(stack: Stack) -> None:
    await stack.report()
    after = (await get(stack, "/api/v1/events"))[1]["next"]
    everyone = asyncio.create_task(get(stack, "/api/v1/events", after=after, wait=60))
    only_one = asyncio.create_task(get(stack, "/api/v1/machines/sn12345/events", after=after, wait=60))
    await asyncio.sleep(0.1)
    stranger_boots(stack)
    status, answer = await asyncio.wait_for(everyone, 30)
    assert (status, [event["mac"] for event in answer["events"]]) == (200, [STRANGER])
    assert not only_one.done()
    stack.journal.record(Kind.DHCP, "asked for an address", now=time.time(), mac=MAC)
    status, answer = await asyncio.wait_for(only_one, 30)
    assert (status, [event["machine"] for event in answer["events"]]) == (200, ["sn12345"])


async def test_following_ends_in_its_time_and_when_the_service_stops(stack: Stack) -> None:
    stack.journal.record(Kind.SERVICE, "line", now=time.time())
    after = (await get(stack, "/api/v1/events"))[1]["next"]
    assert await get(stack, "/api/v1/events", after=after, wait=1) == (200, {"events": [], "next": after})
    waiting = asyncio.create_task(get(stack, "/api/v1/events", after=after, wait=60))
    await asyncio.sleep(0.1)
    stack.api.stop()
    assert (await asyncio.wait_for(waiting, 30))[0] == 200


@pytest.mark.parametrize(
    "query", ["limit=x", "limit=-1", "limit=99999999", "after=%00", "wait=1e3", "after=" + "9" * 30]
)
async def test_numbers_that_are_none(stack: Stack, query: str) -> None:
    status, answer = await get(stack, f"/api/v1/events?{query}")
    assert (status, answer["exit_code"]) == (400, 2)
    assert query.split("=", maxsplit=1)[0] in answer["error"]


async def test_why(stack: Stack) -> None:
    await stack.report()
    stranger_boots(stack)
    for name in ("sn12345", str(STRANGER)):
        status, answer = await get(stack, f"/api/v1/machines/{name}/why")
        assert status == 200
        assert answer["machine"] == name
        assert set(answer) == {
            "machine", "doing", "waiting_for", "since", "evidence", "cause", "advice", "code", "also",
        }  # fmt: skip


async def test_a_machine_in_conflict_takes_no_orders(stack: Stack) -> None:
    await stack.report()
    twin = report(system={"vendor": "ACME", "serial": "SN67890", "uuid": UUID}, nics=[{"mac": "52:54:00:00:00:02"}])
    twin["agent"] |= {"boot_id": "boot-2", "booted_mac": "52:54:00:00:00:02"}
    async with stack.http.post("/agent/v1/report", json=twin) as answer:
        assert (await answer.json())["machine"] == "sn67890"
    async with stack.rest.post("/api/v1/machines/sn12345/report") as answer:
        assert answer.status == 409
        refusal = await answer.json()
    assert refusal["exit_code"] == 4
    assert "in conflict" in refusal["error"]


async def test_no_leases(stack: Stack) -> None:
    assert await get(stack, "/api/v1/leases") == (200, {"leases": []})


async def test_notes(stack: Stack) -> None:
    note = {
        "mac": str(STRANGER).upper(),
        "kind": "power",
        "text": "switched on\x1b",
        "data": {"state": "on", "by": "lab"},
    }
    async with stack.rest.post("/api/v1/notes", json=note) as answer:
        assert (answer.status, await answer.json()) == (200, {})
    (line,) = await stack.entries()
    assert (line.kind, line.mac, line.text, line.data) == (Kind.POWER, STRANGER, "switched on", note["data"])


@pytest.mark.parametrize(
    "body",
    [b"", b"[]", b"{}", b'{"kind": "dhcp", "mac": "52:54:00:00:00:99", "text": ""}', b'{"kind": "power", "mac": 1}',
     b'{"kind": "power", "mac": "zz", "text": ""}'],
)  # fmt: skip
async def test_notes_that_are_none(stack: Stack, body: bytes) -> None:
    async with stack.rest.post("/api/v1/notes", data=body) as answer:
        assert (answer.status, (await answer.json())["exit_code"]) == (400, 2)
    assert await stack.entries() == []
