"""The peers' Debian packages: installed when missing, one after the other; what cannot be had is said and skipped.

tftpd-hpa and atftpd cannot be installed together; the former is unpacked into a folder of the checkout instead.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

# Program -> package.
PACKAGES = {
    "kea-dhcp4": "kea-dhcp4-server",
    "perfdhcp": "kea-admin",
    "dnsmasq": "dnsmasq-base",
    "dhcpd": "isc-dhcp-server",
    "atftpd": "atftpd",
    "nginx": "nginx-light",
    "gcc": "gcc",
    "ethtool": "ethtool",
    "curl": "curl",
    "wrk": "wrk",
}
UNPACKED = {"in.tftpd": "tftpd-hpa"}
FOLDER = Path(__file__).parents[2] / "var" / "bench"
POLICY = Path("/usr/sbin/policy-rc.d")
SBIN = "/usr/local/sbin:/usr/sbin:/sbin"


def find(program: str) -> str | None:
    """Where a program is, also where only root looks."""
    if program in UNPACKED:
        own = FOLDER / "usr" / "sbin" / program
        return str(own) if own.is_file() else None
    return shutil.which(program) or shutil.which(program, path=SBIN)


def ensure(programs: Iterable[str]) -> dict[str, str]:
    """Install what is missing, unless METALBOX_SKIP_APT=1; returns program -> path of all that are there now."""
    wanted = list(programs)
    for program in wanted:
        if find(program) is None and os.environ.get("METALBOX_SKIP_APT") != "1":
            _unpack(UNPACKED[program]) if program in UNPACKED else _install(PACKAGES[program])
    found = {program: path for program in wanted if (path := find(program))}
    for program in wanted:
        if program not in found:
            print(f"skipped: there is no {program} (Debian package {({**PACKAGES, **UNPACKED})[program]})", flush=True)
    return found


def _install(package: str) -> None:
    print(f"installing {package}", flush=True)
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    install = ["apt-get", "install", "-y", "-qq", "--no-install-recommends", package]
    with _one_at_a_time(), _no_daemons():
        _call(["apt-get", "update", "-qq"], environment)
        _call(install, environment)


def _unpack(package: str) -> None:
    print(f"unpacking {package}", flush=True)
    FOLDER.mkdir(parents=True, exist_ok=True)
    with _one_at_a_time():
        _call(["apt-get", "update", "-qq"], os.environ)
        _call(["apt-get", "download", "-qq", package], os.environ, FOLDER)
    for archive in FOLDER.glob(f"{package}_*.deb"):
        _call(["dpkg", "-x", str(archive), str(FOLDER)], os.environ)
        archive.unlink()


def _call(command: list[str], environment: Mapping[str, str], folder: Path | None = None) -> None:
    """What fails is said; the program is then missing, and its server is left out."""
    try:
        done = subprocess.run(command, env=environment, cwd=folder, capture_output=True, timeout=300, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        print(f"{' '.join(command)}: {error}", flush=True)
        return
    if done.returncode:
        print(f"{' '.join(command)}: {done.stderr.decode(errors='replace').strip()[-300:]}", flush=True)


@contextlib.contextmanager
def _one_at_a_time() -> Iterator[None]:
    with Path("/tmp/apt.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def _no_daemons() -> Iterator[None]:
    """A package may start no service of the system's own (invoke-rc.d asks policy-rc.d)."""
    if POLICY.exists():
        yield
        return
    POLICY.write_text("#!/bin/sh\nexit 101\n")
    POLICY.chmod(0o755)
    try:
        yield
    finally:
        POLICY.unlink()
