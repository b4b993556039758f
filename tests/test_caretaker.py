"""An account is used when it has logged in: against OpenIPMI's simulator, with the agent's own code at its users."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from metalbox import accountorders, bmcaccounts, bmcs, inventory, orders
from metalbox.accountorders import USER, VERB
from metalbox.accountwords import parse
from metalbox.agent import bmcaccount
from metalbox.bmcmatch import Source, Told
from metalbox.caretaker import Caretaker, ways
from metalbox.errors import BmcRefused, BmcUnreachable, BmcWrongPassword, PowerError, Refused
from metalbox.orderrecords import Order
from metalbox.power import Endpoint, Power
from metalbox.power.ipmi import Ipmi
from metalbox.power.ipmisession import Patience
from metalbox.power.polite import Clock, Front, Manners
from metalbox.secrets import Secret, Vault
from metalbox.store import Database, Store, sqlite_url
from tests.agent.test_bmcaccount import FakeErrand
from tests.agent.test_bmcusers import InBand
from tests.power import ipmi_peers
from tests.power.ipmi_peers import Simulator
from tests.reports import full

HOOKS = {VERB: accountorders.intended}


@pytest.fixture
def simulator(tmp_path: Path) -> Iterator[Simulator]:
    with ipmi_peers.simulator(tmp_path / "bmc") as peer:
        yield peer


def patient(endpoint: Endpoint) -> Power:
    """A simulator that stands still for some seconds is waited for: by the site's clock nothing is tried again."""
    return Ipmi(endpoint, patience=Patience(greeting=15, login=15, command=15))


class Site:
    """The service's part, one machine, and how the clock goes."""

    def __init__(self, folder: Path, connect: Callable[[Endpoint], Power] = patient, port: int = 0) -> None:
        self.folder = folder
        self.clock = time.time()
        self.slept: list[float] = []
        self.database = Database(Store.open(sqlite_url(folder / "metalbox.db")))
        self.vault = Vault.open(folder, (), {})
        self.tick = 0.0
        clock = Clock(tick=lambda: time.monotonic() + self.tick)
        self.front = Front(connect=connect, manners=Manners(read=60.0), clock=clock)
        self.woken: list[str] = []
        self.settled: list[int] = []
        self.polling: set[str] = set()
        self.caretaker = self.another()
        store = self.database.store
        machine = inventory.report(store, full(), "192.0.2.100", self.clock).machine
        self.machine_id = machine.id
        told = Told(Source.OPERATOR, "127.0.0.1", port, ("ipmi",))
        bmcs.learn(store, told, self.clock, machine_id=machine.id)

    def another(self) -> Caretaker:
        """As after a restart of the service."""
        return Caretaker(
            self.database, self.vault, self.front, self.woken.append, self.polling.__contains__, lambda: self.clock,
            self.sleep, lambda order: self.settled.append(order.id),
        )  # fmt: skip

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.tick += seconds

    def texts(self) -> list[str]:
        return [entry.text for entry in self.database.store.events.all(1000)]

    def state(self) -> str:
        return accountorders.account_state(self.database.store, self.machine_id)

    def order(self) -> Order:
        order = accountorders.order_account(self.database.store, self.vault, self.machine_id, self.clock)
        assert order is not None
        return order

    def told(self) -> Order:
        (order,) = orders.for_run(self.database.store, "b1", "r1", lambda: os.urandom(8).hex(), self.clock)
        orders.claim(self.database.store, order.id, "b1", "r1", order.token, self.clock)
        return order

    def _done(self, order: Order, outcome: dict[str, Any]) -> Order:
        follow = {VERB: accountorders.taken}
        return orders.done(self.database.store, order.id, "b1", "r1", order.token, outcome, follow, self.clock)[0]

    def done(self, order: Order, outcome: dict[str, Any]) -> None:
        self.caretaker.finished(self._done(order, outcome))

    async def say_done(self, order: Order, outcome: dict[str, Any]) -> None:
        """As `done`, while the caretaker runs."""
        self.caretaker.finished(await self.database.run(lambda _: self._done(order, outcome)))

    def agent_at(self, peer: Simulator, *, dies: bool = False) -> dict[str, Any]:
        """The machine's agent carries the order out at the simulator, and says so unless it `dies` before."""
        order, store = self.told(), self.database.store

        class Errand(FakeErrand):
            def progress(self, document: dict[str, Any]) -> bool:
                orders.progressed(store, order.id, "b1", "r1", order.token, document, time.time(), HOOKS)
                return True

        errand = Errand()
        errand.number, errand.data = order.id, dict(order.data)
        ask = InBand(peer)

        def with_address(function: int, command: int, data: bytes) -> bytes:
            # The simulator is started without what it would tell of its LAN.
            is_address = (function, command, data[1:2]) == (0x0C, 0x02, b"\3")
            return bytes([0, 0x11, 127, 0, 0, 1]) if is_address else ask(function, command, data)

        outcome = bmcaccount.make(errand, with_address)  # type: ignore[arg-type]
        ask.session.close()
        if not dies:
            self.done(order, outcome)
        return outcome

    async def until(self, state: str) -> None:
        async with self.running():
            await self.wait(lambda: self.state().startswith(state))

    async def wait(self, happened: Callable[[], bool]) -> None:
        for _ in range(6000):
            # In the thread that the store belongs to while the caretaker runs.
            if await self.database.run(lambda _: happened()):
                return
            await asyncio.sleep(0.01)
        raise AssertionError(self.texts())

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        task = asyncio.create_task(self.caretaker.run())
        try:
            yield
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    def holds(self, text: str) -> list[Path]:
        """The files of the service with this in them."""
        return [path for path in self.folder.iterdir() if path.is_file() and text.encode() in path.read_bytes()]


