"""The Linux side of DHCP: which interfaces there are, and sockets that belong to one of them.

Everything here is a system call or its bytes; no packet is understood. Interfaces are asked for by rtnetlink, which,
unlike /sys, speaks of our own network namespace, and knows every address of an interface.
"""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface

from metalbox.config import Config
from metalbox.errors import StartError
from metalbox.machine import Mac
from metalbox.mmsg import IP_PKTINFO

# Numbers of <linux/...> that Python's socket module lacks.
SO_ATTACH_FILTER = 26
SO_RCVBUFFORCE = 33
SOL_PACKET = 263
PACKET_IGNORE_OUTGOING = 23

# A rack that gets its power back speaks all at once. The kernel counts about 1.3 KB for a DHCP message: this holds
# three thousand, which we answer in a tenth of a second.
RECEIVE_BUFFER = 4 * 1024 * 1024

ARPHRD_ETHER = 1
_IFF_UP = 0x1
_IFF_LOOPBACK = 0x8
_NLMSG = struct.Struct("=IHHII")
_IFINFO = struct.Struct("=BxHiII")
_IFADDR = struct.Struct("=BBBBi")
_RTATTR = struct.Struct("=HH")
_NLM_F_REQUEST_DUMP = 0x301
_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_RTM_NEWLINK, _RTM_GETLINK = 16, 18
_RTM_NEWADDR, _RTM_GETADDR = 20, 22
_IFLA_ADDRESS, _IFLA_IFNAME = 1, 3
_IFA_ADDRESS, _IFA_LOCAL = 1, 2


@dataclass(frozen=True, slots=True)
class Interface:
    """One network interface and its IPv4 addresses, main address first. `mac` is empty where it has none."""

    name: str
    index: int
    mac: bytes
    is_up: bool
    is_ethernet: bool
    addresses: tuple[IPv4Interface, ...] = ()

    @property
    def address(self) -> IPv4Address:
        """The main address."""
        return self.addresses[0].ip


def interfaces() -> list[Interface]:
    """All interfaces of this network namespace, without loopback."""
    addresses: dict[int, list[IPv4Interface]] = {}
    for body in _dump(_RTM_GETADDR, _RTM_NEWADDR):
        _, prefix, _, _, index = _IFADDR.unpack_from(body)
        attributes = dict(_attributes(body, _IFADDR.size))
        # On a point-to-point link IFA_ADDRESS is the other end; IFA_LOCAL is always ours.
        raw = attributes.get(_IFA_LOCAL) or attributes.get(_IFA_ADDRESS, b"")
        if len(raw) == 4:
            addresses.setdefault(index, []).append(IPv4Interface((raw, prefix)))
    found = []
    for body in _dump(_RTM_GETLINK, _RTM_NEWLINK):
        _, kind, index, flags, _ = _IFINFO.unpack_from(body)
        attributes = dict(_attributes(body, _IFINFO.size))
        if not flags & _IFF_LOOPBACK:
            found.append(
                Interface(
                    name=attributes.get(_IFLA_IFNAME, b"").rstrip(b"\0").decode(),
                    index=index,
                    mac=attributes.get(_IFLA_ADDRESS, b""),
                    is_up=bool(flags & _IFF_UP),
                    is_ethernet=kind == ARPHRD_ETHER,
                    addresses=tuple(addresses.get(index, ())),
                )
            )
    return found


def _dump(ask: int, answer: int) -> Iterator[bytes]:
    """The bodies of all messages that rtnetlink has of one kind, for IPv4 (rtnetlink(7))."""
    body = struct.pack("=B15x", socket.AF_INET if ask == _RTM_GETADDR else socket.AF_UNSPEC)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as netlink:
        netlink.sendto(_NLMSG.pack(_NLMSG.size + len(body), ask, _NLM_F_REQUEST_DUMP, 1, 0) + body, (0, 0))
        while True:
            data = netlink.recv(1 << 17)
            at = 0
            while at + _NLMSG.size <= len(data):
                size, kind, _, _, _ = _NLMSG.unpack_from(data, at)
                if kind == _NLMSG_DONE:
                    return
                if kind == _NLMSG_ERROR:
                    code = -struct.unpack_from("=i", data, at + _NLMSG.size)[0]
                    raise StartError(f"the kernel does not list the network interfaces: {errno.errorcode.get(code)}")
                if kind == answer:
                    yield data[at + _NLMSG.size : at + size]
                at += (size + 3) & ~3


def _attributes(body: bytes, at: int) -> Iterator[tuple[int, bytes]]:
    while at + _RTATTR.size <= len(body):
        size, kind = _RTATTR.unpack_from(body, at)
        if size < _RTATTR.size:
            return
        yield kind, body[at + _RTATTR.size : at + size]
        at += (size + 3) & ~3


