"""Bringing the network up in the image: every port at once, an address by udhcpc on each, renewed as long as it runs.

udhcpc (busybox) does the protocol; its hook script, written here, gives the port its address and leaves it in a file.
Ports found later (slow firmware, a second controller) are taken up when `refresh` sees them.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import socket
import struct
import subprocess
import time
from pathlib import Path

from metalbox.agent import command, nics, sysfs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from metalbox.agent.journal import Journal

# linux/sockios.h, linux/if_vlan.h.
SIOCGIFFLAGS, SIOCSIFFLAGS, SIOCGIFADDR, SIOCSIFVLAN = 0x8913, 0x8914, 0x8915, 0x8983
IFF_UP = 1
ADD_VLAN = 0

RETRY_SECONDS = 5.0  # before a port that could not be brought up, or whose udhcpc ended, is tried again
TELL_SECONDS = 20.0

# Ask every 2 s for ever: a switch port in spanning tree's listening state swallows the first 30 s.
UDHCPC = ("-f", "-t", "3", "-T", "2", "-A", "2")

# `ip` is busybox's own applet in Debian's busybox sh, iproute2 elsewhere; only what both know is used. The metric keeps
# default routes of several ports apart; requests name their port, so that its own route is the one taken. Each program
# started costs 50 ms under emulation, hence `read` instead of grep, and no temporary file (readers want whole lines).
HOOK = """\
#!/bin/sh
state={folder}/$interface.env
case $1 in
deconfig)
    rm -f "$state"
    ip link set "$interface" up
    ip -4 addr flush dev "$interface"
    ;;
bound|renew)
    known=
    [ -r "$state" ] && read -r known <"$state"
    if [ "$known" != "address=$ip/$mask" ]; then
        [ -n "$known" ] && ip -4 addr flush dev "$interface"
        ip addr add "$ip/$mask" dev "$interface"
    fi
    read -r metric <"/sys/class/net/$interface/ifindex"
    for gateway in $router; do
        [ "$mask" = 32 ] && ip route replace "$gateway" dev "$interface"
        ip route replace default via "$gateway" dev "$interface" metric "$metric"
        break
    done
    printf 'address=%s\\nserver=%s\\nlease=%s\\n' "$ip/$mask" "$serverid" "$lease" >"$state"
    ;;
