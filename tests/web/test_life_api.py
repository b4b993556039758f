"""REST for machines' lives: every verb in every state over the real socket, who asks, plans, approvals, progress."""

from __future__ import annotations

import asyncio
import os
import socket
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest

from metalbox import inventory
from metalbox.certificaterecords import Certificates
from metalbox.lifecycle import Event, State, legal
from metalbox.machine import Fault
from metalbox.moves import is_untouchable
from metalbox.rounds import from_facts
from metalbox.store import Store
from metalbox.web import agent_api
from metalbox.web.life_api import VERBS
from tests.erasures import disk
from tests.web.conftest import Stack
from tests.web.lives import NAME, claim, done, erase_order, life, poll, post, present, put_in, say

A, B = disk("A"), disk("B")
STATES = [state for state in State if state is not State.UNKNOWN]


async def machine(stack: Stack) -> Any:
    return await stack.database.run(inventory.find, NAME)


async def told(stack: Stack, kind: str = "life") -> list[str]:
    return [entry.text for entry in await stack.entries() if entry.kind == kind]


async def orders(stack: Stack) -> list[str]:
    def read(store: Store) -> list[str]:
        return [str(one.order.verb) for one in store.power_orders.unfinished()]

    return await stack.database.run(read)


@pytest.mark.parametrize("state", STATES)
async def test_a_verb_that_is_not_in_the_table_is_refused_with_what_would_be(stack: Stack, state: State) -> None:
    await present(stack, A)
    await put_in(stack, state)
    for verb in [verb for verb in VERBS.split("|") if verb not in legal(state)]:
        status, answer = await post(stack, verb)
        assert (status, answer["exit_code"]) == (409, 4), verb
        expected = f"{Event(verb)} is not possible in state {state}; possible is: {', '.join(legal(state))}"
        assert answer["error"] == expected
        async with stack.rest.get(f"/api/v1/machines/{NAME}/plan", params={"verb": verb}) as reply:
            assert (await reply.json())["refused"] == expected
    row = await life(stack)
    assert (row["state"], row["possible"]) == (str(state), legal(state))
    assert await told(stack) == []


async def test_nobody_and_nonsense(stack: Stack) -> None:
    assert (await post(stack, "accept", name="nobody"))[0] == 404
    await present(stack, A)
    body: Any
    for body in ([], {"level": "shred"}, {"verify": "x"}, {"keep": "A"}, {"disks": [1]}):
        status, answer = await post(stack, "accept", body)
        assert (status, answer["exit_code"]) == (400, 2), body
    assert (await post(stack, "keep", {"disk": 5}))[0] == 400
    assert (await post(stack, "erase-failed"))[0] == 404
    assert (await life(stack))["state"] == "discovered"


async def test_other_disks_than_were_shown(stack: Stack) -> None:
    await present(stack, A, B)
    status, answer = await post(stack, "accept", {"disks": ["A"]})
    assert (status, "not those that you were shown" in answer["error"]) == (409, True)
    assert stack.steward.ledger.wished(time.time()) == 0  # what was refused uses up nothing of the hour
    assert (await post(stack, "accept", {"disks": ["B", "A"]}))[0] == 200
    assert stack.steward.ledger.wished(time.time()) == 1


async def test_who_retires_wants_purge_and_a_retry_goes_on_as_it_was_wished(stack: Stack) -> None:
    await present(stack, disk("A", rotational=True, erasing={"ata_sanitize": ["overwrite"]}), B)
    await put_in(stack, State.DEPLOYED)
    async with stack.rest.get(f"/api/v1/machines/{NAME}/plan", params={"verb": "retire"}) as reply:
        assert (await reply.json())["level"] == "purge"
    body = {"keep": ["B"], "verify": "full"}
    assert (await post(stack, "retire", body))[0] == 200
    await put_in(stack, State.RETIRING, fault=Fault("erase-failed", "x", 1.0))

    async def retried(body: Any) -> Any:
        status, answer = await post(stack, "retry", body)
        assert status == 200, answer
        round_ = from_facts((await machine(stack)).facts)
        assert round_ is not None
        await put_in(stack, State.RETIRING, fault=Fault("erase-failed", "x", 1.0))
        return round_

    async with stack.rest.get(f"/api/v1/machines/{NAME}/plan", params={"verb": "retry"}) as reply:
        plan = await reply.json()
    assert (plan["level"], plan["verify"]) == ("purge", "full")
    assert [row["serial"] for row in plan["disks"] if row["verdict"] == "erase"] == ["A"]
    round_ = await retried({})
    assert (str(round_.wish.level), round_.wish.verify, round_.origin) == ("purge", "full", "deployed")
    assert [mark[0] for mark in round_.confirmed] == ["A"]
    assert [mark[0] for mark in (await retried({})).confirmed] == ["A"]
    # What a person says now counts, and only then is a spared disk erased.
    round_ = await retried({"level": "clear", "verify": "sample", "named": ["B"]})
    assert (str(round_.wish.level), round_.wish.verify) == ("clear", "sample")
    assert [mark[0] for mark in round_.confirmed] == ["A", "B"]


