"""tftp.server on the loopback: real sockets, whole datagrams, the timeline and the counters."""

from __future__ import annotations

import asyncio
import socket
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random
from typing import Any

import pytest

from metalbox import config
from metalbox.errors import StartError
from metalbox.files import ServedFile
from metalbox.journal import Journal, Kind
from metalbox.machine import Mac
from metalbox.presence import Presence
from metalbox.tftp import session
from metalbox.tftp.batch import Batch
from metalbox.tftp.server import TftpServer
from tests.tftp.wire import ack, rrq

MAC = Mac("52:54:00:ab:cd:ef")
DATA = Random(1).randbytes(300_000)


def free_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Server and client share this process: when it is held up by others, nothing was lost and nothing is repeated."""
    for name in ("FIRST_WAIT", "SHORTEST_WAIT", "LONGEST_WAIT"):
        monkeypatch.setattr(session, name, 60.0)


class Rig:
    """A server that serves one folder and `text`, made in memory; with clients in the same loop."""

    def __init__(self, folder: Path, address: str, **settings: Any) -> None:
        self.folder = folder
        self.journal = Journal()
        self.settings = {"port": free_port(), **settings}
        self.segmentation = self.settings.pop("segmentation", True)
        presence = Presence(lambda address: MAC if address.startswith("127.") else None)
        tftp = config.Tftp(**self.settings)
        self.server = TftpServer(
            tftp, self.resolve, self.journal, presence, address=address, segmentation=self.segmentation
        )
        self.sockets: list[socket.socket] = []
        self.loop = asyncio.get_running_loop()

    def resolve(self, name: str, client: str) -> ServedFile | None:
        if name == "text":
            return ServedFile("text", data=f"hello\n{client}\n".encode())
        if name == "bug":
            raise ZeroDivisionError
        path = self.folder / name
        return ServedFile(name, path) if "/" not in name and path.exists() else None

    def client(self, port: int = 0) -> socket.socket:
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        sock.bind(("127.0.0.1", port))
        self.sockets.append(sock)
        return sock

    def ask(self, sock: socket.socket, data: bytes, address: str = "127.0.0.1") -> None:
        sock.sendto(data, (address, self.server._settings.port))

    async def hear(self, sock: socket.socket) -> tuple[bytes, tuple[str, int]]:
        async with asyncio.timeout(60):
            data, source = await self.loop.sock_recvfrom(sock, 2048)
            return data, source

    async def fetch(self, name: str, mode: str = "octet", /, **options: int) -> bytes:
        """The file as a client gets it that never loses anything."""
        sock = self.client()
        self.ask(sock, rrq(name, mode, **options))
        out, block, in_window = b"", 0, 0
        blksize, windowsize = 512, 1
        while True:
            data, server = await self.hear(sock)
            if data[1] == 6:
                fields = data[2:-1].split(b"\0")
                agreed = {k: int(v) for k, v in zip(fields[::2], fields[1::2], strict=True)}
                blksize, windowsize = agreed.get(b"blksize", 512), agreed.get(b"windowsize", 1)
                sock.sendto(ack(0), server)
                continue
            assert data[:4] == b"\0\3" + ((block + 1) & 0xFFFF).to_bytes(2, "big"), data[:40]
            block, in_window, out = block + 1, in_window + 1, out + data[4:]
            is_last = len(data) - 4 < blksize
            if is_last or in_window == windowsize:
                sock.sendto(ack(block), server)
                in_window = 0
            if is_last:
                return out

    async def idle(self) -> None:
        """Until no transfer is under way."""
        async with asyncio.timeout(60):
            while self.server.transfers:  # noqa: ASYNC110 - it has nothing else to wait for
                await asyncio.sleep(0.001)


@asynccontextmanager
async def rig(folder: Path, address: str = "0.0.0.0", **settings: Any) -> AsyncIterator[Rig]:
    (folder / "f").write_bytes(DATA)
    (folder / "empty").write_bytes(b"")
    it = Rig(folder, address, **settings)
    await it.server.start()
    try:
        yield it
    finally:
        it.server.close()
        for sock in it.sockets:
            sock.close()


@pytest.mark.parametrize(
    "options",
    [{}, {"blksize": 1468}, {"blksize": 8, "windowsize": 64}, {"blksize": 1468, "windowsize": 4},
     {"blksize": 1468, "windowsize": 64, "tsize": 0}, {"windowsize": 7, "timeout": 60}],
)  # fmt: skip
@pytest.mark.parametrize("segmentation", [True, False])
async def test_files_arrive_whole(tmp_path: Path, options: dict[str, int], segmentation: bool) -> None:
    async with rig(tmp_path, segmentation=segmentation) as r:
        assert await r.fetch("f", **options) == DATA
        assert await r.fetch("empty", **options) == b""
        await r.idle()
        assert r.server.counters == {"requests": 2, "sent": 2, "bytes": len(DATA), "retransmits": 0}


async def test_the_timeline(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        await r.fetch("f", blksize=1468, windowsize=4)
        await r.idle()
        sock = r.client()
        r.ask(sock, rrq("nothing", tsize=0))
        assert (await r.hear(sock))[0] == b"\0\5\0\1file not found\0"
        r.ask(sock, rrq("f", tsize=0))
        _, server = await r.hear(sock)
        sock.sendto(b"\0\5\0\x08User aborted the transfer\0", server)
        await r.idle()
        sent, missing, probe = r.journal.pending
        assert {e.kind for e in (sent, missing, probe)} == {Kind.TFTP}
        assert {e.mac for e in (sent, missing, probe)} == {MAC}
        assert sent.text.startswith("fetched f by TFTP: 300,000 bytes in ")
        assert sent.data.pop("seconds") > 0
        assert sent.data == {
            "file": "f", "bytes": 300_000, "outcome": "sent", "blksize": 1468, "windowsize": 4,
            "retransmits": 0, "address": "127.0.0.1",
        }  # fmt: skip
        assert missing.text == "asked by TFTP for nothing, which is not here"
        assert (missing.data["outcome"], missing.data["file"]) == ("not found", "nothing")
        assert probe.text == "asked by TFTP for the size of f: 300,000 bytes"
        assert (probe.data["outcome"], probe.data["bytes"]) == ("aborted", 0)


@pytest.mark.parametrize(
    ("request_", "answer"),
    [
        (b"\0\2f\0octet\0", b"\0\5\0\2this server takes no files\0"),
        (b"\0\1f\0mail\0", b"\0\5\0\2this server takes no mail\0"),
        (b"\0\1f\0octal\0", b"\0\5\0\4unknown mode\0"),
        (b"\0\1../f\0octet\0", b"\0\5\0\1file not found\0"),
        (b"\0\1folder\0octet\0", b"\0\5\0\0cannot read the file: not a regular file\0"),
    ],
)
async def test_refusals_come_from_the_port_that_was_asked(tmp_path: Path, request_: bytes, answer: bytes) -> None:
    (tmp_path / "folder").mkdir()
    async with rig(tmp_path) as r:
        sock = r.client()
        r.ask(sock, request_)
        assert await r.hear(sock) == (answer, ("127.0.0.1", r.server._settings.port))
        assert r.server.transfers == 0


async def test_rendered_text_in_both_modes(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        assert await r.fetch("text") == b"hello\n127.0.0.1\n"
        assert await r.fetch("text", "NetASCII") == b"hello\r\n127.0.0.1\r\n"
        (tmp_path / "lines").write_bytes(b"a\nb\r\n")
        assert await r.fetch("lines", "netascii", tsize=0) == b"a\r\nb\r\0\r\n"


async def test_answers_come_from_the_address_that_was_asked(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        sock = r.client()
        for name in ("f", "nothing"):
            r.ask(sock, rrq(name), "127.0.0.7")
            _, (address, port) = await r.hear(sock)
            assert address == "127.0.0.7"
        assert port == r.server._settings.port


async def test_a_stranger_gets_error_5_and_disturbs_nothing(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        sock, stranger = r.client(), r.client()
        r.ask(sock, rrq("f"))
        first, server = await r.hear(sock)
        for datagram in (ack(1), b"\0\5\0\0stop\0", ack(1)):
            stranger.sendto(datagram, server)
        for _ in range(2):
            assert await r.hear(stranger) == (b"\0\5\0\5unknown transfer id\0", server)
        sock.sendto(ack(1), server)
        second, again = await r.hear(sock)
        assert (first[:4], second[:4], again) == (b"\0\3\0\1", b"\0\3\0\2", server)
        assert r.server.counters["ignored: foreign transfer id"] == 3


async def test_a_new_request_from_the_same_port_replaces_the_old(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        sock = r.client()
        r.ask(sock, rrq("f"))
        _, old = await r.hear(sock)
        r.ask(sock, rrq("empty"))
        data, new = await r.hear(sock)
        assert data == b"\0\3\0\1" and new != old
        sock.sendto(ack(1), old)  # late, about the old one: no ERROR, which could be taken for one about the new
        sock.sendto(ack(1), new)
        await r.idle()
        assert r.server.counters["aborted"] == r.server.counters["sent"] == 1
        with pytest.raises(BlockingIOError):
            sock.recv(100)


async def test_a_request_that_came_twice_is_one_transfer(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        sock = r.client()
        r.ask(sock, rrq("f", blksize=1024))
        r.ask(sock, rrq("f", blksize=1024))
        oack, server = await r.hear(sock)
        sock.sendto(ack(0), server)
        data, same = await r.hear(sock)
        assert (oack[1], data[:4], same) == (6, b"\0\3\0\1", server)
        assert r.server.transfers == 1
        assert r.server.counters["repeated requests"] == 1


async def test_lost_data_comes_again_by_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "FIRST_WAIT", 1.0)
    monkeypatch.setattr(session, "SHORTEST_WAIT", 0.1)
    async with rig(tmp_path) as r:
        sock = r.client()
        r.ask(sock, rrq("f"))
        _, server = await r.hear(sock)
        sock.sendto(ack(1), server)
        # Who was held up for a second is sent the first block twice, too.
        while (first := await r.hear(sock))[0][:4] == b"\0\3\0\1":
            pass
        assert first[0][:4] == b"\0\3\0\2"
        assert first == await r.hear(sock)


async def test_a_client_that_closes_its_port_is_gone_at_once(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        sock = r.client()
        r.ask(sock, rrq("f"))
        _, server = await r.hear(sock)
        sock.sendto(ack(1), server)
        sock.close()
        await r.idle()
        assert r.server.counters["aborted"] == 1
        assert r.journal.pending[0].data["bytes"] == 512


async def test_more_transfers_than_allowed_are_refused(tmp_path: Path) -> None:
    async with rig(tmp_path, max_transfers=3) as r:
        socks = [r.client() for _ in range(5)]
        for sock in socks:
            r.ask(sock, rrq("f"))
        answers = [(await r.hear(sock))[0] for sock in socks]
        assert [a[1] for a in answers] == [3, 3, 3, 5, 5]
        assert answers[-1] == b"\0\5\0\0too many transfers, try again\0"
        assert r.server.counters["refused: too many transfers, try again"] == 2
        assert r.server.transfers == 3


async def test_garbage_is_counted_and_not_answered(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        sock = r.client()
        for datagram in (b"", b"\0", b"\0\4\0\0", bytes(1500)):
            r.ask(sock, datagram)
        assert await r.fetch("empty") == b""
        assert r.server.counters["ignored: not a request"] == 4
        with pytest.raises(BlockingIOError):
            sock.recv(100)


async def test_a_bug_costs_one_request_and_is_written_down(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with rig(tmp_path) as r:
        r.ask(r.client(), rrq("bug"))
        assert await r.fetch("f") == DATA
        assert r.server.counters["bugs"] == 1
        assert "ZeroDivisionError" in caplog.text


async def test_many_at_once_and_nothing_left(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        files = await asyncio.gather(*(r.fetch("f", blksize=1468, windowsize=1 + n % 8) for n in range(100)))
        assert set(files) == {DATA}
        await r.idle()
        assert not r.server._by_client and not r.server._per_address
        assert r.server.counters["sent"] == 100


async def test_a_slow_client_is_not_starved(tmp_path: Path) -> None:
    """Twenty clients with the largest windows beside one that has none: it gets its turn in every round."""
    async with rig(tmp_path) as r:
        slow = asyncio.create_task(r.fetch("f", blksize=1468))
        for _ in range(3):
            await asyncio.gather(*(r.fetch("f", blksize=1468, windowsize=64) for _ in range(20)))
        assert await slow == DATA


async def test_a_wake_up_ends_though_more_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever else shares the loop has its turn after at most one batch that began in time."""
    monkeypatch.setattr("metalbox.tftp.server.TURN_SECONDS", 0.0)
    async with rig(tmp_path) as r:
        socks = [r.client() for _ in range(100)]
        servers = []
        for sock in socks:
            r.ask(sock, rrq("f"))
            servers.append((await r.hear(sock))[1])
        assert len(set(servers)) == 1
        for sock, server in zip(socks, servers, strict=True):
            sock.sendto(ack(1), server)
        [lane] = r.server._lanes.all()
        r.server._on_lane(lane)
        blocks = Counter(transfer.session.acked for transfer in lane.transfers.values())
        assert blocks == {1: 64, 0: 36}
        r.server._on_lane(lane)
        assert {transfer.session.acked for transfer in lane.transfers.values()} == {1}


