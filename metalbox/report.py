"""What an agent sends, from JSON to checked dataclasses. PURE.

The shape is read off the dataclasses of `machine.py`: a key that they do not have is ignored (a newer agent may say
more), a missing or null one keeps its default, and a wrong one is an InvalidReport that names its path and value.
Control characters are taken out of texts. Nothing here recurses deeper than the dataclasses do.
"""

from __future__ import annotations

import dataclasses
import json
import math
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeVar

from metalbox.errors import InvalidReport, InvalidValue
from metalbox.machine import Hardware, Mac, is_placeholder_serial, is_placeholder_uuid, parse_uuid

VERSION = 1

# SMBIOS texts are at most 64 characters in practice; pci.ids has names of 150.
MAX_TEXT = 1024
# PostgreSQL's and SQLite's largest integer. 8 EiB is more than any machine has.
MAX_NUMBER = 2**63 - 1
# Far above the largest machine we have heard of (8 sockets and 4 JBODs: 96 DIMMs, 420 disks, 300 PCI functions).
MAX_ITEMS = {
    "cpus": 256,
    "dimms": 1024,
    "disks": 4096,
    "nics": 1024,
    "pci": 8192,
    "namespaces": 1024,
    "macs": 1024,
    "nvme_sanitize": 8,
    "nvme_format": 8,
    "ata_sanitize": 8,
    "scsi_sanitize": 8,
    "holders": 256,
}
MAX_PROBLEMS = 256
# Numbers that are not "zero or more".
RANGES = {"temperature_celsius": (-274, 10_000), "vlan": (0, 4095), "nsid": (0, 2**32 - 1)}

D = TypeVar("D")
Reader = Callable[[Any, str], Any]


@dataclass(frozen=True, slots=True)
class Agent:
    """Who sends the report. `boot_id` is the kernel's, new at each boot; `booted_mac` the port iPXE came by."""

    boot_id: str
    version: str = ""
    uptime_seconds: float = 0.0
    kernel: str = ""
    address: str = ""
    interface: str = ""
    booted_mac: Mac | None = None


@dataclass(frozen=True, slots=True)
class Report:
    """One checked report. `problems` are the agent's own sentences about what it could not read."""

    agent: Agent
    hardware: Hardware
    problems: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Hello:
    """An agent's first word, before it has looked at the hardware."""

    boot_id: str
    macs: tuple[Mac, ...] = ()
    uuid: str = ""
    serial: str = ""
    uptime_seconds: float = 0.0


def read_json(body: bytes) -> Any:
    """Read a body that should be JSON. Raises InvalidValue, also for what only Python takes for JSON (NaN)."""
    try:
        return json.loads(body, parse_constant=_no_constant)
    except RecursionError:
        raise InvalidValue("the body is nested too deeply") from None
    except ValueError as error:
        raise InvalidValue(f"the body is not JSON: {error}") from None


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not a number")


def parse_report(document: Any) -> Report:
    """Check a whole report. Raises InvalidReport."""
    top = _mapping(document, "the report")
    version = top.get("version")
    if version != VERSION or isinstance(version, bool):
        raise InvalidReport(f"version is {show(version)}, but this metalbox reads reports of version {VERSION}")
    agent = _parse_agent(top.get("agent"))
    hardware = parse_hardware(top.get("hardware"))
    system = hardware.system
    if not hardware.macs and is_placeholder_uuid(system.uuid) and is_placeholder_serial(system.serial):
        raise InvalidReport("the report has no usable MAC address, UUID or serial: nothing tells which machine it is")
    problems = _items(top.get("problems"), "problems", MAX_PROBLEMS, _text)
    return Report(agent, hardware, tuple(problems))


def parse_hello(document: Any) -> Hello:
    """Check an agent's first word. Raises InvalidReport."""
    top = _mapping(document, "the body")
    return Hello(
        boot_id=_boot_id(top.get("boot_id"), "boot_id"),
        macs=tuple(mac for mac in _items(top.get("macs"), "macs", MAX_ITEMS["macs"], _mac) if mac and mac.is_usable),
        uuid=_uuid(top.get("uuid"), "uuid"),
        serial=_text(top.get("serial"), "serial"),
        uptime_seconds=_seconds(top.get("uptime_seconds"), "uptime_seconds"),
    )


def parse_hardware(document: Any, path: str = "hardware") -> Hardware:
    """Check the hardware part of a report. Raises InvalidReport."""
    return _record(Hardware, document, path)


def _parse_agent(document: Any) -> Agent:
    top = _mapping(document, "agent")
    return Agent(
        boot_id=_boot_id(top.get("boot_id"), "agent.boot_id"),
        version=_text(top.get("version"), "agent.version"),
        uptime_seconds=_seconds(top.get("uptime_seconds"), "agent.uptime_seconds"),
        kernel=_text(top.get("kernel"), "agent.kernel"),
        address=_text(top.get("address"), "agent.address"),
        interface=_text(top.get("interface"), "agent.interface"),
        booted_mac=_mac(top.get("booted_mac"), "agent.booted_mac") or None,
    )


