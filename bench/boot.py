"""How long real firmware takes from power-on to the agent's init, with metalbox and with a tuned dnsmasq and nginx.

    python bench/boot.py [--rounds 3] [--json FILE]

Two racks stand side by side with the same machines, the same kernel and initramfs; their machines are switched on in
turn, one at a time, so that whatever else the computer does meets both alike. The reference knows every trick that
dnsmasq has: no ping, no proxy wait, router advertisements. Needs root and what `make setup` installs.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

from metalbox.config import Mode
from metalbox.lab.machines import Firmware, MachineSpec
from metalbox.lab.rack import Rack

MARKER = "metalbox: init"
GOAL = 1.1
MACHINES = (MachineSpec(firmware=Firmware.BIOS), MachineSpec(firmware=Firmware.UEFI_PXE))


def boot_once(rack: Rack, name: str) -> float:
    """Seconds from power-on to the marker on the serial console."""
    started = time.monotonic()
    rack.power_on(name)
    rack.wait_console(name, MARKER, timeout=120)
    seconds = time.monotonic() - started
    rack.power_off(name)
    return seconds


def measure(rounds: int) -> dict[str, dict[str, list[float]]]:
    """Seconds of each boot, by firmware and service."""
    with tempfile.TemporaryDirectory(prefix="metalbox-bench-") as folder:
        racks = {
            "metalbox": Rack(Path(folder) / "ours", mode=Mode.FULL, machines=MACHINES, owned=True),
            "dnsmasq+nginx": Rack(
                Path(folder) / "reference", mode=Mode.FULL, machines=MACHINES, service="reference", owned=True
            ),
        }
        found: dict[str, dict[str, list[float]]] = {}
        try:
            for rack in racks.values():
                rack.up()
            for number in range(rounds):
                for label, rack in racks.items():
                    for spec in rack.machines:
                        seconds = boot_once(rack, spec.name)
                        found.setdefault(str(spec.firmware), {}).setdefault(label, []).append(seconds)
                        print(f"round {number + 1}  {spec.firmware:<9} {label:<14} {seconds:6.2f} s", flush=True)
        finally:
            for rack in racks.values():
                rack.down()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    found = measure(args.rounds)
    print(f"\n{'FIRMWARE':<10} {'SERVICE':<14} {'MEDIAN':>7} {'MIN':>7} {'MAX':>7}")
    for firmware, services in found.items():
        for label, times in services.items():
            row = (statistics.median(times), min(times), max(times))
            print(f"{firmware:<10} {label:<14} " + " ".join(f"{seconds:7.2f}" for seconds in row))
    for firmware, services in found.items():
        ratio = statistics.median(services["metalbox"]) / statistics.median(services["dnsmasq+nginx"])
        print(f"ratio boot_{firmware}_vs_dnsmasq_nginx {ratio:.3f} goal {GOAL}")
    if args.json:
        args.json.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
