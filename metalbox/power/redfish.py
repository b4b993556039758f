"""The Redfish driver: a machine behind a service as DSP0266 describes it, and as it is found in the field.

Each verb is one piece of blocking work in a thread, over one session that is opened by the first verb and closed by
`close`. A BMC that stands for several machines (blade chassis, multi-node boxes, emulators) is asked for the one that
the setting `system` names. What differs between vendors stands in metalbox.power.quirks and nowhere here.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from metalbox.errors import BmcNotSupported, BmcRefused, InvalidValue, PowerError
from metalbox.machine import Mac
from metalbox.power import BmcInventory, Console, Device, Endpoint, LogEntry, Mode, Override, Power, Sensor
from metalbox.power import connect as connect_driver
from metalbox.power import redfish_values as values
from metalbox.power.consoleoffer import Offer, read_offer
from metalbox.power.quirks import Behaviour, Identity, Quirk, behaviour_of, quirks_of
from metalbox.power.threads import threads

if TYPE_CHECKING:
    from metalbox.power.redfish_session import Access, Resource, Session

T = TypeVar("T")

# Each thread waits for one BMC; a lap over a thousand of them with fifty that hang leaves most for the healthy.
THREADS = threads(128)
# The longest verb is the inventory of a slow BMC: about 30 requests of a second each.
VERB_SECONDS = 60.0
# How long a forced power-off may take before the power-on that follows it, where the BMC knows no cycle.
OFF_SECONDS = 20.0
MAX_MEMBERS = 128
MAX_LOG_PAGES = 20
# Entries that are listed as references only cost one request each: the newest are fetched.
MAX_LOG_FETCHES = 64

# Blocking for 0.3 s and needed only by those who have Redfish: sushy is imported in the thread, by the first verb.
Work = Callable[["Session"], T]


class Redfish(Power):
    """One system of one Redfish service."""

    name = "redfish"
    can = frozenset({"boot_next", "identify", "sensors", "event_log", "inventory", "console"})

    def __init__(self, endpoint: Endpoint, *, request_seconds: float = 0.0, verb_seconds: float = VERB_SECONDS) -> None:
        """`request_seconds` 0 is metalbox.power.redfish_session.REQUEST_SECONDS. Raises InvalidValue."""
        self.endpoint = endpoint
        self.request_seconds = request_seconds
        self.verb_seconds = verb_seconds
        self.url = _url(endpoint)
        self.verify, self.fingerprint = _verify(endpoint.settings.get("verify", "no"))
        self.log_in = _one_of(endpoint, "auth", ("auto", "session", "basic"))
        self._session: Session | None = None
        self._is_closed = False
        self._system_path = ""
        self._identity: Identity | None = None

    # -- the protocol --------------------------------------------------------------------------------------------

    async def is_on(self) -> bool:
        return await self._run(lambda session: values.is_on(self._system(session).body))

    async def on(self) -> None:
        await self._run(self._switch_on)

    async def off(self, *, graceful: bool = False) -> None:
        await self._run(lambda session: self._switch_off(session, graceful=graceful))

    async def cycle(self) -> None:
        await self._run(self._cycle)

    async def boot_next(self, device: Device, *, mode: Mode = Mode.KEEP, once: bool = True) -> None:
        await self._run(lambda session: self._boot_next(session, device, mode, once=once))

    async def override(self) -> Override:
        return await self._run(self._override)

    async def identify(self, seconds: int = 15) -> None:
        """Blink the light until `identify(0)`: Redfish has no duration."""
        await self._run(lambda session: self._identify(session, lit=seconds > 0))

    async def sensors(self) -> list[Sensor]:
        return await self._run(self._sensors)

    async def event_log(self) -> list[LogEntry]:
        return await self._run(self._event_log)

    async def inventory(self) -> BmcInventory:
        return await self._run(self._inventory)

    async def console(self, *, force: bool = False, stale: str = "") -> Console:
        """Serial over LAN at this BMC with the same account, where it is offered; else BmcNotSupported says what is."""
        offer = await self._run(self._console_offer)
        if not offer.ipmi_port:
            raise BmcNotSupported(offer.sentence(self.url))
        lan = Endpoint("ipmi", self.endpoint.address, offer.ipmi_port, self.endpoint.credentials)
        return await connect_driver(lan).console(force=force, stale=stale)

    async def quirks(self) -> tuple[Quirk, ...]:
        """The rows of the table that are about this BMC."""
        return await self._run(lambda session: quirks_of(self._who(session)))

    async def close(self) -> None:
        self._is_closed = True
        if self._session is None:
            return
        try:
            await THREADS.run(self._end, key=self.url, seconds=self.verb_seconds)
        except PowerError:
            # It hangs; the thread that does will close the session itself.
            return

    # -- in the thread -------------------------------------------------------------------------------------------

    async def _run(self, work: Work[T]) -> T:
        self._is_closed = False
        return await THREADS.run(self._work, work, key=self.url, seconds=self.verb_seconds)

    def _work(self, work: Work[T]) -> T:
        from metalbox.power.redfish_session import Session

        if self._session is None:
            self._session = Session(self._access())
        try:
            return work(self._session)
        finally:
            # The caller gave up and closed while the BMC was still thinking.
            if self._is_closed:
                self._end()

    def _end(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            session.close()

    def _access(self) -> Access:
        from metalbox.power.redfish_session import REQUEST_SECONDS, Access

        return Access(
            url=self.url,
            credentials=self.endpoint.credentials,
            verify=self.verify,
            fingerprint=self.fingerprint,
            log_in=self.log_in,
            request_seconds=self.request_seconds or REQUEST_SECONDS,
        )

    # -- which system, and who made it ---------------------------------------------------------------------------

    def _system(self, session: Session) -> Resource:
        if not self._system_path:
            self._system_path = self._find_system(session)
        try:
            return session.get(self._system_path)
        except BmcNotSupported as error:
            raise BmcRefused(f"{self.url} has no system {self._system_path}", evidence=error.evidence) from None

    def _find_system(self, session: Session) -> str:
        wanted = self.endpoint.settings.get("system", "")
        if wanted.startswith("/"):
            return wanted
        collection = values.link(session.root, "Systems")
        if not collection:
            raise BmcNotSupported(f"{self.url} is a Redfish service without systems")
        paths = values.links(session.get(collection).body, "Members")
        if wanted:
            return self._choose_system(session, paths, wanted)
        if len(paths) != 1:
            raise BmcRefused(
                f"{self.url} stands for {len(paths)} machines: set `system` to a path, serial or UUID of one of them",
                evidence=", ".join(paths[:8]),
            )
        return paths[0]

    def _choose_system(self, session: Session, paths: list[str], wanted: str) -> str:
        for path in paths[:MAX_MEMBERS]:
            if path.rstrip("/").rsplit("/", 1)[-1] == wanted:
                return path
        for path in paths[:MAX_MEMBERS]:
            body = session.get(path).body
            names = {values.text(body, name).lower() for name in ("Id", "Name", "SerialNumber", "SKU", "UUID")}
            if wanted.lower() in names:
                return path
        raise BmcRefused(
            f"{self.url} has no system {wanted!r}: set `system` to a path, serial or UUID of one of them",
            evidence=", ".join(paths[:8]),
        )

    def _who(self, session: Session) -> Identity:
        if self._identity is None:
            system = self._system(session).body
            manager = self._manager(session, system)
            words = [values.text(session.root, name) for name in ("Product", "Name")]
            words += [values.text(manager, name) for name in ("Model", "Name", "Id")]
            self._identity = Identity(
                vendor=values.text(system, "Manufacturer") or values.text(session.root, "Vendor"),
                model=values.text(system, "Model"),
                bmc=" ".join(word for word in words if word),
                firmware=values.text(manager, "FirmwareVersion"),
            )
        return self._identity

    def _behaviour(self, session: Session) -> Behaviour:
        return behaviour_of(self._who(session))

    def _manager(self, session: Session, system: values.Json) -> values.Json:
        """The BMC's own resource; empty when the service has none."""
        paths = values.links(system, "Links", "ManagedBy")
        if not paths and (collection := values.link(session.root, "Managers")):
            found = _optional(session, collection)
            paths = values.links(found, "Members") if found else []
        return (_optional(session, paths[0]) or {}) if paths else {}

    def _console_offer(self, session: Session) -> Offer:
        system = self._system(session).body
        return read_offer(system, self._manager(session, system))

    # -- power ---------------------------------------------------------------------------------------------------

    def _switch_on(self, session: Session) -> None:
        system = self._system(session)
        if not values.is_on(system.body):
            self._reset(session, system, values.ON, "switch the machine on")

    def _switch_off(self, session: Session, *, graceful: bool) -> None:
        system = self._system(session)
        if not values.is_on(system.body):
            return
        if graceful:
            self._reset(session, system, values.SHUTDOWN, "ask the operating system to shut down")
        else:
            self._reset(session, system, values.OFF, "switch the machine off")

    def _cycle(self, session: Session) -> None:
        system = self._system(session)
        if not values.is_on(system.body):
            self._reset(session, system, values.ON, "switch the machine on")
            return
        if values.choose_reset(values.CYCLE, self._offered(session, system), self._behaviour(session)):
            self._reset(session, system, values.CYCLE, "switch the machine off and on")
            return
        self._reset(session, system, values.OFF, "switch the machine off")
        deadline = time.monotonic() + OFF_SECONDS
        while values.is_on(self._system(session).body):
            if time.monotonic() > deadline:
                raise BmcRefused(f"the machine was told to switch off and is still on after {OFF_SECONDS:g} s")
            time.sleep(1.0)
        self._reset(session, system, values.ON, "switch the machine on")

    def _offered(self, session: Session, system: Resource) -> frozenset[str]:
        action = values.section(system.body, "Actions", "#ComputerSystem.Reset")
        info = values.text(action, "@Redfish.ActionInfo")
        lists = "ResetType@Redfish.AllowableValues" in action
        return values.reset_types(system.body, _optional(session, info) if info and not lists else None)

    def _reset(self, session: Session, system: Resource, wanted: tuple[str, ...], what: str) -> None:
        offered = self._offered(session, system)
        kind = values.choose_reset(wanted, offered, self._behaviour(session))
        if kind is None:
            raise BmcNotSupported(f"the BMC cannot {what}: it offers {', '.join(sorted(offered))}")
        action = values.section(system.body, "Actions", "#ComputerSystem.Reset")
        target = values.text(action, "target") or f"{system.path.rstrip('/')}/Actions/ComputerSystem.Reset"
        session.post(target, {"ResetType": kind})

    # -- boot ----------------------------------------------------------------------------------------------------

    def _boot_next(self, session: Session, device: Device, mode: Mode, *, once: bool) -> None:
        from metalbox.power.redfish_session import MovedToSettings

        behaviour = self._behaviour(session)
        holder = self._boot_holder(session, behaviour)
        body = values.boot_body(values.section(holder.body, "Boot"), behaviour, device, mode, once=once)
        try:
            session.patch(holder, body, needs_etag=behaviour.needs_etag)
        except MovedToSettings:
            # A service that no row of the table knows says itself where it wants this.
            system = self._system(session)
            path = values.settings_path(system.body, system.path, behaviour) or system.path.rstrip("/") + "/SD"
            if path == holder.path:
                raise
            session.patch(session.get(path), body, needs_etag=True)

    def _boot_holder(self, session: Session, behaviour: Behaviour) -> Resource:
        """The resource whose Boot is written and read back."""
        system = self._system(session)
        if behaviour.boot_in_settings and (path := values.settings_path(system.body, system.path, behaviour)):
            try:
                future = session.get(path)
            except BmcNotSupported:
                return system
            # Some have the resource and nothing of Boot in it.
            return future if values.section(future.body, "Boot") else system
        return system

    def _override(self, session: Session) -> Override:
        holder = self._boot_holder(session, self._behaviour(session))
        return values.read_override(values.section(holder.body, "Boot"))

    # -- light, sensors, log -------------------------------------------------------------------------------------

    def _identify(self, session: Session, *, lit: bool) -> None:
        behaviour = self._behaviour(session)
        system = self._system(session)
        places = [system, *self._chassis(session, system.body)]
        for place in places:
            if isinstance(place.body.get("LocationIndicatorActive"), bool):
                session.patch(place, {"LocationIndicatorActive": lit}, needs_etag=behaviour.needs_etag)
                return
        for place in places:
            if values.text(place.body, "IndicatorLED"):
                state = "Blinking" if lit else behaviour.light_off
                session.patch(place, {"IndicatorLED": state}, needs_etag=behaviour.needs_etag)
                return
        raise BmcNotSupported("the BMC has no light to find the machine by")

    def _chassis(self, session: Session, system: values.Json) -> list[Resource]:
        paths = values.links(system, "Links", "Chassis")
        if not paths and (collection := values.link(session.root, "Chassis")):
            paths = values.links(_optional(session, collection) or {}, "Members")
        found = []
        for path in paths[:4]:
            try:
                found.append(session.get(path))
            except (BmcNotSupported, BmcRefused):
                continue
        return found

    def _sensors(self, session: Session) -> list[Sensor]:
        found: list[Sensor] = []
        for chassis in self._chassis(session, self._system(session).body):
            thermal = _optional(session, values.link(chassis.body, "Thermal"))
            power = _optional(session, values.link(chassis.body, "Power"))
            found += values.sensors_of_thermal(thermal or {}) + values.sensors_of_power(power or {})
            if not found:
                for member in self._members(session, values.link(chassis.body, "Sensors")):
                    found.append(values.sensor_of(member))
        return found

    def _event_log(self, session: Session) -> list[LogEntry]:
        system = self._system(session).body
        service = self._log_service(session, system)
        entries: list[values.Json] = []
        path = values.link(service, "Entries")
        for _ in range(MAX_LOG_PAGES):
            page = session.get(path).body if path else {}
            entries += values.items(page, "Members")
            path = values.text(page, "Members@odata.nextLink")
            if not path:
                break
        whole = [entry for entry in entries if "Message" in entry or "Created" in entry]
        if not whole:
            paths = [values.text(entry, "@odata.id") for entry in entries[-MAX_LOG_FETCHES:]]
            whole = [entry for path in paths if (entry := _optional(session, path))]
        return values.oldest_first([values.log_entry(entry) for entry in whole])

    def _log_service(self, session: Session, system: values.Json) -> values.Json:
        # Supermicro keeps hardware events with the system and its own with the manager (Linuxfabrik
        # monitoring-plugins pull 866); Dell has the SEL with the manager, Lenovo with the chassis too.
        holders: list[values.Json] = [system, self._manager(session, system)]
        holders += [chassis.body for chassis in self._chassis(session, system)]
        paths: list[str] = []
        for holder in holders:
            collection = _optional(session, values.link(holder, "LogServices"))
            paths += values.links(collection or {}, "Members")
        for path in sorted(dict.fromkeys(paths), key=values.log_rank):
            service = _optional(session, path)
            if service and values.link(service, "Entries"):
                return service
        raise BmcNotSupported("the BMC has no event log")

    # -- inventory -----------------------------------------------------------------------------------------------

    def _inventory(self, session: Session) -> BmcInventory:
        system = self._system(session).body
        manager = self._manager(session, system)
        who = self._who(session)
        return BmcInventory(
            vendor=who.vendor,
            model=who.model,
            serial=values.serial(system, behaviour_of(who)),
            uuid=values.text(system, "UUID").lower(),
            macs=tuple(dict.fromkeys(self._macs(session, system))),
            firmware=who.firmware,
            bmc_mac=self._bmc_mac(session, manager),
            bios=values.text(system, "BiosVersion"),
        )

    def _macs(self, session: Session, system: values.Json) -> list[Mac]:
        interfaces = self._members(session, values.link(system, "EthernetInterfaces"))
        if found := [mac for interface in interfaces if (mac := values.interface_mac(interface))]:
            return found
        for interface in self._members(session, values.link(system, "NetworkInterfaces")):
            adapter = _optional(session, values.link(interface, "Links", "NetworkAdapter")) or {}
            functions = values.link(interface, "NetworkDeviceFunctions") or values.link(
                adapter, "NetworkDeviceFunctions"
            )
            macs = [mac for row in self._members(session, functions) if (mac := values.interface_mac(row))]
            if not macs:
                ports = values.link(adapter, "Ports") or values.link(adapter, "NetworkPorts")
                macs = [mac for port in self._members(session, ports) for mac in values.port_macs(port)]
            found += macs
        return found

    def _bmc_mac(self, session: Session, manager: values.Json) -> Mac | None:
        interfaces = list(self._members(session, values.link(manager, "EthernetInterfaces")))
        # HPE lists its shared port too, disabled.
        interfaces.sort(key=lambda interface: interface.get("InterfaceEnabled") is False)
        return next((mac for interface in interfaces if (mac := values.interface_mac(interface))), None)

    def _members(self, session: Session, path: str) -> Iterator[values.Json]:
        """The members of a collection, fetched where they are only named; nothing for what is missing."""
        collection = _optional(session, path) or {}
        for member in values.items(collection, "Members")[:MAX_MEMBERS]:
            if len(member) > 1 and "Id" in member:
                yield member
            elif found := _optional(session, values.text(member, "@odata.id")):
                yield found


