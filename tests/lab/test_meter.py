"""CPU and memory from /proc."""

from __future__ import annotations

import os
import subprocess
import sys
import time

from metalbox.lab import meter

STAT = "77 (a) b (c) S 1 77 77 0 -1 4194560 100 200 0 0 150 50 7 3 20 0 3 0 12345 1000 200 18446744073709551615"


def test_a_name_with_brackets_and_blanks_does_not_shift_the_fields() -> None:
    assert meter.fields(STAT)[:2] == ["S", "1"]
    assert meter.cpu_of(STAT) == 210 / meter.TICK


def test_a_process_and_its_children_are_counted() -> None:
    program = "import subprocess,sys; subprocess.run([sys.executable,'-c','import time; time.sleep(600)'])"
    with subprocess.Popen([sys.executable, "-c", program]) as process:
        deadline = time.monotonic() + 60
        while len(found := meter.tree(process.pid)) < 2 and time.monotonic() < deadline:
            time.sleep(0.01)
        rss = meter.cost([process.pid]).rss
        for pid in found:
            os.kill(pid, 9)
    assert len(found) == 2
    assert rss > 5


def test_what_has_ended_costs_nothing_more() -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    assert meter.cost([process.pid]) == meter.Cost(0.0, 0.0)
