"""The example of a configuration file: written from the declarations of config.py, so that it cannot drift. PURE."""

from __future__ import annotations

import dataclasses
import textwrap
from collections.abc import Mapping
from enum import StrEnum
from typing import Any

from metalbox.config import SECTIONS, AcceptRule, Config, PowerBudget, Subnet

HEAD = """\
# The configuration of metalbox. Every setting is here, commented out, at its default: a file without any line works,
# and tells every boot client on every attached network what to boot, beside the site's own DHCP server (proxy mode).
# Check your changes with `metalbox config check FILE`.
"""

# A subnet has no defaults for its addresses; these stand in the example.
EXAMPLE_SUBNET: Mapping[str, str] = {
    "subnet": "192.0.2.0/24",
    "interface": "eth1",
    "pools": "[192.0.2.100-192.0.2.199]",
    "router": "192.0.2.1",
    "dns": "[192.0.2.53]",
    "reservations": "[{mac: '52:54:00:12:34:56', address: 192.0.2.10, hostname: db1}]",
}
# Nor has a budget a label of its own.
EXAMPLE_BUDGET: Mapping[str, str] = {"label": "rack"}
EXAMPLE_RULE: Mapping[str, str] = {"name": "rack-7", "location": "tor-7 *"}


def example() -> str:
    """Return the example file: all settings, each with its sentence, commented out at its default."""
    lines = [HEAD]
    lines += _example_lines(Config, "")
    for name, section in SECTIONS.items():
        lines += [f"# {section.__doc__}", f"#{name}:", *_example_lines(section, "  ")]
    lines += ["# The networks we serve; one not listed here is in dhcp.default_mode.", "#subnets:"]
    lines += _example_lines(Subnet, "    ", EXAMPLE_SUBNET)
    lines += ["# How quickly machines are switched on, so that a rack does not trip its breaker: default as they come."]
    lines += ["#power_budgets:", *_example_lines(PowerBudget, "    ", EXAMPLE_BUDGET)]
    lines += ["# What is done with new machines; default: nothing, a person decides.", "#accept_rules:"]
    lines += _example_lines(AcceptRule, "    ", EXAMPLE_RULE)
    text = "\n".join(lines) + "\n"
    for first in ("subnet", "label", "name"):
        text = text.replace(f"#    {first}:", f"#  - {first}:")
    return text


def _example_lines(kind: type[Any], indent: str, values: Mapping[str, str] | None = None) -> list[str]:
    lines = []
    for f in dataclasses.fields(kind):
        if "parse" not in f.metadata:
            continue
        unit = f" ({f.metadata['unit']})" if f.metadata["unit"] else ""
        value = (values or {}).get(f.name) or _yaml_value(f.default)
        sentence = textwrap.wrap(f.metadata["sentence"] + unit, 112 - len(indent))
        lines += [*(f"# {indent}{part}" for part in sentence), f"#{indent}{f.name}: {value}", ""]
    return lines


def _yaml_value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if value is None:
        return "null"
    if isinstance(value, tuple):
        return "[" + ", ".join(str(item) for item in value) + "]"
    if isinstance(value, str) and not isinstance(value, StrEnum):
        return f'"{value}"' if value == "" or ":" in value or "=" in value else value
    return str(value)
