"""Wake-on-LAN: whole packets, seen on a real wire by a machine that sleeps at its other end."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress

import pytest

from metalbox.errors import BmcUnreachable, InvalidValue
from metalbox.machine import Mac
from metalbox.power import Credentials, Device, Endpoint, connect
from metalbox.power.wol import magic_packet
from tests.netns import Namespaces
from tests.power.contract import Contract, Peer

MAC = Mac.parse("02:00:5e:10:00:01")
PASSWORD = "0a:0b:0c:0d:0e:0f"
ETH_P_ALL = 3


class Sleeper(Peer):
    """A NIC in promiscuous wait: it looks at every frame and switches its machine on by the magic packet.

    Written from the specification, not from the driver: the pattern may stand anywhere in the frame.
    """

    lacks = frozenset({"is_on", "off", "cycle", "boot_next", "override"})
    refused = (Device.PXE,)

    def __init__(self, net: Namespaces, settings: dict[str, str]) -> None:
        self.settings = settings
        self.frames: list[bytes] = []
        self._is_on = False
        self._starts = 0
        self._stop = threading.Event()
        with net.inside("machine"):
            self._wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
        self._wire.bind(("eth0", 0))
        self._wire.settimeout(0.05)
        self._watch = threading.Thread(target=self._sleep, daemon=True)
        self._watch.start()

    def close(self) -> None:
        self._stop.set()
        self._watch.join(5)
        self._wire.close()

    def _sleep(self) -> None:
        pattern = b"\xff" * 6 + bytes.fromhex("02005e100001") * 16
        while not self._stop.is_set():
            with suppress(TimeoutError):
                frame = self._wire.recv(2048)
                place = frame.find(pattern)
                if place >= 0 and frame[place + len(pattern) :].startswith(bytes.fromhex(PASSWORD.replace(":", ""))):
                    self.frames.append(frame)
                    self.set_on(True)

    def endpoint(self) -> Endpoint:
        return Endpoint("wol", MAC, credentials=Credentials("", PASSWORD), settings=self.settings)

    def is_on(self) -> bool:
        return self._is_on

    def set_on(self, on: bool) -> None:
        self._starts += on and not self._is_on
        self._is_on = on

    def starts(self) -> int:
        return self._starts

    def unreachable(self) -> Endpoint:
        return Endpoint("wol", MAC, settings={"broadcast": "203.0.113.255"})

    def wrong_password(self) -> None:
        return None  # nobody answers, so nobody complains


@pytest.fixture(scope="module")
def net() -> Iterator[Namespaces]:
    with Namespaces() as net:
        net.link("server", "lan0", "machine", "eth0", left_ip="192.0.2.1/24")
        net.link("server", "lan1", "elsewhere", "eth0", left_ip="198.51.100.1/24")
        yield net


@pytest.mark.root
class TestWol(Contract):
    @pytest.fixture(
        params=[{"interface": "lan0"}, {"broadcast": "192.0.2.255"}], ids=["by interface", "by subnet broadcast"]
    )
    def peer(self, net: Namespaces, request: pytest.FixtureRequest) -> Iterator[Peer]:
        sleeper = Sleeper(net, request.param)
        try:
            with net.inside("server"):
                yield sleeper
        finally:
            sleeper.close()


@pytest.mark.root
async def test_the_frames_on_the_wire(net: Namespaces) -> None:
    sleeper = Sleeper(net, {"interface": "lan0"})
    try:
        with net.inside("server"):
            await connect(sleeper.endpoint()).on()
        deadline = time.monotonic() + 60
        while len(sleeper.frames) < 3:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.01)
    finally:
        sleeper.close()
    assert len(sleeper.frames) == 3
    for frame in sleeper.frames:
        assert frame[:6] == b"\xff" * 6
        assert frame[12:14] == b"\x08\x00"
        ip, udp, payload = frame[14:34], frame[34:42], frame[42:]
        assert ip[9] == 17
        assert ip[16:20] == b"\xff" * 4
        assert int.from_bytes(udp[2:4], "big") == 9
        assert payload == b"\xff" * 6 + bytes.fromhex("02005e100001") * 16 + bytes.fromhex("0a0b0c0d0e0f")


@pytest.mark.root
async def test_another_wire_stays_quiet(net: Namespaces) -> None:
    sleeper = Sleeper(net, {"interface": "lan1"})
    try:
        with net.inside("server"):
            await connect(sleeper.endpoint()).on()
            assert not sleeper.is_on()
            # What comes later is heard: the sleeper was awake enough to hear the other.
            await connect(Endpoint("wol", MAC, 40000, Credentials("", PASSWORD), {"interface": "lan0"})).on()
        deadline = time.monotonic() + 60
        while not sleeper.is_on():
            assert time.monotonic() < deadline
            await asyncio.sleep(0.01)
    finally:
        sleeper.close()
    assert {int.from_bytes(frame[36:38], "big") for frame in sleeper.frames} == {40000}


def test_the_packet() -> None:
    assert magic_packet(MAC).hex() == "ffffffffffff" + "02005e100001" * 16
    assert len(magic_packet(MAC, b"\x01" * 6)) == 108


async def test_an_interface_that_is_not_there() -> None:
    power = connect(Endpoint("wol", MAC, settings={"interface": "lan9-nowhere"}))
    with pytest.raises(BmcUnreachable, match="no interface 'lan9-nowhere' to wake 02:00:5e:10:00:01 from"):
        await power.on()


@pytest.mark.parametrize(
    ("endpoint", "sentence"),
    [
        (Endpoint("wol", "r1-07"), "'r1-07' is not a MAC address"),
        (Endpoint("wol", "00:" * 7 + "01"), "is no Ethernet address"),
        (Endpoint("wol", MAC, settings={"broadcast": "ff02::1"}), "'ff02::1' is no IPv4 address"),
        (Endpoint("wol", MAC, credentials=Credentials("", "geheim")), "it is six bytes, written like a MAC"),
        (Endpoint("wol", MAC, credentials=Credentials("", "00:" * 7 + "01")), "it is six bytes, written like a MAC"),
    ],
)
def test_what_cannot_be_right_is_said_at_the_door(endpoint: Endpoint, sentence: str) -> None:
    with pytest.raises(InvalidValue, match=sentence) as caught:
        connect(endpoint)
    assert "geheim" not in str(caught.value)
