"""Checks of this computer: service, interfaces, ports, boot files, agent, disk space, neighbours, clock."""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import struct
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from metalbox.config import Config
from metalbox.doctor.findings import Finding, Level
from metalbox.errors import MetalboxError

# Less than this and SQLite's write-ahead log or an image build may fill the disk.
FREE_BYTES_WARN = 2 * 10**9
FREE_BYTES_FAIL = 100 * 10**6

# A whole /15; an entry takes half a KiB.
MOST_NEIGHBOURS = 131_072

# adjtimex(2): the kernel's clock has no source that it is held to.
STA_UNSYNC = 0x0040
SIZE_OF_TIMEX = 208
OFFSET_OF_STATUS = 40


def check_service(answer: dict[str, Any] | MetalboxError) -> Iterator[Finding]:
    """Whether the service answers; `answer` is its status or the error of asking."""
    if isinstance(answer, MetalboxError):
        yield Finding(Level.FAIL, "service", str(answer))
        return
    yield Finding(Level.OK, "service", f"metalbox {answer['version']} answers: {'; '.join(answer['listening'])}")


def check_interfaces(config: Config, sysfs: Path = Path("/sys/class/net")) -> Iterator[Finding]:
    """Whether each configured interface exists, is up and has a carrier."""
    named = [*config.dhcp.interfaces, *(subnet.interface for subnet in config.subnets if subnet.interface)]
    names = dict.fromkeys(named) or sorted(path.name for path in sysfs.iterdir() if path.name != "lo")
    if not names:
        yield Finding(Level.FAIL, "interface", "this computer has no network interface")
    for name in names:
        folder = sysfs / name
        if not folder.exists():
            advice = "correct dhcp.interfaces or subnets.interface in the configuration"
            yield Finding(Level.FAIL, "interface", f"{name} does not exist", advice)
            continue
        state = _read(folder / "operstate")
        level = Level.OK if state in ("up", "unknown") else Level.WARN
        yield Finding(level, "interface", f"{name} is {state}", "" if level is Level.OK else f"ip link set {name} up")


def check_ports(config: Config, proc: Path = Path("/proc/net")) -> Iterator[Finding]:
    """Whether somebody listens on each port that firmware will ask."""
    udp, tcp = _ports(proc / "udp"), _ports(proc / "tcp", listening="0A")
    wanted = [("DHCP", 67, udp), ("PXE", 4011, udp), ("HTTP", config.http.port, tcp)]
    if config.tftp.enabled:
        wanted.append(("TFTP", config.tftp.port, udp))
    for label, port, table in wanted:
        kind = "TCP" if table is tcp else "UDP"
        if port in table:
            yield Finding(Level.OK, "port", f"{label}: {kind} port {port} is open")
        else:
            advice = "start the service, and look at its first lines for the reason"
            yield Finding(Level.FAIL, "port", f"{label}: nobody listens on {kind} port {port}", advice)


def check_files(config: Config) -> Iterator[Finding]:
    """Whether there is a boot file for each kind of firmware, and an agent to boot."""
    folders = [*config.boot.files]
    for label, names in {
        "BIOS": ("undionly.kpxe",),
        "UEFI x64": ("snponly.efi",) if config.boot.uefi_loader == "ipxe" else ("shimx64.efi", "shimx64.efi.signed"),
        "UEFI arm64": ("ipxe-arm64.efi", "snponly-arm64.efi"),
    }.items():
        found = next((f / name for f in folders for name in names if (f / name).is_file()), None)
        if found:
            yield Finding(Level.OK, "boot file", f"{label}: {found} ({found.stat().st_size} bytes)")
        else:
            level = Level.WARN if "arm64" in label else Level.FAIL
            text = f"{label}: no {names[0]} in {', '.join(map(str, folders))}; such machines get no answer"
            yield Finding(level, "boot file", text, "metalbox boot-files fetch")
    manifest = config.boot.agent / "x86_64" / "manifest.json"
    try:
        size = (config.boot.agent / "x86_64" / "initrd").stat().st_size
        json.loads(manifest.read_text())
        yield Finding(Level.OK, "agent", f"{manifest.parent}: initramfs of {size / 1e6:.1f} MB")
    except (OSError, ValueError) as error:
        advice = f"metalbox agent build --output {config.boot.agent}"
        yield Finding(Level.FAIL, "agent", f"there is no agent to boot ({error})", advice)


def check_space(config: Config) -> Iterator[Finding]:
    """Whether the data folder's disk has room."""
    folder = config.data_dir
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    level = Level.FAIL if free < FREE_BYTES_FAIL else Level.WARN if free < FREE_BYTES_WARN else Level.OK
    yield Finding(level, "disk space", f"{free / 1e9:.1f} GB free for {config.data_dir}")


def check_neighbours(config: Config, proc: Path = Path("/proc/sys/net/ipv4/neigh/default")) -> Iterator[Finding]:
    """Whether the kernel can talk to all machines of the attached networks at once: it forgets none that is in use.

    Beyond gc_thresh3 entries (1,024 as Linux comes) every new one fails with ENOBUFS: arp(7).
    """
    attached = [subnet.subnet for subnet in config.subnets if subnet.interface]
    limit = _read(proc / "gc_thresh3")
    if not attached or not limit.isdecimal():
        return
    count = sum(network.num_addresses for network in attached)
    if count <= int(limit):
        yield Finding(Level.OK, "neighbours", f"{count} addresses are attached, the kernel knows {limit} neighbours")
        return
    text = f"{count} addresses are attached, but the kernel knows only {limit} neighbours: more machines get no answer"
    room = 2 * min(count, MOST_NEIGHBOURS)
    advice = f"sysctl -w net.ipv4.neigh.default.gc_thresh3={room} net.ipv4.neigh.default.gc_thresh2={room // 2}"
    yield Finding(Level.WARN, "neighbours", text, advice)


def check_clock() -> Iterator[Finding]:
    """Whether the clock is plausible and held by a time source; timelines and certificates depend on it."""
    now = time.time()
    built = Path(__file__).stat().st_mtime
    text = f"{datetime.fromtimestamp(now, UTC):%Y-%m-%d %H:%M:%S} UTC"
    if now < built - 86400:
        yield Finding(Level.FAIL, "clock", f"{text} is before metalbox was installed", "set the clock, use NTP")
    elif _is_unsynchronised():
        yield Finding(Level.WARN, "clock", f"{text}, not held by a time source", "run chrony or systemd-timesyncd")
    else:
        yield Finding(Level.OK, "clock", text)


def _is_unsynchronised() -> bool:
    buffer = ctypes.create_string_buffer(SIZE_OF_TIMEX)
    if ctypes.CDLL(None, use_errno=True).adjtimex(buffer) < 0:
        return False
    status: int = struct.unpack_from("i", buffer, OFFSET_OF_STATUS)[0]
    return bool(status & STA_UNSYNC)


def _ports(table: Path, listening: str = "") -> set[int]:
    ports = set()
    for line in _read(table).splitlines()[1:]:
        fields = line.split()
        if not listening or fields[3] == listening:
            ports.add(int(fields[1].rsplit(":", 1)[1], 16))
    return ports


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError as error:
        return os.strerror(error.errno or 0)
