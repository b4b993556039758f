"""One rack: everything of it built, asked, broken and removed through one object.

    rack = Rack(Path("var/lab"), mode=Mode.PROXY, machines=mixed(2))
    rack.up()                                   # wire, servers, libvirt; machines stay off
    rack.power_on("lab0001")
    machine = rack.wait_for_machine("lab0001", timeout=120)
    rack.down()

`Rack.open(directory)` gives the same object for a rack that another process built.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, TypeVar

from metalbox.config import Mode
from metalbox.errors import MetalboxError, NotFound, Refused, StartError, TimedOut
from metalbox.lab import bmcs, bootable, machines, network, processes, record, requirements, site_dhcp
from metalbox.lab.bmcs import Bmc, Bmcs
from metalbox.lab.hypervisor import Hypervisor, tail
from metalbox.lab.machines import Disk, MachineSpec, Segment
from metalbox.lab.network import Fault
from metalbox.lab.record import Record, namespace
from metalbox.lab.services import Metalbox, Reference, check_files, configuration, default_folder, memory_for
from metalbox.lab.site_dhcp import Relay, Site

T = TypeVar("T")
Service = Literal["metalbox", "reference", "none"]
POLL_SECONDS = 0.1
# How long what we start may need until it listens, and tcpdump until it has written what it caught.
START_SECONDS, WRITE_SECONDS = 90.0, 60.0
# Terminal control that firmware writes to its serial console: CSI and charset sequences, NUL, carriage return.
CONTROL = re.compile(r"\x1b\[[0-9;?=]*[A-Za-z]|\x1b[()][0-9A-B]|\x1bc|\x00|\r")
# In these folders the private libvirt would not see the rack's files: others are mounted over them.
HIDDEN = ("/run", "/var/run", "/var/lib/libvirt", "/var/cache/libvirt", "/etc/libvirt")


class Rack:
    """A rack in `directory`; nothing exists before `up`."""

    def __init__(
        self,
        directory: Path,
        *,
        mode: Mode | str = Mode.PROXY,
        machines: Sequence[MachineSpec] = (),
        service: Service = "metalbox",
        boot_files: Path | None = None,
        agent: Path | None = None,
        settings: Mapping[str, Any] | None = None,
        relay: Relay | str | None = None,
        site: Site | None = None,
        owned: bool = False,
    ) -> None:
        """`settings` goes over the service's configuration; `site` is the site's DHCP server (default: only in proxy
        mode); `owned` marks the rack as useless once this process has ended, so that `sweep` may remove it.
        """
        self.directory = directory.resolve()
        self.mode = Mode(mode)
        self.service_kind: Service = service
        self.boot_files = (boot_files or default_folder("boot")).resolve()
        self.agent = (agent or default_folder("agent")).resolve()
        self.machines = _complete(machines, relay, memory_for(self.agent))
        self.settings = dict(settings or {})
        self.relay = Relay(relay) if relay else None
        self.site = site or (Site() if self.mode is Mode.PROXY and service == "metalbox" else None)
        self.owned = owned
        self.powered_on_at: dict[str, float] = {}
        self._console_start: dict[str, int] = {}
        self.faults: tuple[Fault, ...] = ()
        self._use(Record(self.directory))

    def _use(self, known: Record) -> None:
        self.record = known
        self.hypervisor = Hypervisor(known)
        self.bmcs = Bmcs(known, self.hypervisor)
        self.service: Metalbox | Reference | None = None
        if self.service_kind == "metalbox":
            document = configuration(
                self.directory,
                self.mode,
                self.boot_files,
                self.agent,
                relayed=self.relay is not None,
                settings=self.settings,
            )
            self.service = Metalbox(known, document)
        elif self.service_kind == "reference":
            self.service = Reference(known, self.boot_files, self.agent)

    @classmethod
    def open(cls, directory: Path) -> Rack:
        """The rack that stands in `directory`. Raises NotFound."""
        known = Record.load(directory.resolve())
        if known is None or known.boot_id != processes.boot_id():
            raise NotFound(f"there is no lab in {directory}: build one with `metalbox lab up --dir {directory}`")
        row = known.settings
        rack = cls(
            directory,
            mode=row["mode"],
            machines=[machines.from_json(spec) for spec in row["machines"]],
            service=row["service"],
            boot_files=Path(row["boot_files"]),
            agent=Path(row["agent"]),
            settings=row["settings"],
            relay=row["relay"],
            site=Site(*row["site"]) if row["site"] else None,
        )
        rack._use(known)
        return rack

    # -- building and removing ----------------------------------------------------------------------------------

    def up(self, say: Callable[[str], None] = lambda _: None) -> None:
        """Build everything and leave the machines off. What an earlier rack left in the folder is removed first.

        Raises Refused when a rack runs there, StartError when something is missing or does not start; then nothing
        is left.
        """
        self._check()
        self.machines, sentences = bmcs.possible(self.machines)
        for sentence in sentences:
            say(f"BMCs        {sentence}")
        self.directory.mkdir(parents=True, exist_ok=True)
        with record.locked(self.directory):
            if (known := Record.load(self.directory)) and known.is_running:
                raise Refused(f"a lab already runs in {self.directory}: `metalbox lab down` removes it")
            if record.exists(self.directory):
                say(f"removing what an earlier lab left in {self.directory}")
            record.remove(self.directory, keep_folder=True)
            try:
                self._build(say)
            except BaseException:
                record.remove(self.directory, keep_files=True)
                raise

    def down(self) -> None:
        """Remove everything, running or crashed, and the rack's files."""
        if not self.directory.is_dir():
            return
        with record.locked(self.directory):
            record.remove(self.directory)

    def _check(self) -> None:
        needs = [requirements.ALWAYS]
        if self.machines:
            needs.append(requirements.MACHINES)
        if self.site or self.service_kind == "reference":
            needs.append(requirements.DNSMASQ)
        if self.relay:
            needs.append(requirements.RELAY if self.relay is Relay.ISC else requirements.DNSMASQ)
        requirements.check(*needs)
        if any(self.directory.is_relative_to(folder) for folder in HIDDEN):
            raise StartError(f"a lab cannot stand in {self.directory}: choose a folder outside of {', '.join(HIDDEN)}")
        if self.service_kind != "none":
            check_files(self.boot_files, self.agent)

    def _build(self, say: Callable[[str], None]) -> None:
        self.record.processes = []
        self.record.owner = (
            processes.Process(os.getpid(), processes.start_of(os.getpid()), "up") if self.owned else None
        )
        self.record.settings = self._settings()
        self.record.save()
        for name in ("data", "logs", "consoles", "disks"):
            (self.directory / name).mkdir(exist_ok=True)
        lab = namespace(self.directory)
        say(f"wire        namespace {lab}, bridge br0 {network.SERVER}/{network.LAB_SUBNET.prefixlen}")
        network.create(lab)
        network.build_bridge(lab)
        if self.site:
            say(f"site DHCP   dnsmasq at {network.SITE}, gives addresses, says nothing about booting")
            self._start_site(self.site)
        if self.relay:
            say(f"relay       {self.relay} at {network.RELAY}, before {network.RELAYED_SUBNET}")
            self._start_relay(self.relay)
        if self.service:
            say(f"service     {self.service_kind} at {network.SERVER}, {self.mode} mode")
            self.service.start()
        if self.machines:
            say("libvirt     private libvirtd; the first start asks QEMU what it can do, some seconds")
            self.hypervisor.start()
            self._define(say)
        self.record.is_complete = True
        self.record.save()

    def _define(self, say: Callable[[str], None]) -> None:
        table = self.bmcs.prepare(self.machines)
        for spec in self.machines:
            self.hypervisor.define(spec, ipmi=table[spec.name].ipmi if spec.name in table else "")
        if table:
            kinds = [bmc.kind for bmc in table.values()]
            counts = ", ".join(f"{kinds.count(kind)} {kind}" for kind in dict.fromkeys(kinds))
            say(f"BMCs        {counts}, at {network.FIRST_BMC} and up; `metalbox lab status` has their accounts")
            self.bmcs.start(self.machines)

    def _settings(self) -> dict[str, Any]:
        return {
            "mode": self.mode,
            "service": self.service_kind,
            "boot_files": str(self.boot_files),
            "agent": str(self.agent),
            "settings": self.settings,
            "relay": self.relay,
            "site": [self.site.boot_file, self.site.next_server] if self.site else None,
            "machines": [machines.to_json(spec) for spec in self.machines],
        }

    def _start_site(self, site: Site) -> None:
        other = namespace(self.directory, "site")
        network.attach(namespace(self.directory), other, 1, network.SITE)
        if self.relay:
            network.add_route_to_relayed(other)
        text = site_dhcp.site_config(self.directory, site, relayed=self.relay is not None)
        self._start_dnsmasq("site", text)

    def _start_relay(self, kind: Relay) -> None:
        other = namespace(self.directory, "relay")
        network.build_relayed(namespace(self.directory), other)
        servers = [network.SERVER] + ([network.SITE] if self.site else [])
        argv = site_dhcp.relay_command(self.directory, kind, servers)
        log = self.directory / "logs" / "relay.log"
        self.record.add(processes.spawn(network.inside(other, argv), what="relay", log=log))

    def _start_dnsmasq(self, role: str, text: str) -> None:
        config = self.directory / "data" / f"{role}.conf"
        config.write_text(text)
        argv = ["dnsmasq", "-k", "-C", str(config), "--log-facility=-"]
        log = self.directory / "logs" / f"{role}.log"
        process = processes.spawn(network.inside(namespace(self.directory, role), argv), what=role, log=log)
        self.record.add(process)
        deadline = time.monotonic() + START_SECONDS
        while "started" not in tail(log, 1000):
            processes.reap([process])
            if not process.is_alive or time.monotonic() > deadline:
                raise StartError(f"dnsmasq ({role}) did not start: {tail(log)}")
            time.sleep(0.02)

    # -- machines ------------------------------------------------------------------------------------------------

    def spec(self, name: str) -> MachineSpec:
        """The machine with this name, serial or MAC. Raises NotFound."""
        for spec in self.machines:
            if name in (spec.name, spec.serial, *(nic.mac for nic in spec.nics)):
                return spec
        raise NotFound(f"there is no machine {name!r} in the rack: it has {', '.join(s.name for s in self.machines)}")

    def power_on(self, name: str) -> None:
        """Switch a machine on and tell the service, for its timeline."""
        spec = self.spec(name)
        self.watch(name)
        self.hypervisor.power_on(spec)
        self._note(spec, "switched on by the lab")

    def power_off(self, name: str) -> None:
        """Pull the plug; fine when it is off."""
        self.hypervisor.power_off(self.spec(name))

    def reset(self, name: str) -> None:
        """Press the reset button and tell the service."""
        spec = self.spec(name)
        self.watch(name)
        self.hypervisor.reset(spec)
        self._note(spec, "reset by the lab")

    def power(self, name: str) -> str:
        """Whether a machine is "on", "off" or "gone" (its libvirt does not run)."""
        return self.hypervisor.power(self.spec(name))

    def bmc(self, name: str) -> Bmc:
        """The machine's management processor: kind, address, port, user, password. Raises NotFound."""
        return self.bmcs.find(self.spec(name).name)

    def make_bootable(self, name: str) -> None:
        """Let the machine's first disk write `bootable.LINE` to the console when it is started, by BIOS or UEFI."""
        spec = self.spec(name)
        with machines.disk_path(self.directory, spec, spec.disks[0]).open("r+b") as disk:
            disk.write(bootable.image())

    def disk_paths(self, name: str, serial: str) -> list[Path]:
        """The files with a disk's content, one for each namespace. Raises NotFound."""
        spec = self.spec(name)
        disk = spec.disks[_place(spec, serial)]
        return [machines.disk_path(self.directory, spec, disk, 1 + place) for place in range(1 + len(disk.more))]

    def change_disk(self, name: str, serial: str, disk: Disk) -> None:
        """Put `disk` into the place of another in a machine that is off; one of the same serial keeps its content.

        The content of what was taken out stays in its file. Raises NotFound, Refused.
        """
        spec = self.spec(name)
        if self.power(spec.name) != "off":
            raise Refused(f"{spec.name} is on: switch it off before its disks are changed")
        place = _place(spec, serial)
        changed = replace(spec, disks=(*spec.disks[:place], disk, *spec.disks[place + 1 :]))
        self.machines = tuple(changed if known is spec else known for known in self.machines)
        self.record.settings = self._settings()
        self.record.save()
        bmc = self.bmcs.load().get(spec.name)
        self.hypervisor.redefine(changed, ipmi=bmc.ipmi if bmc else "")
        if bmc and bmc.ipmi:
            self.bmcs.describe(changed, bmc)

    def watch(self, name: str) -> None:
        """Begin a boot now for `console` and the waits: someone else (its BMC) is about to switch the machine on."""
        spec = self.spec(name)
        self._console_start[spec.name] = _size(machines.console_path(self.directory, spec))
        self.powered_on_at[spec.name] = time.time()

    def console(self, name: str, *, whole: bool = False) -> str:
        """What the machine wrote to its serial console since power-on (`whole`: ever), without control codes."""
        spec = self.spec(name)
        try:
            data = machines.console_path(self.directory, spec).read_bytes()
        except OSError:
            return ""
        start = 0 if whole else self._console_start.get(spec.name, 0)
        return CONTROL.sub("", data[start:].decode("utf-8", "replace"))

    def wait_console(self, name: str, pattern: str, timeout: float) -> float:
        """Seconds from power-on until the console shows `pattern` (a regular expression). Raises TimedOut."""
        spec = self.spec(name)
        wanted = re.compile(pattern)
        since = self.powered_on_at.get(spec.name, time.time())

        def look() -> float | None:
            return time.time() - since if wanted.search(self.console(name)) else None

        return self._until(look, timeout, f"{spec.name} to write {pattern!r} to its console", period=0.02)

    def wait_for_machine(self, name: str, timeout: float) -> dict[str, Any]:
        """What the inventory knows of a machine of the rack (named as for `spec`), once it does. Raises TimedOut."""
        spec = self.spec(name)
        return self._until(lambda: self.find_machine(spec.name), timeout, f"{spec.name} to be discovered")

    def find_machine(self, name: str) -> dict[str, Any] | None:
        """All that the inventory knows of a machine, None when it does not stand there."""
        spec = self.spec(name)
        macs = {str(nic.mac) for nic in spec.nics}
        rows: list[dict[str, Any]] = self.call("GET", "/api/v1/machines")["machines"]
        for row in rows:
            if row["serial"] == spec.serial or macs & set(row["macs"]):
                machine: dict[str, Any] = self.call("GET", f"/api/v1/machines/{row['id']}")
                return machine
        return None

    def wait_until(self, look: Callable[[], T | None], timeout: float, what: str) -> T:
        """Call `look` until it gives something other than None or False. Raises TimedOut naming `what`."""
        return self._until(look, timeout, what)

    # -- the service ---------------------------------------------------------------------------------------------

    def call(self, method: str, path: str, query: dict[str, Any] | None = None, body: Any = None) -> Any:
        """One REST request to the service over its unix socket."""
        if not isinstance(self.service, Metalbox):
            raise Refused(f"this rack has no metalbox to ask (its service is {self.service_kind})")
        return self.service.call(method, path, query, body)

    def events(self, name: str = "", limit: int = 500) -> list[dict[str, Any]]:
        """The timeline of one machine (or of all), oldest first as the service gives it."""
        path = f"/api/v1/machines/{self.spec(name).mac}/events" if name else "/api/v1/events"
        rows: list[dict[str, Any]] = self.call("GET", path, {"limit": limit})["events"]
        return rows

    def why(self, name: str) -> dict[str, Any]:
        """The service's diagnosis of a machine, by its MAC, so that it need not be discovered."""
        answer: dict[str, Any] = self.call("GET", f"/api/v1/machines/{self.spec(name).mac}/why")
        return answer

    def start_service(self) -> None:
        """Start it again after `stop_service` or `kill_service`."""
        if self.service:
            self.service.start()

    def stop_service(self) -> None:
        """End it by SIGTERM."""
        if self.service:
            self.service.stop()

    def kill_service(self) -> None:
        """End it as a crash would, by SIGKILL."""
        if self.service:
            self.service.stop(kill=True)

    def service_log(self) -> str:
        """All that the service wrote."""
        return self.service.log.read_text(errors="replace") if self.service and self.service.log.exists() else ""

    # -- what goes wrong -----------------------------------------------------------------------------------------

    def block(self, *faults: Fault | str) -> None:
        """Drop this traffic to metalbox from now on, beside what is blocked already."""
        requirements.check(requirements.FAULTS)
        self.faults = tuple(dict.fromkeys((*self.faults, *map(Fault, faults))))
        network.block(namespace(self.directory), self.faults)

    def unblock(self) -> None:
        """Let everything through again."""
        self.faults = ()
        network.block(namespace(self.directory), ())

    def start_rival(self, boot_file: str = "rival.0") -> None:
        """Put a second ProxyDHCP server (192.0.2.3) on the wire that names `boot_file`, which nobody serves."""
        requirements.check(requirements.DNSMASQ)
        network.attach(namespace(self.directory), namespace(self.directory, "rival"), 5, network.RIVAL)
        self._start_dnsmasq("rival", site_dhcp.rival_config(self.directory, boot_file))

    def stop_rival(self) -> None:
        """Take it away."""
        if process := self.record.find("rival"):
            processes.end([process])
        network.delete(namespace(self.directory, "rival"))

    # -- looking on ----------------------------------------------------------------------------------------------

    def exec(self, role: str, argv: Sequence[str], *, timeout: float = 60) -> subprocess.CompletedProcess[str]:
        """Run a command to its end in the namespace "lab", "site", "relay" or "rival"; a failure is not raised."""
        command = network.inside(namespace(self.directory, role), argv)
        return network.run(command, check=False, timeout=timeout)

    @contextmanager
    def capture(self, name: str = "wire", interface: str = "br0") -> Iterator[Path]:
        """Record the local segment's packets while the block runs; yields the pcap file."""
        folder = self.directory / "pcaps"
        folder.mkdir(exist_ok=True)
        path, log = folder / f"{name}.pcap", self.directory / "logs" / f"{name}.tcpdump.log"
        argv = ["tcpdump", "-n", "-U", "-Z", "root", "-s", "0", "-i", interface, "-w", str(path)]
        tcpdump = processes.spawn(network.inside(namespace(self.directory), argv), what=f"capture {name}", log=log)
        self.record.add(tcpdump)
        try:
            self._until(lambda: "listening on" in tail(log) or None, START_SECONDS, "tcpdump to listen")
            yield path
        finally:
            processes.end([tcpdump], how=signal.SIGINT, patience=WRITE_SECONDS)

    def _note(self, spec: MachineSpec, text: str) -> None:
        if not isinstance(self.service, Metalbox):
            return
        body = {"mac": spec.mac, "kind": "power", "text": text, "data": {"state": "on", "by": "lab"}}
        try:
            self.call("POST", "/api/v1/notes", body=body)
        except MetalboxError as error:
            # A story may switch a machine on while the service is dead: that is then the point of it.
            print(f"the service was not told that {spec.name} is on: {error}", file=sys.stderr)

    def _until(self, look: Callable[[], T | None], timeout: float, what: str, period: float = POLL_SECONDS) -> T:
        deadline = time.monotonic() + timeout
        while True:
            found = look()
            if found is not None and found is not False:
                return found
            if time.monotonic() > deadline:
                raise TimedOut(f"waited {timeout:.0f} s for {what}")
            time.sleep(period)


def sweep(folder: Path) -> None:
    """Remove the owned racks in folders below `folder` whose owner no longer lives: those of killed test runs."""
    for path in folder.glob("*/rack.json"):
        known = Record.load(path.parent)
        if known and known.owner and not (known.boot_id == processes.boot_id() and known.owner.is_alive):
            # Another run may be sweeping the same rack.
            with suppress(Refused, FileNotFoundError), record.locked(path.parent):
                record.remove(path.parent)


def _complete(specs: Sequence[MachineSpec], relay: Relay | str | None, memory_mib: int) -> tuple[MachineSpec, ...]:
    done = machines.complete(specs, memory_mib)
    for spec in done:
        if not relay and any(nic.segment is Segment.RELAYED for nic in spec.nics):
            raise Refused(f"{spec.name} stands in the relayed segment, and the rack has no relay: give Rack a relay")
    return done


def _place(spec: MachineSpec, serial: str) -> int:
    for place, disk in enumerate(spec.disks):
        if disk.serial == serial:
            return place
    raise NotFound(f"{spec.name} has no disk {serial!r}: it has {', '.join(disk.serial for disk in spec.disks)}")


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
