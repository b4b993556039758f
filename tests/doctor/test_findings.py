"""Levels read as words."""

from __future__ import annotations

from metalbox.doctor.findings import Finding, Level


def test_a_finding() -> None:
    assert f"{Finding(Level.WARN, 'clock', 'late').level}" == "warn"
