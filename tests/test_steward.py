"""The steward joined to the parts that it drives: what the database's thread orders is carried out, clocks, copies."""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.exc import OperationalError

from metalbox import inventory, steward
from metalbox.boot import Asking, Target, decide
from metalbox.config import AcceptRule, Erase, Policy
from metalbox.errors import StartError
from metalbox.journal import Journal
from metalbox.ledger import NAME as LEDGER
from metalbox.machine import Machine
from metalbox.orderrecords import Order
from metalbox.service import Service
from metalbox.signing import SigningKey
from metalbox.steward import Steward
from metalbox.store import Database, Store, sqlite_url
from metalbox.switchboard import Switchboard
from tests.erasures import disk, report
from tests.web.conftest import Stack, stack
from tests.web.lives import NAME, claim, done, erase_order, life, poll, post, present

__all__ = ["stack"]

A = disk("A")


async def until(is_so: Callable[[], Any], what: str) -> None:
    """Wait for what happens in the background, at most a minute."""
    for _ in range(1200):
        if await is_so():
            return
        await asyncio.sleep(0.05)
    raise AssertionError(what)


async def with_bmc(stack: Stack) -> None:
    """A machine that a person switches when asked."""
    async with stack.rest.post("/api/v1/bmcs", json={"address": "192.0.2.50", "driver": "none", "machine": NAME}) as a:
        assert a.status == 200, await a.text()


async def finished(stack: Stack) -> list[str]:
    def read(store: Store) -> list[str]:
        newest = store.power_orders.newest(inventory.find(store, NAME).id)
        return [str(newest.order.verb)] if newest is not None and newest.finished_at is not None else []

    return await stack.database.run(read)


async def test_an_agent_that_waits_is_woken(stack: Stack) -> None:
    await present(stack, A)

    async def waiting() -> Any:
        query = {"boot_id": "b1", "run": "r1", "wait": "60"}
        async with stack.http.get("/agent/v1/orders", params=query) as answer:
            return (await answer.json())["orders"]

    task = asyncio.create_task(waiting())
    await asyncio.sleep(0.2)
    assert (await post(stack, "accept"))[0] == 200
    assert [order["verb"] for order in await asyncio.wait_for(task, 30)] == ["report"]


async def test_what_follows_an_agents_word_is_carried_out(stack: Stack) -> None:
    await present(stack, A)
    await with_bmc(stack)
    await post(stack, "accept")
    order = await erase_order(stack, A)
    await claim(stack, order)
    await done(stack, order)
    await until(lambda: finished(stack), "the machine was not switched off")
    assert await finished(stack) == ["off"]
    assert stack.changed[-1][0].state == "available"


async def test_what_a_poll_leads_to_is_carried_out_at_once(stack: Stack) -> None:
    """A machine without disks is ready as soon as its agent has looked: nobody says that an order is done."""
    await present(stack)
    await with_bmc(stack)
    await post(stack, "accept")
    await poll(stack)
    await present(stack)
    assert await poll(stack) == []
    assert (await life(stack))["state"] == "available"
    await until(lambda: finished(stack), "the machine was not switched off")


