"""What of power runs in the service: the vault, the desks, the worker and the patrol, joined to store and timeline."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from pathlib import Path

from metalbox import bmcaccounts, bmcs
from metalbox.bmcrecords import BmcRecord
from metalbox.config import PowerBudget
from metalbox.errors import MetalboxError
from metalbox.evidence import PowerFacts
from metalbox.journal import Journal, Kind
from metalbox.machine import Mac
from metalbox.power import DRIVERS, Endpoint, PowerState
from metalbox.power.orders import Observation
from metalbox.power.patrol import Machines, Patrol
from metalbox.power.polite import Front, Key
from metalbox.power.stagger import Budget
from metalbox.powerfacts import power_facts
from metalbox.secrets import Vault
from metalbox.store import Database, Store
from metalbox.worker import Worker

# A rack's BMCs ask for their addresses within a minute of its power coming back.
LEARN_SECONDS = 5.0
# Of made-up ones no more than this are kept until the next look.
MAX_HEARD = 4096


class Switchboard:
    """Made from an open database; `run` it in the service's task group, `close` it before the database."""

    def __init__(
        self, database: Database, journal: Journal, data_dir: Path, budgets: Sequence[PowerBudget] = ()
    ) -> None:
        """Raises StartError when passwords are stored and their key is not there."""
        with database.store.transaction():
            in_use = database.store.bmcs.keys_in_use()
        self.vault = Vault.open(data_dir, in_use)
        self.front = Front(budgets={row.label: Budget(row.per_second, row.burst) for row in budgets})
        self._database = database
        self._journal = journal
        self.worker = Worker(database, self.front, journal, self.endpoints)
        self.patrol = Patrol(self.front, self._machines, self._seen)
        # BMCs that asked for an address since the last look, by MAC: (address, vendor class).
        self._heard: dict[Mac, tuple[str, str]] = {}

    async def run(self) -> None:
        """Orders and laps, until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self.worker.run())
            group.create_task(self.patrol.run())
            group.create_task(self._learn())

    async def close(self) -> None:
        """Give the BMCs' sessions back."""
        await self.front.close()

    def heard(self, mac: Mac, address: str, vendor_class: str) -> None:
        """A BMC asked for an address; called from the packet path, so it only remembers."""
        if len(self._heard) < MAX_HEARD:
            self._heard[mac] = (address or self._heard.get(mac, ("", ""))[0], vendor_class)

    async def _learn(self) -> None:
        while True:
            await asyncio.sleep(LEARN_SECONDS)
            await self.learn()

    async def learn(self) -> None:
        """Write down the BMCs that were heard of."""
        heard, self._heard = self._heard, {}
        for mac, (address, vendor_class) in heard.items():
            await self._database.run(bmcs.heard, mac, address, vendor_class, time.time())

    def endpoints(self, store: Store, machine_id: int) -> Sequence[Endpoint]:
        """The ways to a machine's power, the secrets opened; called in the database's thread."""
        return [endpoint for _, endpoint in bmcaccounts.endpoints_of_machine(store, self.vault, machine_id)]

    def facts(self, store: Store, machine_id: int) -> PowerFacts:
        """What is known of a machine's power, for `why`; called in the database's thread."""
        return power_facts(store, machine_id, self.front.observation(machine_id), self.front.turnstile.waiting)

    async def _machines(self) -> Machines:
        return await self._database.run(self._all_endpoints)

    def _all_endpoints(self, store: Store) -> Machines:
        """Everything that the patrol asks; a BMC without a machine is asked for itself."""
        found: dict[Key, list[Endpoint]] = {}
        for record in store.bmcs.all():
            if not _can_be_asked(record):
                continue
            try:
                endpoints = bmcaccounts.endpoints(store, self.vault, record.id)
            except MetalboxError:
                # Its secret does not open: whoever orders something of it is told so.
                continue
            found.setdefault(record.machine_id or f"bmc {record.id}", []).extend(endpoints)
        return found

    def _seen(self, machine: Key, before: Observation, after: Observation) -> None:
        """Tell the timeline when a state or a trouble is another one than before."""
        if not isinstance(machine, int):
            return
        text, data = "", {"observed": str(after.state), "by": after.source, "code": after.code}
        if after.code and after.code != before.code:
            text = f"its BMC cannot be asked: {after.text}"
        elif after.state != before.state:
            text = f"is {after.state}, as {after.source} reads it"
            if before.state is PowerState.OFF and after.state is PowerState.ON:
                self.worker.overrides.switched_on(machine)
        elif before.code and not after.code:
            text = f"its BMC answers again: it is {after.state}"
        if text:
            self._journal.record(Kind.POWER, text, now=time.time(), machine_id=machine, data=data)


def _can_be_asked(record: BmcRecord) -> bool:
    """Whether it has an address, and a password where one is needed: the patrol does not try doors."""
    needs_password = not record.drivers or any(DRIVERS[driver].wants_credentials for driver in record.drivers)
    return bool(record.address) and (bool(record.sealed) or not needs_password)
