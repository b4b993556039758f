"""A DHCP server in one namespace, for the tests of the server and of its clients."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.netns import Namespaces

ROOT = Path(__file__).parents[2]
PROBED = """
subnets:
  - subnet: 192.0.2.0/24
    interface: eth0
    mode: full
    pools: [192.0.2.100-192.0.2.150]
    router: 192.0.2.1
    dns: [192.0.2.1]
"""
FULL = "dhcp: {probe: false}\n" + PROBED
PROXY = "dhcp: {probe: false}\nsubnets: [{subnet: 192.0.2.0/24, interface: eth0, mode: proxy}]\n"


class Server:
    """The process of `serve_dhcp` in a namespace."""

    def __init__(self, net: Namespaces, name: str, config: str, folder: Path, *more: str) -> None:
        folder.mkdir(exist_ok=True)
        path = folder / "metalbox.yaml"
        path.write_text(config)
        self.process: subprocess.Popen[str] = net.popen(
            name,
            *(sys.executable, "-W", "error", "-m", "tests.dhcp.serve_dhcp", str(path), str(folder), *more),
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.listening: list[str] = []

    def start(self) -> Server:
        self.listening = self._read()
        return self

    def _read(self) -> Any:
        assert self.process.stdout and self.process.stderr
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"the server ended: {self.process.stderr.read()}")
        return json.loads(line)

    def order(self, word: str) -> Any:
        assert self.process.stdin
        self.process.stdin.write(word + "\n")
        self.process.stdin.flush()
        return self._read()

    def state(self) -> dict[str, Any]:
        state: dict[str, Any] = self.order("state")
        return state

    def stop(self) -> tuple[int, str]:
        """Let it end by itself; its exit code and what it wrote to standard error."""
        _, errors = self.process.communicate(timeout=60)
        return self.process.returncode, errors


def until(true: Callable[[], bool], what: str, seconds: float = 60) -> None:
    """Wait for what another process does; fails with `what` when it does not."""
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, f"not within {seconds:g} s: {what}"
        time.sleep(0.05)
