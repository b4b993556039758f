"""Who has which address: a table in memory, sticky by MAC, with every change told as a value for the durable store.

Nothing here is written to disk: an offer lives in memory only, and each acknowledged change comes back as a
`LeaseChange` that must be durable before its ACK leaves. No operation looks at more leases than it changes, so a
packet costs the same with one lease as with a hundred thousand.
"""

from __future__ import annotations

import heapq
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from ipaddress import IPv4Address
from itertools import islice
from typing import NamedTuple

from metalbox.config import Reservation, Subnet
from metalbox.dhcp.packet import address_text

# Firmware asks for what it was offered within 32 s (EDK2's last timer); a ROM that takes the second of two servers'
# offers comes even later.
OFFER_SECONDS = 60.0
# How many ended leases one packet may tidy up, so that a pool that expires all at once does not delay anyone.
TIDY_PER_PACKET = 64


class LeaseState(StrEnum):
    """OFFERED and IN_USE are never stored; EXPIRED is only told by `rows`: a bound lease whose time is over."""

    OFFERED = "offered"
    BOUND = "bound"
    RELEASED = "released"
    EXPIRED = "expired"
    DECLINED = "declined"
    IN_USE = "in use"


class Lease(NamedTuple):
    """One address and its holder; the fields before `number` are the columns of the store.

    `subnet` is "192.0.2.0/24"; `mac` is "" for a client without one (InfiniBand, RFC 4390), which `client_id` (hex)
    then names. A DECLINED row keeps its address out of use until `expires_at`; IN_USE is the same for an address
    that a stranger was seen to use. `number` is the address as a number.
    """

    subnet: str
    address: str
    mac: str
    client_id: str
    state: LeaseState
    expires_at: float
    hostname: str = ""
    circuit_id: str = ""
    remote_id: str = ""
    number: int = 0

    @property
    def key(self) -> str:
        """Whose lease it is."""
        return self.mac or "id:" + self.client_id


class LeaseChange(NamedTuple):
    """What must be durable before the answer leaves: rows to write over those with the same subnet and address."""

    leases: tuple[Lease, ...]


class Client(NamedTuple):
    """Who asks: `mac` "" when the packet has none, `client_id` is option 61 in hex; the rest is kept on the lease."""

    mac: str
    client_id: str = ""
    hostname: str = ""
    circuit_id: str = ""
    remote_id: str = ""


