"""Carries out an order to erase: looks at the machine anew, refuses what differs, then works on all disks at once.

Nothing is written before the whole order was compared with the hardware and the server was asked whether it still
stands. A disk that is neither to be erased nor left alone by name is told as refused.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from pathlib import Path

from metalbox.agent import VERSION, capabilities, nics, preparations, system
from metalbox.agent.drivework import FACTS, DriveWork
from metalbox.agent.erasemethods import METHODS
from metalbox.agent.passthrough import DriveError, Kernel
from metalbox.agent.target import Target, confirm, find, label

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from metalbox.agent.errands import Errand

PARALLEL = 24
PROGRESS_SECONDS = 1.0
LAST_WORD_SECONDS = 5.0
LOOK_SECONDS = 0.05
KNOWN_PREPARATIONS = frozenset({"wait-sanitize", "stop-holders", "unfreeze", "remove-dco", "remove-hpa"})


class OrderRefused(Exception):
    """The whole order is not for this machine, this boot, or cannot be read; the message is a sentence."""


def work(errand: Errand, kernel: Kernel | None = None) -> dict[str, Any]:
    """Do the whole order; its outcome. Raises Cancelled when the server does not want it any more."""
    return Erase(errand, kernel or Kernel()).run()


def marks(root: Path) -> dict[str, Any]:
    """What names this machine, read now: {uuid, serial, macs}."""
    facts = system.read(root, [])["system"]
    ask = nics.ask_driver if root == Path("/") else None
    return {
        "uuid": facts["uuid"].lower(),
        "serial": facts["serial"],
        "macs": [nic["mac"].lower() for nic in nics.nics(root, ask) if nic["mac"]],
    }


class Erase:
    """One order while it is carried out."""

    def __init__(self, errand: Errand, kernel: Kernel) -> None:
        self._errand = errand
        self._kernel = kernel
        self._started = kernel.clock()
        self._refused: list[dict[str, Any]] = []
        self._done: dict[int, dict[str, Any]] = {}
        self._works: list[DriveWork] = []
        self._marks: dict[str, Any] = {}

    def run(self) -> dict[str, Any]:
        """Check, claim, erase."""
        try:
            self._marks = marks(self._kernel.root)
            order = read_order(self._errand.data)
            check_machine(order, self._marks, self._errand.boot_id)
        except OrderRefused as error:
            self._errand.say(f"order {self._errand.number} is refused: {error}")
            rows = self._errand.data.get("disks")
            disks = (
                [_refusal(row, str(error)) for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []
            )
            return self._outcome(str(error), disks, [])
        rows = self._check_disks(order)
        if not rows:
            return self._outcome("", self._refused, order["untouched"])
        self._errand.claim()
        self._prepare(order, rows)
        self._erase_all(int(order["parallel"]))
        return self._outcome("", [*self._done.values(), *self._refused], order["untouched"])

    def _check_disks(self, order: dict[str, Any]) -> list[dict[str, Any]]:
        """The rows of the order that name a disk of this machine without any doubt; the others are refused."""
        there = self._kernel.disks()
        good = []
        for row in order["disks"]:
            try:
                disk = find(there, row)
                self._ask(disk)
            except (DriveError, OSError) as error:
                self._refused.append(_refusal(row, str(error)))
            else:
                good.append(row)
        named = [*order["disks"], *order["untouched"], *order["refused"]]
        for disk in there:
            if not any(_is_named(disk, row) for row in named):
                sentence = f"{disk['name']} is in this machine, and the order does not name it"
                self._refused.append(_refusal(disk, sentence))
        for refusal in self._refused:
            self._errand.say(f"{label(refusal)} is not erased: {refusal['evidence']}")
        return good

    def _ask(self, disk: dict[str, Any]) -> None:
        """Ask the drive who it is, in a thread that may be left behind."""
        errors: list[Exception] = []

        def ask() -> None:
            try:
                device = self._kernel.open(disk["name"])
                try:
                    confirm(device, disk)
                finally:
                    device.close()
            except Exception as error:
                errors.append(error)

        thread = threading.Thread(target=ask, name=f"ask {disk['name']}", daemon=True)
        thread.start()
        thread.join(ask_seconds())
        if thread.is_alive():
            raise DriveError(f"{disk['name']} does not answer", begun=False)
        if errors:
            raise errors[0] if isinstance(errors[0], DriveError | OSError) else DriveError(repr(errors[0]), begun=False)

    def _prepare(self, order: dict[str, Any], rows: list[dict[str, Any]]) -> None:
        there = self._kernel.disks()
        found, cold = [], []
        for row in rows:
            with contextlib.suppress(DriveError):  # gone since it was checked: its own work will say so
                found.append(find(there, row))
                cold += found[-1:] if "unfreeze" in row["preparations"] else []
        unfrozen = preparations.unfreeze(self._kernel, cold)
        names = [name for disk in found for name in capabilities.block_names(disk)]
        for row in rows:
            job = DriveWork(Target(self._kernel, row, self._errand.cancelled), order, names)
            if (row["serial"], row["wwn"]) in unfrozen:
                job.preparations.done.append(unfrozen[row["serial"], row["wwn"]])
            self._works.append(job)

    def _erase_all(self, parallel: int) -> None:
        """All disks, so many at a time; a thread that hangs is left behind and gives its place free."""
        waiting = list(enumerate(self._works))
        running: dict[int, threading.Thread] = {}
        ended = threading.Event()
        # A server that cannot be reached keeps who tells it waiting, and must not keep the disks.
        telling = threading.Thread(target=self._tell, args=(ended,), name="erase progress", daemon=True)
        telling.start()
        while waiting or running:
            while waiting and len(running) < parallel:
                number, job = waiting.pop(0)
                job.target.started = self._kernel.clock()
                job.target.within()
                running[number] = threading.Thread(target=self._run, args=(number,), daemon=True)
                running[number].start()
            next(iter(running.values())).join(LOOK_SECONDS)
            for number in list(running):
                self._look(number, running)
        ended.set()
        telling.join(LAST_WORD_SECONDS)

    def _run(self, number: int) -> None:
        job = self._works[number]
        outcome = job.run()
        if not job.target.is_abandoned:
            self._done[number] = outcome

    def _look(self, number: int, running: dict[int, threading.Thread]) -> None:
        job = self._works[number]
        if not running[number].is_alive():
            if number not in self._done:
                self._done[number] = job.outcome("failed", "its thread ended without a word")
            del running[number]
        elif time.monotonic() > job.target.busy_until:
            job.target.is_abandoned = True
            where = f"{job.target.phase}{f', {job.target.method}' if job.target.method else ''}"
            self._done[number] = job.outcome("failed", f"a command did not end in time ({where})")
            del running[number]
        if number in self._done:
            result = self._done[number]
            self._errand.say(f"{label(result)}: {result['result']} {result['method']} {result['evidence']}".strip())

    def _tell(self, ended: threading.Event) -> None:
        """Say how far the disks are, once a second and once more at the end."""
        is_last = False
        while not is_last:
            is_last = ended.wait(PROGRESS_SECONDS)
            self._errand.progress({"disks": {label(job.target.row): job.target.told() for job in self._works}})

    def _outcome(self, refused: str, disks: list[dict[str, Any]], untouched: list[dict[str, Any]]) -> dict[str, Any]:
        kernel = os.uname()
        return {
            "machine": {"uuid": self._marks.get("uuid", ""), "serial": self._marks.get("serial", "")},
            "boot_id": self._errand.boot_id,
            "agent": VERSION,
            "kernel": kernel.release,
            "tools": {"eraser": f"metalbox agent {VERSION}", "kernel": f"{kernel.sysname} {kernel.release}"},
            "seconds": round(self._kernel.clock() - self._started),
            "refused": refused,
            "disks": disks,
            "untouched": [
                {"serial": row["serial"], "wwn": row["wwn"], "reason": str(row.get("reason", ""))} for row in untouched
            ],
        }


def ask_seconds() -> float:
    """How long a drive may take to say who it is."""
    return 60.0


def _refusal(row: dict[str, Any], evidence: str) -> dict[str, Any]:
    return {
        **{key: row.get(key, "") for key in FACTS},
        "result": "refused",
        "method": "",
        "attempts": [],
        "preparations": [],
        "started_at": 0,
        "seconds": 0,
        "firmware_status": "",
        "verification": None,
        "evidence": evidence,
    }


def _is_named(disk: dict[str, Any], row: dict[str, Any]) -> bool:
    """Whether a row means this disk; one with neither serial number nor WWN is known by model and size."""
    if disk["serial"] or disk["wwn"]:
        return (disk["serial"], disk["wwn"]) == (row["serial"], row["wwn"])
    keys = ("serial", "wwn", "model", "size_bytes")
    return all(disk[key] == row[key] for key in keys)


def read_order(data: dict[str, Any]) -> dict[str, Any]:
    """The order with each value checked and defaults filled in. Raises OrderRefused."""
    order = {"refused": [], "untouched": [], "parallel": PARALLEL, "samples": 1024, "verify": "sample", **data}
    machine = order.get("machine")
    if not isinstance(machine, dict) or not isinstance(order.get("seed"), str) or not order["seed"]:
        raise OrderRefused("the order has no machine or no seed")
    if order["verify"] not in ("sample", "full"):
        raise OrderRefused(f"the order asks for the verification {order['verify']!r}, known are sample and full")
    for key, low, high in (("parallel", 1, 1024), ("samples", 16, 1 << 20)):
        if not isinstance(order[key], int) or not low <= order[key] <= high:
            raise OrderRefused(f"{key} of the order is {order[key]!r}: a number from {low} to {high} is expected")
    for key in ("disks", "untouched", "refused"):
        if not isinstance(order.get(key), list):
            raise OrderRefused(f"the order has no list of {key}")
        for row in order[key]:
            _check_row(row, key)
    if not order["disks"]:
        raise OrderRefused("the order names no disk to be erased")
    names = [(row["serial"], row["wwn"]) for row in order["disks"]]
    if len(set(names)) != len(names):
        raise OrderRefused("the order names a disk twice")
    both = set(names) & {(row["serial"], row["wwn"]) for key in ("untouched", "refused") for row in order[key]}
    if both:
        raise OrderRefused(f"the order names {sorted(both)[0][0]!r} both to be erased and to be left alone")
    return order


def _check_row(row: Any, key: str) -> None:
    if not isinstance(row, dict) or not all(isinstance(row.get(name), str) for name in ("serial", "wwn", "model")):
        raise OrderRefused(f"a disk among {key} has no serial, wwn and model")
    if key != "disks":
        return
    methods, words = row.get("methods"), row.setdefault("preparations", [])
    if not isinstance(row.get("size_bytes"), int) or not isinstance(methods, list) or not methods:
        raise OrderRefused(f"{label(row)}: the order gives no size or no method")
    unknown = [word for word in methods if word not in METHODS]
    unknown += [word for word in words if word not in KNOWN_PREPARATIONS]
    if unknown:
        raise OrderRefused(f"{label(row)}: this agent does not know {', '.join(map(str, unknown))}")
    spaces = row.setdefault("namespaces", [])
    if not all(isinstance(space, dict) and {"nsid", "size_bytes"} <= space.keys() for space in spaces):
        raise OrderRefused(f"{label(row)}: a namespace has no nsid or size")


def check_machine(order: dict[str, Any], here: dict[str, Any], boot_id: str) -> None:
    """Whether the order is for this machine in this boot. Raises OrderRefused with what differs."""
    if order.get("boot_id") != boot_id:
        raise OrderRefused(f"the order is for the boot {order.get('boot_id')!r}, and this is {boot_id!r}")
    machine = order["machine"]
    uuid, serial = str(machine.get("uuid") or "").lower(), str(machine.get("serial") or "")
    macs = {str(mac).lower() for mac in machine.get("macs") or ()}
    if not uuid and not serial and not macs:
        raise OrderRefused("the order does not say which machine it is for")
    if uuid and uuid != here["uuid"]:
        raise OrderRefused(f"the order is for the machine with UUID {uuid}, and this has {here['uuid'] or 'none'}")
    if serial and serial != here["serial"]:
        raise OrderRefused(f"the order is for the machine with serial {serial!r}, and this has {here['serial']!r}")
    if macs and not macs & set(here["macs"]):
        raise OrderRefused(f"no port of this machine has one of the order's addresses {', '.join(sorted(macs))}")
