"""The agent's side of the conversation: first word, report, long poll, log, and what is no answer to a question."""

from __future__ import annotations

import asyncio
import io
import json
import time
from typing import Any

import pytest

from metalbox import inventory
from metalbox.journal import Entry, Kind
from metalbox.web import agent_api
from tests.web.conftest import MAC, UUID, Stack, report


async def poll(stack: Stack, boot_id: str = "boot-1", wait: float = 0) -> tuple[int, Any]:
    async with stack.http.get("/agent/v1/orders", params={"boot_id": boot_id, "wait": str(wait)}) as answer:
        document = await answer.json()
        for order in document.get("orders", []):
            assert len(order.pop("token")) == 22  # 128 bits; a new one for each run
        return answer.status, document


async def agent_lines(stack: Stack) -> list[Entry]:
    return [entry for entry in await stack.entries() if entry.kind is Kind.AGENT]


async def test_the_first_word(stack: Stack) -> None:
    word = {"boot_id": "boot-1", "macs": [str(MAC)], "uuid": UUID, "serial": "SN12345", "uptime_seconds": 4.25}
    async with stack.http.post("/agent/v1/hello", json=word) as answer:
        assert (answer.status, await answer.json()) == (200, {})
    (line,) = await agent_lines(stack)
    assert line.text == "the agent started, 4.2 s after its kernel"
    assert (line.mac, line.machine_id) == (MAC, None)
    assert line.data == {"what": "hello", "address": "127.0.0.1", "boot_id": "boot-1", "uptime_seconds": 4.25}


async def test_a_report_is_on_disk_when_it_is_answered(stack: Stack) -> None:
    assert await stack.report() == {"machine": "sn12345", "id": 1}
    machine = await stack.database.run(inventory.find, "sn12345")
    assert (machine.serial, machine.address, machine.boot_id) == ("SN12345", "127.0.0.1", "boot-1")
    assert [known.name for known in stack.reported] == ["sn12345"]
    assert stack.presence.mac_of("127.0.0.1", time.time()) == MAC
    assert await stack.report() == {"machine": "sn12345", "id": 1}


async def test_an_agent_that_we_do_not_know_shall_report(stack: Stack) -> None:
    status, answer = await poll(stack, "nobody")
    assert status == 404
    assert answer["error"] == "no machine has reported with boot id 'nobody': report first"
    assert (await poll(stack, ""))[0] == 404


async def test_an_order_wakes_the_poll_at_once(stack: Stack) -> None:
    await stack.report()
    waiting = asyncio.create_task(poll(stack, wait=60))
    await asyncio.sleep(0.1)
    async with stack.rest.post("/api/v1/machines/sn12345/report") as answer:
        order = (await answer.json())["order"]
    answer_in_time = await asyncio.wait_for(waiting, 30)
    assert answer_in_time == (200, {"orders": [{"id": order, "verb": "report", "data": {}}]})


async def test_an_order_that_was_there_before_is_told_once(stack: Stack) -> None:
    """An agent that was told and has not done it yet must not be told in a hot loop."""
    await stack.report()
    async with stack.rest.post("/api/v1/machines/sn12345/report") as answer:
        order = (await answer.json())["order"]
    assert await poll(stack) == (200, {"orders": [{"id": order, "verb": "report", "data": {}}]})
    assert await poll(stack) == (200, {"orders": []})
    await stack.report()
    async with stack.rest.post("/api/v1/machines/sn12345/report") as answer:
        assert (await answer.json())["order"] == order + 1
    assert await poll(stack) == (200, {"orders": [{"id": order + 1, "verb": "report", "data": {}}]})


async def test_a_poll_without_orders_waits_its_time(stack: Stack) -> None:
    await stack.report()
    began = time.monotonic()
    assert await poll(stack, wait=0.3) == (200, {"orders": []})
    assert time.monotonic() - began > 0.25


