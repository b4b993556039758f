"""The fleet's figures. Whole fleets on a wire: tests/lab/test_storm.py."""

from __future__ import annotations

import asyncio

import pytest

from metalbox.lab import pxeclient
from metalbox.lab.fleet import Fleet, percentile
from metalbox.lab.pxeclient import Phase
from tests.netns import Namespaces


def test_percentile_is_the_nearest_rank() -> None:
    values = [float(value) for value in range(100, 0, -1)]
    assert percentile(values, 50) == 51.0
    assert percentile(values, 99) == 100.0
    assert percentile([7.0], 99) == 7.0
    assert percentile([], 50) == -1.0


def test_the_outcome_counts_who_arrived_and_what_was_repeated() -> None:
    fleet = Fleet(3, limit=60.0)
    fleet.booted += [1.0, 3.0, 2.0]
    fleet.arrived += [2.0, 5.0]
    fleet.lost.update({"dhcp": 2, "tftp": 1, "deferred": 4})
    fleet.failures.update({"NAK": 1, "not in time": 0})
    fleet.phases[Phase.TFTP] = [0.5, 0.25]
    outcome = fleet.outcome(is_over=True)
    assert (outcome["arrived"], outcome["missing"], outcome["seconds"], outcome["p50_seconds"]) == (2, 1, 5.0, 5.0)
    assert (outcome["booted_seconds"], outcome["booted_p50_seconds"]) == (3.0, 2.0)
    assert (outcome["retries"], outcome["deferred"], outcome["lost_by"]) == (3, 4, {"dhcp": 2, "tftp": 1})
    assert outcome["failures"] == {"NAK": 1}
    assert outcome["phases"] == {"tftp": {"count": 2, "p50": 0.5, "p99": 0.5}}


def test_who_is_still_waited_for_costs_the_whole_limit() -> None:
    fleet = Fleet(2, limit=60.0)
    fleet.arrived.append(2.0)
    assert fleet.outcome(is_over=False)["seconds"] == 60.0


@pytest.mark.root
def test_nobody_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pxeclient, "EDK2_DHCP", (0.02, 0.02, 0.02))
    with Namespaces() as net:
        net.link("a", "eth0", "b", "eth0", left_ip="10.64.0.1/24", right_ip="10.64.0.2/24")
        with net.inside("b"):
            outcome = asyncio.run(Fleet(5, spread=0.0).run())
    assert (outcome["arrived"], outcome["missing"]) == (0, 5)
    assert outcome["failures"] == {"no answer by DHCP": 5}
    assert (outcome["retries"], outcome["lost_by"]) == (10, {"dhcp": 10})
