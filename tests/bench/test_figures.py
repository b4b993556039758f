"""Medians, ratios and the lines that they are told in."""

from __future__ import annotations

import pytest

from bench.beside.figures import Results, Summary, missed, number, percentile, ratio_lines, shown, table
from bench.beside.goals import GOALS, Goal


def test_a_summary_is_the_middle_and_both_ends() -> None:
    assert Summary.of([5.0, 1.0, 3.0]) == Summary(3.0, 1.0, 5.0)
    assert Summary.of([4.0, 2.0]) == Summary(3.0, 2.0, 4.0)
    with pytest.raises(ValueError, match="at least one"):
        Summary.of([])


def test_percentile_is_the_nearest_rank() -> None:
    values = [float(value) for value in range(100, 0, -1)]
    assert percentile(values, 50) == 51.0
    assert percentile(values, 99) == 100.0
    assert percentile([7.0], 99) == 7.0
    assert percentile([], 50) == -1.0


def rounds(*rates: tuple[float, float]) -> Results:
    results = Results("dhcp")
    for ours, theirs in rates:
        results.add("case", "metalbox", {"per_second": ours, "note": "text"})
        results.add("case", "kea-st", {"per_second": theirs})
    return results


def test_a_ratio_is_that_of_medians_and_not_the_median_of_ratios() -> None:
    results = rounds((10.0, 5.0), (30.0, 30.0), (20.0, 10.0))
    results.ratio("dhcp_vs_kea_st", "case", "per_second", "metalbox", "kea-st")
    assert results.ratios == {"dhcp_vs_kea_st": 2.0}


def test_no_ratio_without_the_peer_or_of_nothing() -> None:
    results = rounds((10.0, 0.0))
    results.ratio("a", "case", "per_second", "metalbox", "dnsmasq")
    results.ratio("b", "elsewhere", "per_second", "metalbox", "kea-st")
    results.ratio("c", "case", "per_second", "metalbox", "kea-st")
    assert results.ratios == {}


def test_ratio_lines_are_plain_and_in_the_order_of_the_goals() -> None:
    lines = ratio_lines({"zz_new": 1.0, "dhcp_vs_kea_mt": 1.25, "dhcp_vs_kea_st": 2.5, "http_script_p99": 7.0})
    assert lines == [
        "also zz_new 1.000",
        "ratio dhcp_vs_kea_st 2.500 goal 2",
        "ratio dhcp_vs_kea_mt 1.250 goal 1.3",
        "ratio http_script_p99 7.000 goal 20",
    ]


def test_missed_knows_floors_and_ceilings() -> None:
    ratios = {"dhcp_vs_kea_st": 1.9, "dhcp_vs_isc": 8.0, "http_script_p99": 21.0, "storm_missing": 0.0, "zz_new": 0.0}
    assert missed(ratios) == ["dhcp_vs_kea_st 1.900, not >=2", "http_script_p99 21.000, not <=20"]
    assert Goal(1.0, is_ceiling=True).is_met(1.0)
    assert Goal(1.0).is_met(1.0)


def test_every_ratio_that_others_read_has_its_goal() -> None:
    assert {
        "dhcp_vs_kea_st", "dhcp_vs_kea_mt", "dhcp_vs_dnsmasq", "dhcp_vs_isc", "dhcp_p99_vs_kea_at_80",
        "dhcp_100k_vs_empty", "tftp_w1_vs_atftpd", "tftp_w1_vs_dnsmasq", "tftp_w4_vs_atftpd", "tftp_w16_vs_atftpd",
        "tftp_w16_1_vs_atftpd", "http_big_vs_nginx", "http_cpu_vs_nginx", "http_script_p99", "storm_vs_dnsmasq_nginx",
        "boot_vs_dnsmasq_nginx",
    } <= set(GOALS)  # fmt: skip


def test_the_table_has_a_line_for_each_server_and_a_dash_for_what_was_not_measured() -> None:
    results = rounds((1500.0, 5.0), (2500.0, 5.0))
    lines = table(results, ("per_second", "p99_ms"))
    assert [line.split() for line in lines] == [
        ["CASE", "SERVER", "per_second", "p99_ms"],
        ["case", "metalbox", "2,000", "(1,500-2,500)", "-"],
        ["case", "kea-st", "5", "-"],
    ]
    assert len({line.index("metalbox") for line in lines if "metalbox" in line}) == 1


def test_numbers_have_the_digits_that_mean_something() -> None:
    assert [number(value) for value in (3.0, 1234.56, 0.123456, 2.5e7)] == ["3", "1,235", "0.1235", "25,000,000"]
    assert shown(Summary(1.0, 1.0, 1.0)) == "1"
    assert shown(Summary(1.5, 1.0, 2.0)) == "1.5 (1-2)"
