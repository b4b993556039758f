"""The other end in the tests of IPMI: OpenIPMI's simulator before a QEMU, and a wire that one can spoil."""

from __future__ import annotations

import os
import select
import shlex
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from metalbox.power import Credentials, Endpoint
from metalbox.power.ipmisession import Patience

CHASSIS = Path(__file__).with_name("chassis.sh")
USER, PASSWORD = "factory", "Zk3-sim-passwd"
GUID = "9f3c1d52-6f0e-4b8e-9d1a-52b0c7a7e411"
AUTHENTICATION = "none md2 md5 straight"
FRU = (
    "01 00 00 01 07 00 00 f7 01 06 00 00 00 00 c8 4d 65 74 61 6c 42 6f 78 c5 42 6f 61 72 64 "
    "c4 53 4e 30 31 c3 50 4e 31 c0 c1 00 00 00 00 00 00"
)
# Where an answer comes: a simulator that stands still for some seconds is waited for.
PATIENT = Patience(greeting=8, login=10, command=15)
# Where it is counted what was said, or who said it: nothing is said twice.
ONCE = Patience(greeting=8, login=10, command=15, resend=60)
# Where nobody answers; by a LostTime wherever something has to be answered before.
QUICK = Patience(greeting=0.4, login=0.8, command=0.5, resend=0.1)


