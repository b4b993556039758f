"""The other DHCP speakers on the rack's wire: the site's own server, a rival, a relay, a tuned dnsmasq to compare with.

Configuration texts and command lines only; `Rack` starts them.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv4Address
from pathlib import Path

from metalbox.lab.network import LAB_SUBNET, RELAYED_ROUTER, RIVAL, SERVER


@dataclass(frozen=True, slots=True)
class Site:
    """What the site's DHCP server says about booting: nothing, as it should be, or something wrong."""

    boot_file: str = ""
    next_server: str = ""


class Relay(StrEnum):
    """The program that relays."""

    ISC = "isc"  # dhcrelay with option 82 appended: circuit id is its interface's name
    DNSMASQ = "dnsmasq"  # adds no option 82


def site_config(directory: Path, site: Site, *, relayed: bool) -> str:
    """dnsmasq as the site's DHCP server: gives addresses. It does not ping before a first offer, which costs 3 s."""
    boot = f"dhcp-boot={site.boot_file},,{site.next_server or RIVAL}\n" if site.boot_file else ""
    return (
        "port=0\ninterface=eth0\nbind-interfaces\nno-ping\nlog-dhcp\nuser=root\n"
        "dhcp-range=set:local,192.0.2.100,192.0.2.199,255.255.255.0,1h\n"
        f"dhcp-option=tag:local,option:router,{SERVER}\n"
        + (
            "dhcp-range=set:far,198.51.100.100,198.51.100.199,255.255.255.0,1h\n"
            f"dhcp-option=tag:far,option:router,{RELAYED_ROUTER}\n"
            if relayed
            else ""
        )
        + boot
        + f"dhcp-leasefile={directory}/data/site.leases\n"
    )


def rival_config(directory: Path, boot_file: str) -> str:
    """dnsmasq as a second ProxyDHCP server that names a file of its own to every architecture."""
    return (
        "port=0\ninterface=eth0\nbind-interfaces\nlog-dhcp\nuser=root\n"
        f"dhcp-range={LAB_SUBNET.network_address},proxy\n"
        + "".join(f'pxe-service={kind},"rival",{boot_file},{RIVAL}\n' for kind in ("x86PC", "X86-64_EFI", "BC_EFI"))
        + f"dhcp-leasefile={directory}/data/rival.leases\n"
    )


def relay_command(directory: Path, kind: Relay, servers: list[IPv4Address]) -> list[str]:
    """The relay from eth1 (clients) to eth0 (servers), in the foreground."""
    if kind is Relay.ISC:
        pid = str(directory / "data" / "dhcrelay.pid")
        return ["dhcrelay", "-4", "-d", "-a", "-pf", pid, "-id", "eth1", "-iu", "eth0", *map(str, servers)]
    relays = [f"--dhcp-relay={RELAYED_ROUTER},{server}" for server in servers]
    return ["dnsmasq", "-k", "-C", "/dev/null", "--port=0", "--log-dhcp", "--log-facility=-", "--user=root", *relays]


def reference_config(directory: Path) -> str:
    """dnsmasq tuned until no wait is left that a server can remove: what metalbox's boot times are compared with."""
    return f"""port=0
interface=br0
bind-interfaces
user=root
no-ping
log-dhcp
dhcp-range={LAB_SUBNET[100]},{LAB_SUBNET[199]},{LAB_SUBNET.netmask},1h
dhcp-option=option:router,{SERVER}
dhcp-leasefile={directory}/data/reference.leases
dhcp-option=tag:ipxe,encap:175,176,1b
enable-tftp
tftp-root={directory}/reference
dhcp-match=set:ipxe,175
dhcp-userclass=set:ipxe,iPXE
dhcp-match=set:bios,option:client-arch,0
dhcp-match=set:efi64,option:client-arch,7
dhcp-match=set:efi64,option:client-arch,9
dhcp-match=set:http64,option:client-arch,16
dhcp-boot=tag:ipxe,http://{SERVER}:8080/boot.ipxe
dhcp-boot=tag:bios,tag:!ipxe,undionly.kpxe
dhcp-boot=tag:efi64,tag:!ipxe,snponly.efi
dhcp-option-force=tag:http64,tag:!ipxe,option:vendor-class,HTTPClient
dhcp-boot=tag:http64,tag:!ipxe,http://{SERVER}:8080/snponly.efi
enable-ra
dhcp-range=2001:db8:2::,ra-stateless
"""
