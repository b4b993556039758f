"""The wire of a measurement: two namespaces joined by a veth pair, and the generators at the clients' end.

    server eth0 10.64.0.1/14  ----------  eth0 10.64.0.2/14 clients

All addresses that are given away lie in the same network, which has room for 100,000 leases and as many new ones.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.netns import Namespaces

SUBNET, NETMASK = "10.64.0.0/14", "255.252.0.0"
SERVER, CLIENT = "10.64.0.1", "10.64.0.2"
PREFIX = 14
HALVES = ("10.64.0.0/15", "10.66.0.0/15")
SOURCES = Path(__file__).parent / "load"
GENERATORS = ("dhcpload", "tftpload", "httpload")
# How long a generator may take beyond the time that it was told.
GRACE_SECONDS = 30.0


def compile_generators(folder: Path) -> dict[str, Path]:
    """Build the generators; RuntimeError with what the compiler said when that fails."""
    built = {}
    for name in GENERATORS:
        target = folder / name
        command = ["gcc", "-O2", "-Wall", "-o", str(target), str(SOURCES / f"{name}.c")]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}")
        built[name] = target
    return built


class Wire:
    """Namespaces with a cable. Leaving the `with` block ends all that runs in them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.net = Namespaces()
        self._generators: dict[str, Path] = {}

    def __enter__(self) -> Wire:
        self._generators = compile_generators(self.folder)
        self.net.__enter__()
        self.net.link("server", "eth0", "clients", "eth0", left_ip=f"{SERVER}/{PREFIX}", right_ip=f"{CLIENT}/{PREFIX}")
        return self

    def __exit__(self, *exc: object) -> None:
        self.net.__exit__(*exc)

    @contextmanager
    def without_offload(self) -> Iterator[None]:
        """The server's port as one whose hardware cuts no UDP trains: the kernel cuts them before they leave."""
        self.net.run("server", "ethtool", "-K", "eth0", "tx-udp-segmentation", "off")
        try:
            yield
        finally:
            self.net.run("server", "ethtool", "-K", "eth0", "tx-udp-segmentation", "on")

    def command(self, generator: str, **options: object) -> list[str]:
        """A generator's command line at the clients' end; `in_flight=64` is --in-flight 64."""
        words = [*self.net.exec("clients"), str(self._generators[generator]), "--server", SERVER]
        for key, value in options.items():
            words += [f"--{key.replace('_', '-')}", str(value)]
        return words

    def load(self, generator: str, **options: object) -> dict[str, Any]:
        """Run a generator to its end and return its figures. RuntimeError when it fails."""
        seconds = float(str(options.get("seconds", 5)))
        command = self.command(generator, **options)
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds + GRACE_SECONDS, check=False)
        return read_figures(generator, done.returncode, done.stdout, done.stderr)


def read_figures(generator: str, code: int, out: str, errors: str) -> dict[str, Any]:
    """A generator's one line of JSON. RuntimeError with its last words when there is none. Pure."""
    if code:
        raise RuntimeError(f"{generator} ended with {code}: {errors.strip()[-300:]}")
    found: dict[str, Any] = json.loads(out)
    return found
