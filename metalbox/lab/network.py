"""The rack's wires: namespaces, bridges, links between them, and packet filters that stand for what goes wrong.

    lab    br0 192.0.2.1/24: metalbox, libvirt, the machines' ports; br1 without address: the relayed segment's switch
    site   eth0 192.0.2.2 on br0: the site's own DHCP server
    relay  eth0 192.0.2.254 on br0, eth1 198.51.100.1 on br1: a router with a DHCP relay
    rival  eth0 192.0.2.3 on br0: a second, unwanted ProxyDHCP server
    bmc    a port 192.0.2.11 and up on br0 for each management processor

The addresses are those for documentation (RFC 5737); all links are made inside the namespaces.
"""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from enum import StrEnum
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

from metalbox.errors import StartError
from metalbox.lab.machines import Segment
from metalbox.machine import Mac

LAB_SUBNET = IPv4Network("192.0.2.0/24")
RELAYED_SUBNET = IPv4Network("198.51.100.0/24")
SERVER = IPv4Address("192.0.2.1")
SERVER6 = "2001:db8:2::1/64"  # for those who advertise a prefix (RFC 3849)
SITE = IPv4Address("192.0.2.2")
RIVAL = IPv4Address("192.0.2.3")
RELAY = IPv4Address("192.0.2.254")
RELAYED_ROUTER = IPv4Address("198.51.100.1")
FIRST_BMC = IPv4Address("192.0.2.11")
# A bridge without a fixed address takes the lowest of its ports', and changes it whenever a machine is switched on.
BRIDGE_MAC = "02:00:00:00:00:01"
RELAYED_BRIDGE_MAC = "02:00:00:00:00:02"
BRIDGES = {Segment.LOCAL: "br0", Segment.RELAYED: "br1"}
COMMAND_SECONDS = 60

# No wait for duplicate address detection (RFC 4862 section 5.4); a relay's packets come back on another interface.
SYSCTLS = (
    "net.ipv6.conf.all.accept_dad=0",
    "net.ipv6.conf.default.accept_dad=0",
    "net.ipv4.conf.all.rp_filter=0",
    "net.ipv4.conf.default.rp_filter=0",
)


class Fault(StrEnum):
    """Traffic to metalbox that a firewall between may swallow, for `Rack.block`."""

    TFTP = "tftp"
    HTTP = "http"
    PXE_PORT = "pxe-port"
    DHCP = "dhcp"


MATCHES = {
    Fault.TFTP: "udp dport 69",
    Fault.HTTP: "tcp dport 8080",
    Fault.PXE_PORT: "udp dport 4011",
    Fault.DHCP: "udp dport 67",
}


def run(
    argv: Sequence[str], *, check: bool = True, timeout: float = COMMAND_SECONDS, stdin: str | None = None
) -> subprocess.CompletedProcess[str]:
    """Run one command. Raises StartError with what it wrote when `check` and it failed."""
    try:
        done = subprocess.run(argv, input=stdin or "", capture_output=True, text=True, timeout=timeout, check=False)
    except subprocess.TimeoutExpired:
        raise StartError(f"`{' '.join(argv)}` did not end within {timeout:.0f} s") from None
    except FileNotFoundError:
        raise StartError(f"there is no program {argv[0]!r}") from None
    if check and done.returncode:
        raise StartError(f"`{' '.join(argv)}` failed: {done.stderr.strip() or done.stdout.strip()}")
    return done


def inside(namespace: str, argv: Sequence[str]) -> list[str]:
    """The command that runs `argv` inside a namespace, as the same process."""
    return ["ip", "netns", "exec", namespace, *argv]


def create(namespace: str) -> None:
    """Make a namespace with its loopback up."""
    run(["ip", "netns", "add", namespace])
    run(inside(namespace, ["sysctl", "-qw", *SYSCTLS]), check=False)
    run(inside(namespace, ["ip", "link", "set", "lo", "up"]))


def delete(namespace: str) -> None:
    """Remove a namespace without processes in it, and with it its links."""
    if Path("/run/netns", namespace).exists():
        run(["ip", "netns", "delete", namespace])


def build_bridge(namespace: str) -> None:
    """Put the local segment's bridge, with metalbox's address, into the namespace."""
    _batch(
        namespace,
        f"link add {BRIDGES[Segment.LOCAL]} address {BRIDGE_MAC} type bridge",
        f"address add {SERVER}/{LAB_SUBNET.prefixlen} dev {BRIDGES[Segment.LOCAL]}",
        f"address add {SERVER6} dev {BRIDGES[Segment.LOCAL]} nodad",
        f"link set {BRIDGES[Segment.LOCAL]} up",
    )


