"""REST on the unix socket, for the command line tool and the administrator's own programs. The verbs are elsewhere."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections.abc import Callable, Sequence
from typing import Any

from aiohttp import web

from metalbox import inventory
from metalbox.certificaterecords import Signer
from metalbox.dhcp.leases import Leases
from metalbox.diagnosis import why
from metalbox.errors import InvalidValue, NotFound
from metalbox.evidence import Facts, LifeFacts, PowerFacts
from metalbox.journal import Entry, Journal, Kind
from metalbox.machine import Mac, Machine
from metalbox.report import clean, read_json, show
from metalbox.store import Database, Store
from metalbox.web.agent_api import AgentApi, read_body
from metalbox.web.certificate_api import CertificateApi
from metalbox.web.list_api import ListApi, read_number
from metalbox.web.marks_api import MarksApi

MAX_WAIT_SECONDS = 60.0
DEFAULT_LIMIT = 200
MAX_LIMIT = 10_000
# A boot that fails for hours is told by its newest lines.
WHY_ENTRIES = 500
MAX_NOTE = 1000

Subject = Machine | Mac | None


class Api:
    """The answers. `status` gives what only the service as a whole knows, `facts` what `why` wants to know of it.

    `power` and `life` gather what is known of a machine's power and round of erasing, in the database's thread;
    `signer` signs certificates.
    """

    def __init__(
        self,
        database: Database,
        journal: Journal,
        leases: Leases,
        agents: AgentApi,
        status: Callable[[], dict[str, Any]],
        facts: Callable[[Machine | None], Facts],
        now: Callable[[], float] = time.time,
        power: Callable[[Store, int], PowerFacts] | None = None,
        signer: Signer | None = None,
        life: Callable[[Store, Machine], LifeFacts] | None = None,
    ) -> None:
        self._life = life
        self._database = database
        self._journal = journal
        self._agents = agents
        self._status = status
        self._facts = facts
        self._now = now
        self._power = power
        self._stopping = asyncio.Event()
        self.lists = ListApi(database, journal, leases, now)
        self.marks = MarksApi(database, now)
        self.certificates = CertificateApi(database, signer)

    def stop(self) -> None:
        """Answer all who wait for events now."""
        self._stopping.set()

    async def status(self, request: web.Request) -> web.Response:
        """What we listen on, the subnets, every counter."""
        return web.json_response(self._status())

    async def machine(self, request: web.Request) -> web.Response:
        """All of one machine."""
        found = await self._database.run(inventory.find, request.match_info["name"])
        return web.json_response(dataclasses.asdict(found))

    async def events_of(self, request: web.Request) -> web.Response:
        """The timeline of one machine or stranger."""
        subject = await self._database.run(_subject, request.match_info["name"])
        return await self._events(request, subject)

    async def events(self, request: web.Request) -> web.Response:
        """The timeline of all."""
        return await self._events(request, None)

    async def _events(self, request: web.Request, subject: Subject) -> web.Response:
        after = read_number(request, "after", -1, 2**63 - 1)
        limit = read_number(request, "limit", DEFAULT_LIMIT, MAX_LIMIT)
        deadline = asyncio.get_running_loop().time() + min(read_number(request, "wait", 0, 3600), MAX_WAIT_SECONDS)
        await self._journal.flush()
        entries, newest = await self._database.run(_read, subject, limit, after)
        while not entries and after >= 0 and await self._news(newest, deadline):
            entries, newest = await self._database.run(_read, subject, limit, after)
        names = await self._database.run(_names, entries)
        # Whoever follows asks next for what comes after the newest line that could have been in this answer.
        following = entries[-1]["id"] if len(entries) == limit else newest
        for entry in entries:
            entry["machine"] = names.get(entry["machine_id"]) or names.get(entry["mac"]) or ""
        return web.json_response({"events": entries, "next": following})

    async def _news(self, after: int, deadline: float) -> bool:
        """Wait for a line above `after`; False when there is none in time, or the service stops."""
        left = deadline - asyncio.get_running_loop().time()
        if left <= 0 or self._stopping.is_set():
            return False
        news = asyncio.ensure_future(self._journal.wait(after, left))
        stop = asyncio.ensure_future(self._stopping.wait())
        try:
            await asyncio.wait((news, stop), return_when=asyncio.FIRST_COMPLETED)
            return news.done() and news.result()
        finally:
            news.cancel()
            stop.cancel()

    async def why(self, request: web.Request) -> web.Response:
        """What a machine or stranger is doing, whom it waits for, and what to do."""
        await self._journal.flush()
        name = request.match_info["name"]
        subject = await self._database.run(_subject, name)
        entries = await self._database.run(_entries, subject, WHY_ENTRIES, None)
        machine = subject if isinstance(subject, Machine) else None
        facts = self._facts(machine)
        if machine is not None and self._power is not None:
            facts = dataclasses.replace(facts, power=await self._database.run(self._power, machine.id))
        if machine is not None and self._life is not None:
            facts = dataclasses.replace(facts, life=await self._database.run(self._life, machine))
        found = await asyncio.to_thread(why, machine, entries, facts, self._now())
        return web.json_response({"machine": machine.name if machine else str(subject), **dataclasses.asdict(found)})

    async def order_report(self, request: web.Request) -> web.Response:
        """Order a new report; the agent hears of it at once."""
        name = request.match_info["name"]
        order = await self._database.run(inventory.order_report, name, self._now())
        machine = await self._database.run(inventory.find, name)
        self._agents.wake(machine.boot_id)
        return web.json_response({"order": order.id})

    async def note(self, request: web.Request) -> web.Response:
        """Keep a line that another program knows: that a machine was switched on, and by whom."""
        document = read_json(await read_body(request))
        if not isinstance(document, dict):
            raise InvalidValue(f"expected an object, got {show(document)}")
        mac, text, data = document.get("mac"), document.get("text"), document.get("data") or {}
        if document.get("kind") != Kind.POWER:
            raise InvalidValue(f"kind: expected 'power', got {show(document.get('kind'))}")
        if not isinstance(mac, str) or not isinstance(text, str) or not isinstance(data, dict):
            raise InvalidValue("expected {mac: text, kind: 'power', text: text, data: object}")
        self._journal.record(Kind.POWER, clean(text[:MAX_NOTE]), now=self._now(), mac=Mac.parse(mac), data=data)
        return web.json_response({})


def _subject(store: Store, name: str) -> Machine | Mac:
    mac = inventory.find_mac(store, name)
    if mac is not None:
        if not store.events.of_mac(mac, 1):
            raise NotFound(f"nothing was ever seen of {mac}, and no machine has this address")
        return mac
    return inventory.find(store, name)


def _entries(store: Store, subject: Subject, limit: int, after: int | None) -> list[Entry]:
    if isinstance(subject, Machine):
        return store.events.of_machine(subject, limit, after)
    if subject is not None:
        return store.events.of_mac(subject, limit, after)
    return store.events.all(limit, after)


def _read(store: Store, subject: Subject, limit: int, after: int) -> tuple[list[dict[str, Any]], int]:
    """The lines as JSON, and the newest id of all."""
    entries = _entries(store, subject, limit, None if after < 0 else after)
    return [dataclasses.asdict(entry) for entry in entries], store.last_event_id


def _names(store: Store, entries: Sequence[dict[str, Any]]) -> dict[Any, str]:
    """The names of the machines that these lines tell of, by their ids and addresses."""
    numbers = {entry["machine_id"] for entry in entries} - {None}
    return store.machines.names_of(numbers, {entry["mac"] for entry in entries} - {None})