@pytest.fixture
async def sites() -> AsyncIterator[list[Site]]:
    made: list[Site] = []
    yield made
    for site in made:
        await site.front.close()
        await site.database.close()


async def test_an_unknown_bmc_gets_an_account_that_works(
    sites: list[Site], tmp_path: Path, simulator: Simulator
) -> None:
    sites.append(site := Site(tmp_path, port=simulator.port))
    before = simulator.ipmitool("user", "list", "1")
    site.order()
    outcome = site.agent_at(simulator)
    assert outcome["error"] == "", outcome
    await site.until("verified")
    assert len(site.settled) == 1
    store = site.database.store
    number = bmcs.find(store, "127.0.0.1").id
    account = bmcaccounts.credentials(store, site.vault, number)
    assert account is not None and account.user == USER
    assert "is off" in simulator.ipmitool("-L", "OPERATOR", "power", "status", user=USER, password=account.password)
    (endpoint,) = bmcaccounts.endpoints(store, site.vault, number)
    assert (endpoint.driver, dict(endpoint.settings)) == ("ipmi", {"privilege": "operator"})
    assert any("it logs in by IPMI" in text for text in site.texts())
    # What an operator had is as it was, and no place holds the password.
    after = simulator.ipmitool("user", "list", "1").splitlines()
    assert [line for line in after if line[:2] != "3 "] == [line for line in before.splitlines() if line[:2] != "3 "]
    assert account.password not in str(site.texts()) + str(bmcs.listing(store)) + str(outcome)
    assert site.holds(account.password) == []

    old = account.password
    order, listens = await site.caretaker.rotate("127.0.0.1")
    assert site.woken == ["b1"] and order.id and not listens
    site.agent_at(simulator)
    await site.until("verified")
    account = bmcaccounts.credentials(store, site.vault, number)
    assert account is not None and account.password != old
    assert "is off" in simulator.ipmitool("-L", "OPERATOR", "power", "status", user=USER, password=account.password)
    assert any("gave a new password to the account 'metalbox'" in text for text in site.texts())


