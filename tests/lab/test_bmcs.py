"""The rack's BMCs: who has which, what ipmi_sim is told, and real clients before real firmware."""

from __future__ import annotations

import json
import os
import shlex
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from shutil import which
from typing import Any

import pytest

from metalbox.errors import InvalidValue, NotFound
from metalbox.lab import bmcs, domains, network, processes, record, requirements
from metalbox.lab.bmcs import Bmc, Bmcs
from metalbox.lab.hypervisor import Hypervisor
from metalbox.lab.machines import BmcKind, Bus, Disk, Firmware, MachineSpec, complete, mixed
from metalbox.lab.rack import Rack
from metalbox.lab.record import Record, namespace

UUID = "f2b1de8f-e12a-5028-8198-2a88a09e820d"
# 5 s between ipmitool's tries, and nine of them.
PATIENCE = ("-N", "5", "-R", "8")
IPMI = Bmc(BmcKind.IPMI, "192.0.2.11", 623, "factory", "s3cret", "02:00:00:bc:00:00", UUID)


def test_every_firmware_gets_both_kinds_of_bmc() -> None:
    specs = complete(mixed(8, with_bmcs=True))
    pairs = {(spec.firmware, spec.bmc) for spec in specs}
    assert len(pairs) == 4
    assert {spec.bmc for spec in mixed(2, with_bmcs=True)} == {BmcKind.IPMI, BmcKind.REDFISH}
    assert {spec.bmc for spec in mixed(8)} == {BmcKind.NONE}


def test_each_has_an_address_a_mac_and_a_password_of_its_own() -> None:
    specs = complete([MachineSpec(), *mixed(4, with_bmcs=True)])
    table = bmcs.assign(specs)
    assert list(table) == [spec.name for spec in specs[1:]]
    assert [bmc.address for bmc in table.values()] == ["192.0.2.12", "192.0.2.13", "192.0.2.14", "192.0.2.15"]
    for values in ([bmc.mac for bmc in table.values()], [bmc.password for bmc in table.values()]):
        assert len(set(values)) == len(table)
    assert all(len(bmc.password) == bmcs.PASSWORD_LENGTH for bmc in table.values())
    assert bmcs.assign(specs)["lab0002"].password != table["lab0002"].password
    assert IPMI.password not in repr(IPMI)


def test_what_cannot_be_had_is_left_out_and_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    specs = complete(mixed(2, with_bmcs=True))
    monkeypatch.setattr(requirements, "missing", lambda needs: sorted(set(needs.values())))
    kept, sentences = bmcs.possible(specs)
    assert [spec.bmc for spec in kept] == [BmcKind.NONE, BmcKind.NONE]
    assert sentences[0] == "no IPMI BMCs: run `apt-get install --no-install-recommends openipmi`"
    assert "python3-libvirt" in sentences[1]
    monkeypatch.setattr(requirements, "missing", lambda _: [])
    monkeypatch.setattr(bmcs, "python", lambda: tmp_path / "python")
    kept, sentences = bmcs.possible(specs)
    assert [spec.bmc for spec in kept] == [BmcKind.IPMI, BmcKind.NONE]
    assert sentences == [f"no Redfish BMCs: there is no {tmp_path / 'python'}, which tools/setup makes"]


def test_a_redfish_machine_starts_from_a_disk_that_sushy_tools_can_move() -> None:
    spec, other = complete([MachineSpec(bmc=BmcKind.REDFISH), MachineSpec(disks=(Disk("N", Bus.NVME),))])
    assert spec.disks[0].bus is Bus.SATA
    assert other.disks[0].bus is Bus.NVME
    (given,) = complete([MachineSpec(bmc=BmcKind.REDFISH, disks=(Disk("N", Bus.NVME), Disk("S", Bus.SATA)))])
    assert f"bootindex={domains.LAST_PLACE}," in domains.domain_xml(given, Path("/lab"), {given.segment: "br0"})


def test_one_bmc_that_speaks_both() -> None:
    (spec,) = complete([MachineSpec(bmc=BmcKind.BOTH)])
    assert spec.disks[0].bus is Bus.SATA, "sushy-tools moves no NVMe disks"
    bmc = bmcs.assign([spec])[spec.name]
    assert (bmc.kind, bmc.port, bmc.ipmi) == (BmcKind.BOTH, 443, bmc.address)
    text = domains.domain_xml(spec, Path("/lab"), {spec.segment: "br0"}, ipmi=bmc.ipmi)
    assert f"socket,id=bmc0wire,host={bmc.address},port=9002" in text
    assert f"addr {bmc.address} 623" in bmcs.ipmi_config(spec, bmc, Path("/b"), "uri")


