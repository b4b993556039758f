"""All that is known of this machine, gathered so that nothing can hold it up.

Every collector has a thread of its own and a deadline: a disk that never answers costs one sentence in `problems`, not
the report. A thread that hangs is left behind and not started a second time.
"""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

from metalbox.agent import bmc, capabilities, command, cpu, disks, firmware, health, late, lldp, nics, pci, system
from metalbox.agent.passthrough import DriveError, Kernel

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

SECONDS = 20.0
# Ways to a disk on which it can be asked for its health; a virtual or memory card disk has none to tell.
ASKABLE = frozenset({"nvme", "sata", "sas", "scsi", "ide", "usb"})
MAX_PROBLEM = 400


class Inventory:
    """The hardware of the machine whose / is at `root`; only the real / is asked by ioctl and by programs."""

    def __init__(
        self, root: Path = Path("/"), neighbours: lldp.Neighbours | None = None, seconds: float = SECONDS
    ) -> None:
        self._root = root
        self._neighbours = neighbours
        self._seconds = seconds
        self._is_live = root == Path("/")
        self._firmware: tuple[dict[str, Any], list[str]] | None = None
        self._hanging: dict[str, threading.Thread] = {}

    def smbios(self) -> dict[str, Any]:
        """What the firmware says; read once, for it does not change while the machine runs."""
        if self._firmware is None:
            problems: list[str] = []
            self._firmware = system.read(self._root, problems), problems
        return self._firmware[0]

    def nics(self) -> list[dict[str, Any]]:
        """The ports, each with the neighbour heard so far."""
        found = nics.nics(self._root, nics.ask_driver if self._is_live else None)
        for nic in found:
            nic["lldp"] = self._neighbours.of(nic["name"]) if self._neighbours else None
        return found

    def collect(self) -> tuple[dict[str, Any], list[str]]:
        """The `hardware` and the `problems` of a report."""
        deadline = time.monotonic() + self._seconds
        problems: list[str] = []
        found = self._gather(
            {
                "smbios": self.smbios,
                "disks": self._disks,
                "network ports": self.nics,
                "PCI devices": lambda: pci.functions(self._root),
                "BMC": self._bmc,
            },
            deadline,
            problems,
        )
        facts = found["smbios"] or system.from_sysfs(self._root)
        problems += self._firmware[1] if self._firmware else []
        drives = found["disks"] or []
        self._add_told(drives, deadline, problems)
        if facts["has_bmc"] and self._is_live and not bmc.device():
            problems.append("SMBIOS tells of a BMC, but its driver shows no /dev/ipmi0: its address is unknown")
        machine = os.uname().machine
        hardware = {
            "system": facts["system"],
            "firmware": self._start_facts(facts, machine, problems),
            "architecture": machine,
            "memory_bytes": cpu.memory_bytes(self._root, facts["dimms"]),
            "cpus": cpu.cpus(self._root, facts["cpus"]),
            "dimms": facts["dimms"],
            "disks": drives,
            "nics": found["network ports"] or [],
            "pci": found["PCI devices"] or [],
            "bmc": found["BMC"],
        }
        return hardware, [problem[:MAX_PROBLEM] for problem in problems[:200]]

    def _start_facts(self, facts: dict[str, Any], machine: str, problems: list[str]) -> dict[str, Any]:
        mode, secure_boot = firmware.mode(self._root, machine), firmware.secure_boot(self._root)
        if mode == "uefi" and secure_boot is None:
            problems.append(
                "the Secure Boot state is unknown: efivarfs is not mounted, or this firmware has no such thing"
            )
        return {
            **facts["firmware"],
            "mode": mode,
            "secure_boot": secure_boot,
            "tpm": firmware.tpm(self._root, facts["tpm"]),
        }

    def _bmc(self) -> dict[str, Any] | None:
        path = bmc.device() if self._is_live else ""
        return bmc.bmc(path) if path else None

    def _disks(self) -> list[dict[str, Any]]:
        if self._is_live:
            late.wait(self._root)
        return disks.disks(self._root)

    def _add_told(self, drives: list[dict[str, Any]], deadline: float, problems: list[str]) -> None:
        """What each disk says of its health, and of what it can do about its data."""
        names = [drive["name"] for drive in drives if drive["transport"] in ASKABLE and self._is_live]
        plain = [name for name in names if not name.startswith("nvme")]
        if plain and not command.find("smartctl"):
            problems.append(f"smartctl is not installed: the health of {', '.join(plain)} is unknown")
            names = [name for name in names if name not in plain]
        tasks = {f"health of {name}": _asking(name) for name in names}
        if self._is_live:
            tasks |= {f"erasing of {drive['name']}": _asking_to_erase(drive) for drive in drives}
        found = self._gather(tasks, deadline, problems)
        for drive in drives:
            drive["health"] = found.get(f"health of {drive['name']}") or {}
            if self._is_live:
                drive["erasing"] = found[f"erasing of {drive['name']}"] or capabilities.from_sysfs(Kernel(), drive)
        capabilities.mark_multipath(drives)

    def _gather(self, tasks: Mapping[str, Callable[[], Any]], deadline: float, problems: list[str]) -> dict[str, Any]:
        """Run the tasks beside each other until the deadline; None for one that failed or did not end."""
        found: dict[str, Any] = dict.fromkeys(tasks)
        failed: dict[str, str] = {}

        def work(name: str, task: Callable[[], Any]) -> None:
            try:
                found[name] = task()
            except (bmc.BmcFailed, command.CommandFailed, DriveError, OSError) as error:
                failed[name] = f"{name}: {error}"
            except Exception as error:  # a collector's bug on odd hardware costs its part, not the machine's discovery
                failed[name] = f"{name}: the agent failed with {type(error).__name__}: {error}"

        threads: dict[str, threading.Thread] = {}
        for name, task in tasks.items():
            if name in self._hanging and self._hanging[name].is_alive():
                problems.append(f"{name}: still waiting since an earlier report")
                continue
            threads[name] = threading.Thread(target=work, args=(name, task), name=name, daemon=True)
            threads[name].start()
        for name, thread in threads.items():
            thread.join(max(0.0, deadline - time.monotonic()))
            if thread.is_alive():
                self._hanging[name] = thread
                failed[name] = f"{name}: no answer within {self._seconds:g} s"
        problems += [failed[name] for name in tasks if name in failed]
        return {name: found[name] if name not in failed else None for name in tasks}


def _asking(name: str) -> Callable[[], Any]:
    return lambda: health.health(name)


def _asking_to_erase(drive: dict[str, Any]) -> Callable[[], Any]:
    return lambda: capabilities.ask(Kernel(), drive)