async def test_taken_up_after_a_crash(sites: list[Site], tmp_path: Path, simulator: Simulator) -> None:
    """Killed between the agent's word and the login."""
    sites.append(site := Site(tmp_path, port=simulator.port))
    site.order()
    site.agent_at(simulator)
    site.caretaker = site.another()
    await site.until("verified")


async def test_what_a_dead_agent_has_set_is_found(sites: list[Site], tmp_path: Path, simulator: Simulator) -> None:
    sites.append(site := Site(tmp_path, port=simulator.port))
    site.order()
    site.agent_at(simulator, dies=True)
    assert await site.caretaker._due() == [], "it may still be at it"
    site.clock += 400.0
    site.polling.add("b1")
    assert await site.caretaker._due() == [], "it listens, and will try again"
    site.polling.clear()
    await site.until("verified")


async def test_nobody_is_locked_out_by_a_rotation_that_failed(
    sites: list[Site], tmp_path: Path, simulator: Simulator
) -> None:
    """The agent set the password, found something wrong after that, and the stored one is good no more."""
    sites.append(site := Site(tmp_path, port=simulator.port))
    store = site.database.store
    site.order()
    site.agent_at(simulator)
    await site.until("verified")
    await site.caretaker.rotate("127.0.0.1")
    outcome = site.agent_at(simulator, dies=True)
    (order,) = orders.for_run(store, "b1", "r1", lambda: "not drawn", site.clock)
    site.done(order, {"error": "the BMC has changed other accounts"})
    assert site.state().startswith("failed") and outcome["error"] == ""
    number = bmcs.find(store, "127.0.0.1").id
    site.clock += 4000.0
    assert await site.caretaker._due() == [], "for all that is known the old one works"
    bmcs.failed(store, number, BmcWrongPassword("the patrol was refused"), site.clock)
    await site.until("verified")
    account = bmcaccounts.credentials(store, site.vault, number)
    assert account is not None
    assert "is off" in simulator.ipmitool("-L", "OPERATOR", "power", "status", user=USER, password=account.password)


class Refusing(Power):
    """Raises what it is given: by verb, an error or a list of them, one for each call."""

    name = "ipmi"
    can = frozenset({"boot_next"})

    def __init__(self, errors: dict[str, list[PowerError]], endpoint: Endpoint) -> None:
        self._errors = errors
        self._endpoint = endpoint

    async def is_on(self) -> bool:
        return self._answer("is_on")

    async def override(self) -> Any:
        return self._answer("override")

    def _answer(self, verb: str) -> bool:
        left = self._errors.get(verb, [])
        if left:
            raise left.pop(0)
        return True


def refusing(**errors: list[PowerError]) -> Callable[[Endpoint], Power]:
    return lambda endpoint: Refusing(errors, endpoint)


WORD = {
    "public_key": "ab" * 32, "user_id": 4, "channel": 1, "address": "192.0.2.200", "privilege": "operator",
    "is_new": True, "notes": [], "error": "",
}  # fmt: skip


async def test_a_new_account_may_need_some_seconds(sites: list[Site], tmp_path: Path) -> None:
    not_yet: list[PowerError] = [BmcWrongPassword("not yet"), BmcWrongPassword("not yet")]
    sites.append(site := Site(tmp_path, refusing(is_on=not_yet)))
    site.order()
    site.done(site.told(), WORD)
    await site.until("verified")
    assert site.slept[:2] == [3.0, 6.0]


async def test_an_operator_that_may_too_little_becomes_administrator(sites: list[Site], tmp_path: Path) -> None:
    sites.append(
        site := Site(tmp_path, refusing(override=[BmcRefused("does not allow this to the account's privilege")]))
    )
    site.order()
    site.done(site.told(), WORD)
    async with site.running():
        await site.wait(lambda: bool(site.woken))
        order = await site.database.run(lambda _: site.told())
        assert order.data["privilege"] == "administrator"
        await site.say_done(order, {**WORD, "privilege": "administrator"})
        await site.wait(lambda: site.state() == "verified")
    assert any("as operator it does not do: does not allow this" in text for text in site.texts())


