"""What of power runs in the service: the vault, the desks, the worker and the patrol, joined to store and timeline."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from sqlalchemy.exc import DBAPIError

from metalbox import bmcaccounts, bmcs, resealing
from metalbox.bmcrecords import BmcRecord
from metalbox.config import PowerBudget
from metalbox.errors import MetalboxError, NotFound, PowerError
from metalbox.evidence import PowerFacts
from metalbox.journal import Journal, Kind
from metalbox.machine import Mac
from metalbox.power import DRIVERS, Endpoint, PowerState
from metalbox.power.desk import ERRORS
from metalbox.power.orders import Observation
from metalbox.power.patrol import Machines, Patrol
from metalbox.power.polite import Front, Key
from metalbox.power.stagger import Budget
from metalbox.powerfacts import power_facts
from metalbox.secrets import Vault
from metalbox.store import Database, Store
from metalbox.worker import Worker

log = logging.getLogger("metalbox.power")

# BMCs taken out of the database in one transaction, or judged in one: 6 ms, and commits of leases wait behind it.
SLICE = 250
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
        resealing.settle(data_dir, in_use)
        self.vault = Vault.open(data_dir, in_use)
        self.front = Front(budgets={row.label: Budget(row.per_second, row.burst) for row in budgets})
        self._database = database
        self._journal = journal
        self.worker = Worker(database, self.front, journal, self.endpoints)
        self.patrol = Patrol(self.front, self._machines, self._seen)
        # BMCs that asked for an address since the last look, by MAC: (address, vendor class).
        self._heard: dict[Mac, tuple[str, str]] = {}
        # What the patrol saw since the last look, where it was another thing than before.
        self._verdicts: dict[Key, Observation] = {}
        self._asked: Machines = {}
        self._failures: Counter[str] = Counter()

    async def run(self) -> None:
        """Orders and laps, until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self.worker.run())
            group.create_task(self.patrol.run())
            group.create_task(self._learn())

    async def close(self) -> None:
        """Give the BMCs' sessions back."""
        await self.front.close()

    @property
    def counters(self) -> Counter[str]:
        """What desks, worker and patrol counted."""
        return self.front.counters + self.worker.counters + self._failures

    def heard(self, mac: Mac, address: str, vendor_class: str) -> None:
        """A BMC asked for an address; called from the packet path, so it only remembers."""
        if len(self._heard) < MAX_HEARD:
            self._heard[mac] = (address or self._heard.get(mac, ("", ""))[0], vendor_class)

    async def _learn(self) -> None:
        while True:
            await asyncio.sleep(LEARN_SECONDS)
            await self.learn()

    async def learn(self) -> None:
        """Write down the BMCs that were heard of, and which are sick or well again. What fails is tried again later."""
        try:
            while self._heard:
                mac, (address, vendor_class) = next(iter(self._heard.items()))
                await self._database.run(bmcs.heard, mac, address, vendor_class, time.time())
                if self._heard[mac] == (address, vendor_class):
                    del self._heard[mac]
            while self._verdicts:
                part = dict(list(self._verdicts.items())[:SLICE])
                await self._database.run(self._judge, part)
                self._verdicts = {key: one for key, one in self._verdicts.items() if part.get(key) is not one}
        except DBAPIError as error:
            self._failures["database failed: BMCs"] += 1
            log.error("what was learned of BMCs cannot be stored, it is tried again: %s", error.orig)

    def _judge(self, store: Store, verdicts: Mapping[Key, Observation]) -> None:
        """Remember for each BMC its trouble, or that it is over: so it is known after a restart, too."""
        for key, seen in verdicts.items():
            record = _first(store, key)
            if record is None or seen.code == record.error_code:
                continue
            if seen.code:
                error = ERRORS.get(seen.code, PowerError)(seen.text, evidence=seen.evidence)
                bmcs.failed(store, record.id, error, seen.tried_at)
            else:
                bmcs.answered(store, record.id, "", seen.tried_at)

    def endpoints(self, store: Store, machine_id: int) -> Sequence[Endpoint]:
        """The ways to a machine's power, the secrets opened; called in the database's thread."""
        return [endpoint for _, endpoint in bmcaccounts.endpoints_of_machine(store, self.vault, machine_id)]

    def facts(self, store: Store, machine_id: int) -> PowerFacts:
        """What is known of a machine's power, for `why`; called in the database's thread."""
        return power_facts(store, machine_id, self.front.observation(machine_id), self.front.turnstile.waiting)

    async def _machines(self) -> Machines:
        """Everything that the patrol asks; while the database fails, those that it asked before."""
        found: dict[Key, list[Endpoint]] = {}
        last = 0
        try:
            while (part := await self._database.run(self._endpoints_after, last)) is not None:
                last, rows = part
                for key, endpoints in rows:
                    found.setdefault(key, []).extend(endpoints)
        except DBAPIError as error:
            self._failures["database failed: patrol"] += 1
            log.error("the BMCs cannot be read, the patrol goes on with those of before: %s", error.orig)
            return self._asked
        self._asked = found
        return found

    def _endpoints_after(self, store: Store, last: int) -> tuple[int, list[tuple[Key, list[Endpoint]]]] | None:
        """The next BMCs after the id `last`, and the last id of them; a BMC without a machine is asked for itself."""
        records = store.bmcs.after(last, SLICE)
        found: list[tuple[Key, list[Endpoint]]] = []
        for record in records:
            if not _can_be_asked(record):
                continue
            try:
                found.append((record.machine_id or f"bmc {record.id}", bmcaccounts.endpoints_of(self.vault, record)))
            except MetalboxError:
                # Its secret does not open: whoever orders something of it is told so.
                continue
        return (records[-1].id, found) if records else None

    def _seen(self, machine: Key, before: Observation, after: Observation) -> None:
        """Tell the timeline when a state is another one than before; troubles are told when they are written down."""
        self._verdicts[machine] = after
        if not isinstance(machine, int):
            return
        text, data = "", {"observed": str(after.state), "by": after.source, "code": after.code}
        if after.state != before.state:
            text = f"is {after.state}, as {after.source} reads it"
            if before.state is PowerState.OFF and after.state is PowerState.ON:
                self.worker.overrides.switched_on(machine)
        if text:
            self._journal.record(Kind.POWER, text, now=time.time(), machine_id=machine, data=data)


def _first(store: Store, key: Key) -> BmcRecord | None:
    """The BMC that the patrol spoke to: a machine's with a password before those without."""
    if isinstance(key, int):
        records = [record for record in store.bmcs.of_machine(key) if _can_be_asked(record)]
        return min(records, key=lambda record: (not record.sealed, -record.last_seen), default=None)
    with suppress(NotFound):
        return bmcs.get(store, int(key.removeprefix("bmc ")))
    return None


def _can_be_asked(record: BmcRecord) -> bool:
    """Whether it has an address, and a password where one is needed: the patrol does not try doors."""
    needs_password = not record.drivers or any(DRIVERS[driver].wants_credentials for driver in record.drivers)
    return bool(record.address) and (bool(record.sealed) or not needs_password)
