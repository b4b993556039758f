"""dnsmasq accepts each configuration, and each says what it should."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from metalbox.lab.network import SERVER, SITE
from metalbox.lab.site_dhcp import Relay, Site, reference_config, relay_command, rival_config, site_config

DNSMASQ = shutil.which("dnsmasq", path="/usr/sbin:/usr/bin")


def accepted(tmp_path: Path, text: str) -> None:
    if DNSMASQ is None:
        pytest.skip("dnsmasq is not installed (apt-get install dnsmasq-base)")
    path = tmp_path / "dnsmasq.conf"
    path.write_text(text)
    done = subprocess.run([DNSMASQ, "--test", "-C", str(path)], capture_output=True, text=True, timeout=60, check=False)
    assert "syntax check OK" in done.stderr, done.stderr


@pytest.mark.parametrize("relayed", [False, True])
def test_the_sites_server_says_nothing_about_booting(tmp_path: Path, relayed: bool) -> None:
    text = site_config(tmp_path, Site(), relayed=relayed)
    accepted(tmp_path, text)
    assert "dhcp-boot" not in text
    assert ("198.51.100.100" in text) is relayed


def test_the_sites_server_can_name_a_wrong_file(tmp_path: Path) -> None:
    text = site_config(tmp_path, Site("pxelinux.0", "192.0.2.9"), relayed=False)
    accepted(tmp_path, text)
    assert "dhcp-boot=pxelinux.0,,192.0.2.9\n" in text


def test_the_rival_is_a_proxy(tmp_path: Path) -> None:
    text = rival_config(tmp_path, "rival.0")
    accepted(tmp_path, text)
    assert "192.0.2.0,proxy" in text


def test_the_reference_is_accepted(tmp_path: Path) -> None:
    accepted(tmp_path, reference_config(tmp_path))


def test_relays_forward_to_every_server(tmp_path: Path) -> None:
    assert relay_command(tmp_path, Relay.ISC, [SERVER, SITE])[-2:] == [str(SERVER), str(SITE)]
    assert relay_command(tmp_path, Relay.DNSMASQ, [SERVER])[-1] == "--dhcp-relay=198.51.100.1,192.0.2.1"
