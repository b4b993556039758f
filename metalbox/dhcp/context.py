"""What the responder knows besides the packet: the networks served, our addresses, the boot files, the policy.

Made once from the configuration and the interfaces; nothing here changes afterwards but a cache of boot answers.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Interface
from typing import NamedTuple

from metalbox.config import Config, Mode, Subnet
from metalbox.dhcp import options
from metalbox.dhcp.bootfile import BootAnswer, boot_names
from metalbox.dhcp.packet import encode_option
from metalbox.machine import Mac


class Arrival(NamedTuple):
    """How one datagram came in: `server_address` is ours on that interface, `port` is 67 or 4011.

    A NamedTuple, like all that is made once per packet: a frozen dataclass costs three times as much to make.
    """

    interface: str
    ifindex: int
    server_address: IPv4Address
    source: tuple[str, int]
    port: int
    unicast: bool


@dataclass(frozen=True, slots=True)
class Network:
    """One subnet as the packet path needs it: addresses as numbers, the options that never change as bytes.

    `server` is our address told to its clients, 0 for the one of the interface of arrival.
    """

    name: str
    first: int
    last: int
    mode: Mode
    server: int = 0
    lease_seconds: int = 3600
    is_pxe10: bool = False
    options: bytes = b""
    lease_options: bytes = b""

    @classmethod
    def from_subnet(cls, subnet: Subnet) -> Network:
        """Prepare one subnet of the configuration."""
        network = subnet.subnet
        return cls(
            name=str(network),
            first=int(network.network_address),
            last=int(network.broadcast_address),
            mode=subnet.mode,
            server=int(subnet.server_address) if subnet.server_address else 0,
            lease_seconds=subnet.lease_seconds,
            is_pxe10=subnet.uefi_offer == "pxe10",
            options=_network_options(subnet),
            lease_options=lease_options(subnet.lease_seconds),
        )


def lease_options(seconds: int) -> bytes:
    """Options 51, 58 and 59: the lease time, when to renew (half) and when to rebind (7/8). RFC 2131 section 4.4.5."""
    times = ((options.LEASE_TIME, seconds), (options.T1, seconds // 2), (options.T2, seconds * 7 // 8))
    return b"".join(encode_option(code, time.to_bytes(4, "big")) for code, time in times)


def _network_options(subnet: Subnet) -> bytes:
    """Options 1, 3, 6, 15, 28 and 42, most important first."""
    network = subnet.subnet
    parts = [encode_option(options.SUBNET_MASK, network.netmask.packed)]
    if subnet.router:
        parts.append(encode_option(options.ROUTER, subnet.router.packed))
    if subnet.dns:
        parts.append(encode_option(options.DNS, b"".join(address.packed for address in subnet.dns)))
    if subnet.domain:
        parts.append(encode_option(options.DOMAIN_NAME, subnet.domain.encode()))
    parts.append(encode_option(options.BROADCAST_ADDRESS, network.broadcast_address.packed))
    if subnet.ntp:
        parts.append(encode_option(options.NTP, b"".join(address.packed for address in subnet.ntp)))
    return b"".join(parts)


@dataclass(frozen=True, slots=True)
class Context:
    """All that `respond` may know. `networks` are the configured subnets by first address; they do not overlap.

    `attached` lists for each interface the networks on its wire, that of its main address first. `own` are our
    addresses on every interface. `boot_names` maps a client architecture to a boot file that exists.
    `known` tells whether a machine may have an address in `reservations` mode.
    """

    networks: tuple[Network, ...]
    attached: Mapping[str, tuple[Network, ...]]
    own: frozenset[int]
    boot_names: Mapping[int, str]
    known: Callable[[Mac], bool]
    http_port: int = 8080
    no_proxy_wait: bool = True
    authoritative: bool = False
    first_addresses: tuple[int, ...] = ()
    answers: dict[tuple[object, ...], BootAnswer | None] = field(default_factory=dict, compare=False)

    @classmethod
    def from_config(
        cls,
        config: Config,
        attached: Mapping[str, Sequence[IPv4Interface]],
        boot_files: Collection[str],
        known: Callable[[Mac], bool],
    ) -> Context:
        """Join the configuration with the addresses of each interface and the plain names of the boot files at hand."""
        pairs = sorted(
            ((Network.from_subnet(subnet), subnet) for subnet in config.subnets), key=lambda pair: pair[0].first
        )
        wires = {
            interface: _on_wire(interface, addresses, pairs, config.dhcp.default_mode)
            for interface, addresses in attached.items()
        }
        own = {int(address.ip) for addresses in attached.values() for address in addresses}
        own.update(network.server for network, _ in pairs if network.server)
        networks = tuple(network for network, _ in pairs)
        return cls(
            networks=networks,
            attached=wires,
            own=frozenset(own),
            boot_names=boot_names(boot_files, config.boot.uefi_loader),
            known=known,
            http_port=config.http.port,
            no_proxy_wait=config.dhcp.no_proxy_wait,
            authoritative=config.dhcp.authoritative,
            first_addresses=tuple(network.first for network in networks),
        )

    def network_of(self, address: int) -> Network | None:
        """The network that holds the address: a configured one, else an attached one in the default mode."""
        index = bisect_right(self.first_addresses, address) - 1
        if index >= 0 and address <= self.networks[index].last:
            return self.networks[index]
        for networks in self.attached.values():
            for network in networks:
                if network.first <= address <= network.last:
                    return network
        return None


def _on_wire(
    interface: str, addresses: Sequence[IPv4Interface], pairs: Sequence[tuple[Network, Subnet]], default_mode: Mode
) -> tuple[Network, ...]:
    """The networks attached to one interface: by its addresses, then those that name it."""
    found: list[Network] = []
    for address in addresses:
        network = next((network for network, subnet in pairs if _holds(subnet, interface, address.ip)), None)
        if network is None:
            network = Network.from_subnet(Subnet(subnet=address.network, mode=default_mode))
        if network not in found:
            found.append(network)
    found.extend(network for network, subnet in pairs if subnet.interface == interface and network not in found)
    return tuple(found)


def _holds(subnet: Subnet, interface: str, address: IPv4Address) -> bool:
    return address in subnet.subnet and subnet.interface in ("", interface)
