"""Who is behind an address right now, and who is in the middle of a boot. Memory only: a restart forgets it.

DHCP sees MACs, TFTP and HTTP see addresses; this joins the two. In proxy mode the site's DHCP server gives the
address, so we often learn it only from the kernel's ARP table, which is asked last.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import TypeVar

from metalbox.machine import Mac

K = TypeVar("K")
V = TypeVar("V")

# From the first DISCOVER to the agent takes 8 to 60 s on most machines; EDK2 that walks its boot order by the clock
# may need two minutes between two packets.
BOOTING_SECONDS = 180.0
# An address seen with a MAC is believed for this long; after it, the ARP table knows better.
BELIEVED_SECONDS = 600.0
# Twice the machines of a large site. Someone who floods us with made-up MACs pushes out the oldest, and no more.
MAX_KNOWN = 65_536


class Presence:
    """Remembers which MAC used which address last, and which MACs were seen booting."""

    def __init__(self, neighbours: Callable[[str], Mac | None]) -> None:
        """`neighbours` returns the MAC that the kernel's ARP table has for an address, or None."""
        self._neighbours = neighbours
        self._addresses: OrderedDict[str, tuple[Mac, float]] = OrderedDict()
        self._booting: OrderedDict[Mac, float] = OrderedDict()

    def saw(self, mac: Mac, address: str = "", *, now: float, booting: bool = False) -> None:
        """A packet of `mac` came, from `address` if known; `booting` when only a machine in a boot sends such."""
        if address:
            _put(self._addresses, address, (mac, now))
        if booting:
            _put(self._booting, mac, now)

    def mac_of(self, address: str, now: float) -> Mac | None:
        """Who uses this address: the MAC seen with it in the last ten minutes, else what the ARP table says."""
        seen = self._addresses.get(address)
        if seen is not None and now - seen[1] <= BELIEVED_SECONDS:
            return seen[0]
        mac = self._neighbours(address)
        if mac is None:
            # Older than we like, and better than nothing: behind a relay the ARP table has only the router.
            return seen[0] if seen is not None else None
        return mac

    def is_booting(self, mac: Mac, now: float) -> bool:
        """Whether this MAC was seen in a boot within the last three minutes."""
        seen = self._booting.get(mac)
        return seen is not None and now - seen <= BOOTING_SECONDS


def _put(table: OrderedDict[K, V], key: K, value: V) -> None:
    table[key] = value
    table.move_to_end(key)
    if len(table) > MAX_KNOWN:
        table.popitem(last=False)