async def test_polls_are_one_line(stack: Stack) -> None:
    await stack.report()
    for _ in range(3):
        await poll(stack)
    (line,) = await agent_lines(stack)
    assert (line.count, line.mac, line.machine_id, line.data["what"]) == (3, MAC, 1, "poll")


async def test_an_agent_polls_on_after_our_restart(stack: Stack) -> None:
    await stack.report()
    stack.agents._agents.clear()
    assert await poll(stack) == (200, {"orders": []})


async def test_stopping_answers_the_polls(stack: Stack) -> None:
    await stack.report()
    waiting = asyncio.create_task(poll(stack, wait=60))
    await asyncio.sleep(0.1)
    stack.agents.stop()
    assert await asyncio.wait_for(waiting, 30) == (200, {"orders": []})


async def test_an_agent_that_is_gone_is_told_once(stack: Stack) -> None:
    await stack.report()
    (agent,) = stack.agents._agents.values()
    now = agent.heard_at
    stack.agents.note_gone(now + agent_api.GONE_SECONDS - 1)
    assert await agent_lines(stack) == []
    stack.agents.note_gone(now + agent_api.GONE_SECONDS + 1)
    stack.agents.note_gone(now + agent_api.GONE_SECONDS + 2)
    (line,) = await agent_lines(stack)
    assert line.text == "the agent was not heard of for 90 s"
    assert (line.data["what"], line.machine_id) == ("gone", 1)


async def test_a_new_boot_is_not_a_vanished_agent(stack: Stack) -> None:
    await stack.report()
    document = report()
    document["agent"]["boot_id"] = "boot-2"
    async with stack.http.post("/agent/v1/report", json=document) as answer:
        assert answer.status == 200
    assert list(stack.agents._agents) == ["boot-2"]


async def test_log_lines_are_kept(stack: Stack) -> None:
    lines = ["one", "two\x1b[31m", "", "x" * 5000]
    body = {"boot_id": "boot-1", "mac": str(MAC), "lines": lines}
    async with stack.http.post("/agent/v1/log", json=body) as answer:
        assert answer.status == 200
    logged = [entry for entry in await stack.entries() if entry.kind is Kind.LOG]
    assert [entry.text for entry in logged] == ["one", "two [31m", "x" * 1000]
    assert {entry.mac for entry in logged} == {MAC}
    async with stack.http.post("/agent/v1/log", json={**body, "lines": ["a"] * 300}) as answer:
        assert answer.status == 200
    logged = [entry for entry in await stack.entries() if entry.kind is Kind.LOG][3:]
    assert (len(logged), logged[0].text) == (201, "(100 lines left out)")


DEEP = b"[" * 100_000

BAD = [
    ("report", b"", 400, "the body is not JSON"),
    ("report", b"{", 400, "the body is not JSON"),
    ("report", b"\xff\xfe\x00", 400, "the body is not JSON"),
    ("report", b'{"version": NaN}', 400, "NaN"),
    ("report", DEEP, 400, "nested too deeply"),
    ("report", b"[]", 422, "the report: expected an object, got a list of 0 items"),
    ("report", b'{"version": 2}', 422, "version is 2"),
    ("report", json.dumps({**report(), "agent": {}}).encode(), 422, "agent.boot_id"),
    ("report", json.dumps(report(memory_bytes="1 GiB")).encode(), 422, "hardware.memory_bytes"),
    ("report", json.dumps(report(nics=[{"mac": "zz"}])).encode(), 422, "hardware.nics[0].mac"),
    ("report", json.dumps(report(memory_bytes=-1)).encode(), 422, "hardware.memory_bytes"),
    ("hello", b"7", 422, "the body: expected an object, got 7"),
    ("hello", b'{"boot_id": ""}', 422, "boot_id"),
    ("log", b"[]", 422, "the body: expected an object"),
    ("log", b'{"boot_id": "x", "lines": "no"}', 422, "lines: expected a list of texts, got 'no'"),
    ("log", b'{"boot_id": "x", "lines": [1]}', 422, "lines: expected a list of texts"),
    ("log", b'{"boot_id": "x", "mac": 5, "lines": []}', 422, "macs[0]"),
    ("report", b" " * (agent_api.MAX_BODY + 1), 413, "the body is larger than 4194304 bytes"),
]


