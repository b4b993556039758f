"""IPMI 2.0 over LAN: the driver for BMCs without Redfish, and for what a BMC's Redfish cannot do.

The session (metalbox.power.ipmisession) is made at the first verb, kept for the next ones and given back by `close`.
IPMI knows no HTTP boot and no "leave the firmware's mode as it is": `Mode.KEEP` repeats the flag that is set.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

from metalbox.errors import BmcGarbage, BmcNotSupported, BmcRefused, BmcWrongPassword, InvalidValue, PowerError
from metalbox.power import BmcInventory, Console, Device, Endpoint, LogEntry, Mode, Override, Power, Sensor
from metalbox.power.ipmiconsole import Opening, SolConsole
from metalbox.power.ipmirecords import read_event_log, read_inventory, read_sensors
from metalbox.power.ipmisession import Account, Patience, Refusal, Session
from metalbox.power.threads import threads

T = TypeVar("T")
PORT = 623
# A thread here waits for a datagram and costs some 50 kB: so many that BMCs which do not answer leave room for others.
THREADS = threads(256)
QUICK_SECONDS, POWER_SECONDS, LONG_SECONDS = 20.0, 25.0, 90.0
# BMCs end a session after 60 s of silence (section 6.12.15), some after 30, and then do not answer in it.
IDLE_SECONDS = 25.0
# Between two looks at a machine that is going off; the session's deadline ends them.
LOOK_SECONDS = 0.2

CHASSIS, APPLICATION = 0x00, 0x06
OPENIPMI_SIMULATOR = 4753  # MontaVista, whose people wrote it and who never made a BMC
GET_STATUS, CONTROL, IDENTIFY, SET_BOOT, GET_BOOT = 0x01, 0x02, 0x04, 0x08, 0x09
# Chassis Control, section 28.3.
POWER_DOWN, POWER_UP, POWER_CYCLE, SOFT_SHUTDOWN = 0, 1, 2, 5
# "Parameter out of range" and "invalid data field": an action that the BMC does not have.
UNKNOWN_ACTION = frozenset({0xC9, 0xCC})
NOT_IN_THIS_STATE = 0xD5
PARAMETER_NOT_SUPPORTED = frozenset({0x80, 0xC9, 0xCC})
# System Boot Options, section 28.13.
BOOT_FLAG_CLEARING, BOOT_FLAGS = 3, 5
VALID, PERSISTENT, EFI = 0x80, 0x40, 0x20
SELECTORS = {Device.NONE: 0, Device.PXE: 1, Device.DISK: 2, Device.CDROM: 5, Device.BIOS: 6}
DEVICES = {
    0: Device.NONE, 1: Device.PXE, 2: Device.DISK, 3: Device.DISK, 5: Device.CDROM, 6: Device.BIOS, 8: Device.CDROM,
    11: Device.DISK,
}  # fmt: skip


def connect(endpoint: Endpoint) -> Ipmi:
    """The driver for one BMC; nothing is sent. Raises InvalidValue for settings that cannot be right."""
    return Ipmi(endpoint)


class Ipmi(Power):
    """One BMC by IPMI."""

    name = "ipmi"
    can = frozenset({"boot_next", "identify", "sensors", "event_log", "inventory", "console"})

    def __init__(self, endpoint: Endpoint, *, patience: Patience | None = None) -> None:
        self.address = endpoint.address
        self.port = endpoint.port or PORT
        self.patience = patience or Patience()
        self._channel = _channel(endpoint.settings.get("channel", ""))
        self._account = _account(endpoint)
        # The session that waits for the next verb. A thread takes it out and puts it back, unless its caller has gone.
        self._lock = threading.Lock()
        self._session: Session | None = None
        self._turn = 0

    async def is_on(self) -> bool:
        """By Get Chassis Status."""
        return await self._do(_is_on)

    async def on(self) -> None:
        """Chassis Control: power up."""
        await self._do(lambda session: _control(session, POWER_UP), POWER_SECONDS)

    async def off(self, *, graceful: bool = False) -> None:
        """Chassis Control: power down, or a short press of the button (ACPI)."""
        action = SOFT_SHUTDOWN if graceful else POWER_DOWN
        await self._do(lambda session: _control(session, action), POWER_SECONDS)

    async def cycle(self) -> None:
        """Chassis Control: power cycle; on BMCs without it power down, wait, power up."""
        await self._do(_cycle, POWER_SECONDS)

    async def boot_next(self, device: Device, *, mode: Mode = Mode.KEEP, once: bool = True) -> None:
        """Set the boot flags. HTTP is BmcNotSupported: IPMI has no word for it."""
        if device not in SELECTORS:
            raise BmcNotSupported(f"IPMI has no word for starting from {device}")
        await self._do(lambda session: _set_boot(session, device, mode, once))

    async def override(self) -> Override:
        """Read the boot flags."""
        return await self._do(_override)

    async def identify(self, seconds: int = 15) -> None:
        """Chassis Identify; the BMC counts to 255 at most."""
        data = bytes([max(0, min(seconds, 255))])
        await self._do(lambda session: session.ask(CHASSIS, IDENTIFY, data))

    async def sensors(self) -> list[Sensor]:
        """By the sensor data repository."""
        return await self._do(read_sensors, LONG_SECONDS)

    async def event_log(self) -> list[LogEntry]:
        """By the system event log."""
        return await self._do(read_event_log, LONG_SECONDS)

    async def inventory(self) -> BmcInventory:
        """By device ID, FRU, GUID and LAN configuration."""
        return await self._do(lambda session: read_inventory(session, self._channel), LONG_SECONDS)

    async def console(self, *, force: bool = False, stale: str = "") -> Console:
        """By Serial over LAN (section 15), in a session of its own."""
        if self._account is None:
            raise BmcWrongPassword(f"no user and password are known for {self.address}")
        deadline = time.monotonic() + QUICK_SECONDS
        opening = Opening(lambda: self._log_in(deadline), force=force, stale=stale)
        try:
            key = f"{self.address} port {self.port} (console)"
            size, mark = await THREADS.run(opening.run, key=key, seconds=QUICK_SECONDS + 5)
        except BaseException:
            opening.give_up()
            raise
        assert opening.session is not None
        return SolConsole(opening.session, size, mark, THREADS)

    async def close(self) -> None:
        """Log out."""
        with self._lock:
            self._turn += 1
            session, self._session = self._session, None
        if session is not None:
            try:
                with suppress(PowerError):
                    await THREADS.run(session.close, key=f"{session.where} (logout)", seconds=5)
            finally:
                session.shut()

    # -- threads --------------------------------------------------------------------------------------------------

    async def _do(self, work: Callable[[Session], T], seconds: float = QUICK_SECONDS) -> T:
        """Run `work` with a session in a thread. One that failed or whose caller left is closed, not used again."""
        if self._account is None:
            raise BmcWrongPassword(f"no user and password are known for {self.address}")
        turn = self._turn
        used: list[Session] = []
        try:
            return await THREADS.run(
                self._work, work, turn, used, seconds, key=f"{self.address} port {self.port}", seconds=seconds + 2
            )
        except BaseException:
            with self._lock:
                self._turn += 1
                left, self._session = self._session, None
            for session in used:
                session.abandon()
            if left is not None:
                left.shut()
            raise

    def _work(self, work: Callable[[Session], T], turn: int, used: list[Session], seconds: float) -> T:
        session = self._take(time.monotonic() + seconds)
        used.append(session)
        try:
            answer = work(session)
        except BaseException as error:
            # A BMC that said no is in order, and so is its session; any other failure leaves it in doubt.
            if not isinstance(error, BmcNotSupported | BmcRefused):
                session.shut()
                raise
            self._put_back(session, turn)
            raise
        self._put_back(session, turn)
        return answer

    def _take(self, deadline: float) -> Session:
        with self._lock:
            session, self._session = self._session, None
        if session is not None:
            if time.monotonic() - session.used_at < IDLE_SECONDS:
                session.deadline = deadline
                return session
            session.close()
        return self._log_in(deadline)

    def _log_in(self, deadline: float) -> Session:
        assert self._account is not None
        return Session(self.address, self.port, self._account, patience=self.patience, deadline=deadline)

    def _put_back(self, session: Session, turn: int) -> None:
        with self._lock:
            if self._turn == turn:
                self._session = session
                return
        session.close()


def _account(endpoint: Endpoint) -> Account | None:
    privilege = endpoint.settings.get("privilege", "administrator")
    if privilege not in ("administrator", "operator"):
        raise InvalidValue(f"the privilege is administrator or operator, not {privilege!r}")
    try:
        kg = bytes.fromhex(endpoint.settings.get("kg", ""))
    except ValueError:
        raise InvalidValue("the key Kg is not written in hexadecimal digits") from None
    if len(kg) > 20:
        raise InvalidValue(f"the key Kg has {len(kg)} bytes: IPMI has 20")
    if endpoint.credentials is None:
        return None
    user, password = endpoint.credentials.user, endpoint.credentials.password
    return Account(user, password, kg=kg, operator=privilege == "operator")


def _channel(text: str) -> int | None:
    """The LAN channel as written; None: the one that answers."""
    if text and not (text.isdecimal() and int(text) < 16):
        raise InvalidValue(f"an IPMI channel is a number from 0 to 15, not {text!r}")
    return int(text) if text and int(text) != 0x0E else None


def _is_on(session: Session) -> bool:
    return bool(_status(session) & 1)


def _status(session: Session) -> int:
    data = session.ask(CHASSIS, GET_STATUS)
    if not data:
        raise BmcGarbage(f"{session.where} answers without saying whether the machine is on")
    return data[0]


def _control(session: Session, action: int) -> None:
    """Say it once: a second "cycle" in place of a lost answer would be carried out, too."""
    try:
        session.ask(CHASSIS, CONTROL, bytes([action]), resend=False, unsupported=UNKNOWN_ACTION)
    except Refusal as error:
        # "Not in the present state": some BMCs say so when the machine is already as wanted.
        wanted = action == POWER_UP
        if (
            error.completion != NOT_IN_THIS_STATE
            or action not in (POWER_UP, POWER_DOWN)
            or _is_on(session) is not wanted
        ):
            raise


def _cycle(session: Session) -> None:
    if not _is_on(session):
        _control(session, POWER_UP)
        return
    try:
        _control(session, POWER_CYCLE)
    except BmcNotSupported:
        # virtualbmc has none. A reset would do less: add-in cards keep their state.
        _control(session, POWER_DOWN)
        while _is_on(session):
            time.sleep(LOOK_SECONDS)
        _control(session, POWER_UP)


def _set_boot(session: Session, device: Device, mode: Mode, once: bool) -> None:
    flags = VALID | (0 if once else PERSISTENT)
    if mode is Mode.UEFI or (mode is Mode.KEEP and _boot_flags(session)[0] & EFI):
        flags |= EFI
    if device is Device.NONE:
        flags = 0
    else:
        # Do not forget the flags when no power-on follows within 60 s (bit 3); not every BMC has this parameter.
        with suppress(BmcRefused, BmcNotSupported):
            session.ask(CHASSIS, SET_BOOT, bytes([BOOT_FLAG_CLEARING, 0x08]))
    data = bytes([BOOT_FLAGS, flags, SELECTORS[device] << 2, 0, 0, 0])
    session.ask(CHASSIS, SET_BOOT, data, unsupported=PARAMETER_NOT_SUPPORTED)


def _boot_flags(session: Session) -> bytes:
    """The two bytes that matter: flags, and the device in bits 2 to 5."""
    data = session.ask(CHASSIS, GET_BOOT, bytes([BOOT_FLAGS, 0, 0]), unsupported=PARAMETER_NOT_SUPPORTED)
    if len(data) < 4 or data[1] & 0x7F != BOOT_FLAGS:
        raise BmcGarbage(f"{session.where} answers another question than that for the boot flags", evidence=data.hex())
    return b"\0\0" if data[1] & 0x80 else data[2:4]  # bit 7: the parameter is locked or invalid


def _override(session: Session) -> Override:
    flags, selector = _boot_flags(session)
    number = selector >> 2 & 0x0F
    device = DEVICES.get(number)
    if device is Device.NONE:
        return Override()
    if not flags & VALID:
        # Left over from an earlier boot: the BMC has taken the flag back and not the device.
        return Override(device, once=False) if device and _keeps_no_flags(session) else Override()
    if device is None:
        raise BmcNotSupported(f"{session.where} is set to start from a device metalbox has no word for: {number}")
    return Override(device, Mode.UEFI if flags & EFI else Mode.BIOS, not flags & PERSISTENT)


def _keeps_no_flags(session: Session) -> bool:
    """Whether this is OpenIPMI's simulator: it keeps the device alone, answers with flags 0, and means it."""
    return int.from_bytes(session.ask(APPLICATION, 0x01)[6:9], "little") == OPENIPMI_SIMULATOR
