"""Ports of real and made machines, and what their drivers answer."""

from __future__ import annotations

import random
import struct
from pathlib import Path

import pytest

from metalbox.agent import nics
from tests.agent.snapshots import unpack, write

PCI = "sys/devices/pci0000:00/0000:00:1c.5/0000:04:00.0"


def port(path: str, name: str, files: dict[str, str | bytes]) -> dict[str, str | bytes]:
    files = {"type": "1", "address": "52:54:00:aa:00:01", "carrier": "1", "speed": "25000", **files}
    return {f"sys/class/net/{name}": f"->../../../{path}"} | {f"{path}/{file}": value for file, value in files.items()}


def test_a_real_machine(tmp_path: Path) -> None:
    found = nics.nics(unpack("linux-amd64-61797caf7c0b6bca1725ad7975ed4773", tmp_path))
    assert {nic["name"]: nic["pci_address"] for nic in found} == {
        "enp3s0": "0000:03:00.0", "enp8s0": "0000:08:00.0", "enp6s0f0": "0000:06:00.0", "enp6s0f1": "0000:06:00.1",
    }  # fmt: skip


def test_a_port_is_told_whole(tmp_path: Path) -> None:
    root = write(tmp_path, port(f"{PCI}/net/eth0", "eth0", {"device/driver": "->../../../bus/pci/drivers/tg3"}))
    told = {"mac": "70:b5:e8:f0:50:28", "driver": "tg3", "firmware": "FFV21.60.16"}
    assert nics.nics(root, lambda name: told if name == "eth0" else {}) == [
        {
            "mac": "70:b5:e8:f0:50:28",
            "name": "eth0",
            "driver": "tg3",
            "firmware": "FFV21.60.16",
            "speed_mbps": 25000,
            "link": True,
            "pci_address": "0000:04:00.0",
            "lldp": None,
        }
    ]
    (unasked,) = nics.nics(root)
    assert (unasked["mac"], unasked["driver"]) == ("52:54:00:aa:00:01", "tg3")


@pytest.mark.parametrize("speed", ["-1", "4294967295", "0", ""])
def test_a_port_without_link_has_no_speed(speed: str, tmp_path: Path) -> None:
    root = write(tmp_path, port(f"{PCI}/net/eth0", "eth0", {"speed": speed, "carrier": "0"}))
    assert [(nic["speed_mbps"], nic["link"]) for nic in nics.nics(root)] == [(None, False)]


@pytest.mark.parametrize(
    ("path", "name", "files"),
    [
        ("sys/devices/virtual/net/lo", "lo", {"type": "772"}),
        ("sys/devices/virtual/net/br0", "br0", {}),
        ("sys/devices/virtual/net/eth0.5", "eth0.5", {}),
        (f"{PCI}/net/can0", "can0", {"type": "280"}),
        (f"{PCI}/net/eth5", "eth5", {"device/physfn": "->../0000:04:00.0"}),
        ("sys/devices/pci0000:00/0000:00:14.0/usb1/1-4/1-4:1.0/net/usb0", "usb0", {"address": "7e:d3:0a:e4:11:2f"}),
    ],
)
def test_what_is_no_port(path: str, name: str, files: dict[str, str | bytes], tmp_path: Path) -> None:
    (tmp_path / "sys/devices/pci0000:00/0000:00:1c.5/0000:04:00.0").mkdir(parents=True)
    root = write(tmp_path, port(path, name, files))
    if "device/physfn" in files:
        (root / PCI / "net/eth5/0000:04:00.0").mkdir(exist_ok=True)
        (root / PCI / "net/eth5/device/physfn").unlink()
        (root / PCI / "net/eth5/device/physfn").mkdir()
    assert nics.nics(root) == []


def test_a_usb_adapter_with_an_address_of_its_maker_is_a_port(tmp_path: Path) -> None:
    path = "sys/devices/pci0000:00/0000:00:14.0/usb2/2-1/2-1:1.0/net/eth1"
    assert len(nics.nics(write(tmp_path, port(path, "eth1", {"address": "a0:ce:c8:00:11:22"})))) == 1


def test_what_drivers_answer() -> None:
    info = struct.pack("=I32s32s32s96x", 3, b"mlx5_core", b"6.1.0", b"22.36.1010 (DEL0000000016)")
    assert nics.parse_driver_info(info) == {"driver": "mlx5_core", "firmware": "22.36.1010 (DEL0000000016)"}
    assert nics.parse_driver_info(struct.pack("=I32s32s32s96x", 3, b"virtio_net", b"1.0", b"N/A"))["firmware"] == ""
    address = struct.pack("=II32s", 0x20, 6, bytes.fromhex("70b5e8f05028"))
    assert nics.parse_permanent_address(address) == "70:b5:e8:f0:50:28"
    infiniband = struct.pack("=II32s", 0x20, 20, bytes(range(20)))
    assert len(nics.parse_permanent_address(infiniband)) == 59
    assert nics.parse_permanent_address(struct.pack("=II32s", 0x20, 6, b"")) == ""


def test_damaged_answers_never_raise() -> None:
    rng = random.Random(8)
    for _ in range(20_000):
        data = rng.randbytes(rng.randrange(120))
        nics.parse_driver_info(data)
        nics.parse_permanent_address(data)


def test_the_drivers_of_this_machine_are_asked() -> None:
    for name in nics.port_names(Path("/")):
        assert set(nics.ask_driver(name)) <= {"mac", "driver", "firmware"}
    assert nics.ask_driver("no-such-port") == {}
