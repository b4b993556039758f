from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from metalbox.config import Mode, Pool, Reservation, Subnet
from metalbox.dhcp.leases import OFFER_SECONDS, Client, Lease, LeaseChange, Leases, LeaseState
from metalbox.machine import Mac
from tests.dhcp.desk import number

NET = "192.0.2.0/24"
NOW = 1_700_000_000.0
HOUR = 3600.0


def subnet(pool: str = "192.0.2.100-192.0.2.103", reserved: dict[str, str] | None = None, network: str = NET) -> Subnet:
    rows = tuple(Reservation(Mac(mac), IPv4Address(address), "fixed") for mac, address in (reserved or {}).items())
    pools = tuple(Pool.parse(text) for text in pool.split(","))
    return Subnet(subnet=IPv4Network(network), mode=Mode.FULL, pools=pools, reservations=rows)


def client(n: int, client_id: str = "") -> Client:
    return Client(f"02:00:00:00:00:{n:02x}", client_id)


def offered(leases: Leases, who: Client, now: float = NOW, requested: int = 0) -> str:
    lease = leases.offer(NET, who, requested, now)
    return lease.address if lease else ""


def bound(leases: Leases, who: Client, now: float = NOW, seconds: float = HOUR) -> Lease:
    lease = leases.offer(NET, who, 0, now)
    assert lease is not None
    result = leases.bind(NET, who, lease.number, seconds, now)
    assert result is not None and result[1] == LeaseChange((result[0],))
    return result[0]


def test_addresses_are_given_in_order_and_kept() -> None:
    leases = Leases([subnet()])
    assert [offered(leases, client(n)) for n in (1, 2, 1, 3)] == [
        "192.0.2.100",
        "192.0.2.101",
        "192.0.2.100",
        "192.0.2.102",
    ]


def test_what_is_ours_the_routers_or_reserved_is_never_given() -> None:
    plan = replace(
        subnet("192.0.2.0-192.0.2.6,192.0.2.255", {"02:00:00:00:00:99": "192.0.2.5"}),
        router=IPv4Address("192.0.2.1"),
        server_address=IPv4Address("192.0.2.3"),
    )
    leases = Leases([plan], own=[IPv4Address("192.0.2.2")])
    assert [offered(leases, client(n)) for n in range(3)] == ["192.0.2.4", "192.0.2.6", ""]
    assert leases.pool_size(NET) == 2
    for address in ("192.0.2.1", "192.0.2.2", "192.0.2.3", "192.0.2.5", "192.0.2.0", "192.0.2.255", "192.0.2.77"):
        assert leases.bind(NET, client(1), number(address), HOUR, NOW) is None


def test_the_requested_address_is_given_when_free() -> None:
    leases = Leases([subnet()])
    assert offered(leases, client(1), requested=number("192.0.2.103")) == "192.0.2.103"
    assert offered(leases, client(2), requested=number("192.0.2.103")) == "192.0.2.100"
    assert offered(leases, client(3), requested=number("192.0.2.9")) == "192.0.2.101"


def test_a_lease_is_found_again_after_its_end() -> None:
    leases = Leases([subnet()])
    bound(leases, client(1))
    bound(leases, client(2))
    assert [row.state for row in leases.rows(NOW + HOUR)] == [LeaseState.EXPIRED, LeaseState.EXPIRED]
    assert offered(leases, client(2), NOW + 10 * HOUR) == "192.0.2.101"


def test_unanswered_offers_are_given_again_before_ended_leases() -> None:
    leases = Leases([subnet()])
    bound(leases, client(1), seconds=60)
    for n in (2, 3, 4):
        offered(leases, client(n))
    assert offered(leases, client(5)) == ""
    later = NOW + OFFER_SECONDS
    assert {offered(leases, client(n), later) for n in (5, 6, 7)} == {"192.0.2.101", "192.0.2.102", "192.0.2.103"}
    assert offered(leases, client(8), later) == "192.0.2.100"
    assert offered(leases, client(1), later) == ""


def test_an_offer_is_held_and_then_lost_to_another() -> None:
    leases = Leases([subnet("192.0.2.100")])
    offered(leases, client(1))
    assert leases.bind(NET, client(2), number("192.0.2.100"), HOUR, NOW) is None
    assert offered(leases, client(2), NOW + OFFER_SECONDS) == "192.0.2.100"
    assert leases.bind(NET, client(1), number("192.0.2.100"), HOUR, NOW + OFFER_SECONDS) is None


