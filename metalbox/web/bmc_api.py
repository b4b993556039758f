"""REST for BMCs: listed, added, imported, tried, forgotten. A password comes in and never goes out."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from aiohttp import web

from metalbox import accountorders, bmcaccounts, bmcimport, bmcs, inventory
from metalbox.bmcmatch import Source, Told
from metalbox.bmcrecords import BmcRecord
from metalbox.caretaker import Caretaker
from metalbox.errors import InvalidValue, PowerError, Refused
from metalbox.power import DRIVERS, Endpoint, Power
from metalbox.power.found import Found
from metalbox.power.orders import Answer
from metalbox.power.polite import Front
from metalbox.power.scan import scan
from metalbox.report import read_json, show
from metalbox.secrets import Secret, Vault
from metalbox.store import Database, Store
from metalbox.web.agent_api import read_body

# A BMC that is asked who it is may be slow to log in; IPMI reads its FRU record by record.
TEST_SECONDS = 60.0
TEXTS = ("address", "user", "password", "mac", "serial", "uuid", "driver", "machine")


class BmcApi:
    """The answers."""

    def __init__(
        self,
        database: Database,
        vault: Vault,
        front: Front,
        caretaker: Caretaker,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._database = database
        self._vault = vault
        self._front = front
        self._caretaker = caretaker
        self._now = now

    async def listing(self, request: web.Request) -> web.Response:
        """Every BMC, those without a machine too."""
        return web.json_response({"bmcs": await self._database.run(bmcs.listing)})

    async def add(self, request: web.Request) -> web.Response:
        """Take one BMC with its account."""
        document = read_json(await read_body(request))
        told, user, password, machine = _read(document)
        settings = _settings(document.get("settings") or {})
        learned = await self._database.run(self._add, told, user, password, machine, settings)
        return web.json_response({"bmc": learned})

    async def take_list(self, request: web.Request) -> web.Response:
        """Take an operator's list, CSV or YAML as it is; all of it or, on an error, nothing."""
        name = request.query.get("name", "the list")[:200]
        body = await read_body(request)
        try:
            text = body.decode("utf-8")
        except UnicodeDecodeError as error:
            raise InvalidValue(f"{name} is not UTF-8 text (byte {error.start})") from None
        rows = bmcimport.parse(text, name)
        done = await self._database.run(bmcaccounts.take_list, self._vault, rows, self._now())
        unmatched = [bmcs.as_json(record, None) for record in done.unmatched]
        counts = {"added": done.added, "changed": done.changed, "unchanged": done.unchanged}
        return web.json_response({**counts, "unmatched": unmatched})

    async def test(self, request: web.Request) -> web.Response:
        """Log in by every driver, ask whether the machine is on and who it is; what is learned is kept."""
        record = await self._database.run(bmcs.find, request.match_info["name"])
        endpoints = await self._database.run(bmcaccounts.endpoints, self._vault, record.id)
        if not endpoints:
            raise Refused(f"no address is known of the BMC {record.shown}: add it with `metalbox bmc add ADDRESS`")
        tries = []
        errors: list[PowerError] = []
        for endpoint in endpoints:
            tries.append(await self._try(record, endpoint, errors))
        # A BMC that speaks one of the two languages is well.
        if len(errors) == len(tries):
            await self._database.run(bmcs.failed, record.id, errors[0], self._now())
        found = await self._database.run(bmcs.listing)
        return web.json_response({"tries": tries, "bmc": next(row for row in found if row["id"] == record.id)})

    async def scan(self, request: web.Request) -> web.Response:
        """Look for BMCs in the addresses that the operator names; what is found is remembered. Never logs in."""
        document = read_json(await read_body(request))
        texts = document.get("addresses") if isinstance(document, dict) else None
        if not isinstance(texts, list) or not texts or not all(isinstance(text, str) for text in texts):
            raise InvalidValue("expected {addresses: [text, ...]}: addresses, ranges like 192.0.2.10-50, or networks")
        done = await scan(texts)
        rows = [await self._database.run(self._learn, found) for found in done.found]
        return web.json_response({"found": rows, "asked": done.asked, "unasked": len(done.unasked)})

    def _learn(self, store: Store, found: Found) -> dict[str, Any]:
        # Redfish's own UUID names the service, not the machine: it is not learned as the machine's.
        drivers = tuple(name for name, speaks in (("redfish", found.redfish), ("ipmi", found.ipmi)) if speaks)
        told = Told(
            Source.SCAN,
            address=found.address,
            drivers=drivers,
            mac=found.mac,
            vendor=found.vendor,
            model=found.product,
            serial=found.serial,
        )
        learned = bmcs.learn(store, told, self._now())
        names = store.machines.names()
        row = bmcs.as_json(learned.bmc, names.get(learned.bmc.machine_id or 0))
        return {"bmc": row, "is_new": learned.is_new, "hints": list(found.hints)}

    async def forget(self, request: web.Request) -> web.Response:
        """Forget a BMC and its password."""
        record = await self._database.run(bmcs.find, request.match_info["name"])
        await self._database.run(bmcs.forget, record.id, self._now())
        return web.json_response({})

    async def rotate(self, request: web.Request) -> web.Response:
        """Order a new password of metalbox's own account; how that goes is told by `account`."""
        order, listens = await self._caretaker.rotate(request.match_info["name"])
        return web.json_response({"order": order.id, "listens": listens})

    async def account(self, request: web.Request) -> web.Response:
        """What came of the last order for metalbox's own account."""
        return web.json_response(await self._database.run(self._account, request.match_info["name"]))

    def _account(self, store: Store, name: str) -> dict[str, Any]:
        record = bmcs.find(store, name)
        state = accountorders.account_state(store, record.machine_id) if record.machine_id is not None else "none"
        known = record.facts.get("account", {})
        account = {key: known[key] for key in ("id", "channel", "privilege", "at")} if known else None
        return {"state": state, "user": record.user, "has_password": bool(record.sealed), "account": account}

    async def _try(self, record: BmcRecord, endpoint: Endpoint, errors: list[PowerError]) -> dict[str, Any]:
        row: dict[str, Any] = {"driver": endpoint.driver, "address": endpoint.address, "code": "", "text": ""}
        key, answer = record.machine_id or f"bmc {record.id}", Answer()
        try:
            is_on = await self._front.ask(key, [endpoint], "is_on", _is_on, tries=1, answer=answer)
            row["state"] = "on" if is_on else "off"
            said = await self._front.ask(key, [endpoint], "inventory", _inventory, seconds=TEST_SECONDS, tries=1)
            await self._database.run(bmcs.identified, record.id, endpoint.driver, said, self._now())
            await self._database.run(bmcs.answered, record.id, endpoint.driver, self._now())
        except PowerError as error:
            row |= {"code": error.code, "text": str(error)}
            errors.append(error)
        return row

    def _add(
        self, store: Store, told: Told, user: str, password: Secret, machine: str, settings: dict[str, str]
    ) -> dict[str, Any]:
        owner = inventory.find(store, machine) if machine else None
        number = owner.id if owner else None
        learned = bmcaccounts.add(
            store,
            self._vault,
            told,
            self._now(),
            user=user,
            password=password,
            settings=settings,
            machine_id=number,
        )
        names = store.machines.names()
        record = bmcs.get(store, learned.bmc.id)
        return bmcs.as_json(record, names.get(record.machine_id or 0))


