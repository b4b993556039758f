"""One YAML file becomes one frozen, checked `Config`. Every setting stands here once, with default, unit and sentence.

The file is read and checked whole before a socket opens. What is wrong is said in one sentence with the file, the line
and the value. `example()` writes the commented example file from these same declarations, so that it cannot drift.
"""

from __future__ import annotations

import dataclasses
import difflib
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Any

import yaml

from metalbox.configvalues import (
    Parse,
    as_address,
    as_choice,
    as_decimal,
    as_interface,
    as_list,
    as_mac,
    as_network,
    as_number,
    as_optional,
    as_path,
    as_text,
    as_truth,
    as_word,
)
from metalbox.erase.methods import Level
from metalbox.erase.order import Verify
from metalbox.errors import ConfigError, InvalidValue
from metalbox.machine import Mac


class Policy(StrEnum):
    """What is done with a new machine. The words but MANUAL are wishes of the lifecycle."""

    MANUAL = "manual"
    ACCEPT = "accept"
    ADOPT = "adopt"
    REJECT = "reject"


class Mode(StrEnum):
    """What metalbox does for DHCP clients on a subnet."""

    OFF = "off"
    PROXY = "proxy"
    FULL = "full"
    RESERVATIONS = "reservations"


@dataclass(frozen=True, slots=True)
class Pool:
    """The addresses from `first` to `last`, both included, that may be leased."""

    first: IPv4Address
    last: IPv4Address

    @classmethod
    def parse(cls, value: Any) -> Pool:
        """Read "192.0.2.100-192.0.2.200" or a single address. Raises InvalidValue."""
        first, _, last = as_text(value).partition("-")
        pool = cls(as_address(first.strip()), as_address((last or first).strip()))
        if pool.last < pool.first:
            raise InvalidValue(f"expected the lower address first in the pool {value!r}")
        return pool

    def __str__(self) -> str:
        return f"{self.first}-{self.last}"

    def __len__(self) -> int:
        return int(self.last) - int(self.first) + 1

    def __contains__(self, address: object) -> bool:
        return isinstance(address, IPv4Address) and self.first <= address <= self.last


def setting(default: Any, parse: Parse, sentence: str, unit: str = "") -> Any:
    """Declare one setting: its default, how its text is read, its one sentence and its unit."""
    return field(default=default, metadata={"parse": parse, "sentence": sentence, "unit": unit})


@dataclass(frozen=True, slots=True)
class Reservation:
    """One machine's fixed address."""

    mac: Mac = setting(None, as_mac, "The hardware address of the port.")
    address: IPv4Address = setting(None, as_address, "The address it always gets.")
    hostname: str = setting("", as_text, "The host name told to it (option 12).")


@dataclass(frozen=True, slots=True)
class Subnet:
    """What metalbox does on one IPv4 network, attached or behind a relay."""

    subnet: IPv4Network = setting(None, as_network, "The network. A relayed request is matched by its relay's address.")
    interface: str = setting("", as_interface, "The interface it is attached to; empty when only relays reach it.")
    mode: Mode = setting(
        Mode.PROXY,
        as_choice(Mode),
        "off: answer nothing. proxy: tell boot clients what to boot, beside the site's DHCP server. "
        "full: give addresses to all. reservations: give addresses to known machines only.",
    )
    server_address: IPv4Address | None = setting(
        None, as_optional(as_address), "Our address as clients there reach it; default: the interface's own."
    )
    pools: tuple[Pool, ...] = setting((), as_list(Pool.parse), "Address ranges to lease, first-last (full mode).")
    router: IPv4Address | None = setting(None, as_optional(as_address), "Default gateway told to clients (option 3).")
    dns: tuple[IPv4Address, ...] = setting((), as_list(as_address), "Name servers told to clients (option 6).")
    domain: str = setting("", as_text, "Domain name told to clients (option 15).")
    ntp: tuple[IPv4Address, ...] = setting((), as_list(as_address), "Time servers told to clients (option 42).")
    lease_seconds: int = setting(3600, as_number(60, 2**31), "How long a lease lasts.", "seconds")
    reservations: tuple[Reservation, ...] = setting(
        (), as_list(lambda v: v), "Fixed addresses: mac, address, hostname."
    )
    uefi_offer: str = setting(
        "binl",
        as_word("binl", "pxe10"),
        "Proxy offer to UEFI: binl sends the client to port 4011 (most compatible), pxe10 saves it one second.",
    )


