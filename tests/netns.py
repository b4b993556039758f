"""Network namespaces for tests: a little wire with real clients at its ends, gone afterwards whatever happened.

    with Namespaces() as net:
        net.link("server", "eth0", "client", "eth0", left_ip="192.0.2.1/24")
        net.run("client", "ping", "-c1", "192.0.2.1")

Names given here are short; the real ones carry this process's id, so that two runs never meet and what a killed run
left behind is swept away by the next one. Links are made inside their namespaces: the machine's own network is not
touched.
"""

from __future__ import annotations

import ctypes
import fcntl
import itertools
import os
import re
import signal
import socket
import struct
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

PREFIX = "mbt"
_NAME = re.compile(rf"{PREFIX}(\d+)-\d+-.+")
Finished = subprocess.CompletedProcess[str]
_counter = itertools.count()
SIOCGIFFLAGS, SIOCSIFFLAGS, IFF_RUNNING = 0x8913, 0x8914, 0x40

# What a namespace does the moment it exists: addresses usable at once (no duplicate address detection, RFC 4862
# section 5.4, which takes a second), no reverse path filter (it drops what a relay sends from its far side), and no
# router solicitations but those of the tests.
SYSCTLS = (
    "net.ipv6.conf.all.accept_dad=0",
    "net.ipv6.conf.default.accept_dad=0",
    "net.ipv6.conf.all.router_solicitations=0",
    "net.ipv6.conf.default.router_solicitations=0",
    "net.ipv4.conf.all.rp_filter=0",
    "net.ipv4.conf.default.rp_filter=0",
)


def _call(*command: str, check: bool = True) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    if check and done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout


def sweep() -> None:
    """Delete the namespaces of test runs that no longer live."""
    for line in _call("ip", "netns", "list").splitlines():
        match = _NAME.match(line.split()[0]) if line else None
        if match and not Path("/proc", match[1]).exists():
            delete(line.split()[0])


def delete(full_name: str) -> None:
    """End the processes inside one namespace, then remove it and, with it, its interfaces."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        pids = [int(pid) for pid in _call("ip", "netns", "pids", full_name, check=False).split()]
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, number)
        deadline = time.monotonic() + 2
        while pids and time.monotonic() < deadline and any(_is_alive(pid) for pid in pids):
            time.sleep(0.02)
    _call("ip", "netns", "delete", full_name, check=False)


def _is_alive(pid: int) -> bool:
    """Whether a process still runs (a zombie, waiting for its parent to read its exit code, does not)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


