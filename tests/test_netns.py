"""tests.netns: the wire that other tests stand on."""

from __future__ import annotations

import os
import subprocess

import pytest

from tests.netns import Namespaces

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root")]


def namespaces() -> str:
    return subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True).stdout


def test_a_cable_carries_packets_and_nothing_is_left_behind() -> None:
    with Namespaces() as net:
        net.link("left", "eth0", "right", "eth0", left_ip="192.0.2.1/24", right_ip="192.0.2.2/24")
        net.run("left", "ping", "-c1", "-W60", "192.0.2.2")
        sleeper = net.popen("right", "sleep", "60")
        assert net.addresses("right", "eth0") == ["192.0.2.2"]
        assert net.prefix in namespaces()
    assert sleeper.returncode is not None
    assert net.prefix not in namespaces()


def test_a_bridge_joins_its_ports() -> None:
    with Namespaces() as net:
        net.bridge("switch", "br0")
        net.plug("switch", "br0", "p1", "one", "eth0", far_ip="192.0.2.1/24")
        net.plug("switch", "br0", "p2", "two", "eth0", far_ip="192.0.2.2/24")
        net.run("one", "ping", "-c1", "-W60", "192.0.2.2")
        assert net.mac("one", "eth0") != net.mac("two", "eth0")


def test_failure_inside_cleans_up_too() -> None:
    with pytest.raises(RuntimeError, match="in left: false"), Namespaces() as net:
        net.add("left")
        net.run("left", "false")
    assert net.prefix not in namespaces()
