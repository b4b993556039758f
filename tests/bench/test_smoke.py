"""Each target once, small and without peers: the tool brings up its wire, the whole service and its load."""

from __future__ import annotations

import functools
from collections.abc import Iterable

import pytest

from bench.beside import dhcp, inventory, packages, storm, tftp, web
from bench.beside.__main__ import measure, parser
from bench.beside.figures import Results
from bench.beside.servers import METALBOX
from metalbox.lab import storm as lab_storm

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(packages.find("gcc") is None, reason="the generators are compiled with gcc"),
]


@pytest.fixture(autouse=True)
def without_peers(monkeypatch: pytest.MonkeyPatch) -> None:
    def ensure(programs: Iterable[str]) -> dict[str, str]:
        return {}

    monkeypatch.setattr(packages, "ensure", ensure)


def run(target: str, *words: str) -> Results:
    return measure(target, parser().parse_args([target, "--rounds", "1", *words]))


def only(results: Results, case: str, figure: str, server: str = METALBOX) -> float:
    (sample,) = results.cases[case][server]
    return sample[figure]


def test_dhcp(monkeypatch: pytest.MonkeyPatch) -> None:
    # So many exchanges, however long they take.
    monkeypatch.setattr(dhcp, "most_of", lambda name: 5000)
    monkeypatch.setattr(dhcp, "SECONDS", 60)
    monkeypatch.setattr(dhcp, "SHORT_SECONDS", 60)
    monkeypatch.setattr(dhcp, "LEASES", 500)
    results = run("dhcp")
    for case, server in ((dhcp.CLOSED, METALBOX), (dhcp.DIRECT, METALBOX), (dhcp.FULL_TABLE, dhcp.FULL)):
        assert only(results, case, "exchanges", server) > 0
        assert only(results, case, "cpu_us", server) > 0
    assert results.ratios["dhcp_duplicates"] == 0
    assert "dhcp_100k_vs_empty" in results.ratios


def test_tftp(monkeypatch: pytest.MonkeyPatch) -> None:
    # So many transfers, however long they take.
    near = (tftp.Case(1, 1428, 1, transfers=2), tftp.Case(16, 1428, 64, transfers=64))
    far = (tftp.Case(16, 1428, 1, 1.0, 1),)
    monkeypatch.setattr(tftp, "NEAR", near)
    monkeypatch.setattr(tftp, "FAR", far)
    results = run("tftp")
    for case in near:
        assert only(results, case.name, "bytes") > 0
    assert only(results, near[1].name, "window") == 16
    # 735 blocks in windows of 16, a round trip of 1 ms for each and for the options.
    assert only(results, far[0].name, "p50_ms") >= 47
    assert results.ratios["tftp_failed_64"] == 0


def test_http(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web, "SECONDS", 0.2)
    monkeypatch.setattr(web, "BIG_MIB", 2)
    results = run("http")
    assert only(results, "big file x16", "bytes") > 0
    assert only(results, web.KEPT, "requests") > 0
    assert only(results, web.KEPT, "errors") == only(results, web.FRESH, "errors") == 0
    assert "http_script_p99" in results.ratios


def test_storm(monkeypatch: pytest.MonkeyPatch) -> None:
    # What is repeated was lost, and not late.
    monkeypatch.setattr(lab_storm, "Storm", functools.partial(lab_storm.Storm, patience=100))
    results = run("storm", "--machines", "10", "--image-mib", "0.1")
    assert results.notes == []
    assert only(results, "10 machines", "arrived") == 10
    assert (results.ratios["storm_missing"], results.ratios["storm_retries"]) == (0, 0)
    assert storm.PEER not in results.cases["10 machines"]


def test_inventory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inventory, "SIZES", (0, 40))
    results = run("inventory")
    assert only(results, "40 machines", "list_ms") > 0
    assert only(results, "40 machines", "report_ms") > 0
    assert set(results.ratios) == {"inventory_idle_rss_mb", "inventory_start_seconds"}
