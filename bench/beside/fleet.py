"""A fleet of simulated machines that boot at the same time: run inside the clients' namespace.

    python -m bench.beside.fleet --machines 1000 [--spread 1.0] [--limit 300] [--interface eth0]

Each machine gets its address by DHCP, puts it on the interface, fetches the boot loader by TFTP, asks again as iPXE,
fetches two scripts, kernel and initrd by HTTP, and sends a report as the agent does. Bodies are thrown away inside the
kernel. Prints one line of JSON; `retries` counts what firmware would have had to repeat.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import random
import resource
import socket
import struct
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from bench.beside import firmware, population
from bench.beside.figures import percentile
from bench.beside.firmware import Offer, Phase

DHCP_SERVER = ("255.255.255.255", 67)
UDP_GRO = 104
DRAIN = 256
TAKE = 1 << 20
# iPXE tries a URL again when a script says so; ours say so after 1, 2, ... s.
HTTP_TRIES = 8
_waste = bytearray(TAKE)


class GaveUp(Exception):
    """A machine whose firmware had no more tries."""


class Interface:
    """Puts addresses on an interface, by rtnetlink (rtnetlink(7))."""

    def __init__(self, name: str) -> None:
        self._index = socket.if_nametoindex(name)
        self._sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
        self._serial = 0

    def add(self, address: bytes) -> None:
        """Add a /32. One that is there already is fine. Raises OSError."""
        self._serial += 1
        attributes = struct.pack("=HH4s", 8, 2, address) + struct.pack("=HH4s", 8, 1, address)
        body = struct.pack("=BBBBi", socket.AF_INET, 32, 0, 0, self._index) + attributes
        # RTM_NEWADDR; NLM_F_REQUEST, NLM_F_ACK, NLM_F_REPLACE, NLM_F_CREATE.
        self._sock.send(struct.pack("=IHHII", 16 + len(body), 20, 0x505, self._serial, 0) + body)
        code = -int(struct.unpack_from("=i", self._sock.recv(4096), 16)[0])
        if code:
            raise OSError(code, "an address cannot be set")


class Exchange:
    """The one socket of all machines for DHCP; answers find their machine by the transaction."""

    def __init__(self, interface: str) -> None:
        self._sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, interface.encode())
        self._sock.setsockopt(socket.SOL_SOCKET, 33, 16 << 20)  # SO_RCVBUFFORCE
        self._sock.bind(("", 68))
        self._waiting: dict[int, tuple[int, asyncio.Future[Offer]]] = {}
        asyncio.get_running_loop().add_reader(self._sock, self._readable)

    def _readable(self) -> None:
        for _ in range(DRAIN):
            try:
                read = firmware.read_dhcp(self._sock.recv(2048))
            except BlockingIOError:
                return
            if read is None or read[0] not in self._waiting:
                continue
            kind, future = self._waiting[read[0]]
            if not future.done() and read[1].kind in (kind, firmware.NAK):
                future.set_result(read[1])

    async def ask(self, message: bytes, xid: int, kind: int, timers: Sequence[float], lost: Counter[str]) -> Offer:
        """Send until an answer of this kind comes. Raises GaveUp."""
        for turn, patience in enumerate(timers):
            if turn:
                lost["dhcp"] += 1
            future: asyncio.Future[Offer] = asyncio.get_running_loop().create_future()
            self._waiting[xid] = kind, future
            with contextlib.suppress(OSError):
                self._sock.sendto(message, DHCP_SERVER)
            try:
                async with asyncio.timeout(patience):
                    found = await future
            except TimeoutError:
                continue
            finally:
                del self._waiting[xid]
            if found.kind == firmware.NAK:
                raise GaveUp("NAK")
            return found
        raise GaveUp("no answer by DHCP")


class Fetch:
    """One TFTP transfer, driven by the socket. `size` stays -1 when the server tells none."""

    def __init__(self, address: str, server: str, name: str, lost: Counter[str], *, is_probe: bool) -> None:
        self._lost = lost
        self._is_probe = is_probe
        self._server = (server, 69)
        self._sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self._sock.bind((address, 0))
        self._sock.setsockopt(socket.IPPROTO_UDP, UDP_GRO, 1)
        self._is_connected = False
        self._last = firmware.read_request(name, is_probe=is_probe)
        self._blksize, self._window = 512, 1
        self._acked = self._in_window = 0
        self.size = -1
        self.received = 0

    async def run(self) -> None:
        """To the end. Raises GaveUp."""
        loop = asyncio.get_running_loop()
        self._done: asyncio.Future[None] = loop.create_future()
        loop.add_reader(self._sock, self._readable)
        try:
            self._send()
            tries = len(firmware.EDK2_TFTP)
            while tries:
                before = self._acked, self._is_connected
                done, _ = await asyncio.wait((self._done,), timeout=firmware.EDK2_TFTP[0])
                if done:
                    return self._done.result()
                if before == (self._acked, self._is_connected):
                    tries -= 1
                    self._lost["tftp"] += 1
                    self._send()
            raise GaveUp("TFTP timed out")
        finally:
            loop.remove_reader(self._sock)
            self._sock.close()

    def _send(self) -> None:
        with contextlib.suppress(OSError):
            if self._is_connected:
                self._sock.send(self._last)
            else:
                self._sock.sendto(self._last, self._server)

    def _readable(self) -> None:
        for _ in range(8):
            try:
                data, control, _, source = self._sock.recvmsg(65535, 64)
            except BlockingIOError:
                return
            except OSError as error:
                self._fail(f"TFTP: {error.strerror}")
                return
            if not self._is_connected:
                self._sock.connect(source)
                self._is_connected = True
            step = struct.unpack("=i", control[0][2][:4])[0] if control else len(data)
            for at in range(0, len(data), step):
                self._take(data[at : at + 4], min(step, len(data) - at), data)
                if self._done.done():
                    return

    def _fail(self, why: str) -> None:
        if not self._done.done():
            self._done.set_exception(GaveUp(why))

    def _take(self, head: bytes, length: int, data: bytes) -> None:
        if head[1] == 6 and not self._acked:
            options = firmware.granted(data)
            self.size = options.get("tsize", -1)
            if self._is_probe:
                self._last = b"\x00\x05\x00\x08User aborted the transfer\0"
                self._send()
                self._done.set_result(None)
                return
            self._blksize, self._window = options.get("blksize", 512), options.get("windowsize", 1)
            self._ack()
        elif head[1] == 5:
            self._fail("TFTP: the server sent an error")
        elif head[1] == 3 and int.from_bytes(head[2:4], "big") == (self._acked + 1) & 0xFFFF:
            self._acked += 1
            self._in_window += 1
            self.received += length - 4
            is_end = length - 4 < self._blksize
            if is_end or self._in_window >= self._window:
                self._ack()
            if is_end:
                self._done.set_result(None)

    def _ack(self) -> None:
        self._last = b"\x00\x04" + (self._acked & 0xFFFF).to_bytes(2, "big")
        self._in_window = 0
        self._send()


async def http(
    address: str, url: str, lost: Counter[str], *, post: bytes | None = None, keep: bool = False
) -> tuple[bytes, int]:
    """GET or POST over a connection of its own, as firmware does. Returns the body, if kept, and its length."""
    server, port, path = firmware.place(url)
    verb = "GET" if post is None else "POST"
    length = "" if post is None else f"Content-Type: application/json\r\nContent-Length: {len(post)}\r\n"
    head = f"{verb} {path} HTTP/1.1\r\nHost: {server}\r\n{length}Connection: close\r\n\r\n"
    for turn in range(HTTP_TRIES):
        sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            sock.bind((address, 0))
            found = await _converse(sock, (server, port), head.encode() + (post or b""), keep)
        except OSError:
            lost["http"] += 1
            await asyncio.sleep(1.0 + turn)
            continue
        finally:
            sock.close()
        status, later, body, size = found
        if status == 200:
            return body, size
        if status != 503:
            raise GaveUp(f"{verb} {path} was answered {status}")
        lost["deferred"] += 1
        await asyncio.sleep(later or 1.0)
    raise GaveUp(f"{verb} {path}: no more tries")


async def _converse(
    sock: socket.socket, server: tuple[str, int], request: bytes, keep: bool
) -> tuple[int, float, bytes, int]:
    loop = asyncio.get_running_loop()
    await loop.sock_connect(sock, server)
    await loop.sock_sendall(sock, request)
    data = b""
    while b"\r\n\r\n" not in data:
        part = await loop.sock_recv(sock, 16384)
        if not part:
            raise ConnectionResetError("the connection ended in the head")
        data += part
    head, _, body = data.partition(b"\r\n\r\n")
    lines = head.decode("latin-1").split("\r\n")
    fields = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
    size, status = int(fields.get("content-length", "0")), int(lines[0].split()[1])
    left = size - len(body)
    if keep:
        while left > 0:
            part = await loop.sock_recv(sock, left)
            if not part:
                raise ConnectionResetError("the connection ended in the body")
            body += part
            left -= len(part)
    elif left > 0:
        await _waste_rest(sock, left)
    return status, float(fields.get("retry-after", "0")), body if keep else b"", size


async def _waste_rest(sock: socket.socket, left: int) -> None:
    """MSG_TRUNC on TCP: the kernel counts and copies nothing (tcp(7))."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[None] = loop.create_future()

    def readable() -> None:
        nonlocal left
        try:
            count = sock.recv_into(_waste, min(left, TAKE), socket.MSG_TRUNC)
        except BlockingIOError:
            return
        except OSError as error:
            done.set_exception(error)
            return
        left -= count
        if not count:
            done.set_exception(ConnectionResetError("the connection ended in the body"))
        elif not left:
            done.set_result(None)
        else:
            return
        loop.remove_reader(sock)

    loop.add_reader(sock, readable)
    try:
        await done
    finally:
        loop.remove_reader(sock)


