"""Who has which address: a table in memory, sticky by MAC, with every change told as a value for the durable store.

Nothing here is written to disk: an offer lives in memory only, and each acknowledged change comes back as a
`LeaseChange` that must be durable before its ACK leaves. No operation looks at more leases than it changes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from enum import StrEnum
from ipaddress import IPv4Address
from typing import NamedTuple

from metalbox.config import Subnet


class LeaseState(StrEnum):
    """OFFERED is never stored; EXPIRED is only told by `rows`: a bound lease whose time is over."""

    OFFERED = "offered"
    BOUND = "bound"
    RELEASED = "released"
    EXPIRED = "expired"
    DECLINED = "declined"


class Lease(NamedTuple):
    """One address and its holder; the fields before `number` are the columns of the store.

    `subnet` is "192.0.2.0/24"; `mac` is "" for a client without one (InfiniBand, RFC 4390), which `client_id` (hex)
    then names. A DECLINED row keeps its address out of use until `expires_at`. `number` is the address as a number.
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
    """The table of all subnets. Times are Unix seconds and come in as `now`; addresses are numbers."""

    def __init__(
        self, subnets: Sequence[Subnet], *, own: Iterable[IPv4Address] = (), decline_seconds: float = 600
    ) -> None:
        """Prepare the pools; `own` are our addresses, which are never given away."""
        raise NotImplementedError

    def restore(self, rows: Iterable[Lease], now: float) -> int:
        """Take in the stored rows at start; returns how many belong to no configured subnet and were left out."""
        raise NotImplementedError

    def rows(self, now: float) -> list[Lease]:
        """All leases that were ever acknowledged and whose address has not gone to another since."""
        raise NotImplementedError

    def offer(self, subnet: str, client: Client, requested: int, now: float) -> Lease | None:
        """Choose and hold an address (RFC 2131 section 4.3.1); None when the pool is exhausted."""
        raise NotImplementedError

    def bind(
        self, subnet: str, client: Client, address: int, seconds: float, now: float
    ) -> tuple[Lease, LeaseChange] | None:
        """Give this very address for so long; None when the client cannot have it."""
        raise NotImplementedError

    def find(self, subnet: str, client: Client) -> Lease | None:
        """The client's lease, whatever its state."""
        raise NotImplementedError

    def withdraw(self, subnet: str, client: Client, now: float) -> None:
        """Forget an offer: the client has chosen another server."""
        raise NotImplementedError

    def release(self, subnet: str, client: Client, address: int, now: float) -> LeaseChange | None:
        """The client gives its address back and may have it again; None when it is not the client's."""
        raise NotImplementedError

    def decline(self, subnet: str, client: Client, address: int, now: float) -> LeaseChange | None:
        """The client found its address in use: out of use for the quarantine; None when it is not the client's."""
        raise NotImplementedError

    def candidates(self, subnet: str, count: int, now: float) -> list[int]:
        """The next addresses that new clients would be offered, for a look whether someone uses them already."""
        raise NotImplementedError

    def mark_in_use(self, address: int, until: float) -> None:
        """Someone who is no client of ours uses this address: do not give it away before `until`."""
        raise NotImplementedError

    def pool_size(self, subnet: str) -> int:
        """How many addresses the subnet's pools have to give."""
        raise NotImplementedError

    def in_use(self, subnet: str, now: float) -> int:
        """How many addresses are bound at this time."""
        raise NotImplementedError
