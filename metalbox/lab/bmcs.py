"""The machines' management processors: sushy-tools' Redfish emulator and OpenIPMI's ipmi_sim before the rack's libvirt.

Each BMC has a port of its own on the wire (192.0.2.11 for the first machine, and so on), a MAC, and a factory account
with a random password. One process serves all Redfish BMCs, at http and https; each IPMI BMC is a process of its own at
UDP port 623 that also has the machine's KCS and serial port. Users and settings outlive the machine's power cycles.
With both kinds a boot device holds until it is changed, also when it was set for one boot.
"""

from __future__ import annotations

import functools
import json
import os
import secrets
import shlex
import socket
import string
import struct
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

from metalbox.errors import NotFound, StartError
from metalbox.lab import ipmi_contents, network, processes, requirements
from metalbox.lab.domains import KCS_PORT, OVMF, SERIAL_PORT, First, domain_xml
from metalbox.lab.hypervisor import Hypervisor, tail
from metalbox.lab.machines import BmcKind, MachineSpec
from metalbox.lab.processes import Process
from metalbox.lab.record import Record, namespace
from metalbox.lab.services import ROOT, default_folder
from metalbox.machine import Mac

IPMI_PROGRAM = Path(__file__).with_name("ipmi_sim.sh")
REDFISH_PROGRAM = Path(__file__).with_name("redfish_server.py")
IPMI_PORT = 623
PORTS = {BmcKind.REDFISH: 443, BmcKind.IPMI: IPMI_PORT, BmcKind.BOTH: 443}
REDFISH = "bmc redfish"
# The BMC's own end of the machine's serial line.
SOL_PORT = 9003
USER = "factory"
# IPMI 1.5 and many BMCs take 16 bytes at most.
PASSWORD_LENGTH = 16
START_SECONDS = 90.0
ALPHABET = string.ascii_letters + string.digits


@dataclass(frozen=True, slots=True)
class Bmc:
    """One management processor. `uuid` is the machine's, by which Redfish names it; one of both kinds has two ports."""

    kind: BmcKind
    address: str
    port: int
    user: str
    password: str = field(repr=False)
    mac: str
    uuid: str

    @property
    def ipmi(self) -> str:
        """As for `domain_xml`."""
        return self.address if self.kind.has_ipmi else ""


def python() -> Path:
    """The Python that has sushy-tools and libvirt's binding; `tools/setup` makes it."""
    return default_folder("bmc-venv") / "bin" / "python"


def missing(kind: BmcKind) -> str:
    """What a BMC of this kind lacks on this computer, as a clause; "" when nothing."""
    if kind.has_ipmi and (packages := requirements.missing(requirements.IPMI)):
        return f"no IPMI BMCs: run `apt-get install --no-install-recommends {' '.join(packages)}`"
    if kind.has_redfish:
        if packages := requirements.missing(requirements.REDFISH):
            return f"no Redfish BMCs: run `apt-get install --no-install-recommends {' '.join(packages)}`"
        if not python().exists():
            return f"no Redfish BMCs: there is no {python()}, which tools/setup makes"
    return ""


def possible(specs: Sequence[MachineSpec]) -> tuple[tuple[MachineSpec, ...], list[str]]:
    """The machines without those BMCs that cannot be had here, and a sentence for each kind that cannot."""
    lost = {kind: sentence for kind in {spec.bmc for spec in specs} if (sentence := missing(kind))}
    kept = tuple(replace(spec, bmc=BmcKind.NONE) if spec.bmc in lost else spec for spec in specs)
    return kept, sorted(lost.values())


def assign(specs: Sequence[MachineSpec]) -> dict[str, Bmc]:
    """Give every machine that has a BMC its address and a new password, by the machine's name."""
    found = {}
    for place, spec in enumerate(specs):
        if spec.bmc is BmcKind.NONE:
            continue
        found[spec.name] = Bmc(
            kind=spec.bmc,
            address=str(IPv4Address(int(network.FIRST_BMC) + place)),
            port=PORTS[spec.bmc],
            user=USER,
            password="".join(secrets.choice(ALPHABET) for _ in range(PASSWORD_LENGTH)),
            mac=str(Mac.from_bytes(bytes((0x02, 0x00, 0x00, 0xBC, place >> 8, place & 0xFF)))),
            uuid=spec.uuid,
        )
    return found