async def test_a_second_person_is_known_by_the_socket(stack: Stack) -> None:
    await present(stack, A)
    for _ in range(20):
        stack.steward.ledger.note_wish(time.time())
    status, answer = await post(stack, "accept", {"reason": "new rack"}, **{"X-Metalbox-Operator": "alice"})
    assert (status, answer["state"]) == (202, "discovered")
    assert "a second person must say" in answer["pending"]
    assert (await life(stack))["pending"] == "accept"
    for who in ("alice", "alice (x)"):
        status, answer = await post(stack, "approve", **{"X-Metalbox-Operator": who})
        assert (status, answer["exit_code"]) == (409, 4)
    async with stack.rest.get(f"/api/v1/machines/{NAME}/why") as reply:
        why = await reply.json()
    assert (why["code"], why["waiting_for"]) == ("waits-for-approval", "a second person, not alice (root)")
    status, answer = await post(stack, "approve", **{"X-Metalbox-Operator": "bob"})
    assert (status, answer["state"]) == (200, "erasing")
    assert "by alice (root), approved by bob (root) (new rack)" in answer["told"][0]


async def test_what_waits_is_void_when_the_machine_is_led_elsewhere(stack: Stack) -> None:
    await present(stack, A)
    for _ in range(20):
        stack.steward.ledger.note_wish(time.time())
    await post(stack, "accept", **{"X-Metalbox-Operator": "alice"})
    assert (await post(stack, "reject"))[0] == 200
    assert (await post(stack, "reconsider"))[0] == 200
    status, answer = await post(stack, "approve", **{"X-Metalbox-Operator": "bob"})
    assert (status, "nothing waits" in answer["error"]) == (409, True)


async def test_an_approval_for_other_disks_than_were_shown_is_refused(stack: Stack) -> None:
    await present(stack, A)
    for _ in range(20):
        stack.steward.ledger.note_wish(time.time())
    await post(stack, "accept", {"disks": ["A"]}, **{"X-Metalbox-Operator": "alice"})
    await present(stack, A, B)
    status, answer = await post(stack, "approve", **{"X-Metalbox-Operator": "bob"})
    assert (status, "not those that you were shown" in answer["error"]) == (409, True)
    assert (await life(stack))["state"] == "discovered"


@pytest.mark.root
async def test_who_is_not_root_is_whom_the_kernel_names(stack: Stack) -> None:
    """nobody claims to be alice: its word is not taken."""
    await present(stack, A)
    body = b'{"reason": "mine"}'
    head = b"POST /api/v1/machines/sn1001/adopt HTTP/1.1\r\nHost: x\r\nX-Metalbox-Operator: alice\r\n"
    request = head + b"Connection: close\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)

    def ask_in(folder: str) -> int:
        """The socket under another name, where everybody may reach it."""
        Path(folder).chmod(0o755)
        path = Path(folder) / "link"
        os.link(stack.socket, path)
        path.chmod(0o666)
        child = os.fork()
        if child == 0:
            try:
                os.setgid(65534)
                os.setuid(65534)
                with socket.socket(socket.AF_UNIX) as client:
                    client.connect(str(path))
                    client.sendall(request)
                    while client.recv(65536):
                        pass
            finally:
                os._exit(0)
        return os.waitpid(child, 0)[1]

    with tempfile.TemporaryDirectory() as folder:
        assert await asyncio.to_thread(ask_in, folder) == 0
    assert await told(stack) == ["discovered -> deployed: adopt, by nobody (mine)"]


async def test_progress_is_seen_at_once_and_stored_now_and_then(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agent_api, "STORE_SECONDS", 3600.0)
    await present(stack, A)
    await post(stack, "accept")
    order = await erase_order(stack, A)
    await claim(stack, order)
    for percent in range(1, 6):
        news = {"disks": {"A": {"phase": "erase", "percent": percent, "left": 60}}}
        assert await say(stack, order, "progress", progress=news) == 200
        row = await life(stack)
        assert (row["begun"], row["progress"]) == (True, news)
    stored = await stack.database.run(lambda store: store.orders.get(order["id"]))
    assert stored is not None and stored.progress["disks"]["A"]["percent"] == 1
    assert await told(stack, "erase") == [
        "ordered to erase 1 disk (level clear): A by overwrite",
        "erasing: A erase 1%",
    ]
    async with stack.rest.get(f"/api/v1/machines/{NAME}/why") as reply:
        why = await reply.json()
    assert why["code"] == "erasing" and "A: erase, 5 %, about 60 s left" in why["evidence"]


