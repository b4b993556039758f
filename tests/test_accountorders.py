"""metalbox's own account as orders: made once, believed when proved, and no password where it does not belong."""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from metalbox import accountkeys, accountorders, bmcaccounts, bmcs, inventory, orders
from metalbox.accountorders import ADMINISTRATOR, USER, VERB
from metalbox.agent import agreement
from metalbox.bmcmatch import Source, Told
from metalbox.errors import BmcRefused, BmcWrongPassword, Refused
from metalbox.orderrecords import Order
from metalbox.power import Credentials
from metalbox.secrets import Secret, Vault
from metalbox.store import Store, sqlite_url
from tests.reports import full

NUMBERS = count()
OPERATORS = Secret("operators-Own-7")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = Store.open(sqlite_url(tmp_path / "metalbox.db"))
    inventory.report(opened, full(), "192.0.2.100", 100.0)
    yield opened
    opened.close()


@pytest.fixture
def vault(tmp_path: Path) -> Vault:
    return Vault.open(tmp_path, (), {})


@pytest.fixture
def machine_id(store: Store) -> int:
    return inventory.find(store, "8fzc1p1").id


class Agent:
    """The other end: it has been told of an order, and speaks of it."""

    def __init__(self, store: Store, run: str = "r1", now: float = 200.0) -> None:
        self.store, self.run = store, run
        (self.order,) = orders.for_run(store, "b1", run, lambda: f"token-{next(NUMBERS)}", now)
        self.private = os.urandom(32)
        self.public = agreement.x25519(self.private, agreement.BASE)

    @property
    def password(self) -> str:
        data = self.order.data
        server, salt = bytes.fromhex(data["server_key"]), bytes.fromhex(data["salt"])
        return agreement.password(self.private, server, salt, self.order.id, server, self.public)

    def word(self, **changes: Any) -> dict[str, Any]:
        good = {"public_key": self.public.hex(), "user_id": 4, "channel": 1, "address": "192.0.2.200"}
        return {**good, "privilege": "operator", "is_new": True, "notes": [], "error": "", **changes}

    def claims(self, now: float = 201.0) -> None:
        orders.claim(self.store, self.order.id, "b1", self.run, self.order.token, now)

    def intends(self, now: float = 202.0) -> None:
        hooks = {VERB: accountorders.intended}
        orders.progressed(self.store, self.order.id, "b1", self.run, self.order.token, self.word(), now, hooks)

    def says(self, now: float = 203.0, **changes: Any) -> Order:
        hooks, word = {VERB: accountorders.taken}, self.word(**changes)
        order, _ = orders.done(self.store, self.order.id, "b1", self.run, self.order.token, word, hooks, now)
        return order


def texts(store: Store) -> list[str]:
    return [entry.text for entry in store.events.all(1000)]


def test_ordered_once_and_only_where_nothing_is_stored(store: Store, vault: Vault, machine_id: int) -> None:
    assert accountorders.account_state(store, machine_id) == "none"
    order = accountorders.order_account(store, vault, machine_id, 150.0)
    assert order is not None
    assert (order.data["user"], order.data["privilege"]) == (USER, "operator")
    assert accountorders.order_account(store, vault, machine_id, 151.0) == order
    assert accountorders.account_state(store, machine_id) == "ordered"
    assert "ordered of the agent: an account for metalbox at its BMC (metalbox, operator)" in texts(store)


def test_an_operators_account_is_not_replaced(store: Store, vault: Vault, machine_id: int) -> None:
    bmcaccounts.set_account(store, vault, 1, "root", OPERATORS, 110.0)
    assert accountorders.order_account(store, vault, machine_id, 150.0) is None
    assert accountorders.account_state(store, machine_id) == "none"


def test_a_bmc_that_no_agent_has_told_of(store: Store, vault: Vault) -> None:
    told = Told(Source.OPERATOR, address="192.0.2.60")
    number = bmcaccounts.add(store, vault, told, 110.0).bmc.id
    with pytest.raises(Refused, match=r"192\.0\.2\.60 has no machine whose agent"):
        accountorders.rotate(store, vault, bmcs.get(store, number), 150.0)


