"""Both HTTP servers on a free port and a real database, for tests with real sockets."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from metalbox import inventory
from metalbox.boot import Asking
from metalbox.caretaker import Caretaker
from metalbox.config import Boot, Consoles, Erase, Http
from metalbox.consoles import Lines
from metalbox.dhcp.leases import Leases
from metalbox.evidence import Facts
from metalbox.journal import Entry, Journal
from metalbox.machine import Mac, Machine
from metalbox.presence import Presence
from metalbox.signing import SigningKey
from metalbox.steward import Steward
from metalbox.store import Database, Store, sqlite_url
from metalbox.switchboard import Switchboard
from metalbox.web.agent_api import AgentApi
from metalbox.web.api import Api
from metalbox.web.app import api_app, firmware_app, listen_tcp, listen_unix, serving
from metalbox.web.bmc_api import BmcApi
from metalbox.web.console_api import ConsoleApi
from metalbox.web.downloads import Downloads
from metalbox.web.firmware import Firmware, load_templates
from metalbox.web.life_api import LifeApi
from metalbox.web.power_api import PowerApi

MAC = Mac("52:54:00:ab:cd:ef")
UUID = "4c4c4544-0042-3510-8054-b7c04f333732"


def report(**changes: Any) -> dict[str, Any]:
    """A small report of a machine with one port; `changes` go over `hardware`."""
    hardware = {
        "system": {"vendor": "ACME", "product": "R1", "serial": "SN12345", "uuid": UUID},
        "firmware": {"mode": "bios"},
        "architecture": "x86_64",
        "memory_bytes": 2**30,
        "cpus": [{"model": "Fast", "cores": 4, "threads": 8}],
        "disks": [{"name": "sda", "serial": "D1", "size_bytes": 10**12}],
        "nics": [{"mac": str(MAC), "name": "eth0", "link": True}],
    }
    agent = {"boot_id": "boot-1", "version": "0.1.0", "uptime_seconds": 9.5, "booted_mac": str(MAC)}
    return {"version": 1, "agent": agent, "hardware": {**hardware, **changes}, "problems": []}


@dataclass
class Stack:
    """What the tests look at, and a client for each server."""

    folder: Path
    database: Database
    journal: Journal
    presence: Presence
    agents: AgentApi
    api: Api
    http: aiohttp.ClientSession
    rest: aiohttp.ClientSession
    port: int
    http_counters: Counter[str]
    arp: dict[str, Mac]
    files: dict[str, Path]
    steward: Steward
    switchboard: Switchboard
    socket: Path
    downloads: Downloads
    reported: list[Machine] = field(default_factory=list)
    changed: list[tuple[Machine, bool]] = field(default_factory=list)

    def put(self, name: str, data: bytes) -> None:
        """Serve these bytes as a boot file of this name."""
        path = self.folder / name.replace("/", "_")
        path.write_bytes(data)
        self.files[name] = path

    async def entries(self) -> list[Entry]:
        """The whole timeline."""
        await self.journal.flush()
        return await self.database.run(lambda store: store.events.all(1000))

    async def report(self, **changes: Any) -> Any:
        """Send a report."""
        async with self.http.post("/agent/v1/report", json=report(**changes)) as answer:
            assert answer.status == 200, await answer.text()
            return await answer.json()


@pytest.fixture
async def stack(tmp_path: Path) -> AsyncIterator[Stack]:
    database = Database(Store.open(sqlite_url(tmp_path / "metalbox.db")))
    journal = Journal(database)
    arp: dict[str, Mac] = {}
    files: dict[str, Path] = {}
    reported: list[Machine] = []
    changed: list[tuple[Machine, bool]] = []
    presence = Presence(arp.get)
    signing = SigningKey.open(tmp_path, environment={})
    switchboard = Switchboard(database, journal, tmp_path)

    def wake(boot_id: str) -> None:
        agents.wake(boot_id)

    steward = Steward(
        database,
        journal,
        switchboard,
        signing,
        tmp_path,
        Erase(),
        (),
        wake,
        lambda machine, is_gone: changed.append((machine, is_gone)),
    )
    agents = AgentApi(database, journal, presence, reported.append, hooks=steward.hooks(), finished=steward.finished)

    async def recognise(asking: Asking) -> Machine | None:
        macs = (asking.mac,) if asking.mac else ()
        return await database.run(inventory.recognise, macs, asking.uuid, asking.serial, asking.vendor, 0.0)

    counters: Counter[str] = Counter()
    firmware = Firmware(
        Boot(),
        load_templates(None),
        recognise,
        files.get,
        journal,
        presence,
        http=Http(big_transfers=1, waiting_transfers=1),
        counters=counters,
    )
    facts = Facts("192.0.2.1")
    lives = LifeApi(database, steward.lives, steward.steps, Erase(), steward.moved, agents.progress_of)
    api = Api(
        database, journal, Leases(()), agents, lambda: {"version": "x"}, lambda machine: facts,
        signer=signing, life=lives.facts,
    )  # fmt: skip
    power = PowerApi(
        database, switchboard.worker, switchboard.front, switchboard.endpoints, untouchable=steward.untouchable
    )
    caretaker = Caretaker(database, switchboard.vault, switchboard.front, agents.wake, agents.polls)
    bmcs = BmcApi(database, switchboard.vault, switchboard.front, caretaker)
    lines = Lines(database, switchboard.front, switchboard.endpoints, journal, tmp_path / "consoles", Consoles())
    consoles = ConsoleApi(database, lines)
    listener = listen_tcp(IPv4Address("127.0.0.1"), 0)
    port = listener.getsockname()[1]
    async with AsyncExitStack() as exits:
        exits.push_async_callback(database.close)
        exits.push_async_callback(journal.close)
        writing = asyncio.create_task(journal.run())
        exits.callback(writing.cancel)
        exits.push_async_callback(switchboard.close)
        exits.push_async_callback(lines.close)
        working = asyncio.create_task(switchboard.worker.run())
        exits.callback(working.cancel)
        looking = asyncio.create_task(steward.run())
        exits.callback(looking.cancel)
        await exits.enter_async_context(serving(firmware_app(firmware, agents, counters), listener))
        unix = tmp_path / "run" / "metalbox.sock"
        await exits.enter_async_context(
            serving(api_app(api, power, bmcs, consoles, lives, Counter()), listen_unix(unix))
        )
        exits.callback(agents.stop)
        exits.callback(api.stop)
        http = await exits.enter_async_context(aiohttp.ClientSession(f"http://127.0.0.1:{port}"))
        rest = await exits.enter_async_context(
            aiohttp.ClientSession("http://metalbox", connector=aiohttp.UnixConnector(str(unix)))
        )
        yield Stack(
            tmp_path, database, journal, presence, agents, api, http, rest, port, counters, arp, files,
            steward, switchboard, unix, firmware.downloads, reported, changed,
        )  # fmt: skip