async def test_a_lane_without_room_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first windows find no room, as on a slow line: the files arrive whole, and nothing is sent twice."""
    refused = iter([True] * 5)

    def send(self: Batch, fileno: int, slot: int, count: int) -> int:
        return 0 if next(refused, False) else real(self, fileno, slot, count)

    real = Batch.send
    monkeypatch.setattr(Batch, "send", send)
    async with rig(tmp_path) as r:
        files = await asyncio.gather(*(r.fetch("f", blksize=1468, windowsize=1 + n % 8) for n in range(20)))
        assert set(files) == {DATA}
        await r.idle()
        assert r.server.counters["waited for room"] == 5
        assert (r.server.counters["sent"], r.server.counters["retransmits"]) == (20, 0)


async def test_the_block_fits_the_mtu(tmp_path: Path) -> None:
    """The loopback takes 65536 bytes, so here the setting decides; in test_clients the path does."""
    async with rig(tmp_path, max_blksize=1400) as r:
        sock = r.client()
        r.ask(sock, rrq("f", blksize=65464))
        assert (await r.hear(sock))[0] == b"\0\6blksize\x001400\0"


async def test_blocks_larger_than_a_segment_may_be(tmp_path: Path) -> None:
    async with rig(tmp_path, max_blksize=40_000) as r:
        (tmp_path / "f").write_bytes(DATA)
        sock = r.client()
        r.ask(sock, rrq("f", blksize=40_000, windowsize=2))
        _, server = await r.hear(sock)
        sock.sendto(ack(0), server)
        async with asyncio.timeout(60):
            got = [await r.loop.sock_recv(sock, 65536) for _ in range(2)]
        assert b"".join(d[4:] for d in got) == DATA[:80_000]


async def test_stopping_tells_the_clients(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        sock = r.client()
        r.ask(sock, rrq("f"))
        await r.hear(sock)
        assert r.server.listening == f"udp 0.0.0.0:{r.server._settings.port}"
        r.server.close()
        assert (await r.hear(sock))[0] == b"\0\5\0\0the server is stopping\0"
        assert r.server.listening == ""
        assert r.journal.pending[0].data["outcome"] == "aborted"


async def test_a_port_that_is_taken_is_one_sentence(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        port = r.server._settings.port
        second = TftpServer(config.Tftp(port=port), r.resolve, r.journal, Presence(lambda _: None))
        with pytest.raises(StartError) as error:
            await second.start()
        text = f"UDP port {port} is taken: another TFTP server runs here (`ss -ulnp sport = :{port}` names it)"
        assert str(error.value) == text
        assert second.listening == ""
        second.close()


async def test_a_transfer_that_is_over_is_let_go_of_at_once(tmp_path: Path) -> None:
    """Its alarm would be a second away: at thousands of files a second that is a lot of memory."""
    async with rig(tmp_path) as r:
        before = r.server._timer_number
        for _ in range(3):
            assert await r.fetch("empty") == b""
        await r.idle()
        assert r.server._timer_number > before
        assert not r.server._alarms and not any(lane.transfers for lane in r.server._lanes.all())