def test_proved_it_is_sealed_and_used(store: Store, vault: Vault, machine_id: int, tmp_path: Path) -> None:
    accountorders.order_account(store, vault, machine_id, 150.0)
    agent = Agent(store)
    agent.claims()
    agent.intends()
    assert accountorders.unproved(store, 203.0)[0].done_at is None
    order = agent.says(notes=["the BMC stores passwords with 20 bytes only"])
    assert accountorders.account_state(store, machine_id) == "ordered"
    assert bmcaccounts.credentials(store, vault, 1) is None
    assert [one.id for one in accountorders.unproved(store, 210.0)] == [order.id]
    (said,) = accountorders.said_of(order)
    # Another life of the service knows it as well.
    again = Vault.open(tmp_path, (), {})
    password = accountorders.password(again, order, said)
    assert password is not None and password.reveal() == agent.password
    accountorders.proved(store, vault, order, 1, said, password, ["redfish", "ipmi"], 220.0)
    assert accountorders.account_state(store, machine_id) == "verified"
    assert accountorders.unproved(store, 230.0) == []
    assert bmcaccounts.credentials(store, vault, 1) == Credentials(USER, agent.password)
    found = {endpoint.driver: dict(endpoint.settings) for endpoint in bmcaccounts.endpoints(store, vault, 1)}
    assert found == {"redfish": {}, "ipmi": {"privilege": "operator"}}
    told = texts(store)
    line = "the agent made the account 'metalbox' (id 4, operator, channel 1); it logs in by Redfish and IPMI"
    assert line in told and "of its BMC: the BMC stores passwords with 20 bytes only" in told
    everything = str(store.events.all(1000)) + str(bmcs.listing(store)) + repr(order) + repr(said)
    assert agent.password not in everything
    assert not [p for p in tmp_path.rglob("*") if p.is_file() and agent.password.encode() in p.read_bytes()]


def test_what_an_agent_calls_a_verdict_is_none(store: Store, vault: Vault, machine_id: int) -> None:
    accountorders.order_account(store, vault, machine_id, 150.0)
    agent = Agent(store)
    agent.claims()
    order = agent.says(verdict={"state": "verified", "text": "", "at": 0})
    assert accountorders.account_state(store, machine_id) == "ordered"
    assert set(order.outcome) == {"said"}


def test_an_agent_that_writes_like_a_verdict_is_looked_at_all_the_same(
    store: Store, vault: Vault, machine_id: int
) -> None:
    accountorders.order_account(store, vault, machine_id, 150.0)
    agent = Agent(store)
    agent.claims()
    order = agent.says(notes=[accountorders.VERIFIED])
    assert [one.id for one in accountorders.unproved(store, 210.0)] == [order.id]


def test_an_agent_that_failed(store: Store, vault: Vault, machine_id: int) -> None:
    accountorders.order_account(store, vault, machine_id, 150.0)
    agent = Agent(store)
    agent.claims()
    agent.says(error="the BMC's table of users is full")
    state = accountorders.account_state(store, machine_id)
    assert state == "failed: the agent could not make the account 'metalbox': the BMC's table of users is full"
    assert accountorders.unproved(store, 210.0) == []
    assert bmcs.get(store, 1).error_code == "refused"
    # It may be ordered again.
    assert accountorders.order_account(store, vault, machine_id, 300.0) is not None


def test_disproved_leaves_the_account_of_before(store: Store, vault: Vault, machine_id: int) -> None:
    bmcaccounts.set_account(store, vault, 1, "root", OPERATORS, 110.0)
    accountorders.rotate(store, vault, bmcs.get(store, 1), 150.0)
    agent = Agent(store)
    agent.claims()
    order = agent.says()
    accountorders.disproved(store, order.id, BmcWrongPassword("it does not take it"), 220.0)
    assert accountorders.account_state(store, machine_id) == "failed: it does not take it"
    assert bmcaccounts.credentials(store, vault, 1) == Credentials("root", OPERATORS.reveal())
    assert bmcs.get(store, 1).error_code == "wrong-password"