class Bmcs:
    """The BMCs of the rack in `record.directory`."""

    def __init__(self, record: Record, hypervisor: Hypervisor) -> None:
        self.record = record
        self.directory = record.directory
        self.hypervisor = hypervisor
        self.home = record.directory / "bmc"

    def prepare(self, specs: Sequence[MachineSpec]) -> dict[str, Bmc]:
        """Write down who has which BMC, and plug them in. Before machines are defined."""
        table = assign(specs)
        if table:
            self.home.mkdir(exist_ok=True)
            self.home.chmod(0o700)
            (self.home / "bmcs.json").write_text(
                json.dumps({name: asdict(bmc) for name, bmc in table.items()}, indent=1)
            )
            ports = [(IPv4Address(bmc.address), Mac(bmc.mac)) for bmc in table.values()]
            network.attach_bmcs(namespace(self.directory), namespace(self.directory, "bmc"), ports)
        return table

    def load(self) -> dict[str, Bmc]:
        """Who has which BMC, by the machine's name; nothing when the rack has none."""
        try:
            rows = json.loads((self.home / "bmcs.json").read_text())
        except OSError:
            return {}
        return {name: Bmc(**{**row, "kind": BmcKind(row["kind"])}) for name, row in rows.items()}

    def find(self, name: str) -> Bmc:
        """The BMC of a machine. Raises NotFound."""
        bmc = self.load().get(name)
        if bmc is None:
            raise NotFound(f"{name} has no BMC")
        return bmc

    def start(self, specs: Iterable[MachineSpec]) -> None:
        """Start all. Raises StartError with the end of the log of one that does not come up."""
        table = self.load()
        if lines := [bmc.address for bmc in table.values() if bmc.ipmi]:
            self._start_hub(lines)
        started = [(table[spec.name], self._start_ipmi(spec, table[spec.name])) for spec in specs if spec.bmc.has_ipmi]
        for bmc, process in started:
            self._wait(process, functools.partial(_listens, process, bmc.address))
        redfish = {bmc.address: asdict(bmc) for bmc in table.values() if bmc.kind.has_redfish}
        if redfish:
            self._start_redfish(redfish)

    def _start_hub(self, addresses: Iterable[str]) -> None:
        words = [word for address in addresses for word in (address, str(SOL_PORT), str(SERIAL_PORT))]
        path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH", ""))))
        argv = ["env", f"PYTHONPATH={path}", sys.executable, "-m", "metalbox.lab.serial_hub", *words]
        # ipmi_sim tries to reach it once, at its own start.
        self._wait_serving(self._spawn("bmc serial lines", argv))

    def _start_ipmi(self, spec: MachineSpec, bmc: Bmc) -> Process:
        folder = self.home / spec.name
        (folder / "state").mkdir(parents=True)
        self.describe(spec, bmc)
        (folder / "lan").write_text(lan_parameters(bmc))
        (folder / "sim.conf").write_text(ipmi_config(spec, bmc, folder, self.hypervisor.uri))
        (folder / "sim.emu").write_text(ipmi_contents.commands(spec))
        files = ["-c", str(folder / "sim.conf"), "-f", str(folder / "sim.emu"), "-s", str(folder / "state")]
        return self._spawn(f"bmc {spec.name}", ["ipmi_sim", *files, "-n"])

    def describe(self, spec: MachineSpec, bmc: Bmc) -> None:
        """Write down for an IPMI BMC what its machine is, with the network and with the disk first."""
        for first in First:
            text = domain_xml(spec, self.directory, network.BRIDGES, first=first, ipmi=bmc.ipmi)
            (self.home / spec.name / f"{first}.xml").write_text(text)

    def _start_redfish(self, bmcs: dict[str, dict[str, Any]]) -> None:
        # sushy-tools looks here for the machines' disks, and puts images for virtual media here.
        self.hypervisor.make_pool("default", self.directory / "disks")
        certificate, key = self.home / "certificate.pem", self.home / "key.pem"
        self_signed = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
        names = ["-subj", "/CN=bmc.lab.metalbox.invalid", "-addext", _alternative_names(bmcs)]
        network.run([*self_signed, "-days", "3650", "-out", str(certificate), "-keyout", str(key), *names])
        settings = {
            "bmcs": bmcs,
            "certificate": str(certificate),
            "key": str(key),
            "emulator": {
                "SUSHY_EMULATOR_LIBVIRT_URI": self.hypervisor.uri,
                "SUSHY_EMULATOR_STATE_DIR": str(self.home / "sushy"),
                "SUSHY_EMULATOR_BOOT_LOADER_MAP": {
                    "UEFI": {"x86_64": f"{OVMF}/OVMF_CODE_4M.fd"},
                    "Legacy": {"x86_64": None},
                },
                "SUSHY_EMULATOR_SECURE_BOOT_ENABLED_NVRAM": f"{OVMF}/OVMF_VARS_4M.ms.fd",
                "SUSHY_EMULATOR_SECURE_BOOT_DISABLED_NVRAM": f"{OVMF}/OVMF_VARS_4M.fd",
            },
        }
        (self.home / "redfish.json").write_text(json.dumps(settings, indent=1))
        self.start_redfish()

    def start_redfish(self) -> None:
        """Start the Redfish server, again after `stop_redfish`."""
        self._log(REDFISH).unlink(missing_ok=True)
        argv = [str(python()), str(REDFISH_PROGRAM), str(self.home / "redfish.json")]
        self._wait_serving(self._spawn(REDFISH, argv))

    def stop_redfish(self) -> None:
        """End the Redfish server: no BMC of the rack speaks Redfish any more; fine when it has ended."""
        if process := self.record.find(REDFISH):
            processes.end([process])

    def _log(self, what: str) -> Path:
        return self.directory / "logs" / f"{what.replace(' ', '-')}.log"

    def _spawn(self, what: str, argv: list[str]) -> Process:
        command = network.inside(namespace(self.directory, "bmc"), argv)
        started = processes.spawn(command, what=what, log=self._log(what))
        self.record.add(started)
        return started

    def _wait_serving(self, process: Process) -> None:
        """Wait until it has written that it serves."""
        self._wait(process, lambda: "serving" in tail(self._log(process.what), 1000))

    def _wait(self, process: Process, is_up: Callable[[], bool]) -> None:
        log = self._log(process.what)
        deadline = time.monotonic() + START_SECONDS
        while not is_up():
            processes.reap([process])
            if not process.is_alive or time.monotonic() > deadline:
                raise StartError(f"{process.what} did not start; the end of {log}:\n{tail(log)}")
            time.sleep(0.02)


