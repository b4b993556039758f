"""metalbox.dhcp.rivals: who else answers."""

from __future__ import annotations

import time
from ipaddress import IPv4Address, IPv4Interface

import pytest

from metalbox import config
from metalbox.dhcp import options
from metalbox.dhcp.context import Context
from metalbox.dhcp.frames import udp_frame
from metalbox.dhcp.options import Message
from metalbox.dhcp.packet import Packet, build_packet
from metalbox.dhcp.rivals import Rivals
from metalbox.dhcp.sockets import Interface
from metalbox.journal import Journal, Kind
from metalbox.machine import Mac
from metalbox.presence import Presence

MAC = Mac("52:54:00:ab:cd:ef")
OURS, RIVAL, FILES = IPv4Address("192.0.2.1"), IPv4Address("192.0.2.9"), IPv4Address("192.0.2.8")
ETH0 = Interface("eth0", 2, b"\2" * 6, True, True, (IPv4Interface("192.0.2.1/24"),))
NOW = time.time()


def rivals(mode: str = "proxy") -> Rivals:
    pools = "pools: [192.0.2.100-192.0.2.150], " if mode == "full" else ""
    parsed = config.parse(f"subnets: [{{subnet: 192.0.2.0/24, {pools}mode: {mode}}}]")
    context = Context.from_config(parsed, {"eth0": ETH0.addresses}, (), lambda mac: False)
    return Rivals(context, Journal(), Presence(lambda address: None), [ETH0])


def message(packet: Packet, source: IPv4Address = RIVAL) -> bytes:
    addresses = (source.packed, b"\xff" * 4)
    return udp_frame((b"\2" * 6, b"\xff" * 6), addresses, (67, 68), build_packet(packet))[14:]


def offer(**given: object) -> Packet:
    packet = Packet(op=2, chaddr=MAC.raw.ljust(16, b"\0"), message=Message.OFFER, options={})
    packet.options[options.SERVER_ID] = RIVAL.packed
    for name, value in given.items():
        setattr(packet, name, value)
    return packet


def proxy_offer() -> Packet:
    packet = offer(siaddr=int(FILES), file=b"pxelinux.0")
    packet.options[options.VENDOR_CLASS] = b"PXEClient"
    return packet


def test_a_second_proxy_is_named() -> None:
    watch = rivals()
    watch.see(message(proxy_offer()), "eth0", NOW)
    (entry,) = watch._journal.pending
    assert (entry.kind, entry.mac) == (Kind.RIVAL, MAC)
    assert entry.text == "proxyDHCP server 192.0.2.9 offered boot file pxelinux.0 from 192.0.2.8"
    assert entry.data == {
        "server": "192.0.2.9",
        "next_server": "192.0.2.8",
        "boot_file": "pxelinux.0",
        "is_proxy": True,
        "interface": "eth0",
    }
    watch.see(message(proxy_offer()), "eth0", NOW + 5)
    (rival,) = watch.table.values()
    assert (rival.offers, rival.first_seen, rival.last_seen) == (2, NOW, NOW + 5)


def test_the_sites_own_server_is_told_only_of_machines_that_boot() -> None:
    watch = rivals()
    watch.see(message(offer(yiaddr=int(IPv4Address("192.0.2.50")))), "eth0", NOW)
    assert not watch._journal.pending
    watch._presence.saw(MAC, now=NOW, booting=True)
    watch.see(message(offer(yiaddr=int(IPv4Address("192.0.2.50")))), "eth0", NOW)
    (entry,) = watch._journal.pending
    assert entry.text == "DHCP server 192.0.2.9 offered address 192.0.2.50"
    assert entry.data["is_proxy"] is False


def test_where_we_give_addresses_every_other_server_is_news(caplog: pytest.LogCaptureFixture) -> None:
    watch = rivals("full")
    watch.see(message(offer(yiaddr=int(IPv4Address("192.0.2.50")))), "eth0", NOW)
    assert len(watch._journal.pending) == 1
    assert "eth0: another DHCP server answers: DHCP server 192.0.2.9 offered address 192.0.2.50" in caplog.text


def test_a_url_is_told_without_a_server_and_a_missing_identifier_by_the_sender() -> None:
    watch = rivals()
    packet = offer(siaddr=int(FILES))
    packet.options = {options.BOOT_FILE: b"http://192.0.2.8/x.efi\0"}
    watch.see(message(packet), "eth0", NOW)
    assert watch._journal.pending[0].text == "DHCP server 192.0.2.9 offered boot file http://192.0.2.8/x.efi"


@pytest.mark.parametrize(
    "data",
    [
        message(proxy_offer(), OURS),
        message(offer(message=Message.ACK, file=b"x")),
        message(offer(message=Message.NAK)),
        message(offer(op=1, file=b"x")),
        message(offer(file=b"x"))[:-1],
        message(offer(file=b"x"))[:100],
        b"",
        udp_frame((b"\2" * 6, b"\3" * 6), (RIVAL.packed, OURS.packed), (67, 68), b"garbage")[14:],
    ],
)
def test_what_is_no_rival(data: bytes) -> None:
    watch = rivals("full")
    watch.see(data, "eth0", NOW)
    assert not watch.table
    assert not watch._journal.pending


def test_made_up_servers_do_not_fill_the_memory() -> None:
    watch = rivals()
    for number in range(1000):
        packet = offer(file=b"x")
        packet.options[options.SERVER_ID] = (0x0A000000 + number).to_bytes(4, "big")
        watch.see(message(packet), "eth0", NOW)
    assert len(watch.table) == 256
