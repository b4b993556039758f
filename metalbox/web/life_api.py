"""REST for a machine's life: the verbs, the plan that is shown before, how far it is. The socket says who asks."""

from __future__ import annotations

import pwd
import socket
import struct
import time
from collections.abc import Callable, Mapping
from typing import Any

from aiohttp import web

from metalbox import inventory, rounds
from metalbox.config import Erase
from metalbox.erase.plan import table
from metalbox.errors import InvalidValue
from metalbox.evidence import LifeFacts
from metalbox.lifecycle import Event, State, legal, why_not
from metalbox.lifefacts import life_facts
from metalbox.lives import Lives
from metalbox.machine import Machine
from metalbox.moves import ERASE, Moved, Steps
from metalbox.report import clean, read_json, show
from metalbox.rounds import Wish, from_facts, parse_wish, settled
from metalbox.store import Database, Store
from metalbox.web.agent_api import read_body

# Verbs as they stand in URLs.
VERBS = "accept|adopt|reject|reconsider|erase|release|retire|retry|cancel|hold|unhold|forget"
MAX_OPERATOR = 100


class LifeApi:
    """The answers. `moved` is told what a verb has done, to carry out what it ordered."""

    def __init__(
        self,
        database: Database,
        lives: Lives,
        steps: Steps,
        settings: Erase,
        moved: Callable[[Moved], None],
        progress: Callable[[int], Mapping[str, Any] | None],
        now: Callable[[], float] = time.time,
    ) -> None:
        """`progress` gives what an agent said last of an order."""
        self._database = database
        self._lives = lives
        self._steps = steps
        self._settings = settings
        self._moved = moved
        self._progress = progress
        self._now = now

    async def verb(self, request: web.Request) -> web.Response:
        """Do what is wanted of a machine."""
        event, said = Event(request.match_info["verb"]), await self._said(request)
        return self._done(
            await self._database.run(self._lives.wish, request.match_info["name"], event, said, self._now())
        )

    async def approve(self, request: web.Request) -> web.Response:
        """Grant as a second person what waits."""
        name = request.match_info["name"]
        return self._done(await self._database.run(self._lives.approve, name, operator_of(request), self._now()))

    async def keep(self, request: web.Request) -> web.Response:
        """Say that a disk is never to be erased, or that it may be again."""
        document = read_json(await read_body(request))
        if not isinstance(document, dict) or not isinstance(document.get("disk"), str):
            raise InvalidValue(f"expected an object with `disk`, a serial number or WWN, got {show(document)}")
        name, is_kept = request.match_info["name"], document.get("keep", True) is True
        arguments = (name, document["disk"], is_kept, operator_of(request), self._now())
        return self._done(await self._database.run(self._lives.keep, *arguments))

    async def plan(self, request: web.Request) -> web.Response:
        """What would be done to each disk, and whether anything may be ordered."""
        query = request.query
        document = {name: query[name] for name in ("level", "verify") if query.get(name)}
        lists = {name: query.getall(name, []) for name in ("keep", "named")}
        said = self._parse({**document, **lists}, operator_of(request))
        name, verb = request.match_info["name"], query.get("verb", "")
        return web.json_response(await self._database.run(self._plan, name, verb, said))

    def _plan(self, store: Store, name: str, verb: str, said: Wish) -> dict[str, Any]:
        machine = inventory.find(store, name)
        round_ = from_facts(machine.facts)
        event = Event(verb) if verb in VERBS.split("|") else None
        failed = round_.failed if round_ and event is Event.RETRY else {}
        refused = ""
        if event is not None:
            said = settled(event, said, round_)
            has_begun = self._steps.has_begun(store, machine, round_)
            refused = why_not(machine, event, has_begun=has_begun)
        found = self._steps.plan(machine, said, failed)
        is_full = said.verify == "full"
        return {
            "machine": machine.name,
            "state": machine.state,
            "level": str(found.level),
            "verify": said.verify,
            "disks": table(found),
            "problems": list(found.problems),
            "refused": refused,
            "seconds": round(found.seconds(full=is_full, parallel=self._settings.parallel)),
            "reported_at": machine.reported_at,
        }

    async def life(self, request: web.Request) -> web.Response:
        """Where a machine is in its life, what is in its way, how far its disks are."""
        return web.json_response(await self._database.run(self._life, request.match_info["name"]))

    def _life(self, store: Store, name: str) -> dict[str, Any]:
        machine = inventory.find(store, name)
        round_ = from_facts(machine.facts)
        order = store.orders.newest_of(machine.id, ERASE)
        is_of_round = order is not None and round_ is not None and order.created_at >= round_.at
        progress: Mapping[str, Any] = {}
        if order is not None and is_of_round:
            progress = self._progress(order.id) or order.progress
        fault = machine.fault
        return {
            "machine": machine.name,
            "state": machine.state,
            "since": machine.state_since,
            "possible": legal(State(machine.state)) if machine.state in set(State) else [],
            "fault": None
            if fault is None
            else {"code": fault.code, "text": fault.text, "at": fault.at, "evidence": list(fault.evidence)},
            "held": machine.held,
            "pending": machine.facts.get("pending", {}).get("event", ""),
            "round": {**rounds.to_facts(round_), "boots": round_.boots} if round_ else None,
            "order": order.id if order is not None and is_of_round else None,
            "begun": bool(order is not None and is_of_round and order.claimed_at),
            "progress": progress,
            "deadline_at": machine.deadline_at,
        }

    def facts(self, store: Store, machine: Machine) -> LifeFacts:
        """What `why` wants to know; called in the database's thread."""
        can_power = self._steps.care.can_power(store, machine.id)
        return life_facts(store, machine, can_power, self._progress, self._now())

    async def _said(self, request: web.Request) -> Wish:
        body = await read_body(request)
        return self._parse(read_json(body) if body else {}, operator_of(request))

    def _parse(self, document: Any, operator: str) -> Wish:
        return parse_wish(document, operator, self._settings.level, self._settings.verify)

    def _done(self, moved: Moved) -> web.Response:
        self._moved(moved)
        machine = moved.machine
        return web.json_response(
            {
                "machine": machine.name,
                "state": machine.state,
                "pending": moved.pending,
                "told": [entry.text for entry in moved.entries],
            },
            status=202 if moved.pending else 200,
        )


def operator_of(request: web.Request) -> str:
    """Who asks: the user of the process at the other end of the unix socket (unix(7), SO_PEERCRED).

    Root may say for whom it acts (sudo): its word is taken, for it can be anybody.
    """
    connection = request.transport.get_extra_info("socket") if request.transport else None
    if connection is None or connection.family != socket.AF_UNIX:
        return "unknown"
    _, uid, _ = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    try:
        name = pwd.getpwuid(uid).pw_name
    except KeyError:
        name = f"uid {uid}"
    acting = clean(request.headers.get("X-Metalbox-Operator", ""))[:MAX_OPERATOR]
    return f"{acting} ({name})" if uid == 0 and acting and acting != name else name
