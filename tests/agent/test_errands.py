"""Orders in threads: claimed before anything is touched, told once, finished until the server has it."""

from __future__ import annotations

import importlib
import io
import sys
import threading
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import pytest

from metalbox import moves
from metalbox.agent.client import Client
from metalbox.agent.errands import WORKS, Cancelled, Errand, Errands, new_run
from metalbox.agent.journal import Journal
from tests.agent.rack import Server, until

BOOT = {"boot_id": "b1", "run": "r1"}
ORDER = {"id": 7, "verb": "work", "token": "secret-token", "data": {"what": "x"}}
Work = Callable[[Errand], dict[str, Any]]


@pytest.fixture
def server() -> Iterator[Server]:
    running = Server().start()
    yield running
    running.stop()


class Bench:
    def __init__(self, server: Server, work: Work, monkeypatch: pytest.MonkeyPatch) -> None:
        module = ModuleType("tests_work")
        module.work = work  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "tests_work", module)
        self.console = io.StringIO()
        self.errands = Errands(
            BOOT,
            lambda: Client(server.url),
            lambda: {"disks": []},
            Journal(self.console),
            lambda failures: 0.02,
            {"work": "tests_work"},
        )


def test_an_order_is_claimed_told_of_and_finished_once(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    def work(errand: Errand) -> dict[str, Any]:
        errand.claim()
        errand.progress({"percent": 50})
        return {"got": errand.data, "hardware": errand.hardware(), "boot": errand.boot_id}

    bench = Bench(server, work, monkeypatch)
    assert bench.errands.knows("work") and not bench.errands.knows("other")
    assert bench.errands.begin(ORDER)
    assert not bench.errands.begin(ORDER)
    until(lambda: server.count("done"))
    assert [verb for _, verb, _ in server.said] == ["claim", "progress", "done"]
    assert server.last("claim") == {**BOOT, "token": "secret-token"}
    assert server.last("progress") == {**BOOT, "token": "secret-token", "progress": {"percent": 50}}
    outcome = {"got": {"what": "x"}, "hardware": {"disks": []}, "boot": "b1"}
    assert server.last("done") == {**BOOT, "token": "secret-token", "outcome": outcome}
    assert "secret-token" not in bench.console.getvalue()


def test_a_refused_claim_ends_it_before_anything_is_touched(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    touched: list[str] = []

    def work(errand: Errand) -> dict[str, Any]:
        errand.claim()
        touched.append("disk")
        return {}

    server.refuse["claim"] = (409, {"error": "order 7 is closed"})
    bench = Bench(server, work, monkeypatch)
    bench.errands.begin(ORDER)
    until(lambda: "is not carried out: order 7 is closed" in bench.console.getvalue())
    assert touched == [] and server.count("done") == 0


def test_a_server_that_is_away_is_asked_again(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    begun = threading.Event()

    def work(errand: Errand) -> dict[str, Any]:
        begun.set()
        errand.claim()
        errand.progress({})
        return {"ok": True}

    server.stop()
    bench = Bench(server, work, monkeypatch)
    bench.errands.begin(ORDER)
    assert begun.wait(60)
    server.refuse["done"] = (503, {"error": "the database cannot be used"})
    server.start()
    until(lambda: server.count("done") > 2)
    del server.refuse["done"]
    until(lambda: "order 7" not in {thread.name for thread in threading.enumerate()})
    assert "does not take" not in bench.console.getvalue(), "it was said until it was taken"


def test_an_order_that_was_taken_back_is_cancelled(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[bool] = []

    def work(errand: Errand) -> dict[str, Any]:
        errand.progress({})
        seen.append(errand.cancelled.is_set())
        raise Cancelled("taken back")

    server.refuse["progress"] = (409, {"error": "order 7 is closed"})
    Bench(server, work, monkeypatch).errands.begin(ORDER)
    until(lambda: seen)
    assert seen == [True]


def test_a_bug_is_told_as_the_outcome(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    def work(errand: Errand) -> dict[str, Any]:
        raise ValueError("odd hardware")

    Bench(server, work, monkeypatch).errands.begin(ORDER)
    until(lambda: server.count("done"))
    assert server.last("done")["outcome"] == {"error": "the agent failed with ValueError: odd hardware"}


def test_the_end_of_the_agent_ends_what_waits(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    ended = threading.Event()

    def work(errand: Errand) -> dict[str, Any]:
        try:
            errand.claim()
        finally:
            ended.set()
        return {}

    server.stop()
    bench = Bench(server, work, monkeypatch)
    bench.errands.begin(ORDER)
    bench.errands.stop()
    assert ended.wait(60)


def test_runs_have_names_of_their_own() -> None:
    assert len({new_run() for _ in range(100)}) == 100


def test_what_the_service_orders_of_agents_is_known_and_there() -> None:
    assert WORKS.keys() == {moves.ERASE, moves.ACCOUNT, moves.POWER_OFF}
    for name in WORKS.values():
        assert callable(importlib.import_module(name).work)
