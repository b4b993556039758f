"""LLDP frames of real switches, damaged ones, and frames on a real wire."""

from __future__ import annotations

import os
import random
import socket
import struct
import threading
import time
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from metalbox.agent import lldp
from tests.agent.rack import until
from tests.agent.snapshots import write
from tests.corpus import ROOT, corpus

CAPTURES = [*sorted(path.name for path in (ROOT / "pcap").glob("*lldp*.pcap")), "tcpdump-LLDP_and_CDP.pcap"]
MUTATIONS = 100_000


def frames(name: str) -> Iterator[bytes]:
    """The frames of a classic pcap file."""
    data = corpus("pcap", name).read_bytes()
    order = "<" if data[:1] in (b"\xd4", b"\x4d") else ">"
    at = 24
    while at + 16 <= len(data):
        length = struct.unpack_from(f"{order}I", data, at + 8)[0]
        yield data[at + 16 : at + 16 + length]
        at += 16 + length


def neighbours(name: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for frame in frames(name):
        neighbour = lldp.parse_frame(frame)
        if neighbour and neighbour not in found:
            found.append(neighbour)
    return found


def element(kind: int, value: bytes) -> bytes:
    return (kind << 9 | len(value)).to_bytes(2, "big") + value


def frame(port: bytes = b"Ethernet1/7", name: bytes = b"leaf1", *, seconds: int = 120, vlan: int = 0) -> bytes:
    body = element(1, b"\x04\x52\x54\0\0\0\1") + element(2, b"\x05" + port) + element(3, seconds.to_bytes(2, "big"))
    body += element(5, name)
    if vlan:
        body += element(127, b"\0\x80\xc2\x01" + vlan.to_bytes(2, "big"))
    return bytes.fromhex("0180c200000e 525400000001 88cc") + body + b"\0\0"


@pytest.mark.parametrize("name", CAPTURES)
def test_every_capture_is_read(name: str) -> None:
    for neighbour in neighbours(name):
        assert neighbour["chassis_id"] and neighbour["port_id"]


@pytest.mark.parametrize(
    ("capture", "chassis", "port", "description", "system", "vlan"),
    [
        ("lldpd-8023bt.pcap", "c0:64:e4:a9:9b:80", "Gi1/0/2", "GigabitEthernet1/0/2", "cisco-bt-switch", 1),
        ("arkime-wireshark-lldp.pcap", "00:01:30:f9:ad:a0", "1/1", "Summit300-48-Port 1001", "Summit300-48", 488),
        ("packetnet-lldp.pcap", "172.16.10.109", "001B54945A8B:P2", "PC Port", "SEP001B54945A8B.elmec.ad", None),
        ("lldpd-connectx.pcap", "50:6b:4b:f6:1e:b3", "50:6b:4b:f6:1e:b1", "ConnectX-4 Lx, 25G/10G/1G SFP", "", None),
        ("tcpdump-LLDP_and_CDP.pcap", "00:18:ba:98:68:8f", "Fa0/13", "FastEthernet0/13", "S1.cisco.com", 1),
    ],
)
def test_known_switches(capture: str, chassis: str, port: str, description: str, system: str, vlan: int | None) -> None:
    assert {
        "chassis_id": chassis,
        "port_id": port,
        "port_description": description,
        "system_name": system,
        "vlan": vlan,
    } in neighbours(capture)


def test_a_frame_behind_a_vlan_tag() -> None:
    tagged = frame()[:12] + b"\x81\x00\x00\x05" + frame()[12:]
    assert lldp.parse_frame(tagged) == lldp.parse_frame(frame())


@pytest.mark.parametrize(
    "data",
    [
        b"",
        frame()[:20],
        frame(seconds=0),  # the neighbour says goodbye
        frame()[:12] + b"\x08\x00" + frame()[14:],
        bytes.fromhex("0180c200000e52540000000188cc") + element(2, b"\x05a") + element(1, b"\x04abcdef") + b"\0\0",
    ],
)
def test_what_is_no_neighbour(data: bytes) -> None:
    assert lldp.parse_frame(data) is None


def test_damaged_frames_never_raise_and_nothing_grows() -> None:
    seeds = [data for name in CAPTURES for data in frames(name)] if CAPTURES[:-1] else [frame(vlan=5)]
    rng = random.Random(20261121)
    table = lldp.Neighbours()
    tracemalloc.start()
    try:
        for number in range(MUTATIONS):
            damaged = bytearray(rng.choice(seeds)[: rng.randrange(14, 400)])
            for _ in range(rng.randrange(1, 10)):
                damaged[rng.randrange(14 if rng.random() < 0.9 else 0, len(damaged) + 1) - 1] = rng.randrange(256)
            table.hear("eth0", bytes(damaged), 0.0)
            if number == 5000:
                before = tracemalloc.get_traced_memory()[0]
        assert tracemalloc.get_traced_memory()[0] < before + 200_000
    finally:
        tracemalloc.stop()


def test_news_is_only_what_is_new() -> None:
    table = lldp.Neighbours()
    table.hear("eth0", frame(), 0.0)
    assert table.changed.is_set()
    table.changed.clear()
    table.hear("eth0", frame(), 0.0)
    assert not table.changed.is_set()
    table.hear("eth0", frame(vlan=20), 0.0)
    assert table.changed.is_set()
    assert table.of("eth0") == {
        "chassis_id": "52:54:00:00:00:01",
        "port_id": "Ethernet1/7",
        "port_description": "",
        "system_name": "leaf1",
        "vlan": 20,
    }
    assert table.of("eth1") is None


def test_a_neighbour_that_fell_silent_is_forgotten_when_another_speaks() -> None:
    table = lldp.Neighbours()
    table.hear("eth0", frame(name=b"a-old"), 0.0)
    table.hear("eth0", frame(port=b"Ethernet9", name=b"new"), 60.0)
    told = table.of("eth0")
    assert told and told["system_name"] == "a-old"
    table.changed.clear()
    table.hear("eth0", frame(port=b"Ethernet9", name=b"new"), 140.0)
    told = table.of("eth0")
    assert told and told["system_name"] == "new" and table.changed.is_set()


def test_a_switch_is_named_rather_than_an_adapter_whatever_the_order() -> None:
    adapter = frame(port=b"aaa", name=b"")
    for order in ((adapter, frame()), (frame(), adapter)):
        table = lldp.Neighbours()
        for data in order:
            table.hear("eth0", data, 0.0)
        told = table.of("eth0")
        assert told and told["system_name"] == "leaf1"


def test_an_x710_is_asked_to_pass_lldp_on(tmp_path: Path) -> None:
    command = "sys/kernel/debug/i40e/0000:3b:00.0/command"
    root = write(tmp_path, {command: "", "sys/bus/pci/drivers/i40e/bind": ""})
    lldp.release_from_firmware(root)
    assert (root / command).read_text() == "lldp stop"


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="listening takes root")
def test_frames_on_a_real_wire_are_heard() -> None:
    table = lldp.Neighbours()
    listener = lldp.open_listener()
    threading.Thread(target=lldp.listen, args=(listener, table, lambda: ["lo"]), daemon=True).start()
    sender = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
    try:
        sender.bind(("lo", 0))
        until(lambda: sender.send(frame()) and table.changed.wait(0.1))
        told = table.of("lo")
        assert told and told["port_id"] == "Ethernet1/7"
    finally:
        sender.close()
        listener.close()
        time.sleep(0)
