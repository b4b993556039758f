"""A fleet of simulated machines that boot at the same time: run at the far end of a wire.

    python -m metalbox.lab.fleet --machines 1000 [--spread 1.0] [--limit 300] [--interface eth0] [--patience 1.0]

Each machine gets its address by DHCP, puts it on the interface, fetches the boot loader by TFTP, asks again as iPXE,
fetches two scripts, kernel and initrd by HTTP, and says hello and reports as the agent does. It thinks for no time
between its steps, so a fleet asks for more than real machines can. Prints one line of JSON; `retries` counts what
firmware had to repeat.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import random
import resource
import socket
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from metalbox.lab import pxeclient
from metalbox.lab.fleetwires import Exchange, Fetch, GaveUp, Interface, http
from metalbox.lab.pxeclient import Offer, Phase


def percentile(values: Sequence[float], percent: float) -> float:
    """The nearest rank; -1.0 without values."""
    if not values:
        return -1.0
    ordered = sorted(values)
    return ordered[min(int(percent / 100 * len(ordered)), len(ordered) - 1)]


@dataclass
class Fleet:
    """All machines and what came of them. `run` it once."""

    machines: int
    interface: str = "eth0"
    spread: float = 1.0
    limit: float = 300.0
    # What firmware's timers are multiplied with.
    patience: float = 1.0
    lost: Counter[str] = field(default_factory=Counter)
    phases: dict[Phase, list[float]] = field(default_factory=dict)
    booted: list[float] = field(default_factory=list)
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
        self._dhcp.close()
        self._addresses.close()
        self.failures["not in time"] += len(late)
        return self.outcome(is_over=not late)

    def outcome(self, *, is_over: bool) -> dict[str, Any]:
        """The figures; seconds from the first switch-on. `seconds` is the last machine's, or the limit.

        `booted_seconds` ends when the last machine has its kernel and initrd, before it reports.
        """
        used = resource.getrusage(resource.RUSAGE_SELF)
        phases = {
            str(phase): {"count": len(times), "p50": percentile(times, 50), "p99": percentile(times, 99)}
            for phase in Phase
            if (times := self.phases.get(phase))
        }
        return {
            "machines": self.machines,
            "arrived": len(self.arrived),
            "missing": self.machines - len(self.arrived),
            "seconds": max(self.arrived, default=self.limit) if is_over else self.limit,
            "p50_seconds": percentile(self.arrived, 50),
            "booted_seconds": max(self.booted, default=self.limit),
            "booted_p50_seconds": percentile(self.booted, 50),
            "retries": sum(count for what, count in self.lost.items() if what != "deferred"),
            "deferred": self.lost["deferred"],
            "lost_by": {what: count for what, count in self.lost.items() if what != "deferred"},
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
            timers = self._patient(pxeclient.EDK2_TFTP)
            await Fetch(address, server, lease.file, lost, is_probe=True).run(timers)
            file = Fetch(address, server, lease.file, lost, is_probe=False)
            await file.run(timers)
            self.bytes += file.received
        with self._phase(Phase.IPXE_DHCP):
            lease = await self._lease(number, ipxe=True)
        with self._phase(Phase.FIRST_SCRIPT):
            _, size = await http(address, lease.file, lost, keep=True)
            self.bytes += size
        folder = lease.file.rpartition("/")[0]
        with self._phase(Phase.SCRIPT):
            url = f"{folder}/script{pxeclient.script_query(number, address)}"
            script, _ = await http(address, url, lost, keep=True)
        with self._phase(Phase.IMAGES):
            await self._images(address, script.decode())
        self.booted.append(time.monotonic() - self._began)
        with self._phase(Phase.REPORT):
            await self._report(number, address, folder.rpartition("/ipxe")[0])

    async def _images(self, address: str, script: str) -> None:
        urls = pxeclient.images(script)
        if len(urls) != 2:
            raise GaveUp(f"the script names {len(urls)} images: {script[:60]!r}")
        for url in urls:
            # Not `+= await`: that would read the sum before the wait, and lose what others add meanwhile.
            _, size = await http(address, url, self.lost)
            self.bytes += size

    async def _lease(self, number: int, *, ipxe: bool) -> Offer:
        xid = number << 1 | ipxe
        timers = self._patient(pxeclient.IPXE_DHCP if ipxe else pxeclient.EDK2_DHCP)
        discover = pxeclient.dhcp(pxeclient.DISCOVER, number, xid, ipxe=ipxe)
        offer = await self._dhcp.ask(discover, xid, pxeclient.OFFER, timers, self.lost)
        request = pxeclient.dhcp(pxeclient.REQUEST, number, xid, ipxe=ipxe, chosen=offer)
        return await self._dhcp.ask(request, xid, pxeclient.ACK, timers, self.lost)

    def _patient(self, timers: Sequence[float]) -> Sequence[float]:
        return [seconds * self.patience for seconds in timers]

    async def _report(self, number: int, address: str, server: str) -> None:
        hello, report = pxeclient.hello(number), pxeclient.report(number, address)
        await http(address, f"{server}/agent/v1/hello", self.lost, post=json.dumps(hello).encode())
        await http(address, f"{server}/agent/v1/report", self.lost, post=json.dumps(report).encode())


def main(arguments: Sequence[str]) -> int:
    """Boot a fleet, and print what came of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--machines", type=int, default=1000)
    parser.add_argument("--interface", default="eth0")
    parser.add_argument("--spread", type=float, default=1.0, help="seconds within which all are switched on")
    parser.add_argument("--limit", type=float, default=300.0, help="seconds after which nobody is waited for")
    parser.add_argument("--patience", type=float, default=1.0, help="what firmware's timers are multiplied with")
    options = parser.parse_args(arguments)
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    fleet = Fleet(options.machines, options.interface, options.spread, options.limit, options.patience)
    print(json.dumps(asyncio.run(fleet.run())))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
