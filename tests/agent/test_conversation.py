"""The agent against a real server: order of speech, restarts, refusals, orders, news of the ports, the log."""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from metalbox.agent.conversation import Conversation, Pace, uptime
from metalbox.agent.inventory import Inventory
from metalbox.agent.journal import Journal
from metalbox.agent.lldp import Neighbours
from metalbox.agent.network import OpenNetwork
from metalbox.report import parse_hello, parse_report
from tests.agent.rack import Server, until
from tests.agent.snapshots import write
from tests.agent.tables import build_tables
from tests.agent.test_lldp import frame
from tests.agent.test_nics import PCI, port

BOOT = {"boot_id": "0f6b8a1c-1f79-4498-ac0f-a71f5fd9eb54", "booted_mac": "52:54:00:aa:00:01"}
FAST = Pace(first=0.05, most=0.2, head_start=0.5, settle=(), gather=0.02)


class Bench:
    """A machine with one port, its agent, and the agent's console."""

    def __init__(self, url: str, root: Path, pace: Pace) -> None:
        tables = build_tables([(1, {"Manufacturer": "ACME", "Product Name": "R1", "Serial Number": "SN123"})])
        write(root, {"sys/firmware/dmi/tables/DMI": tables})
        self.root = write(root, port(f"{PCI}/net/eth0", "eth0", {}))
        self.console = io.StringIO()
        self.neighbours = Neighbours()
        self.inventory = Inventory(self.root, self.neighbours)
        self.conversation = Conversation(
            url,
            BOOT,
            self.inventory,
            OpenNetwork(),
            Journal(self.console),
            self.neighbours,
            pace,
        )

    @contextmanager
    def talking(self) -> Iterator[None]:
        thread = threading.Thread(target=self.conversation.run, daemon=True)
        thread.start()
        try:
            yield
        finally:
            self.conversation.stop()
            thread.join(60)
            assert not thread.is_alive()


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server().start()
    yield server
    server.stop()


@pytest.fixture
def bench(server: Server, tmp_path: Path) -> Bench:
    return Bench(server.url, tmp_path, FAST)


def assert_unhurried(server: Server, verb: str, seconds: float) -> None:
    """It asks on, at most every twentieth of a second; on a busy computer it takes longer."""
    began = time.monotonic()
    before = server.count(verb)
    time.sleep(seconds)
    until(lambda: server.count(verb) >= 2)
    # The first may have come at the very beginning.
    assert server.count(verb) - before < 20 * (time.monotonic() - began) + 1


def test_hello_then_report_then_waiting(server: Server, bench: Bench) -> None:
    with bench.talking():
        until(lambda: server.count("orders") >= 2)
    verbs = [verb for _, verb, _ in server.said if verb != "log"]
    assert verbs[:4] == ["hello", "report", "orders", "orders"]
    assert server.count("report") == 1
    hello = server.last("hello")
    assert hello.pop("uptime_seconds") == pytest.approx(uptime(), abs=30)
    assert hello == {"boot_id": BOOT["boot_id"], "macs": ["52:54:00:aa:00:01"], "uuid": "", "serial": "SN123"}
    parse_hello(server.last("hello"))
    report = parse_report(server.last("report"))
    assert (report.agent.address, report.agent.interface) == ("127.0.0.1", "lo")
    assert report.agent.booted_mac == "52:54:00:aa:00:01" and report.hardware.system.serial == "SN123"
    asked = server.last("orders")
    assert len(asked.pop("run")) == 16
    assert asked == {"boot_id": BOOT["boot_id"], "wait": "30"}


def test_the_server_comes_later(tmp_path: Path) -> None:
    server = Server().start()
    server.stop()
    bench = Bench(server.url, tmp_path, FAST)
    with bench.talking():
        until(lambda: "cannot be reached: connection refused" in bench.console.getvalue())
        time.sleep(0.5)
        server.start()
        until(lambda: server.count("orders"))
        until(lambda: any("connection refused" in line for line in server.lines()))
    server.stop()
    assert bench.console.getvalue().count("connection refused") == 1, "the same trouble is told once"


def test_a_restarted_server_that_remembers_is_polled_again(server: Server, bench: Bench) -> None:
    with bench.talking():
        until(lambda: server.count("orders"))
        server.stop()
        time.sleep(1.5)
        polls = server.count("orders")
        server.start()
        until(lambda: server.count("orders") > polls)
    assert server.count("report") == 1


def test_a_server_that_forgot_gets_the_report_again(server: Server, bench: Bench) -> None:
    with bench.talking():
        until(lambda: server.count("orders"))
        server.known.clear()
        until(lambda: server.count("report") == 2)
        until(lambda: "does not know this boot; reporting again" in bench.console.getvalue())


def test_a_server_that_never_knows_is_not_asked_in_a_hurry(server: Server, bench: Bench) -> None:
    server.refuse["orders"] = (404, {"error": "unknown boot"})
    with bench.talking():
        assert_unhurried(server, "report", 1.5)


def test_a_refused_report_is_told_and_not_repeated_in_a_hurry(server: Server, bench: Bench) -> None:
    server.refuse["report"] = (422, {"error": "hardware.nics[0].mac: expected a text"})
    with bench.talking():
        assert_unhurried(server, "report", 1.5)
        server.refuse.clear()
        until(lambda: server.count("orders"))
    console = bench.console.getvalue()
    assert console.count("refused: hardware.nics[0].mac: expected a text") == 1


def test_a_server_that_does_not_hold_the_poll_is_not_asked_in_a_hurry(server: Server, bench: Bench) -> None:
    server.poll_seconds = 0.0
    with bench.talking():
        assert_unhurried(server, "orders", 1.0)