def test_a_bmc_of_both_kinds_needs_what_both_need(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requirements, "missing", lambda needs: ["openipmi"] if needs is requirements.IPMI else [])
    kept, sentences = bmcs.possible(complete([MachineSpec(bmc=BmcKind.BOTH)]))
    assert (kept[0].bmc, len(sentences)) == (BmcKind.NONE, 1)


def test_two_bmcs_cannot_speak_of_one_machine() -> None:
    twins = [MachineSpec(uuid="e24874bd-c019-5868-86a6-e7a204b45bcc", bmc=BmcKind.IPMI)] * 2
    with pytest.raises(InvalidValue, match="e24874bd"):
        complete(twins)
    assert complete([MachineSpec(uuid=twins[0].uuid)] * 2)


def test_the_disk_comes_first_when_asked() -> None:
    disks = (Disk("N", Bus.NVME), Disk("S", Bus.SATA))
    (spec,) = complete([MachineSpec(bmc=BmcKind.IPMI, disks=disks)])
    text = domains.domain_xml(spec, Path("/lab"), {spec.segment: "br0"}, first=domains.First.DISK, ipmi="192.0.2.11")
    assert "bootindex=1," in text
    assert "<boot order='2'/></disk>" in text
    assert "<boot order='3'/></interface>" in text
    assert "socket,id=bmc0wire,host=192.0.2.11,port=9002,reconnect=2" in text
    assert "<serial type='tcp'><source mode='connect' host='192.0.2.11' service='9004'>" in text


def test_ipmi_sim_is_told_of_the_account_and_of_what_drives_the_machine() -> None:
    (spec,) = complete(mixed(1, with_bmcs=True))
    text = bmcs.ipmi_config(spec, IPMI, Path("/a b/bmc/lab0001"), "qemu+unix:///system?socket=/a%20b/s")
    assert '  user 2 true "factory" "s3cret" admin 10 ' in text
    assert f"chassis_control \"sh {bmcs.IPMI_PROGRAM} chassis lab0001 'qemu+unix:///system?socket=/a%20b/s' " in text
    assert "'/a b/bmc/lab0001'\"" in text


def test_the_network_settings_can_be_asked_and_changed(tmp_path: Path) -> None:
    file = tmp_path / "lan"
    file.write_text(bmcs.lan_parameters(IPMI))

    def lan(*words: str) -> str:
        argv = ["sh", str(bmcs.IPMI_PROGRAM), "lan", str(file), *words]
        return subprocess.run(argv, capture_output=True, text=True, check=True, timeout=60).stdout

    asked = ("get", "mac_addr", "ip_addr_src", "ip_addr")
    assert lan(*asked) == "mac_addr:02:00:00:bc:00:00\nip_addr_src:static\nip_addr:192.0.2.11\n"
    assert lan("set", "ip_addr", "192.0.2.50", "ip_addr_src", "dhcp") == ""
    assert lan("check", "ip_addr", "192.0.2.50") == ""
    assert lan(*asked) == "mac_addr:02:00:00:bc:00:00\nip_addr_src:dhcp\nip_addr:192.0.2.50\n"