def test_a_bound_lease_about_to_end_is_held_as_long_as_an_offer() -> None:
    leases = Leases([subnet("192.0.2.100")])
    bound(leases, client(1), seconds=60)
    assert offered(leases, client(1), NOW + 59) == "192.0.2.100"
    assert offered(leases, client(2), NOW + 61) == ""


def test_offers_are_not_rows_and_leave_no_change() -> None:
    leases = Leases([subnet()])
    offered(leases, client(1))
    assert leases.rows(NOW) == []
    bound(leases, client(1))
    assert [(row.address, row.state) for row in leases.rows(NOW)] == [("192.0.2.100", LeaseState.BOUND)]
    assert leases.in_use(NET, NOW) == 1
    assert (leases.in_use("10.0.0.0/8", NOW), leases.pool_size("10.0.0.0/8")) == (0, 0)


def test_release_and_return() -> None:
    leases = Leases([subnet()])
    lease = bound(leases, client(1))
    assert leases.release(NET, client(2), lease.number, NOW) is None
    assert leases.release(NET, client(1), lease.number + 1, NOW) is None
    change = leases.release(NET, client(1), lease.number, NOW + 1)
    assert change == LeaseChange((lease._replace(state=LeaseState.RELEASED, expires_at=NOW + 1),))
    assert leases.release(NET, client(1), lease.number, NOW) is None
    assert offered(leases, client(1), NOW + 2) == lease.address


def test_a_released_address_goes_to_another_when_the_pool_is_used_up() -> None:
    leases = Leases([subnet()])
    held = [bound(leases, client(n)) for n in range(4)]
    leases.release(NET, client(2), held[2].number, NOW)
    assert bound(leases, client(9)).address == "192.0.2.102"
    assert offered(leases, client(2)) == ""


def test_decline_and_quarantine() -> None:
    leases = Leases([subnet("192.0.2.100-192.0.2.101")], decline_seconds=600)
    lease = bound(leases, client(1), seconds=10 * HOUR)
    assert leases.decline(NET, client(2), lease.number, NOW) is None
    change = leases.decline(NET, client(1), lease.number, NOW)
    assert change is not None and change.leases[0].state is LeaseState.DECLINED
    assert leases.bind(NET, client(1), lease.number, HOUR, NOW) is None
    assert offered(leases, client(1)) == "192.0.2.101"
    assert bound(leases, client(1)).address == "192.0.2.101"
    assert offered(leases, client(2), NOW + 599) == ""
    assert offered(leases, client(2), NOW + 600) == "192.0.2.100"


def test_an_address_seen_in_use_is_passed_over() -> None:
    leases = Leases([subnet()])
    assert leases.candidates(NET, 2, NOW) == [number("192.0.2.100"), number("192.0.2.101")]
    leases.mark_in_use(number("192.0.2.100"), NOW + 600, NOW)
    assert leases.candidates(NET, 2, NOW) == [number("192.0.2.101"), number("192.0.2.102")]
    assert offered(leases, client(1)) == "192.0.2.101"
    # Found in use after it was offered: the client will not get it, and is offered another.
    leases.mark_in_use(number("192.0.2.101"), NOW + 600, NOW)
    assert leases.bind(NET, client(1), number("192.0.2.101"), HOUR, NOW) is None
    assert offered(leases, client(1)) == "192.0.2.102"
    # Its holder itself answers ARP.
    lease = bound(leases, client(1))
    leases.mark_in_use(lease.number, NOW + 600, NOW)
    assert leases.find(NET, client(1)) == lease
    leases.mark_in_use(number("203.0.113.1"), NOW + 600, NOW)
    assert [row.state for row in leases.rows(NOW)] == [LeaseState.IN_USE, LeaseState.IN_USE, LeaseState.BOUND]


def test_candidates_come_back_from_ended_leases_and_are_few() -> None:
    leases = Leases([subnet()])
    for n in range(4):
        bound(leases, client(n), seconds=60 + n)
    assert leases.candidates(NET, 3, NOW) == []
    later = NOW + 62
    ended = [number("192.0.2.100"), number("192.0.2.101"), number("192.0.2.102")]
    assert leases.candidates(NET, 8, later) == ended
    assert leases.candidates(NET, 1, later) == ended[:1]