@dataclass(frozen=True, slots=True)
class Dhcp:
    """The DHCP server as a whole."""

    interfaces: tuple[str, ...] = setting(
        (),
        as_list(as_interface),
        "Interfaces to listen on; empty: every Ethernet interface that is up and has an address.",
    )
    default_mode: Mode = setting(
        Mode.PROXY, as_choice(Mode), "Mode for attached networks not listed under subnets: off or proxy."
    )
    share_port: bool = setting(
        False, as_truth, "Share port 67 with another DHCP server on this same host (SO_REUSEADDR)."
    )
    authoritative: bool = setting(
        False, as_truth, "Refuse (NAK) unknown clients that reboot into an address we never gave; else stay silent."
    )
    probe: bool = setting(True, as_truth, "Look ahead by ARP whether addresses about to be offered are already in use.")
    null_ra: bool = setting(
        True,
        as_truth,
        "Answer a booting machine's IPv6 router solicitation with an empty advertisement; old iPXE else waits 15 s.",
    )
    no_proxy_wait: bool = setting(
        True, as_truth, "In full mode tell iPXE not to wait for a proxyDHCP server (option 175.176); saves 2 s."
    )
    decline_seconds: int = setting(
        600, as_number(0, 86400), "Quarantine of an address that a client declined.", "seconds"
    )


@dataclass(frozen=True, slots=True)
class Tftp:
    """The TFTP server."""

    enabled: bool = setting(True, as_truth, "Serve boot files by TFTP.")
    port: int = setting(69, as_number(1, 65535), "UDP port; firmware knows only 69.")
    max_transfers: int = setting(4096, as_number(1, 65535), "Transfers at the same time; more are refused.")
    max_blksize: int = setting(1468, as_number(512, 65464), "Largest block agreed to (RFC 2348).", "bytes")
    max_windowsize: int = setting(64, as_number(1, 1024), "Largest window agreed to (RFC 7440).", "blocks")


@dataclass(frozen=True, slots=True)
class Http:
    """The HTTP server for firmware and agents."""

    address: IPv4Address = setting(IPv4Address("0.0.0.0"), as_address, "Address to listen on.")
    port: int = setting(8080, as_number(1, 65535), "TCP port told to firmware.")
    big_transfers: int = setting(
        64,
        as_number(1, 65535),
        "Kernels and images sent at full speed at the same time; others get a trickle until it is their turn.",
    )
    waiting_transfers: int = setting(
        4096, as_number(0, 65535), "How many may wait for their turn; more are told to come again (503, Retry-After)."
    )


@dataclass(frozen=True, slots=True)
class Boot:
    """What machines are made to run."""

    files: tuple[Path, ...] = setting(
        (Path("/var/lib/metalbox/boot"), Path("/usr/lib/ipxe")),
        as_list(as_path),
        "Folders with iPXE, shim and GRUB binaries, searched in order (`metalbox boot-files fetch` fills the first).",
    )
    agent: Path = setting(
        Path("/var/lib/metalbox/agent"), as_path, "Folder of the agent's kernel and initramfs (`metalbox agent build`)."
    )
    templates: Path | None = setting(
        None, as_optional(as_path), "Folder with your own versions of the iPXE templates; default: those shipped."
    )
    kernel_arguments: str = setting(
        "quiet console=tty0 console=ttyS0,115200", as_text, "Added to the agent's kernel command line."
    )
    vlan: int | None = setting(None, as_optional(as_number(1, 4094)), "VLAN on which the agent looks for us.")
    uefi_loader: str = setting(
        "ipxe",
        as_word("ipxe", "shim"),
        "First program for UEFI machines: ipxe, or shim (with GRUB, by TFTP) where Secure Boot is on.",
    )


@dataclass(frozen=True, slots=True)
class Timeline:
    """How much is remembered."""

    entries_per_machine: int = setting(
        2000, as_number(50, 1_000_000), "Timeline entries kept for each machine.", "entries"
    )
    entries_total: int = setting(500_000, as_number(1000, 100_000_000), "Timeline entries kept in all.", "entries")


