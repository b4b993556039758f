"""What a Redfish service says of a machine's serial console: properties SerialConsole of ComputerSystem and Manager.

Redfish names ways to a console and has none itself. Of those, IPMI is driven (Serial over LAN at the same BMC); SSH and
Telnet are told to the operator, with port and command. The graphical one is no stream of characters: it is only named.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

Json = Mapping[str, Any]
# In ComputerSystem (v1.13 on) each has an object of its own; in Manager they are words of a list.
WAYS = ("IPMI", "SSH", "Telnet", "Oem")
PORTS = {"IPMI": 623, "SSH": 22, "Telnet": 23}


@dataclass(frozen=True, slots=True)
class Way:
    """One way to the console. `command` is what SSH's own shell wants to hear first."""

    name: str
    port: int = 0
    command: str = ""

    def __str__(self) -> str:
        port = f" at port {self.port}" if self.port and self.port != PORTS.get(self.name) else ""
        return f"{self.name}{port}" + (f" (then `{self.command}`)" if self.command else "")


@dataclass(frozen=True, slots=True)
class Offer:
    """All ways that are switched on, and those that are there and switched off."""

    ways: tuple[Way, ...] = ()
    off: tuple[str, ...] = ()
    graphical: tuple[str, ...] = ()

    @property
    def ipmi_port(self) -> int:
        """Where Serial over LAN is offered; 0: nowhere."""
        return next((way.port or PORTS["IPMI"] for way in self.ways if way.name == "IPMI"), 0)

    def sentence(self, where: str) -> str:
        """Why there is no console by this service, and how one reaches it all the same."""
        if self.ways:
            ways = " or ".join(map(str, self.ways))
            ssh = next((way for way in self.ways if way.name == "SSH"), None)
            how = f": use `ssh -p {ssh.port or 22}` with the BMC's account" if ssh else ""
            return f"{where} offers its console by {ways} only, which metalbox does not speak{how}"
        if self.off:
            return f"the serial console of {where} is switched off ({', '.join(self.off)}): switch it on in the BMC"
        screen = f"; it has a graphical one ({', '.join(self.graphical)}), for its web page" if self.graphical else ""
        return f"{where} offers no serial console{screen}"


def read_offer(system: Json, manager: Json) -> Offer:
    """What the two resources say; the system's own word is preferred, since it names ports."""
    ways = {way.name: way for way in _of_manager(manager)}
    off = set(_off_in_manager(manager))
    for name, row in _rows(system):
        if row.get("ServiceEnabled") is False:
            ways.pop(name, None)
            off.add(name)
            continue
        port = row.get("Port")
        command = row.get("ConsoleEntryCommand")
        ways[name] = Way(
            name, port if isinstance(port, int) and 0 < port < 65536 else 0, command if isinstance(command, str) else ""
        )
        off.discard(name)
    ordered = tuple(ways[name] for name in WAYS if name in ways)
    screens = dict.fromkeys((*_types(system, "GraphicalConsole"), *_types(manager, "GraphicalConsole")))
    return Offer(ordered, tuple(name for name in WAYS if name in off and name not in ways), tuple(screens))


def _rows(system: Json) -> Iterator[tuple[str, Json]]:
    console = system.get("SerialConsole")
    if isinstance(console, Mapping):
        for name in WAYS:
            if isinstance(row := console.get(name), Mapping):
                yield name, row


def _of_manager(manager: Json) -> Iterator[Way]:
    console = manager.get("SerialConsole")
    if isinstance(console, Mapping) and console.get("ServiceEnabled") is not False:
        yield from (Way(name) for name in _types(manager, "SerialConsole") if name in WAYS)


def _off_in_manager(manager: Json) -> list[str]:
    console = manager.get("SerialConsole")
    is_off = isinstance(console, Mapping) and console.get("ServiceEnabled") is False
    return _types(manager, "SerialConsole") if is_off else []


def _types(resource: Json, name: str) -> list[str]:
    console = resource.get(name)
    types = console.get("ConnectTypesSupported") if isinstance(console, Mapping) else None
    return [word for word in types if isinstance(word, str)] if isinstance(types, list) else []
