"""The timeline as `why` looks at it: the newest boot, sorted by who said what, and lines of evidence. PURE."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from metalbox.machine import Machine
from metalbox.timeline import Entry, Kind
from metalbox.timing import FIRMWARE, latest_boot, role_of

MAX_EVIDENCE = 12

# Reasons of the DHCP responder that a person can do something about: cause and advice.
NOT_SERVED = {
    "no boot file for this architecture": (
        "there is no boot loader for this machine's architecture in the boot folders",
        "`metalbox boot-files fetch`, or put it into a folder of boot.files; `metalbox doctor` names what is missing",
    ),
    "subnet is off": (
        "its subnet is switched off in the configuration",
        "set `mode: proxy` or `mode: full` for that subnet, and restart",
    ),
    "no subnet for this client": (
        "its question came by a relay from a network that the configuration does not have",
        "add the network under `subnets`, and restart",
    ),
    "unknown machine": (
        "its subnet is in reservations mode, and there is no reservation for it",
        "add a reservation with its MAC, or set `mode: full`, and restart",
    ),
}


@dataclass(frozen=True, slots=True)
class Rival:
    """Another DHCP or proxyDHCP server that was heard on the wire."""

    server: str
    next_server: str = ""
    boot_file: str = ""
    is_proxy: bool = False
    interface: str = ""


@dataclass(frozen=True, slots=True)
class Bmc:
    """One BMC of the machine as it is remembered. The error is the last one, "" when it has answered since."""

    name: str  # its address, else its MAC
    address: str = ""
    port: int = 0
    drivers: tuple[str, ...] = ()  # those that have answered or that a person named
    vendor: str = ""
    user: str = ""
    has_password: bool = False
    error_code: str = ""
    error_text: str = ""
    error_at: float = 0.0


@dataclass(frozen=True, slots=True)
class Trouble:
    """Something that went wrong with a BMC, by the code of PowerError. `verb` is what was asked of `driver`."""

    code: str
    text: str
    evidence: str = ""
    driver: str = ""
    verb: str = ""
    at: float = 0.0


@dataclass(frozen=True, slots=True)
class Ordered:
    """The newest order on the machine's power. Without `finished_at` it is still being carried out."""

    verb: str
    created_at: float
    finished_at: float | None = None
    boot: str = ""
    sent: tuple[str, ...] = ()
    done: bool = False
    state: str = ""
    driver: str = ""
    text: str = ""
    code: str = ""
    evidence: str = ""
    asked: str = ""  # the sentence to the person who has to do it
    expects: str = ""  # the state that this leads to
    warnings: tuple[Trouble, ...] = ()
    attempts: tuple[Trouble, ...] = ()
    place: int = 0  # in the queue for a power-on, from 1; 0 is in none


@dataclass(frozen=True, slots=True)
class PowerFacts:
    """What is known of a machine's power, without asking anybody. `state` was read at `read_at` by `source`.

    `trouble` is why the last try to read it failed, None when it did not.
    """

    bmcs: tuple[Bmc, ...] = ()
    state: str = "unknown"
    read_at: float = 0.0
    source: str = ""
    trouble: Trouble | None = None
    order: Ordered | None = None


@dataclass(frozen=True, slots=True)
class LifeFacts:
    """What is known of a machine's round of erasing, if there is one (`at` is 0.0 if not), and of what is wished of it.

    `progress` is what the agent said last: {"disks": {serial or WWN: {phase, percent, left, method}}}. `refused` are
    (disk, why it cannot be erased), `waiting` the verbs of the orders that its agent has not done.
    """

    verb: str = ""
    level: str = ""
    operator: str = ""
    at: float = 0.0
    boots: int = 0
    can_power: bool = False
    waiting: tuple[str, ...] = ()
    ordered_at: float = 0.0
    begun_at: float = 0.0
    progress: Mapping[str, Any] = field(default_factory=dict)
    refused: tuple[tuple[str, str], ...] = ()
    pending: str = ""
    pending_by: str = ""
    pending_at: float = 0.0


@dataclass(frozen=True, slots=True)
class Facts:
    """What the timeline of one machine does not know: ourselves, its power, and who else answers on these wires."""

    server_address: str = ""
    http_port: int = 8080
    tftp_port: int = 69
    uefi_offer: str = "binl"
    rivals: tuple[Rival, ...] = ()
    power: PowerFacts | None = None
    life: LifeFacts | None = None


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """The answer. `since` is Unix time, 0.0 for "always"; `evidence` and `advice` are lines for people.

    `also` is what else is to be said and is not the answer: that its BMC is sick while the machine itself is well.
    """

    code: str
    doing: str
    waiting_for: str
    since: float
    cause: str = ""
    evidence: tuple[str, ...] = ()
    advice: tuple[str, ...] = ()
    also: tuple[Diagnosis, ...] = ()


