"""metalbox.dhcp.server: the real server on a real wire, in this process, asked by sockets in another namespace."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import struct
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import pytest

from metalbox import config
from metalbox.dhcp import datagrams, options, server, sockets
from metalbox.dhcp.leases import LeaseChange, Leases
from metalbox.dhcp.options import Message
from metalbox.dhcp.packet import BROADCAST_FLAG, Packet, build_packet, parse_packet
from metalbox.dhcp.responder import respond
from metalbox.dhcp.server import DhcpServer
from metalbox.errors import StartError
from metalbox.journal import Journal, Kind
from metalbox.machine import Mac
from metalbox.presence import Presence
from tests.descriptors import opened
from tests.dhcp.wire import FULL, PROXY, Server
from tests.netns import Namespaces

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root")]

OURS = "192.0.2.1"
BOOT_FILES = ("undionly.kpxe", "snponly.efi")
UEFI = {
    options.VENDOR_CLASS: b"PXEClient:Arch:00007:UNDI:003016",
    options.ARCHITECTURE: b"\0\7",
}


class Rig:
    """The server in the namespace `server`, whose commits the test holds in its hand, and a client in `client`."""

    def __init__(self, net: Namespaces, text: str, give_up_seconds: float = 30) -> None:
        self.net = net
        self.config = config.parse(text)
        with net.inside("server"):
            interfaces = sockets.choose_interfaces(self.config, sockets.interfaces())
        self.leases = Leases(self.config.subnets, own=[IPv4Address(OURS)])
        self.journal = Journal()
        self.presence = Presence(lambda address: None)
        self.commits: list[Sequence[LeaseChange]] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.is_broken = False
        self.server = DhcpServer(
            self.config,
            self.leases,
            self.journal,
            self.presence,
            self.commit,
            interfaces=interfaces,
            boot_files=BOOT_FILES,
            known=lambda mac: False,
            give_up_seconds=give_up_seconds,
        )

    async def commit(self, changes: Sequence[LeaseChange]) -> None:
        await self.gate.wait()
        if self.is_broken:
            raise OSError("the disk is full")
        self.commits.append(list(changes))

    def counted(self, *words: str) -> dict[str, int]:
        return {name: count for name, count in self.server.counters.items() if name.startswith(words)}


@asynccontextmanager
async def running(text: str = FULL, **kwargs: Any) -> Any:
    with Namespaces() as net:
        net.link("server", "eth0", "client", "eth0", left_ip=f"{OURS}/24")
        rig = Rig(net, text, **kwargs)
        with net.inside("server"):
            rig.server.open()
        task = asyncio.create_task(rig.server.run())
        try:
            yield rig
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            rig.server.close()


@contextmanager
def client_socket(net: Namespaces, port: int = 68, address: str = "") -> Iterator[socket.socket]:
    with net.inside("client"):
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 << 20)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"eth0")
        sock.bind((address, port))
    with sock:
        yield sock


@contextmanager
def sniffer(net: Namespaces) -> Iterator[socket.socket]:
    """All IPv4 frames that come to the client."""
    with net.inside("client"):
        sock = sockets.open_packet(sockets.interfaces()[0], 0x0800)
    with sock:
        yield sock


async def heard(sock: socket.socket, seconds: float = 30) -> bytes | None:
    try:
        async with asyncio.timeout(seconds):
            return await asyncio.get_running_loop().sock_recv(sock, 4096)
    except TimeoutError:
        return None


def mac(number: int) -> bytes:
    return b"\x52\x54\0" + number.to_bytes(3, "big")


def message(kind: Message, number: int = 1, flags: int = BROADCAST_FLAG, ciaddr: str = "", **given: Any) -> bytes:
    return build_packet(
        Packet(
            xid=number,
            flags=flags,
            ciaddr=int(IPv4Address(ciaddr)) if ciaddr else 0,
            chaddr=mac(number).ljust(16, b"\0"),
            message=kind,
            options=given.get("options", {}),
        )
    )


def request(number: int = 1, address: str = "192.0.2.100", flags: int = BROADCAST_FLAG) -> bytes:
    wanted = {
        options.REQUESTED_ADDRESS: IPv4Address(address).packed,
        options.SERVER_ID: IPv4Address(OURS).packed,
    }
    return message(Message.REQUEST, number, flags, options=wanted)


EVERYONE = ("255.255.255.255", 67)


async def settle(true: Callable[[], bool]) -> None:
    for _ in range(6000):
        if true():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("it did not happen within a minute")


async def test_offer_and_ack_by_broadcast_with_one_line_in_the_journal() -> None:
    async with running() as rig:
        with client_socket(rig.net) as sock:
            sock.sendto(message(Message.DISCOVER), EVERYONE)
            offer = parse_packet(await heard(sock) or b"")
            assert (offer.message, offer.yiaddr) == (Message.OFFER, int(IPv4Address("192.0.2.100")))
            sock.sendto(request(), EVERYONE)
            ack = parse_packet(await heard(sock) or b"")
            assert (ack.message, ack.yiaddr) == (Message.ACK, offer.yiaddr)
        assert [lease.address for commit in rig.commits for change in commit for lease in change.leases] == [
            "192.0.2.100"
        ]
        (entry,) = rig.journal.pending
        assert (entry.kind, entry.mac, entry.count) == (Kind.DHCP, Mac.from_bytes(mac(1)), 2)
        assert entry.data["messages"] == ["DISCOVER", "OFFER", "REQUEST", "ACK"]
        assert entry.data["micros"] > 0
        assert rig.presence.mac_of("192.0.2.100", time.time()) == Mac.from_bytes(mac(1))
        assert rig.counted("received", "sent") == {
            "received: DISCOVER": 1,
            "sent: OFFER": 1,
            "received: REQUEST": 1,
            "sent: ACK": 1,
        }
        assert rig.server.listening == [
            "DHCP on eth0 192.0.2.1 UDP port 67 (192.0.2.0/24 full)",
            "PXE on eth0 192.0.2.1 UDP port 4011 (192.0.2.0/24 full)",
        ]


async def test_without_the_broadcast_flag_a_frame_goes_to_the_hardware_address() -> None:
    async with running() as rig:
        with client_socket(rig.net) as sock, sniffer(rig.net) as wire:
            client = bytes.fromhex(rig.net.mac("client", "eth0").replace(":", ""))
            discover = message(Message.DISCOVER, flags=0).replace(mac(1), client)
            sock.sendto(discover, EVERYONE)
            frame = await heard(wire) or b""
        assert frame[:6] == client
        assert frame[6:12].hex(":") == rig.net.mac("server", "eth0")
        source, target = frame[26:30], frame[30:34]
        assert (source, target) == (IPv4Address(OURS).packed, IPv4Address("192.0.2.100").packed)
        assert struct.unpack("!HH", frame[34:38]) == (67, 68)
        assert parse_packet(frame[42:]).message == Message.OFFER


async def test_without_a_raw_socket_it_broadcasts() -> None:
    async with running() as rig:
        for port in rig.server._ports:
            port.link = None
        with client_socket(rig.net) as sock:
            sock.sendto(message(Message.DISCOVER, flags=0), EVERYONE)
            assert parse_packet(await heard(sock) or b"").message == Message.OFFER


async def test_a_raw_socket_that_fails_is_made_good_by_a_broadcast() -> None:
    async with running() as rig:
        for link in rig.server._links:
            link.close()
        with client_socket(rig.net) as sock:
            sock.sendto(message(Message.DISCOVER, flags=0), EVERYONE)
            assert parse_packet(await heard(sock) or b"").message == Message.OFFER
        assert rig.server.counters["raw send failed"] == 1


@pytest.mark.parametrize("port", [4011, 68])
async def test_the_pxe_port_answers_the_port_that_asked(port: int) -> None:
    async with running(PROXY) as rig:
        rig.net.up("client", "eth0", "192.0.2.50/24")
        with client_socket(rig.net, port) as sock:
            sock.sendto(message(Message.REQUEST, flags=0, ciaddr="192.0.2.50", options=UEFI), (OURS, 4011))
            async with asyncio.timeout(30):
                data, source = await asyncio.get_running_loop().sock_recvfrom(sock, 4096)
        assert source == (OURS, 4011)
        ack = parse_packet(data)
        assert (ack.message, ack.file) == (Message.ACK, b"snponly.efi")
        (entry,) = rig.journal.pending
        assert (entry.data["port"], entry.data["boot_file"]) == (4011, "snponly.efi")
        assert rig.presence.is_booting(Mac.from_bytes(mac(1)), time.time())


async def test_an_interface_with_two_addresses_answers_from_the_one_asked() -> None:
    with Namespaces() as net:
        net.link("server", "eth0", "client", "eth0", left_ip=f"{OURS}/24", right_ip="192.0.2.50/24")
        net.up("server", "eth0", "192.0.2.2/24")
        rig = Rig(net, PROXY)
        with net.inside("server"):
            rig.server.open()
        with client_socket(net, 4011) as sock:
            sock.sendto(message(Message.REQUEST, ciaddr="192.0.2.50", options=UEFI), ("192.0.2.2", 4011))
            async with asyncio.timeout(30):
                _, source = await asyncio.get_running_loop().sock_recvfrom(sock, 4096)
        assert source == ("192.0.2.2", 4011)
        rig.server.close()


async def test_broadcasts_leave_on_the_interface_of_arrival_only() -> None:
    with Namespaces() as net:
        net.link("server", "eth0", "client", "eth0", left_ip=f"{OURS}/24")
        net.link("server", "eth1", "other", "eth0", left_ip="198.51.100.1/24")
        text = FULL + "  - {subnet: 198.51.100.0/24, interface: eth1, mode: full, pools: [198.51.100.9]}\n"
        rig = Rig(net, text)
        with net.inside("server"):
            rig.server.open()
        assert len(rig.server.listening) == 4
        with net.inside("other"):
            other = sockets.open_packet(sockets.interfaces()[0], 0x0800)
        with other, client_socket(net) as sock:
            sock.sendto(message(Message.DISCOVER), EVERYONE)
            assert await heard(sock)
            assert await heard(other, 0.1) is None
        rig.server.close()


async def test_no_ack_leaves_before_its_commit_and_offers_do_not_wait() -> None:
    async with running() as rig:
        rig.gate.clear()
        with client_socket(rig.net) as sock:
            sock.sendto(request(1, "192.0.2.100"), EVERYONE)
            assert await heard(sock, 0.2) is None
            sock.sendto(message(Message.DISCOVER, 9), EVERYONE)
            assert parse_packet(await heard(sock) or b"").message == Message.OFFER
            # What comes while a commit is under way goes into the next one, all together.
            for number in range(2, 8):
                sock.sendto(request(number, f"192.0.2.{100 + number}"), EVERYONE)
            assert await heard(sock, 0.2) is None
            rig.gate.set()
            for _ in range(7):
                assert parse_packet(await heard(sock) or b"").message == Message.ACK
        assert [len(commit) for commit in rig.commits] == [1, 6]


async def test_a_repeated_request_does_not_overtake_its_own_commit() -> None:
    async with running() as rig:
        rig.gate.clear()
        with client_socket(rig.net) as sock:
            for _ in range(3):
                sock.sendto(request(), EVERYONE)
            assert await heard(sock, 0.2) is None
            rig.gate.set()
            assert parse_packet(await heard(sock) or b"").message == Message.ACK


async def test_a_failing_commit_sends_no_ack_and_is_made_good_later(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "RETRY_SECONDS", 0.05)
    async with running() as rig:
        rig.is_broken = True
        with client_socket(rig.net) as sock:
            sock.sendto(request(), EVERYONE)
            await settle(lambda: rig.server.counters["commit failed"] >= 2)
            assert await heard(sock, 0.2) is None
            assert rig.server.counters["ignored: lease not stored"] == 1
            assert rig.journal.pending[-1].data["ignored"] == "lease not stored"
            rig.is_broken = False
            # Written without being asked again: memory and store agree.
            await settle(lambda: bool(rig.commits))
            sock.sendto(request(), EVERYONE)
            assert parse_packet(await heard(sock) or b"").message == Message.ACK
        written = [lease.address for commit in rig.commits for change in commit for lease in change.leases]
        assert written == ["192.0.2.100", "192.0.2.100"]


async def test_a_store_that_stays_broken_ends_the_service(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "RETRY_SECONDS", 0.02)
    with Namespaces() as net:
        net.link("server", "eth0", "client", "eth0", left_ip=f"{OURS}/24")
        rig = Rig(net, FULL, give_up_seconds=0.1)
        rig.is_broken = True
        with net.inside("server"):
            rig.server.open()
        with client_socket(net) as sock:
            sock.sendto(request(), EVERYONE)
            with pytest.raises(ExceptionGroup) as caught:
                async with asyncio.timeout(60):
                    await rig.server.run()
        assert caught.group_contains(OSError, match="the disk is full")
        rig.server.close()


async def test_release_and_decline_are_committed_though_not_answered() -> None:
    async with running() as rig:
        rig.net.up("client", "eth0", "192.0.2.100/24")
        with client_socket(rig.net) as sock:
            sock.sendto(request(), EVERYONE)
            assert await heard(sock)
            sock.sendto(message(Message.RELEASE, ciaddr="192.0.2.100"), (OURS, 67))
            await settle(lambda: len(rig.commits) == 2)
        assert rig.commits[1][0].leases[0].state == "released"
        assert rig.counted("noted", "ignored") == {"noted: released": 1}


async def test_garbage_is_counted_and_hurts_nobody(caplog: pytest.LogCaptureFixture) -> None:
    async with running() as rig:
        with client_socket(rig.net) as sock:
            for size in (0, 1, 100, 235, 236, 240, 300, 1400):
                sock.sendto(os.urandom(size), EVERYONE)
            sock.sendto(message(Message.DISCOVER)[:-61] + b"\x0c", EVERYONE)
            sock.sendto(message(Message.DISCOVER), EVERYONE)
            assert parse_packet(await heard(sock) or b"").message == Message.OFFER
        assert sum(rig.counted("ignored").values()) >= 8
        assert "Traceback" not in caplog.text


async def test_a_bug_in_one_answer_is_a_traceback_and_the_next_is_answered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    honest = respond

    def buggy(packet: Packet, *args: Any) -> Any:
        if packet.xid == 1:
            raise ZeroDivisionError
        return honest(packet, *args)

    monkeypatch.setattr("metalbox.dhcp.server.respond", buggy)
    seen: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: seen.append(context["exception"]))
    async with running() as rig:
        with client_socket(rig.net) as sock:
            sock.sendto(message(Message.DISCOVER, 1), EVERYONE)
            sock.sendto(message(Message.DISCOVER, 2), EVERYONE)
            assert parse_packet(await heard(sock) or b"").xid == 2
    assert [type(error) for error in seen] == [ZeroDivisionError]


async def test_overload_costs_the_oldest_discovers_and_no_request() -> None:
    async with running() as rig:
        with client_socket(rig.net) as sock:
            # The loop stands still meanwhile: all of it waits in the socket.
            for number in range(1, 3001):
                sock.sendto(message(Message.DISCOVER, number), EVERYONE)
                if number % 100 == 0:
                    sock.sendto(request(number, f"192.0.2.{100 + number // 100}"), EVERYONE)
            await settle(lambda: rig.server.counters["received: REQUEST"] == 30)
            await settle(lambda: not rig.server._queue)
        shed = rig.server.counters["ignored: overload"]
        assert 0 < shed < 3000
        assert rig.server.counters["received: DISCOVER"] == 3000 - shed


async def test_many_at_once_are_few_commits() -> None:
    text = FULL.replace("192.0.2.100-192.0.2.150", "192.0.2.10-192.0.2.250")
    async with running(text) as rig:
        with client_socket(rig.net) as sock:
            for number in range(200):
                sock.sendto(request(number, f"192.0.2.{10 + number}"), EVERYONE)
            for _ in range(200):
                assert parse_packet(await heard(sock) or b"").message == Message.ACK
        assert len(rig.commits) < 20


async def offers_of(rig: Rig, count: int) -> set[int]:
    """Ask for so many clients at once; returns whose offers came."""
    with client_socket(rig.net) as sock:
        # The first teaches its kind; the loop stands still while the others are sent.
        sock.sendto(message(Message.DISCOVER, 1), EVERYONE)
        came = {parse_packet(await heard(sock) or b"").xid}
        for number in range(2, count + 1):
            sock.sendto(message(Message.DISCOVER, number), EVERYONE)
        for _ in range(count - 1):
            came.add(parse_packet(await heard(sock) or b"").xid)
    return came


async def test_answers_of_one_kind_leave_with_one_call(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    honest = datagrams.send_alike

    def counting(sock: socket.socket, payloads: Sequence[bytes], *args: Any) -> None:
        calls.append(len(payloads))
        honest(sock, payloads, *args)

    monkeypatch.setattr(datagrams, "send_alike", counting)
    async with running() as rig:
        assert await offers_of(rig, 41) == set(range(1, 42))
        assert sum(calls) == 40 and len(calls) <= 2
        assert rig.counted("received", "sent") == {"received: DISCOVER": 41, "sent: OFFER": 41}
        assert len(rig.journal.pending) == 41


async def test_where_the_kernel_cannot_cut_each_leaves_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []

    def refusing(sock: socket.socket, payloads: Sequence[bytes], *args: Any) -> None:
        calls.append(len(payloads))
        raise OSError(errno.EIO, "no checksum offload")

    monkeypatch.setattr(datagrams, "send_alike", refusing)
    async with running() as rig:
        assert await offers_of(rig, 41) == set(range(1, 42))
        assert len(calls) == 1, "it is not tried again"
        assert rig.counted("sent") == {"sent: OFFER": 41}


async def test_what_does_not_leave_is_counted_and_not_told(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = datagrams.send

    def sometimes(sock: socket.socket, data: bytes, *args: Any) -> None:
        if parse_packet(data).xid % 2:
            raise OSError(errno.ENETUNREACH, "Network is unreachable")
        honest(sock, data, *args)

    async with running() as rig:
        assert await offers_of(rig, 1) == {1}
        monkeypatch.setattr(datagrams, "send", sometimes)
        for port in rig.server._ports:
            port.segments = False
        with client_socket(rig.net) as sock:
            for number in range(2, 12):
                sock.sendto(message(Message.DISCOVER, number), EVERYONE)
            came = [parse_packet(await heard(sock) or b"").xid for _ in range(5)]
        assert came == [2, 4, 6, 8, 10]
        assert rig.counted("send") == {"send failed": 5}
        assert rig.counted("sent") == {"sent: OFFER": 6}
        assert {entry.mac for entry in rig.journal.pending} == {Mac.from_bytes(mac(n)) for n in (1, 2, 4, 6, 8, 10)}


async def test_what_was_learned_is_committed_before_it_is_acknowledged() -> None:
    async with running() as rig:
        with client_socket(rig.net) as sock:
            sock.sendto(request(1, "192.0.2.100"), EVERYONE)
            assert await heard(sock)
            rig.gate.clear()
            for number in range(2, 8):
                sock.sendto(request(number, f"192.0.2.{100 + number}"), EVERYONE)
            assert await heard(sock, 0.2) is None
            rig.gate.set()
            for _ in range(6):
                assert parse_packet(await heard(sock) or b"").message == Message.ACK
        assert sum(map(len, rig.commits)) == 7


async def test_other_peoples_laptops_leave_no_trace() -> None:
    async with running(PROXY) as rig:
        with client_socket(rig.net) as sock:
            sock.sendto(message(Message.DISCOVER), EVERYONE)
            await settle(lambda: rig.server.counters["ignored: not a boot client"] == 1)
        assert not rig.journal.pending


async def test_closing_leaves_nothing_open() -> None:
    with Namespaces() as net:
        net.link("server", "eth0", "client", "eth0", left_ip=f"{OURS}/24")
        before = opened()
        rig = Rig(net, FULL.replace("probe: false", "probe: true"))
        with net.inside("server"):
            rig.server.open()
        assert len(opened() - before) == 5
        rig.server.close()
        assert not opened() - before
        assert rig.server.listening == []


async def test_a_port_already_taken_opens_nothing() -> None:
    with Namespaces() as net:
        net.link("server", "eth0", "client", "eth0", left_ip=f"{OURS}/24")
        rig = Rig(net, FULL)
        with net.inside("server"):
            with sockets.open_udp(sockets.interfaces()[0], 4011), pytest.raises(StartError, match="UDP port 4011"):
                rig.server.open()
            rig.server.open()
        rig.server.close()


async def test_where_all_is_off_no_port_is_opened() -> None:
    with Namespaces() as net:
        net.link("server", "eth0", "client", "eth0", left_ip=f"{OURS}/24")
        rig = Rig(net, "dhcp: {default_mode: off}")
        with net.inside("server"):
            rig.server.open()
        await rig.server.run()
        assert rig.server.listening == []
        rig.server.close()


def test_a_second_service_ends_with_one_sentence(tmp_path: Path) -> None:
    with Namespaces() as net:
        net.link("server", "eth0", "client", "eth0", left_ip=f"{OURS}/24")
        first = Server(net, "server", FULL, tmp_path / "one").start()
        code, errors = Server(net, "server", FULL, tmp_path / "two").stop()
        assert code == 1
        assert errors.startswith("cannot listen on UDP port 67 of interface eth0: another program has it; `ss -ulpn")
        assert errors.count("\n") == 1
        shared = FULL.replace("probe: false", "probe: false, share_port: true")
        assert first.stop() == (0, "")
        first = Server(net, "server", shared, tmp_path / "one").start()
        second = Server(net, "server", shared, tmp_path / "two").start()
        assert first.stop() == (0, "")
        assert second.stop() == (0, "")
