"""What the agent says to the server, and when: hello, report, then waiting for orders for ever.

    reach    hello by every port that has an address, the boot port first; the first answer decides the way
    report   the hardware as it is known now; again when a port learns something new, or an order asks for it
    poll     wait for orders; "unknown boot" (404) means that the server wants the report again

Whatever fails is tried again, after 1 to 15 seconds, never at once and never a last time.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from pathlib import Path

from metalbox.agent import VERSION, sysfs
from metalbox.agent.client import Client, Refused, Unreachable, expect, race
from metalbox.agent.errands import Errands, new_run
from metalbox.agent.network import port_with

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Protocol

    from metalbox.agent.inventory import Inventory
    from metalbox.agent.journal import Journal
    from metalbox.agent.lldp import Neighbours

    class Ways(Protocol):
        """The network: what `Network` and `OpenNetwork` have in common."""

        def refresh(self) -> None: ...
        def ready(self) -> list[str]: ...


HELLO, REPORT, ORDERS, LOG = "/agent/v1/hello", "/agent/v1/report", "/agent/v1/orders", "/agent/v1/log"
POLL_SECONDS = 30
FAILURES_BEFORE_ANOTHER_WAY = 3
ONCE_SECONDS = 60.0  # for an address, when reporting only once
REPEAT_SECONDS = 60.0  # how often the same failure is worth a line


def uptime() -> float:
    """Seconds since the kernel started."""
    return float((sysfs.text(Path("/proc/uptime")).split() or ["0"])[0])


class Pace:
    """How long things are waited for, in seconds. Tests turn it up.

    `first` to `most`: between tries. `head_start`: how long the other ports leave the boot port alone. `settle`: when,
    after the first report, the ports are looked at again, for links come up seconds after the agent; `gather`: how
    long news of the ports and log lines are collected before they are sent.
    """

    def __init__(
        self,
        first: float = 1.0,
        most: float = 15.0,
        head_start: float = 2.0,
        settle: tuple[float, ...] = (5.0, 15.0),
        gather: float = 1.0,
    ) -> None:
        self.first = first
        self.most = most
        self.head_start = head_start
        self.settle = settle
        self.gather = gather

    def delay(self, failures: int) -> float:
        """The wait after this many failures in a row: doubling, less a random part, or a rack calls all at once."""
        return min(self.most, self.first * 2.0 ** min(max(failures - 1, 0), 10)) * (1 - os.urandom(1)[0] / 512)


class Conversation:
    """One agent's talk with its server. `boot` is {boot_id, booted_mac}, the parts of a report that never change."""

    def __init__(
        self,
        url: str,
        boot: dict[str, str],
        inventory: Inventory,
        network: Ways,
        journal: Journal,
        neighbours: Neighbours,
        pace: Pace | None = None,
    ) -> None:
        self._url = url
        self._boot = boot
        self._inventory = inventory
        self._network = network
        self._journal = journal
        self._neighbours = neighbours
        self._pace = pace or Pace()
        self._client = Client(url)
        self._stop = threading.Event()
        self._reached = threading.Event()
        self._speaking = threading.Lock()  # one report at a time, of hardware that nobody changes meanwhile
        self._hardware: dict[str, Any] = {}
        self._problems: list[str] = []
        self._is_reported = False
        self._failures = 0
        self._unknown = 0
        self._last_failure: tuple[str, float] = ("", 0.0)
        self._done: deque[int] = deque(maxlen=100)
        self._mac = boot["booted_mac"]
        self._run = new_run()
        marks = {"boot_id": boot["boot_id"], "run": self._run}
        self._errands = Errands(marks, lambda: self._client, lambda: self._hardware, journal, self._pace.delay)

    def stop(self) -> None:
        """End the conversation at the next occasion."""
        self._stop.set()
        self._errands.stop()
        self._reached.set()
        self._journal.waiting.set()
        self._neighbours.changed.set()

    def once(self) -> None:
        """Say hello and report one time. Raises Unreachable or Refused."""
        deadline = time.monotonic() + ONCE_SECONDS
        self._network.refresh()
        while not (ports := self._network.ready()) and time.monotonic() < deadline:
            self._stop.wait(0.2)
            self._network.refresh()
        self._client = self._say_hello(ports)
        self._report()

    def run(self) -> None:
        """Talk until `stop`."""
        # Collecting needs no network, and DHCP takes seconds: they go on beside each other.
        collecting = threading.Thread(target=self._collect, name="collect", daemon=True)
        collecting.start()
        threading.Thread(target=self._send_log, name="log", daemon=True).start()
        self._reach()
        collecting.join()
        watching = threading.Thread(target=self._watch_ports, name="ports", daemon=True)
        while not self._stop.is_set():
            self._network.refresh()
            try:
                if self._is_reported:
                    self._poll()
                else:
                    self._report()
                    if not watching.ident:
                        watching.start()
                self._failures = 0
            except (Unreachable, Refused) as error:
                self._failed(error)
                if self._failures >= FAILURES_BEFORE_ANOTHER_WAY and isinstance(error, Unreachable):
                    self._reach()

    def _reach(self) -> None:
        """Find a way to the server; returns when the server answered, or at `stop`."""
        while not self._stop.is_set():
            self._network.refresh()
            ports = self._network.ready()
            if not ports:
                self._stop.wait(0.05)
                continue
            try:
                self._client = self._say_hello(ports)
            except (Unreachable, Refused) as error:
                self._failed(error)
                continue
            self._failures = 0
            self._reached.set()
            return

    def _say_hello(self, ports: list[str]) -> Client:
        system = self._inventory.smbios()["system"]
        macs = [nic["mac"] for nic in self._inventory.nics() if nic["mac"]]
        self._mac = self._mac or (macs[0] if macs else "")
        hello = {
            "boot_id": self._boot["boot_id"],
            "macs": macs,
            "uuid": system["uuid"],
            "serial": system["serial"],
            "uptime_seconds": uptime(),
        }
        client = race(self._url, ports, HELLO, hello, self._pace.head_start)
        by = f" by {client.port}" if client.port else ""
        self._journal.say(f"reached {self._url}{by}, from {client.address}")
        return client

    def _failed(self, error: Exception) -> None:
        """Say why, unless it was just said, and wait."""
        self._failures += 1
        delay = self._pace.delay(self._failures)
        verb = "refused" if isinstance(error, Refused) else "cannot be reached"
        sentence = f"the server {self._url} {verb}: {error}"
        last, at = self._last_failure
        if sentence != last or time.monotonic() - at > REPEAT_SECONDS:
            self._journal.say(f"{sentence}; trying again every {self._pace.most:g} s at most")
            self._last_failure = sentence, time.monotonic()
        self._stop.wait(delay)

    # report

    def _collect(self) -> None:
        hardware, problems = self._inventory.collect()
        with self._speaking:
            self._hardware = hardware
            self._is_reported = False
            news = [problem for problem in problems if problem not in self._problems]
            self._problems = problems
        for problem in news:
            self._journal.say(problem)

    def _report(self) -> None:
        if not self._hardware:
            self._collect()
        with self._speaking:
            if self._is_reported:
                return  # the other thread was at it
            answer = expect(self._client.post(REPORT, self._document()))
            self._is_reported = True
        self._journal.say(f"reported; the server knows this machine as {answer.get('machine', 'nobody')}")

    def _document(self) -> dict[str, Any]:
        client = self._client
        return {
            "version": 1,
            "agent": {
                "version": VERSION,
                **self._boot,
                "uptime_seconds": uptime(),
                "kernel": os.uname().release,
                "address": client.address,
                "interface": client.port or port_with(client.address),
            },
            "hardware": self._hardware,
            "problems": self._problems,
        }

    def _watch_ports(self) -> None:
        """Report again when LLDP was heard, and when the links have had time to come up."""
        settle = list(self._pace.settle)
        started = time.monotonic()
        while not self._stop.is_set():
            timeout = max(0.0, settle[0] - (time.monotonic() - started)) if settle else None
            if self._neighbours.changed.wait(timeout):
                self._stop.wait(self._pace.gather)
                self._neighbours.changed.clear()
            else:
                settle.pop(0)
            if not self._stop.is_set():
                self._report_ports()

    def _report_ports(self) -> None:
        ports = self._inventory.nics()
        with self._speaking:
            if ports == self._hardware["nics"]:
                return
            self._hardware = {**self._hardware, "nics": ports}
            self._is_reported = False
        try:
            self._report()
        except (Unreachable, Refused):
            return  # the main loop reports when its poll ends, and says what is wrong

    # orders

    def _poll(self) -> None:
        started = time.monotonic()
        query = {"boot_id": self._boot["boot_id"], "run": self._run, "wait": POLL_SECONDS}
        status, answer = self._client.get(ORDERS, query, POLL_SECONDS + 10.0)
        if status == 404:
            self._unknown += 1
            self._journal.say("the server does not know this boot; reporting again")
            self._is_reported = False
            self._stop.wait(self._pace.delay(self._unknown))
            return
        expect((status, answer))
        self._unknown = 0
        orders = answer.get("orders")
        did = [self._obey(order) for order in orders if isinstance(order, dict)] if isinstance(orders, list) else []
        if not any(did) and time.monotonic() - started < self._pace.first:
            self._stop.wait(self._pace.first)  # a server that does not hold the poll open is not asked in a hurry

    def _obey(self, order: dict[str, Any]) -> bool:
        """Carry out one order; False for one that was carried out before or is not understood."""
        number, verb = order.get("id"), order.get("verb")
        if number in self._done:
            return False
        if isinstance(number, int) and self._errands.knows(verb):
            return self._errands.begin(order)
        if not isinstance(number, int) or verb != "report":
            self._journal.say(f"order {number!r} asks for {verb!r}, which this agent does not know")
            return False
        self._journal.say(f"order {number}: report")
        self._done.append(number)
        self._collect()  # whatever happens to this report, the main loop makes sure that one arrives
        # The ports were looked at first, and a slow disk keeps the report: what they heard meanwhile is not in it.
        self._neighbours.changed.set()
        self._report()
        return True

    # log

    def _send_log(self) -> None:
        """Send what the journal holds, whenever it holds something and the server can be reached."""
        failures = 0
        self._reached.wait()
        while not self._stop.is_set():
            self._journal.waiting.wait()
            self._stop.wait(self._pace.gather if not failures else self._pace.delay(failures))
            lines = self._journal.take()
            if not lines:
                continue
            document = {"boot_id": self._boot["boot_id"], "mac": self._mac, "lines": lines}
            try:
                expect(self._client.post(LOG, document))
                failures = 0
            except Unreachable:
                failures += 1
                self._journal.give_back(lines)
            except Refused:
                failures += 1  # these lines will not be taken next time either
