"""`bmc list|add|import|test|forget` as people use them."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest

from metalbox.cli.main import main

BMC = {
    "id": 1, "machine": "r1-01", "reason": "its serial", "doubt": "", "address": "192.0.2.50", "mac": "", "drivers": [],
    "vendor": "Dell", "model": "", "user": "root", "has_password": True, "last_error": None,
}  # fmt: skip


def run(scripted: Any, *argv: str) -> int:
    return main(["bmc", *argv, "--socket", str(scripted.path)])


def test_list(scripted: Any, capsys: pytest.CaptureFixture[str]) -> None:
    lost = {**BMC, "id": 2, "machine": None, "reason": "no machine has its serial", "has_password": False}
    sick = {**BMC, "id": 3, "drivers": ["ipmi"], "last_error": {"code": "wrong-password", "text": "refused"}}
    scripted.answers["GET /api/v1/bmcs"] = (200, {"bmcs": [BMC, lost, sick]})
    assert run(scripted, "list") == 0
    assert capsys.readouterr().out.splitlines() == [
        "ID  MACHINE  ADDRESS     MAC  SPEAKS     MODEL  USER                TROUBLE",
        "1   r1-01    192.0.2.50  -    not tried  Dell   root",
        "2   -        192.0.2.50  -    not tried  Dell   root (no password)  no machine has its serial",
        "3   r1-01    192.0.2.50  -    ipmi       Dell   root                wrong-password: refused",
    ]


def test_rotate_waits_for_those_whose_agents_listen(
    scripted: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("metalbox.cli.bmc.LOOK_SECONDS", 0.01)
    scripted.answers["POST /api/v1/bmcs/r1-01/rotate"] = (200, {"order": 7, "listens": True})
    scripted.answers["POST /api/v1/bmcs/r1-02/rotate"] = (200, {"order": 8, "listens": False})
    scripted.answers["GET /api/v1/bmcs/r1-01/account"] = (200, {"state": "verified"})
    assert run(scripted, "rotate", "r1-01", "r1-02") == 0
    assert run(scripted, "rotate", "r1-01", "--wait") == 0
    assert run(scripted, "rotate", "r1-02", "--wait") == 1
    scripted.answers["GET /api/v1/bmcs/r1-01/account"] = (200, {"state": "failed: the table of users is full"})
    assert run(scripted, "rotate", "r1-01", "--wait") == 1
    assert capsys.readouterr().out.splitlines() == [
        "r1-01: ordered (order 7)",
        "r1-02: ordered (order 8; its agent does not listen, and does it when the machine runs it next)",
        "r1-01: verified (order 7)",
        "r1-02: ordered (order 8; its agent does not listen, and does it when the machine runs it next)",
        "r1-01: failed: the table of users is full (order 7)",
    ]


def test_add_takes_the_password_from_where_no_process_list_shows_it(
    scripted: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    scripted.answers["POST /api/v1/bmcs"] = (200, {"bmc": BMC})
    monkeypatch.setenv("METALBOX_BMC_PASSWORD", "from the environment")
    assert run(scripted, "add", "192.0.2.50", "--user", "root") == 0
    monkeypatch.delenv("METALBOX_BMC_PASSWORD")
    monkeypatch.setattr("sys.stdin", io.StringIO("from a pipe\n"))
    assert run(scripted, "add", "192.0.2.50", "--user", "root") == 0
    assert run(scripted, "add", "192.0.2.50", "--driver", "none") == 0
    assert [body["password"] for _, _, _, body in scripted.requests] == ["from the environment", "from a pipe", ""]
    assert capsys.readouterr().out.splitlines()[0] == "BMC 1 at 192.0.2.50: r1-01 (its serial)"


def test_add_with_settings_of_the_driver(
    scripted: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    scripted.answers["POST /api/v1/bmcs"] = (200, {"bmc": BMC})
    monkeypatch.setattr("sys.stdin", io.StringIO("0011\n"))
    argv = ["add", "192.0.2.50", "--driver", "ipmi", "--setting", "channel=8", "--setting", "kg"]
    assert run(scripted, *argv) == 0
    assert scripted.requests[-1][3]["settings"] == {"channel": "8", "kg": "0011"}
    assert run(scripted, "add", "192.0.2.50", "--driver", "ipmi", "--setting", "kg=0011") == 2
    error = capsys.readouterr().err
    assert "kg is a secret" in error and "0011" not in error
    assert len(scripted.requests) == 1


def test_a_missing_list(scripted: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(scripted, "import", str(tmp_path / "none.csv")) == 2
    assert "cannot read" in capsys.readouterr().err


def test_scan(scripted: Any, capsys: pytest.CaptureFixture[str]) -> None:
    found = [{"bmc": {**BMC, "drivers": ["redfish", "ipmi"]}, "is_new": True, "hints": ["offers cipher suite 0"]}]
    scripted.answers["POST /api/v1/bmcs/scan"] = (200, {"found": found, "asked": 254, "unasked": 2})
    assert run(scripted, "scan", "192.0.2.0/24") == 0
    assert scripted.requests[-1][3] == {"addresses": ["192.0.2.0/24"]}
    assert capsys.readouterr().out.splitlines() == [
        "ADDRESS     SPEAKS        MODEL  MACHINE  IS   LOOK AT",
        "192.0.2.50  redfish,ipmi  Dell   r1-01    new  offers cipher suite 0",
        "254 addresses asked, 1 BMCs found; 2 were not asked before the time was over",
    ]


def test_test(scripted: Any, capsys: pytest.CaptureFixture[str]) -> None:
    tries = [
        {"driver": "redfish", "address": "192.0.2.50", "code": "", "state": "on"},
        {"driver": "ipmi", "address": "192.0.2.50", "code": "unreachable", "text": "no answer"},
    ]
    scripted.answers["POST /api/v1/bmcs/r1-01/test"] = (200, {"tries": tries, "bmc": BMC})
    assert run(scripted, "test", "r1-01") == 0
    assert capsys.readouterr().out.splitlines() == [
        "redfish  192.0.2.50: works, the machine is on",
        "ipmi     192.0.2.50: unreachable: no answer",
        "machine  r1-01 (its serial)",
    ]
    scripted.answers["POST /api/v1/bmcs/r1-01/test"] = (200, {"tries": tries[1:], "bmc": BMC})
    assert run(scripted, "test", "r1-01") == 1


def test_forget(scripted: Any, capsys: pytest.CaptureFixture[str]) -> None:
    scripted.answers["DELETE /api/v1/bmcs/r1-01"] = (200, {})
    assert run(scripted, "forget", "r1-01") == 0
    assert capsys.readouterr().out == "r1-01: forgotten, with its password\n"
