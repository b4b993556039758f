"""Machines whose disks are erased, for the tests: reports with disks, and what agents say of orders."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from metalbox import __version__, inventory
from metalbox.config import AcceptRule, Erase
from metalbox.erasing import Erasing
from metalbox.ledger import Ledger
from metalbox.lifecycle import Event
from metalbox.lives import Lives
from metalbox.machine import Machine
from metalbox.moves import Moved, Steps
from metalbox.orderrecords import Order
from metalbox.orders import claim, done
from metalbox.rounds import Wish
from metalbox.signing import SigningKey
from metalbox.store import Store, sqlite_url
from metalbox.timeline import Kind
from tests.reports import UUID, small

MAC = "52:54:00:00:00:01"
DIGESTS = ("a" * 64, "b" * 64)


def disk(serial: str, **more: Any) -> dict[str, Any]:
    """A SATA disk that can only be written over."""
    row = {
        "name": f"sd{serial.lower()}",
        "model": "LAB DISK",
        "serial": serial,
        "wwn": f"0x5000c500{serial.encode().hex():0<8}",
        "size_bytes": 10**9,
        "rotational": True,
        "removable": False,
        "transport": "sata",
        "erasing": {"discard": False, "write_protected": False},
    }
    return {**row, **more}


def report(*disks: dict[str, Any], boot_id: str = "b1", mac: str = MAC, serial: str = "SN1001") -> dict[str, Any]:
    """A report of a machine with these disks."""
    document = small(mac, boot_id=boot_id, uuid=UUID, serial=serial)
    document["agent"]["version"] = __version__
    document["hardware"]["disks"] = list(disks)
    return document


class Care:
    """The power part, as the tests want it."""

    def __init__(self) -> None:
        self.has_power = True
        self.off = False
        self.account = "not needed"

    def can_power(self, store: Store, machine_id: int) -> bool:
        return self.has_power

    def is_off(self, machine_id: int, since: float = 0.0) -> bool:
        return self.off

    def order_account(self, store: Store, machine_id: int, now: float) -> Order | None:
        return None if self.account == "not needed" else store.orders.add(machine_id, "bmc-account", now)

    def account_state(self, store: Store, machine_id: int) -> str:
        return self.account


class Site:
    """A store with the verbs on it, and one machine that reports."""

    def __init__(self, folder: Path, rules: tuple[AcceptRule, ...] = (), **settings: Any) -> None:
        self.folder = folder
        self.rules = rules
        self.settings = Erase(**settings)
        self.care = Care()
        self.now = 1000.0
        self.seeds = 0
        self.open()

    def open(self) -> None:
        """Begin, or begin again after a crash."""
        self.store = Store.open(sqlite_url(self.folder / "metalbox.db"))
        self.ledger = Ledger.open(self.folder)
        self.steps = Steps(self.care, __version__)
        self.lives = Lives(self.steps, self.settings, self.rules, self.ledger)
        self.key = SigningKey.open(self.folder)
        self.erasing = Erasing(self.steps, self.settings, self.ledger, self.key, self._draw)

    def _draw(self) -> str:
        self.seeds += 1
        return f"{self.seeds:032x}"

    def report(self, *disks: dict[str, Any], **more: Any) -> Machine:
        """The machine reports, as the service takes it."""
        self.now += 1
        with self.store.transaction():
            reported = inventory.report(self.store, report(*disks, **more), "192.0.2.100", self.now)
            self.lives.reported(self.store, reported.machine.id, reported.is_new, self.now)
            found = self.store.machines.get(reported.machine.id)
        assert found is not None
        return found

    @property
    def machine(self) -> Machine:
        return inventory.find(self.store, "sn1001")

    def poll(self, boot_id: str = "b1", run: str = "r1") -> list[Order]:
        self.now += 1
        return self.erasing.poll(self.store, boot_id, run, lambda: f"token-{self.now}", self.now)

    def claim(self, order: Order, boot_id: str = "b1", run: str = "r1") -> None:
        self.now += 1
        follow = {"erase": self.erasing.claimed}
        claim(self.store, order.id, boot_id, run, order.token, self.now, follow)

    def done(self, order: Order, outcome: Mapping[str, Any], boot_id: str = "b1", run: str = "r1") -> None:
        self.now += 1
        follow = {"erase": self.erasing.erase_done}
        done(self.store, order.id, boot_id, run, order.token, outcome, follow, self.now)

    def erase_order(self, *disks: dict[str, Any]) -> Order:
        """Go on until the erase order is told, as an agent would."""
        for _ in range(5):
            told = self.poll()
            for order in told:
                if order.verb == "report":
                    self.report(*disks)
                elif order.verb == "erase":
                    return order
        raise AssertionError(f"no erase order: {self.texts()}")

    def texts(self, *kinds: Kind) -> list[str]:
        entries = inventory.timeline(self.store, self.machine, 1000)
        return [entry.text for entry in entries if not kinds or entry.kind in kinds]


def outcome(order: Order, **per_disk: Mapping[str, Any]) -> dict[str, Any]:
    """What a good agent says of an order; `per_disk` changes the rows of disks by serial number."""
    data = order.data
    rows = []
    for row in data["disks"]:
        method = row["methods"][0]
        rows.append(
            {
                **{name: row[name] for name in ("serial", "wwn", "model", "size_bytes", "name", "transport")},
                "result": "erased",
                "method": method,
                "attempts": [{"method": method, "result": "erased", "evidence": "", "seconds": 3}],
                "preparations": [{"what": what, "result": "done", "evidence": ""} for what in row["preparations"]],
                "started_at": 1001,
                "seconds": 3,
                "firmware_status": "completed without error",
                "verification": verification(data),
                **per_disk.get(row["serial"], {}),
            }
        )
    machine = data["machine"]
    return {
        "machine": {"uuid": machine["uuid"], "serial": machine["serial"]},
        "boot_id": data["boot_id"],
        "agent": __version__,
        "kernel": "6.1.0",
        "tools": {},
        "seconds": 3,
        "refused": "",
        "disks": rows,
        "untouched": [],
    }


def verification(data: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    """A verification that passes."""
    return {
        "seed": data["seed"],
        "samples": 20,
        "regions": {"first": 1, "last": 1, "random": 18},
        "bytes_read": 81920,
        "expected": "zeroes",
        "before_digest": DIGESTS[0],
        "after_digest": DIGESTS[1],
        "unchanged": 0,
        "mismatches": [],
        "signatures": [],
        "full": data["verify"] == "full",
        "result": "passed",
        **more,
    }


def wish(site: Site, event: Event, **said: Any) -> Moved:
    """Alice wishes something of the one machine, a second later."""
    site.now += 1
    return site.lives.wish(site.store, "sn1001", event, Wish(operator="alice", **said), site.now)
