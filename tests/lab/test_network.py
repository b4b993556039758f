"""The rack's wires, in real namespaces."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from metalbox.errors import StartError
from metalbox.lab import network
from metalbox.lab.network import Fault


@pytest.fixture
def lab() -> Iterator[str]:
    if os.geteuid() != 0:
        pytest.skip("namespaces need root")
    name = f"metalbox-test-{os.getpid()}"
    network.create(name)
    network.build_bridge(name)
    yield name
    for role in ("-site", "-relay", ""):
        network.delete(name + role)


def ping(namespace: str, address: object) -> bool:
    """Whether there is an answer: a new link may drop what comes in its first moments."""
    return network.run(network.inside(namespace, ["ping", "-c1", "-w30", str(address)]), check=False).returncode == 0


@pytest.mark.root
def test_the_site_reaches_metalbox_and_the_relayed_segments_router(lab: str) -> None:
    network.attach(lab, f"{lab}-site", 1, network.SITE)
    network.build_relayed(lab, f"{lab}-relay")
    network.add_route_to_relayed(f"{lab}-site")
    assert ping(f"{lab}-site", network.SERVER)
    assert ping(f"{lab}-site", network.RELAYED_ROUTER)
    assert ping(lab, network.RELAYED_ROUTER)
    assert ping(f"{lab}-relay", network.SERVER)


@pytest.mark.root
def test_metalbox_has_no_address_on_the_relayed_segments_switch(lab: str) -> None:
    network.build_relayed(lab, f"{lab}-relay")
    shown = network.run(network.inside(lab, ["ip", "-o", "address", "show", "dev", "br1"])).stdout
    assert shown == ""


@pytest.mark.root
def test_a_cable_joins_two_namespaces() -> None:
    left, right = (f"metalbox-test-{os.getpid()}-{end}" for end in "lr")
    try:
        network.cable(left, right, "198.18.0.1/15", "198.18.0.2/15")
        assert ping(left, "198.18.0.2")
        assert ping(right, "198.18.0.1")
        network.route_through(left, ["198.18.0.0/16"], "198.18.0.2")
        network.run(network.inside(right, ["ip", "address", "add", "198.18.7.7/32", "dev", "eth0"]))
        assert ping(left, "198.18.7.7")
        shown = network.run(network.inside(left, ["ip", "-4", "neighbour", "show"])).stdout
        assert [line.split()[0] for line in shown.splitlines()] == ["198.18.0.2"]
    finally:
        network.delete(left)
        network.delete(right)


@pytest.mark.root
def test_faults_are_dropped_until_they_are_lifted(lab: str) -> None:
    network.block(lab, [Fault.TFTP, Fault.PXE_PORT])
    rules = network.run(network.inside(lab, ["nft", "list", "ruleset"])).stdout
    assert "udp dport 69 counter" in rules
    assert "udp dport 4011 counter" in rules
    network.block(lab, [])
    assert network.run(network.inside(lab, ["nft", "list", "ruleset"])).stdout == ""


def test_every_fault_has_its_rule() -> None:
    assert set(network.MATCHES) == set(Fault)
    assert network.filter_rules([]).count("\n") == 2


def test_a_failed_command_says_what_it_wrote() -> None:
    with pytest.raises(StartError, match="`sh -c echo no >&2; exit 3` failed: no"):
        network.run(["sh", "-c", "echo no >&2; exit 3"])
    with pytest.raises(StartError, match="did not end within 0 s"):
        network.run(["sleep", "600"], timeout=0.1)
    with pytest.raises(StartError, match="there is no program 'no-such-program'"):
        network.run(["no-such-program"])
