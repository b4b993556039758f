"""Processes known by pid and start time: only the right one is ever ended."""

from __future__ import annotations

import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest

from metalbox.errors import StartError
from metalbox.lab import processes


def test_a_started_process_writes_its_log_and_can_be_ended(tmp_path: Path) -> None:
    log = tmp_path / "log"
    process = processes.spawn(["sh", "-c", "echo $WORD; exec sleep 60"], what="s", log=log, environment={"WORD": "hi"})
    try:
        assert process.is_alive
        assert os.getsid(process.pid) == process.pid
    finally:
        processes.end([process])
    assert not process.is_alive
    assert log.read_text() in ("hi\n", "")


def test_one_that_ignores_sigterm_is_killed(tmp_path: Path) -> None:
    argv = ["sh", "-c", "trap '' TERM; echo ready; while :; do sleep 0.05; done"]
    process = processes.spawn(argv, what="s", log=tmp_path / "log")
    while "ready" not in (tmp_path / "log").read_text():
        os.sched_yield()
    processes.end([process], patience=0.2)
    assert not process.is_alive


def test_another_process_under_the_same_pid_is_left_alone(tmp_path: Path) -> None:
    process = processes.spawn(["sleep", "60"], what="s", log=tmp_path / "log")
    try:
        earlier = replace(process, start=process.start - 1)
        assert not earlier.is_alive
        processes.end([earlier], how=signal.SIGKILL)
        assert process.is_alive
    finally:
        processes.end([process])


def test_what_our_caller_left_open_is_not_held(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    os.set_inheritable(writer, True)
    process = processes.spawn(["sleep", "60"], what="s", log=tmp_path / "log")
    os.close(writer)
    try:
        assert os.read(reader, 1) == b"", "the pipe ends only when nobody holds it"
    finally:
        os.close(reader)
        processes.end([process])


def test_a_zombie_is_not_alive(tmp_path: Path) -> None:
    process = processes.spawn(["true"], what="s", log=tmp_path / "log")
    while process.is_alive:
        os.sched_yield()
    assert Path(f"/proc/{process.pid}").exists(), "the kernel keeps it until it is reaped"
    processes.reap([process])
    assert not Path(f"/proc/{process.pid}").exists()


def test_a_program_that_is_not_there_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(StartError, match="cannot start the thing: there is no program 'no-such-program'"):
        processes.spawn(["no-such-program"], what="the thing", log=tmp_path / "log")


def test_a_namespace_that_is_not_there_is_empty() -> None:
    assert processes.inside_namespace("no-such-namespace") == []