def test_a_reservation_is_followed_when_it_is_free() -> None:
    mac = "02:00:00:00:00:01"
    before = Leases([subnet()])
    old = bound(before, client(1))
    leases = Leases([subnet(reserved={mac: "192.0.2.10"})])
    leases.restore(before.rows(NOW), NOW)
    assert leases.bind(NET, client(1), old.number, HOUR, NOW) is None
    lease = bound(leases, client(1))
    assert (lease.address, lease.hostname) == ("192.0.2.10", "fixed")
    leases.decline(NET, client(1), lease.number, NOW)
    assert offered(leases, client(1)) == "192.0.2.101"


def test_a_reservation_of_what_another_still_holds_waits_for_it() -> None:
    before = Leases([subnet()])
    bound(before, client(1))
    leases = Leases([subnet(reserved={"02:00:00:00:00:02": "192.0.2.100"})])
    leases.restore(before.rows(NOW), NOW)
    assert leases.bind(NET, client(1), number("192.0.2.100"), HOUR, NOW) is None
    assert offered(leases, client(2)) == "192.0.2.101"
    assert offered(leases, client(2), NOW + HOUR) == "192.0.2.100"


def test_a_client_without_mac_is_known_by_its_id_and_by_its_earlier_mac() -> None:
    leases = Leases([subnet()])
    infiniband = Client("", "ff0001")
    lease = bound(leases, infiniband)
    assert (lease.mac, lease.key) == ("", "id:ff0001")
    assert bound(leases, infiniband) == lease
    ethernet = bound(leases, client(1, "ff0002"))
    again = bound(leases, Client("", "ff0002"))
    assert (again.mac, again.address) == (client(1).mac, ethernet.address)


def test_two_machines_with_one_client_id_have_two_addresses() -> None:
    leases = Leases([subnet()])
    assert bound(leases, client(1, "ff0001")).address != bound(leases, client(2, "ff0001")).address


def test_restore_gives_everyone_his_own_again() -> None:
    before = Leases([subnet("192.0.2.100-192.0.2.110")])
    for n in range(4):
        bound(before, client(n), seconds=HOUR + n)
    before.release(NET, client(1), number("192.0.2.101"), NOW + 1)
    before.decline(NET, client(2), number("192.0.2.102"), NOW + 1)
    rows = before.rows(NOW + 1)
    # As the store gives them back: plain texts, no numbers, and a subnet that was renamed since.
    stored = [row._replace(subnet="192.0.0.0/16", state=LeaseState(str(row.state)), number=0) for row in rows]
    leases = Leases([subnet("192.0.2.100-192.0.2.110")])
    assert leases.restore([*stored, rows[0]._replace(address="203.0.113.5")], NOW) == 1
    assert sorted(leases.rows(NOW + 1)) == sorted(rows)
    assert offered(leases, client(0), NOW + 2) == "192.0.2.100"
    assert offered(leases, client(9), NOW + 2) == "192.0.2.104"
    assert offered(leases, client(1), NOW + 2) == "192.0.2.101"
    assert offered(leases, client(2), NOW + 2) == "192.0.2.105"


def test_of_several_rows_the_one_that_ends_last_is_the_clients() -> None:
    leases = Leases([subnet()])
    row = Lease(NET, "192.0.2.101", client(1).mac, "", LeaseState.RELEASED, NOW - 5)
    leases.restore([row._replace(address="192.0.2.102", expires_at=NOW), row], NOW)
    assert offered(leases, client(1)) == "192.0.2.102"


@pytest.mark.parametrize("count", [2_000, 20_000])
def test_a_full_pool_expires_without_a_pause(count: int) -> None:
    """A flood of clients on a pool that ends all at once: each gets an address, and the table does not grow."""
    leases = Leases([subnet(f"10.0.0.1-{IPv4Address(number('10.0.0.0') + count)}", network="10.0.0.0/8")])
    for wave in range(3):
        now = NOW + wave * 2 * HOUR
        for n in range(count):
            who = Client(f"{wave:02x}:00:{n:08x}")
            lease = leases.offer("10.0.0.0/8", who, 0, now)
            assert lease is not None
            assert leases.bind("10.0.0.0/8", who, lease.number, HOUR, now)
        assert leases.offer("10.0.0.0/8", Client("new"), 0, now) is None
    assert len(leases.rows(now)) == count