def free_port() -> int:
    """A UDP port of loopback that nobody uses now."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def endpoint(port: int, password: str = PASSWORD, user: str = USER, **settings: str) -> Endpoint:
    """A BMC on loopback."""
    return Endpoint("ipmi", "127.0.0.1", port, Credentials(user, password), settings)


def sensor_record(number: int, name: str, kind: int, unit: int, *, m: int = 1, exponent: int = 0) -> bytes:
    """A full sensor record (IPMI 2.0 table 43-1) with thresholds, the reading times `m` times 10**`exponent`."""
    body = bytes([0x20, 0, number, 7, 1, 0x7F, 0x68, kind, 1, 0x80, 0x0A, 0x80, 0x0A, 0x38, 0x38, 0, unit, 0, 0])
    body += bytes([m & 0xFF, (m >> 8 & 3) << 6, 0, 0, 0, (exponent & 0xF) << 4, 7, 0x20, 0x50, 0x10, 0xFF, 0])
    body += bytes([0xA0, 0x90, 0x70, 0, 5, 0, 2, 2, 0, 0, 0, 0xC0 | len(name)]) + name.encode()
    return bytes([0, 0, 0x51, 1, len(body)]) + body


def contents(extra: str = "") -> str:
    """What is inside of the simulated BMC: three sensors, three records in the log, a FRU."""
    sensors = (
        (24, sensor_record(1, "Inlet Temp", 1, 1)),
        (80, sensor_record(2, "Fan 1", 4, 18, m=60)),
        (201, sensor_record(3, "12V", 2, 4, m=6, exponent=-2)),
    )
    off = "0" * 15
    lines = ["mc_setbmc 0x20", "mc_add 0x20 0 no-device-sdrs 0x23 9 8 0x9f 0x1291 0xf02 persist_sdr"]
    lines.append("sel_enable 0x20 1000 0x0a")
    for number, (value, record) in enumerate(sensors, 1):
        lines += [
            f"sensor_add 0x20 0 {number} {record[12]} 1",
            f"sensor_set_value 0x20 0 {number} {value} 0",
            f"sensor_set_event_support 0x20 0 {number} enable scanning per-state {off} {off} {off} {off}",
            "main_sdr_add 0x20 " + " ".join(map(hex, record)),
        ]
    lines += [
        "sel_add 0x20 2 0 0 0 0 0x20 0 4 1 1 1 0x57 0xa0 0x90",
        "sel_add 0x20 2 0 0 0 0 0x20 0 4 7 8 0x6f 1 0xff 0xff",
        "sel_add 0x20 0xc1 0 0 0 0 1 2 3 4 5 6 7 8 9",
        "mc_add_fru_data 0x20 0 512 data " + " ".join(f"0x{byte}" for byte in FRU.split()),
        extra,
        "mc_enable 0x20",
    ]
    return "\n".join(lines) + "\n"


@dataclass
class Simulator:
    """An ipmi_sim that runs, and its machine: a QEMU in `folder`."""

    folder: Path
    port: int

    def chassis(self, *words: str) -> str:
        """Ask or tell the machine itself, past the BMC."""
        command = ["sh", str(CHASSIS), str(self.folder), *words]
        return subprocess.run(command, capture_output=True, text=True, timeout=90, check=True).stdout

    def calls(self, what: str) -> int:
        """How often the BMC told the machine so."""
        return (self.folder / "calls").read_text().splitlines().count(what)

    def ipmitool(self, *words: str, user: str = USER, password: str = PASSWORD) -> str:
        """What another client hears."""
        return ipmitool(self.port, *words, user=user, password=password)


def ipmitool(port: int, *words: str, user: str = USER, password: str = PASSWORD) -> str:
    """What another client hears from a BMC on loopback. The suite is named: without, it first waits 10 s."""
    command = ["ipmitool", "-I", "lanplus", "-C", "3", "-E", "-H", "127.0.0.1", "-p", str(port), "-U", user, *words]
    environment = {**os.environ, "IPMI_PASSWORD": password}
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True, env=environment)
    return done.stdout


@contextmanager
def simulator(folder: Path, extra: str = "", users: str = "") -> Iterator[Simulator]:
    """Run ipmi_sim; `extra` goes into what is inside of it, `users` into its accounts."""
    for program in ("ipmi_sim", "ipmitool", "qemu-system-x86_64"):
        if shutil.which(program) is None:
            pytest.skip(f"there is no {program}: `make setup` installs it")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "state").mkdir()
    port = free_port()
    allowed = "".join(
        f"    allowed_auths_{who} {AUTHENTICATION}\n" for who in ("callback", "user", "operator", "admin")
    )
    chassis = shlex.join(["sh", str(CHASSIS), str(folder)])
    guid = "".join(GUID.split("-"))
    # The order in which SMBIOS has it, and real BMCs send it.
    wire = guid[6:8] + guid[4:6] + guid[2:4] + guid[0:2] + guid[10:12] + guid[8:10] + guid[14:16] + guid[12:14]
    (folder / "lan.conf").write_text(
        f'name "test"\nset_working_mc 0x20\n  startlan 1\n    addr 127.0.0.1 {port}\n    priv_limit admin\n{allowed}'
        f'    guid {wire}{guid[16:]}\n  endlan\n  chassis_control "{chassis}"\n'
        f'  user 1 false "" "" user 10 {AUTHENTICATION}\n'
        f'  user 2 true "{USER}" "{PASSWORD}" admin 10 {AUTHENTICATION}\n{users}'
    )
    (folder / "bmc.emu").write_text(contents(extra))
    files = ["-c", str(folder / "lan.conf"), "-f", str(folder / "bmc.emu"), "-s", str(folder / "state")]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(["ipmi_sim", *files, "-n"], stdout=log, stderr=log, stdin=subprocess.DEVNULL)
    peer = Simulator(folder, port)
    try:
        _wait_greeting(port, process, folder / "log")
        yield peer
    finally:
        process.terminate()
        process.wait(timeout=60)
        peer.chassis("set", "power", "0")


# Get Channel Authentication Capabilities in an RMCP datagram.
GREETING = bytes.fromhex("0600ff07 000000000000000000 09 2018c8 8104380e0431")


def _wait_greeting(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
            one.settimeout(0.1)
            one.connect(("127.0.0.1", port))
            try:
                one.send(GREETING)
                one.recv(1000)
                return
            except OSError:
                time.sleep(0.02)
    raise RuntimeError(f"ipmi_sim does not answer: {log.read_text()}")


# (datagram, whether it comes from the BMC) -> (what goes on, what goes back to the sender); None: nothing.
Rule = Callable[[bytes, bool], tuple[bytes | None, bytes | None]]


class LostTime:
    """The clock of metalbox.power.ipmisession (in the place of `time`) where silence is what is tested.

    It keeps time while an answer was lost, and nearly stands while one is on its way: a slow BMC is not a silent one.
    Between two looks at it little passes, so that a process which stood still has its tries left.
    """

    def __init__(self, *, is_lost: bool = False) -> None:
        self.is_lost = is_lost
        self._now = self._looked = time.monotonic()

    def monotonic(self) -> float:
        now = time.monotonic()
        passed, self._looked = now - self._looked, now
        self._now += min(passed, 0.05) if self.is_lost else passed / 30
        return self._now


class Wire:
    """A wire between the driver and the BMC at `far` that treats each datagram by `rule`, and remembers it.

    `copies` is how often each datagram arrives; `clock` runs while the last one did not arrive as it was.
    """

    def __init__(self, far: int, rule: Rule, clock: LostTime | None = None) -> None:
        self.rule = rule
        self.clock = clock
        self.seen: list[tuple[bytes, bool]] = []
        self.copies = 1
        self._far = far
        self._near_socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._near_socket.bind(("127.0.0.1", 0))
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="wire", daemon=True)
        self.port = int(self._near_socket.getsockname()[1])

    def __enter__(self) -> Wire:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stop.set()
        self._thread.join(60)
        self._near_socket.close()

    def _run(self) -> None:
        to_far: dict[tuple[str, int], socket.socket] = {}
        while not self._stop.is_set() and len(self.seen) < 20_000:
            for one in select.select([self._near_socket, *to_far.values()], [], [], 0.05)[0]:
                try:
                    data, sender = one.recvfrom(3000)
                except OSError:
                    continue
                from_bmc = one is not self._near_socket
                if not from_bmc and sender not in to_far:
                    to_far[sender] = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
                    to_far[sender].connect(("127.0.0.1", self._far))
                near = next(peer for peer, far in to_far.items() if far is one) if from_bmc else sender
                self.seen.append((data, from_bmc))
                onward, back = self.rule(data, from_bmc)
                if onward is not None:
                    self._give(onward, near, to_far[near], to_bmc=not from_bmc)
                if back is not None:
                    self._give(back, near, to_far[near], to_bmc=from_bmc)
                if self.clock is not None:
                    self.clock.is_lost = onward != data
        for far in to_far.values():
            far.close()

    def _give(self, data: bytes, near: tuple[str, int], far: socket.socket, *, to_bmc: bool) -> None:
        for _ in range(self.copies):
            if to_bmc:
                far.send(data)
            else:
                self._near_socket.sendto(data, near)


def is_in_session(data: bytes) -> bool:
    """Whether this is a command or an answer inside an established session (encrypted, authenticated)."""
    return len(data) > 16 and data[4] == 6 and data[5] & 0xC0 == 0xC0


def payload_type(data: bytes) -> int:
    """The kind of an RMCP+ datagram; -1 for others."""
    return data[5] & 0x3F if len(data) > 16 and data[4] == 6 else -1


OPEN_SESSION_RESPONSE, RAKP_1, RAKP_2, RAKP_4 = 0x11, 0x12, 0x13, 0x15


def changed(data: bytes, *changes: tuple[int, int]) -> bytes:
    """The datagram with other bytes at these places, where it is long enough."""
    spoiled = bytearray(data)
    for place, value in changes:
        if place < len(spoiled):
            spoiled[place] = value
    return bytes(spoiled)


class Sink:
    """A port, on every address of loopback, that takes everything and says nothing."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("", 0))
        self.port = int(self._socket.getsockname()[1])

    def received(self) -> int:
        """How many datagrams came; forgets them."""
        count = 0
        self._socket.setblocking(False)
        while True:
            try:
                self._socket.recv(3000)
            except BlockingIOError:
                return count
            count += 1

    def close(self) -> None:
        self._socket.close()