def _listens(process: Process, address: str) -> bool:
    """Whether ipmi_sim has its port at this address, by the table of its namespace (proc_net(5))."""
    (number,) = struct.unpack("=I", socket.inet_aton(address))
    try:
        return f" {number:08X}:{IPMI_PORT:04X} " in Path(f"/proc/{process.pid}/net/udp").read_text()
    except OSError:
        return False


def _alternative_names(addresses: Iterable[str]) -> str:
    return "subjectAltName=" + ",".join(f"IP:{address}" for address in addresses)


def lan_parameters(bmc: Bmc) -> str:
    """The network settings that ipmi_sim tells to those who ask, also from inside the machine."""
    rows = {
        "ip_addr": bmc.address,
        "ip_addr_src": "static",
        "mac_addr": bmc.mac,
        "subnet_mask": network.LAB_SUBNET.netmask,
        "default_gw_ip_addr": network.SERVER,
        "default_gw_mac_addr": network.BRIDGE_MAC,
        "backup_gw_ip_addr": "0.0.0.0",
        "backup_gw_mac_addr": "00:00:00:00:00:00",
    }
    return "".join(f"{name}:{value}\n" for name, value in rows.items())


def ipmi_config(spec: MachineSpec, bmc: Bmc, folder: Path, uri: str) -> str:
    """ipmi_sim's settings (ipmi_lan(5)): LAN as channel 1, SOL, KCS, one account, and what drives the machine."""
    program = ["sh", str(IPMI_PROGRAM)]
    chassis = shlex.join([*program, "chassis", spec.name, uri, str(folder)])
    lan = shlex.join([*program, "lan", str(folder / "lan")])
    authentication = "none md2 md5 straight"
    return f"""name "{spec.name}"
set_working_mc 0x20
  startlan 1
    addr {bmc.address} {IPMI_PORT}
    priv_limit admin
    allowed_auths_callback {authentication}
    allowed_auths_user {authentication}
    allowed_auths_operator {authentication}
    allowed_auths_admin {authentication}
    guid {ipmi_contents.guid(bmc.uuid)}
    lan_config_program "{lan}"
  endlan
  sol "tcp:{bmc.address}:{SOL_PORT}" 115200 history=4000
  serial kcs {bmc.address} {KCS_PORT} codec VM
  chassis_control "{chassis}"
  user 1 false "" "" user 10 {authentication}
  user 2 true "{bmc.user}" "{bmc.password}" admin 10 {authentication}
"""
