"""How one value of the configuration file is read: each function checks what YAML made of it. PURE.

What cannot be right is InvalidValue, a sentence with the value; the caller adds file and line.
"""

from __future__ import annotations

import contextlib
import ipaddress
from collections.abc import Callable
from enum import StrEnum
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Any

from metalbox.errors import InvalidValue
from metalbox.machine import Mac

Parse = Callable[[Any], Any]

# Linux limits an interface name to IFNAMSIZ - 1 bytes.
MAX_INTERFACE_NAME = 15


def as_text(value: Any) -> str:
    """A text; a number is taken as it is written."""
    if not isinstance(value, str | int | float) or isinstance(value, bool):
        raise InvalidValue(f"expected a text, got {value!r}")
    return str(value)


def as_truth(value: Any) -> bool:
    """true or false."""
    if not isinstance(value, bool):
        raise InvalidValue(f"expected true or false, got {value!r}")
    return value


def as_number(low: int, high: int) -> Parse:
    """A whole number from `low` to `high`, both included."""

    def parse(value: Any) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise InvalidValue(f"expected a whole number from {low} to {high}, got {value!r}")
        return value

    return parse


def as_decimal(low: float, high: float) -> Parse:
    """A number with or without decimals, as a float."""

    def parse(value: Any) -> float:
        if not isinstance(value, int | float) or isinstance(value, bool) or not low <= value <= high:
            raise InvalidValue(f"expected a number from {low:g} to {high:g}, got {value!r}")
        return float(value)

    return parse


def as_choice(kind: type[StrEnum]) -> Parse:
    """A value of an enumeration."""

    def parse(value: Any) -> StrEnum:
        # YAML 1.1 reads a bare `off` as false; people mean the word.
        if value is False:
            value = "off"
        try:
            return kind(value)
        except ValueError:
            raise InvalidValue(f"expected one of {', '.join(kind)}, got {value!r}") from None

    return parse


def as_word(*words: str) -> Parse:
    """One of these words."""

    def parse(value: Any) -> str:
        if value not in words:
            raise InvalidValue(f"expected one of {', '.join(words)}, got {value!r}")
        return str(value)

    return parse


def as_path(value: Any) -> Path:
    """A path, which need not exist."""
    if not isinstance(value, str) or not value:
        raise InvalidValue(f"expected a path, got {value!r}")
    return Path(value)


def as_optional(parse: Parse) -> Parse:
    """What `parse` reads, or null."""
    return lambda value: None if value is None else parse(value)


def as_address(value: Any) -> IPv4Address:
    """An IPv4 address."""
    try:
        return IPv4Address(value if isinstance(value, str) else "")
    except ValueError:
        raise InvalidValue(f"expected an IPv4 address like 192.0.2.1, got {value!r}") from None


def as_network(value: Any) -> IPv4Network:
    """An IPv4 network, without host bits."""
    try:
        return IPv4Network(value if isinstance(value, str) else "")
    except ValueError:
        hint = ""
        with contextlib.suppress(ValueError):
            hint = f"; did you mean {ipaddress.ip_network(str(value), strict=False)}?"
        raise InvalidValue(f"expected a network like 192.0.2.0/24, got {value!r}{hint}") from None


def as_mac(value: Any) -> Mac:
    """A hardware address."""
    # YAML 1.1 reads 52:54:00:11:22:33 unquoted as a base-60 number when all parts are below 60.
    if isinstance(value, int):
        raise InvalidValue(f"expected a MAC address, but YAML read the number {value}: put the address in quotes")
    return Mac.parse(as_text(value))


def as_interface(value: Any) -> str:
    """The name of a network interface."""
    name = as_text(value)
    if not name or len(name) > MAX_INTERFACE_NAME or "/" in name or " " in name:
        raise InvalidValue(f"expected the name of a network interface like eth0, got {value!r}")
    return name


def as_list(parse: Parse) -> Parse:
    """A list of what `parse` reads."""

    def parse_all(value: Any) -> tuple[Any, ...]:
        if not isinstance(value, list):
            raise InvalidValue(f"expected a list, got {value!r}")
        return tuple(parse(item) for item in value)

    return parse_all
