"""How metalbox speaks to whatever switches a machine: one protocol, its values, and the table of drivers.

A driver says one thing to one management processor and reports what it was told; it never retries, never queues and
never remembers a failure (metalbox.power.polite does). Drivers are imported when first asked for, so that a site
without IPMI never loads pyghmi. Nothing here holds a password in a repr, a message or a log line.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol, cast

from metalbox.errors import BmcNotSupported, InvalidValue
from metalbox.machine import Mac


class PowerState(StrEnum):
    """Whether a machine is switched on, as last observed."""

    ON = "on"
    OFF = "off"
    UNKNOWN = "unknown"


class Device(StrEnum):
    """What the firmware shall start from. `NONE` clears an override."""

    PXE = "pxe"
    HTTP = "http"
    DISK = "disk"
    CDROM = "cdrom"
    BIOS = "bios"
    NONE = "none"


class Mode(StrEnum):
    """How the firmware shall start it; `KEEP` leaves what is set."""

    UEFI = "uefi"
    BIOS = "bios"
    KEEP = "keep"


# What `Power.can` may hold: the verbs beyond is_on, on, off and cycle.
VERBS = frozenset(
    {"boot_next", "identify", "console", "sensors", "event_log", "inventory", "accounts", "virtual_media"}
)


@dataclass(frozen=True, slots=True)
class Credentials:
    """An account of a BMC. The password is in no repr."""

    user: str
    password: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where and how a machine's power is reached: one row of the inventory, everything a driver needs to be made.

    `address` is an IP address or host name, with the libvirt driver the domain and with wol the machine's MAC; `port` 0
    is the driver's default; which `settings` a driver reads stands in its row of DRIVERS. With wol the password is the
    SecureOn password, six bytes written like a MAC.
    """

    driver: str
    address: str
    port: int = 0
    credentials: Credentials | None = None
    settings: Mapping[str, str] = field(default_factory=dict, hash=False, repr=False)


@dataclass(frozen=True, slots=True)
class Override:
    """What the BMC says is set for the next boots. No override is `Device.NONE`."""

    device: Device = Device.NONE
    mode: Mode = Mode.KEEP
    once: bool = True


@dataclass(frozen=True, slots=True)
class Sensor:
    """One reading. `value` is None for sensors that have states only, and for those that cannot be read now."""

    name: str
    kind: str = ""  # temperature, voltage, fan, power, ... in the BMC's word, lower case
    value: float | None = None
    unit: str = ""  # C, V, RPM, W, ...
    health: str = ""  # ok, warning, critical, or "" when the BMC does not say
    states: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class LogEntry:
    """One record of the BMC's own log (SEL). `at` is Unix seconds by the BMC's clock, None where it has none."""

    id: str
    text: str
    at: float | None = None
    severity: str = ""  # ok, warning, critical, or ""
    sensor: str = ""


@dataclass(frozen=True, slots=True)
class BmcInventory:
    """Who the BMC says the machine is. "" is: it does not say."""

    vendor: str = ""
    model: str = ""
    serial: str = ""
    uuid: str = ""
    macs: tuple[Mac, ...] = ()
    firmware: str = ""  # version of the BMC's own firmware
    bmc_mac: Mac | None = None
    bios: str = ""  # version of the machine's firmware


@dataclass(frozen=True, slots=True)
class Asked:
    """What a person shall do because no device can: a sentence for the timeline, and the state it leads to."""

    verb: str
    text: str
    expects: PowerState = PowerState.UNKNOWN


class Console(Protocol):
    """A machine's serial port: a stream of bytes in both directions, until it is lost or closed.

    Every failure is a PowerError; after the first one nothing but `close` makes sense.
    """

    # By which the BMC's side is recognised after a crash of ours (see Power.console); "" where it cannot be.
    mark: str = ""

    async def read(self) -> bytes:
        """Wait for what the machine wrote, at least one byte. Raises PowerError when the console is lost."""
        raise BmcNotSupported("this console cannot be read")

    async def write(self, data: bytes) -> None:
        """Type this; waits while the other side takes nothing."""
        raise BmcNotSupported("this console cannot be written to")

    async def send_break(self) -> None:
        """Hold the line low for a moment (the kernel's SysRq key on a serial console)."""
        raise BmcNotSupported("this console cannot send a serial break")

    async def close(self) -> None:
        """Give the session back; fine when done already, never raises."""
        return


