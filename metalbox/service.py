"""The one file that knows all the parts: opens them in reading order, runs them in one task group, closes them again.

Everything that can fail at start is opened before the first task runs, and closed again when a later part cannot be
opened. A task that dies takes the service down with its trace; the init system starts it anew, and nothing that was
acknowledged is lost.
"""

from __future__ import annotations

import asyncio
import logging
import os
import resource
import signal
import socket
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

from sqlalchemy.exc import DBAPIError

from metalbox import __version__, garbage, inventory
from metalbox.boot import Asking
from metalbox.caretaker import Caretaker
from metalbox.config import Config
from metalbox.consoles import Lines
from metalbox.dhcp.leases import LeaseChange, Leases
from metalbox.dhcp.server import DhcpServer
from metalbox.dhcp.sockets import choose_interfaces, interfaces
from metalbox.errors import InvalidValue, StartError
from metalbox.evidence import Facts
from metalbox.files import BootFiles
from metalbox.journal import Journal, Kind
from metalbox.listing import MACS, Wanted, everything
from metalbox.machine import Mac, Machine
from metalbox.orderrecords import Order
from metalbox.presence import Presence
from metalbox.ra.server import RouterAdvertiser
from metalbox.signing import SigningKey
from metalbox.steward import Steward
from metalbox.store import Database, Store, sqlite_url
from metalbox.switchboard import Switchboard
from metalbox.tftp.server import TftpServer
from metalbox.web.agent_api import AgentApi
from metalbox.web.api import Api
from metalbox.web.app import api_app, firmware_app, listen_tcp, listen_unix, remove_unix, serving
from metalbox.web.bmc_api import BmcApi
from metalbox.web.console_api import ConsoleApi
from metalbox.web.firmware import Firmware, load_templates
from metalbox.web.life_api import LifeApi
from metalbox.web.power_api import PowerApi

log = logging.getLogger("metalbox.service")

# GRUB, which knows no HTTP here and cannot introduce itself, asks for this by TFTP.
GRUB_SCRIPT = "grub/grub.cfg"
ARP_TABLE = Path("/proc/net/arp")
# A twin counts as gone after a day; ten minutes later is soon enough to say so.
SETTLE_SECONDS = 600.0
# An entry of the ARP table that was not resolved (yet).
NO_MAC = "00:00:00:00:00:00"


def run(config: Config, path: Path) -> int:
    """Serve until SIGTERM or SIGINT; returns the exit code. Raises StartError when it cannot start."""
    _start_logging(config.log_level)
    _allow_descriptors()
    garbage.disable()
    asyncio.run(serve(config, path))
    return 0


