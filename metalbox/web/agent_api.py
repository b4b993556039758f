"""HTTP for the agent: its first word, its reports, its long poll for orders, what it does about them, its log lines.

An agent holds one poll open at a time; an order wakes it at once. One that has not polled for a while is told as gone
in the timeline. What agents send is checked by `report.py`; here it is only received, in bounded size and time.
"""

from __future__ import annotations

import asyncio
import logging
import math
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from metalbox import inventory, orders
from metalbox.errors import InvalidReport, NotFound
from metalbox.intake import Intake
from metalbox.journal import Journal, Kind
from metalbox.machine import Mac, Machine
from metalbox.orderrecords import Order
from metalbox.presence import Presence
from metalbox.report import Report, clean, parse_hello, read_json, show
from metalbox.store import Database, Store

log = logging.getLogger("metalbox.agent")

# The largest report we know of is 600 KiB: 420 disks, four JBODs.
MAX_BODY = 4 * 1024 * 1024
BODY_SECONDS = 30.0
# Below the idle time of every stateful firewall; the agent asks for 30 s.
MAX_WAIT_SECONDS = 60.0
# The agent polls every 30 s; three polls missing are no hiccup.
GONE_SECONDS = 90.0
WATCH_SECONDS = 5.0
# An order that was told and not done is told again after this long, and not in a hot loop.
RETELL_SECONDS = 30.0
# News of an order that goes on come every second, and are on disk at most so often.
STORE_SECONDS = 10.0
MAX_LOG_LINES = 200
MAX_LINE = 1000
# Agents remembered at the same time: twice the machines of a large site.
MAX_AGENTS = 65_536


