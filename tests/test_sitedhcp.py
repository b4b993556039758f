"""The lines for the site's own DHCP server, judged by those servers where they are installed."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from metalbox.dhcp.bootfile import BOOT_FILES, HTTP_TWINS
from metalbox.sitedhcp import BY_HTTP, BY_TFTP, site_dhcp_lines

LINES = site_dhcp_lines("192.0.2.1", 8080)


def part(heading: str) -> list[str]:
    """The lines under the heading that begins like this."""
    start = next(number for number, line in enumerate(LINES) if line.startswith(f"# {heading}"))
    rest = LINES[start + 1 :]
    return rest[: next((number for number, line in enumerate(rest) if line.startswith("# ")), len(rest))]


def test_dnsmasq_takes_them(tmp_path: Path) -> None:
    dnsmasq = shutil.which("dnsmasq", path="/usr/sbin:/usr/bin")
    if dnsmasq is None:
        pytest.skip("dnsmasq is not installed")
    config = tmp_path / "dnsmasq.conf"
    config.write_text("\n".join(["port=0", "dhcp-range=192.0.2.50,192.0.2.99", *part("dnsmasq")]) + "\n")
    done = subprocess.run(
        [dnsmasq, "--test", "-C", str(config)], capture_output=True, text=True, timeout=30, check=False
    )
    assert done.returncode == 0, done.stderr


def test_isc_dhcpd_takes_them(tmp_path: Path) -> None:
    dhcpd = shutil.which("dhcpd", path="/usr/sbin:/usr/bin")
    if dhcpd is None:
        pytest.skip("ISC dhcpd is not installed")
    config = tmp_path / "dhcpd.conf"
    subnet = "subnet 192.0.2.0 netmask 255.255.255.0 { range 192.0.2.50 192.0.2.99; }"
    config.write_text("\n".join([*part("ISC"), subnet]) + "\n")
    done = subprocess.run([dhcpd, "-t", "-cf", str(config)], capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, done.stderr


def test_kea_takes_them(tmp_path: Path) -> None:
    text = "{" + "\n".join(part("Kea")) + "}"
    classes = json.loads(text)["client-classes"]
    assert classes[0]["boot-file-name"] == "http://192.0.2.1:8080/ipxe/first.ipxe"
    assert all(found["next-server"] == "192.0.2.1" for found in classes)
    kea = shutil.which("kea-dhcp4", path="/usr/sbin:/usr/bin")
    if kea is None:
        pytest.skip("Kea is not installed: only its JSON was checked")
    config = tmp_path / "kea.conf"
    whole = {"Dhcp4": {"client-classes": classes, "lease-database": {"type": "memfile", "persist": False}}}
    config.write_text(json.dumps(whole))
    done = subprocess.run([kea, "-t", str(config)], capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_windows_sets_server_and_file_in_every_policy() -> None:
    lines = part("Windows")
    policies = set(re.findall(r'Add-DhcpServerv4Policy -Name "([^"]+)"', "\n".join(lines)))
    assert len(policies) == 1 + sum(len(arches) for _, arches, _ in (*BY_TFTP, *BY_HTTP))
    for policy in policies:
        for option in (66, 67):
            wanted = f'Set-DhcpServerv4OptionValue -PolicyName "{policy}" -OptionId {option} -Value '
            assert any(line.startswith(wanted) for line in lines), wanted
    http = [policy for policy in policies if "http" in policy]
    for policy in http:
        assert f'Set-DhcpServerv4OptionValue -PolicyName "{policy}" -OptionId 60 -Value "HTTPClient"' in lines
    used = set(re.findall(r'-VendorClass EQ,"([^"*]+)\*"', "\n".join(lines)))
    assert used <= set(re.findall(r'Add-DhcpServerv4Class -Name "([^"]+)"', "\n".join(lines)))


def test_the_files_are_those_that_we_would_name() -> None:
    for _, arches, file in BY_TFTP:
        for arch in arches:
            assert BOOT_FILES[arch][0] == file
    for _, arches, file in BY_HTTP:
        for arch in arches:
            assert BOOT_FILES[HTTP_TWINS[arch]][0] == file
