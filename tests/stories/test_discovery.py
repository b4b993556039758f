"""The main story on real firmware: a machine is switched on, and stands in the inventory with what QEMU was given."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from metalbox.config import Mode
from metalbox.lab.machines import GIB, Bus, Disk, Firmware, MachineSpec, Segment
from metalbox.lab.rack import Rack
from metalbox.lab.site_dhcp import Relay

pytestmark = pytest.mark.firmware

RackFactory = Callable[..., Rack]

# Emulated without hardware help on two cores, two machines at once: power-on to inventory takes 20 to 40 s.
ARRIVES_SECONDS = 480

EVERY_DISK = (
    Disk("NVME-0001", Bus.NVME, 1 * GIB),
    Disk("SATA-0001", Bus.SATA, 2 * GIB),
    Disk("SCSI-0001", Bus.SCSI, 3 * GIB),
    Disk("VIRTIO-0001", Bus.VIRTIO, 4 * GIB),
)
TRANSPORTS = {Bus.NVME: "nvme", Bus.SATA: "sata", Bus.SCSI: "scsi", Bus.VIRTIO: "virtio"}


def check_inventory(machine: dict[str, Any], spec: MachineSpec) -> None:
    """The inventory says of a machine what QEMU was told to make it."""
    hardware = machine["hardware"]
    system = hardware["system"]
    assert (system["vendor"], system["product"]) == (spec.vendor, spec.product)
    assert (system["serial"], system["uuid"], system["asset_tag"]) == (spec.serial, spec.uuid, spec.asset)
    assert hardware["firmware"]["mode"] == ("bios" if spec.firmware is Firmware.BIOS else "uefi")
    disks = {disk["serial"]: (disk["size_bytes"], disk["transport"]) for disk in hardware["disks"]}
    assert disks == {disk.serial: (disk.size, TRANSPORTS[disk.bus]) for disk in spec.disks}
    assert [nic["mac"] for nic in hardware["nics"]] == [nic.mac for nic in spec.nics]
    assert hardware["architecture"] == "x86_64"
    assert hardware["memory_bytes"] > (spec.memory_mib - 100) * 2**20
    assert len(hardware["cpus"]) >= 1
    assert machine["state"] == "discovered"
    assert machine["name"] == spec.serial.lower()


def kinds(rack: Rack, name: str) -> list[str]:
    return [event["kind"] for event in rack.events(name)]


def boot_all(rack: Rack) -> None:
    for spec in rack.machines:
        rack.power_on(spec.name)
    for spec in rack.machines:
        check_inventory(rack.wait_for_machine(spec.name, ARRIVES_SECONDS), spec)


def test_beside_the_sites_own_dhcp_server(rack_factory: RackFactory) -> None:
    """Proxy mode: BIOS and UEFI PXE, addresses from dnsmasq, and a machine that boots again stays one machine."""
    machines = (MachineSpec(firmware=Firmware.BIOS, disks=EVERY_DISK), MachineSpec(firmware=Firmware.UEFI_PXE))
    rack = rack_factory(mode=Mode.PROXY, machines=machines)
    rack.up()
    boot_all(rack)
    assert rack.call("GET", "/api/v1/leases")["leases"] == [], "metalbox gave an address in proxy mode"
    bios, uefi = rack.machines
    for spec in rack.machines:
        told = kinds(rack, spec.name)
        assert [kind for kind in ("power", "dhcp", "http", "decision", "agent", "report") if kind not in told] == []
        answer = rack.why(spec.name)
        assert answer["code"] == "idle", answer
    assert "tftp" in kinds(rack, uefi.name)
    for spec in rack.machines:
        (spent,) = [event["data"]["timing"] for event in rack.events(spec.name) if "timing" in event["data"]]
        assert spent["from_power_on"]
        assert 0 < spent["metalbox"] < spent["total"]
        waited = ("metalbox", "transfer", "firmware", "ipxe", "kernel", "inventory")
        assert sum(spent[on] for on in waited) == pytest.approx(spent["total"], abs=0.01)

    first = rack.find_machine(bios.name)
    assert first is not None
    rack.reset(bios.name)
    again = rack.wait_until(
        lambda: (m := rack.find_machine(bios.name)) and m["boot_id"] != first["boot_id"] and m, ARRIVES_SECONDS, "again"
    )
    assert again["id"] == first["id"]
    assert len(rack.call("GET", "/api/v1/machines")["machines"]) == 2


def test_giving_the_addresses_itself(rack_factory: RackFactory) -> None:
    """Full mode: BIOS, UEFI PXE and UEFI HTTP Boot, without another server on the wire."""
    machines = [MachineSpec(firmware=kind) for kind in (Firmware.BIOS, Firmware.UEFI_PXE, Firmware.UEFI_HTTP)]
    rack = rack_factory(mode=Mode.FULL, machines=machines)
    rack.up()
    boot_all(rack)
    leases = {row["mac"]: row for row in rack.call("GET", "/api/v1/leases")["leases"]}
    for spec in rack.machines:
        machine = rack.find_machine(spec.name)
        assert machine is not None
        lease = leases[spec.mac]
        # ROM, iPXE and the agent's own client are one machine to us, and get one address.
        assert (lease["address"], lease["machine"], lease["state"]) == (machine["address"], spec.name, "bound")
    http = rack.machines[2]
    told = rack.events(http.name)
    assert not [event for event in told if event["kind"] == "tftp"], "HTTP Boot needs no TFTP"
    assert [event for event in told if event["kind"] == "http" and event["data"].get("role") == "boot file"]


@pytest.mark.parametrize("relay", list(Relay))
def test_behind_a_relay(rack_factory: RackFactory, relay: Relay) -> None:
    """Full mode for a subnet that only a relay reaches; its option 82 becomes the machine's location."""
    machines = [MachineSpec(firmware=Firmware.BIOS, segment=Segment.RELAYED)]
    rack = rack_factory(mode=Mode.FULL, machines=machines, relay=relay)
    rack.up()
    boot_all(rack)
    (spec,) = rack.machines
    machine = rack.find_machine(spec.name)
    assert machine is not None
    (lease,) = rack.call("GET", "/api/v1/leases")["leases"]
    assert lease["address"] == machine["address"]
    assert lease["address"].startswith("198.51.100.")
    if relay is Relay.ISC:
        assert "eth1" in machine["location"]
        assert "eth1" in lease["location"]


def test_with_secure_boot_on(rack_factory: RackFactory) -> None:
    """Microsoft's keys in the firmware; shim, GRUB and kernel as Debian signed them, all by TFTP."""
    machines = [MachineSpec(firmware=Firmware.SECURE_BOOT)]
    rack = rack_factory(mode=Mode.FULL, machines=machines, settings={"boot": {"uefi_loader": "shim"}})
    rack.up()
    boot_all(rack)
    (spec,) = rack.machines
    machine = rack.find_machine(spec.name)
    assert machine is not None
    assert machine["hardware"]["firmware"]["secure_boot"] is True
    (spent,) = [event["data"]["timing"] for event in rack.events(spec.name) if "timing" in event["data"]]
    assert spent["kernel"] > spent["ipxe"]
