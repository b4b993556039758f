"""How the suite runs: the same examples each time, and two processes that share the work (`pytest -n 2`).

One process begins with the machines that boot, which wait much; the other with everything else; they meet. A file stays
whole, with the fixtures of its module. The second has a network of its own, so that neither takes the other's ports.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
from collections.abc import Generator
from typing import Any

import hypothesis
import pytest

CLONE_NEWNET = 0x40000000
NETWORK = "/proc/thread-self/ns/net"
LIBC = ctypes.CDLL(None, use_errno=True)
NETWORKS = pytest.StashKey[tuple[int, int]]()
FIRST = "gw0"
# What takes longest without booting anything: first in the second process, so that the two meet over short files.
LONGEST = (
    "tests/power/test_ipmi.py",
    "tests/power/test_redfish.py",
    "tests/tftp/test_clients.py",
    "tests/dhcp/test_clients.py",
)

# Chance belongs to whoever looks for faults (`pytest --hypothesis-seed=random`), and time limits to nobody.
hypothesis.settings.register_profile("same", derandomize=True, deadline=None)
hypothesis.settings.load_profile("same")


def pytest_configure(config: pytest.Config) -> None:
    """Of a set of parameters both processes make the same list; the second's network is loopback and nothing else."""
    os.environ.setdefault("PYTHONHASHSEED", "0")
    if not hasattr(config, "workerinput") or config.workerinput["workerid"] == FIRST or os.geteuid() != 0:
        return
    real = os.open(NETWORK, os.O_RDONLY)
    if LIBC.unshare(CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "this process of the tests can have no network of its own")
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True, timeout=30)
    config.stash[NETWORKS] = (real, os.open(NETWORK, os.O_RDONLY))


def pytest_unconfigure(config: pytest.Config) -> None:
    """Let go of the networks."""
    for network in config.stash.get(NETWORKS, ()):
        os.close(network)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, Any, Any]:
    """What builds images fetches Debian's packages, and needs the real network."""
    if NETWORKS not in item.config.stash or item.path.parent.name != "build":
        return (yield)
    real, own = item.config.stash[NETWORKS]
    try:
        assert LIBC.setns(real, CLONE_NEWNET) == 0
        return (yield)
    finally:
        assert LIBC.setns(own, CLONE_NEWNET) == 0


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Where two share the work, files that boot machines come first and the longest of the others last."""
    if not hasattr(config, "workerinput"):
        return
    boots = {item.path for item in items if item.get_closest_marker("firmware")}

    def place(item: pytest.Item) -> int:
        if item.path in boots:
            return 0 if item.path.parent.name == "stories" else 1
        name = item.nodeid.partition("::")[0]
        return 3 + LONGEST.index(name) if name in LONGEST else 2

    items.sort(key=place)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """The first process takes files from the front, the other from the back."""
    from xdist.scheduler import LoadFileScheduling  # only here: without the plugin nobody asks

    scheduler = LoadFileScheduling(config, log)
    from_the_front = scheduler._assign_work_unit

    def from_its_end(node: Any) -> None:
        if node.gateway.id != FIRST:
            scheduler.workqueue.move_to_end(next(reversed(scheduler.workqueue)), last=False)
        from_the_front(node)

    by_file = scheduler._split_scope

    def one_build(nodeid: str) -> str:
        """Images are built from one cache of packages."""
        return "tests/build" if nodeid.startswith("tests/build/") else by_file(nodeid)

    scheduler._assign_work_unit = from_its_end
    scheduler._split_scope = one_build
    config.option.loadscopereorder = False
    return scheduler