async def test_a_database_that_fails_is_survived(
    stack: Stack, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    await present(stack, A)
    await post(stack, "accept")
    calls: list[float] = []

    def tick(store: Store, now: float, jump: float = 0.0) -> list[Any]:
        calls.append(now)
        if len(calls) < 3:
            raise OperationalError("SELECT", {}, Exception("disk I/O error"))
        return []

    monkeypatch.setattr(steward, "TICK_SECONDS", 0.05)
    monkeypatch.setattr(stack.steward.erasing, "tick", tick)
    stack.changed.clear()
    stack.steward.finished(Order(1, 1, "erase", 0.0))

    async def is_back() -> bool:
        return len(calls) >= 4 and bool(stack.changed)

    await until(is_back, "the steward has died")
    assert "the machines at work cannot be looked at: disk I/O error" in caplog.text
    assert not stack.steward._touched


async def test_a_jump_of_the_clock_is_told_and_makes_nobody_late(stack: Stack) -> None:
    await present(stack, A)
    await with_bmc(stack)
    await post(stack, "accept")
    before = (await life(stack))["deadline_at"]
    await stack.steward._tick(time.time() + 86_400, 86_400.0)
    row = await life(stack)
    assert (row["fault"], row["deadline_at"]) == (None, pytest.approx(before + 86_400, abs=1))
    texts = [entry.text for entry in await stack.entries()]
    assert "this host's clock jumped by +86400 s" in texts
    # It is not silent either: nobody had the time to speak since the jump. So it is not switched off and on.
    await stack.steward._tick(time.time() + 86_410, 0.0)
    assert not any("to have the agent on it" in text for text in texts)
    assert await finished(stack) == []


def opened(folder: Path) -> Database:
    return Database(Store.open(sqlite_url(folder / "metalbox.db")))


def joined(database: Database, folder: Path, rules: tuple[AcceptRule, ...] = ()) -> Steward:
    """A steward as a service makes it at start."""
    journal = Journal(database)
    key = SigningKey.open(folder, environment={})
    board = Switchboard(database, journal, folder)
    return Steward(
        database, journal, board, key, folder, Erase(), rules, lambda boot_id: None, lambda machine, is_gone: None
    )


async def test_a_restored_copy_is_stopped_before_anybody_is_served(stack: Stack, tmp_path: Path) -> None:
    await present(stack, A)
    await post(stack, "accept")
    await poll(stack)
    await present(stack, A)
    copy = tmp_path / "copy"
    copy.mkdir()
    await stack.journal.flush()
    for path in stack.folder.glob("metalbox.db*"):
        if not path.name.endswith(".lock"):
            shutil.copy(path, copy)
    (order,) = await poll(stack)
    assert order["verb"] == "erase"
    await claim(stack, order)
    await done(stack, order)
    for name in (LEDGER, "metalbox-key", "metalbox-signing-key", "metalbox-signing-key.pub"):
        if (stack.folder / name).exists():
            shutil.copy(stack.folder / name, copy)
    database = opened(copy)
    try:
        joined(database, copy)
        found = await database.run(inventory.find, NAME)
        assert found.fault is not None and found.fault.code == "restored"
        assert await database.run(lambda store: store.orders.open_of(found.id)) == []
    finally:
        await database.close()


async def test_a_ledger_that_is_damaged_stops_the_start(tmp_path: Path) -> None:
    (tmp_path / LEDGER).write_text("{")
    database = opened(tmp_path)
    with pytest.raises(StartError, match="restore it from a copy"):
        joined(database, tmp_path)
    await database.close()


async def test_what_a_rule_orders_is_carried_out(tmp_path: Path) -> None:
    """An agent of another version: the rule has the machine started anew, and nobody else would begin that."""
    rules = (AcceptRule(name="lab", policy=Policy.ACCEPT, vendor="QEMU"), AcceptRule(policy=Policy.ADOPT, vendor="*"))
    database = opened(tmp_path)
    try:
        one = joined(database, tmp_path, rules)
        hooks = one.hooks()
        document: Any = report(A)
        found = await database.run(hooks.report, document, "192.0.2.9", time.time())
        assert found.machine.state == "erasing"
        assert [entry.text[:23] for entry in found.entries][-1] == "discovered -> erasing: "
        assert one._touched == {found.machine.id}
    finally:
        await database.close()


async def test_who_boots_right_after_a_decision_is_told_by_it(stack: Stack) -> None:
    """GRUB asks by TFTP and cannot wait for the database: the service remembers each machine, as it is now."""
    known: dict[Any, Machine] = {}
    service = Service.__new__(Service)
    service.known = known
    await stack.report()
    for verb, target in (("reject", Target.NOTHING), ("reconsider", Target.AGENT), ("adopt", Target.DISK)):
        assert (await post(stack, verb, name="sn12345"))[0] == 200
        service.changed(*stack.changed[-1])
        (mac,) = known
        assert decide(known[mac], Asking(mac=mac), ("x86_64",)).target is target
    assert (await post(stack, "forget", {"force": True}, name="sn12345"))[0] == 200
    service.changed(*stack.changed[-1])
    assert known == {}


async def test_an_agent_whose_machine_was_forgotten_reports_anew(stack: Stack) -> None:
    await present(stack, A)
    await poll(stack)
    assert (await post(stack, "forget"))[0] == 200
    # It still polls and writes its log; what it says belongs to nobody, and holds up no other line.
    async with stack.http.post("/agent/v1/log", json={"boot_id": "b1", "mac": "", "lines": ["hello"]}) as answer:
        assert answer.status == 200
    async with stack.http.get("/agent/v1/orders", params={"boot_id": "b1", "run": "r1", "wait": "0"}) as answer:
        assert answer.status == 404
    texts = [entry.text for entry in await stack.entries()]
    assert "hello" in texts
    await present(stack, disk("Z"))
    assert (await life(stack))["state"] == "discovered"
    # No machine gets the id of another: whoever remembers it by that would take it for the first.
    assert (await stack.database.run(inventory.find, NAME)).id == 2