class Chassis:
    """The program before a libvirt of one file, `state`, that notes what it was told in `told`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        virsh = folder / "virsh"
        virsh.write_text(
            '#!/bin/sh\nshift 3\necho "$*" >>"$0.told"\ncase $1 in\ndomstate) cat "$0.state" ;;\n'
            'start) echo running >"$0.state" ;;\ndestroy) echo "shut off" >"$0.state" ;;\nesac\n'
        )
        virsh.chmod(0o755)
        (folder / "virsh.state").write_text("shut off\n")

    def __call__(self, *words: str) -> tuple[int, str]:
        argv = ["sh", str(bmcs.IPMI_PROGRAM), "chassis", "lab0001", "uri", str(self.folder), *words]
        environment = {"PATH": f"{self.folder}:{os.environ['PATH']}"}
        done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=60, env=environment)
        return done.returncode, done.stdout

    def told(self) -> list[str]:
        """What libvirt was told to change since the last time."""
        path = self.folder / "virsh.told"
        lines = path.read_text().splitlines() if path.exists() else []
        path.unlink(missing_ok=True)
        return [line for line in lines if not line.startswith("domstate")]


def test_power_is_switched_only_when_it_is_not_there_yet(tmp_path: Path) -> None:
    chassis = Chassis(tmp_path)
    assert chassis("get", "power", "boot") == (0, "power:0\nboot:none\n")
    for words in (("reset", "1"), ("shutdown", "1"), ("power", "0")):
        assert chassis("set", *words) == (0, "")
    assert chassis.told() == []
    assert chassis("set", "power", "1") == (0, "")
    assert chassis("set", "power", "1") == (0, "")
    assert chassis("set", "reset", "1") == (0, "")
    assert chassis("get", "power") == (0, "power:1\n")
    assert chassis.told() == ["start lab0001", "reset lab0001"]


def test_boot_devices_are_set_and_those_that_do_not_exist_are_refused(tmp_path: Path) -> None:
    chassis = Chassis(tmp_path)
    assert chassis("set", "boot", "default") == (0, "")
    assert chassis("get", "boot") == (0, "boot:default\n")
    assert chassis("set", "boot", "cdrom")[0] == 1
    assert chassis("get", "boot") == (0, "boot:default\n")
    assert chassis("set", "boot", "pxe") == (0, "")
    assert chassis.told() == [f"define {tmp_path}/disk.xml", f"define {tmp_path}/network.xml"]


def test_a_rack_without_bmcs(tmp_path: Path) -> None:
    quiet = Record(tmp_path)
    none = Bmcs(quiet, Hypervisor(quiet))
    assert none.prepare(complete(mixed(2))) == none.load() == {}
    with pytest.raises(NotFound, match="lab0001 has no BMC"):
        Rack(tmp_path, machines=mixed(1), service="none").bmc("LAB0001")


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder for a rack, cleaned of it whatever happens."""
    needs = (requirements.ALWAYS, requirements.MACHINES)
    if reason := requirements.reason(needs) or bmcs.missing(BmcKind.IPMI) or bmcs.missing(BmcKind.REDFISH):
        pytest.skip(reason)
    for client in ("ipmitool", "curl"):
        if which(client) is None:
            pytest.skip(f"there is no {client}")
    folder = Path(tempfile.mkdtemp(prefix="mbl-"))
    yield folder / "lab"
    if (folder / "lab").is_dir():
        record.remove(folder / "lab")
    folder.rmdir()


def client(rack: Rack, name: str, *words: str) -> list[str]:
    bmc = rack.bmc(name)
    # Without -C ipmitool waits 10 s for a list of cipher suites that ipmi_sim does not give.
    account = ["-H", bmc.address, "-U", bmc.user, "-P", bmc.password]
    return ["ipmitool", "-I", "lanplus", "-C", "3", *PATIENCE, *account, *words]


def ipmitool(rack: Rack, name: str, *words: str) -> str:
    done = rack.exec("lab", client(rack, name, *words), timeout=120)
    return (done.stdout + done.stderr).strip()


def curl(rack: Rack, name: str, path: str = "", body: Any = None, method: str = "GET") -> Any:
    bmc = rack.bmc(name)
    url = f"https://{bmc.address}/redfish/v1/Systems/{bmc.uuid}{path}"
    argv = ["curl", "-skf", "-m", "55", "-u", f"{bmc.user}:{bmc.password}", "-X", method, url]
    if body:
        argv += ["-H", "Content-Type: application/json", "-d", json.dumps(body)]
    done = rack.exec("lab", argv)
    assert done.returncode == 0, f"{argv}: {done.stderr}"
    return json.loads(done.stdout) if done.stdout else None


def reset(rack: Rack, name: str, kind: str) -> None:
    curl(rack, name, "/Actions/ComputerSystem.Reset", {"ResetType": kind}, "POST")


@contextmanager
def sol(rack: Rack, name: str) -> Iterator[Path]:
    """What ipmitool shows of the console, from before the block's begin. Its session is closed by its input's end."""
    screen, over = rack.directory / "logs" / "sol", rack.directory / "logs" / "sol-over"
    screen.touch()
    held = shlex.quote(f"until [ -e {over} ]; do sleep 0.2; done")
    # Into a file it would write its first line with the console's first bytes only.
    shell = f"sh -c {held} | stdbuf -oL {' '.join(client(rack, name, 'sol', 'activate'))} >{screen}"
    argv = network.inside(namespace(rack.directory), ["timeout", "300", "sh", "-c", shell])
    program = processes.spawn(argv, what="sol", log=rack.directory / "logs" / "sol.log")
    try:
        rack.wait_until(lambda: "SOL Session operational" in screen.read_text(errors="replace"), 90, "SOL to begin")
        yield screen
        over.touch()
        rack.wait_until(lambda: not program.is_alive, 90, "SOL to end")
    finally:
        processes.end([program])


