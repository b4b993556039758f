"""`metalbox lab storm`: usage and words. Storms themselves: tests/lab/test_storm.py."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from metalbox.cli.labstorm import sentences
from metalbox.cli.main import main
from metalbox.lab.storm import Storm

FIGURES: dict[str, Any] = {
    "machines": 1000, "arrived": 999, "missing": 1, "known": 999, "seconds": 14.21, "p50_seconds": 9.0, "retries": 3,
    "booted_seconds": 8.04, "booted_p50_seconds": 4.0,
    "deferred": 7, "lost_by": {"tftp": 1, "dhcp": 2}, "bytes": 8_562_000_000, "mb_per_second": 602.5,
    "cpu_seconds": 11.4, "rss_mb": 140.2, "fleet_cpu_seconds": 9.9, "failures": {"TFTP timed out": 1},
    "phases": {"rom dhcp": {"count": 1000, "p50": 0.12, "p99": 0.5}, "tftp": {"count": 999, "p50": 1.0, "p99": 3.25}},
}  # fmt: skip


def test_the_outcome_in_words() -> None:
    assert sentences(FIGURES) == [
        "arrived    999 of 1000 machines, half of them after 9.0 s, the last after 14.2 s; 999 are discovered",
        "booted     half of them had kernel and initrd after 4.0 s, the last after 8.0 s",
        "repeated   3 by firmware (dhcp 2, tftp 1); 7 put off by the server (503)",
        "served     8.562 GB, 602 MB/s",
        "metalbox   11.4 s of CPU, 140 MiB of memory at most; the machines themselves 9.9 s of CPU",
        "failed     1: TFTP timed out",
        "",
        "PHASE     MACHINES  P50      P99\n"
        "rom dhcp  1000      0.120 s  0.500 s\n"
        "tftp      999       1.000 s  3.250 s",
    ]  # fmt: skip


@pytest.mark.parametrize(("missing", "code"), [(0, 0), (1, 1)])
def test_what_is_asked_and_what_it_exits_with(
    missing: int, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[tuple[Path, Storm, Path]] = []

    def run(directory: Path, storm: Storm, boot_files: Path, say: Any) -> dict[str, Any]:
        asked.append((directory, storm, boot_files))
        return {**FIGURES, "missing": missing}

    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr("metalbox.lab.requirements.missing", lambda _: [])
    monkeypatch.setattr("metalbox.lab.storm.run", run)
    words = ["--machines", "20", "--image-mib", "0.5", "--spread", "0", "--limit", "9", "--dir", str(tmp_path)]
    assert main(["lab", "storm", *words, "--boot-files", "/b", "-o", "json"]) == code
    assert asked == [(tmp_path, Storm(20, 1 << 19, 0.0, 9.0), Path("/b"))]
    assert json.loads(capsys.readouterr().out)["arrived"] == 999


def test_without_root_it_says_so(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert main(["lab", "storm"]) == 1
    assert "must be run as root: use sudo" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words", [["--machines", "0"], ["--machines", "50001"], ["--image-mib", "0"], ["--spread", "-1"], ["--limit", "0"]]
)
def test_wrong_usage(words: list[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["lab", "storm", *words])
    assert stopped.value.code == 2
