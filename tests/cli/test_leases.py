"""The leases as a table."""

from __future__ import annotations

import time
from typing import Any

import pytest

from metalbox.cli.main import main


def test_leases(scripted: Any, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [
        {"address": "192.0.2.100", "mac": "52:54:00:00:00:01", "machine": "lab0001", "state": "bound",
         "expires_at": time.time() + 125.5, "location": "swp1"},
        {"address": "192.0.2.101", "mac": "52:54:00:00:00:02", "hostname": "pc", "state": "released",
         "expires_at": time.time() - 60, "location": ""},
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
