"""metalbox.dhcp.probe: addresses that others use are found before they are offered."""

from __future__ import annotations

import asyncio
import os
import time
from ipaddress import IPv4Address

import pytest

from metalbox import config
from metalbox.dhcp import sockets
from metalbox.dhcp.context import Context
from metalbox.dhcp.leases import Client, Leases
from metalbox.dhcp.probe import AHEAD, FRESH_SECONDS, Probe
from metalbox.journal import Journal, Kind
from metalbox.machine import Mac
from tests.dhcp.wire import PROBED
from tests.netns import Namespaces

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root")]

SUBNET = "192.0.2.0/24"
FIRST = int(IPv4Address("192.0.2.100"))


async def settle(probe: Probe, count: int) -> None:
    for _ in range(3000):
        await asyncio.sleep(0.02)
        if probe.counters["in use"] >= count:
            return


def build(net: Namespaces, text: str = PROBED) -> tuple[Probe, Leases, Journal]:
    parsed = config.parse(text)
    with net.inside("server"):
        interfaces = sockets.interfaces()
    leases = Leases(parsed.subnets, own=[IPv4Address("192.0.2.1")])
    journal = Journal()
    attached = {interface.name: interface.addresses for interface in interfaces}
    context = Context.from_config(parsed, attached, (), lambda mac: False)
    return Probe(context, leases, journal, interfaces, 600), leases, journal


async def test_a_static_host_keeps_its_address() -> None:
    with Namespaces() as net:
        net.link("server", "eth0", "static", "eth0", left_ip="192.0.2.1/24", right_ip="192.0.2.100/24")
        net.up("static", "eth0", "192.0.2.102/24")
        static = Mac.parse(net.mac("static", "eth0"))
        probe, leases, journal = build(net)
        with net.inside("server"):
            probe.open()
        await settle(probe, 2)
        probe.close()
        now = time.time()
        offered = [leases.offer(SUBNET, Client(f"52:54:00:00:00:0{n}"), 0, now) for n in range(3)]
        assert [lease.address for lease in offered if lease] == ["192.0.2.101", "192.0.2.103", "192.0.2.104"]
        assert {(entry.kind, entry.mac, entry.data["address"]) for entry in journal.pending} == {
            (Kind.LEASE, static, "192.0.2.100"),
            (Kind.LEASE, static, "192.0.2.102"),
        }
        assert probe.counters["asked"] == AHEAD


async def test_a_client_that_has_the_address_by_now_is_no_stranger() -> None:
    with Namespaces() as net:
        net.link("server", "eth0", "client", "eth0", left_ip="192.0.2.1/24")
        client = Mac.parse(net.mac("client", "eth0"))
        probe, leases, journal = build(net)
        with net.inside("server"):
            probe.open()
        now = time.time()
        assert leases.offer(SUBNET, Client(client), 0, now)
        assert leases.bind(SUBNET, Client(client), FIRST, 3600, now)
        net.up("client", "eth0", "192.0.2.100/24")
        net.run("client", "ping", "-c1", "-W60", "192.0.2.1")
        await asyncio.sleep(0.1)
        probe.close()
        assert not journal.pending
        assert probe.counters["in use"] == 0


async def test_each_address_is_asked_for_once_in_a_while() -> None:
    with Namespaces() as net:
        net.link("server", "eth0", "client", "eth0", left_ip="192.0.2.1/24")
        probe, leases, _ = build(net)
        with net.inside("server"):
            probe.open()
        now = time.time()
        probe.ask(now)
        assert probe.counters["asked"] == AHEAD
        leases.offer(SUBNET, Client("52:54:00:00:00:01"), 0, now)
        probe.ask(now)
        assert probe.counters["asked"] == AHEAD + 1
        probe.ask(now + FRESH_SECONDS + 1)
        assert probe.counters["asked"] >= 2 * AHEAD
        probe.close()


async def test_nothing_is_asked_where_we_give_no_addresses() -> None:
    with Namespaces() as net:
        net.link("server", "eth0", "client", "eth0", left_ip="192.0.2.1/24")
        probe, _, _ = build(net, "subnets: [{subnet: 192.0.2.0/24, mode: proxy}]")
        with net.inside("server"):
            probe.open()
        assert not probe._sockets
        assert not probe.counters
        probe.close()