@dataclass(frozen=True, slots=True)
class Consoles:
    """Serial consoles: what machines write is kept in data_dir/consoles."""

    record_always: bool = setting(
        False, as_truth, "Hold every machine's console open and record it; else only while someone looks at it."
    )
    max_mb: int = setting(8, as_number(1, 10_000), "Size at which a recording goes on in a fresh file.", "MB")
    files: int = setting(4, as_number(1, 100), "Files kept for each machine; the oldest is thrown away.", "files")


@dataclass(frozen=True, slots=True)
class PowerBudget:
    """How quickly machines are switched on that share something: a rack, a PDU, or the whole site."""

    label: str = setting(
        "", as_text, "Each value of this label has the budget for itself; empty: all machines together."
    )
    per_second: float = setting(
        1.0, as_decimal(0.001, 1000.0), "Power-ons that follow one another, on average.", "machines per second"
    )
    burst: int = setting(1, as_number(1, 10_000), "Power-ons at the same moment, after a quiet time.", "machines")


@dataclass(frozen=True, slots=True)
class Erase:
    """How disks are erased when the verb does not say it."""

    level: Level = setting(
        Level.CLEAR,
        as_choice(Level),
        "clear: against reading by ordinary means. purge: against laboratories, with what the drive itself offers "
        "(NIST SP 800-88). The strongest method that a drive has is taken for both.",
    )
    verify: Verify = setting(
        "sample", as_word("sample", "full"), "Read back a sample of each disk afterwards, or every byte of it."
    )
    samples: int = setting(256, as_number(16, 100_000), "Blocks of a disk that are read before and after.", "blocks")
    parallel: int = setting(24, as_number(1, 1000), "Disks of a machine that are erased at the same time.", "disks")
    per_hour: int = setting(
        20,
        as_number(1, 100_000),
        "Beyond so many machines within an hour a second person must `metalbox approve`.",
        "machines",
    )


@dataclass(frozen=True, slots=True)
class AcceptRule:
    """What is done with new machines without asking anybody; the first rule whose conditions all hold decides."""

    name: str = setting("", as_text, "What the timeline calls this rule.")
    policy: Policy = setting(
        Policy.MANUAL, as_choice(Policy), "accept: ERASE ITS DISKS. adopt: it is in use. reject: it is none of ours."
    )
    serials: tuple[str, ...] = setting((), as_list(as_text), "The machine's serial number is one of these.")
    macs: tuple[str, ...] = setting((), as_list(as_mac), "One of its ports has one of these addresses.")
    vendor: str = setting("", as_text, "Its maker, with * and ? as in file names.")
    product: str = setting("", as_text, "Its product name, with * and ?.")
    location: str = setting("", as_text, "The switch port or relay words that `metalbox show` prints, with * and ?.")
    level: Level | None = setting(None, as_optional(as_choice(Level)), "The level of erasing; default: erase.level.")


@dataclass(frozen=True, slots=True)
class Config:
    """The whole file."""

    data_dir: Path = setting(Path("/var/lib/metalbox"), as_path, "Where the inventory, leases and timeline are kept.")
    database: str = setting("", as_text, "SQLAlchemy URL of the store; empty: sqlite in data_dir/metalbox.db.")
    socket: Path = setting(
        Path("/run/metalbox/metalbox.sock"),
        as_path,
        "Unix socket on which the command line tool speaks to the service.",
    )
    log_level: str = setting("info", as_word("debug", "info", "warning", "error"), "How much is logged.")
    dhcp: Dhcp = field(default_factory=Dhcp)
    tftp: Tftp = field(default_factory=Tftp)
    http: Http = field(default_factory=Http)
    boot: Boot = field(default_factory=Boot)
    timeline: Timeline = field(default_factory=Timeline)
    consoles: Consoles = field(default_factory=Consoles)
    subnets: tuple[Subnet, ...] = ()
    power_budgets: tuple[PowerBudget, ...] = ()
    erase: Erase = field(default_factory=Erase)
    accept_rules: tuple[AcceptRule, ...] = ()


