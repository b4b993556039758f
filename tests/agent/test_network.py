"""Ports brought up in namespaces: real udhcpc against a real dnsmasq, with and without VLAN, and the hook by itself."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from metalbox.agent import sysfs
from metalbox.agent.network import HOOK, OpenNetwork, port_with
from tests.agent.rack import Server, until
from tests.netns import Namespaces

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="namespaces take root"),
    pytest.mark.skipif(not shutil.which("dnsmasq"), reason="dnsmasq is not installed"),
    pytest.mark.skipif(not shutil.which("busybox"), reason="busybox is not installed"),
]
ROOT = Path(__file__).parents[2]


@pytest.fixture
def net() -> Iterator[Namespaces]:
    with Namespaces() as net:
        yield net


def serve(net: Namespaces, port: str) -> Server:
    """A site with dnsmasq for DHCP and the agent's server, both on 192.0.2.1."""
    net.popen(
        "site", "dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--port=0", f"--interface={port}",
        "--bind-interfaces", "--dhcp-range=192.0.2.100,192.0.2.120,255.255.255.0,10m", "--dhcp-leasefile=/dev/null",
        "--no-ping", "--pid-file=", stderr=subprocess.DEVNULL,
    )  # fmt: skip
    with net.inside("site"):
        return Server("192.0.2.1").start()


def boot(net: Namespaces, kernel: str, *ports: str) -> subprocess.Popen[str]:
    """The agent as on a machine: its own /run, and these network ports."""
    arguments = " ".join(f"--port {port}" for port in ports)
    command = f'mount -t tmpfs run /run && exec {sys.executable} -m metalbox.agent --cmdline "{kernel}" {arguments}'
    return net.popen("machine", "sh", "-c", command, cwd=ROOT, stderr=subprocess.PIPE, text=True)


def test_the_port_that_reaches_the_server_is_found(net: Namespaces) -> None:
    net.link("nowhere", "eth0", "machine", "eth0")
    net.link("site", "eth0", "machine", "eth1", left_ip="192.0.2.1/24")
    net.run("machine", "ip", "link", "set", "eth1", "down")
    server = serve(net, "eth0")
    mac = net.mac("machine", "eth0")
    agent = boot(net, f"quiet metalbox.server={server.url} metalbox.mac={mac}", "eth0", "eth1")
    try:
        until(lambda: server.count("report"), 60)
        assert server.last("report")["agent"]["interface"] == "eth1"
        (address,) = net.addresses("machine", "eth1")
        assert address.startswith("192.0.2.1") and net.addresses("machine", "eth0") == []
        until(server.lines, 60)
    finally:
        agent.terminate()
        _, told = agent.communicate(timeout=60)
        server.stop()
    assert agent.returncode == 0
    assert f"metalbox: reached {server.url} by eth1, from {address}" in told
    assert server.last("log")["mac"] == mac
    until(lambda: not _clients(net))  # the DHCP clients end with the agent


def _clients(net: Namespaces) -> list[str]:
    pids = net.run("site", "ip", "netns", "pids", net.prefix + "machine").stdout.split()
    return [pid for pid in pids if b"udhcpc" in sysfs.content(Path(f"/proc/{pid}/cmdline"))]


def test_a_vlan_by_kernel_argument(net: Namespaces) -> None:
    net.link("site", "eth0", "machine", "eth0")
    made = net.run("site", "ip", "link", "add", "link", "eth0", "name", "lan", "type", "vlan", "id", "100", check=False)
    if made.returncode:
        pytest.skip(f"this kernel has no VLANs: {made.stderr.strip()}")
    net.up("site", "lan", "192.0.2.1/24")
    server = serve(net, "lan")
    agent = boot(net, f"metalbox.server={server.url} metalbox.vlan=100", "eth0")
    try:
        until(lambda: server.count("hello"), 60)
        assert net.addresses("machine", "eth0.100")[0].startswith("192.0.2.1")
    finally:
        agent.terminate()
        agent.communicate(timeout=60)
        server.stop()


def test_the_hook(net: Namespaces, tmp_path: Path) -> None:
    net.link("site", "eth0", "machine", "eth0", left_ip="192.0.2.1/24")
    script = tmp_path / "hook"
    script.write_text(HOOK.format(folder=tmp_path))
    state = tmp_path / "eth0.env"

    def call(event: str, **values: str) -> None:
        words = [f"{name}={value}" for name, value in {"interface": "eth0", **values}.items()]
        net.run("machine", "env", *words, "sh", str(script), event)

    def routes() -> str:
        return net.run("machine", "ip", "-4", "route").stdout

    lease = {"mask": "24", "router": "192.0.2.1 192.0.2.2", "serverid": "192.0.2.1", "lease": "600"}
    call("bound", ip="192.0.2.10", **lease)
    assert state.read_text() == "address=192.0.2.10/24\nserver=192.0.2.1\nlease=600\n"
    assert net.addresses("machine", "eth0") == ["192.0.2.10"] and "default via 192.0.2.1 dev eth0" in routes()
    call("renew", ip="192.0.2.10", **lease)
    assert net.addresses("machine", "eth0") == ["192.0.2.10"]
    call("renew", ip="192.0.2.11", **lease)
    assert net.addresses("machine", "eth0") == ["192.0.2.11"] and "default via 192.0.2.1 dev eth0" in routes()
    call("deconfig")
    assert net.addresses("machine", "eth0") == [] and not state.exists()
    call("bound", ip="203.0.113.5", **{**lease, "mask": "32", "router": "203.0.113.1"})
    assert "default via 203.0.113.1 dev eth0" in routes()


def test_the_open_network_is_one_way() -> None:
    network = OpenNetwork()
    network.refresh()
    assert network.ready() == [""]


def test_the_port_of_an_address() -> None:
    assert port_with("127.0.0.1") == "lo"
    assert port_with("203.0.113.77") == port_with("fe80::1") == ""