async def serve(config: Config, path: Path) -> None:
    """Open everything, say what is listened on, run until asked to stop, close everything."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    database = Database(open_store(config))
    try:
        service = Service(config, database)
        async with service.open():
            for line in service.listening:
                print(line, flush=True)
            print(f"metalbox {__version__} is ready ({path}), started in {process_age():.2f} s", flush=True)
            garbage.spare()
            notify("READY=1")
            service.journal.record(Kind.SERVICE, f"metalbox {__version__} started", now=time.time())
            await _run(service, stop)
            notify("STOPPING=1")
            await service.consoles.close()
            await service.switchboard.close()
        service.journal.record(Kind.SERVICE, "metalbox stopped", now=time.time())
        await service.journal.close()
    finally:
        await database.close()
    print("metalbox has stopped", flush=True)


async def _run(service: Service, stop: asyncio.Event) -> None:
    """All tasks, until `stop`. One that dies ends the others, and its exception goes on."""
    async with asyncio.TaskGroup() as group:
        tasks = [
            group.create_task(service.journal.run(), name="journal"),
            group.create_task(service.dhcp.run(), name="dhcp"),
            group.create_task(service.agents.watch(), name="agents"),
            group.create_task(service.settle(), name="conflicts"),
            group.create_task(service.switchboard.run(), name="power"),
            group.create_task(service.caretaker.run(), name="accounts"),
            group.create_task(service.steward.run(), name="lives"),
            group.create_task(service.consoles.run(), name="consoles"),
            group.create_task(garbage.collect_when_quiet(), name="garbage"),
        ]
        await stop.wait()
        for task in tasks:
            task.cancel()


class Service:
    """All parts, made and not yet open. `known` is the inventory by MAC, for those who cannot wait for the database."""

    def __init__(self, config: Config, database: Database) -> None:
        """Read what is stored, and join the parts. Raises StartError."""
        now = time.time()
        self.config = config
        self.started_at = now
        self.database = database
        self.http_counters: Counter[str] = Counter()
        self.api_counters: Counter[str] = Counter()
        self.interfaces = choose_interfaces(config, interfaces())
        self.known = {mac: machine for machine in _machines(database.store) for mac in machine.macs}
        self.signing = SigningKey.open(config.data_dir, _signed_with(database.store))
        self.journal = Journal(database, config.timeline)
        self.presence = Presence(arp_mac)
        self.files = BootFiles(config.boot, self.render)
        self.firmware = Firmware(
            config.boot,
            load_templates(config.boot.templates),
            self.recognise,
            self.files.path,
            self.journal,
            self.presence,
            http=config.http,
            counters=self.http_counters,
        )
        own = [address.ip for interface in self.interfaces for address in interface.addresses]
        own += [subnet.server_address for subnet in config.subnets if subnet.server_address]
        self.leases = Leases(config.subnets, own=own, decline_seconds=config.dhcp.decline_seconds)
        left_out = self.leases.restore(database.store.load_leases(), now)
        if left_out:
            log.warning("%d stored leases belong to no configured subnet and are not used", left_out)
        self.switchboard = Switchboard(database, self.journal, config.data_dir, config.power_budgets)
        self.dhcp = DhcpServer(
            config,
            self.leases,
            self.journal,
            self.presence,
            self.commit,
            interfaces=self.interfaces,
            boot_files=self.files.available(),
            known=self.known.__contains__,
            heard_bmc=self.switchboard.heard,
        )
        self.advertiser = RouterAdvertiser(self.interfaces, self.journal, self.presence)
        self.tftp = TftpServer(config.tftp, self.files.find, self.journal, self.presence)
        self.steward = Steward(
            database,
            self.journal,
            self.switchboard,
            self.signing,
            config.data_dir,
            config.erase,
            config.accept_rules,
            self.wake,
            self.changed,
        )
        self.agents = AgentApi(
            database,
            self.journal,
            self.presence,
            self.remember,
            hooks=self.steward.hooks(),
            finished=self.finished,
        )
        self.caretaker = Caretaker(
            database,
            self.switchboard.vault,
            self.switchboard.front,
            self.agents.wake,
            self.agents.polls,
            settled=self.steward.finished,
        )
        self.power_api = PowerApi(
            database,
            self.switchboard.worker,
            self.switchboard.front,
            self.switchboard.endpoints,
            untouchable=self.steward.untouchable,
        )
        self.bmc_api = BmcApi(database, self.switchboard.vault, self.switchboard.front, self.caretaker)
        self.consoles = Lines(
            database,
            self.switchboard.front,
            self.switchboard.endpoints,
            self.journal,
            config.data_dir / "consoles",
            config.consoles,
        )
        self.console_api = ConsoleApi(database, self.consoles)
        self.life_api = LifeApi(
            database,
            self.steward.lives,
            self.steward.steps,
            config.erase,
            self.steward.moved,
            self.agents.progress_of,
        )
        self.api = Api(
            database,
            self.journal,
            self.leases,
            self.agents,
            self.status,
            self.facts,
            power=self.switchboard.facts,
            signer=self.signing,
            life=self.life_api.facts,
        )

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        """Open every port, or none: raises StartError. Leaving the `with` block closes them in the other order."""
        config = self.config
        async with AsyncExitStack() as stack:
            self.dhcp.open()
            stack.callback(self.dhcp.close)
            if config.dhcp.null_ra and self.dhcp.listening:
                self.advertiser.open()
                stack.callback(self.advertiser.close)
            if config.tftp.enabled:
                await self.tftp.start()
                stack.callback(self.tftp.close)
            web = firmware_app(self.firmware, self.agents, self.http_counters)
            await stack.enter_async_context(serving(web, listen_tcp(config.http.address, config.http.port)))
            rest = api_app(self.api, self.power_api, self.bmc_api, self.console_api, self.life_api, self.api_counters)
            await stack.enter_async_context(serving(rest, listen_unix(config.socket)))
            stack.callback(remove_unix, config.socket)
            yield
            # Who waits for an order or for news is answered now, and does not delay the end.
            self.agents.stop()
            self.api.stop()

    @property
    def listening(self) -> list[str]:
        """One line for each port."""
        return [
            *self.dhcp.listening,
            *self.advertiser.listening,
            *([f"TFTP on {self.tftp.listening}"] if self.tftp.listening else []),
            f"HTTP for firmware and agents on tcp {self.config.http.address}:{self.config.http.port}",
            f"REST for the command line on unix {self.config.socket}",
        ]

    def status(self) -> dict[str, Any]:
        """What `metalbox status` shows."""
        counters: dict[str, Counter[str]] = {
            "dhcp": self.dhcp.counters,
            "tftp": self.tftp.counters,
            "http": self.http_counters + self.firmware.downloads.under_way(),
            "api": self.api_counters,
            "ra": self.advertiser.counters,
            "journal": self.journal.counters,
            "power": self.switchboard.counters,
        }
        return {
            "version": __version__,
            "started_at": self.started_at,
            "listening": self.listening,
            "counters": counters,
            "subnets": self._subnets(time.time()),
            "database": self.database.store.shown,
        }

    def _subnets(self, now: float) -> list[dict[str, Any]]:
        configured = {str(subnet.subnet) for subnet in self.config.subnets}
        rows: dict[str, dict[str, Any]] = {}
        attached = [(name, network) for name, found in self.dhcp.context.attached.items() for network in found]
        for interface, network in (*attached, *(("", network) for network in self.dhcp.context.networks)):
            has_table = network.name in configured
            row = {
                "subnet": network.name,
                "mode": str(network.mode),
                "interface": interface,
                "leases": self.leases.in_use(network.name, now) if has_table else 0,
                "pool_size": self.leases.pool_size(network.name) if has_table else 0,
            }
            rows.setdefault(network.name, row)
        return list(rows.values())

    def facts(self, machine: Machine | None) -> Facts:
        """What `why` wants to know of us, as this machine sees us."""
        ours = [(interface, address) for interface in self.interfaces for address in interface.addresses]
        server = str(ours[0][1].ip) if ours else ""
        if machine and machine.address:
            where = IPv4Address(machine.address)
            server = next((str(address.ip) for _, address in ours if where in address.network), server)
        offer = next((subnet.uefi_offer for subnet in self.config.subnets if subnet.mode == "proxy"), "binl")
        return Facts(server, self.config.http.port, self.config.tftp.port, offer)

    def remember(self, machine: Machine) -> None:
        """The machine has reported."""
        self.known.update(dict.fromkeys(machine.macs, machine))
        self.switchboard.worker.overrides.alive(machine.id)

    def finished(self, order: Order) -> None:
        """An agent has done what it was ordered."""
        self.caretaker.finished(order)
        self.steward.finished(order)

    def wake(self, boot_id: str) -> None:
        """There is something for the agent of this boot."""
        self.agents.wake(boot_id)

    def changed(self, machine: Machine, is_gone: bool) -> None:
        """A machine is in another state, or was forgotten."""
        if is_gone:
            for mac in [mac for mac, known in self.known.items() if known.id == machine.id]:
                del self.known[mac]
        else:
            self.known.update(dict.fromkeys(machine.macs, machine))

    async def settle(self) -> None:
        """End the conflicts of machines whose twin has gone for good, until cancelled."""
        while True:
            await asyncio.sleep(SETTLE_SECONDS)
            try:
                await self.database.run(inventory.recheck_conflicts, time.time())
            except DBAPIError as error:
                log.error("conflicts cannot be looked at: %s", error.orig)

    async def recognise(self, asking: Asking) -> Machine | None:
        """Who asks what to boot."""
        macs = (asking.mac,) if asking.mac else ()
        marks = (macs, asking.uuid, asking.serial, asking.vendor, time.time())
        machine = await self.database.run(inventory.recognise, *marks)
        if machine is not None:
            self.switchboard.worker.overrides.alive(machine.id)
        return machine

    def render(self, name: str, client: str) -> bytes | None:
        """Files that TFTP makes on request."""
        if name != GRUB_SCRIPT:
            return None
        mac = self.presence.mac_of(client, time.time())
        return self.firmware.grub_script(self.known.get(mac) if mac else None, mac, client, self.config.http.port)

    async def commit(self, changes: Sequence[LeaseChange]) -> None:
        """Make leases durable."""
        rows = [lease for change in changes for lease in change.leases]
        # What the thread does is not taken back when the service stops meanwhile: no lines go that way.
        async with self.journal.passengers(2 * len(rows) if self.database.is_idle else 0) as batch:
            batch.ids = await self.database.run_small(Store.save_leases, rows, batch.lines)


def open_store(config: Config) -> Store:
    """Open the database; its folder is made when it is missing. Raises StartError."""
    if config.database:
        return Store.open(config.database)
    try:
        config.data_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StartError(f"cannot make the folder {config.data_dir} (data_dir): {error.strerror}") from None
    return Store.open(sqlite_url(config.data_dir / "metalbox.db"))


def _signed_with(store: Store) -> set[str]:
    """The key of the newest certificate."""
    with store.transaction():
        return store.certificates.key_ids()


def _machines(store: Store) -> list[Machine]:
    """All machines without their hardware."""
    wanted = Wanted(fields=("id", "name", "state", "uuid", "serial", "conflict", MACS))
    return [
        Machine(
            id=row["id"],
            name=row["name"],
            state=row["state"],
            uuid=row["uuid"],
            serial=row["serial"],
            macs=tuple(Mac(mac) for mac in row["macs"]),
            conflict=row["conflict"],
        )
        for row in everything(store, wanted)
    ]


def arp_mac(address: str) -> Mac | None:
    """Who has this address, after the kernel's ARP table."""
    try:
        lines = ARP_TABLE.read_text().splitlines()
    except OSError:
        return None
    for line in lines[1:]:
        words = line.split()
        if words[0] == address and words[3] != NO_MAC:
            try:
                return Mac.parse(words[3])
            except InvalidValue:
                return None
    return None


def notify(state: str) -> None:
    """Tell systemd (sd_notify(3)); nothing where systemd does not ask for it."""
    target = os.environ.get("NOTIFY_SOCKET", "")
    if not target:
        return
    # "@" stands for the NUL byte of an abstract address.
    name = "\0" + target[1:] if target.startswith("@") else target
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
        try:
            sock.sendto(state.encode(), name)
        except OSError as error:
            log.warning("cannot tell systemd %r: %s", state, error.strerror)


def process_age() -> float:
    """Seconds since this process was started, Python's own start included (proc(5): field 22 of stat, in ticks)."""
    ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
    return time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")


def _allow_descriptors() -> None:
    """A transfer needs two descriptors; the usual soft limit of 1024 is there for programs that use select(2)."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _start_logging(level: str) -> None:
    """To stderr; with systemd, that is the journal, which has its own clock."""
    form = "%(levelname)s %(name)s: %(message)s"
    if "JOURNAL_STREAM" not in os.environ:
        form = "%(asctime)s " + form
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format=form)
    logging.getLogger("metalbox").setLevel(level.upper())
