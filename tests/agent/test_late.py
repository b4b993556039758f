"""USB storage that is found a moment before its disk is."""

from __future__ import annotations

from pathlib import Path

from metalbox.agent import late
from tests.agent.snapshots import write

STICK = "sys/bus/usb/devices/1-1:1.0"


def test_what_is_not_ready_yet(tmp_path: Path) -> None:
    write(tmp_path, {f"{STICK}/bInterfaceClass": "08\n", "sys/bus/usb/devices/1-2:1.0/bInterfaceClass": "03\n"})
    assert late.pending(tmp_path) == []  # no driver: nothing will come
    (tmp_path / STICK / "host2").mkdir()
    assert late.pending(tmp_path) == ["1-1:1.0"]
    write(tmp_path, {f"{STICK}/host2/target2:0:0/2:0:0:0/type": "0\n"})
    assert late.pending(tmp_path) == ["1-1:1.0"]
    (tmp_path / STICK / "host2/target2:0:0/2:0:0:0/block/sda").mkdir(parents=True)
    assert late.pending(tmp_path) == []
    # A CD drive of a BMC is no disk.
    write(tmp_path, {f"{STICK}/host2/target2:0:1/2:0:1:0/type": "5\n"})
    assert late.pending(tmp_path) == []


def test_it_is_waited_for_and_not_for_ever(tmp_path: Path) -> None:
    write(tmp_path, {f"{STICK}/bInterfaceClass": "08\n", f"{STICK}/host2/uevent": ""})
    times = [0.0]

    def sleep(seconds: float) -> None:
        times.append(times[-1] + seconds)
        if arrives and times[-1] > 1:
            (tmp_path / STICK / "host2/target2:0:0/2:0:0:0/block/sda").mkdir(parents=True, exist_ok=True)

    arrives = False
    assert late.wait(tmp_path, lambda: times[-1], sleep) == ["1-1:1.0"]
    assert late.SECONDS <= times[-1] < late.SECONDS + 0.1
    times, arrives = [0.0], True
    assert late.wait(tmp_path, lambda: times[-1], sleep) == []
    assert 1 < times[-1] < 1.2
