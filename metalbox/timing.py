"""How long a boot took, and who was waited for. PURE.

The time from power-on (or the first packet) to the report is cut at what the timeline saw, and each piece is laid to
whoever had to act next:

- metalbox: from a request's arrival to our reply: all of DHCP's processing, and scripts from request to last byte.
- transfer: a file from its first to its last block. The wire, the client's window and its disk decide that together
  with us; a server that is slow to read its files would show here as a low rate, so bytes are told beside seconds.
- firmware: until the boot loader is there. Includes the site's own DHCP server, which we cannot tell from it.
- iPXE (or GRUB): its start, its DHCP, and its pauses between files.
- kernel: from the last file to the agent's first word, or to the report if the agent said none.
- inventory: from the agent's first word to its report.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from metalbox.timeline import Entry, Kind

# No firmware is silent for longer between two packets of one boot.
BOOT_GAP_SECONDS = 300.0
FIRMWARE = frozenset({"bios", "uefi", "http"})
# How far a boot has come when this is seen; walking back, a higher number after a low one is the boot before.
POWER, ASKING, LOADING, LOADER, SCRIPT, SYSTEM, AGENT = range(7)
ROLES = {"boot file": LOADING, "first script": SCRIPT, "script": SCRIPT, "kernel": SYSTEM, "initrd": SYSTEM}
TFTP_ROLES = {"vmlinuz": "kernel", "initrd": "initrd"}
PHASES = ("metalbox", "transfer", "firmware", "iPXE", "kernel", "inventory")


@dataclass(frozen=True, slots=True)
class Spent:
    """Seconds by who was waited for; they add up to `total`. `transferred_bytes` belong to `transfer`."""

    started_at: float
    from_power_on: bool
    total: float
    metalbox: float
    transfer: float
    firmware: float
    ipxe: float
    kernel: float
    inventory: float
    transferred_bytes: int

    def rows(self) -> list[tuple[str, float]]:
        """The table: who was waited for, and how many seconds."""
        return [
            ("metalbox", self.metalbox),
            ("transfer", self.transfer),
            ("firmware", self.firmware),
            ("iPXE", self.ipxe),
            ("kernel", self.kernel),
            ("inventory", self.inventory),
        ]

    def sentence(self) -> str:
        """The table in one line."""
        start = "power on" if self.from_power_on else "the first packet"
        parts = [f"{name} {seconds:.2f} s" for name, seconds in self.rows()]
        parts[1] += f" ({self.transferred_bytes / 1e6:.1f} MB)"
        return f"from {start} to the report {self.total:.1f} s, waiting on: {', '.join(parts)}"


def role_of(entry: Entry) -> str:
    """What a file is to the boot, "kernel" or "script", ...; GRUB fetches the agent by TFTP, where names tell it."""
    if entry.kind is not Kind.TFTP:
        return str(entry.data.get("role", ""))
    name = str(entry.data.get("file", "")).lstrip("/")
    return TFTP_ROLES.get(name.rpartition("/")[2], "") if name.startswith("agent/") else ""


def stage(entry: Entry) -> int | None:
    """How far the boot is that sends this; None for what is no part of a boot."""
    data = entry.data
    if entry.kind is Kind.POWER:
        return POWER if data.get("state") == "on" else None
    if entry.kind is Kind.DHCP:
        client = data.get("client")
        return ASKING if client in FIRMWARE else LOADER if client in ("ipxe", "loader") else None
    if entry.kind is Kind.TFTP:
        return ROLES.get(role_of(entry), LOADING)
    if entry.kind is Kind.HTTP:
        return ROLES.get(role_of(entry))
    if entry.kind is Kind.DECISION:
        return SCRIPT
    if entry.kind is Kind.AGENT:
        return AGENT
    return None


def latest_boot(entries: Sequence[Entry]) -> list[Entry]:
    """The entries of the newest boot, oldest first; `entries` are in any order."""
    found: list[Entry] = []
    lowest = AGENT
    begun = None
    for entry in sorted(entries, key=lambda entry: entry.at, reverse=True):
        reached = stage(entry)
        if entry.kind is Kind.REPORT and lowest < AGENT:
            break
        if reached is None:
            continue
        if begun is not None and begun - entry.last_at > BOOT_GAP_SECONDS:
            break
        if (reached >= SYSTEM and lowest < SYSTEM) or (reached >= LOADER and lowest <= ASKING):
            break
        found.append(entry)
        begun = entry.at
        lowest = min(lowest, reached)
        if reached == POWER:
            break
    return found[::-1]


def breakdown(entries: Sequence[Entry], boot_id: str) -> Spent | None:
    """Cut up the boot before the first report of `boot_id`; None when we saw no boot, or after a second report."""
    reports = [entry for entry in entries if entry.kind is Kind.REPORT and entry.data.get("boot_id") == boot_id]
    if len(reports) != 1:
        return None
    end = reports[0].at
    boot = latest_boot([entry for entry in entries if entry.at <= end and entry is not reports[0]])
    if not any(stage(entry) in (ASKING, LOADER) for entry in boot):
        return None
    seconds = dict.fromkeys(PHASES, 0.0)
    spans = sorted((_span(entry) for entry in boot), key=lambda span: span.begin)
    cursor = spans[0].begin
    waiting = "firmware"
    for span in spans:
        waiting = span.before or waiting
        seconds[waiting] += max(0.0, min(span.begin, end) - cursor)
        cursor = max(cursor, min(span.begin, end))
        inside = max(0.0, min(span.end, end) - cursor)
        ours = min(inside, span.ours)
        seconds["metalbox"] += ours
        seconds[span.inside or waiting] += inside - ours
        cursor += inside
        waiting = span.after or waiting
    seconds[waiting] += max(0.0, end - cursor)
    return Spent(
        started_at=spans[0].begin,
        from_power_on=stage(boot[0]) == POWER,
        total=end - spans[0].begin,
        metalbox=seconds["metalbox"],
        transfer=seconds["transfer"],
        firmware=seconds["firmware"],
        ipxe=seconds["iPXE"],
        kernel=seconds["kernel"],
        inventory=seconds["inventory"],
        transferred_bytes=sum(int(entry.data.get("bytes", 0)) for entry in boot if _is_file(entry)),
    )


@dataclass(frozen=True, slots=True)
class _Span:
    """One entry as a stretch of time: who was waited for before, inside and after it ("": as until then)."""

    begin: float
    end: float
    ours: float = 0.0
    before: str = ""
    inside: str = ""
    after: str = ""


def _is_file(entry: Entry) -> bool:
    return entry.kind in (Kind.TFTP, Kind.HTTP) and stage(entry) in (LOADING, SYSTEM)


def _span(entry: Entry) -> _Span:
    reached = stage(entry)
    data = entry.data
    # What took time is written down when it is over.
    begin = entry.at - max(0.0, float(data.get("seconds", 0.0)))
    if entry.kind is Kind.DHCP:
        who = "firmware" if reached == ASKING else "iPXE"
        # Before iPXE's first packet the loader was starting: that is iPXE's time, not the firmware's.
        return _Span(entry.at, entry.last_at, data.get("micros", 0) / 1e6, "" if reached == ASKING else who, who, who)
    if reached == LOADING:
        return _Span(begin, entry.at, 0.0, "", "transfer", "iPXE" if _is_loader(entry) else "")
    if reached == SYSTEM:
        return _Span(begin, entry.at, 0.0, "", "transfer", "kernel" if role_of(entry) == "initrd" else "iPXE")
    if reached == SCRIPT:
        return _Span(begin, entry.at, entry.at - begin, "iPXE", "", "iPXE")
    if reached == AGENT:
        # Seconds before its first word the kernel ran; what it says while it looks around is its own time.
        return _Span(entry.at, entry.at, 0.0, "", "", "inventory")
    return _Span(entry.at, entry.at, 0.0, "", "", "firmware")


def _is_loader(entry: Entry) -> bool:
    """Whether this was the whole boot loader, so that it runs next; a probe or a failed try is not."""
    return entry.data.get("outcome") == "sent" and int(entry.data.get("bytes", 0)) > 0
