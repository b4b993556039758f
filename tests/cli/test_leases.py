"""The leases as a table."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from metalbox.cli import leases, output
from metalbox.cli.main import main

NOW = 1_800_000_000.0


def test_leases(scripted: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (leases, output):
        monkeypatch.setattr(module, "time", SimpleNamespace(time=lambda: NOW))
    rows = [
        {"address": "192.0.2.100", "mac": "52:54:00:00:00:01", "machine": "lab0001", "state": "bound",
         "expires_at": NOW + 125.5, "location": "swp1"},
        {"address": "192.0.2.101", "mac": "52:54:00:00:00:02", "hostname": "pc", "state": "released",
         "expires_at": NOW - 60, "location": ""},
    ]  # fmt: skip
    scripted.answers["GET /api/v1/leases"] = (200, {"leases": rows})
    assert main(["leases", "--socket", str(scripted.path)]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "ADDRESS      MAC                MACHINE  STATE     EXPIRES   LOCATION",
        "192.0.2.100  52:54:00:00:00:01  lab0001  bound     in 2m 5s  swp1",
        "192.0.2.101  52:54:00:00:00:02  pc       released  1m ago    -",
    ]


def test_no_leases(scripted: Any, capsys: pytest.CaptureFixture[str]) -> None:
    scripted.answers["GET /api/v1/leases"] = (200, {"leases": []})
    assert main(["leases", "--socket", str(scripted.path)]) == 0
    assert "proxy mode" in capsys.readouterr().out
