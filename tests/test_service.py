"""The service as a process: starts, says what it listens on, refuses clearly, stops quickly, needs two capabilities."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from metalbox import config, service
from metalbox.errors import StartError
from tests.netns import Namespaces

CONFIG = """
data_dir: {dir}/data
socket: {dir}/run/metalbox.sock
dhcp: {{interfaces: [eth0]}}
boot: {{files: [/usr/lib/ipxe], agent: {dir}/agent}}
subnets:
  - {{subnet: 192.0.2.0/24, interface: eth0, mode: full, pools: [192.0.2.100-192.0.2.199]}}
"""
CAPABILITIES = ("+net_bind_service", "+net_raw")


class Site:
    """A server's namespace with one cable, and the service in it."""

    def __init__(self, net: Namespaces, folder: Path) -> None:
        self.net = net
        self.folder = folder
        net.link("server", "eth0", "client", "eth0", left_ip="192.0.2.1/24", right_ip="192.0.2.2/24")
        (folder / "box.yaml").write_text(CONFIG.format(dir=folder))

    def start(self, *prefix: str, file: str = "box.yaml", **environment: str) -> subprocess.Popen[str]:
        argv = [*self.net.exec("server"), *prefix, sys.executable, "-m", "metalbox", "serve", "--config"]
        return subprocess.Popen(
            [*argv, str(self.folder / file)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, **environment},
        )

    def fetch(self, url: str) -> bytes:
        done = subprocess.run(
            [*self.net.exec("client"), "curl", "-sf", "--max-time", "60", url], capture_output=True, check=True
        )
        return done.stdout


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    if not Path("/usr/lib/ipxe/undionly.kpxe").exists() or shutil.which("curl") is None:
        pytest.skip("needs Debian's packages ipxe and curl")
    with Namespaces() as net:
        yield Site(net, tmp_path)


def read_until_ready(process: subprocess.Popen[str]) -> list[str]:
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line.rstrip())
        if " is ready (" in line:
            return lines
    assert process.stderr is not None
    raise AssertionError(f"it ended with {process.wait()}: {process.stderr.read()}")


def end(process: subprocess.Popen[str], number: int = signal.SIGTERM) -> tuple[int, str, str]:
    """Stop it. Raises TimeoutExpired when it lets itself be held up by those who wait a minute."""
    process.send_signal(number)
    out, errors = process.communicate(timeout=40)
    return process.returncode, out, errors


@pytest.mark.root
def test_it_says_what_it_listens_on_serves_and_stops(site: Site) -> None:
    process = site.start()
    lines = read_until_ready(process)
    assert lines[:-1] == [
        "DHCP on eth0 192.0.2.1 UDP port 67 (192.0.2.0/24 full)",
        "PXE on eth0 192.0.2.1 UDP port 4011 (192.0.2.0/24 full)",
        "RA on eth0 ICMPv6 (null advertisement to machines in a boot)",
        "TFTP on udp 0.0.0.0:69",
        "HTTP for firmware and agents on tcp 0.0.0.0:8080",
        f"REST for the command line on unix {site.folder}/run/metalbox.sock",
    ]
    assert site.fetch("http://192.0.2.1:8080/ipxe/first.ipxe").startswith(b"#!ipxe\n")
    whole = Path("/usr/lib/ipxe/undionly.kpxe").read_bytes()
    assert site.fetch("tftp://192.0.2.1/undionly.kpxe") == whole
    assert site.fetch("http://192.0.2.1:8080/boot/undionly.kpxe") == whole
    code, out, _ = end(process)
    assert code == 0
    assert out == "metalbox has stopped\n"
    assert not (site.folder / "run" / "metalbox.sock").exists()


@pytest.mark.root
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_who_waits_does_not_hold_it_up(site: Site, number: int) -> None:
    process = site.start()
    read_until_ready(process)
    waiting = socket.socket(socket.AF_UNIX)
    waiting.connect(str(site.folder / "run" / "metalbox.sock"))
    waiting.sendall(b"GET /api/v1/events?after=1000000&wait=60 HTTP/1.1\r\nHost: x\r\n\r\n")
    # What was asked before is being waited for when a later question has its answer.
    argv = ["curl", "-sf", "--unix-socket", str(site.folder / "run" / "metalbox.sock"), "http://x/api/v1/events"]
    subprocess.run(argv, capture_output=True, timeout=60, check=True)
    code, _, errors = end(process, number)
    waiting.close()
    assert (code, "Traceback" in errors) == (0, False)


@pytest.mark.root
@pytest.mark.parametrize(
    ("kind", "address", "port"),
    [("udp", "0.0.0.0", 67), ("udp", "0.0.0.0", 4011), ("udp", "0.0.0.0", 69), ("tcp", "0.0.0.0", 8080)],
)
def test_a_taken_port_is_one_sentence(site: Site, kind: str, address: str, port: int) -> None:
    with site.net.inside("server"):
        other = socket.socket(socket.AF_INET, socket.SOCK_DGRAM if kind == "udp" else socket.SOCK_STREAM)
    other.bind((address, port))
    if kind == "tcp":
        other.listen()
    process = site.start()
    _, errors = process.communicate(timeout=60)
    other.close()
    assert process.returncode == 1
    (sentence,) = [line for line in errors.splitlines() if line.startswith("metalbox: ")]
    assert str(port) in sentence
    assert "Traceback" not in errors


