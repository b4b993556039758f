"""No management processor: a person presses the button, and metalbox asks for it in sentences.

A verb does nothing but leave an `Asked` behind; the caller puts its text into the timeline and waits until someone, or
the machine itself by starting, tells what is so now. The state is what was told last (`settings["state"]`), never a
guess.
"""

from __future__ import annotations

from metalbox.errors import InvalidValue
from metalbox.power import Asked, Device, Endpoint, Mode, Power, PowerState

DEVICES: dict[Device, str] = {
    Device.PXE: "start from the network",
    Device.HTTP: "start from the network by HTTP",
    Device.DISK: "start from its disk",
    Device.CDROM: "start from its CD drive",
    Device.BIOS: "show its firmware's setup",
    Device.NONE: "start as its firmware is set up",
}


class NonePower(Power):
    """One machine and the person before it. `asked` is what the last verb wants of them, None when nothing."""

    name = "none"
    can = frozenset({"boot_next", "identify"})

    def __init__(self, machine: str, told: PowerState = PowerState.UNKNOWN) -> None:
        self.machine = machine
        self.told = told

    async def is_on(self) -> bool:
        """What was told last; BmcNotSupported when nothing was."""
        if self.told is PowerState.UNKNOWN:
            raise self.unable(f"tell whether {self.machine} is on: nobody has said so yet")
        return self.told is PowerState.ON

    async def on(self) -> None:
        """Ask for the power button, unless it is known to be on."""
        text = f"Switch {self.machine} on: press its power button."
        self._ask("on", text, PowerState.ON)

    async def off(self, *, graceful: bool = False) -> None:
        """Ask for it to be shut down or switched off, unless it is known to be off."""
        if graceful:
            text = f"Shut {self.machine} down from its operating system, or press its power button once."
        else:
            text = f"Switch {self.machine} off: hold its power button down until it is off."
        self._ask("off", text, PowerState.OFF)

    async def cycle(self) -> None:
        """Ask for off and on."""
        text = f"Switch {self.machine} off, wait ten seconds, and switch it on again."
        self.asked = Asked("cycle", text, PowerState.ON)

    async def boot_next(self, device: Device, *, mode: Mode = Mode.KEEP, once: bool = True) -> None:
        """Ask for the key of the boot menu (once) or for the firmware's setup; NONE asks for nothing."""
        if device is Device.NONE and once:
            self.asked = None
            return
        how = "" if mode is Mode.KEEP else f" in {mode.upper()} mode"
        if once:
            text = f"When {self.machine} starts, let it {DEVICES[device]}{how}: press the key of its boot menu."
        else:
            text = f"In the firmware's setup of {self.machine}, let it always {DEVICES[device]}{how}."
        self.asked = Asked("boot_next", text)

    async def identify(self, seconds: int = 15) -> None:
        """Ask someone to go and look."""
        self.asked = Asked("identify", f"Find {self.machine} and mark it: it has no light that metalbox could switch.")

    def _ask(self, verb: str, text: str, expects: PowerState) -> None:
        self.asked = None if self.told is expects else Asked(verb, text, expects)


def connect(endpoint: Endpoint) -> Power:
    """The machine named by the setting `machine`, or by the address. Raises InvalidValue."""
    state = endpoint.settings.get("state", PowerState.UNKNOWN)
    if state not in list(PowerState):
        raise InvalidValue(f"{state!r} is no power state: write {', '.join(PowerState)}")
    machine = endpoint.settings.get("machine") or endpoint.address or "the machine"
    return NonePower(machine, PowerState(state))
