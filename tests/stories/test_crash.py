"""kill -9 of the service, again and again, while addresses are asked for: nothing that was promised may be lost."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from metalbox.cli import client
from metalbox.config import Mode
from metalbox.errors import StartError
from metalbox.lab.machines import Firmware, MachineSpec
from metalbox.lab.rack import Rack
from tests.netns import Namespaces

pytestmark = pytest.mark.root

KILLS = 50
SERVER, RELAY = "198.18.0.1", "198.18.0.2"
CONFIG = """
data_dir: {dir}/data
socket: {dir}/metalbox.sock
boot: {{files: [/usr/lib/ipxe], agent: {dir}/agent}}
subnets:
  - subnet: 198.18.0.0/16
    interface: eth0
    mode: full
    pools: [198.18.1.0-198.18.250.255]
    lease_seconds: 3600
"""


class Service:
    """The real service in its namespace, started and killed at will."""

    def __init__(self, net: Namespaces, folder: Path) -> None:
        self.net = net
        self.folder = folder
        (folder / "metalbox.yaml").write_text(CONFIG.format(dir=folder))
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        argv = [*self.net.exec("server"), sys.executable, "-m", "metalbox", "serve", "--config"]
        argv.append(str(self.folder / "metalbox.yaml"))
        with (self.folder / "service.log").open("ab") as log:
            self.process = subprocess.Popen(argv, stdout=log, stderr=log)

    def kill(self) -> None:
        assert self.process is not None
        assert self.process.poll() is None, (self.folder / "service.log").read_text()[-2000:]
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def leases(self) -> dict[str, str]:
        """Address by MAC, as the running service tells them; waits until it answers."""
        deadline = time.monotonic() + 90
        while True:
            try:
                rows = client.call(str(self.folder / "metalbox.sock"), "GET", "/api/v1/leases")["leases"]
            except StartError:
                assert time.monotonic() < deadline, (self.folder / "service.log").read_text()[-2000:]
                time.sleep(0.05)
            else:
                return {row["mac"]: row["address"] for row in rows if row["state"] == "bound"}


def promised(path: Path) -> list[tuple[str, str]]:
    """What clients were told, in order; a line cut short by the moment of reading is left out."""
    lines = path.read_text().splitlines(keepends=True)
    return [tuple(line.split()) for line in lines if line.endswith("\n")]  # type: ignore[misc]


def test_fifty_kills_under_load_lose_no_lease_and_give_none_twice(tmp_path: Path) -> None:
    rng = random.Random(50)
    with Namespaces() as net:
        net.link("server", "eth0", "client", "eth0", left_ip=f"{SERVER}/16", right_ip=f"{RELAY}/16")
        service = Service(net, tmp_path)
        service.start()
        service.leases()
        acked = tmp_path / "acked.txt"
        argv = [*net.exec("client"), sys.executable, "-m", "tests.stories.dora", RELAY, SERVER, "600", "7", "32", "250"]
        root = Path(__file__).parents[2]
        with acked.open("wb") as out:
            load = subprocess.Popen(argv, stdout=out, stderr=subprocess.PIPE, cwd=root, env=os.environ)
        try:
            for _ in range(KILLS):
                time.sleep(rng.uniform(0.05, 0.6))
                service.kill()
                before = promised(acked)
                service.start()
                kept = service.leases()
                lost = [(mac, address) for mac, address in before if kept.get(mac) != address]
                assert not lost, f"{len(lost)} of {len(before)} promises broken, first {lost[0]}"
        finally:
            load.terminate()
            _, errors = load.communicate(timeout=60)
            if service.process is not None:
                service.process.terminate()
                code = service.process.wait(timeout=60)
    assert not errors
    assert code == 0
    holders: dict[str, set[Any]] = defaultdict(set)
    for mac, address in promised(acked):
        holders[address].add(mac)
    twice = {address: macs for address, macs in holders.items() if len(macs) > 1}
    assert not twice
    assert len(holders) > KILLS * 20, "there was hardly any load"


@pytest.mark.firmware
def test_machines_in_mid_boot_arrive(rack_factory: Callable[..., Rack]) -> None:
    """The service is killed every second or two from before power-on until both machines stand in the inventory."""
    rng = random.Random(9)
    machines = [MachineSpec(firmware=Firmware.BIOS), MachineSpec(firmware=Firmware.UEFI_PXE)]
    rack = rack_factory(mode=Mode.FULL, machines=machines)
    rack.up()
    for spec in rack.machines:
        rack.power_on(spec.name)
    deadline = time.monotonic() + 480
    kills = 0
    while True:
        time.sleep(rng.uniform(1.0, 2.5))
        found = [rack.find_machine(spec.name) for spec in rack.machines]
        if all(found):
            break
        assert time.monotonic() < deadline, "a machine did not arrive although the service always came back"
        rack.kill_service()
        rack.start_service()
        kills += 1
    assert kills >= 5
    leases = {row["mac"]: row["address"] for row in rack.call("GET", "/api/v1/leases")["leases"]}
    assert leases == {
        spec.mac: machine["address"] for spec, machine in zip(rack.machines, found, strict=True) if machine
    }