@dataclass(frozen=True, slots=True)
class View:
    """The timeline as the rules look at it: the newest boot, sorted by who said what."""

    machine: Machine | None
    facts: Facts
    now: float
    boot: tuple[Entry, ...]
    entries: tuple[Entry, ...]
    firmware: tuple[Entry, ...]
    pxe: tuple[Entry, ...]
    ipxe: tuple[Entry, ...]
    tftp: tuple[Entry, ...]
    http: tuple[Entry, ...]
    rivals: tuple[Rival, ...]
    contact: Entry | None

    def files(self, *roles: str) -> list[Entry]:
        """Files of these roles that were sent to the last byte, oldest first."""
        return [entry for entry in self.http + self.tftp if role_of(entry) in roles and was_sent(entry)]

    def is_overdue(self, since: float, seconds: float) -> bool:
        return self.now - since > seconds

    @property
    def server(self) -> str:
        return self.facts.server_address or "the metalbox server"

    @property
    def in_full_mode(self) -> bool:
        return any(entry.data.get("mode") in ("full", "reservations") for entry in self.firmware + self.ipxe)

    def booting(self, doing: str, waiting_for: str, since: float) -> Diagnosis:
        return Diagnosis(
            "booting", doing, waiting_for, since, "nothing is wrong: it is in time", evidence_of(self.boot)
        )


def look(machine: Machine | None, entries: Sequence[Entry], facts: Facts, now: float) -> View:
    boot = tuple(latest_boot(entries))
    begun = boot[0].at if boot else now
    dhcp = [entry for entry in boot if entry.kind is Kind.DHCP]
    # U-Boot and its like load files by TFTP as firmware does, whatever they are called.
    firmware = [entry for entry in dhcp if entry.data.get("client") in FIRMWARE | {"loader"}]
    contacts = [
        entry
        for entry in entries
        if entry.kind is Kind.REPORT or (entry.kind is Kind.AGENT and entry.data.get("what") != "gone")
    ]
    # A rival answers the same DISCOVER as we do, a moment before or after us.
    own = _rivals(entry for entry in entries if entry.kind is Kind.RIVAL and entry.last_at >= begun - 5.0)
    return View(
        machine=machine,
        facts=facts,
        now=now,
        boot=boot,
        entries=tuple(entries),
        firmware=tuple(entry for entry in firmware if entry.data.get("port", 67) != 4011),
        pxe=tuple(entry for entry in dhcp if entry.data.get("port") == 4011),
        ipxe=tuple(entry for entry in dhcp if entry.data.get("client") == "ipxe"),
        tftp=tuple(entry for entry in boot if entry.kind is Kind.TFTP),
        http=tuple(entry for entry in boot if entry.kind is Kind.HTTP),
        rivals=tuple(rival for rival in own or facts.rivals if rival.server != facts.server_address),
        contact=max(contacts, key=lambda entry: entry.last_at, default=None),
    )


def _rivals(entries: Iterable[Entry]) -> tuple[Rival, ...]:
    found = [
        Rival(
            server=str(entry.data.get("server", "")),
            next_server=str(entry.data.get("next_server", "")),
            boot_file=str(entry.data.get("boot_file", "")),
            is_proxy=bool(entry.data.get("is_proxy")),
            interface=str(entry.data.get("interface", "")),
        )
        for entry in entries
    ]
    return tuple(dict.fromkeys(found))


def clock(when: float) -> str:
    return datetime.fromtimestamp(when, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def line_of(entry: Entry) -> str:
    times = f" (seen {entry.count} times since {clock(entry.at)})" if entry.count > 1 else ""
    return f"{clock(entry.last_at)}: {entry.text}{times}"


def evidence_of(*groups: Iterable[Entry], more: Iterable[str] = ()) -> tuple[str, ...]:
    chosen = {entry.id or id(entry): entry for group in groups for entry in group}
    lines = [line_of(entry) for entry in sorted(chosen.values(), key=lambda entry: entry.last_at)]
    return (*lines[-MAX_EVIDENCE:], *more)


def was_sent(entry: Entry) -> bool:
    return entry.data.get("outcome") == "sent" and int(entry.data.get("bytes", 0)) > 0


def messages(entry: Entry) -> list[str]:
    return list(entry.data.get("messages", []))


def newest_offer(entries: Iterable[Entry]) -> Entry | None:
    """The newest answer that named a boot file."""
    answers = [entry for entry in entries if entry.data.get("boot_file") and {"OFFER", "ACK"} & set(messages(entry))]
    return max(answers, key=lambda entry: entry.last_at, default=None)


def rival_lines(rivals: Iterable[Rival]) -> list[str]:
    lines = []
    for rival in rivals:
        what = "proxyDHCP server" if rival.is_proxy else "DHCP server"
        file = f" and names the boot file {rival.boot_file!r}" if rival.boot_file else ""
        next_server = f" on {rival.next_server}" if rival.next_server and rival.next_server != rival.server else ""
        lines.append(f"the {what} {rival.server} answers too{file}{next_server}")
    return lines