@pytest.mark.parametrize(
    "news",
    [
        {},
        {"disks": []},
        {"disks": {"A": 5}},
        {"disks": {"A": {"left": 1e300, "percent": {}, "phase": 5}}},
        {"disks": {"A": {"left": -5, "percent": True}}},
        {"disks": {str(number): {"phase": "x" * 1000} for number in range(500)}},
    ],
)
async def test_what_an_agent_says_may_have_any_shape(stack: Stack, news: Any) -> None:
    await present(stack, A)
    await post(stack, "accept")
    order = await erase_order(stack, A)
    await claim(stack, order)
    deadline = (await life(stack))["deadline_at"]
    assert await say(stack, order, "progress", progress=news) == 200
    assert (await life(stack))["deadline_at"] == deadline
    async with stack.rest.get(f"/api/v1/machines/{NAME}/why") as reply:
        assert (await reply.json())["code"] == "erasing"


async def test_a_huge_outcome_is_no_proof_and_no_flood(stack: Stack) -> None:
    await present(stack, A)
    await post(stack, "accept")
    order = await erase_order(stack, A)
    await claim(stack, order)
    attempts = [{"method": "overwrite", "result": "failed", "evidence": "y" * 100, "seconds": 1}] * 3000
    await done(stack, order, A={"result": "failed", "evidence": "x" * 500_000, "attempts": attempts})
    fault = (await life(stack))["fault"]
    assert fault["code"] == "erase-failed" and all(len(line) <= 500 for line in fault["evidence"])
    assert all(len(entry.text) < 2000 for entry in await stack.entries())

    def size(store: Store) -> list[int]:
        found: Certificates = store.certificates
        return [len(str(found.get(row["number"]))) for row in found.listing()]

    assert all(length < 200_000 for length in await stack.database.run(size))


async def test_the_power_of_a_machine_in_mid_erase_is_cut_only_by_force(stack: Stack) -> None:
    await present(stack, A)
    bmc = {"address": "192.0.2.50", "driver": "none", "machine": NAME}
    async with stack.rest.post("/api/v1/bmcs", json=bmc) as answer:
        assert answer.status == 200
    await post(stack, "accept")
    order = await erase_order(stack, A)
    await claim(stack, order)
    for verb in ("off", "soft-off", "cycle", "reset"):
        status, answer = await post(stack, "power", {"verb": verb})
        assert (status, answer["exit_code"]) == (409, 4)
        assert "its disks are being erased since 0 minutes" in answer["error"] and "--force" in answer["error"]
    assert (await post(stack, "power", {"verb": "on"}))[0] == 200
    assert (await post(stack, "power", {"verb": "reset", "force": True}))[0] == 200
    await done(stack, order)
    assert (await post(stack, "power", {"verb": "off"}))[0] == 200


async def test_a_disk_that_is_kept_while_its_order_waits_is_not_erased(stack: Stack) -> None:
    await present(stack, A, B)
    await post(stack, "accept")
    order = await erase_order(stack, A, B)
    assert (await post(stack, "keep", {"disk": "B"}))[0] == 200
    assert await say(stack, order, "claim") == 409
    order = await erase_order(stack, A, B)
    assert [row["serial"] for row in order["data"]["disks"]] == ["A"]
    await claim(stack, order)
    status, answer = await post(stack, "keep", {"disk": "A"})
    assert (status, "has begun and cannot be undone" in answer["error"]) == (409, True)
    await done(stack, order)
    assert (await life(stack))["state"] == "available"


async def test_a_report_between_order_and_claim_that_tells_of_other_disks(stack: Stack) -> None:
    await present(stack, A)
    await post(stack, "accept")
    order = await erase_order(stack, A)
    await present(stack, A, disk("C"))
    assert await say(stack, order, "claim") == 409
    await poll(stack)
    fault = (await life(stack))["fault"]
    assert fault["code"] == "disks-changed" and "the disk C" in fault["evidence"][0]


async def test_what_is_held_is_not_switched_off_and_not_late(stack: Stack) -> None:
    await present(stack, A)
    await post(stack, "accept")
    order = await erase_order(stack, A)
    await claim(stack, order)
    assert (await post(stack, "hold", {"reason": "a fan"}))[0] == 200
    found = await stack.database.run(inventory.find, NAME)
    assert await stack.database.run(is_untouchable, found, time.time())
    await put_in(stack, State.ERASING, deadline_at=5.0)
    assert (await post(stack, "unhold"))[0] == 200
    assert (await life(stack))["deadline_at"] > time.time() + 3000
    assert (await post(stack, "hold", {"reason": "a fan"}))[0] == 200
    await done(stack, order)
    row = await life(stack)
    assert (row["state"], row["held"]) == ("available", "a fan")
    assert (await told(stack))[-1] == "it is left switched on: it is held (a fan)"
    assert await poll(stack) == [] and await orders(stack) == []