@pytest.mark.firmware
def test_ipmitool_drives_a_machine_and_firmware_obeys(place: Path) -> None:
    rack = Rack(place, machines=[MachineSpec(bmc=BmcKind.IPMI)], service="none", mode="off")
    rack.up()
    assert ipmitool(rack, "lab0001", "power", "status") == "Chassis Power is off"
    settings = ipmitool(rack, "lab0001", "lan", "print", "1")
    assert rack.bmc("lab0001").address in settings
    assert rack.bmc("lab0001").mac in settings
    assert "Product Serial        : LAB0001" in ipmitool(rack, "lab0001", "fru")
    assert "CPU Temp         | 41 degrees C      | ok" in ipmitool(rack, "lab0001", "sdr")
    ipmitool(rack, "lab0001", "user", "set", "name", "3", "operator")
    for device, seen in (("disk", "Booting from Hard Disk"), ("pxe", "iPXE initialising devices")):
        assert ipmitool(rack, "lab0001", "chassis", "bootdev", device) == f"Set Boot Device to {device}"
        rack.watch("lab0001")
        assert ipmitool(rack, "lab0001", "power", "on") == "Chassis Power Control: Up/On"
        rack.wait_console("lab0001", seen, 240)
        assert rack.power("lab0001") == "on"
        assert ipmitool(rack, "lab0001", "power", "off") == "Chassis Power Control: Down/Off"
        assert rack.power("lab0001") == "off"
    assert "operator" in ipmitool(rack, "lab0001", "user", "list", "1"), "accounts outlive power cycles"
    with sol(rack, "lab0001") as screen:
        ipmitool(rack, "lab0001", "power", "on")
        rack.wait_until(lambda: "iPXE initialising devices" in screen.read_text(errors="replace"), 240, "it by SOL")
    assert "Force PXE" in ipmitool(rack, "lab0001", "chassis", "bootparam", "get", "5")
    (place / "rack.json").unlink()  # as after a crash at the worst moment
    record.remove(place)
    assert left(place) == []


@pytest.mark.firmware
def test_curl_drives_a_machine_and_firmware_obeys(place: Path) -> None:
    specs = [MachineSpec(bmc=BmcKind.REDFISH), MachineSpec(bmc=BmcKind.REDFISH, firmware=Firmware.UEFI_PXE)]
    rack = Rack(place, machines=specs, service="none", mode="off")
    rack.up()
    assert stat.S_IMODE((place / "bmc").stat().st_mode) == 0o700
    assert [curl(rack, name)["Boot"]["BootSourceOverrideMode"] for name in ("lab0002",)] == ["UEFI"]
    for target, seen in (("Hdd", "Booting from Hard Disk"), ("Pxe", "iPXE initialising devices")):
        curl(rack, "lab0001", "", {"Boot": {"BootSourceOverrideTarget": target}}, "PATCH")
        rack.watch("lab0001")
        reset(rack, "lab0001", "On")
        rack.wait_console("lab0001", seen, 240)
        assert curl(rack, "lab0001")["PowerState"] == "On"
        assert curl(rack, "lab0002")["PowerState"] == "Off"
        reset(rack, "lab0001", "ForceOff")
        assert rack.power("lab0001") == "off"
    other = rack.bmc("lab0002")
    wrong = ["curl", "-sk", "-o", "/dev/null", "-w", "%{http_code}", "-u", f"{other.user}:{other.password}"]
    assert rack.exec("lab", [*wrong, f"https://{rack.bmc('lab0001').address}/redfish/v1/Systems"]).stdout == "401"
    reset(rack, "lab0001", "On")
    rack.down()
    assert left(place) == []


def left(directory: Path) -> list[str]:
    """Namespaces and processes of a rack."""
    found = [path.name for path in Path("/run/netns").glob(f"{namespace(directory)}*")]
    for process in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = process.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if str(directory) in command and process.parent.name != str(os.getpid()):
            found.append(command)
    return found