async def test_a_login_that_fails_stores_nothing(sites: list[Site], tmp_path: Path) -> None:
    wrong: list[PowerError] = [BmcWrongPassword("it does not take the password") for _ in range(20)]
    sites.append(site := Site(tmp_path, refusing(is_on=wrong)))
    number = bmcs.find(site.database.store, "127.0.0.1").id
    bmcaccounts.set_account(site.database.store, site.vault, number, "root", Secret("operators-Own-7"), site.clock)
    await site.caretaker.rotate("127.0.0.1")
    site.done(site.told(), WORD)
    async with site.running():
        await site.wait(lambda: len(site.woken) == 2)
        order = await site.database.run(lambda _: site.told())
        await site.say_done(order, {**WORD, "privilege": "administrator"})
        await site.wait(lambda: site.state().startswith("failed: it does not take the password"))
    account = bmcaccounts.credentials(site.database.store, site.vault, number)
    assert account is not None and (account.user, account.password) == ("root", "operators-Own-7")
    assert bmcs.get(site.database.store, number).error_code == "wrong-password"
    assert len(wrong) == 14, "three tries for each privilege, and no more: BMCs lock accounts"


class Buggy(Power):
    """A driver with a bug whose traceback has the password in it."""

    name = "ipmi"

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint

    async def is_on(self) -> bool:
        assert self.endpoint.credentials is not None
        raise RuntimeError(f"cannot pack {self.endpoint.credentials.password!r}")


async def test_a_crash_tells_no_password(sites: list[Site], tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    sites.append(site := Site(tmp_path, Buggy))
    site.order()
    order = site.told()
    site.done(order, WORD)
    password = accountorders.password(site.vault, order, parse(WORD))
    assert password is not None
    (due,) = await site.caretaker._due()
    await site.caretaker._see_to(due)
    assert "cannot pack" in caplog.text and password.reveal() not in caplog.text
    assert site.state() == "ordered" and bmcs.find(site.database.store, "127.0.0.1").error_code == "garbage"
    assert password.reveal() not in str(site.texts()) and site.holds(password.reveal()) == []


async def test_who_cannot_be_reached_is_tried_again_and_given_up_after_a_day(sites: list[Site], tmp_path: Path) -> None:
    gone: list[PowerError] = [BmcUnreachable("nothing answers") for _ in range(100)]
    sites.append(site := Site(tmp_path, refusing(is_on=gone)))
    site.order()
    site.done(site.told(), WORD)
    (order,) = await site.caretaker._due()
    await site.caretaker._see_to(order)
    assert site.state() == "ordered"
    assert await site.caretaker._due() == []
    site.clock += 11.0
    (order,) = await site.caretaker._due()
    site.clock += 90_000.0
    await site.caretaker._see_to(order)
    assert site.state() == "failed: nothing answers"


async def test_a_bmc_that_no_agent_reaches_cannot_be_rotated(sites: list[Site], tmp_path: Path) -> None:
    sites.append(site := Site(tmp_path, refusing()))
    store = site.database.store
    bmcs.learn(store, Told(Source.OPERATOR, "127.0.0.9"), site.clock)
    with pytest.raises(Refused, match="has no machine whose agent"):
        await site.caretaker.rotate("127.0.0.9")


async def test_where_it_is_tried(sites: list[Site], tmp_path: Path) -> None:
    sites.append(site := Site(tmp_path, refusing(), port=6230))
    record = bmcs.find(site.database.store, "127.0.0.1")
    said = parse(WORD)
    found = ways(site.vault, record, said, Secret("x"), "ipmi")
    assert [endpoint.address for endpoint in found] == ["192.0.2.200", "127.0.0.1"]
    assert all(dict(endpoint.settings) == {"privilege": "operator"} for endpoint in found)
    here = parse({**WORD, "address": "127.0.0.1"})
    assert [endpoint.address for endpoint in ways(site.vault, record, here, Secret("x"), "ipmi")] == ["127.0.0.1"]