def test_an_ill_server_is_waited_for(server: Server, bench: Bench) -> None:
    server.refuse["report"] = (500, {"error": "database is locked"})
    with bench.talking():
        until(lambda: "cannot be reached: database is locked" in bench.console.getvalue())
        until(lambda: server.count("hello") >= 2)  # after three failures the way itself is doubted
        server.refuse.clear()
        until(lambda: server.count("orders"))


def test_an_order_to_report_looks_again(server: Server, bench: Bench) -> None:
    with bench.talking():
        until(lambda: server.count("orders"))
        write(bench.root, port(f"{PCI}/net/eth1", "eth1", {"address": "52:54:00:aa:00:02"}))
        server.orders = [{"id": 7, "verb": "report"}]
        until(lambda: server.count("report") == 2)
        assert [nic["name"] for nic in server.last("report")["hardware"]["nics"]] == ["eth0", "eth1"]
        server.orders = [{"id": 7, "verb": "report"}]  # handed out twice
        polls = server.count("orders")
        until(lambda: server.count("orders") > polls + 2)
    assert server.count("report") == 2


@pytest.mark.parametrize("order", [{"id": 8, "verb": "dance"}, {"verb": "report"}, {"id": [], "verb": None}, {}, 3])
def test_orders_that_make_no_sense(order: Any, server: Server, bench: Bench) -> None:
    with bench.talking():
        until(lambda: server.count("orders"))
        server.orders = [order]
        polls = server.count("orders")
        until(lambda: server.count("orders") > polls + 1)
    assert server.count("report") == 1


def test_a_neighbour_heard_later_is_reported_once(server: Server, bench: Bench) -> None:
    with bench.talking():
        until(lambda: server.count("orders"))
        assert server.last("report")["hardware"]["nics"][0]["lldp"] is None
        for _ in range(3):
            bench.neighbours.hear("eth0", frame(vlan=20), 0.0)
        until(lambda: server.count("report") == 2)
        bench.neighbours.changed.set()
        time.sleep(0.3)
    assert server.count("report") == 2
    assert server.last("report")["hardware"]["nics"][0]["lldp"]["system_name"] == "leaf1"
    assert server.last("report")["hardware"]["system"]["serial"] == "SN123"


def test_news_that_come_while_the_main_loop_is_to_report_are_told_once(server: Server, bench: Bench) -> None:
    """The ports' thread reports them, and the main loop finds, while that goes on, that a report is due."""
    with bench.talking():
        until(lambda: server.count("orders"))
        server.hold.clear()
        bench.neighbours.hear("eth0", frame(), 0.0)
        until(lambda: server.count("report") == 2)
        time.sleep(server.poll_seconds + 0.3)  # the poll ends, and the main loop waits for its turn to speak
        polls = server.count("orders")
        server.hold.set()
        until(lambda: server.count("orders") > polls + 1)
    assert server.count("report") == 2


def test_what_a_port_hears_while_an_order_collects_is_not_lost(
    server: Server, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its report comes first, and the order's, which knows less of the ports, after it."""
    collect = bench.inventory.collect

    def slow() -> tuple[dict[str, Any], list[str]]:
        found = collect()
        bench.neighbours.hear("eth0", frame(), 0.0)
        until(lambda: server.count("report") == 2)
        return found

    with bench.talking():
        until(lambda: server.count("orders"))
        monkeypatch.setattr(bench.inventory, "collect", slow)
        server.orders = [{"id": 7, "verb": "report"}]
        until(lambda: server.count("report") > 2 and server.last("report")["hardware"]["nics"][0]["lldp"])


def test_a_link_that_comes_up_later_is_reported(server: Server, tmp_path: Path) -> None:
    bench = Bench(server.url, tmp_path, Pace(0.05, 0.2, settle=(1.5, 2.5, 30.0), gather=0.02))
    carrier = bench.root / PCI / "net/eth0/carrier"
    carrier.write_text("0")
    with bench.talking():
        until(lambda: server.count("orders"))
        carrier.with_name("new").write_text("1")
        carrier.with_name("new").replace(carrier)  # at once, as the kernel does it
        until(lambda: server.count("report") == 2)
        time.sleep(0.6)
    assert server.count("report") == 2
    assert server.last("report")["hardware"]["nics"][0]["link"] is True


def test_news_that_cannot_be_sent_goes_with_the_next_report(server: Server, bench: Bench) -> None:
    with bench.talking():
        until(lambda: server.count("orders"))
        server.refuse["report"] = (503, {"error": "starting"})
        bench.neighbours.hear("eth0", frame(), 0.0)
        until(lambda: server.count("report") >= 2)
        server.refuse.clear()
        until(lambda: server.last("report")["hardware"]["nics"][0]["lldp"])


def test_the_log_reaches_the_server(server: Server, bench: Bench) -> None:
    with bench.talking():
        until(lambda: any(line.startswith("reported; the server knows this machine as r1") for line in server.lines()))
    log = server.last("log")
    assert (log["boot_id"], log["mac"]) == (BOOT["boot_id"], BOOT["booted_mac"])
    told = [line.removeprefix("metalbox: ") for line in bench.console.getvalue().splitlines()]
    assert server.lines() == told[: len(server.lines())]


def test_once(server: Server, bench: Bench) -> None:
    bench.conversation.once()
    assert [verb for _, verb, _ in server.said] == ["hello", "report"]


def test_the_waits_grow_to_fifteen_seconds() -> None:
    pace = Pace()
    assert all(0.5 <= pace.delay(1) <= 1.0 and 7.5 <= pace.delay(9) <= 15.0 for _ in range(200))
    assert pace.delay(10_000) <= 15.0
