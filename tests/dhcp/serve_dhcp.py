"""The real DHCP server with its real store, in a process of its own: `python -m tests.dhcp.serve_dhcp`.

Arguments: a configuration file, a folder for the database, and, shorter than a configuration may have it, the lease
time, so that clients renew and rebind while one waits. Lines on standard input are orders: `state` prints what
the server knows as one line of JSON, `break` and `mend` make commits fail and work again. The end of input stops it.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from metalbox import config as configuration
from metalbox.dhcp.leases import LeaseChange, Leases
from metalbox.dhcp.server import DhcpServer
from metalbox.dhcp.sockets import choose_interfaces, interfaces, neighbour
from metalbox.errors import MetalboxError
from metalbox.journal import Journal
from metalbox.presence import Presence
from metalbox.ra.server import RouterAdvertiser
from metalbox.store import Database, Store

BOOT_FILES = ("undionly.kpxe", "snponly.efi", "ipxe.efi", "ipxe-i386.efi", "ipxe-arm64.efi")


class Harness:
    def __init__(self, config: configuration.Config, folder: Path) -> None:
        self.database = Database(Store.open(f"sqlite:///{folder / 'metalbox.db'}"))
        present = interfaces()
        chosen = choose_interfaces(config, present)
        own = [address.ip for interface in present for address in interface.addresses]
        self.leases = Leases(config.subnets, own=own, decline_seconds=config.dhcp.decline_seconds)
        self.leases.restore(self.database.store.load_leases(), time.time())
        self.journal = Journal()
        self.presence = Presence(neighbour)
        self.is_broken = False
        self.dhcp = DhcpServer(
            config,
            self.leases,
            self.journal,
            self.presence,
            self.commit,
            interfaces=chosen,
            boot_files=BOOT_FILES,
            known=lambda mac: False,
        )
        self.ra = RouterAdvertiser(chosen if config.dhcp.null_ra else [], self.journal, self.presence)

    async def commit(self, changes: Sequence[LeaseChange]) -> None:
        if self.is_broken:
            raise OSError("the disk is full")
        await self.database.run(Store.save_leases, [lease for change in changes for lease in change.leases])

    def state(self) -> dict[str, Any]:
        return {
            "dhcp": dict(self.dhcp.counters),
            "ra": dict(self.ra.counters),
            "probe": dict(self.dhcp.probe.counters),
            "rivals": [asdict(rival) for rival in self.dhcp.rivals.table.values()],
            "leases": [lease._asdict() for lease in self.leases.rows(time.time())],
            "journal": [{"kind": e.kind, "mac": e.mac, "text": e.text, **e.data} for e in self.journal.pending],
        }

    async def obey(self) -> None:
        reader = asyncio.StreamReader()
        await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
        while line := await reader.readline():
            order = line.decode().strip()
            if order == "state":
                print(json.dumps(self.state()), flush=True)
            else:
                self.is_broken = order == "break"
                print(json.dumps(order), flush=True)

    async def run(self) -> None:
        try:
            self.dhcp.open()
            self.ra.open()
            print(json.dumps([*self.dhcp.listening, *self.ra.listening]), flush=True)
            async with asyncio.TaskGroup() as group:
                serving = group.create_task(self.dhcp.run())
                await self.obey()
                serving.cancel()
        finally:
            self.dhcp.close()
            self.ra.close()
            await self.database.close()


def main(config_path: str, folder: str, lease_seconds: str = "") -> int:
    try:
        config = configuration.load(Path(config_path))
        if lease_seconds:
            subnets = tuple(replace(subnet, lease_seconds=int(lease_seconds)) for subnet in config.subnets)
            config = replace(config, subnets=subnets)
        harness = Harness(config, Path(folder))
        asyncio.run(harness.run())
    except MetalboxError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
