"""A machine's console through its BMC: a boot seen by two at once, keys, the recording, a crash, another client."""

from __future__ import annotations

import contextlib
import os
import pty
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence

import pytest

from metalbox.config import Mode
from metalbox.lab import network
from metalbox.lab.machines import BmcKind, Firmware, MachineSpec
from metalbox.lab.rack import Rack
from metalbox.lab.record import namespace
from tests.stories.conftest import finished

pytestmark = pytest.mark.firmware

RackFactory = Callable[..., Rack]
MACHINE = MachineSpec(firmware=Firmware.BIOS, bmc=BmcKind.IPMI)


class Screen:
    """A program in a terminal of its own."""

    def __init__(self, argv: Sequence[str], environment: dict[str, str] | None = None) -> None:
        self.shown = b""
        self._primary, secondary = pty.openpty()
        os.set_blocking(self._primary, False)
        self._process = subprocess.Popen(
            argv, stdin=secondary, stdout=secondary, stderr=secondary, env={**os.environ, **(environment or {})}
        )
        os.close(secondary)

    def read(self) -> bytes:
        """All that it has shown until now."""
        with contextlib.suppress(BlockingIOError, OSError):
            while data := os.read(self._primary, 65536):
                self.shown += data
        return self.shown

    def until(self, rack: Rack, text: bytes, timeout: float = 120) -> None:
        """Wait until it shows this."""
        rack.wait_until(
            lambda: text in self.read() or None, timeout, f"a screen to show {text!r}: {self.shown[-500:]!r}"
        )

    def type(self, keys: bytes) -> None:
        os.write(self._primary, keys)

    def exit_code(self, rack: Rack) -> int:
        """Wait for its end, and read on: a terminal that nobody reads stops the program."""

        def ended() -> bool:
            self.read()
            return self._process.poll() is not None

        rack.wait_until(ended, 180, "the program to end")
        self.read()  # its last words may have come between the last look and its end
        return int(self._process.returncode)

    def close(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        os.close(self._primary)


@pytest.fixture
def screens() -> Iterator[list[Screen]]:
    """Those that a story opened; closed after it."""
    opened: list[Screen] = []
    yield opened
    for screen in opened:
        screen.close()


def add_bmc(rack: Rack, name: str) -> None:
    bmc = rack.bmc(name)
    if bmc is None:
        pytest.skip("the rack could not make a BMC: see tools/packages.txt")
    rack.call("POST", "/api/v1/bmcs", body={"address": bmc.address, "user": bmc.user, "password": bmc.password})


def command(rack: Rack, *words: str) -> list[str]:
    return [sys.executable, "-m", "metalbox", "console", *words, "--socket", str(rack.directory / "metalbox.sock")]


def opened(rack: Rack, name: str, *words: str) -> Screen:
    """A viewer whose terminal is raw: before that, the terminal itself returns what is typed."""
    screen = Screen(command(rack, name, *words))
    screen.until(rack, b"helps]")
    return screen


def test_one_console_for_all(rack_factory: RackFactory, screens: list[Screen]) -> None:
    def show(*words: str) -> Screen:
        screens.append(opened(rack, name, *words))
        return screens[-1]

    settings = {"consoles": {"max_mb": 1, "files": 2}}
    rack = rack_factory(mode=Mode.FULL, machines=[MACHINE], settings=settings)
    rack.up()
    name = rack.machines[0].name
    add_bmc(rack, name)
    rack.power_on(name)
    rack.wait_for_machine(name, 480)

    # A recording that is nearly full: this boot turns it over.
    recording = rack.directory / "data" / "consoles" / f"{name}.log"
    recording.parent.mkdir(mode=0o700)
    recording.write_bytes(b"." * 999_000)

    typist, watcher = show(), show("--watch")
    watcher.until(rack, b"2 viewers]")
    rack.watch(name)
    number = rack.call("POST", f"/api/v1/machines/{name}/power", body={"verb": "cycle"})["order"]
    for screen in (typist, watcher):
        screen.until(rack, b"SeaBIOS", 240)
        screen.until(rack, b"iPXE", 240)
    # An order passes beside the console that is open.
    assert finished(rack, number)["outcome"]["done"]
    # The machine itself returns what is typed: its terminal driver, once Linux runs.
    seconds = echo(rack, typist, name, b"who-is-there")
    print(f"console: a key came back after {seconds * 1000:.0f} ms")
    watcher.until(rack, b"who-is-there")
    # libvirt's copy comes by another way, through virtlogd.
    rack.wait_console(name, "who-is-there", 60)

    turned = recording.with_name(f"{recording.name}.1").read_bytes()
    assert len(turned) == 10**6
    assert b"SeaBIOS" in turned[999_000:] + recording.read_bytes()
    assert b"who-is-there" in recording.read_bytes()
    log = subprocess.run([*command(rack, name), "--log", "-n", "1000"], capture_output=True, check=True, timeout=120)
    assert b"who-is-there" in log.stdout

    # A crash leaves its session at the BMC; the next service knows it by its mark and ends it.
    rack.kill_service()
    assert typist.exit_code(rack) == 1
    assert b"the console has ended" in typist.shown
    rack.start_service()
    again = show()
    echo(rack, again, name, b"after-the-crash")
    again.type(b"\r~.")
    assert again.exit_code(rack) == 0

    screen = foreign(rack, name, screens)
    texts = [entry["text"] for entry in rack.events(name)]
    assert any(text.startswith("its console was opened by ipmi") for text in texts)
    assert any(text.startswith("its console was closed after") for text in texts)
    assert not any("who-is-there" in text for text in texts)
    for kind in ("console", "metalbox"):
        for path in (rack.directory / "logs").glob(f"*{kind}*"):
            assert rack.bmc(name).password not in path.read_text(errors="replace")
    # A service that stops gives the console back, and says so.
    mark = rack.directory / "data" / "consoles" / f"{name}.session"
    assert mark.exists()
    rack.stop_service()
    assert screen.exit_code(rack) == 1
    assert b"the console has ended: the service stops" in screen.shown
    assert not mark.exists()


def echo(rack: Rack, screen: Screen, name: str, text: bytes) -> float:
    """Type it until the machine returns it; seconds that the last try took."""

    def tried() -> float | None:
        started = time.monotonic()
        screen.type(text)
        while time.monotonic() < started + 10:
            if text in screen.read():
                return time.monotonic() - started
            time.sleep(0.005)
        screen.type(b"\r")
        return None

    return rack.wait_until(tried, 480, f"{name} to return {text!r}")


def foreign(rack: Rack, name: str, screens: list[Screen]) -> Screen:
    """ipmitool gets the console when we have left it, sees the same, and is not thrown out unasked; then ours."""
    bmc = rack.bmc(name)
    words = ["-I", "lanplus", "-C", "3", "-E", "-H", bmc.address, "-U", bmc.user, "sol", "activate"]
    argv = network.inside(namespace(rack.directory), ["ipmitool", *words])

    def activated() -> Screen | None:
        screen = Screen(argv, {"IPMI_PASSWORD": bmc.password})
        screens.append(screen)
        deadline = time.monotonic() + 60
        while b"for help]" not in screen.read():
            if b"already active" in screen.shown or time.monotonic() > deadline:
                return None
            time.sleep(0.05)
        return screen

    ipmitool = rack.wait_until(activated, 240, "the console to be closed some seconds after its last viewer")
    echo(rack, ipmitool, name, b"seen-by-ipmitool")
    ours = subprocess.run(command(rack, name), check=False, capture_output=True, timeout=120, stdin=subprocess.DEVNULL)
    assert ours.returncode == 4
    assert b"is in use by" in ours.stderr
    screen = opened(rack, name, "--force")
    screens.append(screen)
    echo(rack, screen, name, b"seen-by-us")
    assert b"seen-by-us" not in ipmitool.read()
    return screen