@dataclass(slots=True, eq=False)
class _Agent:
    """An agent that polls. `told` is when each order was told last, on the loop's clock; so is `heard_at`."""

    boot_id: str
    machine_id: int
    name: str
    mac: Mac | None
    address: str
    heard_at: float
    fresh: asyncio.Event = field(default_factory=asyncio.Event)
    told: dict[tuple[int, str], float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Hooks:
    """What others do when agents speak of their orders, in the same transaction, by the order's verb.

    `report` stores a report, `poll` says what an agent shall do; `sentence` is the timeline's line of an order's news.
    """

    report: Callable[[Store, Report, str, float], inventory.Reported] = inventory.report
    poll: Callable[[Store, str, str, Callable[[], str], float], list[Order]] = orders.for_run
    claimed: Mapping[str, orders.Follow] = field(default_factory=dict)
    progressed: Mapping[str, orders.Follow] = field(default_factory=dict)
    done: Mapping[str, orders.Follow] = field(default_factory=dict)
    sentence: Callable[[Order], str] = lambda order: ""


class AgentApi:
    """The answers to agents, and the memory of who polls."""

    def __init__(
        self,
        database: Database,
        journal: Journal,
        presence: Presence,
        reported: Callable[[Machine], None],
        now: Callable[[], float] = time.time,
        *,
        hooks: Hooks | None = None,
        finished: Callable[[Order], None] = lambda order: None,
    ) -> None:
        """`reported` is told of each machine that has reported, `finished` of each order that an agent has done."""
        self._database = database
        self._journal = journal
        self._presence = presence
        self._reported = reported
        self._hooks = hooks or Hooks()
        self._intake = Intake(database, journal, self._hooks.report)
        self._finished = finished
        self._now = now
        self._agents: OrderedDict[str, _Agent] = OrderedDict()
        # The boot of each machine's agent.
        self._boots: dict[int, str] = {}
        # What agents said last of their orders: (number, boot, run, token, progress), and when that was stored.
        self.progresses: dict[int, tuple[tuple[int, str, str, str, dict[str, Any]] | None, float]] = {}
        self._stopping = asyncio.Event()

    async def hello(self, request: web.Request) -> web.Response:
        """An agent has started, and has not looked at the hardware yet."""
        word = parse_hello(read_json(await read_body(request)))
        now, address = self._now(), request.remote or ""
        machine = await self._database.run(inventory.hello, word, address, now)
        mac = self._presence.mac_of(address, now) or next(iter(word.macs), None)
        self._journal.record(
            Kind.AGENT,
            f"the agent started, {word.uptime_seconds:.1f} s after its kernel",
            now=now,
            mac=mac,
            machine_id=machine.id if machine else None,
            data={
                "what": "hello",
                "address": address,
                "boot_id": word.boot_id,
                "uptime_seconds": word.uptime_seconds,
            },
        )
        log.info("%s: the agent started at %s", machine.name if machine else mac or address, address)
        return web.json_response({})

    async def report(self, request: web.Request) -> web.Response:
        """The hardware. Stored on disk when this answers."""
        body = await read_body(request)
        now, address = self._now(), request.remote or ""
        checked, reported = await self._intake.take(body, address, now)
        machine, mac = reported.machine, checked.agent.booted_mac
        if mac:
            self._presence.saw(mac, address, now=now)
        self._reported(machine)
        self._remember(checked.agent.boot_id, machine.id, machine.name, mac or next(iter(machine.macs), None), address)
        for entry in reported.entries:
            log.info("%s: %s", machine.name, entry.text)
        return web.json_response({"machine": machine.name, "id": machine.id})

    async def orders(self, request: web.Request) -> web.Response:
        """What this agent shall do; waits up to `wait` seconds for an order. 404: report first."""
        boot_id, run = request.query.get("boot_id", ""), request.query.get("run", "")
        wait = _seconds(request.query.get("wait", "0"))
        agent = await self._agent(boot_id, request.remote or "")
        loop = asyncio.get_running_loop()
        agent.heard_at = loop.time()
        self._journal.record(
            Kind.AGENT,
            "the agent waits for orders",
            now=self._now(),
            mac=agent.mac,
            machine_id=agent.machine_id,
            key=f"poll:{boot_id}",
            data={"what": "poll", "address": agent.address, "boot_id": boot_id},
        )
        deadline = loop.time() + wait
        while True:
            agent.fresh.clear()
            found = await self._database.run(self._hooks.poll, boot_id, run, _draw_token, self._now())
            todo = self._untold(agent, found)
            if todo or self._stopping.is_set() or loop.time() >= deadline or request.transport is None:
                break
            try:
                async with asyncio.timeout_at(deadline):
                    await agent.fresh.wait()
            except TimeoutError:
                pass
        rows = [{"id": o.id, "verb": str(o.verb), "token": o.token, "data": o.data} for o in todo]
        return web.json_response({"orders": rows})

    async def claim(self, request: web.Request) -> web.Response:
        """An agent begins an order; any answer but 200 means that it must not."""
        who, _ = await self._spoken(request)
        await self._database.run(orders.claim, *who, self._now(), self._hooks.claimed)
        return web.json_response({})

    async def progress(self, request: web.Request) -> web.Response:
        """How far an agent is with an order."""
        who, document = await self._spoken(request)
        news, now = _object(document, "progress"), self._now()
        last, stored = self.progresses.get(who[0], (None, 0.0))
        if last is None or last[:4] != who or not 0 <= now - stored < STORE_SECONDS:
            order = await self._database.run(orders.progressed, *who, news, now, self._hooks.progressed)
            stored = now
            if sentence := self._hooks.sentence(order):
                data = {"order": order.id, "what": "progress", "progress": news}
                self._journal.record(
                    Kind.ERASE, sentence, now=now, machine_id=order.machine_id, key=f"order:{order.id}", data=data
                )
        self.progresses[who[0]] = ((*who, news), stored)
        return web.json_response({})

    async def done(self, request: web.Request) -> web.Response:
        """What came of an order. Stored on disk, with all that follows, when this answers."""
        who, document = await self._spoken(request)
        outcome = _object(document, "outcome")
        await self._journal.flush()
        order, entries = await self._database.run(orders.done, *who, outcome, self._hooks.done, self._now())
        self.progresses.pop(order.id, None)
        for entry in entries:
            log.info("machine %d: %s", order.machine_id, entry.text)
        self._finished(order)
        return web.json_response({})

    async def _spoken(self, request: web.Request) -> tuple[tuple[int, str, str, str], dict[str, Any]]:
        """Which order an agent speaks of, with the marks of itself, and all that it says. Raises InvalidReport."""
        document = read_json(await read_body(request))
        if not isinstance(document, dict):
            raise InvalidReport(f"the body: expected an object, got {show(document)}")
        words = [document.get(name, "") for name in ("boot_id", "run", "token")]
        if not all(isinstance(word, str) for word in words):
            raise InvalidReport(f"boot_id, run, token: expected texts, got {show(words)}")
        agent = self._agents.get(words[0])
        if agent is not None:
            agent.heard_at = asyncio.get_running_loop().time()
        boot_id, run, token = words
        return (int(request.match_info["number"]), boot_id, run, token), document

    async def log(self, request: web.Request) -> web.Response:
        """Lines of the agent's log, kept in the timeline."""
        document = read_json(await read_body(request))
        if not isinstance(document, dict):
            raise InvalidReport(f"the body: expected an object, got {show(document)}")
        lines = document.get("lines")
        if not isinstance(lines, list) or not all(isinstance(line, str) for line in lines):
            raise InvalidReport(f"lines: expected a list of texts, got {show(lines)}")
        word = parse_hello({"boot_id": document.get("boot_id"), "macs": [document.get("mac") or ""]})
        now, agent = self._now(), self._agents.get(word.boot_id)
        mac = agent.mac if agent else next(iter(word.macs), None)
        texts = [clean(line[:MAX_LINE]) for line in lines]
        if len(texts) > MAX_LOG_LINES:
            texts = [f"({len(texts) - MAX_LOG_LINES} lines left out)", *texts[-MAX_LOG_LINES:]]
        for text in filter(None, texts):
            data = {"boot_id": word.boot_id, "address": request.remote or ""}
            machine_id = agent.machine_id if agent else None
            self._journal.record(Kind.LOG, text, now=now, mac=mac, machine_id=machine_id, data=data)
        return web.json_response({})

    def wake(self, boot_id: str) -> None:
        """There is an order for the agent of this boot."""
        agent = self._agents.get(boot_id)
        if agent is not None:
            agent.fresh.set()

    def polls(self, boot_id: str) -> bool:
        """Whether the agent of this boot was heard of lately."""
        return boot_id in self._agents

    def progress_of(self, number: int) -> Mapping[str, Any] | None:
        """What an agent said last of an order that goes on."""
        last, _ = self.progresses.get(number, (None, 0.0))
        return last[4] if last else None

    def stop(self) -> None:
        """Answer all polls now."""
        self._stopping.set()
        for agent in self._agents.values():
            agent.fresh.set()

    async def watch(self) -> None:
        """Tell the timeline about agents that have gone, until cancelled."""
        while True:
            await asyncio.sleep(WATCH_SECONDS)
            self.note_gone(asyncio.get_running_loop().time())

    def note_gone(self, loop_now: float) -> None:
        """Forget the agents that were not heard of for GONE_SECONDS, and say so."""
        for agent in [agent for agent in self._agents.values() if loop_now - agent.heard_at > GONE_SECONDS]:
            self._forget(agent)
            self._journal.record(
                Kind.AGENT,
                f"the agent was not heard of for {GONE_SECONDS:.0f} s",
                now=self._now(),
                mac=agent.mac,
                machine_id=agent.machine_id,
                data={"what": "gone", "address": agent.address, "boot_id": agent.boot_id},
            )
            log.info("%s: the agent at %s was not heard of for %.0f s", agent.name, agent.address, GONE_SECONDS)

    async def _agent(self, boot_id: str, address: str) -> _Agent:
        """Who polls: from memory, or after our restart from the inventory. Raises NotFound."""
        agent = self._agents.get(boot_id)
        if agent is None:
            name, machine_id, mac = await self._database.run(_owner, boot_id)
            agent = self._remember(boot_id, machine_id, name, mac, address)
        agent.address = address
        return agent

    def _remember(self, boot_id: str, machine_id: int, name: str, mac: Mac | None, address: str) -> _Agent:
        heard_at = asyncio.get_running_loop().time()
        agent = self._agents.get(boot_id)
        if agent is None or agent.machine_id != machine_id:
            if agent is not None:
                self._forget(agent)
            # A new boot of a machine takes the place of the last one, which did not vanish.
            if old := self._agents.get(self._boots.get(machine_id, "")):
                self._forget(old)
            agent = self._agents[boot_id] = _Agent(boot_id, machine_id, name, mac, address, heard_at)
            self._boots[machine_id] = boot_id
            if len(self._agents) > MAX_AGENTS:
                self._forget(next(iter(self._agents.values())))
        agent.heard_at, agent.name, agent.address = heard_at, name, address
        return agent

    def _forget(self, agent: _Agent) -> None:
        del self._agents[agent.boot_id]
        self._boots.pop(agent.machine_id, None)

    def _untold(self, agent: _Agent, found: list[Order]) -> list[Order]:
        """Those of the orders that were not told just now."""
        now = asyncio.get_running_loop().time()
        key = {order.id: (order.id, order.token) for order in found}
        due = [order for order in found if now - agent.told.get(key[order.id], -RETELL_SECONDS) >= RETELL_SECONDS]
        agent.told = {name: agent.told.get(name, now) for name in key.values()} | {key[order.id]: now for order in due}
        return due


def _draw_token() -> str:
    """128 bits that nobody can guess."""
    return secrets.token_urlsafe(16)


def _object(document: dict[str, Any], name: str) -> dict[str, Any]:
    value = document.get(name)
    if not isinstance(value, dict):
        raise InvalidReport(f"{name}: expected an object, got {show(value)}")
    return value


def _owner(store: Store, boot_id: str) -> tuple[str, int, Mac | None]:
    numbers = store.machines.ids_by_boot_id(boot_id) if boot_id else []
    machine = store.machines.get(numbers[0]) if numbers else None
    if machine is None:
        raise NotFound(f"no machine has reported with boot id {boot_id!r}: report first")
    return machine.name, machine.id, next(iter(machine.macs), None)


def _seconds(text: str) -> float:
    """How long to wait, at most MAX_WAIT_SECONDS. Raises InvalidReport, also for "nan", which would wait for ever."""
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if math.isnan(seconds):
        raise InvalidReport(f"wait: expected seconds, got {show(text)}")
    return min(max(seconds, 0.0), MAX_WAIT_SECONDS)


async def read_body(request: web.Request) -> Any:
    """The whole body, of bounded size (413) and in bounded time (408)."""
    async with asyncio.timeout(BODY_SECONDS):
        return await request.read()