@pytest.mark.parametrize(("verb", "body", "status", "words"), BAD)
async def test_a_body_that_cannot_be_used(stack: Stack, verb: str, body: bytes, status: int, words: str) -> None:
    async with stack.http.post(f"/agent/v1/{verb}", data=io.BytesIO(body)) as answer:
        assert answer.status == status
        error = (await answer.json())["error"]
    assert words in error
    assert "Traceback" not in error
    assert not [entry for entry in await stack.entries() if entry.kind is not Kind.HTTP]


async def test_a_wait_that_is_none(stack: Stack) -> None:
    await stack.report()
    async with stack.http.get("/agent/v1/orders?boot_id=boot-1&wait=soon") as answer:
        assert (answer.status, (await answer.json())["error"]) == (422, "wait: expected seconds, got 'soon'")
    assert (await poll(stack, wait=float("nan")))[0] == 422
    assert (await poll(stack, wait=-5))[0] == 200


async def test_a_body_that_never_ends_is_let_go(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agent_api, "BODY_SECONDS", 0.2)
    reader, writer = await asyncio.open_connection("127.0.0.1", stack.port)
    writer.write(b"POST /agent/v1/report HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n{")
    head = await asyncio.wait_for(reader.readuntil(b"\r\n"), 60)
    assert head == b"HTTP/1.1 408 Request Timeout\r\n"
    writer.close()
    await writer.wait_closed()


async def test_an_order_is_claimed_progresses_and_is_done(stack: Stack) -> None:
    await stack.report()
    async with stack.rest.post("/api/v1/machines/sn12345/report") as answer:
        number = (await answer.json())["order"]
    async with stack.http.get("/agent/v1/orders", params={"boot_id": "boot-1", "run": "r1", "wait": "0"}) as answer:
        (told,) = (await answer.json())["orders"]
    marks = {"boot_id": "boot-1", "run": "r1", "token": told["token"]}

    async def say(what: str, **more: Any) -> tuple[int, Any]:
        async with stack.http.post(f"/agent/v1/orders/{number}/{what}", json={**marks, **more}) as answer:
            return answer.status, await answer.json()

    assert await say("claim", token="guessed") == (
        409,
        {"error": f"order {number} is not for this boot of this machine, or its token is an old one", "exit_code": 4},
    )
    assert await say("claim") == (200, {})
    assert await say("progress", progress={"percent": 7}) == (200, {})
    assert (await say("progress", progress=[]))[1]["error"] == "progress: expected an object, got a list of 0 items"
    assert (await say("done", outcome=None))[0] == 422
    assert (await say("claim", run=5))[0] == 422
    assert await say("done", outcome={"fine": True}) == (200, {})
    assert await say("done", outcome={"fine": False}) == (200, {})
    found = await stack.database.run(lambda store: store.orders.get(number))
    assert found is not None and (found.outcome, found.progress) == ({"fine": True}, {"percent": 7})
    assert (await say("progress", progress={}))[0] == 409


async def test_a_boot_that_moves_to_another_machine_is_polled_for_by_one(stack: Stack) -> None:
    await stack.report()
    api = stack.agents
    first = api._agents["boot-1"]
    api._remember("boot-2", first.machine_id, first.name, MAC, "127.0.0.1")
    assert list(api._agents) == ["boot-2"]
    api._remember("boot-2", first.machine_id + 1, "other", MAC, "127.0.0.1")
    api._remember("boot-3", first.machine_id, first.name, MAC, "127.0.0.1")
    assert [(agent.boot_id, agent.name) for agent in api._agents.values()] == [
        ("boot-2", "other"),
        ("boot-3", "sn12345"),
    ]
    api.note_gone(asyncio.get_running_loop().time() + 1000)
    assert (list(api._agents), api._boots) == ([], {})
