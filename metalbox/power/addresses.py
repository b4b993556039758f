"""The addresses that an operator names for a scan: single ones, ranges, networks. PURE."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

from metalbox.errors import InvalidValue, Refused

# A /16: some minutes. More is rather a mistyped prefix length than a network of BMCs.
MAX_ADDRESSES = 65_536

HOW = "write an address, a range like 192.0.2.10-192.0.2.50 (or 192.0.2.10-50), or a network like 192.0.2.0/24"
Address = IPv4Address | IPv6Address


def parse_addresses(texts: Sequence[str]) -> tuple[str, ...]:
    """Every address named, in the order given and each once. Raises InvalidValue, and Refused above MAX_ADDRESSES."""
    if not texts:
        raise InvalidValue(f"nothing to scan: {HOW}")
    spans = [_span(part.strip()) for text in texts for part in text.split(",")]
    total = sum(int(last) - int(first) + 1 for first, last in spans)
    if total > MAX_ADDRESSES:
        raise Refused(
            f"{', '.join(texts)} is {total:,} addresses, more than the {MAX_ADDRESSES:,} of one scan: "
            "name the networks of the BMCs, one after the other"
        )
    found: dict[str, None] = {}
    for first, last in spans:
        kind = type(first)
        found.update((str(kind(number)), None) for number in range(int(first), int(last) + 1))
    return tuple(found)


def _span(text: str) -> tuple[Address, Address]:
    try:
        if "/" in text:
            return _network(ip_network(text))
        left, dash, right = text.partition("-")
        first = ip_address(left.strip())
        # The end of an IPv4 range may be its last number alone.
        if dash and right.strip().isdecimal() and isinstance(first, IPv4Address):
            right = f"{left.strip().rpartition('.')[0]}.{right.strip()}"
        last = ip_address(right.strip()) if dash else first
    except ValueError as error:
        detail = f" ({error})" if "host bits" in str(error) else ""
        raise InvalidValue(f"{text!r} names no addresses{detail}: {HOW}") from None
    if first.version != last.version or int(last) < int(first):
        raise InvalidValue(f"{text!r} is no range: its end must not come before its beginning")
    for end in (first, last):
        if end.is_multicast or end.is_unspecified:
            raise InvalidValue(f"{end} in {text!r} is no address of a BMC")
        if isinstance(end, IPv6Address) and end.is_link_local:
            raise InvalidValue(f"{end} in {text!r} is link-local, which names no interface: give a routed address")
    return first, last


def _network(network: IPv4Network | IPv6Network) -> tuple[Address, Address]:
    """The addresses of a network that a BMC may have: without the network's own and its broadcast address."""
    first, last = network[0], network[-1]
    if network.is_multicast or (isinstance(network, IPv6Network) and network.is_link_local):
        raise ValueError("no addresses of hosts")
    if network.num_addresses <= 2:
        return first, last
    return first + 1, last - 1 if isinstance(last, IPv4Address) else last