esac
"""


class OpenNetwork:
    """The network as it is: nothing is brought up, and routing chooses the port."""

    def refresh(self) -> None:
        """Nothing to do."""

    def ready(self) -> list[str]:
        """One way: no particular port."""
        return [""]


class Network:
    """The ports of this machine. `preferred_mac` is the port that the firmware booted from, `vlan` 0 for none.

    `only` names the ports to use; all physical ones otherwise.
    """

    def __init__(
        self,
        journal: Journal,
        preferred_mac: str = "",
        vlan: int = 0,
        only: tuple[str, ...] = (),
        folder: Path = Path("/run/metalbox"),
    ) -> None:
        self._journal = journal
        self._preferred_mac = preferred_mac.lower()
        self._vlan = vlan
        self._only = only
        self._folder = folder
        self._clients: dict[str, subprocess.Popen[bytes]] = {}
        self._addresses: dict[str, str] = {}
        self._next_try: dict[str, float] = {}
        self._tell_at = time.monotonic() + TELL_SECONDS

    def refresh(self) -> None:
        """Take up ports not yet in use, start again a udhcpc that ended, and tell of addresses gained and lost."""
        now = time.monotonic()
        for port in self._only or nics.port_names(Path("/")):
            name = f"{port}.{self._vlan}" if self._vlan else port
            client = self._clients.get(name)
            if (client is None or client.poll() is not None) and now >= self._next_try.get(name, 0.0):
                self._next_try[name] = now + RETRY_SECONDS
                self._take_up(port, name)
        self._tell(now)

    def ready(self) -> list[str]:
        """The ports that have an address, the preferred one first."""
        ports = [name for name in self._clients if self._address(name)]
        return sorted(ports, key=lambda name: not self._is_preferred(name))

    def stop(self) -> None:
        """End the DHCP clients."""
        for client in self._clients.values():
            client.terminate()
        for client in self._clients.values():
            with contextlib.suppress(subprocess.TimeoutExpired):
                client.wait(timeout=2)

    def _take_up(self, port: str, name: str) -> None:
        if not self._clients:
            self._prepare()
        try:
            set_up(port)
            if name != port:
                add_vlan(port, self._vlan)
                set_up(name)
            self._clients[name] = self._start_client(name)
        except (OSError, command.CommandFailed) as error:
            self._journal.say(f"{name}: cannot be brought up: {error}")
            return
        self._journal.say(f"{name}: asking for an address")

    def _prepare(self) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        script = self._folder / "udhcpc.sh"
        script.write_text(HOOK.format(folder=self._folder))
        script.chmod(0o755)
        # With two ports on one network Linux answers ARP for either address on both; replies then come in by the other
        # port, and a connection bound to one port never hears them.
        for setting, value in (("arp_ignore", "1"), ("arp_announce", "2")):
            with contextlib.suppress(OSError):
                Path(f"/proc/sys/net/ipv4/conf/all/{setting}").write_text(value)

    def _start_client(self, name: str) -> subprocess.Popen[bytes]:
        program = [command.find("udhcpc")]
        if not program[0]:
            busybox = command.find("busybox")
            if not busybox:
                raise command.CommandFailed("neither udhcpc nor busybox is installed")
            program = [busybox, "udhcpc"]
        pidfile = self._folder / f"{name}.pid"
        _end_predecessor(pidfile)
        arguments = [*program, *UDHCPC, "-i", name, "-s", str(self._folder / "udhcpc.sh"), "-p", str(pidfile)]
        return subprocess.Popen(
            arguments, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )

    def _address(self, name: str) -> str:
        first, newline, _ = sysfs.content(self._folder / f"{name}.env").decode("ascii", "replace").partition("\n")
        return first.removeprefix("address=") if newline else ""

    def _is_preferred(self, name: str) -> bool:
        return sysfs.text(Path("/sys/class/net") / name / "address").lower() == self._preferred_mac

    def _tell(self, now: float) -> None:
        known = {name: self._address(name) for name in self._clients}
        for name, address in known.items():
            before = self._addresses.get(name, "")
            if address != before:
                self._journal.say(f"{name}: address {address}" if address else f"{name}: lost its address {before}")
        self._addresses = known
        if any(known.values()):
            self._tell_at = now + TELL_SECONDS
        elif now >= self._tell_at:
            self._tell_at = now + TELL_SECONDS
            ports = ", ".join(f"{name} ({_link(name)})" for name in known) or "this machine shows no network port"
            self._journal.say(f"no address yet: {ports}")


def _link(name: str) -> str:
    return "link" if sysfs.truth(Path("/sys/class/net") / name / "carrier") else "no link"


def _end_predecessor(pidfile: Path) -> None:
    """End the udhcpc that an earlier run of the agent left on this port."""
    pid = sysfs.number(pidfile)
    if pid and b"udhcpc" in sysfs.content(Path(f"/proc/{pid}/cmdline")):
        with contextlib.suppress(OSError):
            os.kill(pid, signal.SIGTERM)


def _control() -> socket.socket:
    return socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)


def set_up(port: str) -> None:
    """Switch a port on (IFF_UP). Raises OSError."""
    with _control() as descriptor:
        request = struct.pack("=16sh22x", port.encode()[:15], 0)
        flags = struct.unpack_from("=h", fcntl.ioctl(descriptor, SIOCGIFFLAGS, request), 16)[0]
        if not flags & IFF_UP:
            fcntl.ioctl(descriptor, SIOCSIFFLAGS, struct.pack("=16sh22x", port.encode()[:15], flags | IFF_UP))


def add_vlan(port: str, vlan: int) -> None:
    """Make the interface `<port>.<vlan>` (IEEE 802.1Q), unless it is there. Raises OSError."""
    if (Path("/sys/class/net") / f"{port}.{vlan}").exists():
        return
    with _control() as descriptor:
        # struct vlan_ioctl_args: command, device, union of 24 bytes whose first int is the VLAN id, priority.
        fcntl.ioctl(descriptor, SIOCSIFVLAN, struct.pack("=i24si20xh2x", ADD_VLAN, port.encode()[:15], vlan, 0))


def port_with(address: str) -> str:
    """The interface that has this IPv4 address; "" when none has it."""
    with _control() as descriptor:
        for _, name in socket.if_nameindex():
            with contextlib.suppress(OSError):
                answer = fcntl.ioctl(descriptor, SIOCGIFADDR, struct.pack("=16s24x", name.encode()))
                if socket.inet_ntoa(answer[20:24]) == address:
                    return name
    return ""