async def _is_on(power: Power) -> bool:
    return await power.is_on()


async def _inventory(power: Power) -> Any:
    return await power.inventory()


def _settings(document: Any) -> dict[str, str]:
    """Settings of the driver; `bmcaccounts.add` says which there are. Values are not repeated, some are secrets."""
    if not isinstance(document, dict) or not all(isinstance(value, str) for value in document.values()):
        raise InvalidValue("settings: expected an object of texts")
    return document


def _read(document: Any) -> tuple[Told, str, Secret, str]:
    if not isinstance(document, dict):
        raise InvalidValue(f"expected an object, got {show(document)}")
    texts = {name: document.get(name) or "" for name in TEXTS}
    for name, value in texts.items():
        if not isinstance(value, str):
            # What stands in the place of a password is not repeated.
            raise InvalidValue(f"{name}: expected a text" + ("" if name == "password" else f", got {show(value)}"))
    driver = texts["driver"]
    if driver and driver not in DRIVERS:
        raise InvalidValue(f"driver: expected one of {', '.join(DRIVERS)}, got {show(driver)}")
    port = document.get("port") or 0
    told = Told(
        Source.OPERATOR,
        address=bmcimport.read_address(texts["address"]),
        port=bmcimport.read_port(str(port)) if port else 0,
        drivers=(driver,) if driver else (),
        mac=bmcimport.read_mac(texts["mac"]) if texts["mac"] else None,
        serial=texts["serial"],
        uuid=texts["uuid"].lower(),
    )
    return told, texts["user"], Secret(texts["password"]), texts["machine"]
