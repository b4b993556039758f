"""What of machines' lives runs in the service: verbs and rounds joined to power, accounts, agents and the clock."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import secrets
import time
from collections.abc import Callable
from pathlib import Path

from sqlalchemy.exc import DBAPIError

from metalbox import __version__, accountorders, inventory
from metalbox.certificaterecords import Signer
from metalbox.config import AcceptRule, Erase
from metalbox.erasing import Erasing
from metalbox.errors import NotFound
from metalbox.inventory import Reported
from metalbox.journal import Journal, Kind
from metalbox.ledger import Ledger
from metalbox.lives import Lives
from metalbox.machine import Machine
from metalbox.moves import ERASE, Moved, Steps, is_untouchable
from metalbox.orderrecords import Order
from metalbox.power import PowerState
from metalbox.report import Report
from metalbox.rounds import progress_line
from metalbox.store import Database, Store
from metalbox.switchboard import Switchboard
from metalbox.web.agent_api import Hooks

log = logging.getLogger("metalbox.life")

TICK_SECONDS = 10.0
# The wall clock may drift from the monotonic one by this much between two ticks; NTP slews by 0.05 % at most.
DRIFT_SECONDS = 5.0


class Steward:
    """Made from an open database; `run` it in the service's task group."""

    def __init__(
        self,
        database: Database,
        journal: Journal,
        switchboard: Switchboard,
        signer: Signer,
        data_dir: Path,
        settings: Erase,
        rules: tuple[AcceptRule, ...],
        wake: Callable[[str], None],
        changed: Callable[[Machine, bool], None],
    ) -> None:
        """`wake` tells the agent of a boot that there is something for it, `changed` what a machine is now, or is gone.

        Raises StartError when the ledger cannot be read.
        """
        self._database = database
        self._journal = journal
        self._switchboard = switchboard
        self._wake = wake
        self._changed = changed
        self._news = asyncio.Event()
        self._touched: set[int] = set()
        self.ledger = ledger = Ledger.open(data_dir)
        self.steps = Steps(self, __version__)
        self.lives = Lives(self.steps, settings, rules, ledger)
        self.erasing = Erasing(self.steps, settings, ledger, signer, lambda: secrets.token_hex(16), self._went_on)
        self._loop: asyncio.AbstractEventLoop | None = None
        # Before anybody is served: no agent may begin what a restored copy of the database holds for open.
        self._restored = self.erasing.after_restart(database.store, time.time())

    # -- what Steps needs of power; called in the database's thread ---------------------------------------------------

    def can_power(self, store: Store, machine_id: int) -> bool:
        """Whether something is known that switches this machine."""
        return bool(self._switchboard.endpoints(store, machine_id))

    def is_off(self, machine_id: int, since: float = 0.0) -> bool:
        """Whether the machine was seen switched off when it was last looked at, after `since`."""
        seen = self._switchboard.front.observation(machine_id)
        return seen.state is PowerState.OFF and seen.at > since

    def order_account(self, store: Store, machine_id: int, now: float) -> Order | None:
        """Order metalbox's account at the machine's BMC, where there is none."""
        return accountorders.order_account(store, self._switchboard.vault, machine_id, now)

    def account_state(self, store: Store, machine_id: int) -> str:
        """What came of that."""
        return accountorders.account_state(store, machine_id)

    def untouchable(self, store: Store, machine: Machine) -> str:
        """Why this machine's power must not be cut now, or ""."""
        return is_untouchable(store, machine, time.time())

    def hooks(self) -> Hooks:
        """What is done when agents speak."""
        account = accountorders.VERB
        return Hooks(
            report=self.report,
            poll=self.erasing.poll,
            claimed={ERASE: self.erasing.claimed},
            progressed={ERASE: self.erasing.progressed, account: accountorders.intended},
            done={ERASE: self.erasing.erase_done, account: accountorders.taken},
            sentence=lambda order: progress_line(order.progress) if order.verb == ERASE else "",
        )

    def report(self, store: Store, checked: Report, address: str, now: float) -> Reported:
        """Store a report, and do with a new machine what the site's rules say, in one transaction."""
        reported = inventory.report(store, checked, address, now)
        moved = self.lives.reported(store, reported.machine.id, reported.is_new, now)
        if moved is None:
            return reported
        self._went_on(moved.machine.id)
        return dataclasses.replace(reported, machine=moved.machine, entries=(*reported.entries, *moved.entries))

    def _went_on(self, machine_id: int) -> None:
        """Something was ordered in the database's thread; what `_standing` reads comes after that is saved."""
        if self._loop is None:
            self._touched.add(machine_id)
        else:
            self._loop.call_soon_threadsafe(self._touch, machine_id)

    # -- in the service's loop --------------------------------------------------------------------------------------

    def _touch(self, machine_id: int) -> None:
        self._touched.add(machine_id)
        self._news.set()

    def moved(self, moved: Moved) -> None:
        """Carry out what a verb has ordered."""
        for number in moved.power_orders:
            self._switchboard.worker.begin(number)
        if moved.wake:
            self._wake(moved.wake)
        self._changed(moved.machine, moved.is_gone)
        for entry in moved.entries:
            log.info("%s: %s", moved.machine.name, entry.text)

    def finished(self, order: Order) -> None:
        """An agent has done an order: what followed was saved with it, and is carried out now."""
        self._touch(order.machine_id)

    async def run(self) -> None:
        """Look at all machines at work every few seconds, until cancelled."""
        self._loop = loop = asyncio.get_running_loop()
        for moved in self._restored:
            self.moved(moved)
        self._restored = []
        wall, steady = time.time(), loop.time()
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(TICK_SECONDS):
                    await self._news.wait()
            self._news.clear()
            now, ticked = time.time(), loop.time()
            jump = (now - wall) - (ticked - steady)
            wall, steady = now, ticked
            await self._tick(now, jump if abs(jump) > DRIFT_SECONDS else 0.0)

    async def _tick(self, now: float, jump: float) -> None:
        if jump:
            self._journal.record(Kind.SERVICE, f"this host's clock jumped by {jump:+.0f} s", now=now)
        touched, self._touched = self._touched, set()
        try:
            for number in touched:
                with contextlib.suppress(NotFound):  # forgotten in the meantime
                    self.moved(await self._database.run(_standing, number))
            for moved in await self._database.run(self.erasing.tick, now, jump):
                self.moved(moved)
        except DBAPIError as error:
            self._touched |= touched
            log.error("the machines at work cannot be looked at: %s", error.orig)


def _standing(store: Store, machine_id: int) -> Moved:
    """A machine as it is, with the power orders that nobody has begun since they were saved."""
    machine = store.machines.get(machine_id)
    if machine is None:
        raise NotFound(f"there is no machine {machine_id} any more")
    waiting = [order.id for order in store.power_orders.unfinished() if order.machine_id == machine_id]
    return Moved(machine, (), tuple(waiting), machine.boot_id)
