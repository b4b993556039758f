"""Asking the wire as firmware does, with the real service on it and a real dnsmasq beside it."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from metalbox.doctor import wire
from tests.netns import Namespaces

scapy = pytest.importorskip("scapy.layers.dhcp", reason="needs `pip install metalbox[doctor]`")

IPXE = Path("/usr/lib/ipxe")
CONFIG = """
data_dir: {dir}/data
socket: {dir}/metalbox.sock
dhcp: {{interfaces: [eth0]}}
boot: {{files: [/usr/lib/ipxe], agent: {dir}/agent}}
"""
# The service may be held up for some seconds.
DOCTOR = """
import sys
from metalbox.cli.main import main
from metalbox.doctor import wire
wire.LISTEN_SECONDS = 6.0
sys.exit(main(sys.argv[1:]))
"""
DNSMASQ = ["--port=0", "--no-ping", "--keep-in-foreground", "--conf-file=/dev/null", "--user=root", "--interface=eth0"]


def offer_frame(xid: int) -> bytes:
    from scapy.layers.dhcp import BOOTP, DHCP
    from scapy.layers.inet import IP, UDP
    from scapy.layers.l2 import Ether

    options = [("message-type", "offer"), ("server_id", "192.0.2.9"), ("vendor_class_id", b"PXEClient\0"), "end"]
    message = BOOTP(op=2, xid=xid, yiaddr="192.0.2.50", siaddr="192.0.2.8", file=b"pxelinux.0") / DHCP(options=options)
    return bytes(Ether() / IP(src="192.0.2.9", dst="255.255.255.255") / UDP(sport=67, dport=68) / message)


def test_an_offer_is_read_and_nothing_else() -> None:
    assert wire.read_offer(offer_frame(7), 7) == wire.Offer(
        "192.0.2.9", "192.0.2.50", "192.0.2.8", "pxelinux.0", "PXEClient"
    )
    assert wire.read_offer(offer_frame(7), 8) is None
    assert wire.read_offer(b"\xff" * 60, 7) is None


def test_offers_that_came_while_we_were_held_up_count(monkeypatch: pytest.MonkeyPatch) -> None:
    tap, site = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with site:
        for xid in (8, 7):
            site.send(offer_frame(xid))
        monkeypatch.setattr(wire, "_packet_socket", lambda interface: tap)
        assert list(wire._exchange("lo", b"", 7, 0.0)) == ["192.0.2.9"]


@pytest.mark.root
def test_beside_a_site_server(tmp_path: Path) -> None:
    if not (IPXE / "snponly.efi").exists() or shutil.which("dnsmasq") is None:
        pytest.skip("needs Debian's packages ipxe and dnsmasq-base")
    (tmp_path / "box.yaml").write_text(CONFIG.format(dir=tmp_path))
    with Namespaces() as net:
        net.link("server", "eth0", "site", "eth0", left_ip="192.0.2.1/24", right_ip="192.0.2.2/24")
        metalbox = [sys.executable, "-m", "metalbox"]
        with (tmp_path / "log").open("wb") as log:
            leases = f"--dhcp-leasefile={tmp_path}/leases"
            net.popen("site", "dnsmasq", *DNSMASQ, leases, "--dhcp-range=192.0.2.100,192.0.2.199,1h", stderr=log)
            net.popen("server", *metalbox, "serve", "--config", str(tmp_path / "box.yaml"), stdout=log, stderr=log)
        deadline = time.monotonic() + 90
        while not (tmp_path / "metalbox.sock").exists():
            assert time.monotonic() < deadline, (tmp_path / "log").read_text()
            time.sleep(0.05)
        argv = [*net.exec("server"), sys.executable, "-c", DOCTOR, "doctor", "--config", str(tmp_path / "box.yaml")]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=300, check=False)
    text = done.stdout
    assert "Traceback" not in done.stderr
    for line in (
        "ok    answer     BIOS on eth0: boot file undionly.kpxe from 192.0.2.1",
        "ok    answer     UEFI x64 on eth0: boot file snponly.efi from 192.0.2.1",
        "ok    answer     UEFI HTTP x64 on eth0: boot file http://192.0.2.1:8080/boot/snponly.efi from 192.0.2.1",
        "ok    answer     iPXE on eth0: boot file http://192.0.2.1:8080/ipxe/first.ipxe from 192.0.2.1",
        f"ok    fetch      undionly.kpxe: {(IPXE / 'undionly.kpxe').stat().st_size} bytes",
        f"ok    fetch      http://192.0.2.1:8080/boot/snponly.efi: {(IPXE / 'snponly.efi').stat().st_size} bytes",
        "ok    addresses  192.0.2.2 on eth0 gives addresses",
    ):
        assert line in text, text
    # There is no agent in this folder: that must be found, and is all that is broken.
    assert [line for line in text.splitlines() if line.startswith("fail")] == [
        line for line in text.splitlines() if line.startswith("fail  agent")
    ], text
    assert done.returncode == 1
