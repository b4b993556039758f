"""libvirt domains by `virsh` (package libvirt-clients), for labs and for the machines of a VM host.

A boot override is written into the domain's definition, which libvirt reads at each power-on. `once` is kept by this
driver: right after it has switched the domain on it takes the override out of the definition, and out of the running
QEMU as well, so that the guest's own reboot follows the owner's order again. So an override meant once waits for a
power-on (or cycle) through metalbox; a domain that someone else starts meanwhile obeys it and keeps it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import signal
from collections.abc import Iterator, Mapping
from urllib.parse import urlsplit

from metalbox.errors import (
    BmcConsoleInUse,
    BmcGarbage,
    BmcHung,
    BmcNotSupported,
    BmcRefused,
    BmcUnreachable,
    BmcWrongPassword,
    InvalidValue,
    PowerError,
)
from metalbox.power import BmcInventory, Console, Device, Endpoint, Mode, Override, Power
from metalbox.power.domain import Domain
from metalbox.power.threads import Slots
from metalbox.power.virshconsole import open_virsh

log = logging.getLogger("metalbox.power")

DEFAULT_URI = "qemu:///system"
# Each virsh is a process of some 20 MB for some 15 ms.
SLOTS = Slots(8)
# Reading; `start` and `destroy` may wait for QEMU, which libvirt gives 30 s to end.
ASK_SECONDS = 20.0
ACT_SECONDS = 60.0

# What virsh writes (LC_ALL=C), from libvirt 7 to 11, and what it means. The first that fits decides.
MEANINGS: tuple[tuple[str, type[PowerError]], ...] = (
    ("authentication", BmcWrongPassword),
    ("Permission denied (", BmcWrongPassword),  # ssh
    ("failed to get domain", BmcRefused),
    ("failed to connect to the hypervisor", BmcUnreachable),
    ("Cannot recv data", BmcUnreachable),
    ("client socket is closed", BmcUnreachable),
    ("is not supported", BmcNotSupported),
    ("Active console session exists", BmcConsoleInUse),
    ("is not using a PTY", BmcNotSupported),
)


class LibvirtPower(Power):
    """One domain. Each `virsh` is killed when its time is over or its caller is cancelled."""

    name = "libvirt"
    can = frozenset({"boot_next", "inventory", "console"})

    def __init__(self, domain: str, uri: str) -> None:
        self.domain = domain
        self.uri = uri

    async def is_on(self) -> bool:
        """Whether QEMU runs; a paused or crashed guest that still has its process counts as on."""
        state = await self._virsh("domstate", "--", self.domain)
        if not state:
            raise BmcGarbage(f"virsh says nothing about the state of {self.domain}")
        return state != "shut off"

    async def on(self) -> None:
        """Start the domain."""
        try:
            await self._virsh("start", "--", self.domain, seconds=ACT_SECONDS)
        except BmcRefused as error:
            if "already active" not in error.evidence:
                raise
            return
        await self._use_up_override()

    async def off(self, *, graceful: bool = False) -> None:
        """Pull the plug; `graceful` presses the ACPI power button once."""
        try:
            await self._virsh("shutdown" if graceful else "destroy", "--", self.domain, seconds=ACT_SECONDS)
        except BmcRefused as error:
            if "not running" not in error.evidence:
                raise

    async def cycle(self) -> None:
        """Pull the plug and start it: a new QEMU, by the definition as it is now."""
        await self.off()
        await self.on()

    async def boot_next(self, device: Device, *, mode: Mode = Mode.KEEP, once: bool = True) -> None:
        """Write the override into the definition; a running domain follows a lasting one at its next reboot."""
        domain = await self._definition()
        domain.set_override(device, mode, once)
        await self._define(domain)
        if device is Device.NONE or not once:
            await self._renumber_running(domain)

    async def override(self) -> Override:
        """What stands in the definition."""
        return (await self._definition()).override

    async def inventory(self) -> BmcInventory:
        """Who the domain is to its guest."""
        return (await self._definition()).inventory()

    async def console(self, *, force: bool = False, stale: str = "") -> Console:
        """The domain's first serial port, by `virsh console`; libvirt itself ends that of a crashed client."""
        return await open_virsh(self.domain, self.uri, lambda text: self._failure("console", text), force=force)

    # -- the definition ------------------------------------------------------------------------------------------

    async def _definition(self) -> Domain:
        # --security-info: what is left out here (a VNC password) would be lost when the domain is defined again.
        return Domain(await self._virsh("dumpxml", "--inactive", "--security-info", "--", self.domain))

    async def _define(self, domain: Domain) -> None:
        with _in_memory(domain.text()) as file:
            await self._virsh("define", "--", f"/proc/self/fd/{file}", keep=file)

    async def _use_up_override(self) -> None:
        domain = await self._definition()
        override = domain.override
        if override.device is Device.NONE or not override.once:
            return
        domain.clear_override()
        await self._define(domain)
        await self._renumber_running(domain)

    async def _renumber_running(self, domain: Domain) -> None:
        """Give the order of a definition to the running QEMU: the firmware reads it at the guest's next reset."""
        try:
            if not await self.is_on():
                return
            wanted = domain.boot_indexes(Domain(await self._virsh("dumpxml", "--", self.domain)))
            # No two devices may have one number, not even for a moment.
            for alias, index in [*((alias, -1) for alias in wanted), *wanted.items()]:
                await self._set_boot_index(alias, index)
        except PowerError as error:
            # The definition is right; a guest that reboots by itself before the next power-on sees the old order.
            log.warning("%s: its running QEMU keeps the boot order it was started with: %s", self.domain, error)

    async def _set_boot_index(self, alias: str, index: int) -> None:
        arguments = {"path": f"/machine/peripheral/{alias}", "property": "bootindex", "value": index}
        order = json.dumps({"execute": "qom-set", "arguments": arguments})
        answer = await self._virsh("qemu-monitor-command", "--", self.domain, order)
        if '"error"' in answer:
            raise BmcRefused(f"QEMU does not change the boot index of {alias} in {self.domain}", evidence=answer)

    # -- virsh ---------------------------------------------------------------------------------------------------

    async def _virsh(self, *command: str, seconds: float = ASK_SECONDS, keep: int | None = None) -> str:
        """Run one command to its end and return what it wrote; `keep` is a file descriptor that it shall have."""
        async with SLOTS.take():
            try:
                process = await asyncio.create_subprocess_exec(
                    *("virsh", "--quiet", "--connect", self.uri, *command),
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=asyncio.subprocess.PIPE,
                    stderr=asyncio.subprocess.PIPE,
                    env={**os.environ, "LC_ALL": "C"},
                    pass_fds=() if keep is None else (keep,),
                    start_new_session=True,
                )
            except FileNotFoundError:
                raise BmcNotSupported("there is no virsh here: install the package libvirt-clients") from None
            try:
                async with asyncio.timeout(seconds):
                    output, errors = await process.communicate()
            except TimeoutError:
                raise BmcHung(f"virsh {command[0]} {self.domain} did not end within {seconds:g} s") from None
            finally:
                await _end(process)
        if process.returncode:
            raise self._failure(command[0], errors.decode(errors="replace"))
        return output.decode(errors="replace").strip()

    def _failure(self, verb: str, errors: str) -> PowerError:
        lines = [line.strip() for line in errors.splitlines() if line.strip()]
        # What virsh writes to a terminal begins with a greeting.
        lines = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")] or lines
        evidence = "; ".join(lines)
        kind = next((kind for words, kind in MEANINGS if words in evidence), BmcRefused)
        if kind is BmcUnreachable:
            return kind(f"libvirt at {self.uri} does not answer: {lines[-1]}", evidence=evidence)
        return kind(
            f"virsh {verb} {self.domain} failed: {lines[-1] if lines else 'no reason given'}", evidence=evidence
        )


async def _end(process: asyncio.subprocess.Process) -> None:
    """Kill what still runs, with the ssh that virsh may have started."""
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await asyncio.shield(process.wait())


@contextlib.contextmanager
def _in_memory(text: str) -> Iterator[int]:
    """The descriptor of a file that is on no disk, since a definition may hold a console's password."""
    file = os.memfd_create("domain")
    try:
        os.write(file, text.encode())
        os.lseek(file, 0, os.SEEK_SET)
        yield file
    finally:
        os.close(file)


def connect(endpoint: Endpoint) -> Power:
    """The domain named by the endpoint's address (a name or a UUID). Raises InvalidValue."""
    domain = endpoint.address
    settings: Mapping[str, str] = endpoint.settings
    uri = settings.get("uri") or DEFAULT_URI
    if not domain or domain.isdecimal():
        # virsh takes a number for the passing id of whatever domain has it now.
        raise InvalidValue(f"{domain!r} is no name of a libvirt domain: write its name, or its UUID")
    if urlsplit(uri).password is not None:
        raise InvalidValue("libvirt takes no password from its URI: name an authfile in it, or use qemu+ssh with a key")
    return LibvirtPower(domain, uri)
