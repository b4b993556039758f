"""What the service has counted, as the bench reads it. Whole conversations: test_smoke.py."""

from __future__ import annotations

from bench.beside import rest


def test_lines_that_were_given_up() -> None:
    counted = {"journal": {"dropped: dhcp": 12.0, "dropped: tftp": 3.0, "write failed": 1.0}, "dhcp": {"sent": 9.0}}
    assert rest.dropped_lines(counted) == 15.0
    counted["dhcp"]["not in the timeline"] = 2.0
    assert rest.dropped_lines(counted) == 17.0
