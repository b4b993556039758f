"""Checks of this computer, on folders made for them."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

from metalbox import config
from metalbox.doctor import local
from metalbox.doctor.findings import Level
from metalbox.errors import StartError


def test_service() -> None:
    (good,) = local.check_service({"version": "1", "listening": ["DHCP on eth1"]})
    assert (good.level, good.text) == (Level.OK, "metalbox 1 answers: DHCP on eth1")
    (bad,) = local.check_service(StartError("no service answers at /x"))
    assert (bad.level, bad.text) == (Level.FAIL, "no service answers at /x")


def test_interfaces(tmp_path: Path) -> None:
    for name, state in (("eth0", "up"), ("eth1", "down")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "operstate").write_text(state + "\n")
    settings = config.parse("dhcp: {interfaces: [eth0, eth1, eth7]}")
    levels = [finding.level for finding in local.check_interfaces(settings, tmp_path)]
    assert levels == [Level.OK, Level.WARN, Level.FAIL]
    assert [f.text for f in local.check_interfaces(config.Config(), tmp_path)] == ["eth0 is up", "eth1 is down"]


UDP = """\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer drops
  12: 00000000:0043 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 1 2 0 0
  13: 00000000:0FAB 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 1 2 0 0
"""
TCP = """\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 00000000:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1 1 0 100 0 0 10 0
   1: 0100007F:0045 00000000:0000 01 00000000:00000000 00:00000000 00000000     0        0 1 1 0 100 0 0 10 0
"""


def test_ports(tmp_path: Path) -> None:
    (tmp_path / "udp").write_text(UDP)
    (tmp_path / "tcp").write_text(TCP)
    found = {finding.text: finding.level for finding in local.check_ports(config.Config(), tmp_path)}
    assert found == {
        "DHCP: UDP port 67 is open": Level.OK,
        "PXE: UDP port 4011 is open": Level.OK,
        "HTTP: TCP port 8080 is open": Level.OK,
        "TFTP: nobody listens on UDP port 69": Level.FAIL,
    }


def test_files(tmp_path: Path) -> None:
    boot = dataclasses.replace(config.Boot(), files=(tmp_path / "boot",), agent=tmp_path / "agent")
    settings = dataclasses.replace(config.Config(), boot=boot)
    assert [f.level for f in local.check_files(settings)] == [Level.FAIL, Level.FAIL, Level.WARN, Level.FAIL]
    for name in ("boot/undionly.kpxe", "boot/snponly.efi", "boot/ipxe-arm64.efi", "agent/x86_64/initrd"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x" * 10)
    (tmp_path / "agent/x86_64/manifest.json").write_text("{}")
    assert {f.level for f in local.check_files(settings)} == {Level.OK}


def test_space_of_a_folder_that_is_not_made_yet(tmp_path: Path) -> None:
    settings = dataclasses.replace(config.Config(), data_dir=tmp_path / "a" / "b")
    (finding,) = local.check_space(settings)
    assert "GB free" in finding.text
    assert not (tmp_path / "a").exists()


def test_neighbours(tmp_path: Path) -> None:
    (tmp_path / "gc_thresh3").write_text("1024\n")
    small, large, far = (
        config.parse(f"subnets: [{{subnet: {network}, mode: proxy{interface}}}]")
        for network, interface in (("192.0.2.0/24", ", interface: eth0"), ("198.18.0.0/15", ", interface: eth0"),
                                   ("198.18.0.0/15", ""))
    )  # fmt: skip
    (good,) = local.check_neighbours(small, tmp_path)
    assert (good.level, good.text) == (Level.OK, "256 addresses are attached, the kernel knows 1024 neighbours")
    (bad,) = local.check_neighbours(large, tmp_path)
    assert bad.level is Level.WARN
    assert "131072 addresses are attached, but the kernel knows only 1024 neighbours" in bad.text
    assert bad.advice.startswith("sysctl -w net.ipv4.neigh.default.gc_thresh3=262144 ")
    assert list(local.check_neighbours(far, tmp_path)) == []
    assert list(local.check_neighbours(large, tmp_path / "none")) == []


def test_clock() -> None:
    (finding,) = local.check_clock()
    assert finding.level in (Level.OK, Level.WARN)
    assert "UTC" in finding.text


def test_the_kernel_structure_fits() -> None:
    """adjtimex writes struct timex; a wrong size would write past our buffer."""
    assert local.SIZE_OF_TIMEX >= 208
    assert os.sysconf("SC_LONG_BIT") == 64