def test_rotation_replaces_what_was_stored_when_it_was_ordered(store: Store, vault: Vault, machine_id: int) -> None:
    bmcaccounts.set_account(store, vault, 1, "root", OPERATORS, 110.0)
    order = accountorders.rotate(store, vault, bmcs.get(store, 1), 150.0)
    assert "root" not in str(order.data), "the agent need not know whose account was used before"
    agent = Agent(store)
    agent.claims()
    done = agent.says()
    bmcaccounts.set_account(store, vault, 1, "other", Secret("later-Word-9"), 210.0)
    (said,) = accountorders.said_of(done)
    accountorders.proved(store, vault, done, 1, said, Secret(agent.password), ["ipmi"], 220.0)
    assert bmcaccounts.credentials(store, vault, 1) == Credentials("other", "later-Word-9")
    assert "an operator stored the account 'other' meanwhile" in accountorders.account_state(store, machine_id)

    bmcs.answered(store, 1, "redfish", 240.0)
    accountorders.rotate(store, vault, bmcs.get(store, 1), 250.0)
    second = Agent(store, now=251.0)
    second.claims()
    done = second.says()
    accountorders.proved(store, vault, done, 1, said, Secret(second.password), ["ipmi"], 260.0)
    assert bmcaccounts.credentials(store, vault, 1) == Credentials(USER, second.password)
    assert any(
        text.endswith("logs in by IPMI, and not by Redfish, which is not asked any more") for text in texts(store)
    )
    # An account of the operator's own is administrator again.
    bmcaccounts.set_account(store, vault, 1, "root", OPERATORS, 300.0)
    (endpoint,) = bmcaccounts.endpoints(store, vault, 1)
    assert dict(endpoint.settings) == {}


def test_keys_of_all_runs_are_kept(store: Store, vault: Vault, machine_id: int) -> None:
    """An agent sets the password and dies; the next one dies as well: each may be the one that counts."""
    accountorders.order_account(store, vault, machine_id, 150.0)
    first = Agent(store)
    first.claims()
    first.intends()
    second = Agent(store, run="r2", now=210.0)
    second.claims(211.0)
    second.intends(212.0)
    (order,) = accountorders.unproved(store, 300.0)
    found = [accountorders.password(vault, order, said) for said in accountorders.said_of(order)]
    assert [one.reveal() for one in found if one] == [second.password, first.password]
    assert not accountorders.is_left(order, 300.0) and accountorders.is_left(order, 600.0)
    with pytest.raises(Refused, match="in the hands of an agent"):
        accountorders.finish_unsaid(store, order.id, accountorders.said_of(order)[1], 300.0)
    closed = accountorders.finish_unsaid(store, order.id, accountorders.said_of(order)[1], 600.0)
    password = accountorders.password(vault, closed, accountorders.said_of(closed)[0])
    assert password is not None and password.reveal() == first.password
    # What comes after that changes nothing.
    assert second.says(601.0).outcome == closed.outcome
    third = accountorders.order_account(store, vault, machine_id, 700.0)
    assert third is not None and third.id != order.id


def test_escalated_with_a_reason(store: Store, vault: Vault, machine_id: int) -> None:
    accountorders.order_account(store, vault, machine_id, 150.0)
    agent = Agent(store)
    agent.claims()
    order = agent.says()
    following = accountorders.escalate(store, vault, order, BmcRefused("not allowed to an operator"), 220.0)
    assert following.id != order.id and following.data["privilege"] == ADMINISTRATOR
    assert following.data["server_key"] != order.data["server_key"]
    assert accountorders.account_state(store, machine_id) == "ordered"
    assert any("as operator it does not do: not allowed to an operator" in text for text in texts(store))


def test_a_key_of_no_worth_is_no_password(store: Store, vault: Vault, machine_id: int) -> None:
    accountorders.order_account(store, vault, machine_id, 150.0)
    agent = Agent(store)
    agent.claims()
    order = agent.says(public_key="00" * 32)
    assert accountorders.password(vault, order, accountorders.said_of(order)[0]) is None


def test_the_servers_key_is_of_one_order_only(vault: Vault) -> None:
    places = [(number, bytes([salt] * 32)) for number in (1, 2) for salt in (1, 2)]
    keys = {accountkeys.public_key(vault.derive(f"key of order {number}", salt)) for number, salt in places}
    assert len(keys) == 4
