"""What a machine boots, decided here and nowhere else, and the script that says so. PURE.

DHCP tells firmware how to reach iPXE or GRUB, whatever the machine's life; they then introduce the machine and are told
its target. All that a machine says of itself is a claim by a stranger: only what was read as a MAC, a UUID, an address
or a word that we know goes into a script.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from ipaddress import AddressValueError, IPv4Address
from typing import Any, Protocol

from metalbox.config import Boot
from metalbox.errors import InvalidValue
from metalbox.lifecycle import State
from metalbox.machine import Mac, Machine, is_placeholder_serial, is_placeholder_uuid, parse_uuid

# iPXE's ${buildarch}. A BIOS build calls itself i386 on any x86; whether the processor has 64 bits it does not say.
ARCHITECTURES = frozenset({"i386", "x86_64", "arm32", "arm64", "riscv64", "loong64"})
# iPXE's ${platform}, and what we call it.
PLATFORMS = {"pcbios": "bios", "efi": "uefi", "bios": "bios", "uefi": "uefi"}
# SMBIOS allows 255 characters; no vendor comes near it. Longer ones are cut.
MAX_TEXT = 128


class Target(StrEnum):
    """What a machine may be told to boot. NOTHING sends the firmware on to its next boot device."""

    AGENT = "agent"
    DISK = "disk"
    NOTHING = "nothing"


@dataclass(frozen=True, slots=True)
class Asking:
    """A machine as it introduced itself; None and "" where it said nothing or nothing usable.

    `arch` is one of ARCHITECTURES, `platform` "bios" or "uefi"; the texts are printable and short, and never trusted.
    """

    mac: Mac | None = None
    uuid: str = ""
    serial: str = ""
    asset: str = ""
    vendor: str = ""
    product: str = ""
    arch: str = ""
    platform: str = ""
    address: str = ""
    loader: str = ""

    @classmethod
    def parse(cls, claims: Mapping[str, str], *, mac: Mac | None = None, address: str = "") -> Asking:
        """Read the query of the script's URL. `mac` and `address` are what the network knows, used where it is silent.

        Never raises: a machine with a strange serial number must boot all the same.
        """
        arch, platform = claims.get("arch", ""), claims.get("platform", "")
        return cls(
            mac=_mac(claims.get("mac", "")) or mac,
            uuid=_uuid(claims.get("uuid", "")),
            serial=_serial(claims.get("serial", "")),
            asset=_serial(claims.get("asset", "")),
            vendor=_text(claims.get("vendor", "")),
            product=_text(claims.get("product", "")),
            arch=arch if arch in ARCHITECTURES else "",
            platform=PLATFORMS.get(platform, ""),
            address=_address(claims.get("ip", "")) or address,
            loader=_text(claims.get("loader", "")),
        )

    @property
    def agent_arch(self) -> str:
        """The architecture of the agent that can run here, "" for none.

        i386 under BIOS is any PC; a 32-bit UEFI cannot start a 64-bit kernel from iPXE.
        """
        if self.arch == "i386":
            return "" if self.platform == "uefi" else "x86_64"
        return self.arch or "x86_64"


def _mac(text: str) -> Mac | None:
    try:
        mac = Mac.parse(text)
    except InvalidValue:
        return None
    return mac if mac.is_usable else None


def _uuid(text: str) -> str:
    try:
        uuid = parse_uuid(text)
    except InvalidValue:
        return ""
    return "" if is_placeholder_uuid(uuid) else uuid


def _text(text: str) -> str:
    return "".join(character if character.isprintable() else " " for character in text[:MAX_TEXT]).strip()


def _serial(text: str) -> str:
    serial = _text(text)
    return "" if is_placeholder_serial(serial) else serial


def _address(text: str) -> str:
    try:
        address = IPv4Address(text)
    except AddressValueError:
        return ""
    return "" if address.is_unspecified else str(address)


@dataclass(frozen=True, slots=True)
class Decision:
    """The target, why (our own words, safe to print in a script), and all that was looked at."""

    target: Target
    reason: str
    inputs: dict[str, Any]


# The whole policy. A state that is not named here, of a later version's database, boots nothing of ours.
BOOTS: Mapping[str, tuple[Target, str]] = {
    State.UNKNOWN: (Target.AGENT, "not in the inventory yet"),
    State.DISCOVERED: (Target.AGENT, "discovered, and nobody has decided on it"),
    State.REJECTED: (Target.NOTHING, "rejected: it gets nothing from us"),
    State.ERASING: (Target.AGENT, "its disks are to be erased"),
    State.AVAILABLE: (Target.AGENT, "available: it waits in the agent"),
    State.DEPLOYED: (Target.DISK, "in use: it starts its own system"),
    State.RETIRING: (Target.AGENT, "its disks are to be erased for the last time"),
    State.RETIRED: (Target.NOTHING, "retired: it gets nothing from us"),
}
# The agent only looks and reports; telling two boxes under one UUID apart needs just that.
IN_CONFLICT = (Target.AGENT, "in conflict with another machine: reports only")


def decide(machine: Machine | None, asking: Asking, agents: Collection[str]) -> Decision:
    """Say what the machine that introduced itself shall boot. `agents` are the architectures with a built agent."""
    state = machine.state if machine else State.UNKNOWN
    target, reason = BOOTS.get(state, (Target.NOTHING, "in a state that this metalbox does not know"))
    if machine and machine.conflict and target is Target.AGENT:
        target, reason = IN_CONFLICT
    arch = asking.agent_arch
    if target is Target.AGENT and not arch:
        target, reason = Target.NOTHING, "a 32-bit UEFI cannot start the agent"
    elif target is Target.AGENT and arch not in agents:
        target, reason = Target.NOTHING, f"there is no agent for {arch}: run `metalbox agent build --arch {arch}`"
    inputs = {name: value for name, value in asdict(asking).items() if value}
    inputs["state"] = str(state)
    if machine:
        inputs["machine"] = machine.name
        if machine.conflict:
            inputs["conflict"] = machine.conflict
    return Decision(target, reason, inputs)


class Template(Protocol):
    """What we need of a Jinja2 template."""

    def render(self, **values: Any) -> str:
        """Fill in the values."""


@dataclass(frozen=True, slots=True)
class Templates:
    """The scripts of `ipxe/`: one for each target, and GRUB's."""

    first: Template
    targets: Mapping[Target, Template]
    grub: Template


