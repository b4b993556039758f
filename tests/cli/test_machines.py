"""`list`, `show` and `report` as people and programs see them."""

from __future__ import annotations

import dataclasses
import json
from types import SimpleNamespace
from typing import Any
from urllib.parse import parse_qsl

import pytest

from metalbox.cli import machines, output
from metalbox.cli.main import main
from metalbox.machine import Bmc, Cpu, Dimm, Disk, Firmware, Hardware, Health, Lldp, Mac, Machine, Nic, Pci, System

HARDWARE = Hardware(
    system=System("Dell Inc.", "PowerEdge R6515", "", "7XK2P53", "4c4c4544-0058-4b10-8032-b7c04f503533", "A17"),
    firmware=Firmware("uefi", "Dell Inc.", "2.2.4", "04/12/2021", True, "2.0"),
    architecture="x86_64",
    memory_bytes=64 * 2**30,
    cpus=(Cpu("CPU1", "AuthenticAMD", "AMD EPYC 7302P", 16, 32, 3000),),
    dimms=(Dimm("A1", "", 64 * 2**30, "DDR4", 3200, "Hynix", "HMA84", "3F1"),),
    disks=(
        Disk("nvme0n1", "PM9A3", "S64G1", "eui.3", "1", 960197124096, rotational=False, transport="nvme"),
        Disk("sda", "ST4000", "ZC1", size_bytes=4 * 10**12, rotational=True, transport="sas", health=Health("ok", 3)),
    ),
    nics=(
        Nic("4c:d9:8f:00:00:01", "eno1", "tg3", "", 1000, True, "0000:c1:00.0", Lldp("aa", "Gi1/0/7", "", "leaf1")),
        Nic("4c:d9:8f:00:00:02", "eno2", "tg3", link=False, pci_address="0000:c1:00.1"),
    ),
    pci=(Pci("0000:c3:00.0", "030000", "102b", "0536", "Matrox", "G200eW3", "mgag200"),),
    bmc=Bmc("192.0.2.77", "4c:d9:8f:00:00:09", 1, "4.40", "Dell"),
)
MACHINE = Machine(
    id=1,
    name="7xk2p53",
    state="discovered",
    uuid="4c4c4544-0058-4b10-8032-b7c04f503533",
    serial="7XK2P53",
    macs=(Mac("4c:d9:8f:00:00:01"),),
    hardware=HARDWARE,
    location="leaf1 Gi1/0/7",
    labels={"rack": "r1", "pdu": "a"},
    owner="ann",
    note="left fan rattles",
    address="192.0.2.101",
    first_seen=1_700_000_000.0,
    last_seen=1_700_000_100.0,
)
SHOWN = """\
7xk2p53  discovered
  model       Dell Inc. PowerEdge R6515
  serial      7XK2P53
  uuid        4c4c4544-0058-4b10-8032-b7c04f503533
  asset tag   A17
  firmware    UEFI, Dell Inc. 2.2.4 04/12/2021, Secure Boot on, TPM 2.0
  location    leaf1 Gi1/0/7
  labels      pdu=a,rack=r1
  owner       ann
  note        left fan rattles
  address     192.0.2.101
  cpus        CPU1: AMD EPYC 7302P (16 cores, 32 threads, 3000 MHz)
  memory      64 GiB in all
              A1: 64 GiB DDR4 3200 MT/s Hynix HMA84 3F1
  disks       nvme0n1  960.2 GB  nvme  PM9A3   S64G1  solid
              sda      4 TB      sas   ST4000  ZC1    spinning, ok, 3% worn
  nics        eno1  4c:d9:8f:00:00:01  tg3  up 1000 Mbit/s  0000:c1:00.0  -> leaf1 Gi1/0/7
              eno2  4c:d9:8f:00:00:02  tg3  no link         0000:c1:00.1
  gpus        0000:c3:00.0 Matrox G200eW3 (mgag200)
  bmc         192.0.2.77, 4c:d9:8f:00:00:09, channel 1, Dell, firmware 4.40
  pci         1 functions (-o json lists them)
"""


def test_show(scripted: Any, capsys: pytest.CaptureFixture[str]) -> None:
    scripted.answers["GET /api/v1/machines/7xk2p53"] = (200, dataclasses.asdict(MACHINE))
    assert main(["show", "7xk2p53", "--socket", str(scripted.path)]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if not line.startswith("  seen")]
    assert "\n".join(lines) + "\n" == SHOWN


