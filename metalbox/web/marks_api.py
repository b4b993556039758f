"""REST for what operators say of machines: labels, an owner, a note."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from aiohttp import web

from metalbox import marks
from metalbox.errors import InvalidValue
from metalbox.labels import Changes
from metalbox.machine import Machine
from metalbox.report import read_json, show
from metalbox.store import Database
from metalbox.web.agent_api import read_body


class MarksApi:
    """The answers."""

    def __init__(self, database: Database, now: Callable[[], float] = time.time) -> None:
        self._database = database
        self._now = now

    async def labels(self, request: web.Request) -> web.Response:
        """Set and remove labels of one machine."""
        changes = _changes(read_json(await read_body(request)))
        machine = await self._database.run(marks.label, request.match_info["name"], changes, self._now())
        return web.json_response(_marks(machine))

    async def describe(self, request: web.Request) -> web.Response:
        """Write down an owner or a note."""
        document = read_json(await read_body(request))
        if not isinstance(document, dict) or not document or set(document) - {"owner", "note"}:
            raise InvalidValue(f"expected {{owner: text, note: text}}, one or both, got {show(document)}")
        for name, text in document.items():
            if not isinstance(text, str):
                raise InvalidValue(f"{name}: expected a text, got {show(text)}")
        name, now = request.match_info["name"], self._now()
        machine = await self._database.run(lambda store: marks.describe(store, name, now, **document))
        return web.json_response(_marks(machine))


def _changes(document: Any) -> Changes:
    wanted = document.get("set", {}) if isinstance(document, dict) else None
    remove = document.get("remove", []) if isinstance(document, dict) else None
    if not isinstance(wanted, dict) or not isinstance(remove, list) or set(document) - {"set", "remove"}:
        raise InvalidValue(f"expected {{set: {{key: value}}, remove: [key]}}, got {show(document)}")
    for text in (*wanted.values(), *remove):
        if not isinstance(text, str):
            raise InvalidValue(f"expected texts as keys and values of labels, got {show(text)}")
    if not wanted and not remove:
        raise InvalidValue("no label is named: write {set: {key: value}, remove: [key]}")
    return Changes(wanted, tuple(remove))


def _marks(machine: Machine) -> dict[str, Any]:
    return {"machine": machine.name, "labels": machine.labels, "owner": machine.owner, "note": machine.note}
