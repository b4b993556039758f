"""A whole rack with real firmware: it comes up, is seen on the wire, and nothing is left of it, also after a crash."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from metalbox.config import Mode
from metalbox.errors import NotFound, Refused, StartError, TimedOut
from metalbox.lab import processes, rack, record, requirements
from metalbox.lab.machines import MIB, Bus, Defect, Disk, Failing, Firmware, MachineSpec, Segment, mixed
from metalbox.lab.rack import Rack
from metalbox.lab.record import Record, namespace
from metalbox.lab.site_dhcp import Relay, Site


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder for a rack, cleaned of it whatever happens."""
    needs = (requirements.ALWAYS, requirements.MACHINES, requirements.DNSMASQ, requirements.RELAY, requirements.FAULTS)
    if reason := requirements.reason(needs):
        pytest.skip(reason)
    folder = Path(tempfile.mkdtemp(prefix="mbl-"))
    yield folder / "lab"
    if (folder / "lab").is_dir():
        record.remove(folder / "lab")
    folder.rmdir()


def traces(directory: Path) -> list[str]:
    """Everything on this computer that speaks of the rack: namespaces, mounts, processes."""
    name = namespace(directory)
    found = [f"namespace {path.name}" for path in Path("/run/netns").glob(f"{name}*")]
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            mounts = (process / "mountinfo").read_text()
        except OSError:
            continue
        if int(process.name) != os.getpid() and str(directory) in command:
            found.append(f"process {command}")
        if name in mounts or str(directory) in mounts:
            found.append(f"mount in {command}")
    return found


REQUEST = "BOOTP/DHCP, Request from 52:54:00:6d:00:01"


def requests(one: Rack, pcap: Path) -> str:
    """What was caught, in tcpdump's words."""
    return one.exec("lab", ["tcpdump", "-nr", str(pcap), "udp port 67"]).stdout


@pytest.mark.firmware
def test_a_machines_firmware_is_seen_on_the_wire_and_nothing_is_left(place: Path) -> None:
    one = Rack(place, mode=Mode.PROXY, machines=mixed(1), service="none", site=Site())
    one.up()
    assert one.power("lab0001") == "off"
    assert Rack.open(place).machines == one.machines
    with pytest.raises(Refused, match="already runs"):
        Rack(place, machines=mixed(1), service="none").up()
    with one.capture() as pcap:
        one.power_on("lab0001")
        seconds = one.wait_console("lab0001", "iPXE initialising devices", 240)
        one.wait_until(lambda: "192.0.2.1" in (place / "data" / "site.leases").read_text(), 240, "a lease")
        # What tcpdump has not read when it is ended is lost.
        one.wait_until(lambda: REQUEST in requests(one, pcap), 60, "its request to be written")
    assert seconds > 0
    assert Rack.open(place).power("LAB0001") == "on"
    assert REQUEST in requests(one, pcap)
    assert len(traces(place)) > 4, "the traces that must go were not seen while they stood"
    one.power_off("lab0001")
    assert one.power("lab0001") == "off"
    one.down()
    assert traces(place) == []
    assert not place.exists()
    with pytest.raises(NotFound):
        Rack.open(place)


BUILDER = """
import sys, time
from pathlib import Path
from metalbox.lab.machines import mixed
from metalbox.lab.rack import Rack
rack = Rack(Path(sys.argv[1]), machines=mixed(2), service="none", mode="off", owned=True)
rack.up(lambda text: print(text, flush=True))
rack.power_on("lab0001")
print("standing", flush=True)
time.sleep(600)
"""