def connect(endpoint: Endpoint) -> Redfish:
    """The driver for an endpoint. Raises InvalidValue for settings that cannot be right."""
    return Redfish(endpoint)


def _optional(session: Session, path: str) -> values.Json | None:
    """A resource that the answer can do without; None when it is not there or the BMC stumbles over it."""
    if not path:
        return None
    try:
        return session.get(path).body
    except (BmcNotSupported, BmcRefused):
        return None


def _url(endpoint: Endpoint) -> str:
    scheme = _one_of(endpoint, "scheme", ("https", "http"))
    host = f"[{endpoint.address}]" if ":" in endpoint.address else endpoint.address
    if not endpoint.address or re.search(r"[\s/@?#]", endpoint.address):
        raise InvalidValue(f"{endpoint.address!r} is not the address of a BMC: write an IP address or a host name")
    return f"{scheme}://{host}" + (f":{endpoint.port}" if endpoint.port else "")


def _one_of(endpoint: Endpoint, name: str, words: tuple[str, ...]) -> str:
    value = endpoint.settings.get(name) or words[0]
    if value not in words:
        raise InvalidValue(f"the Redfish setting {name} cannot be {value!r}: write {' or '.join(words)}")
    return value


def _verify(value: str) -> tuple[bool | str, str]:
    """What to hold a certificate against, and the fingerprint of the only one that is right."""
    if value in ("", "no", "yes"):
        return value == "yes", ""
    if value.startswith("sha256:"):
        digits = value.removeprefix("sha256:").replace(":", "").lower()
        if not re.fullmatch(r"[0-9a-f]{64}", digits):
            raise InvalidValue(f"{value!r} is no SHA-256 fingerprint: write sha256: and 64 hex digits")
        return False, digits
    if not Path(value).is_file():
        raise InvalidValue(f"the Redfish setting verify names {value}, which is no file: write yes, no, or a CA file")
    return value, ""
