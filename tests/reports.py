"""Agents' reports for the tests, as JSON documents."""

from __future__ import annotations

import copy
from typing import Any

UUID = "4c4c4544-0042-3510-8054-b7c04f333732"
OTHER_UUID = "4c4c4544-0043-3510-8054-b7c04f333732"
PLACEHOLDER = "03000200-0400-0500-0006-000700080009"

FULL: dict[str, Any] = {
    "version": 1,
    "agent": {
        "version": "0.1.0",
        "boot_id": "b1",
        "uptime_seconds": 12.5,
        "kernel": "6.1.0-28-amd64",
        "address": "192.0.2.100",
        "interface": "eth0",
        "booted_mac": "52:54:00:00:00:01",
    },
    "hardware": {
        "system": {"vendor": "Dell Inc.", "product": "PowerEdge R610", "serial": "8FZC1P1", "uuid": UUID},
        "firmware": {"mode": "uefi", "vendor": "Dell Inc.", "version": "6.6.0", "secure_boot": False, "tpm": "1.2"},
        "architecture": "x86_64",
        "memory_bytes": 51539607552,
        "cpus": [{"socket": "CPU1", "model": "Xeon X5650", "cores": 6, "threads": 12, "mhz": 2666}],
        "dimms": [
            {"locator": "DIMM_A1", "size_bytes": 8589934592, "type": "DDR3", "speed_mts": 1333, "serial": "A1"},
            {"locator": "DIMM_A2", "size_bytes": 8589934592, "type": "DDR3", "speed_mts": 1333, "serial": "A2"},
        ],
        "disks": [
            {
                "name": "sda",
                "model": "ST9500620NS",
                "serial": "9XF0AAAA",
                "wwn": "0x5000c5003aaaaaaa",
                "firmware": "AA09",
                "size_bytes": 500107862016,
                "logical_sector_bytes": 512,
                "rotational": True,
                "transport": "sata",
                "health": {"status": "ok", "power_on_hours": 1000, "temperature_celsius": 31},
            },
            {
                "name": "nvme0n1",
                "model": "INTEL SSDPE2KX010T8",
                "serial": "PHLJ9",
                "size_bytes": 1000204886016,
                "transport": "nvme",
                "namespaces": [{"nsid": 1, "name": "nvme0n1", "size_bytes": 1000204886016}],
            },
        ],
        "nics": [
            {
                "mac": "52:54:00:00:00:01",
                "name": "eth0",
                "driver": "bnx2",
                "link": True,
                "speed_mbps": 1000,
                "lldp": {
                    "chassis_id": "00:01:02:03:04:05",
                    "port_id": "Gi1/0/1",
                    "system_name": "switch-1",
                    "vlan": 10,
                },
            },
            {"mac": "52:54:00:00:00:02", "name": "eth1", "driver": "bnx2", "link": False},
        ],
        "pci": [
            {"address": "0000:01:00.0", "class_code": "020000", "vendor_id": "14e4", "device_id": "1639"},
            {"address": "0000:03:00.0", "class_code": "030000", "vendor_id": "10de", "device_id": "1eb8"},
        ],
        "bmc": {"address": "192.0.2.200", "mac": "52:54:00:00:00:0f", "channel": 1, "firmware": "2.92"},
    },
    "problems": [],
}


def full(**agent: Any) -> dict[str, Any]:
    """A report with everything in it; arguments replace parts of `agent`."""
    document = copy.deepcopy(FULL)
    document["agent"].update(agent)
    return document


def small(
    *macs: str, boot_id: str, uuid: str = "", serial: str = "", vendor: str = "QEMU", product: str = "Standard PC"
) -> dict[str, Any]:
    """A report of a machine that has only these marks."""
    return {
        "version": 1,
        "agent": {"boot_id": boot_id, "booted_mac": macs[0] if macs else None},
        "hardware": {
            "system": {"vendor": vendor, "product": product, "serial": serial, "uuid": uuid},
            "nics": [{"mac": mac} for mac in macs],
        },
    }