class LeasesWalk(RuleBasedStateMachine):
    """Any sequence of client's deeds: no address has two holders, and what was acknowledged is in the rows.

    `held` is what the clients believe: address and end of the lease by client, as told by the acknowledgements.
    """

    CLIENTS = st.integers(0, 7)
    ADDRESSES = st.integers(number("192.0.2.99"), number("192.0.2.105"))

    def __init__(self) -> None:
        super().__init__()
        self.plan = subnet("192.0.2.100-192.0.2.104", {client(7).mac: "192.0.2.99", client(6).mac: "192.0.2.102"})
        self.leases = Leases([self.plan], own=[IPv4Address("192.0.2.103")], decline_seconds=50)
        self.now = NOW
        self.held: dict[int, tuple[int, float]] = {}
        self.stored: dict[str, Lease] = {}
        self.foreign: dict[int, float] = {}

    def save(self, change: LeaseChange | None) -> None:
        for lease in change.leases if change else ():
            self.stored[lease.address] = lease

    @rule(n=CLIENTS, wanted=ADDRESSES)
    def discover(self, n: int, wanted: int) -> None:
        lease = self.leases.offer(NET, client(n), wanted, self.now)
        if lease is not None:
            self.check_free(n, lease.number)

    @rule(n=CLIENTS, wanted=ADDRESSES, seconds=st.integers(1, 100))
    def request(self, n: int, wanted: int, seconds: int) -> None:
        self.bind(n, wanted, seconds)

    @rule(n=CLIENTS, seconds=st.integers(1, 100))
    def take_the_offer(self, n: int, seconds: int) -> None:
        lease = self.leases.offer(NET, client(n), 0, self.now)
        if lease is not None:
            assert self.bind(n, lease.number, seconds), "an offer is kept"

    def bind(self, n: int, wanted: int, seconds: int) -> bool:
        result = self.leases.bind(NET, client(n), wanted, seconds, self.now)
        if result is None:
            return False
        self.check_free(n, wanted)
        self.save(result[1])
        self.held[n] = (wanted, self.now + seconds)
        return True

    def check_free(self, n: int, address: int) -> None:
        assert address != number("192.0.2.103"), "our own"
        assert address != number("192.0.2.99") or n == 7, "reserved"
        assert address != number("192.0.2.102") or n == 6, "reserved"
        assert self.foreign.get(address, 0) <= self.now, "in use by another"
        for other, (held, until) in self.held.items():
            assert other == n or held != address or until <= self.now, "held by another"

    @rule(n=CLIENTS)
    def release(self, n: int) -> None:
        address, _ = self.held.get(n, (number("192.0.2.100"), 0))
        change = self.leases.release(NET, client(n), address, self.now)
        self.save(change)
        if change:
            del self.held[n]

    @rule(n=CLIENTS)
    def decline(self, n: int) -> None:
        address, _ = self.held.get(n, (number("192.0.2.100"), 0))
        change = self.leases.decline(NET, client(n), address, self.now)
        self.save(change)
        if change:
            del self.held[n]
            self.foreign[address] = self.now + 50

    @rule(n=CLIENTS)
    def choose_another_server(self, n: int) -> None:
        self.leases.withdraw(NET, client(n), self.now)

    @rule(address=ADDRESSES)
    def probe(self, address: int) -> None:
        taken = any(held == address and until > self.now for held, until in self.held.values())
        self.leases.mark_in_use(address, self.now + 30, self.now)
        if not taken and self.foreign.get(address, 0) < self.now + 30:
            self.foreign[address] = self.now + 30

    @rule(count=st.integers(1, 8))
    def look_ahead(self, count: int) -> None:
        candidates = self.leases.candidates(NET, count, self.now)
        assert len(candidates) <= count and len(set(candidates)) == len(candidates)

    @rule(seconds=st.integers(1, 120))
    def wait(self, seconds: int) -> None:
        self.now += seconds

    @rule()
    def crash(self) -> None:
        """Only what was made durable is left; what was seen by ARP is forgotten."""
        self.leases = Leases([self.plan], own=[IPv4Address("192.0.2.103")], decline_seconds=50)
        assert self.leases.restore(self.stored.values(), self.now) == 0
        declined = {lease.number for lease in self.stored.values() if lease.state is LeaseState.DECLINED}
        self.foreign = {address: until for address, until in self.foreign.items() if address in declined}

    @invariant()
    def acknowledged_leases_are_rows(self) -> None:
        rows = {row.number: row for row in self.leases.rows(self.now)}
        for n, (address, until) in self.held.items():
            if until > self.now:
                assert rows[address].mac == client(n).mac
                assert rows[address].expires_at >= until
                assert self.stored[rows[address].address].mac == client(n).mac


LeasesWalk.TestCase.settings = settings(max_examples=200, stateful_step_count=50, deadline=None)
TestLeasesWalk = LeasesWalk.TestCase
