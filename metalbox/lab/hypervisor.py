"""A libvirt of the rack's own: virtlogd and libvirtd in a private mount namespace inside the lab's network namespace.

Their folders in /etc, /run, /var/lib and /var/cache are bind mounts seen by them alone, so the computer's own libvirt,
if it has one, is neither used nor changed, several racks can run at once, and the mounts end with the last process.
All of /run is hidden: without systemd's sockets libvirt does not register machines with the host's systemd-machined.
"""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path
from urllib.parse import quote

from metalbox.errors import StartError
from metalbox.lab import processes
from metalbox.lab.domains import QEMU, domain_xml
from metalbox.lab.machines import MIB, MachineSpec, console_path, disk_path
from metalbox.lab.network import BRIDGES, inside, run
from metalbox.lab.processes import Process
from metalbox.lab.record import Record, namespace

# What QEMU can do is asked of every qemu-system-* in the PATH at the first connection: 42 s with 27 of them, 3 s with
# one. The answers are kept here for later racks.
CACHE = Path("/var/cache/metalbox/lab")
# Sockets are there within a second; a computer that stands still for a while must not fail a rack.
START_SECONDS = 90.0
# The first connection under a loaded computer, with nothing in the cache.
PROBE_SECONDS = 120.0

QEMU_CONF = """security_driver = "none"
user = "root"
group = "root"
dynamic_ownership = 0
remember_owner = 0
cgroup_controllers = [ ]
namespaces = [ ]
stdio_handler = "logd"
"""
LIBVIRTD_CONF = """unix_sock_group = "root"
unix_sock_rw_perms = "0700"
auth_unix_ro = "none"
auth_unix_rw = "none"
log_outputs = "2:stderr"
"""
# Consoles are kept whole: by default virtlogd starts a new file after 2 MiB.
VIRTLOGD_CONF = "max_size = 268435456\nmax_backups = 1\n"

MOUNTS = """set -e
mount -t tmpfs -o mode=755 tmpfs /run
mkdir /run/libvirt /run/lock
mount --bind "$1/etc" /etc/libvirt
mount --bind "$1/run" /run/libvirt
mount --bind "$1/lib" /var/lib/libvirt
mount --bind "$1/cache" /var/cache/libvirt
shift
exec "$@"
"""