class Leases:
    """The leases of all subnets. Times are Unix seconds and come in as `now`; addresses are numbers."""

    def __init__(
        self, subnets: Sequence[Subnet], *, own: Iterable[IPv4Address] = (), decline_seconds: float = 600
    ) -> None:
        """Prepare the pools; `own` are our addresses, which are never given away."""
        ours = frozenset(int(address) for address in own)
        ordered = sorted(subnets, key=lambda subnet: subnet.subnet)
        self._tables = {str(subnet.subnet): _Table(subnet, ours) for subnet in ordered}
        self._firsts = [table.first for table in self._tables.values()]
        self._ordered = list(self._tables.values())
        self._decline_seconds = decline_seconds

    def restore(self, rows: Iterable[Lease], now: float) -> int:
        """Take in the stored rows at start; returns how many belong to no configured subnet and were left out.

        A client with several rows gets its address back from the one that ends last: the newest.
        """
        left_out = 0
        for row in sorted(rows, key=lambda row: row.expires_at):
            number = int(IPv4Address(row.address))
            table = self._table_of(number)
            if table is None:
                left_out += 1
            else:
                table.put(row._replace(subnet=table.name, state=LeaseState(row.state), number=number))
        return left_out

    def rows(self, now: float) -> list[Lease]:
        """All leases except offers; bound ones whose time is over as EXPIRED. For people: looks at every lease."""
        rows = []
        for table in self._tables.values():
            for lease in table.by_address.values():
                if lease.state is LeaseState.BOUND and lease.expires_at <= now:
                    rows.append(lease._replace(state=LeaseState.EXPIRED))
                elif lease.state is not LeaseState.OFFERED:
                    rows.append(lease)
        return rows

    def offer(self, subnet: str, client: Client, requested: int, now: float) -> Lease | None:
        """Choose and hold an address; None when the pool is exhausted.

        In the order of RFC 2131 section 4.3.1: the reserved one, the current or previous one, the requested one if
        it is free, a new one.
        """
        table = self._tables[subnet]
        key = table.key(client)
        address = table.choose(key, requested, now)
        if address is None:
            return None
        lease = table.by_address.get(address)
        until = now + OFFER_SECONDS
        if lease is not None and lease.state is LeaseState.BOUND and lease.expires_at > now:
            # It is the client's own. Held in memory for as long as an offer, however soon it ends.
            if lease.expires_at < until:
                lease = lease._replace(expires_at=until)
        else:
            lease = table.lease(key, client, lease, address, LeaseState.OFFERED, until)
        table.put(lease)
        return lease

    def bind(
        self, subnet: str, client: Client, address: int, seconds: float, now: float
    ) -> tuple[Lease, LeaseChange] | None:
        """Give this very address for so long; None when the client cannot have it."""
        table = self._tables[subnet]
        key = table.key(client)
        if not table.may_have(key, address) or not table.is_free(key, address, now):
            return None
        reservation = table.reserved.get(key)
        if (
            reservation is not None
            and address != (fixed := int(reservation.address))
            and table.is_free(key, fixed, now)
        ):
            return None
        table.drop_offer(key, address, now)
        lease = table.lease(key, client, table.by_address.get(address), address, LeaseState.BOUND, now + seconds)
        table.put(lease)
        return lease, LeaseChange((lease,))

    def find(self, subnet: str, client: Client) -> Lease | None:
        """The client's lease, whatever its state."""
        table = self._tables[subnet]
        return table.by_client.get(table.key(client))

    def withdraw(self, subnet: str, client: Client, now: float) -> None:
        """Forget an offer: the client has chosen another server."""
        table = self._tables[subnet]
        table.drop_offer(table.key(client), 0, now)

    def release(self, subnet: str, client: Client, address: int, now: float) -> LeaseChange | None:
        """The client gives its address back and may have it again; None when it is not the client's."""
        table = self._tables[subnet]
        lease = table.by_client.get(table.key(client))
        if lease is None or lease.number != address or lease.state is not LeaseState.BOUND:
            return None
        released = lease._replace(state=LeaseState.RELEASED, expires_at=now)
        table.put(released)
        table.make_available(address)
        return LeaseChange((released,))

    def decline(self, subnet: str, client: Client, address: int, now: float) -> LeaseChange | None:
        """The client found its address in use: out of use for the quarantine; None when it is not the client's."""
        table = self._tables[subnet]
        lease = table.by_client.get(table.key(client))
        if lease is None or lease.number != address or lease.state is not LeaseState.BOUND or lease.expires_at <= now:
            return None
        declined = lease._replace(state=LeaseState.DECLINED, expires_at=now + self._decline_seconds)
        table.put(declined)
        return LeaseChange((declined,))

    def candidates(self, subnet: str, count: int, now: float) -> list[int]:
        """The next addresses that new clients would be offered, for a look whether someone uses them already."""
        return self._tables[subnet].candidates(count, now)

    def mark_in_use(self, address: int, until: float, now: float) -> None:
        """Someone who is no client of ours uses this address: do not give it away before `until`."""
        table = self._table_of(address)
        if table is None:
            return
        lease = table.by_address.get(address)
        if lease is not None and lease.state is LeaseState.BOUND and lease.expires_at > now:
            return
        text = address_text(address)
        table.put(Lease(table.name, text, "", "", LeaseState.IN_USE, until, number=address))

    def reservation(self, subnet: str, mac: str) -> Reservation | None:
        """What is reserved for this machine."""
        return self._tables[subnet].reserved.get(mac)

    def reserved(self, subnet: str) -> Mapping[str, Reservation]:
        """All reservations of a subnet by MAC."""
        return self._tables[subnet].reserved

    def pool_size(self, subnet: str) -> int:
        """How many addresses the subnet's pools have to give."""
        table = self._tables.get(subnet)
        if table is None:
            return 0
        size = sum(last - first + 1 for first, last in table.pools)
        return size - sum(1 for address in {*table.excluded, *table.reserved_for} if table.is_in_pools(address))

    def in_use(self, subnet: str, now: float) -> int:
        """How many addresses are bound at this time. For people: looks at every lease."""
        table = self._tables.get(subnet)
        leases = table.by_address.values() if table else ()
        return sum(1 for lease in leases if lease.state is LeaseState.BOUND and lease.expires_at > now)

    def _table_of(self, address: int) -> _Table | None:
        index = bisect_right(self._firsts, address) - 1
        if index >= 0 and address <= self._ordered[index].last:
            return self._ordered[index]
        return None