def choose_interfaces(config: Config, present: Sequence[Interface]) -> list[Interface]:
    """The interfaces to serve: those the configuration names, or all that are up, Ethernet and have an address.

    Raises StartError when one that is named is missing, down or without an address.
    """
    by_name = {interface.name: interface for interface in present}
    wanted = dict.fromkeys(config.dhcp.interfaces)
    if not wanted:
        wanted = {
            interface.name: None
            for interface in present
            if interface.is_up and interface.is_ethernet and interface.addresses
        }
    wanted.update((subnet.interface, None) for subnet in config.subnets if subnet.interface)
    for name in wanted:
        _check(name, by_name)
    return [by_name[name] for name in wanted]


def _check(name: str, by_name: dict[str, Interface]) -> None:
    interface = by_name.get(name)
    if interface is None:
        known = ", ".join(by_name) or "none"
        raise StartError(f"there is no network interface {name}, which the configuration names; present are: {known}")
    if not interface.addresses:
        raise StartError(
            f"interface {name} has no IPv4 address: set one with `ip address add ADDRESS/PREFIX dev {name}`"
        )
    if not interface.is_up:
        raise StartError(f"interface {name} is down: set it up with `ip link set {name} up`")


def open_udp(interface: Interface, port: int, *, share: bool = False) -> socket.socket:
    """A UDP socket for all that comes to `port` on one interface, and for sending there. Raises StartError."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        _enlarge(sock)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        sock.setsockopt(socket.IPPROTO_IP, IP_PKTINFO, 1)
        if share:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, interface.name.encode() + b"\0")
        sock.bind(("", port))
    except OSError as error:
        sock.close()
        raise StartError(_why_not(error, interface.name, port)) from None
    return sock


def _enlarge(sock: socket.socket) -> None:
    """Ask for a large receive buffer: past the system's limit with CAP_NET_ADMIN, else as large as it allows."""
    try:
        sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, RECEIVE_BUFFER)
    except PermissionError:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)


def _why_not(error: OSError, interface: str, port: int) -> str:
    where = f"cannot listen on UDP port {port} of interface {interface}"
    if error.errno == errno.EADDRINUSE:
        return (
            f"{where}: another program has it; `ss -ulpn 'sport = :{port}'` shows which. Stop it, keep it off this "
            "interface, or let both have the port with `dhcp: {share_port: true}`"
        )
    if error.errno in (errno.EACCES, errno.EPERM):
        return f"{where}: not permitted; run as root or with CAP_NET_BIND_SERVICE and CAP_NET_RAW"
    return f"{where}: {error.strerror}"


def open_packet(interface: Interface, ethertype: int, *, cooked: bool = False, code: bytes = b"") -> socket.socket:
    """An AF_PACKET socket on one interface. Raises OSError (without CAP_NET_RAW: PermissionError).

    `ethertype` 0 receives nothing: for sending only. `cooked` leaves the link header off. `code` is a BPF program
    that is in force before the first packet, and we do not see what this host sends.
    """
    kind = socket.SOCK_DGRAM if cooked else socket.SOCK_RAW
    # Protocol 0 until the filter stands: a socket opened with the real one receives from all interfaces at once.
    sock = socket.socket(socket.AF_PACKET, kind | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC, 0)
    try:
        if code:
            _attach(sock, code)
        sock.setsockopt(SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)
        sock.bind((interface.name, ethertype))
    except OSError:
        sock.close()
        raise
    return sock


def bpf(*instructions: tuple[int, int, int, int]) -> bytes:
    """A classic BPF program (linux/filter.h): each instruction is code, jump if true, jump if false, value."""
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in instructions)


# To UDP port 68, for a cooked socket, where the IPv4 header is at 0.
TO_DHCP_CLIENTS = bpf(
    (0x30, 0, 0, 9),  # load the protocol
    (0x15, 0, 6, 17),  # UDP?
    (0x28, 0, 0, 6),  # load flags and fragment offset
    (0x45, 4, 0, 0x1FFF),  # a later fragment has no ports
    (0xB1, 0, 0, 0),  # X = length of the IPv4 header
    (0x48, 0, 0, 2),  # load the target port
    (0x15, 0, 1, 68),
    (0x06, 0, 0, 0xFFFF),  # take it
    (0x06, 0, 0, 0),  # leave it
)


def _attach(sock: socket.socket, code: bytes) -> None:
    import ctypes

    buffer = ctypes.create_string_buffer(code, len(code))
    # struct sock_fprog: a count, then, aligned, a pointer; the kernel copies the program before it returns.
    program = struct.pack("HL", len(code) // 8, ctypes.addressof(buffer))
    sock.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, program)


def neighbour(address: str) -> Mac | None:
    """The MAC that the kernel's ARP table has for an address, or None."""
    try:
        with open("/proc/net/arp", encoding="ascii") as table:
            for line in table:
                fields = line.split()
                # IP address, type, flags (0x2: complete), MAC, mask, device
                if fields[0] == address and int(fields[2], 16) & 2:
                    return Mac.parse(fields[3])
    except (OSError, ValueError):
        return None
    return None
