"""Listeners, subnets and counters."""

from __future__ import annotations

from typing import Any

import pytest

from metalbox.cli.main import main


def test_status(scripted: Any, capsys: pytest.CaptureFixture[str]) -> None:
    answer = {
        "version": "0.1.0",
        "started_at": 0.0,
        "listening": ["DHCP on eth1 port 67", "HTTP on 0.0.0.0:8080"],
        "subnets": [{"subnet": "192.0.2.0/24", "mode": "full", "interface": "eth1", "leases": 2, "pool_size": 100}],
        "counters": {"dhcp": {"ignored: not a boot client": 3}, "tftp": {}},
    }
    scripted.answers["GET /api/v1/status"] = (200, answer)
    assert main(["status", "--socket", str(scripted.path)]) == 0
    assert capsys.readouterr().out.splitlines()[1:] == [
        "",
        "listening",
        "  DHCP on eth1 port 67",
        "  HTTP on 0.0.0.0:8080",
        "",
        "SUBNET        MODE  INTERFACE  LEASES",
        "192.0.2.0/24  full  eth1       2/100",
        "",
        "PART  WHAT                        COUNT",
        "dhcp  ignored: not a boot client  3",
    ]