# States in which an address is its holder's; in all others it is kept from everybody until `expires_at`.
_HELD = frozenset({LeaseState.OFFERED, LeaseState.BOUND, LeaseState.RELEASED})


class _Table:
    """The leases of one subnet.

    `by_address` has at most one lease for an address, `by_client` at most one for a client, so neither grows beyond
    the subnet. An address that was never used comes from `_fresh`; one that comes back is queued in `_available`, an
    unanswered offer before an ended lease, so that a flood of new clients does not cost the old ones their address.
    `_timers` has one valid entry, also in `_timed`, for each address: the time to look whether its lease has ended.
    """

    def __init__(self, subnet: Subnet, ours: frozenset[int]) -> None:
        network = subnet.subnet
        self.name = str(network)
        self.first = int(network.network_address)
        self.last = int(network.broadcast_address)
        self.pools = sorted((int(pool.first), int(pool.last)) for pool in subnet.pools)
        self._pool_firsts = [first for first, _ in self.pools]
        self.reserved: dict[str, Reservation] = {str(entry.mac): entry for entry in subnet.reservations}
        self.reserved_for: dict[int, str] = {int(entry.address): str(entry.mac) for entry in subnet.reservations}
        self.excluded = set(ours)
        if network.prefixlen < 31:
            self.excluded |= {self.first, self.last}
        self.excluded |= {int(address) for address in (subnet.router, subnet.server_address) if address}
        self.by_address: dict[int, Lease] = {}
        self.by_client: dict[str, Lease] = {}
        self._by_id: dict[str, str] = {}
        self._available: OrderedDict[int, None] = OrderedDict()
        self._timers: list[tuple[float, int]] = []
        self._timed: dict[int, float] = {}
        self._pool = 0
        self._fresh = 0

    def key(self, client: Client) -> str:
        """The MAC; without one the client that last used this client id, else the id itself."""
        return client.mac or self._by_id.get(client.client_id) or "id:" + client.client_id

    def is_in_pools(self, address: int) -> bool:
        """Whether a pool has this address."""
        index = bisect_right(self._pool_firsts, address) - 1
        return index >= 0 and address <= self.pools[index][1]

    def may_have(self, key: str, address: int) -> bool:
        """Whether the rules let this client have this address, free or not."""
        owner = self.reserved_for.get(address)
        if owner is not None:
            return owner == key
        return address not in self.excluded and self.is_in_pools(address)

    def is_free(self, key: str, address: int, now: float) -> bool:
        """Whether nobody else has the address, and no quarantine holds it."""
        lease = self.by_address.get(address)
        if lease is None or lease.expires_at <= now:
            return True
        return lease.state in _HELD and lease.key == key

    def choose(self, key: str, requested: int, now: float) -> int | None:
        """The address to offer."""
        reservation = self.reserved.get(key)
        if reservation is not None:
            address = int(reservation.address)
            if self.is_free(key, address, now):
                return address
        lease = self.by_client.get(key)
        if lease is not None and self.may_have(key, lease.number) and self.is_free(key, lease.number, now):
            return lease.number
        if requested and self.may_have(key, requested) and self.is_free(key, requested, now):
            return requested
        return self._take(now)

    def lease(
        self, key: str, client: Client, before: Lease | None, address: int, state: LeaseState, until: float
    ) -> Lease:
        """The record of an address; what a renewal through no relay does not say is kept from `before`."""
        mac, client_id, hostname, circuit_id, remote_id = client
        if not mac and not key.startswith("id:"):
            mac = key
        if before is None:
            text = address_text(address)
        else:
            text = before.address
            if before.key == key:
                client_id = client_id or before.client_id
                hostname = hostname or before.hostname
                circuit_id = circuit_id or before.circuit_id
                remote_id = remote_id or before.remote_id
        if mac in self.reserved:
            hostname = self.reserved[mac].hostname or hostname
        return Lease(self.name, text, mac, client_id, state, until, hostname, circuit_id, remote_id, address)

    def put(self, lease: Lease) -> None:
        """Enter a lease in place of what its address had; who held it before has no address any more."""
        number, key = lease.number, lease.key
        before = self.by_address.get(number)
        if before is not None and (before.key != key or before.client_id != lease.client_id):
            self._forget(before)
        self.by_address[number] = lease
        if lease.state in _HELD:
            self.by_client[key] = lease
            if lease.client_id:
                self._by_id[lease.client_id] = key
        else:
            self._forget(lease)
        self._available.pop(number, None)
        # A timer that comes too early is set again when it fires; one that comes too late delays only the end of a
        # quarantine, which therefore sets its own.
        if number not in self._timed or lease.state not in _HELD:
            self._timed[number] = lease.expires_at
            heapq.heappush(self._timers, (lease.expires_at, number))

    def _forget(self, lease: Lease) -> None:
        """Remove the client of a lease, unless it has another lease by now."""
        current = self.by_client.get(lease.key)
        if current is not None and current.number == lease.number:
            del self.by_client[lease.key]
        if self._by_id.get(lease.client_id) == lease.key:
            del self._by_id[lease.client_id]

    def drop_offer(self, key: str, except_address: int, now: float) -> None:
        """End what was offered to the client, unless it is this address."""
        lease = self.by_client.get(key)
        if lease is not None and lease.state is LeaseState.OFFERED and lease.number != except_address:
            self.put(lease._replace(expires_at=now))
            self.make_available(lease.number)

    def make_available(self, address: int) -> None:
        """Queue an address whose lease has ended."""
        if address in self.reserved_for or address in self.excluded or not self.is_in_pools(address):
            return
        self._available[address] = None
        if self.by_address[address].state is LeaseState.OFFERED:
            self._available.move_to_end(address, last=False)

    def _take(self, now: float) -> int | None:
        address = self._next_unused()
        if address is not None:
            return address
        while True:
            self._tidy(now)
            while self._available:
                address, _ = self._available.popitem(last=False)
                if self.by_address[address].expires_at <= now:
                    return address
            if not self._timers or self._timers[0][0] > now:
                return None

    def _next_unused(self) -> int | None:
        """The first address that never had a lease; what lies before it is never looked at again."""
        while self._pool < len(self.pools):
            first, last = self.pools[self._pool]
            self._fresh = max(self._fresh, first)
            while self._fresh <= last:
                if self._is_unused(self._fresh):
                    return self._fresh
                self._fresh += 1
            self._pool += 1
            self._fresh = 0
        return None

    def _is_unused(self, address: int) -> bool:
        return address not in self.by_address and address not in self.excluded and address not in self.reserved_for

    def _tidy(self, now: float) -> None:
        """Queue addresses whose time is over, a bounded number of them."""
        for _ in range(TIDY_PER_PACKET):
            if not self._timers or self._timers[0][0] > now:
                return
            when, address = self._timers[0]
            expires_at = self.by_address[address].expires_at
            if self._timed.get(address) != when:
                heapq.heappop(self._timers)
            elif expires_at > now:
                self._timed[address] = expires_at
                heapq.heapreplace(self._timers, (expires_at, address))
            else:
                heapq.heappop(self._timers)
                del self._timed[address]
                self.make_available(address)

    def candidates(self, count: int, now: float) -> list[int]:
        """Look ahead without taking: what `_take` would give next."""
        self._tidy(now)
        found: list[int] = []
        head = self._next_unused()
        for first, last in self.pools[self._pool :] if head is not None else ():
            # A long run of used addresses behind the head is not worth more than a glance.
            start = max(first, self._fresh)
            for address in range(start, min(last, start + 4 * count + 64) + 1):
                if len(found) < count and self._is_unused(address):
                    found.append(address)
        found.extend(islice(self._available, count - len(found)))
        return found