SECTIONS: Mapping[str, type[Any]] = {
    "dhcp": Dhcp,
    "tftp": Tftp,
    "http": Http,
    "boot": Boot,
    "timeline": Timeline,
    "consoles": Consoles,
    "erase": Erase,
}


def default_path() -> Path:
    """The file read when none is named: $METALBOX_CONFIG, else /etc/metalbox/metalbox.yaml."""
    return Path(os.environ.get("METALBOX_CONFIG", "/etc/metalbox/metalbox.yaml"))


def load(path: Path) -> Config:
    """Read and check one file. Raises ConfigError with path, line and value."""
    try:
        text = path.read_text()
    except OSError as error:
        raise ConfigError(f"cannot read the configuration: {error.strerror}", path=str(path)) from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"the file is not UTF-8 text (byte {error.start})", path=str(path)) from None
    return parse(text, str(path))


def parse(text: str, path: str = "") -> Config:
    """Check the text of a configuration file. Raises ConfigError."""
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 0
        raise ConfigError(f"not valid YAML: {error.problem}", path=path, line=line) from None
    except yaml.YAMLError as error:
        raise ConfigError(f"not valid YAML: {error}", path=path) from None
    return _Reader(path).config(root) if root is not None else Config()


class _Reader:
    """Turns YAML nodes, which know their lines, into the dataclasses above."""

    def __init__(self, path: str) -> None:
        self.path = path

    def fail(self, node: yaml.Node, message: str) -> ConfigError:
        return ConfigError(message, path=self.path, line=node.start_mark.line + 1)

    def config(self, root: yaml.Node) -> Config:
        values: dict[str, Any] = {}
        for key, key_node, node in self.pairs(root, "the file"):
            if key in SECTIONS:
                if not self.is_null(node):
                    values[key] = self.record(SECTIONS[key], node, key)
            elif key == "subnets":
                values[key] = self.subnets(node)
            elif key == "power_budgets":
                values[key] = self.power_budgets(node)
            elif key == "accept_rules":
                values[key] = self.accept_rules(node)
            else:
                known = [*SECTIONS, "subnets", "power_budgets", "accept_rules"]
                values[key] = self.value(Config, key, key_node, node, "the file", known)
        return Config(**values)

    def pairs(self, node: yaml.Node, where: str) -> list[tuple[str, yaml.Node, yaml.Node]]:
        if not isinstance(node, yaml.MappingNode):
            raise self.fail(node, f"expected settings as `name: value` in {where}")
        seen: set[str] = set()
        rows = []
        for key_node, value_node in node.value:
            key = str(key_node.value)
            if key in seen:
                raise self.fail(key_node, f"{key!r} is set twice in {where}")
            seen.add(key)
            rows.append((key, key_node, value_node))
        return rows

    def is_null(self, node: yaml.Node) -> bool:
        return isinstance(node, yaml.ScalarNode) and node.tag == "tag:yaml.org,2002:null"

    def plain(self, node: yaml.Node) -> Any:
        try:
            return yaml.SafeLoader("").construct_document(node)
        except (yaml.YAMLError, ValueError) as error:
            raise self.fail(node, f"cannot read this value: {error}") from None

    def value(
        self, kind: type[Any], key: str, key_node: yaml.Node, node: yaml.Node, where: str, more: list[str] | None = None
    ) -> Any:
        fields = {f.name: f for f in dataclasses.fields(kind)}
        if key not in fields or "parse" not in fields[key].metadata:
            known = [*(n for n in fields if "parse" in fields[n].metadata), *(more or [])]
            raise self.fail(key_node, f"unknown setting {key!r} in {where}{_suggest(key, known)}")
        try:
            return fields[key].metadata["parse"](self.plain(node))
        except InvalidValue as error:
            raise self.fail(node, f"{where}.{key}: {error}" if where != "the file" else f"{key}: {error}") from None

    def record(self, kind: type[Any], node: yaml.Node, where: str) -> Any:
        values: dict[str, Any] = {}
        for key, key_node, value_node in self.pairs(node, where):
            if kind is Subnet and key == "reservations":
                values[key] = self.reservations(value_node)
            else:
                values[key] = self.value(kind, key, key_node, value_node, where)
        if kind is Dhcp and values.get("default_mode") in (Mode.FULL, Mode.RESERVATIONS):
            raise self.fail(node, "dhcp.default_mode: may be off or proxy; list a subnet to give addresses on it")
        return kind(**values)

    def items(self, node: yaml.Node, where: str) -> list[yaml.Node]:
        if self.is_null(node):
            return []
        if not isinstance(node, yaml.SequenceNode):
            raise self.fail(node, f"{where}: expected a list")
        return list(node.value)

    def reservations(self, node: yaml.Node) -> tuple[Reservation, ...]:
        rows = []
        for item in self.items(node, "reservations"):
            reservation = self.record(Reservation, item, "reservations")
            if reservation.mac is None or reservation.address is None:
                raise self.fail(item, "a reservation needs both mac and address")
            rows.append(reservation)
        return tuple(rows)

    def subnets(self, node: yaml.Node) -> tuple[Subnet, ...]:
        done: list[tuple[Subnet, yaml.Node]] = []
        for item in self.items(node, "subnets"):
            subnet = self.record(Subnet, item, "subnets")
            if subnet.subnet is None:
                raise self.fail(item, "a subnet needs `subnet: 192.0.2.0/24`")
            self.check_subnet(subnet, item, done)
            done.append((subnet, item))
        return tuple(subnet for subnet, _ in done)

    def power_budgets(self, node: yaml.Node) -> tuple[PowerBudget, ...]:
        rows: list[PowerBudget] = []
        for item in self.items(node, "power_budgets"):
            budget = self.record(PowerBudget, item, "power_budgets")
            if any(budget.label == other.label for other in rows):
                raise self.fail(item, f"power_budgets: the label {budget.label!r} has two budgets")
            rows.append(budget)
        return tuple(rows)

    def accept_rules(self, node: yaml.Node) -> tuple[AcceptRule, ...]:
        rows: list[AcceptRule] = []
        for item in self.items(node, "accept_rules"):
            rule = self.record(AcceptRule, item, "accept_rules")
            if not any((rule.serials, rule.macs, rule.vendor, rule.product, rule.location)):
                raise self.fail(item, 'accept_rules: a rule without a condition; write `vendor: "*"` if you mean all')
            rows.append(rule)
        return tuple(rows)

    def check_subnet(self, subnet: Subnet, node: yaml.Node, before: list[tuple[Subnet, yaml.Node]]) -> None:
        lines = {key: value for key, _, value in self.pairs(node, "subnets")}
        for other, _ in before:
            if subnet.subnet.overlaps(other.subnet):
                raise self.fail(lines["subnet"], f"subnet {subnet.subnet} overlaps {other.subnet}, listed before it")
        for index, pool in enumerate(subnet.pools):
            if pool.first not in subnet.subnet or pool.last not in subnet.subnet:
                raise self.fail(lines["pools"], f"pool {pool} is outside of the subnet {subnet.subnet}")
            for other_pool in subnet.pools[:index]:
                if pool.first <= other_pool.last and other_pool.first <= pool.last:
                    raise self.fail(lines["pools"], f"pool {pool} overlaps pool {other_pool}")
        if subnet.mode is Mode.FULL and not subnet.pools and not subnet.reservations:
            raise self.fail(node, f"subnet {subnet.subnet} is in full mode and has neither pools nor reservations")
        addresses: set[IPv4Address] = set()
        macs: set[Mac] = set()
        for reservation in subnet.reservations:
            where = lines["reservations"]
            if reservation.address not in subnet.subnet:
                raise self.fail(where, f"reserved address {reservation.address} is outside of {subnet.subnet}")
            if reservation.address in addresses:
                raise self.fail(where, f"address {reservation.address} is reserved twice")
            if reservation.mac in macs:
                raise self.fail(where, f"{reservation.mac} has two reservations in {subnet.subnet}")
            addresses.add(reservation.address)
            macs.add(reservation.mac)


def _suggest(key: str, known: list[str]) -> str:
    close = difflib.get_close_matches(key, known, 1)
    return f": did you mean {close[0]!r}?" if close else f": known are {', '.join(known)}"
