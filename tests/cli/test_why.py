"""The diagnosis as people read it."""

from __future__ import annotations

from typing import Any

import pytest

from metalbox.cli.main import main

ANSWER = {
    "machine": "52:54:00:00:00:01",
    "doing": "stuck before the boot file",
    "waiting_for": "the firmware to fetch undionly.kpxe by TFTP",
    "since": 0.0,
    "evidence": ["offered undionly.kpxe at 12:00:01", "no TFTP request since"],
    "cause": "UDP port 69 is blocked",
    "advice": ["open it:\nnft add rule"],
    "code": "tftp-blocked",
}
TEXT = """\
52:54:00:00:00:01: stuck before the boot file
  waits for   the firmware to fetch undionly.kpxe by TFTP
  evidence    offered undionly.kpxe at 12:00:01
              no TFTP request since
  cause       UDP port 69 is blocked
  what to do  open it:
              nft add rule
"""


def test_why(scripted: Any, capsys: pytest.CaptureFixture[str]) -> None:
    scripted.answers["GET /api/v1/machines/52%3A54%3A00%3A00%3A00%3A01/why"] = (200, ANSWER)
    assert main(["why", "52:54:00:00:00:01", "--socket", str(scripted.path)]) == 0
    assert capsys.readouterr().out == TEXT


def test_what_is_also_to_be_said(scripted: Any, capsys: pytest.CaptureFixture[str]) -> None:
    also = {
        "code": "hung", "doing": "its BMC 192.0.2.50 hangs", "waiting_for": "the BMC", "since": 0.0,
        "cause": "its firmware", "evidence": ["no answer"], "advice": ["restart it"], "also": [],
    }  # fmt: skip
    scripted.answers["GET /api/v1/machines/m/why"] = (200, {**ANSWER, "machine": "m", "also": [also]})
    assert main(["why", "m", "--socket", str(scripted.path)]) == 0
    assert (
        capsys.readouterr().out
        == TEXT.replace("52:54:00:00:00:01:", "m:")
        + """
also: its BMC 192.0.2.50 hangs
  waits for   the BMC
  evidence    no answer
  cause       its firmware
  what to do  restart it
"""
    )