def test_show_for_programs(scripted: Any, capsys: pytest.CaptureFixture[str]) -> None:
    scripted.answers["GET /api/v1/machines/1"] = (200, dataclasses.asdict(MACHINE))
    assert main(["show", "1", "-o", "json", "--socket", str(scripted.path)]) == 0
    assert json.loads(capsys.readouterr().out)["hardware"]["system"]["serial"] == "7XK2P53"


def test_list(scripted: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1_800_000_000.0
    for module in (machines, output):
        monkeypatch.setattr(module, "time", SimpleNamespace(time=lambda: now))
    row = {
        "id": 1, "name": "7xk2p53", "state": "discovered", "vendor": "Dell Inc.", "product": "PowerEdge R6515",
        "serial": "7XK2P53", "uuid": "", "address": "192.0.2.101", "macs": [], "location": "", "conflict": "",
        "memory_bytes": 64 * 2**30, "cpus": 1, "disks": 2, "disk_bytes": 5 * 10**12, "first_seen": now,
        "last_seen": now - 65, "mode": "uefi", "owner": "ann", "labels": {"rack": "r1", "pdu": "a"},
    }  # fmt: skip
    strangers = [{"mac": "52:54:00:00:00:09", "last_seen": now - 61, "text": "offered undionly.kpxe"}]
    scripted.answers["GET /api/v1/machines"] = (200, {"machines": [row], "strangers": strangers})
    assert main(["list", "dell", "--state", "discovered", "--socket", str(scripted.path)]) == 0
    asked = dict(parse_qsl(scripted.requests[0][2]))
    assert (asked["state"], asked["q"]) == ("discovered", "dell")
    assert set(asked["fields"].split(",")) < set(row) | {"fault", "held"}
    assert "labels" not in asked["fields"]
    assert capsys.readouterr().out.splitlines() == [
        "NAME     STATE       FIRMWARE  MODEL                      SERIAL   ADDRESS      MEMORY  DISKS     SEEN",
        "7xk2p53  discovered  uefi      Dell Inc. PowerEdge R6515  7XK2P53  192.0.2.101  64 GiB  2 (5 TB)  1m 5s ago",
        "seen, not in the inventory: 52:54:00:00:00:09 1m 1s ago: offered undionly.kpxe",
        "ask `metalbox why MAC` what holds them up",
    ]
    assert main(["list", "--wide", "-l", "rack=r1", "--socket", str(scripted.path)]) == 0
    asked = dict(parse_qsl(scripted.requests[1][2]))
    assert asked["selector"] == "rack=r1"
    assert asked["fields"].endswith(",owner,labels")
    head, line = (text.split("SEEN")[-1].split("ago")[-1].split() for text in capsys.readouterr().out.splitlines()[:2])
    assert (head, line) == (["OWNER", "LABELS"], ["ann", "pdu=a,rack=r1"])


def test_programs_get_every_field(scripted: Any, capsys: pytest.CaptureFixture[str]) -> None:
    scripted.answers["GET /api/v1/machines"] = (200, {"machines": [], "strangers": []})
    assert main(["list", "-o", "json", "--socket", str(scripted.path)]) == 0
    assert scripted.requests[0][2] == ""
    assert json.loads(capsys.readouterr().out) == {"machines": [], "strangers": []}


def test_an_empty_list_says_what_to_do(scripted: Any, capsys: pytest.CaptureFixture[str]) -> None:
    scripted.answers["GET /api/v1/machines"] = (200, {"machines": [], "strangers": []})
    assert main(["list", "--socket", str(scripted.path)]) == 0
    assert "metalbox lab up" in capsys.readouterr().out
    assert main(["list", "-l", "rack=r9", "--socket", str(scripted.path)]) == 0
    assert capsys.readouterr().out == "no machine is like that: `metalbox list` shows all\n"


def test_report(scripted: Any, capsys: pytest.CaptureFixture[str]) -> None:
    scripted.answers["POST /api/v1/machines/a%20b/report"] = (200, {"order": 7})
    assert main(["report", "a b", "--socket", str(scripted.path)]) == 0
    assert capsys.readouterr().out.startswith("order 7: ")


def test_exit_codes(scripted: Any, capsys: pytest.CaptureFixture[str]) -> None:
    socket = ["--socket", str(scripted.path)]
    assert main(["show", "nobody", *socket]) == 3
    scripted.answers["POST /api/v1/machines/m/report"] = (409, {"error": "two machines say so", "exit_code": 4})
    assert main(["report", "m", *socket]) == 4
    assert capsys.readouterr().err.splitlines()[-1] == "metalbox: two machines say so"
    with pytest.raises(SystemExit) as caught:
        main(["show"])
    assert caught.value.code == 2
