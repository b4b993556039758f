"""What serves the rack's machines: metalbox itself, or a tuned dnsmasq with a plain web server to compare it with."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

import metalbox
from metalbox.cli import client
from metalbox.config import Mode
from metalbox.errors import MetalboxError, StartError
from metalbox.lab import processes
from metalbox.lab.hypervisor import tail
from metalbox.lab.machines import MEMORY_MIB
from metalbox.lab.network import LAB_SUBNET, RELAYED_ROUTER, RELAYED_SUBNET, SERVER, inside
from metalbox.lab.record import Record, namespace
from metalbox.lab.site_dhcp import reference_config

ROOT = Path(metalbox.__file__).parents[1]
IPXE = Path("/usr/lib/ipxe")
ARCH = "x86_64"
# An address of a unix socket holds 107 bytes (sockaddr_un, unix(7)).
MAX_SOCKET_PATH = 107
READY_SECONDS = 90.0
# A service that is killed meanwhile has left its consoles open.
STOP_SECONDS = 60.0

# The same kernel, initramfs and arguments that metalbox's own script names.
REFERENCE_SCRIPT = f"""#!ipxe
kernel http://{SERVER}:8080/agent/{ARCH}/vmlinuz initrd=initrd metalbox.server=http://{SERVER}:8080 \
metalbox.mac=${{netX/mac}} quiet console=tty0 console=ttyS0,115200
initrd --name initrd http://{SERVER}:8080/agent/{ARCH}/initrd
boot
"""


def in_checkout(start: Path | None = None) -> Path | None:
    """The checkout of metalbox that the current (or given) folder lies in, None when it lies in none."""
    start = start or Path.cwd()
    for folder in (start, *start.parents):
        if (folder / "pyproject.toml").is_file() and (folder / "metalbox" / "machine.py").is_file():
            return folder
    return None


def default_folder(name: str) -> Path:
    """Where "lab", "boot" or "agent" is kept: var/ of the checkout, else /var/lib/metalbox."""
    checkout = in_checkout()
    return checkout / "var" / name if checkout else Path("/var/lib/metalbox") / name


def check_files(boot: Path, agent: Path) -> None:
    """Raise StartError, naming the command that makes it, when a file that machines need is missing."""
    for name in ("undionly.kpxe", "snponly.efi"):
        if not any((folder / name).is_file() for folder in (boot, IPXE)):
            raise StartError(
                f"there is no {name} in {boot} or {IPXE}: fetch it with `metalbox boot-files fetch --output {boot}`, "
                "or install Debian's package ipxe"
            )
    for name in ("vmlinuz", "initrd"):
        if not (agent / ARCH / name).is_file():
            raise StartError(
                f"there is no {name} in {agent / ARCH}: make it with `metalbox agent build --output {agent}`"
            )


def memory_for(agent: Path) -> int:
    """MiB of memory for machines that run this agent's image: what its manifest asks for, and not below the usual."""
    try:
        manifest = json.loads((agent / ARCH / "manifest.json").read_text())
        return max(MEMORY_MIB, int(manifest["ram_mib"]))
    except (OSError, ValueError, KeyError, TypeError):
        return MEMORY_MIB


def configuration(
    directory: Path, mode: Mode, boot: Path, agent: Path, *, relayed: bool = False, settings: Mapping[str, Any]
) -> dict[str, Any]:
    """What the service is told. `settings` is laid over it, section by section."""
    subnets: list[dict[str, Any]] = [{"subnet": str(LAB_SUBNET), "interface": "br0", "mode": str(mode)}]
    if relayed:
        subnets.append({"subnet": str(RELAYED_SUBNET), "mode": str(mode)})
    if mode is Mode.FULL:
        for subnet, network, router in zip(
            subnets, (LAB_SUBNET, RELAYED_SUBNET), (SERVER, RELAYED_ROUTER), strict=False
        ):
            subnet["pools"] = [f"{network[100]}-{network[199]}"]
            subnet["router"] = str(router)
    document: dict[str, Any] = {
        "data_dir": str(directory / "data"),
        "socket": str(directory / "metalbox.sock"),
        "log_level": "debug",
        "dhcp": {"interfaces": ["br0"]},
        "boot": {"files": [str(boot), str(IPXE)], "agent": str(agent)},
        "subnets": subnets,
    }
    for key, value in settings.items():
        known = document.get(key)
        document[key] = {**known, **value} if isinstance(known, dict) else value
    return document


