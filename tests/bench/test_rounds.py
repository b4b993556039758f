"""The order in which servers take their turns, the generators' answers, and what peers are told."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import cast

import pytest

from bench.beside import packages, peers, servers, tftp, web
from bench.beside.__main__ import TARGETS, parser
from bench.beside.figures import Results
from bench.beside.rounds import Run
from bench.beside.wire import Wire, read_figures
from metalbox import config


def test_each_round_begins_with_another_server() -> None:
    run = Run(cast(Wire, None), Path("/nonexistent"), 3)
    found = [[name for name, _ in run.turns({"a": 1, "b": 2, "c": 3}, number)] for number in run.rounds()]
    assert found == [["a", "b", "c"], ["b", "c", "a"], ["c", "a", "b"]]
    assert list(run.rounds(1)) == [0]
    assert list(run.turns({}, 1)) == []


def test_a_generator_that_fails_says_why() -> None:
    assert read_figures("dhcpload", 0, '{"exchanges": 3}\n', "") == {"exchanges": 3}
    with pytest.raises(RuntimeError, match="dhcpload ended with 1: bind: Address already in use"):
        read_figures("dhcpload", 1, "", "bind: Address already in use\n")


def test_our_configuration_is_one_that_metalbox_takes(tmp_path: Path) -> None:
    plan = servers.metalbox((tmp_path,), tmp_path / "agent")(tmp_path)
    settings = config.load(tmp_path / "metalbox.yaml")
    assert plan.commands[0][:4] == (sys.executable, "-m", "metalbox", "serve")
    assert str(settings.subnets[0].mode) == "full"
    assert settings.data_dir == tmp_path / "data"


def test_kea_single_and_multi_threaded_differ_in_their_threads_only(tmp_path: Path) -> None:
    documents = []
    for threads in (0, 2):
        peers.kea("kea-dhcp4", threads=threads)(tmp_path)
        documents.append(json.loads((tmp_path / "kea.json").read_text())["Dhcp4"])
    single, multi = (document.pop("multi-threading") for document in documents)
    assert (single["enable-multi-threading"], multi["enable-multi-threading"]) == (False, True)
    assert documents[0] == documents[1]
    assert documents[0]["lease-database"]["persist"]


def test_a_peer_that_cannot_be_had_is_said_and_skipped(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("METALBOX_SKIP_APT", "1")
    monkeypatch.setenv("PATH", "/nonexistent")
    monkeypatch.setattr(packages, "SBIN", "/nonexistent")
    assert packages.ensure(["kea-dhcp4"]) == {}
    assert "skipped: there is no kea-dhcp4 (Debian package kea-dhcp4-server)" in capsys.readouterr().out
    assert os.environ["METALBOX_SKIP_APT"] == "1"


def test_the_far_ratio_is_beside_the_best_peer() -> None:
    results = Results("tftp")
    for name, milliseconds in (("metalbox", 105.0), ("atftpd", 100.0), ("dnsmasq", 400.0)):
        results.add("far", name, {"p50_ms": milliseconds})
    assert tftp.beside_best(results, "far") == pytest.approx(1.05)
    assert tftp.beside_best(results, "near") is None


def test_the_command_line_names_every_target() -> None:
    assert parser().parse_args([]).targets == []
    assert parser().parse_args(["dhcp", "storm", "--rounds", "5"]).rounds == 5
    assert set(TARGETS) == {"dhcp", "tftp", "http", "storm", "boot", "inventory"}
    with pytest.raises(SystemExit):
        parser().parse_args(["ftp"])


def test_what_wrk_says() -> None:
    said = (
        "Running 2s test\n  1 threads and 16 connections\n  5921 requests in 2.00s, 3.72MB read\nRequests/sec: 2959.8\n"
    )
    assert web.wrk_figures(said) == (5921, 2.0)
    with pytest.raises(ValueError, match="unable to connect"):
        web.wrk_figures("unable to connect to 10.64.0.1:8080\n")
