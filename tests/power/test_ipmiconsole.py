"""Consoles by Serial over LAN before OpenIPMI's simulator, whose serial line ends here; ipmitool is the witness."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from metalbox.errors import BmcConsoleInUse, BmcHung, BmcRefused, BmcUnreachable, BmcWrongPassword, PowerError
from metalbox.power import Console, connect
from metalbox.power.ipmi import Ipmi
from metalbox.power.ipmiconsole import SolConsole, is_alive
from metalbox.power.ipmisession import Patience, Session
from tests.power import ipmi_peers as peers
from tests.power.ipmi_peers import Simulator, Wire, endpoint, simulator


class Machine:
    """The far end of the BMC's serial line."""

    def __init__(self) -> None:
        self.typed = bytearray()
        self._news = asyncio.Event()
        self.echoes = False
        self._writer: asyncio.StreamWriter | None = None
        self._unplugged = asyncio.Event()

    async def plug(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writer = writer
        with contextlib.suppress(ConnectionError), contextlib.closing(writer):
            while data := await reader.read(1000):
                self.typed += data
                self._news.set()
                if self.echoes:
                    writer.write(data)
        self._unplugged.set()

    async def unplugged(self) -> None:
        """Wait until the simulator has gone, where it ever came."""
        if self._writer is not None:
            await asyncio.wait_for(self._unplugged.wait(), 60)
            await asyncio.sleep(0)  # for `plug` to return

    def write(self, data: bytes) -> None:
        assert self._writer is not None, "the simulator did not connect"
        self._writer.write(data)

    async def wait_typed(self, data: bytes, seconds: float = 60) -> None:
        async with asyncio.timeout(seconds):
            while bytes(self.typed) != data:
                self._news.clear()
                await self._news.wait()


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("metalbox.power.ipmi.Patience", lambda: peers.PATIENT)


@pytest.fixture
async def machine() -> Machine:
    return Machine()


@pytest.fixture
async def bmc(machine: Machine, tmp_path: Path) -> AsyncIterator[Simulator]:
    server = await asyncio.start_server(machine.plug, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    line = f'  sol "tcp:127.0.0.1:{port}" 115200 history=4000\n'
    with simulator(tmp_path / "bmc", users=line) as peer:
        yield peer
    server.close()
    # The simulator has gone, and with it the line: let `plug` see that before the loop ends.
    await machine.unplugged()


async def read(console: Console, count: int, seconds: float = 60) -> bytes:
    data = b""
    async with asyncio.timeout(seconds):
        while len(data) < count:
            data += await console.read()
    return data


async def test_both_ways_in_order_and_whole(bmc: Simulator, machine: Machine) -> None:
    console = await connect(endpoint(bmc.port)).console()
    machine.write(b"login: ")
    assert await read(console, 7) == b"login: "
    text = bytes(range(256)) * 8
    await console.write(text)
    await machine.wait_typed(text)
    for start in range(0, len(text), 512):  # the simulator keeps 16384 bytes at most
        machine.write(text[start : start + 512])
        assert await read(console, 512) == text[start : start + 512]
    await console.send_break()
    await console.write(b"!")
    # The simulator says a break as telnet does on its line (RFC 854: IAC BRK).
    await machine.wait_typed(text + b"\xff\xf3!")
    await console.close()
    await console.close()


async def test_losses_and_doubles_on_the_wire(bmc: Simulator, machine: Machine) -> None:
    lost = iter([False, True, False, False, True, False, False, False, True, False] * 200)

    def rule(data: bytes, from_bmc: bool) -> tuple[bytes | None, bytes | None]:
        is_sol = peers.is_in_session(data) and peers.payload_type(data) == 1
        return (None if is_sol and next(lost) else data), None

    with Wire(bmc.port, rule) as wire:
        wire.copies = 2
        console = await connect(endpoint(wire.port)).console()
        machine.echoes = True
        text = bytes(range(33, 127)) * 2
        await console.write(text)
        assert await read(console, len(text), 60) == text
        await machine.wait_typed(text)
        await console.close()


async def test_a_packet_that_came_twice_and_has_grown_is_acknowledged_once(
    bmc: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both lay there when we looked; to the acknowledgement of the first the BMC would send the rest again."""
    console = await connect(endpoint(bmc.port)).console()
    assert isinstance(console, SolConsole)
    sent: list[bytes] = []
    with monkeypatch.context() as patch:
        patch.setattr(console._session, "send_payload", lambda payload, **_: sent.append(bytes(payload)))
        console._payloads.extend((b"\x05\0\0\0log", b"\x05\0\0\0login: "))
        console._work_off()
    assert await console.read() == b"login: "
    assert sent == [b"\0\x05\x07\0"]
    await console.close()


async def test_one_at_a_time_and_who_insists_gets_it(bmc: Simulator, machine: Machine) -> None:
    power, other = connect(endpoint(bmc.port)), connect(endpoint(bmc.port))
    first = await power.console()
    with pytest.raises(BmcConsoleInUse, match=r"in use by .* a BMC has one"):
        await other.console()
    # Other questions go on beside it.
    assert await other.is_on() is False
    second = await other.console(force=True)
    machine.write(b"now yours")
    assert await read(second, 9) == b"now yours"
    await first.close()
    await second.close()
    third = await power.console()
    await third.close()
    await power.close()
    await other.close()


async def test_what_a_crash_left_is_ended_by_its_mark_only(bmc: Simulator) -> None:
    power = connect(endpoint(bmc.port))
    console = await power.console()
    assert isinstance(console, SolConsole)
    mark = console.mark
    assert mark
    console._stop_reading()
    console._tending.cancel()
    console._session.shut()
    for stale in ("", "00000000", "ffffffff"):
        with pytest.raises(BmcConsoleInUse):
            await power.console(stale=stale)
    again = await power.console(stale=mark)
    assert again.mark != mark
    await again.close()


async def test_a_console_that_another_took_is_noticed(bmc: Simulator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("metalbox.power.ipmiconsole.SIGN_OF_LIFE_SECONDS", 0.2)
    is_taken = False

    def sign(session: Session, mark: str) -> None:
        # Between the end of the one and the begin of the other it is nobody's for a moment.
        if is_taken:
            is_alive(session, mark)

    monkeypatch.setattr("metalbox.power.ipmiconsole.is_alive", sign)
    first = await connect(endpoint(bmc.port)).console()
    second = await connect(endpoint(bmc.port)).console(force=True)
    is_taken = True
    with pytest.raises(BmcConsoleInUse, match="another client's now"):
        await read(first, 1)
    with pytest.raises(BmcConsoleInUse):
        await first.write(b"x")
    await first.close()
    await second.close()


async def test_signs_of_life_disturb_nothing(bmc: Simulator, machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("metalbox.power.ipmiconsole.SIGN_OF_LIFE_SECONDS", 0.02)
    console = await connect(endpoint(bmc.port)).console()
    machine.echoes = True
    text = bytes(range(256)) * 4
    await console.write(text)
    assert await read(console, len(text)) == text
    await console.close()


async def test_a_bmc_that_falls_silent(bmc: Simulator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("metalbox.power.sol.RETRY_SECONDS", 0.02)
    is_deaf = False
    with Wire(bmc.port, lambda data, from_bmc: (None if is_deaf else data, None)) as wire:
        console = await connect(endpoint(wire.port)).console()
        is_deaf = True
        await console.write(b"x")
        with pytest.raises(BmcHung, match="does not acknowledge"):
            await read(console, 1)
        await asyncio.wait_for(console.close(), 60)


async def test_a_bmc_that_dies(bmc: Simulator) -> None:
    with Wire(bmc.port, lambda data, from_bmc: (data, None)) as wire:
        console = await connect(endpoint(wire.port)).console()
    await console.write(b"x")
    await asyncio.sleep(0.05)
    with pytest.raises((BmcUnreachable, BmcHung)):
        await read(console, 1)
    await console.close()


async def test_who_may_not(bmc: Simulator) -> None:
    with pytest.raises(BmcWrongPassword):
        await connect(endpoint(bmc.port, "not-this-one")).console()
    with pytest.raises(BmcUnreachable):
        await connect(endpoint(peers.free_port())).console()


async def test_a_bmc_without_a_serial_line(tmp_path: Path) -> None:
    with simulator(tmp_path / "plain") as peer:
        power = connect(endpoint(peer.port))
        with pytest.raises(PowerError) as caught:
            await power.console()
        assert len(str(caught.value).split()) > 4
        await power.close()


async def test_a_caller_who_leaves_leaves_nothing_open(bmc: Simulator) -> None:
    """Cancelled at any moment of the opening, the console is free again for the next one."""
    power = Ipmi(endpoint(bmc.port), patience=Patience(greeting=15, login=15, command=2.0))
    for moment in (0.0, 0.001, 0.002, 0.003, 0.004):
        opening = asyncio.create_task(power.console())
        await asyncio.sleep(moment)
        if opening.done():
            await opening.result().close()
            continue
        opening.cancel()
        await asyncio.wait({opening})
        async with asyncio.timeout(90):
            while True:
                try:
                    console = await power.console()
                    break
                except (BmcHung, BmcConsoleInUse, BmcRefused):
                    await asyncio.sleep(0.05)
        await console.close()


async def test_ipmitool_sees_the_same(bmc: Simulator, machine: Machine) -> None:
    """One after the other, since a BMC has one; and what ipmitool holds is not taken without being asked."""
    text = b"GRUB loading.\r\nWelcome to a machine\r\n"
    where = ["-I", "lanplus", "-C", "3", "-E", "-H", "127.0.0.1", "-p", str(bmc.port), "-U", peers.USER]
    environment = {**os.environ, "IPMI_PASSWORD": peers.PASSWORD}
    primary, terminal = os.openpty()
    process = await asyncio.create_subprocess_exec(
        *("ipmitool", *where, "sol", "activate"), stdin=terminal, stdout=terminal, stderr=terminal, env=environment
    )
    try:
        await shown(primary, b"for help]")
        machine.write(text)
        seen = await shown(primary, b"a machine\r\n")
        with pytest.raises(BmcConsoleInUse, match="in use"):
            await connect(endpoint(bmc.port)).console()
        os.write(primary, b"\r~.")
        await asyncio.wait_for(process.wait(), 60)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
        os.close(primary)
        os.close(terminal)
    console = await connect(endpoint(bmc.port)).console()
    machine.write(text)
    ours = await read(console, len(text))
    await console.close()
    assert ours == text
    assert seen.endswith(text)


async def shown(terminal: int, end: bytes) -> bytes:
    """What a program wrote to its terminal until `end`."""
    data = b""
    os.set_blocking(terminal, False)
    async with asyncio.timeout(60):
        while end not in data:
            try:
                data += os.read(terminal, 4096)
            except BlockingIOError:
                await asyncio.sleep(0.01)
    return data
