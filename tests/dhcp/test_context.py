from __future__ import annotations

from ipaddress import IPv4Interface

from metalbox.config import Mode, parse
from metalbox.dhcp.context import Context, Network, lease_options
from tests.dhcp.desk import number

TEXT = """
subnets:
  - {subnet: 192.0.2.0/25, mode: full, pools: [192.0.2.100]}
  - {subnet: 10.1.0.0/24, mode: proxy, server_address: 198.51.100.9}
  - {subnet: 10.2.0.0/24, mode: proxy, interface: eth1}
  - {subnet: 192.0.2.128/25, mode: off, interface: eth1}
"""
INTERFACES = {
    "eth0": [IPv4Interface("192.0.2.1/25"), IPv4Interface("198.51.100.1/24"), IPv4Interface("192.0.2.2/25")],
    "eth1": [IPv4Interface("192.0.2.129/25")],
    "eth2": [IPv4Interface("192.0.2.130/25"), IPv4Interface("172.16.0.1/12")],
}


def context(text: str = TEXT) -> Context:
    return Context.from_config(parse(text), INTERFACES, (), lambda mac: False)


def names(networks: tuple[Network, ...]) -> list[tuple[str, Mode]]:
    return [(network.name, network.mode) for network in networks]


def test_networks_of_each_wire() -> None:
    attached = context().attached
    assert names(attached["eth0"]) == [("192.0.2.0/25", Mode.FULL), ("198.51.100.0/24", Mode.PROXY)]
    assert names(attached["eth1"]) == [("192.0.2.128/25", Mode.OFF), ("10.2.0.0/24", Mode.PROXY)]
    # A subnet that names its interface is not served on another, whose network of the same address is a stranger.
    assert names(attached["eth2"]) == [("192.0.2.128/25", Mode.PROXY), ("172.16.0.0/12", Mode.PROXY)]


def test_our_addresses() -> None:
    assert context().own == {
        number(text)
        for text in (
            "192.0.2.1",
            "198.51.100.1",
            "192.0.2.2",
            "192.0.2.129",
            "192.0.2.130",
            "172.16.0.1",
            "198.51.100.9",
        )
    }


def test_the_network_of_an_address() -> None:
    found = {
        text: network.name if (network := context().network_of(number(text))) else None
        for text in ("192.0.2.0", "192.0.2.127", "192.0.2.128", "10.1.0.7", "10.3.0.1", "0.0.0.1", "198.51.100.77")
    }
    assert found == {
        "192.0.2.0": "192.0.2.0/25",
        "192.0.2.127": "192.0.2.0/25",
        "192.0.2.128": "192.0.2.128/25",
        "10.1.0.7": "10.1.0.0/24",
        "10.3.0.1": None,
        "0.0.0.1": None,
        "198.51.100.77": "198.51.100.0/24",
    }


def test_options_of_a_network() -> None:
    text = """
subnets:
  - subnet: 10.0.0.0/8
    router: 10.0.0.254
    dns: [10.0.0.1, 10.0.0.2]
    domain: a.example
    ntp: [10.0.0.3]
"""
    (network,) = context(text).networks
    assert network.options == bytes.fromhex(
        "0104ff000000 03040a0000fe 06080a0000010a000002 0f09612e6578616d706c65 1c040affffff 2a040a000003"
    )
    (bare,) = context("subnets: [{subnet: 10.0.0.0/8}]").networks
    assert bare.options == bytes.fromhex("0104ff000000 1c040affffff")
    assert bare.lease_options == lease_options(3600) == bytes.fromhex("330400000e10 3a0400000708 3b0400000c4e")