@dataclass
class Fleet:
    """All machines and what came of them. `run` it once."""

    machines: int
    interface: str = "eth0"
    spread: float = 1.0
    limit: float = 300.0
    lost: Counter[str] = field(default_factory=Counter)
    phases: dict[Phase, list[float]] = field(default_factory=dict)
    arrived: list[float] = field(default_factory=list)
    failures: Counter[str] = field(default_factory=Counter)
    bytes: int = 0

    async def run(self) -> dict[str, Any]:
        """Switch all on within `spread` seconds, wait until the last has arrived or `limit` is over."""
        self._dhcp = Exchange(self.interface)
        self._addresses = Interface(self.interface)
        self._began = time.monotonic()
        rng = random.Random(self.machines)
        delays = [rng.uniform(0, self.spread) for _ in range(self.machines)]
        tasks = [asyncio.create_task(self._boot(number, delay)) for number, delay in enumerate(delays)]
        _, late = await asyncio.wait(tasks, timeout=self.limit)
        for task in late:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self.failures["not in time"] += len(late)
        used = resource.getrusage(resource.RUSAGE_SELF)
        phases = {
            str(phase): {"count": len(times), "p50": percentile(times, 50), "p99": percentile(times, 99)}
            for phase, times in self.phases.items()
        }
        retries = sum(count for what, count in self.lost.items() if what != "deferred")
        return {
            "machines": self.machines,
            "arrived": len(self.arrived),
            "missing": self.machines - len(self.arrived),
            "seconds": max(self.arrived, default=self.limit) if not late else self.limit,
            "p50_seconds": percentile(self.arrived, 50),
            "retries": retries,
            "deferred": self.lost["deferred"],
            "lost_by": dict(self.lost),
            "bytes": self.bytes,
            "phases": phases,
            "failures": {why: count for why, count in self.failures.items() if count},
            "cpu_seconds": used.ru_utime + used.ru_stime,
        }

    async def _boot(self, number: int, delay: float) -> None:
        await asyncio.sleep(delay)
        try:
            await self._steps(number)
        except (GaveUp, OSError, ValueError) as error:
            self.failures[str(error)[:120]] += 1
        else:
            self.arrived.append(time.monotonic() - self._began)

    @contextlib.contextmanager
    def _phase(self, phase: Phase) -> Iterator[None]:
        began = time.monotonic()
        yield
        self.phases.setdefault(phase, []).append(time.monotonic() - began)

    async def _steps(self, number: int) -> None:
        lost = self.lost
        with self._phase(Phase.ROM_DHCP):
            lease = await self._lease(number, ipxe=False)
        address = socket.inet_ntoa(lease.address)
        self._addresses.add(lease.address)
        with self._phase(Phase.TFTP):
            server = socket.inet_ntoa(lease.next_server)
            await Fetch(address, server, lease.file, lost, is_probe=True).run()
            file = Fetch(address, server, lease.file, lost, is_probe=False)
            await file.run()
            self.bytes += file.received
        with self._phase(Phase.IPXE_DHCP):
            lease = await self._lease(number, ipxe=True)
        with self._phase(Phase.FIRST_SCRIPT):
            _, size = await http(address, lease.file, lost, keep=True)
            self.bytes += size
        with self._phase(Phase.SCRIPT):
            script, _ = await http(address, self._script_url(number, address, lease.file), lost, keep=True)
        with self._phase(Phase.IMAGES):
            urls = firmware.images(script.decode())
            if len(urls) != 2:
                raise GaveUp(f"the script names {len(urls)} images: {script[:60]!r}")
            for url in urls:
                self.bytes += (await http(address, url, lost))[1]
        with self._phase(Phase.REPORT):
            await self._report(number, address, lease.file.rpartition("/ipxe/")[0])

    async def _lease(self, number: int, *, ipxe: bool) -> Offer:
        xid = number << 1 | ipxe
        timers = firmware.IPXE_DHCP if ipxe else firmware.EDK2_DHCP
        discover = firmware.dhcp(firmware.DISCOVER, number, xid, ipxe=ipxe)
        offer = await self._dhcp.ask(discover, xid, firmware.OFFER, timers, self.lost)
        request = firmware.dhcp(firmware.REQUEST, number, xid, ipxe=ipxe, chosen=offer)
        return await self._dhcp.ask(request, xid, firmware.ACK, timers, self.lost)

    def _script_url(self, number: int, address: str, first: str) -> str:
        mac = firmware.mac_of(number).hex("-")
        return (
            f"{first.rpartition('/')[0]}/script?mac={mac}&uuid={population.uuid_of(number)}&arch=x86_64&platform=efi"
            f"&ip={address}&loader=ipxe-1.21.1&serial={population.serial_of(number)}&asset=&vendor=QEMU&product=PC"
        )

    async def _report(self, number: int, address: str, server: str) -> None:
        mac = firmware.mac_of(number).hex(":")
        uuid, serial = population.uuid_of(number), population.serial_of(number)
        hello = {"boot_id": f"boot-{number}", "macs": [mac], "uuid": uuid, "serial": serial, "uptime_seconds": 3.0}
        await http(address, f"{server}/agent/v1/hello", self.lost, post=json.dumps(hello).encode())
        document = population.report_of(number)
        document["agent"]["booted_mac"] = document["hardware"]["nics"][0]["mac"] = mac
        await http(address, f"{server}/agent/v1/report", self.lost, post=json.dumps(document).encode())


def main(arguments: Sequence[str]) -> int:
    """Boot a fleet, and print what came of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--machines", type=int, default=1000)
    parser.add_argument("--interface", default="eth0")
    parser.add_argument("--spread", type=float, default=1.0, help="seconds within which all are switched on")
    parser.add_argument("--limit", type=float, default=300.0, help="seconds after which nobody is waited for")
    options = parser.parse_args(arguments)
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    fleet = Fleet(options.machines, options.interface, options.spread, options.limit)
    print(json.dumps(asyncio.run(fleet.run())))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
