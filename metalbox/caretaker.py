"""Proves the accounts that agents have made at BMCs: a real login from outside, and only then the password is stored.

What could not be tried (the service was killed, the BMC cannot be reached yet) is tried again; what the BMC refuses is
told, and the account of before stays in use. A password that an agent set before it died is found by its key.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

from sqlalchemy.exc import DBAPIError

from metalbox import accountorders, bmcaccounts, bmcs
from metalbox.accountorders import ADMINISTRATOR, USER, VERB
from metalbox.accountwords import Said
from metalbox.bmcrecords import BmcRecord
from metalbox.errors import BmcNotSupported, BmcRefused, BmcUnreachable, BmcWrongPassword, MetalboxError, PowerError
from metalbox.orderrecords import Order
from metalbox.power import Credentials, Endpoint, Power
from metalbox.power.polite import Front
from metalbox.secrets import Secret, Vault
from metalbox.store import Database, Store

log = logging.getLogger("metalbox.bmc")

LOOK_SECONDS = 10.0
# BMCs take some seconds until a new account is good everywhere; three wrong passwords lock no account that we know of.
PAUSES = (3.0, 6.0)
# What failed for another reason than the account is tried again after these, the last one again and again.
AGAIN_SECONDS = (10.0, 30.0, 120.0, 600.0)
# A BMC that cannot be reached from here for so long will not be by waiting.
GIVE_UP_SECONDS = 86_400.0
FINAL = frozenset({"wrong-password", "refused", "not-supported", "licence"})

Sleep = Callable[[float], Awaitable[None]]


class Caretaker:
    """Made from an open database; `run` it in the service's task group."""

    def __init__(
        self,
        database: Database,
        vault: Vault,
        front: Front,
        wake: Callable[[str], None] = lambda boot_id: None,
        polls: Callable[[str], bool] = lambda boot_id: False,
        now: Callable[[], float] = time.time,
        sleep: Sleep = asyncio.sleep,
        settled: Callable[[Order], None] = lambda order: None,
    ) -> None:
        """`wake` tells the agent of a boot that there is an order; `polls` says whether it listens.

        `settled` is told when an account was tried: whoever waits for it goes on.
        """
        self._database = database
        self._vault = vault
        self._front = front
        self._wake = wake
        self._polls = polls
        self._now = now
        self._sleep = sleep
        self._settled = settled
        self._fresh = asyncio.Event()
        self._busy: set[int] = set()
        # When what failed is tried again, and how often it was: by the order.
        self._again: dict[int, tuple[float, int]] = {}

    def finished(self, order: Order) -> None:
        """An agent has done an order, of whatever verb."""
        if order.verb == VERB:
            self._fresh.set()

    async def run(self) -> None:
        """Try what is to be tried, one BMC beside the other, until cancelled."""
        async with asyncio.TaskGroup() as group:
            while True:
                self._fresh.clear()
                for order in await self._due():
                    self._busy.add(order.id)
                    group.create_task(self._see_to(order), name=f"account, order {order.id}")
                with suppress(TimeoutError):
                    async with asyncio.timeout(LOOK_SECONDS):
                        await self._fresh.wait()

    async def rotate(self, name: str) -> tuple[Order, bool]:
        """Order a new password of the agent of this BMC's machine, and say whether it listens now.

        Raises NotFound, Refused.
        """
        order, boot_id = await self._database.run(self._rotate, name)
        self._wake(boot_id)
        return order, self._polls(boot_id)

    def _rotate(self, store: Store, name: str) -> tuple[Order, str]:
        record = bmcs.find(store, name)
        order = accountorders.rotate(store, self._vault, record, self._now())
        return order, _boot_of(store, order.machine_id)

    async def _due(self) -> list[Order]:
        try:
            found = await self._database.run(self._unproved)
        except DBAPIError as error:
            log.error("the accounts to be proved cannot be read: %s", error.orig)
            return []
        now = self._now()
        ids = {order.id for order in found}
        self._again = {number: row for number, row in self._again.items() if number in ids}
        return [
            order for order in found if order.id not in self._busy and self._again.get(order.id, (0.0, 0))[0] <= now
        ]

    def _unproved(self, store: Store) -> list[Order]:
        found = []
        for order in accountorders.unproved(store, self._now()):
            if order.done_at is None:
                machine = store.machines.get(order.machine_id)
                if not accountorders.is_left(order, self._now()) or (machine and self._polls(machine.boot_id)):
                    continue
            found.append(order)
        return found

    async def _see_to(self, order: Order) -> None:
        try:
            await self._prove(order)
        except PowerError as error:
            await self._failed(order, error)
        except MetalboxError as error:
            log.error("order %d: %s", order.id, error)
            self._later(order)
        except DBAPIError as error:
            log.error("order %d: what came of it cannot be stored: %s", order.id, error.orig)
            self._later(order)
        except Exception:
            # One account's bug must not take the service with it.
            log.exception("order %d failed", order.id)
            self._later(order)
        finally:
            self._busy.discard(order.id)
            self._settled(order)

    async def _prove(self, order: Order) -> None:
        """Log in from outside. Raises PowerError."""
        last: PowerError = BmcRefused("the agent gave no key of a password")
        for intended in accountorders.said_of(order):
            password, record = await self._database.run(self._subject, order, intended)
            if password is None:
                continue
            try:
                drivers, said = await self._log_in(order, record, intended, password)
            except BmcWrongPassword as error:
                last = error
                continue
            if order.done_at is None:
                order = await self._database.run(accountorders.finish_unsaid, order.id, said, self._now())
            entries = await self._database.run(
                accountorders.proved, self._vault, order, record.id, said, password, drivers, self._now()
            )
            for entry in entries:
                log.info("machine %d: %s", order.machine_id, entry.text)
            return
        raise last

    def _subject(self, store: Store, order: Order, said: Said) -> tuple[Secret | None, BmcRecord]:
        records = store.bmcs.of_machine(order.machine_id)
        own = [record for record in records if record.facts.get("in_band")] or records
        if not own:
            raise BmcUnreachable("the machine has no BMC any more")
        return accountorders.password(self._vault, order, said), own[0]

    async def _log_in(self, order: Order, record: BmcRecord, said: Said, password: Secret) -> tuple[list[str], Said]:
        """The drivers by which it logs in, IPMI among them. Raises PowerError."""
        errors: list[PowerError] = []
        for endpoint in ways(self._vault, record, said, password, "ipmi"):
            try:
                await self._ask_ipmi(order, endpoint)
            except PowerError as error:
                errors.append(error)
                if not isinstance(error, BmcUnreachable):
                    break
                continue
            drivers = [driver for driver in record.drivers if driver not in ("ipmi", "redfish")]
            if await self._speaks_redfish(order, record, said, password):
                drivers.append("redfish")
            return [*drivers, "ipmi"], dataclasses.replace(said, address=endpoint.address)
        raise errors[-1] if errors else BmcUnreachable("the BMC has no address yet")

    async def _ask_ipmi(self, order: Order, endpoint: Endpoint) -> None:
        """Ask what every user may, and what an operator may. Raises PowerError."""
        is_first = order.done_at is not None and "verdict" not in order.outcome
        pauses = iter(PAUSES if is_first else ())
        while True:
            try:
                await self._ask(order, endpoint, "is_on", _is_on)
                break
            except BmcWrongPassword:
                pause = next(pauses, None)
                if pause is None:
                    raise
                await self._sleep(pause)
        with suppress(BmcNotSupported):
            await self._ask(order, endpoint, "override", _override)

    async def _ask(self, order: Order, endpoint: Endpoint, verb: str, call: Callable[[Power], Awaitable[Any]]) -> None:
        """One command, in the BMC's queue; how often a password is tried is counted here. Raises PowerError."""
        (link,) = self._front.links(order.machine_id, [endpoint])
        await self._front.say(link, verb, call, force=True)

    async def _speaks_redfish(self, order: Order, record: BmcRecord, said: Said, password: Secret) -> bool:
        """Whether the same account is good there; asked once, for a BMC counts wrong passwords."""
        if record.drivers and "redfish" not in record.drivers:
            return False
        for endpoint in ways(self._vault, record, said, password, "redfish")[:1]:
            with suppress(PowerError):
                await self._ask(order, endpoint, "is_on", _is_on)
                return True
        return False

    async def _failed(self, order: Order, error: PowerError) -> None:
        """Ask for more privilege, wait, or say that it failed."""
        if order.done_at is None:
            # Most likely the agent died before it had set anything; the next run of an agent does.
            self._later(order)
            return
        refused = error.code in ("wrong-password", "refused") and "verdict" not in order.outcome
        if refused and order.data.get("privilege") != ADMINISTRATOR:
            with suppress(MetalboxError):
                boot_id = await self._database.run(self._escalate, order, error)
                self._wake(boot_id)
                return
        if error.code in FINAL or "verdict" in order.outcome or self._now() - order.done_at > GIVE_UP_SECONDS:
            await self._database.run(accountorders.disproved, order.id, error, self._now())
            return
        self._later(order)
        await self._database.run(self._note, order, error)

    def _escalate(self, store: Store, order: Order, error: PowerError) -> str:
        accountorders.escalate(store, self._vault, order, error, self._now())
        return _boot_of(store, order.machine_id)

    def _note(self, store: Store, order: Order, error: PowerError) -> None:
        for record in store.bmcs.of_machine(order.machine_id)[:1]:
            bmcs.failed(store, record.id, error, self._now())

    def _later(self, order: Order) -> None:
        _, count = self._again.get(order.id, (0.0, 0))
        pause = AGAIN_SECONDS[min(count, len(AGAIN_SECONDS) - 1)]
        self._again[order.id] = self._now() + (pause if order.done_at is not None else AGAIN_SECONDS[-1]), count + 1


def ways(vault: Vault, record: BmcRecord, said: Said, password: Secret, driver: str) -> list[Endpoint]:
    """Where the new account is tried by this driver: at the address that the agent told, then at the one we know.

    Raises Refused for a key Kg that the vault does not open.
    """
    address = said.address or record.address
    drivers = record.drivers if driver in record.drivers else (*record.drivers, driver)
    others = record.facts.get("also_at", "") if address == record.address else record.address
    facts = {**record.facts, "also_at": others}
    known = dataclasses.replace(record, address=address, drivers=drivers, user="", sealed="", facts=facts)
    account = Credentials(USER, password.reveal())
    own = {"privilege": said.privilege} if driver == "ipmi" else {}
    return [
        dataclasses.replace(endpoint, credentials=account, settings={**endpoint.settings, **own})
        for endpoint in bmcaccounts.endpoints_of(vault, known)
        if endpoint.driver == driver
    ]


def _boot_of(store: Store, machine_id: int) -> str:
    machine = store.machines.get(machine_id)
    return machine.boot_id if machine else ""


async def _is_on(power: Power) -> bool:
    return await power.is_on()


async def _override(power: Power) -> Any:
    return await power.override()
