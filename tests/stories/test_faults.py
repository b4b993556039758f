"""Something is wrong on the way of a real machine, and `why` names it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from metalbox.config import Mode
from metalbox.lab.machines import Firmware, MachineSpec
from metalbox.lab.network import Fault
from metalbox.lab.rack import Rack
from metalbox.lab.site_dhcp import Site

pytestmark = pytest.mark.firmware

RackFactory = Callable[..., Rack]
NAMED_SECONDS = 360


def named(rack: Rack, subject: str, code: str) -> dict[str, Any]:
    """Wait until `why` gives this code for a machine or MAC, and return its answer."""

    def look() -> dict[str, Any] | None:
        try:
            answer = rack.why(subject)
        except Exception:  # not seen on the wire yet
            return None
        return answer if answer["code"] == code else None

    answer = rack.wait_until(look, NAMED_SECONDS, f"`why {subject}` to say {code}")
    assert answer["cause"]
    assert answer["advice"]
    assert answer["evidence"]
    return answer


@pytest.mark.parametrize(
    ("fault", "firmware", "code"),
    [
        (Fault.TFTP, Firmware.UEFI_PXE, "tftp-blocked"),
        (Fault.PXE_PORT, Firmware.UEFI_PXE, "pxe-port-silent"),
        (Fault.HTTP, Firmware.BIOS, "http-blocked"),
    ],
)
def test_a_blocked_port(rack_factory: RackFactory, fault: Fault, firmware: Firmware, code: str) -> None:
    rack = rack_factory(mode=Mode.PROXY, machines=[MachineSpec(firmware=firmware)])
    rack.up()
    rack.block(fault)
    (spec,) = rack.machines
    rack.power_on(spec.name)
    named(rack, spec.mac, code)
    assert rack.call("GET", "/api/v1/machines")["machines"] == []
    assert [row["mac"] for row in rack.call("GET", "/api/v1/machines")["strangers"]] == [spec.mac]


def test_the_sites_server_names_a_wrong_boot_file(rack_factory: RackFactory) -> None:
    """metalbox gives no DHCP here; the site's own server was told to name the file, and names a wrong one."""
    site = Site(boot_file="pxelinux.0", next_server="192.0.2.1")
    rack = rack_factory(mode=Mode.OFF, machines=[MachineSpec(firmware=Firmware.UEFI_PXE)], site=site)
    rack.up()
    (spec,) = rack.machines
    rack.power_on(spec.name)
    answer = named(rack, spec.mac, "wrong-boot-file")
    text = "\n".join(answer["advice"])
    assert "pxelinux.0" in str(answer)
    for word in ("dnsmasq", "dhcpd", "Kea", "Windows", "snponly.efi", "undionly.kpxe"):
        assert word in text, f"the advice has no line for {word}"


def test_a_second_proxy_server(rack_factory: RackFactory) -> None:
    rack = rack_factory(mode=Mode.PROXY, machines=[MachineSpec(firmware=Firmware.UEFI_PXE)])
    rack.up()
    rack.start_rival("rival.0")
    # On a busy computer it may need longer to listen than the firmware needs to ask.
    rack.wait_until(lambda: ":0043 " in rack.exec("rival", ["cat", "/proc/net/udp"]).stdout, 90, "the rival to listen")
    # As when the rival wins the race: what the machine asks of us next does not matter to it.
    # Nor may it fall through to HTTP Boot, and arrive after all.
    rack.block(Fault.PXE_PORT, Fault.TFTP, Fault.HTTP)
    (spec,) = rack.machines
    rack.power_on(spec.name)
    answer = named(rack, spec.mac, "rival-proxy")
    assert "192.0.2.3" in str(answer), "it does not say who else answered"


def test_an_agent_that_never_calls(rack_factory: RackFactory, tmp_path: Path) -> None:
    """The kernel and initramfs arrive whole, and nothing is heard of the machine again."""
    agent = tmp_path / "agent" / "x86_64"
    agent.mkdir(parents=True)
    from metalbox.lab.services import default_folder

    (agent / "vmlinuz").write_bytes((default_folder("agent") / "x86_64" / "vmlinuz").read_bytes())
    (agent / "initrd").write_bytes(bytes(4096))
    (agent / "manifest.json").write_text("{}")
    rack = rack_factory(mode=Mode.FULL, machines=[MachineSpec(firmware=Firmware.BIOS)], agent=tmp_path / "agent")
    rack.up()
    (spec,) = rack.machines
    rack.power_on(spec.name)
    named(rack, spec.mac, "agent-silent")


def test_a_pool_without_a_free_address(rack_factory: RackFactory) -> None:
    """The only address of the pool is reserved for somebody else."""
    taken = {"mac": "52:54:00:00:00:aa", "address": "192.0.2.100"}
    subnet = {
        "subnet": "192.0.2.0/24",
        "interface": "br0",
        "mode": "full",
        "pools": ["192.0.2.100-192.0.2.100"],
        "reservations": [taken],
    }
    rack = rack_factory(mode=Mode.FULL, machines=[MachineSpec(firmware=Firmware.BIOS)], settings={"subnets": [subnet]})
    rack.up()
    (spec,) = rack.machines
    rack.power_on(spec.name)
    named(rack, spec.mac, "pool-exhausted")


def test_two_machines_under_one_uuid(rack_factory: RackFactory) -> None:
    """Boards with a vendor's copied UUID: both are shown, in conflict, and neither can be ordered about."""
    shared = "4c4c4544-0035-3510-8054-b7c04f333732"
    machines = [MachineSpec(firmware=Firmware.BIOS, uuid=shared) for _ in range(2)]
    rack = rack_factory(mode=Mode.FULL, machines=machines)
    rack.up()
    for spec in rack.machines:
        rack.power_on(spec.name)
    for spec in rack.machines:
        rack.wait_for_machine(spec.name, 480)
    for spec in rack.machines:
        named(rack, spec.name, "duplicate-uuid")
        machine = rack.find_machine(spec.name)
        assert machine is not None
        assert shared in machine["conflict"]
        socket = str(rack.directory / "metalbox.sock")
        argv = [sys.executable, "-m", "metalbox", "report", spec.name, "--socket", socket]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 4
        assert shared in done.stderr
