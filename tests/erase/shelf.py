"""A machine whose disks are simulated drives, with a service that has it erased: agent and service as they are.

The drives are simulated at the level of their commands (tests/agent/drives.py); everything else is the real thing: what
the agent reports of them, the plan, the order, the eraser, the proofs, the faults. Beside the drive that a test looks
at there are always a good one, a USB stick and a LUN.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from metalbox import inventory
from metalbox.agent import capabilities, eraser
from metalbox.diagnosis import why
from metalbox.evidence import Diagnosis, Facts
from metalbox.lifecycle import Event
from metalbox.lifefacts import life_facts
from metalbox.orderrecords import Order
from metalbox.rounds import Wish
from tests import erasures
from tests.agent.drives import MIB, Asked, AtaDrive, Drive, ScsiDrive, SimulatedKernel
from tests.agent.snapshots import write
from tests.erasures import Site

SERIAL = "SN1001"
BAD, GOOD = "BAD", "GOOD"


class Stick(Drive):
    """A USB stick."""

    transport = "usb"


class Lun(ScsiDrive):
    """A LUN of an iSCSI target."""

    transport = "iscsi"


class Older(AtaDrive):
    """A drive with the security feature set and without the sanitize feature set (IDENTIFY DEVICE word 59)."""

    def _identify(self) -> bytes:
        data = super()._identify()
        return data[: 59 * 2] + bytes(2) + data[60 * 2 :]


class Shelf(SimulatedKernel):
    """The machine of the site, with disks as its agent reports them."""

    def __init__(self, root: Path, *drives: Drive) -> None:
        super().__init__(root, *drives)
        write(root, {"sys/class/dmi/id/product_serial": SERIAL, "sys/class/net/eth0/address": erasures.MAC})

    def report(self) -> list[dict[str, Any]]:
        rows = []
        for disk in self.disks():
            try:
                disk["erasing"] = capabilities.ask(self, disk)
            except OSError:
                disk["erasing"] = capabilities.from_sysfs(self, disk)
            rows.append({**disk, "pci_address": "0000:01:00.0"})
        return rows


class Case:
    """One machine in one round."""

    def __init__(self, folder: Path, bad: Drive, *, size: int = 3 * MIB, **settings: Any) -> None:
        self.bad, self.good = bad, AtaDrive("sdb", GOOD, size=size, seed=2)
        self.others = (Stick("sdc", "STICK", seed=3), Lun("sdd", "LUN", seed=4))
        self.shelf = Shelf(folder / "machine", bad, self.good, *self.others)
        self.site = Site(folder, **settings)
        self.report()

    def report(self, boot_id: str = "b1") -> None:
        self.site.report(*self.shelf.report(), boot_id=boot_id, serial=SERIAL)

    def wish(self, event: Event = Event.ACCEPT, **said: Any) -> None:
        self.site.now += 1
        self.site.lives.wish(self.site.store, SERIAL, event, Wish(operator="alice", **said), self.site.now)

    def order(self, boot_id: str = "b1", run: str = "r1") -> Order:
        """Go on until the agent is told to erase."""
        for _ in range(5):
            for told in self.site.poll(boot_id, run):
                if told.verb == "report":
                    self.report(boot_id)
                elif told.verb == "erase":
                    return told
        raise AssertionError(f"no erase order: {self.site.texts()}")

    def work(
        self, order: Order, boot_id: str = "b1", run: str = "r1", claimed: Callable[[], None] = lambda: None
    ) -> dict[str, Any]:
        """What the agent does with an order, and says of it. `claimed` is called after its claim."""
        asked = Asked(dict(order.data))
        asked.boot_id = boot_id

        def claim() -> None:
            self.site.claim(order, boot_id, run)
            claimed()

        asked.claim = claim  # type: ignore[method-assign]
        return eraser.work(asked, self.shelf)  # type: ignore[arg-type]

    def round(self) -> None:
        """One order from its making to its outcome."""
        order = self.order()
        self.site.done(order, self.work(order))

    def kinds(self) -> list[str]:
        """All documents, none of which may be false."""
        with self.site.store.transaction():
            rows = self.site.store.certificates.listing()
        drives = {drive.serial: drive for drive in self.shelf.drives}
        for row in rows:
            if row["kind"] == "drive":
                assert drives[row["serial"]].is_gone(), row
            if row["kind"] == "machine":
                assert self.bad.is_gone() and self.good.is_gone()
        return [f"{row['kind']} {row['serial']}".strip() for row in reversed(rows)]

    def why(self) -> Diagnosis:
        site = self.site
        life = life_facts(site.store, site.machine, True, lambda number: None, site.now)
        entries = inventory.timeline(site.store, site.machine, 1000)
        return why(site.machine, entries, Facts(server_address="192.0.2.1", life=life), site.now)

    def names(self, code: str, *words: str) -> None:
        """`why` gives this fault as its answer, with these words."""
        found = self.why()
        text = " ".join((found.doing, found.cause, *found.evidence))
        assert found.code == code, found
        assert all(word in text for word in words), (words, text)
        assert found.advice

    def is_spared(self) -> None:
        """Nothing but what the order named was written to."""
        for drive in self.others:
            assert drive.writes == [] and bytes(drive.medium) == drive.original, drive.serial

    def is_untouched(self) -> None:
        """Nothing was written to any disk."""
        self.is_spared()
        for drive in (self.bad, self.good):
            assert drive.writes == [] and bytes(drive.medium) == drive.original, drive.serial