class Power(Protocol):
    """One machine's power by one driver. Drivers inherit from it: a verb that they lack is BmcNotSupported.

    Made without I/O, safe to throw away, used by one task at a time. Verbs return when the BMC has accepted: whether it
    obeyed is read back by the caller with `is_on` and `override`. Every failure is a PowerError; cancelling is safe.
    """

    name: str
    can: frozenset[str] = frozenset()
    # Set by a verb that only a person can carry out (driver none): put it into the timeline and wait.
    asked: Asked | None = None

    async def is_on(self) -> bool:
        """Whether the machine is switched on. BmcNotSupported: nobody can tell."""
        raise self.unable("tell whether the machine is on")

    async def state(self) -> PowerState:
        """`is_on` as a value to be saved: UNKNOWN where nobody can tell. Other failures are raised."""
        try:
            return PowerState.ON if await self.is_on() else PowerState.OFF
        except BmcNotSupported:
            return PowerState.UNKNOWN

    async def on(self) -> None:
        """Switch on; nothing happens to a machine that is on."""
        raise self.unable("switch a machine on")

    async def off(self, *, graceful: bool = False) -> None:
        """Switch off; `graceful` asks the operating system, which may take minutes or not listen at all."""
        raise self.unable("switch a machine off")

    async def cycle(self) -> None:
        """Switch off and on (a cold start); a machine that is off is switched on."""
        raise self.unable("switch a machine off and on")

    async def boot_next(self, device: Device, *, mode: Mode = Mode.KEEP, once: bool = True) -> None:
        """Set what the firmware starts at the next boot (`once`) or from now on."""
        raise self.unable("set what the machine boots next")

    async def override(self) -> Override:
        """What is set for the next boots."""
        raise self.unable("tell what the machine boots next")

    async def identify(self, seconds: int = 15) -> None:
        """Blink the machine's light; 0 stops it."""
        raise self.unable("blink the machine's light")

    async def sensors(self) -> list[Sensor]:
        """Every sensor with its reading now."""
        raise self.unable("read sensors")

    async def event_log(self) -> list[LogEntry]:
        """The BMC's log, oldest first."""
        raise self.unable("read an event log")

    async def inventory(self) -> BmcInventory:
        """Who the BMC says the machine is."""
        raise self.unable("say what machine this is")

    async def console(self, *, force: bool = False, stale: str = "") -> Console:
        """Open the serial port, in a session of its own that outlives `close`. BmcConsoleInUse: another has it.

        `force` ends that other one; `stale` is the `mark` of a console that a crash left open, which is ended, too.
        """
        raise self.unable("open a serial console")

    async def close(self) -> None:
        """Give sessions and sockets back; fine when done already, never raises."""
        return

    def unable(self, what: str) -> BmcNotSupported:
        """The error that says this driver can not do `what` (an infinitive)."""
        return BmcNotSupported(f"the driver {self.name} cannot {what}")


@dataclass(frozen=True, slots=True)
class Driver:
    """One row of the table. The module offers `connect(endpoint: Endpoint) -> Power`, which does no I/O."""

    name: str
    module: str
    text: str
    port: int = 0  # the default port; 0: it has none
    wants_credentials: bool = False
    settings: Mapping[str, str] = field(default_factory=dict)  # name: what it is for


DRIVERS: Mapping[str, Driver] = {
    row.name: row
    for row in (
        Driver(
            "redfish",
            "metalbox.power.redfish",
            "Redfish over HTTPS",
            port=443,
            wants_credentials=True,
            settings={
                "scheme": "https (default) or http",
                "system": "path, Id, serial or UUID of the system, where the service has several",
                "verify": "no (default), yes, the path of a CA file, or sha256:<fingerprint of the certificate>",
                "auth": "auto (default: a session where the service has them), session or basic",
            },
        ),
        Driver(
            "ipmi",
            "metalbox.power.ipmi",
            "IPMI 2.0 over LAN (RMCP+)",
            port=623,
            wants_credentials=True,
            settings={
                "privilege": "administrator (default) or operator",
                "channel": "the LAN channel, where it is not the one that answers (default 14: this channel)",
                "kg": "the BMC's key Kg in hex, where one is set",
            },
        ),
        Driver(
            "none",
            "metalbox.power.none",
            "a person presses the button",
            settings={"state": "on or off: what a person said last", "machine": "its name, for the sentences"},
        ),
        Driver(
            "wol",
            "metalbox.power.wol",
            "Wake-on-LAN: switches on, nothing else",
            port=9,
            settings={
                "broadcast": "where the packet goes; default 255.255.255.255",
                "interface": "the network interface to send from; default by the routing table",
            },
        ),
        Driver(
            "libvirt",
            "metalbox.power.libvirt",
            "a libvirt domain, for labs and VM hosts",
            settings={"uri": "libvirt's connection URI; default qemu:///system"},
        ),
    )
}


def connect(endpoint: Endpoint) -> Power:
    """The object that speaks to this endpoint; nothing is sent yet. Raises InvalidValue for what cannot be right."""
    row = DRIVERS.get(endpoint.driver)
    if row is None:
        raise InvalidValue(f"there is no power driver {endpoint.driver!r}: write one of {', '.join(DRIVERS)}")
    if unknown := set(endpoint.settings) - set(row.settings):
        known = ", ".join(row.settings)
        raise InvalidValue(f"the driver {row.name} has no setting {', '.join(sorted(unknown))}: it knows {known}")
    make = cast(Callable[[Endpoint], Power], importlib.import_module(row.module).connect)
    return make(endpoint)
