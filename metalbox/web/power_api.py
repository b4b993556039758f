"""REST for power: orders that the worker carries out, observations with their age, what BMCs can tell of themselves."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, TypeVar

from aiohttp import web

from metalbox import inventory
from metalbox.errors import InvalidValue, PowerError, Refused
from metalbox.machine import Machine
from metalbox.power import Device, Endpoint, Mode, Override, Power
from metalbox.power.orders import Verb
from metalbox.power.polite import Front
from metalbox.powerrecords import SavedOrder
from metalbox.report import read_json, show
from metalbox.store import Database, Store
from metalbox.web.agent_api import read_body
from metalbox.worker import Endpoints, Worker

MAX_WAIT_SECONDS = 600.0
MAX_IDENTIFY_SECONDS = 3600
# Reading 200 sensors of an old BMC, one record at a time.
LONG_QUESTION_SECONDS = 60.0

# What stops the machine, and with it whatever a drive is doing.
CUTTING = frozenset({Verb.OFF, Verb.SOFT_OFF, Verb.CYCLE, Verb.RESET})

T = TypeVar("T")


class PowerApi:
    """The answers."""

    def __init__(
        self,
        database: Database,
        worker: Worker,
        front: Front,
        endpoints: Endpoints,
        now: Callable[[], float] = time.time,
        *,
        untouchable: Callable[[Store, Machine], str],
    ) -> None:
        """`untouchable` says why a machine's power must not be cut now, or "" when it may be."""
        self._database = database
        self._worker = worker
        self._front = front
        self._endpoints = endpoints
        self._now = now
        self._untouchable = untouchable

    async def order(self, request: web.Request) -> web.Response:
        """Order on, off, soft-off, cycle, reset or boot-next of one machine."""
        machine = await self._database.run(inventory.find, request.match_info["name"])
        document = read_json(await read_body(request))
        if not isinstance(document, dict):
            raise InvalidValue(f"expected an object, got {show(document)}")
        verb, boot = _word(Verb, document, "verb"), _override(document.get("boot"))
        if verb is Verb.BOOT_NEXT and boot is None:
            raise InvalidValue("boot: boot-next needs {device, mode, once}")
        is_forced = verb not in CUTTING or document.get("force") is True
        if not is_forced and (why_not := await self._database.run(self._untouchable, machine)):
            raise Refused(f"{machine.name}: {why_not}")
        return web.json_response({"order": await self._worker.order(machine, verb, boot), "machine": machine.name})

    async def order_state(self, request: web.Request) -> web.Response:
        """What became of an order; waits for its end up to `wait` seconds."""
        number = request.match_info["number"]
        wait = _seconds(request.query.get("wait", "0"))
        saved = await self._worker.wait(int(number), wait)
        return web.json_response({**_order(saved), "waits_behind": self._front.turnstile.before(saved.machine_id)})

    async def state(self, request: web.Request) -> web.Response:
        """The machine's power as last observed, or with `refresh=1` as read now, with what is set to boot next."""
        machine, endpoints = await self._subject(request)
        boot: Override | None = None
        if request.query.get("refresh") == "1":
            await self._front.observe(machine.id, endpoints, insist=True)
            with suppress(PowerError):  # some cannot tell, and why is told of the state
                boot = await self._front.ask(machine.id, endpoints, "override", _override_of, tries=1)
        observation = self._front.observation(machine.id)
        before = self._front.turnstile.before(machine.id)
        answer = {
            **dataclasses.asdict(observation),
            "age": observation.age(self._now()),
            "waits_behind": before,
            "boot": dataclasses.asdict(boot) if boot else None,
        }
        return web.json_response({"machine": machine.name, **answer})

    async def sensors(self, request: web.Request) -> web.Response:
        """Every sensor with its reading now."""
        return web.json_response({"sensors": _rows(await self._ask(request, "sensors", _sensors))})

    async def event_log(self, request: web.Request) -> web.Response:
        """The BMC's own log, oldest first."""
        return web.json_response({"entries": _rows(await self._ask(request, "event_log", _event_log))})

    async def identify(self, request: web.Request) -> web.Response:
        """Blink the machine's light."""
        seconds = _seconds(request.query.get("seconds", "15"))
        if seconds > MAX_IDENTIFY_SECONDS:
            raise InvalidValue(f"seconds: expected at most {MAX_IDENTIFY_SECONDS}, got {seconds:.0f}")
        await self._ask(request, "identify", lambda power: power.identify(int(seconds)))
        return web.json_response({})

    async def _subject(self, request: web.Request) -> tuple[Machine, Sequence[Endpoint]]:
        machine = await self._database.run(inventory.find, request.match_info["name"])
        endpoints = await self._database.run(self._endpoints, machine.id)
        if not endpoints:
            raise Refused(f"nothing is known that switches {machine.name}: add its BMC with `metalbox bmc add`")
        return machine, endpoints

    async def _ask(self, request: web.Request, verb: str, call: Callable[[Power], Awaitable[T]]) -> T:
        machine, endpoints = await self._subject(request)
        return await self._front.ask(machine.id, endpoints, verb, call, seconds=LONG_QUESTION_SECONDS)


async def _override_of(power: Power) -> Override:
    return await power.override()


async def _sensors(power: Power) -> Sequence[Any]:
    return await power.sensors()


async def _event_log(power: Power) -> Sequence[Any]:
    return await power.event_log()


def _rows(values: Sequence[Any]) -> list[dict[str, Any]]:
    return [dataclasses.asdict(value) for value in values]


def _order(saved: SavedOrder) -> dict[str, Any]:
    boot = saved.order.boot
    return {
        "id": saved.id,
        "verb": str(saved.order.verb),
        "boot": dataclasses.asdict(boot) if boot else None,
        "created_at": saved.created_at,
        "finished_at": saved.finished_at,
        "outcome": dict(saved.outcome),
    }


def _override(document: Any) -> Override | None:
    if document is None:
        return None
    if not isinstance(document, dict):
        raise InvalidValue(f"boot: expected an object, got {show(document)}")
    once = document.get("once", True)
    if not isinstance(once, bool):
        raise InvalidValue(f"boot.once: expected true or false, got {show(once)}")
    return Override(_word(Device, document, "device"), _word(Mode, {"mode": "keep", **document}, "mode"), once)


W = TypeVar("W", Verb, Device, Mode)


def _word(kind: type[W], document: Mapping[str, Any], key: str) -> W:
    try:
        return kind(str(document.get(key)))
    except ValueError:
        words = ", ".join(kind)
        raise InvalidValue(f"{key}: expected one of {words}, got {show(document.get(key))}") from None


def _seconds(text: str) -> float:
    if not text.isascii() or not text.isdecimal() or int(text[:9]) > MAX_WAIT_SECONDS * 10:
        raise InvalidValue(f"expected a number of seconds, got {show(text)}")
    return min(float(text), MAX_WAIT_SECONDS)