def first_script(templates: Templates) -> bytes:
    """The script that every iPXE gets. It is the same for all, so it is made once."""
    return templates.first.render().encode()


def script(templates: Templates, decision: Decision, asking: Asking, server: str, settings: Boot) -> bytes:
    """The decided iPXE script. `server` is "address:port" of us as this machine reaches us."""
    values = {
        "server": server,
        "reason": decision.reason,
        "arch": asking.agent_arch,
        "arguments": kernel_arguments(f"http://{server}", asking.mac, settings),
    }
    return templates.targets[decision.target].render(**values).encode()


def grub_script(templates: Templates, decision: Decision, asking: Asking, http_port: int, settings: Boot) -> bytes:
    """The decided grub.cfg. GRUB knows our address itself, as $net_default_server."""
    arguments = kernel_arguments(f"http://${{net_default_server}}:{http_port}", asking.mac, settings)
    values = {
        "is_agent": decision.target is Target.AGENT,
        "reason": decision.reason,
        "arch": asking.agent_arch,
        "arguments": arguments,
    }
    return templates.grub.render(**values).encode()


def kernel_arguments(server_url: str, mac: Mac | None, settings: Boot) -> str:
    """The agent's kernel command line, but for initrd=, which belongs to the boot loader."""
    words = [f"metalbox.server={server_url}"]
    if mac:
        words.append(f"metalbox.mac={mac}")
    if settings.vlan is not None:
        words.append(f"metalbox.vlan={settings.vlan}")
    # A line break in the configured text would end the script's command.
    return " ".join([*words, *settings.kernel_arguments.split()])