class Metalbox:
    """The service, started as a user would start it."""

    def __init__(self, record: Record, document: Mapping[str, Any]) -> None:
        self.record = record
        self.directory = record.directory
        self.document = document
        self.socket = self.directory / "metalbox.sock"

    @property
    def log(self) -> Path:
        """Where it logs."""
        return self.directory / "logs" / "metalbox.log"

    def start(self) -> None:
        """Start it and wait until it answers. Raises StartError with the end of its log when it does not."""
        if len(os.fsencode(self.socket)) > MAX_SOCKET_PATH:
            raise StartError(f"{self.socket} is too long for a unix socket: choose a shorter folder for the lab")
        self.log.parent.mkdir(exist_ok=True)
        (self.directory / "data").mkdir(exist_ok=True)
        config = self.directory / "metalbox.yaml"
        config.write_text(yaml.safe_dump(dict(self.document), sort_keys=False))
        path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH", ""))))
        service = processes.spawn(
            inside(namespace(self.directory), [sys.executable, "-m", "metalbox", "serve", "--config", str(config)]),
            what="metalbox",
            log=self.log,
            environment={"PYTHONPATH": path, "PYTHONUNBUFFERED": "1"},
        )
        self.record.add(service)
        deadline = time.monotonic() + READY_SECONDS
        while not self._answers():
            processes.reap([service])
            if not service.is_alive or time.monotonic() > deadline:
                raise StartError(f"the service did not start; the end of {self.log}:\n{tail(self.log)}")
            time.sleep(0.05)

    def stop(self, *, kill: bool = False) -> None:
        """Ask it to end (SIGTERM), or kill it as a crash would; fine when it does not run."""
        service = self.record.find("metalbox")
        if service is None:
            return
        how = signal.SIGKILL if kill else signal.SIGTERM
        processes.end([service], how=how, patience=STOP_SECONDS)

    def call(self, method: str, path: str, query: dict[str, Any] | None = None, body: Any = None) -> Any:
        """One REST request over its unix socket. Raises the MetalboxError that the answer names."""
        return client.call(str(self.socket), method, path, query, body)

    def _answers(self) -> bool:
        try:
            self.call("GET", "/api/v1/status")
        except MetalboxError:
            return False
        return True


class Reference:
    """The stand-in: dnsmasq for DHCP, TFTP and router advertisements, nginx (else Python's web server) for the rest."""

    def __init__(self, record: Record, boot: Path, agent: Path) -> None:
        self.record = record
        self.directory = record.directory
        self.boot = boot
        self.agent = agent

    @property
    def log(self) -> Path:
        """Where dnsmasq logs."""
        return self.directory / "logs" / "reference.log"

    def start(self) -> None:
        """Lay out its files and start both programs."""
        home = self.directory / "reference"
        for folder in (home, self.directory / "data", self.log.parent):
            folder.mkdir(exist_ok=True)
        for name in ("undionly.kpxe", "snponly.efi"):
            source = next(folder / name for folder in (self.boot, IPXE) if (folder / name).is_file())
            shutil.copy(source, home / name)
        if not (home / "agent").is_symlink():
            (home / "agent").symlink_to(self.agent.resolve())
        (home / "boot.ipxe").write_text(REFERENCE_SCRIPT)
        (home / "dnsmasq.conf").write_text(reference_config(self.directory))
        lab = namespace(self.directory)
        programs = {
            "reference dhcp": ["dnsmasq", "-k", "-C", str(home / "dnsmasq.conf"), "--log-facility=-"],
            "reference http": self._web_server(home),
        }
        for what, argv in programs.items():
            self.record.add(processes.spawn(inside(lab, argv), what=what, log=self.log))

    def stop(self, *, kill: bool = False) -> None:
        """End both programs."""
        how = signal.SIGKILL if kill else signal.SIGTERM
        found = (self.record.find(what) for what in ("reference dhcp", "reference http"))
        processes.end([process for process in found if process], how=how)

    def _web_server(self, home: Path) -> list[str]:
        if shutil.which("nginx") is None:
            return [sys.executable, "-m", "http.server", "8080", "--bind", str(SERVER), "--directory", str(home)]
        conf = home / "nginx.conf"
        conf.write_text(
            f"daemon off;\nmaster_process off;\npid {home}/nginx.pid;\nerror_log {self.log.parent}/nginx.log;\n"
            "events {}\n"
            f"http {{\n  access_log {self.log.parent}/nginx-access.log;\n  sendfile on;\n"
            + "".join(
                f"  {kind}_temp_path {home}/{kind};\n" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
            )
            + f"  server {{ listen {SERVER}:8080; root {home}; }}\n}}\n"
        )
        return ["nginx", "-c", str(conf), "-p", str(home)]
