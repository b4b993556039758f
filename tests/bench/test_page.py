"""The page's tables."""

from __future__ import annotations

from bench.beside.__main__ import TARGETS
from bench.beside.page import COLUMNS, tables

DOCUMENT = {
    "targets": [
        {
            "target": "http",
            "cases": {
                "big file x16": {
                    "metalbox": [{"mb_per_second": 3.0, "per_second": 1.0, "p99_ms": -1.0}, {"mb_per_second": 5.0}]
                },
                "scripts, 16 connections": {"nginx": [{"mb_per_second": 3.0, "per_second": 7.0, "cpu_us": 9.5}]},
            },
            "ratios": {"http_big_vs_nginx": 0.5, "http_script_p99": 12.0, "http_scripts_vs_nginx": 3.0},
        }
    ]
}


def test_medians_with_their_range_and_goals_that_are_missed() -> None:
    assert tables(DOCUMENT) == [
        "**http**",
        "",
        "| case | server | MB/s | requests/s | CPU ms/MiB | CPU us each | p99 ms |",
        "| --- | --- | --: | --: | --: | --: | --: |",
        "| big file x16 | metalbox | 4 (3-5) |  |  |  |  |",
        "| scripts, 16 connections | nginx |  | 7 |  | 9.5 |  |",
        "",
        "| ratio | value | goal |  |",
        "| --- | --: | --: | --- |",
        "| `http_big_vs_nginx` | 0.5 | >=0.95 | missed |",
        "| `http_script_p99` | 12 | <=20 |  |",
    ]


def test_every_target_has_its_columns() -> None:
    assert set(COLUMNS) == set(TARGETS)
