"""metalbox.ra.server: on a real wire, whoever boots is answered and nobody else."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import AsyncIterator
from functools import partial

import pytest

from metalbox.dhcp import sockets
from metalbox.journal import Journal, Kind
from metalbox.machine import Mac
from metalbox.presence import Presence
from metalbox.ra import server
from metalbox.ra.packet import ROUTER_SOLICITATION, build_null_advertisement
from tests.dhcp.wire import until
from tests.netns import Namespaces

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root")]


class Wire:
    def __init__(self, net: Namespaces) -> None:
        self.net = net
        self.journal = Journal()
        self.presence = Presence(lambda address: None)
        self.mac = Mac.parse(net.mac("client", "eth0"))
        with net.inside("server"):
            (self.interface,) = sockets.interfaces()
        self.advertiser = server.RouterAdvertiser([self.interface], self.journal, self.presence)
        with net.inside("server"):
            self.advertiser.open()
        with net.inside("client"):
            self.client = socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6)
            self.client.setsockopt(socket.IPPROTO_ICMPV6, server.ICMPV6_FILTER, b"\xff" * 16 + b"\xbf" + b"\xff" * 15)
            self.index = socket.if_nametoindex("eth0")
        self.client.setblocking(False)

    def solicit(self, hops: int = 255) -> None:
        self.client.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, hops)
        data = bytes((ROUTER_SOLICITATION, 0, 0, 0, 0, 0, 0, 0, 1, 1)) + self.mac.raw
        self.client.sendto(data, (server.ALL_ROUTERS, 0, 0, self.index))

    async def answer(self, seconds: float) -> bytes | None:
        try:
            async with asyncio.timeout(seconds):
                return await asyncio.get_running_loop().sock_recv(self.client, 1500)
        except TimeoutError:
            return None

    async def ignored(self) -> None:
        """Until the advertiser has made up its mind not to answer."""
        async with asyncio.timeout(60):
            while not self.advertiser.counters:  # noqa: ASYNC110 - it has nothing else to wait for
                await asyncio.sleep(0.01)


def has_link_local(net: Namespaces, name: str) -> bool:
    return "fe80::" in net.run(name, "ip", "-6", "address").stdout


@pytest.fixture
async def wire() -> AsyncIterator[Wire]:
    with Namespaces() as net:
        net.link("server", "eth0", "client", "eth0", left_ip="192.0.2.1/24")
        for name in ("server", "client"):
            until(partial(has_link_local, net, name), "a link-local address")
        wire = Wire(net)
        yield wire
        wire.client.close()
        wire.advertiser.close()


async def test_a_machine_in_a_boot_is_answered(wire: Wire) -> None:
    wire.presence.saw(wire.mac, now=time.time(), booting=True)
    wire.solicit()
    answer = await wire.answer(30)
    assert answer is not None
    expected = build_null_advertisement(wire.interface.mac)
    assert answer[:2] + answer[4:] == expected[:2] + expected[4:]  # all but the checksum, which the kernel wrote
    (entry,) = wire.journal.pending
    assert (entry.kind, entry.mac) == (Kind.RA, wire.mac)
    assert wire.advertiser.counters["sent"] == 1
    assert wire.advertiser.listening == ["RA on eth0 ICMPv6 (null advertisement to machines in a boot)"]


async def test_the_solicitation_may_come_before_the_discover(wire: Wire) -> None:
    wire.solicit()
    assert await wire.answer(0.1) is None
    wire.presence.saw(wire.mac, now=time.time(), booting=True)
    assert await wire.answer(30) is not None


async def test_nobody_else_is_answered(wire: Wire, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "LOOK_AGAIN_SECONDS", (0.01, 0.02))
    wire.solicit()
    await wire.ignored()
    assert wire.advertiser.counters == {"ignored: not in a boot": 1}
    assert await wire.answer(0.2) is None
    assert not wire.journal.pending


async def test_what_came_through_a_router_is_not_answered(wire: Wire) -> None:
    wire.presence.saw(wire.mac, now=time.time(), booting=True)
    wire.solicit(hops=64)
    await wire.ignored()
    assert await wire.answer(0.2) is None
    assert wire.advertiser.counters == {"ignored: from another network": 1}


async def test_without_ipv6_there_is_a_warning_and_no_failure(caplog: pytest.LogCaptureFixture) -> None:
    with Namespaces() as net:
        net.link("server", "eth0", "client", "eth0", left_ip="192.0.2.1/24")
        net.run("server", "sysctl", "-qw", "net.ipv6.conf.eth0.disable_ipv6=1")
        with net.inside("server"):
            advertiser = server.RouterAdvertiser(sockets.interfaces(), Journal(), Presence(lambda address: None))
            advertiser.open()
        advertiser.close()
        assert advertiser.listening == []
        assert "eth0: router solicitations are not answered: IPv6 is disabled there" in caplog.text