def show(value: Any) -> str:
    """Write any value short enough for an error message."""
    if isinstance(value, int) and value.bit_length() > 128:
        return f"a number of {value.bit_length()} bits"
    if isinstance(value, Mapping):
        return f"an object with {len(value)} keys"
    if isinstance(value, list | tuple):
        return f"a list of {len(value)} items"
    text = repr(value[:80] if isinstance(value, str) else value)
    return text if len(text) <= 60 else text[:57] + "..."


def _mapping(value: Any, path: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise InvalidReport(f"{path}: expected an object, got {show(value)}")
    return value


def _items(value: Any, path: str, limit: int, read: Reader) -> list[Any]:
    if value is None:
        return []
    if not isinstance(value, list):
        raise InvalidReport(f"{path}: expected a list, got {show(value)}")
    if len(value) > limit:
        raise InvalidReport(f"{path}: a list of {len(value)} items, at most {limit} are taken")
    return [read(item, f"{path}[{index}]") for index, item in enumerate(value)]


def clean(text: str) -> str:
    """Replace what cannot be printed (NUL, control characters, lone surrogates) by spaces, and trim both ends."""
    if not text.isprintable():
        text = "".join(character if character.isprintable() else " " for character in text)
    return text.strip()


def _text(value: Any, path: str) -> str:
    if value is None:
        return ""
    if not isinstance(value, str):
        raise InvalidReport(f"{path}: expected a text, got {show(value)}")
    if len(value) > MAX_TEXT:
        raise InvalidReport(f"{path}: a text of {len(value)} characters, at most {MAX_TEXT} are taken: {show(value)}")
    return clean(value)


def _number(value: Any, path: str) -> int | None:
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool):
        raise InvalidReport(f"{path}: expected a whole number, got {show(value)}")
    low, high = RANGES.get(path.rpartition(".")[2], (0, MAX_NUMBER))
    if not low <= value <= high:
        raise InvalidReport(f"{path}: expected a number from {low} to {high}, got {show(value)}")
    return value


def _required_number(value: Any, path: str) -> int:
    number = _number(value, path)
    if number is None:
        raise InvalidReport(f"{path}: a number is missing")
    return number


def _truth(value: Any, path: str) -> bool | None:
    if value is not None and not isinstance(value, bool):
        raise InvalidReport(f"{path}: expected true or false, got {show(value)}")
    return value


def _seconds(value: Any, path: str) -> float:
    if value is None:
        return 0.0
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise InvalidReport(f"{path}: expected seconds, got {show(value)}")
    if isinstance(value, int) and value.bit_length() > 40:
        raise InvalidReport(f"{path}: expected seconds, got {show(value)}")
    if not math.isfinite(value) or not 0 <= value < 2**40:
        raise InvalidReport(f"{path}: expected seconds, got {show(value)}")
    return float(value)


def _boot_id(value: Any, path: str) -> str:
    text = _text(value, path)
    if not text or len(text) > 64:
        raise InvalidReport(f"{path}: expected the kernel's boot id of 1 to 64 characters, got {show(value)}")
    return text


def _mac(value: Any, path: str) -> Mac | typing.Literal[""]:
    text = _text(value, path)
    if not text:
        return ""
    try:
        return Mac.parse(text)
    except InvalidValue as error:
        raise InvalidReport(f"{path}: {error}") from None


def _uuid(value: Any, path: str) -> str:
    """Firmware writes "Not Settable" and the like where it has no UUID: that is none, not a mistake of the agent."""
    text = _text(value, path)
    try:
        return parse_uuid(text)
    except InvalidValue:
        return ""


# Texts with a meaning of their own, by the last word of their path.
SPECIAL: Mapping[str, Reader] = {"mac": _mac, "uuid": _uuid}
PLAIN: Mapping[Any, Reader] = {str: _text, bool: _truth, int: _required_number}


@cache
def _readers(kind: Any) -> tuple[tuple[str, Reader, Any], ...]:
    """For each field of a dataclass: its name, what reads it, and whether it may be left out."""
    hints = typing.get_type_hints(kind)
    rows = []
    for field in dataclasses.fields(kind):
        has_default = field.default is not dataclasses.MISSING or field.default_factory is not dataclasses.MISSING
        rows.append((field.name, _reader(field.name, hints[field.name]), has_default))
    return tuple(rows)


def _reader(name: str, hint: Any) -> Reader:
    if typing.get_origin(hint) is tuple:
        read, limit = _reader("", typing.get_args(hint)[0]), MAX_ITEMS[name]
        return lambda value, path: tuple(_items(value, path, limit, read))
    if isinstance(hint, types.UnionType):
        inner = next(part for part in typing.get_args(hint) if part is not types.NoneType)
        if inner is int:
            return _number
        read = _reader(name, inner)
        return lambda value, path: None if value is None else read(value, path)
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return lambda value, path: _record(hint, value, path)
    return SPECIAL.get(name) or PLAIN[hint]


def _record(kind: type[D], document: Any, path: str) -> D:
    top = _mapping(document, path)
    values = {}
    for name, read, has_default in _readers(typing.cast(typing.Hashable, kind)):
        value = top.get(name)
        if value is not None or not has_default:
            values[name] = read(value, f"{path}.{name}")
    return kind(**values)