class Hypervisor:
    """Starts the private libvirt of the rack in `record.directory`, and machines in it."""

    def __init__(self, record: Record) -> None:
        self.record = record
        self.directory = record.directory
        self.home = record.directory / "libvirt"

    def start(self) -> None:
        """Start virtlogd, then libvirtd beside it. Raises StartError when one does not come up."""
        self._prepare()
        lab = namespace(self.directory)
        log = self.directory / "logs" / "libvirt.log"
        mounts = ["unshare", "--mount", "--propagation", "private", "sh", "-c", MOUNTS, "sh", str(self.home)]
        virtlogd = processes.spawn(
            inside(lab, [*mounts, "virtlogd", "-p", "/run/libvirt/virtlogd.pid"]), what="virtlogd", log=log
        )
        self.record.add(virtlogd)
        self._wait_socket(virtlogd, "virtlogd-sock", log)
        # The only emulator in this PATH is the one the rack uses; /usr/sbin has what libvirt itself calls.
        path = f"{self.home}/bin:/usr/sbin:/sbin"
        libvirtd = processes.spawn(
            self._enter(virtlogd, ["env", f"PATH={path}", "libvirtd", "-p", "/run/libvirt/libvirtd.pid"]),
            what="libvirtd",
            log=log,
        )
        self.record.add(libvirtd)
        self._wait_socket(libvirtd, "libvirt-sock", log)

    @property
    def uri(self) -> str:
        """How programs outside of its mount namespace reach this libvirt."""
        return f"qemu+unix:///system?socket={quote(str(self.home / 'run' / 'libvirt-sock'))}"

    def define(self, spec: MachineSpec, *, ipmi: str = "") -> None:
        """Tell libvirt of a machine (`ipmi` as in `domain_xml`), and make those of its disks that are not there yet.

        It stays off.
        """
        for disk in spec.disks:
            for number, size in enumerate((disk.size, *disk.more), 1):
                path = disk_path(self.directory, spec, disk, number)
                if not path.exists():
                    make_disk(path, size, disk.fill)
        console_path(self.directory, spec).touch()
        xml = self.directory / "libvirt" / f"{spec.name}.xml"
        xml.write_text(domain_xml(spec, self.directory, BRIDGES, ipmi=ipmi))
        self._virsh("define", str(xml), timeout=PROBE_SECONDS)
        self._keep_cache()

    def redefine(self, spec: MachineSpec, *, ipmi: str = "") -> None:
        """As `define`, of a machine that is known and off."""
        # Without a UUID in its XML libvirt takes it for another machine with the same name.
        self._virsh("undefine", "--keep-nvram", spec.name)
        self.define(spec, ipmi=ipmi)

    def make_pool(self, name: str, folder: Path) -> None:
        """Let libvirt know the images in a folder as one of its storage pools."""
        self._virsh("pool-define-as", name, "dir", "--target", str(folder))
        self._virsh("pool-start", name)

    def power_on(self, spec: MachineSpec) -> None:
        """Switch a machine on."""
        self._virsh("start", spec.name)
        pid = int((self.home / "run" / "qemu" / f"{spec.name}.pid").read_text())
        self.record.add(Process(pid, processes.start_of(pid), f"machine {spec.name}"))

    def power_off(self, spec: MachineSpec) -> None:
        """Pull a machine's plug; fine when it is off."""
        if self.power(spec) == "on":
            self._virsh("destroy", spec.name)

    def reset(self, spec: MachineSpec) -> None:
        """Press a machine's reset button."""
        self._virsh("reset", spec.name)

    def power(self, spec: MachineSpec) -> str:
        """Whether a machine is "on" or "off"; "gone" when its libvirt does not run."""
        if self.record.find("libvirtd") is None:
            return "gone"
        return "off" if self._virsh("domstate", spec.name).strip() == "shut off" else "on"

    def _prepare(self) -> None:
        for name in ("etc", "run", "lib", "bin"):
            (self.home / name).mkdir(parents=True, exist_ok=True)
        for name in ("disks", "consoles", "logs"):
            (self.directory / name).mkdir(exist_ok=True)
        (self.home / "etc" / "qemu.conf").write_text(QEMU_CONF)
        (self.home / "etc" / "libvirtd.conf").write_text(LIBVIRTD_CONF)
        (self.home / "etc" / "virtlogd.conf").write_text(VIRTLOGD_CONF)
        emulator = self.home / "bin" / QEMU.name
        if not emulator.is_symlink():
            emulator.symlink_to(QEMU)
        cache = self.home / "cache" / "qemu" / "capabilities"
        if CACHE.is_dir():
            # Without what another rack is just copying there.
            shutil.copytree(CACHE, cache, dirs_exist_ok=True, ignore=shutil.ignore_patterns(".*"))
        cache.mkdir(parents=True, exist_ok=True)

    def _keep_cache(self) -> None:
        """Save libvirt's answers for the next rack; libvirt itself throws them away when QEMU or it are replaced."""
        for answer in (self.home / "cache" / "qemu" / "capabilities").glob("*.xml"):
            kept = CACHE / answer.name
            if not kept.exists() or kept.read_bytes() != answer.read_bytes():
                CACHE.mkdir(parents=True, exist_ok=True)
                # Two racks may do this at once.
                new = CACHE / f".{answer.name}.{os.getpid()}"
                shutil.copy(answer, new)
                new.replace(kept)

    def _enter(self, process: Process, argv: list[str]) -> list[str]:
        return ["nsenter", f"--target={process.pid}", "--mount", "--net", "--", *argv]

    def _virsh(self, *command: str, timeout: float = 60) -> str:
        libvirtd = self.record.find("libvirtd")
        if libvirtd is None:
            raise StartError(f"the lab in {self.directory} does not run: start it with `metalbox lab up`")
        argv = self._enter(libvirtd, ["virsh", "-q", "-c", "qemu:///system", *command])
        return run(argv, timeout=timeout).stdout

    def _wait_socket(self, process: Process, name: str, log: Path) -> None:
        deadline = time.monotonic() + START_SECONDS
        while not (self.home / "run" / name).exists():
            processes.reap([process])
            if not process.is_alive or time.monotonic() > deadline:
                raise StartError(f"{process.what} did not start; the end of {log}: {tail(log)}")
            time.sleep(0.02)


def make_disk(path: Path, size: int, fill: str = "") -> None:
    """Make the file of a disk: sparse, or filled as `machines.Disk` says."""
    with path.open("wb") as file:
        if fill == "random":
            for offset in range(0, size, MIB):
                file.write(os.urandom(min(MIB, size - offset)))
        elif fill:
            with Path(fill).open("rb") as source:
                shutil.copyfileobj(source, file)
        file.truncate(size)


def tail(path: Path, lines: int = 5) -> str:
    """The last lines of a file, "" when there is none."""
    try:
        return "\n".join(path.read_text(errors="replace").splitlines()[-lines:])
    except OSError:
        return ""
