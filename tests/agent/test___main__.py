"""Starting the agent: its arguments, the kernel's command line, its report of this machine, and how light it is."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import metalbox
from metalbox.agent import VERSION
from metalbox.agent.__main__ import parse_command_line
from tests.agent.rack import Server

ROOT = Path(__file__).parents[2]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "metalbox.agent", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)


def test_the_version_is_that_of_the_whole() -> None:
    assert metalbox.__version__ == VERSION


@pytest.mark.parametrize(
    ("text", "server", "mac", "vlan"),
    [
        ("initrd=initrd metalbox.server=http://192.0.2.1:8080 metalbox.mac=52:54:00:AA:00:01 console=ttyS0",
         "http://192.0.2.1:8080", "52:54:00:aa:00:01", ""),
        ("metalbox.mac=01-52-54-00-aa-00-01 metalbox.vlan=100", "", "52:54:00:aa:00:01", "100"),
        ("metalbox.mac=52-54-00-aa-00-01 metalbox.vlan=9999", "", "52:54:00:aa:00:01", ""),
        ("metalbox.server metalbox.vlan=x metalbox.shell quiet", "", "", ""),
        ("", "", "", ""),
    ],
)  # fmt: skip
def test_the_kernels_command_line(text: str, server: str, mac: str, vlan: str) -> None:
    assert parse_command_line(text) == {"server": server, "mac": mac, "vlan": vlan}


def test_the_report_of_this_machine() -> None:
    done = run("--print")
    report = json.loads(done.stdout)
    assert done.returncode == 0 and done.stderr == ""
    assert report["version"] == 1 and report["agent"]["version"] == VERSION
    assert report["hardware"]["architecture"] == os.uname().machine


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become nobody")
def test_the_report_does_not_take_root() -> None:
    # All is imported before, for nobody may be kept from reading Python itself.
    script = (
        "import os, sys, json, argparse, shutil; from metalbox.agent import __main__, conversation, inventory; "
        "os.setgroups([]); os.setgid(65534); os.setuid(65534); sys.exit(__main__.main(['--print']))"
    )
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["hardware"]["memory_bytes"] and report["problems"]


def test_once_against_a_server() -> None:
    server = Server().start()
    try:
        done = run("--server", server.url, "--once")
    finally:
        server.stop()
    assert done.returncode == 0, done.stderr
    assert [verb for _, verb, _ in server.said] == ["hello", "report"]
    assert "metalbox: reported; the server knows this machine as r1\n" in done.stderr


def test_once_without_a_server() -> None:
    done = run("--server", "http://127.0.0.1:1", "--once")
    assert done.returncode == 1
    assert "metalbox: http://127.0.0.1:1: connection refused\n" in done.stderr


@pytest.mark.parametrize("arguments", [["--server", "ftp://x"], ["--cmdline", "quiet"], ["--dance"]])
def test_called_wrongly(arguments: list[str]) -> None:
    done = run(*arguments)
    assert done.returncode == 2 and done.stderr and "Traceback" not in done.stderr


def test_the_start_is_light() -> None:
    """Under emulation each of these costs a tenth of a second or more."""
    code = (
        "import sys; from metalbox.agent import __main__, conversation, inventory, journal, lldp, network; "
        "print(' '.join(sys.modules))"
    )
    command = [sys.executable, "-I", "-c", f"sys = __import__('sys'); sys.path.insert(0, {str(ROOT)!r}); {code}"]
    loaded = set(subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout.split())
    heavy = {"asyncio", "typing", "dataclasses", "argparse", "inspect", "urllib.request", "shutil", "logging", "ctypes"}
    assert not loaded & heavy