def attach(lab: str, other: str, number: int, address: IPv4Address) -> None:
    """Plug a new namespace's eth0 into the local bridge."""
    create(other)
    _batch(
        lab,
        f"link add port{number} type veth peer name eth0 netns {other}",
        f"link set port{number} master {BRIDGES[Segment.LOCAL]} up",
    )
    _batch(other, f"address add {address}/{LAB_SUBNET.prefixlen} dev eth0", "link set eth0 up")


def attach_bmcs(lab: str, other: str, ports: Sequence[tuple[IPv4Address, Mac]]) -> None:
    """Plug a new namespace into the local bridge once for each management processor, which has its own MAC."""
    create(other)
    # All ports are on one wire: each answers for its own address only (arp_ignore, arp_announce: kernel's ip-sysctl).
    run(inside(other, ["sysctl", "-qw", "net.ipv4.conf.all.arp_ignore=1", "net.ipv4.conf.all.arp_announce=2"]))
    run(inside(other, ["sysctl", "-qw", "net.ipv6.conf.default.disable_ipv6=1"]), check=False)
    near, far = [], []
    for place, (address, mac) in enumerate(ports):
        near.append(f"link add bmc{place} type veth peer name eth{place} address {mac} netns {other}")
        near.append(f"link set bmc{place} master {BRIDGES[Segment.LOCAL]} up")
        far += [f"address add {address}/{LAB_SUBNET.prefixlen} dev eth{place}", f"link set eth{place} up"]
    _batch(lab, *near)
    _batch(other, *far)


def build_relayed(lab: str, relay: str) -> None:
    """Add the segment behind a router: a bridge without any address of ours, and the routes there and back."""
    attach(lab, relay, 3, RELAY)
    bridge = BRIDGES[Segment.RELAYED]
    run(inside(lab, ["sysctl", "-qw", "net.ipv6.conf.default.disable_ipv6=1"]), check=False)
    _batch(
        lab,
        f"link add {bridge} address {RELAYED_BRIDGE_MAC} type bridge",
        f"link add port4 type veth peer name eth1 netns {relay}",
        f"link set port4 master {bridge} up",
        f"link set {bridge} up",
    )
    run(inside(lab, ["sysctl", "-qw", "net.ipv6.conf.default.disable_ipv6=0"]), check=False)
    _batch(relay, f"address add {RELAYED_ROUTER}/{RELAYED_SUBNET.prefixlen} dev eth1", "link set eth1 up")
    run(inside(relay, ["sysctl", "-qw", "net.ipv4.ip_forward=1"]))
    add_route_to_relayed(lab)


def cable(left: str, right: str, left_address: str, right_address: str) -> None:
    """Make two namespaces and join them, eth0 to eth0; addresses as "198.18.0.1/15"."""
    create(left)
    create(right)
    _batch(left, f"link add eth0 type veth peer name eth0 netns {right}")
    for namespace, address in ((left, left_address), (right, right_address)):
        _batch(namespace, f"address add {address} dev eth0", "link set eth0 up")


def route_through(namespace: str, networks: Sequence[str], neighbour: str) -> None:
    """Send all that is for these networks to one neighbour on eth0, who has all of their addresses.

    The kernel's table of neighbours holds 1,024 of all namespaces together (net.ipv4.neigh.default.gc_thresh3).
    """
    _batch(namespace, *(f"route add {network} via {neighbour} dev eth0 onlink" for network in networks))


def add_route_to_relayed(namespace: str) -> None:
    """Tell a namespace on the local segment the way to the relayed one."""
    _batch(namespace, f"route add {RELAYED_SUBNET} via {RELAY}")


def filter_rules(faults: Sequence[Fault]) -> str:
    """The nftables program that drops these, and nothing when there are none."""
    rows = ["add table inet metalbox_lab", "delete table inet metalbox_lab"]
    if faults:
        rows += [
            "add table inet metalbox_lab",
            "add chain inet metalbox_lab input { type filter hook input priority 0; policy accept; }",
            *(f"add rule inet metalbox_lab input {MATCHES[fault]} counter drop" for fault in faults),
        ]
    return "\n".join(rows) + "\n"


def block(namespace: str, faults: Sequence[Fault]) -> None:
    """Drop exactly these on their way to metalbox from now on; connections that stand are cut too."""
    run(inside(namespace, ["nft", "-f", "-"]), stdin=filter_rules(faults))


def _batch(namespace: str, *commands: str) -> None:
    """Run `ip` commands in one process, which takes 3 ms; one for each would take 20 ms."""
    run(["ip", "-netns", namespace, "-batch", "-"], stdin="\n".join(commands) + "\n")
