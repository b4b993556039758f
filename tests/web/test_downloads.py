"""Files by HTTP: versions, turns, and what the timeline tells. One big file at a time here, and one may wait."""

from __future__ import annotations

import asyncio
import os
import socket

import pytest

from metalbox.journal import Kind
from metalbox.web import downloads, turns
from metalbox.web.downloads import BIG_BYTES
from tests.web.conftest import MAC, Stack

PATH = "/agent/x86_64/initrd"
# More than the buffers of both ends hold.
SIZE = 4 * BIG_BYTES
PATIENCE = 60.0


class Client:
    """A connection that reads only when it is told to."""

    def __init__(self, stack: Stack, path: str = PATH) -> None:
        self._socket = socket.create_connection(("127.0.0.1", stack.port), timeout=PATIENCE)
        self._socket.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        self.file = self._socket.makefile("rb")

    def head(self) -> tuple[int, dict[str, str]]:
        status = int(self.file.readline().split()[1])
        lines = iter(lambda: self.file.readline().decode().strip(), "")
        return status, {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}

    def close(self) -> None:
        self.file.close()
        self._socket.close()


async def ask(stack: Stack, path: str = PATH) -> tuple[Client, int, dict[str, str]]:
    client = await asyncio.to_thread(Client, stack, path)
    return client, *await asyncio.to_thread(client.head)


async def lines(stack: Stack, outcome: str, words: str = "") -> list[str]:
    """The lines of the timeline with this outcome and these words, as soon as there is one."""
    for _ in range(3000):
        told = [entry.text for entry in await stack.entries() if entry.data.get("outcome") == outcome]
        found = [text for text in told if words in text]
        if found:
            return found
        await asyncio.sleep(0.02)
    raise AssertionError(f"nothing was {outcome}")


async def test_who_has_the_file_is_not_sent_it_again(stack: Stack) -> None:
    stack.put("snponly.efi", b"loader")
    async with stack.http.get("/boot/snponly.efi") as first:
        tag, modified = first.headers["ETag"], first.headers["Last-Modified"]
    for condition in ({"If-None-Match": tag}, {"If-Modified-Since": modified}):
        async with stack.http.get("/boot/snponly.efi", headers=condition) as again:
            assert (again.status, await again.read()) == (304, b"")
            assert (again.headers["ETag"], "Content-Type" in again.headers) == (tag, False)
    assert (await stack.entries())[-1].text == "asked by HTTP for the boot file /boot/snponly.efi, and has it already"
    async with stack.http.get("/boot/snponly.efi", headers={"If-Match": '"other"'}) as refused:
        assert (refused.status, await refused.read()) == (412, b"")


async def test_the_rest_of_a_file_that_was_exchanged_is_the_whole_new_one(stack: Stack) -> None:
    stack.put("snponly.efi", b"old loader")
    async with stack.http.get("/boot/snponly.efi") as first:
        tag = first.headers["ETag"]
    rest = {"Range": "bytes=4-", "If-Range": tag}
    async with stack.http.get("/boot/snponly.efi", headers=rest) as same:
        assert (same.status, await same.read()) == (206, b"loader")
    new = stack.folder / "new"
    new.write_bytes(b"new loader")
    new.replace(stack.files["snponly.efi"])
    async with stack.http.get("/boot/snponly.efi", headers=rest) as other:
        assert (other.status, await other.read()) == (200, b"new loader")
        assert other.headers["ETag"] != tag


async def test_a_second_big_file_waits_with_its_head_and_a_trickle(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(downloads, "TOLD_SECONDS", 0.05)
    # Who reads nothing keeps its place here, however long the others take.
    monkeypatch.setattr(turns, "LOOK_SECONDS", 3600.0)
    stack.arp["127.0.0.1"] = MAC
    stack.put("agent/x86_64/initrd", os.urandom(SIZE))
    stack.put("agent/x86_64/vmlinuz", b"small")
    first, status, _ = await ask(stack)
    second, status_2, head = await ask(stack)
    assert (status, status_2, head["content-length"]) == (200, 200, str(SIZE))
    assert await asyncio.to_thread(second.file.read, 1)
    assert await lines(stack, "waiting") == [
        f"waits for its turn to get the initrd {PATH} by HTTP: 1 others have theirs"
    ]
    assert stack.downloads.under_way() == {"big files: under way now": 2, "big files: waiting now": 1}
    # A third may not even wait; and whatever is small does not stand in the line.
    third, status, head = await ask(stack)
    assert (status, head["retry-after"]) == (503, "10")
    assert (await asyncio.to_thread(third.file.read, int(head["content-length"]))).endswith(b"wait for their turn\n")
    assert (await lines(stack, "turned away"))[0].startswith(f"asked by HTTP for the initrd {PATH} and was told to ")
    for path in ("/agent/x86_64/vmlinuz", "/ipxe/first.ipxe", "/ipxe/script?mac=52-54-00-ab-cd-ef"):
        async with stack.http.get(path) as answer:
            assert answer.status == 200
    async with stack.http.head(PATH) as answer:
        assert answer.status == 200
    async with stack.http.get(PATH, headers={"Range": "bytes=0-9"}) as answer:
        assert len(await answer.read()) == 10
    # Who leaves frees its place for the next.
    first.close()
    assert 1 + len(await asyncio.to_thread(second.file.read, SIZE - 1)) == SIZE
    assert len(await lines(stack, "aborted")) == 1
    # The last byte may be here before the thread that has sent it says so.
    (sent,) = await lines(stack, "sent", "of which it waited ")
    assert sent.startswith(f"got the initrd {PATH} by HTTP: {SIZE} bytes in ")
    assert stack.http_counters["big files: waited for their turn"] == 1
    assert stack.http_counters["big files: turned away, too many wait"] == 1
    entries = [entry for entry in await stack.entries() if entry.kind is Kind.HTTP and entry.data.get("waited")]
    assert [entry.mac for entry in entries] == [MAC]
    second.close()
    third.close()
    assert not +stack.downloads.under_way()


def test_two_senders_share_the_places() -> None:
    assert downloads._shares(1) == (1,)
    assert downloads._shares(64) == (32, 32)
    assert downloads._shares(7) == (4, 3)


async def test_the_connection_goes_on_after_a_big_file(stack: Stack) -> None:
    body = os.urandom(SIZE)
    stack.put("agent/x86_64/initrd", body)
    client = await asyncio.to_thread(Client, stack)
    for _ in range(2):
        status, _ = await asyncio.to_thread(client.head)
        assert (status, await asyncio.to_thread(client.file.read, SIZE)) == (200, body)
        await asyncio.to_thread(client._socket.sendall, f"GET {PATH} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    client.close()


async def test_a_client_that_says_that_it_asks_no_more_gets_its_file(stack: Stack) -> None:
    stack.put("agent/x86_64/initrd", os.urandom(SIZE))
    client, status, _ = await ask(stack)
    client._socket.shutdown(socket.SHUT_WR)
    assert status == 200
    assert len(await asyncio.to_thread(client.file.read, SIZE)) == SIZE
    client.close()
    assert len(await lines(stack, "sent")) == 1
