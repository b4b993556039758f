"""Clients that others wrote get, renew, rebind, release and decline: dhclient, udhcpc, dhcpcd, systemd-networkd.

Each runs in a namespace of its own on one switch; leases are so short that all of it happens while one waits.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.dhcp.wire import FULL, PROBED, Server, until
from tests.netns import Namespaces

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root")]

# dhcpcd takes no lease below 20 s: renewal after 12 s, rebinding after 21 s.
LEASE_SECONDS = "24"

DHCLIENT_SCRIPT = """#!/bin/sh
case "$reason" in
BOUND|REBOOT)
    # What the usual script leaves out: a failure here makes dhclient decline. Asked twice: arping ends when the second
    # after its last question is over, and does not look at what has come meanwhile.
    busybox arping -q -D -c 2 -w 60 -I "$interface" "$new_ip_address" || exit 1
    ip address replace "$new_ip_address/24" dev "$interface";;
RENEW|REBIND) ip address replace "$new_ip_address/24" dev "$interface";;
EXPIRE|RELEASE|STOP|FAIL) ip address flush dev "$interface";;
esac
"""
UDHCPC_SCRIPT = """#!/bin/sh
case "$1" in
bound|renew) ip address replace "$ip/24" dev "$interface"; ip route replace default via "$router";;
deconfig) ip address flush dev "$interface";;
esac
"""
# Outside of systemd: own folders instead of the machine's, and /sys read-only says that no udev will come.
NETWORKD = """
mount -t tmpfs none /run/systemd
mkdir -p /run/systemd/network /run/systemd/netif/links /run/systemd/netif/leases /run/systemd/netif/lldp
chown -R systemd-network:systemd-network /run/systemd/netif
mount -o remount,bind,ro /sys
cat > /run/systemd/network/10.network <<EOT
[Match]
Name=eth0
[Network]
DHCP=ipv4
IPv6AcceptRA=no
LinkLocalAddressing=no
[DHCPv4]
SendRelease=yes
SendDecline=yes
EOT
exec /lib/systemd/systemd-networkd
"""
DHCPCD = """
mount -t tmpfs none /run
mount -t tmpfs none /var/lib/dhcpcd
# Without -L it takes 169.254.0.0/16 when nobody has answered for some seconds.
exec dhcpcd -4 -B -L -f /dev/null -c /bin/true eth0
"""


@dataclass(frozen=True)
class Client:
    """How to start one, and the signal on which it gives its address back."""

    program: str
    command: tuple[str, ...]
    release: signal.Signals | None


def clients(folder: Path) -> dict[str, Client]:
    for name, text in (("dhclient-script", DHCLIENT_SCRIPT), ("udhcpc-script", UDHCPC_SCRIPT)):
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    files = ("-cf", "/dev/null", "-lf", f"{folder}/leases", "-pf", f"{folder}/pid", "-sf", f"{folder}/dhclient-script")
    return {
        "dhclient": Client("dhclient", ("dhclient", "-4", "-d", *files, "eth0"), None),
        "udhcpc": Client(
            "udhcpc",
            ("udhcpc", "-f", "-a", "-A", "1", "-R", "-i", "eth0", "-s", f"{folder}/udhcpc-script"),
            signal.SIGTERM,
        ),
        "dhcpcd": Client("dhcpcd", ("sh", "-c", DHCPCD), signal.SIGALRM),
        "networkd": Client("/lib/systemd/systemd-networkd", ("sh", "-c", NETWORKD), signal.SIGTERM),
    }


class Site:
    """A switch with the server on it, and one namespace for each client that is installed."""

    def __init__(self, net: Namespaces, folder: Path, config: str, without: str = "") -> None:
        self.net = net
        installed = {name: client for name, client in clients(folder).items() if shutil.which(client.program)}
        self.clients = {name: client for name, client in installed.items() if name != without}
        if not self.clients:
            pytest.skip("no DHCP client is installed")
        net.bridge("server", "eth0", "192.0.2.1/24")
        for name in self.clients:
            net.plug("server", "eth0", f"p-{name}", name, "eth0")
        self.folder = folder
        self.config = config
        self.processes: dict[str, subprocess.Popen[Any]] = {}

    def serve(self) -> Server:
        self.server = Server(self.net, "server", self.config, self.folder / "server", LEASE_SECONDS).start()
        return self.server

    def start(self) -> None:
        for name, client in self.clients.items():
            quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
            self.processes[name] = self.net.popen(name, *client.command, **quiet)

    def address(self, name: str) -> str:
        return next(iter(self.net.addresses(name, "eth0")), "")

    def talk(self, name: str) -> list[str]:
        """All DHCP messages of one client, in order."""
        mac = self.net.mac(name, "eth0")
        entries = self.server.state()["journal"]
        return [word for entry in entries if entry["mac"] == mac for word in entry.get("messages", ())]

    def renewed(self, times: int) -> bool:
        return all(self.talk(name).count("ACK") > times for name in self.clients)


@pytest.fixture
def net() -> Iterator[Namespaces]:
    with Namespaces() as net:
        yield net


def test_get_renew_rebind_release(net: Namespaces, tmp_path: Path) -> None:
    site = Site(net, tmp_path, FULL)
    server = site.serve()
    site.start()
    until(lambda: all(map(site.address, site.clients)), "every client has an address")
    got = {name: site.address(name) for name in site.clients}
    assert len(set(got.values())) == len(got)
    for name in site.clients:
        # Each word once: a client repeats what was not answered within two or three seconds.
        assert list(dict.fromkeys(site.talk(name)))[:4] == ["DISCOVER", "OFFER", "REQUEST", "ACK"], name

    until(lambda: site.renewed(1), "every client renewed")
    before = {name: site.talk(name).count("ACK") for name in site.clients}
    # From now on nobody reaches us by unicast: what still comes is a broadcast, which is REBINDING.
    rule = "add table ip t; add chain ip t i {type filter hook input priority 0;}; add rule ip t i ip daddr 192.0.2.1"
    net.run("server", "nft", f"{rule} udp dport 67 drop")

    def rebound(name: str) -> bool:
        return site.talk(name).count("ACK") > before[name]

    until(lambda: all(map(rebound, site.clients)), "every client rebound")
    # Between rebinding and the end of the lease are three seconds: who is held up for longer begins anew.
    until(lambda: {name: site.address(name) for name in site.clients} == got, "every client has its address")
    net.run("server", "nft", "delete table ip t")

    for name, client in site.clients.items():
        if client.release is not None:
            os.kill(site.processes[name].pid, client.release)
        else:
            files = ("-cf", "/dev/null", "-lf", f"{tmp_path}/leases", "-pf", f"{tmp_path}/pid")
            net.run(name, "dhclient", "-4", "-r", *files, "-sf", f"{tmp_path}/dhclient-script", "eth0")
    until(lambda: server.state()["dhcp"].get("noted: released", 0) == len(got), "every client released")
    assert {lease["address"]: lease["state"] for lease in server.state()["leases"]} == dict.fromkeys(
        got.values(), "released"
    )
    assert server.stop() == (0, "")


def test_decline_what_a_static_host_has(net: Namespaces, tmp_path: Path) -> None:
    """Without the look-ahead, every client finds out for itself and says so.

    Not systemd-networkd: version 252 finds the conflict and then fails to send ("Failed to send DHCP DECLINE,
    ignoring: Network is unreachable" with the routes tried here), so that no server hears of it.
    """
    site = Site(net, tmp_path, FULL, without="networkd")
    net.plug("server", "eth0", "p-static", "static", "eth0")
    # Reserved, so that each client is told of another one first, whoever is quicker.
    taken = {name: f"192.0.2.{200 + number}" for number, name in enumerate(site.clients)}
    site.config += "    reservations:\n"
    for name, address in taken.items():
        net.up("static", "eth0", f"{address}/24")
        site.config += f"      - {{mac: '{net.mac(name, 'eth0')}', address: {address}}}\n"
    server = site.serve()
    site.start()

    def is_settled(name: str) -> bool:
        return bool(site.address(name)) and site.address(name) != taken[name]

    until(lambda: all(map(is_settled, site.clients)), "every client has an address that nobody else has")
    assert {name for name in site.clients if "DECLINE" in site.talk(name)} == set(site.clients)
    declined = {lease["address"] for lease in server.state()["leases"] if lease["state"] == "declined"}
    assert declined == set(taken.values())


def test_the_look_ahead_spares_clients_the_conflict(net: Namespaces, tmp_path: Path) -> None:
    site = Site(net, tmp_path, PROBED)
    net.plug("server", "eth0", "p-static", "static", "eth0", far_ip="192.0.2.100/24")
    server = site.serve()
    until(lambda: server.state()["probe"].get("in use") == 1, "the static host is found")
    site.start()
    until(lambda: all(map(site.address, site.clients)), "every client has an address")
    assert "192.0.2.100" not in {site.address(name) for name in site.clients}
    assert not any("DECLINE" in site.talk(name) for name in site.clients)


@pytest.mark.skipif(not shutil.which("dhcrelay"), reason="isc-dhcp-relay is not installed")
def test_through_a_real_relay(net: Namespaces, tmp_path: Path) -> None:
    """A client behind ISC's dhcrelay, which adds option 82 and sends us its own copy of what it also routes."""
    net.add("relay", forward=True)
    net.link("server", "eth0", "relay", "up0", left_ip="198.51.100.1/24", right_ip="198.51.100.2/24")
    net.link("relay", "down0", "client", "eth0", left_ip="192.0.2.1/24")
    net.run("server", "ip", "route", "add", "192.0.2.0/24", "via", "198.51.100.2")
    config = FULL.replace("    interface: eth0\n", "")
    server = Server(net, "server", config, tmp_path / "server", LEASE_SECONDS).start()
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    relay = ("dhcrelay", "-4", "-d", "-a", "-id", "down0", "-iu", "up0", "198.51.100.1")
    net.popen("relay", *relay, **quiet)
    until(partial(_listens, net), "the relay listens")
    process = net.popen("client", *clients(tmp_path)["udhcpc"].command, **quiet)
    until(lambda: net.addresses("client", "eth0") == ["192.0.2.100"], "the client has an address")

    (lease,) = server.state()["leases"]
    assert (lease["state"], lease["circuit_id"]) == ("bound", "down0")
    first = next(entry for entry in server.state()["journal"] if "ACK" in entry["messages"])
    assert first["relay"] == "192.0.2.1"
    os.kill(process.pid, signal.SIGUSR1)  # renew now
    until(lambda: server.state()["dhcp"]["sent: ACK"] >= 2, "the client renewed")
    until(lambda: server.state()["leases"][0]["expires_at"] > lease["expires_at"], "the lease is longer")
    os.kill(process.pid, signal.SIGTERM)
    until(lambda: server.state()["leases"][0]["state"] == "released", "the client released")
    assert server.state()["leases"][0]["circuit_id"] == "down0"
    assert server.stop() == (0, "")


def _listens(net: Namespaces) -> bool:
    return ":67" in net.run("relay", "ss", "-uln").stdout