@pytest.mark.root
def test_a_second_service_on_the_same_store_is_refused(site: Site) -> None:
    first = site.start()
    read_until_ready(first)
    second = site.start()
    _, errors = second.communicate(timeout=60)
    assert second.returncode == 1
    assert "in use by another metalbox service" in errors
    assert end(first)[0] == 0


@pytest.mark.root
def test_after_a_crash_it_starts_again_over_its_own_remains(site: Site) -> None:
    first = site.start()
    read_until_ready(first)
    end(first, signal.SIGKILL)
    assert (site.folder / "run" / "metalbox.sock").exists()
    second = site.start()
    read_until_ready(second)
    assert end(second)[0] == 0


@pytest.mark.root
def test_an_interface_that_is_not_there(site: Site) -> None:
    (site.folder / "other.yaml").write_text(CONFIG.format(dir=site.folder).replace("[eth0]", "[eth7]"))
    process = site.start(file="other.yaml")
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "eth7" in errors
    assert "Traceback" not in errors


def setpriv(*capabilities: str) -> list[str]:
    """Root's name with nothing but these capabilities: what systemd's CapabilityBoundingSet leaves."""
    words = ",".join(("-all", *capabilities))
    return ["setpriv", f"--bounding-set={words}", f"--inh-caps={words}", "--no-new-privs"]


@pytest.mark.root
def test_two_capabilities_are_enough(site: Site) -> None:
    process = site.start(*setpriv(*CAPABILITIES))
    lines = read_until_ready(process)
    pid = int(
        subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True, check=False).stdout or 0
    )
    status = Path(f"/proc/{pid or process.pid}/status").read_text()
    # Bits 10 and 13 of capability(7): CAP_NET_BIND_SERVICE and CAP_NET_RAW.
    assert "CapEff:\t0000000000002400" in status
    assert any(line.startswith("DHCP on eth0") for line in lines)
    whole = Path("/usr/lib/ipxe/undionly.kpxe").read_bytes()
    assert site.fetch("tftp://192.0.2.1/undionly.kpxe") == whole
    lease = [*site.net.exec("client"), "busybox", "udhcpc", "-i", "eth0", "-n", "-q", "-f", "-s", "/bin/true"]
    told = subprocess.run(lease, capture_output=True, text=True, timeout=60, check=False)
    assert "lease of 192.0.2.1" in told.stdout + told.stderr
    code, _, errors = end(process)
    assert code == 0
    assert "no raw socket" not in errors


@pytest.mark.root
def test_without_low_ports_it_does_not_start(site: Site) -> None:
    process = site.start(*setpriv("+net_raw"))
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert errors == (
        "metalbox: cannot listen on UDP port 67 of interface eth0: not permitted; "
        "run as root or with CAP_NET_BIND_SERVICE and CAP_NET_RAW\n"
    )


@pytest.mark.root
def test_without_raw_frames_it_serves_and_says_what_is_missing(site: Site) -> None:
    process = site.start(*setpriv("+net_bind_service"))
    read_until_ready(process)
    code, _, errors = end(process)
    assert code == 0
    for lost in (
        "no raw socket",
        "other DHCP servers are not watched",
        "addresses are not probed before use",
        "router solicitations are not answered",
    ):
        assert f"eth0: {lost}" in errors


@pytest.mark.root
def test_systemd_is_told(site: Site) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(site.folder / "notify"))
        manager.settimeout(60)
        process = site.start(NOTIFY_SOCKET=str(site.folder / "notify"))
        assert manager.recv(100) == b"READY=1"
        read_until_ready(process)
        assert end(process)[0] == 0
        assert manager.recv(100) == b"STOPPING=1"


def test_the_unit_gives_what_was_proved_and_no_more() -> None:
    unit = (Path(__file__).parents[1] / "configs" / "metalbox.service").read_text()
    wanted = "CAP_NET_BIND_SERVICE CAP_NET_RAW"
    assert f"AmbientCapabilities={wanted}\n" in unit
    assert f"CapabilityBoundingSet={wanted}\n" in unit
    assert "DynamicUser=yes" in unit
    assert "Type=notify" in unit


def test_the_arp_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = tmp_path / "arp"
    table.write_text(
        "IP address       HW type     Flags       HW address            Mask     Device\n"
        "192.0.2.7        0x1         0x2         52:54:00:ab:cd:ef     *        eth0\n"
        "192.0.2.8        0x1         0x0         00:00:00:00:00:00     *        eth0\n"
    )
    monkeypatch.setattr(service, "ARP_TABLE", table)
    assert service.arp_mac("192.0.2.7") == "52:54:00:ab:cd:ef"
    assert service.arp_mac("192.0.2.8") is None
    assert service.arp_mac("192.0.2.9") is None
    monkeypatch.setattr(service, "ARP_TABLE", tmp_path / "none")
    assert service.arp_mac("192.0.2.7") is None


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    settings: Any = config.parse(f"data_dir: {tmp_path}/file/data")
    with pytest.raises(StartError, match=r"cannot make the folder .*/file/data \(data_dir\): Not a directory"):
        service.open_store(settings)


def test_the_age_of_a_process_is_plausible() -> None:
    assert 0 < service.process_age() < 7200