class Namespaces:
    """Namespaces, cables and bridges of one test; leaving the `with` block ends their processes and deletes them."""

    def __init__(self) -> None:
        self.prefix = f"{PREFIX}{os.getpid()}-{next(_counter)}-"
        self._names: list[str] = []
        self._processes: list[subprocess.Popen[Any]] = []

    def __enter__(self) -> Namespaces:
        sweep()
        return self

    def __exit__(self, *exc: object) -> None:
        for process in self._processes:
            process.terminate()
        for name in self._names:
            delete(self.prefix + name)
        for process in self._processes:
            try:
                process.wait(timeout=60)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(timeout=60)
            for pipe in (process.stdin, process.stdout, process.stderr):
                if pipe is not None:
                    pipe.close()
        self._processes.clear()
        self._names.clear()

    def add(self, name: str, *, forward: bool = False) -> str:
        """Make a namespace (once) with loopback up; `forward` makes it a router. Returns its full name."""
        if name not in self._names:
            _call("ip", "netns", "add", self.prefix + name)
            self._names.append(name)
            self.run(name, "sysctl", "-qw", *SYSCTLS)
            self.run(name, "ip", "link", "set", "lo", "up")
        if forward:
            self.run(name, "sysctl", "-qw", "net.ipv4.ip_forward=1")
        return self.prefix + name

    def exec(self, name: str) -> list[str]:
        """The words to put before a command so that it runs in the namespace."""
        return ["ip", "netns", "exec", self.prefix + name]

    @contextmanager
    def inside(self, name: str) -> Iterator[None]:
        """Move this thread into the namespace: sockets opened meanwhile belong to it for good."""
        libc = ctypes.CDLL(None, use_errno=True)
        with open("/proc/thread-self/ns/net") as home, open(f"/run/netns/{self.prefix}{name}") as there:
            if libc.setns(there.fileno(), 0):
                raise OSError(ctypes.get_errno(), f"cannot enter the namespace {name}")
            try:
                yield
            finally:
                if libc.setns(home.fileno(), 0):
                    raise OSError(ctypes.get_errno(), "cannot leave the namespace")

    def run(
        self, name: str, *command: str, check: bool = True, timeout: float = 30
    ) -> subprocess.CompletedProcess[str]:
        """Run a command there to its end; raises with its error output when it fails and `check` is set."""
        done = subprocess.run(
            [*self.exec(name), *command], capture_output=True, text=True, timeout=timeout, check=False
        )
        if check and done.returncode:
            raise RuntimeError(f"in {name}: {' '.join(command)}: {done.stderr.strip() or done.stdout.strip()}")
        return done

    def popen(self, name: str, *command: str, **kwargs: Any) -> subprocess.Popen[Any]:
        """Start a command there; it is ended with the namespaces."""
        process = subprocess.Popen([*self.exec(name), *command], **kwargs)
        self._processes.append(process)
        return process

    def link(
        self, left: str, left_port: str, right: str, right_port: str, *, left_ip: str = "", right_ip: str = ""
    ) -> None:
        """A cable (veth pair) between two namespaces, up at both ends; addresses as "192.0.2.1/24"."""
        self.add(left)
        self.add(right)
        _call(
            *("ip", "link", "add", left_port, "netns", self.prefix + left, "type", "veth"),
            *("peer", "name", right_port, "netns", self.prefix + right),
        )
        self.up(left, left_port, left_ip)
        self.up(right, right_port, right_ip)
        self._wait_running(left, left_port)
        self._wait_running(right, right_port)

    def bridge(self, name: str, port: str, address: str = "") -> None:
        """A switch without spanning tree and multicast snooping; plug cables with `plug`."""
        self.add(name)
        kind = ("type", "bridge", "stp_state", "0", "forward_delay", "0", "mcast_snooping", "0")
        self.run(name, "ip", "link", "add", port, *kind)
        self.up(name, port, address)

    def plug(self, name: str, bridge: str, port: str, far: str, far_port: str, *, far_ip: str = "") -> None:
        """A cable from a bridge's new `port` to `far_port` of the namespace `far`."""
        self.link(name, port, far, far_port, right_ip=far_ip)
        self.run(name, "ip", "link", "set", port, "master", bridge)

    def up(self, name: str, port: str, address: str = "") -> None:
        """Give a port an address, if any, and set it up."""
        if address:
            self.run(name, "ip", "address", "add", address, "dev", port)
        self.run(name, "ip", "link", "set", port, "up")

    def _wait_running(self, name: str, port: str) -> None:
        """Until a port sends: the kernel notices a new link some time later, and drops silently what comes before."""
        with self.inside(name), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            for _ in range(6000):
                given = fcntl.ioctl(sock, SIOCGIFFLAGS, struct.pack("16sh22x", port.encode(), 0))
                if struct.unpack_from("h", given, 16)[0] & IFF_RUNNING:
                    break
                time.sleep(0.01)
            # Changes nothing, but waits for the lock that the kernel holds until its noticing is done.
            fcntl.ioctl(sock, SIOCSIFFLAGS, given)

    def mac(self, name: str, port: str) -> str:
        """The hardware address of a port."""
        return self.run(name, "cat", f"/sys/class/net/{port}/address").stdout.strip()

    def addresses(self, name: str, port: str) -> list[str]:
        """The IPv4 addresses of a port, without their prefix lengths."""
        lines = self.run(name, "ip", "-4", "-o", "address", "show", "dev", port).stdout.splitlines()
        return [line.split()[3].partition("/")[0] for line in lines]
