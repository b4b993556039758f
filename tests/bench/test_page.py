"""The page's tables."""

from __future__ import annotations

from bench.beside.__main__ import TARGETS
from bench.beside.page import FIGURES, tables

DOCUMENT = {
    "targets": [
        {
            "target": "http",
            "cases": {
                "big file x16": {
                    "metalbox": [{"mb_per_second": 3.0, "cpu_ms_per_mib": 1.0}, {"mb_per_second": 5.0}],
                    "nginx": [{"mb_per_second": 6.0}],
                },
                "scripts, 16 connections": {"nginx": [{"per_second": 7.0, "cpu_us": -1.0, "p99_ms": 2.5}]},
            },
            "ratios": {"http_big_vs_nginx": 0.5, "http_script_p99": 12.0, "http_scripts_vs_nginx": 3.0},
        },
        {
            "target": "dhcp",
            "cases": {
                "100k leases": {"metalbox, empty": [{"per_second": 9.0}]},
                "near": {"metalbox": [{"cpu_us": 2.0}]},
            },
            "ratios": {},
        },
    ]
}


def test_a_row_for_each_case_and_goals_that_are_missed() -> None:
    assert tables(DOCUMENT) == [
        "**http: big files**: MB/s / CPU ms/MiB",
        "",
        "|  | metalbox | nginx |",
        "| --- | --: | --: |",
        "| big file x16 | 4 (3-5) / 1 | 6 |",
        "",
        "**http: scripts**: requests/s / CPU us each / p99 ms",
        "",
        "|  | nginx |",
        "| --- | --: |",
        "| scripts, 16 connections | 7 / - / 2.5 |",
        "",
        "**dhcp**: exchanges/s / CPU us each / p99 ms / MiB",
        "",
        "|  | metalbox |",
        "| --- | --: |",
        "| 100k leases: empty | 9 |",
        "| near | - / 2 |",
        "",
        "| ratio | value | goal |  |",
        "| --- | --: | --: | --- |",
        "| `http_big_vs_nginx` | 0.5 | >=0.95 | missed |",
        "| `http_script_p99` | 12 | <=20 |  |",
    ]


def test_every_target_has_its_figures() -> None:
    assert {part.partition(":")[0] for part in FIGURES} == set(TARGETS)