@pytest.mark.firmware
@pytest.mark.parametrize("until", ["libvirt", "standing"])
def test_a_crash_of_the_builder_leaves_nothing_after_down(place: Path, until: str) -> None:
    argv = [sys.executable, "-c", BUILDER, str(place)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as builder:
        assert builder.stdout is not None
        for line in builder.stdout:
            if line.startswith(until):
                break
        builder.send_signal(signal.SIGKILL)
    assert traces(place)
    if until == "standing":
        rack.sweep(place.parent)
    else:
        Rack(place).down()
    # A program that was just being started was in no namespace yet; it finds none, and ends.
    deadline = time.monotonic() + 60
    while (left := traces(place)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert left == []
    assert not place.exists()


@pytest.mark.root
def test_a_new_rack_removes_what_a_crash_left(place: Path) -> None:
    said: list[str] = []
    place.mkdir()
    crashed = Record(place)
    stray = processes.spawn(["sleep", "60"], what="stray", log=place / "rack.log")
    crashed.add(stray)
    (place / "rack.log").unlink()
    subprocess.run(["ip", "netns", "add", namespace(place)], check=True, timeout=60)
    new = Rack(place, mode=Mode.PROXY, service="none", site=Site(), relay=Relay.ISC)
    new.up(said.append)
    assert said[0].startswith("removing what an earlier lab left")
    assert not stray.is_alive
    new.start_rival()
    assert new.exec("rival", ["ping", "-c1", "-w30", "192.0.2.2"]).returncode == 0
    new.stop_rival()
    new.down()
    assert traces(place) == []


@pytest.mark.root
def test_a_rack_that_cannot_be_built_leaves_its_logs_and_nothing_else(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("metalbox.lab.site_dhcp.site_config", lambda *_, **__: "no-such-setting\n")
    with pytest.raises(StartError, match="bad option"):
        Rack(place, service="none", site=Site()).up()
    assert traces(place) == []
    assert (place / "logs" / "site.log").exists()
    assert not record.exists(place)


def test_folders_that_libvirt_would_not_see_are_refused() -> None:
    if reason := requirements.reason((requirements.ALWAYS,)):
        pytest.skip(reason)
    with pytest.raises(StartError, match="cannot stand in /run/lab"):
        Rack(Path("/run/lab"), service="none").up()


def test_a_relayed_machine_needs_a_relay(tmp_path: Path) -> None:
    spec = MachineSpec(firmware=Firmware.BIOS, segment=Segment.RELAYED)
    with pytest.raises(Refused, match="no relay"):
        Rack(tmp_path, machines=[spec])
    assert Rack(tmp_path, machines=[spec], relay="isc").relay is Relay.ISC


def test_machines_are_found_by_name_serial_and_mac(tmp_path: Path) -> None:
    one = Rack(tmp_path, machines=mixed(2), service="none")
    assert one.spec("lab0002") == one.spec("LAB0002") == one.spec("52:54:00:6d:00:02")
    with pytest.raises(NotFound, match="it has lab0001, lab0002"):
        one.spec("lab0003")


@pytest.mark.root
def test_another_disk_in_a_machine_that_is_off(place: Path) -> None:
    disks = (Disk("A", Bus.VIRTIO, MIB, "random"), Disk("B", Bus.SATA, MIB, "random"))
    one = Rack(place, machines=[MachineSpec(disks=disks)], service="none", mode="off")
    one.up()
    (before,) = one.disk_paths("lab0001", "A")
    content = before.read_bytes()
    one.change_disk("lab0001", "A", Disk("C", Bus.VIRTIO, 2 * MIB))
    (after,) = Rack.open(place).disk_paths("lab0001", "C")
    assert (before.read_bytes(), after.stat().st_size) == (content, 2 * MIB)
    one.change_disk("lab0001", "C", Disk("A", Bus.VIRTIO, MIB, defects=(Defect(Failing.READ, 8),)))
    assert before.read_bytes() == content
    with pytest.raises(NotFound, match="lab0001 has no disk 'C': it has A, B"):
        one.change_disk("lab0001", "C", disks[0])
    one.power_on("lab0001")
    with pytest.raises(Refused, match="switch it off before"):
        one.change_disk("lab0001", "A", disks[0])
    one.down()


def test_consoles_are_read_without_control_codes_and_waits_end(tmp_path: Path) -> None:
    one = Rack(tmp_path, machines=mixed(1), service="none")
    assert one.console("lab0001") == ""
    (tmp_path / "consoles").mkdir()
    (tmp_path / "consoles" / "lab0001.log").write_bytes(b"\x1b[2J\x1b[01;01HiPXE\r\n\x00\xff")
    assert one.console("lab0001") == "iPXE\n�"
    assert one.wait_console("lab0001", "^iPXE", 60) < 30
    with pytest.raises(TimedOut, match=r"waited 0 s for lab0001 to write 'metalbox: init'"):
        one.wait_console("lab0001", "metalbox: init", 0)
    with pytest.raises(Refused, match="no metalbox to ask"):
        one.find_machine("lab0001")
