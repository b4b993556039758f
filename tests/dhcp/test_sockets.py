"""metalbox.dhcp.sockets: interfaces as the kernel has them, and errors that say what to do."""

from __future__ import annotations

import os
import socket
from ipaddress import IPv4Interface

import pytest

from metalbox import config
from metalbox.dhcp import sockets
from metalbox.dhcp.frames import udp_frame
from metalbox.dhcp.sockets import Interface, choose_interfaces
from metalbox.errors import StartError
from tests.netns import Namespaces

root = pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root")
ETH0 = Interface("eth0", 2, b"\2" * 6, True, True, (IPv4Interface("192.0.2.1/24"),))
ETH1 = Interface("eth1", 3, b"\3" * 6, True, True)
ETH2 = Interface("eth2", 4, b"\4" * 6, False, True, (IPv4Interface("198.51.100.1/24"),))
WG0 = Interface("wg0", 5, b"", True, False, (IPv4Interface("203.0.113.1/24"),))
ALL = [ETH0, ETH1, ETH2, WG0]


def test_without_names_every_usable_interface_is_served() -> None:
    assert choose_interfaces(config.Config(), ALL) == [ETH0]


def test_names_of_subnets_are_added() -> None:
    parsed = config.parse("subnets: [{subnet: 203.0.113.0/24, interface: wg0}]")
    assert choose_interfaces(parsed, ALL) == [ETH0, WG0]


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("eth9", "no network interface eth9, which the configuration names; present are: eth0, eth1, eth2, wg0"),
        ("eth1", "interface eth1 has no IPv4 address: set one with `ip address add ADDRESS/PREFIX dev eth1`"),
        ("eth2", "interface eth2 is down: set it up with `ip link set eth2 up`"),
    ],
)
def test_a_named_interface_that_cannot_serve(name: str, sentence: str) -> None:
    with pytest.raises(StartError, match=sentence):
        choose_interfaces(config.parse(f"dhcp: {{interfaces: [{name}]}}"), ALL)


@pytest.mark.root
@root
def test_the_kernel_tells_its_interfaces() -> None:
    with Namespaces() as net:
        net.link("here", "eth0", "there", "eth0", left_ip="192.0.2.1/24")
        net.up("here", "eth0", "198.51.100.1/25")
        net.run("here", "ip", "link", "add", "br0", "type", "bridge")
        with net.inside("here"):
            found = {interface.name: interface for interface in sockets.interfaces()}
        assert set(found) == {"eth0", "br0"}
        eth0 = found["eth0"]
        assert eth0.addresses == (IPv4Interface("192.0.2.1/24"), IPv4Interface("198.51.100.1/25"))
        assert eth0.mac.hex(":") == net.mac("here", "eth0")
        assert eth0.is_up
        assert eth0.is_ethernet
        assert not found["br0"].is_up


@pytest.mark.root
@root
def test_a_taken_port_is_one_sentence() -> None:
    with Namespaces() as net:
        net.link("here", "eth0", "there", "eth0", left_ip="192.0.2.1/24")
        with net.inside("here"):
            (eth0,) = sockets.interfaces()
            with sockets.open_udp(eth0, 67), pytest.raises(StartError) as caught:
                sockets.open_udp(eth0, 67)
            with sockets.open_udp(eth0, 67, share=True), sockets.open_udp(eth0, 67, share=True) as second:
                assert second.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) >= sockets.RECEIVE_BUFFER
    assert str(caught.value).startswith(
        "cannot listen on UDP port 67 of interface eth0: another program has it; `ss -ulpn 'sport = :67'` shows which."
    )


@pytest.mark.root
@root
def test_the_filter_lets_only_dhcp_for_clients_through() -> None:
    macs = (b"\x52\x54\0\0\0\1", b"\xff" * 6)
    addresses = (bytes((192, 0, 2, 9)), b"\xff" * 4)
    with Namespaces() as net:
        net.link("here", "eth0", "there", "eth0")
        with net.inside("here"):
            receiver = sockets.open_packet(sockets.interfaces()[0], 0x0800, cooked=True, code=sockets.TO_DHCP_CLIENTS)
        with net.inside("there"):
            sender = sockets.open_packet(sockets.interfaces()[0], 0)
        with receiver, sender:
            receiver.setblocking(True)
            receiver.settimeout(30)
            wanted = udp_frame(macs, addresses, (67, 68), b"wanted")
            sender.send(udp_frame(macs, addresses, (68, 67), b"a request"))
            sender.send(wanted[:20] + b"\x00\x10" + wanted[22:])  # a later fragment
            sender.send(wanted[:23] + b"\x06" + wanted[24:])  # TCP
            sender.send(wanted)
            assert receiver.recv(2048) == wanted[14:]


def test_an_unknown_neighbour_is_none() -> None:
    assert sockets.neighbour("IP") is None
    assert sockets.neighbour("192.0.2.254") is None
