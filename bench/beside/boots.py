"""Real firmware in QEMU, from power-on to the agent's init: see bench/boot.py, whose racks are used here."""

from __future__ import annotations

from bench import boot
from bench.beside import packages
from bench.beside.figures import Results
from bench.beside.rounds import Run
from bench.beside.servers import METALBOX

COLUMNS = ("seconds",)
PEER = "dnsmasq+nginx"


def measure(run: Run) -> Results:
    """Both racks, in turn. The wire of the other targets is not used: the racks have their own."""
    packages.ensure(("dnsmasq", "nginx"))
    results = Results("boot")
    for firmware, services in boot.measure(run.count).items():
        for label, times in services.items():
            for seconds in times:
                results.add(firmware, label, {"seconds": seconds})
        results.ratio(f"boot_{firmware}_vs_dnsmasq_nginx", firmware, "seconds", METALBOX, PEER)
    if results.ratios:
        results.ratios["boot_vs_dnsmasq_nginx"] = max(results.ratios.values())
    return results
