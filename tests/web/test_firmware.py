"""What firmware gets by HTTP, asked with raw sockets and curl as well as a friendly client."""

from __future__ import annotations

import asyncio
import hashlib
import os
import socket
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from metalbox.errors import StartError
from metalbox.journal import Kind
from metalbox.machine import Mac
from metalbox.web.firmware import load_templates
from tests.web.conftest import MAC, UUID, Stack

BODY = bytes(range(256)) * 4096  # 1 MiB


def raw(port: int, request: str) -> bytes:
    """One request by hand, read to the end of the connection."""
    with socket.create_connection(("127.0.0.1", port), timeout=60) as sock:
        sock.sendall(request.replace("\n", "\r\n").encode("latin-1"))
        answer = b""
        while chunk := sock.recv(65536):
            answer += chunk
    return answer


async def test_a_boot_file_as_uefi_http_boot_asks_for_it(stack: Stack) -> None:
    """EDK2: HEAD, then GET; the Host header without the port; no Range; one connection (protocols 2.5)."""
    stack.put("snponly.efi", BODY)
    head = "HEAD /boot/snponly.efi HTTP/1.1\nHost: 127.0.0.1\nUser-Agent: UefiHttpBoot/1.0\nAccept: */*\n\n"
    get = head.replace("HEAD", "GET").replace("\n\n", "\nConnection: close\n\n")
    answer = await asyncio.to_thread(raw, stack.port, head + get)
    first, second, body = answer.split(b"\r\n\r\n", 2)
    for header in (first, second):
        assert header.startswith(b"HTTP/1.1 200 OK\r\n")
        assert b"\r\nContent-Type: application/efi\r\n" in header
        assert f"\r\nContent-Length: {len(BODY)}\r\n".encode() in header
        assert b"Location" not in header
        assert b"Transfer-Encoding" not in header
    assert body == BODY


@pytest.mark.parametrize("rest", ["HTTP/1.0\n\n", "HTTP/1.1\nHost: evil.example:99\nConnection: close\n\n"])
async def test_old_and_odd_clients(stack: Stack, rest: str) -> None:
    stack.put("snponly.efi", b"loader")
    answer = await asyncio.to_thread(raw, stack.port, f"GET /boot/snponly.efi {rest}")
    assert answer.split(b" ")[1] == b"200"
    assert answer.endswith(b"\r\n\r\nloader")


@pytest.mark.parametrize(
    ("asked", "status", "start", "stop"),
    [
        ("bytes=0-99", 206, 0, 100),
        ("bytes=1048570-", 206, 1048570, 1048576),
        ("bytes=-6", 206, 1048570, 1048576),
        ("bytes=1048570-99999999", 206, 1048570, 1048576),
        ("bytes=-99999999", 206, 0, 1048576),
        ("bytes=1048576-", 416, 0, 0),
        ("bytes=5-2", 200, 0, 1048576),
        ("bytes=0-1,5-6", 200, 0, 1048576),
        ("lines=1-2", 200, 0, 1048576),
    ],
)
async def test_parts_of_a_file(stack: Stack, asked: str, status: int, start: int, stop: int) -> None:
    stack.put("snponly.efi", BODY)
    async with stack.http.get("/boot/snponly.efi", headers={"Range": asked}) as answer:
        assert answer.status == status
        assert await answer.read() == BODY[start:stop]
        assert answer.headers["Content-Length"] == str(stop - start)
        told = {206: f"bytes {start}-{stop - 1}/1048576", 416: "bytes */1048576"}.get(status)
        assert answer.headers.get("Content-Range") == told


async def test_an_empty_file(stack: Stack) -> None:
    stack.put("snponly.efi", b"")
    async with stack.http.get("/boot/snponly.efi") as answer:
        assert (answer.status, await answer.read(), answer.headers["Content-Length"]) == (200, b"", "0")


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/boot",
        "/boot/",
        "/boot/none.efi",
        "/boot/%2e%2e%2fetc%2fpasswd",
        "/boot/../../../etc/passwd",
        "/boot/%00",
        "/boot/%ff%fe",
        "/agent/",
        "/agent/x86_64",
        "/agent/x86_64/",
        "/agent/x86_64/vmlinuz",
        "/agent/..%2f..%2fetc/vmlinuz",
        "/ipxe/",
        "/ipxe/none",
        "/autoexec.ipxe",
    ],
)
async def test_what_is_not_there(stack: Stack, path: str) -> None:
    answer = await asyncio.to_thread(raw, stack.port, f"GET {path} HTTP/1.0\n\n")
    assert answer.startswith(b"HTTP/1.0 404 Not Found\r\n")
    assert b"Traceback" not in answer
    assert b"<" not in answer
    assert stack.http_counters == {"ignored: 404 Not Found": 1}


async def test_the_agents_files_and_their_lines_in_the_timeline(stack: Stack) -> None:
    stack.arp["127.0.0.1"] = MAC
    stack.put("agent/x86_64/vmlinuz", b"kernel")
    stack.put("agent/x86_64/initrd", BODY)
    for part, size in (("vmlinuz", 6), ("initrd", len(BODY))):
        async with stack.http.get(f"/agent/x86_64/{part}") as answer:
            assert len(await answer.read()) == size
            assert answer.content_type == "application/octet-stream"
    async with stack.http.get("/boot/undionly.kpxe") as answer:
        assert answer.status == 404
    first, second, third = await stack.entries()
    for entry, role, size in ((first, "kernel", 6), (second, "initrd", len(BODY))):
        assert (entry.kind, entry.mac) == (Kind.HTTP, MAC)
        assert (entry.data["role"], entry.data["bytes"], entry.data["outcome"]) == (role, size, "sent")
    assert third.text == "asked by HTTP for the boot file /boot/undionly.kpxe, which we do not have"
    assert (third.data["outcome"], third.data["status"]) == ("not found", 404)


async def test_a_client_that_goes_away_is_an_aborted_transfer_with_its_bytes(stack: Stack) -> None:
    path = stack.folder / "big"
    with path.open("wb") as file:
        file.truncate(512 * 2**20)
    stack.files["agent/x86_64/initrd"] = path
    with socket.create_connection(("127.0.0.1", stack.port)) as sock:
        sock.sendall(b"GET /agent/x86_64/initrd HTTP/1.1\r\nHost: x\r\n\r\n")
        received = len(await asyncio.to_thread(sock.recv, 65536))
    assert await stack.journal.wait(0, 60)
    entries = await stack.entries()
    assert entries[0].data["outcome"] == "aborted"
    assert received <= entries[0].data["bytes"] + 1000 < 512 * 2**20
    assert entries[0].text.startswith("broke off the initrd /agent/x86_64/initrd by HTTP after ")


async def test_a_file_that_shrinks_meanwhile_is_not_told_as_sent(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    stack.put("snponly.efi", BODY)
    real = os.fstat
    size = len(BODY) + 10

    def taller(number: int) -> Any:
        found = real(number)
        if found.st_size != len(BODY):
            return found
        return SimpleNamespace(st_size=size, st_mtime_ns=found.st_mtime_ns, st_ino=found.st_ino)

    monkeypatch.setattr("metalbox.web.downloads.os.fstat", taller)
    answer = await asyncio.to_thread(raw, stack.port, "GET /boot/snponly.efi HTTP/1.0\n\n")
    assert f"Content-Length: {size}".encode() in answer
    assert [entry.data["outcome"] for entry in await stack.entries()] == ["aborted"]


async def test_big_files_leave_by_sendfile(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    real = os.sendfile

    def spy(*args: int) -> int:
        calls.append(args)
        return real(*args)

    monkeypatch.setattr(os, "sendfile", spy)
    stack.put("snponly.efi", BODY)
    async with stack.http.get("/boot/snponly.efi") as answer:
        assert hashlib.sha256(await answer.read()).digest() == hashlib.sha256(BODY).digest()
    assert calls


async def test_curl_continues_a_broken_download(stack: Stack) -> None:
    stack.put("snponly.efi", BODY)
    target = stack.folder / "target"
    target.write_bytes(BODY[:1000])
    url = f"http://127.0.0.1:{stack.port}/boot/snponly.efi"
    argv = ["curl", "-sS", "--fail", "-C", "-", "-o", str(target), url]
    done = await asyncio.to_thread(subprocess.run, argv, capture_output=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    assert target.read_bytes() == BODY


async def test_the_first_script_is_the_same_for_all(stack: Stack) -> None:
    async with stack.http.get("/ipxe/first.ipxe") as answer:
        text = await answer.text()
        assert answer.content_type == "text/plain"
    assert text.startswith("#!ipxe\n")
    async with stack.http.get("/ipxe/first.ipxe?x=1", headers={"Host": "other"}) as answer:
        assert await answer.text() == text


QUERY = (
    f"mac={MAC.replace(':', '-')}&uuid={UUID}&arch=i386&platform=pcbios&ip=127.0.0.1&loader=ipxe-1.0.0+git"
    "&serial=SN%20%2F1+2"
)


async def test_the_decided_script_is_made_for_the_address_that_was_asked(stack: Stack) -> None:
    for part in ("vmlinuz", "initrd"):
        stack.put(f"agent/x86_64/{part}", b"x")
    async with stack.http.get(f"/ipxe/script?{QUERY}") as answer:
        text = await answer.text()
    kernel = next(line for line in text.splitlines() if line.startswith("kernel "))
    server = f"127.0.0.1:{stack.port}"
    assert kernel == (
        f"kernel http://{server}/agent/x86_64/vmlinuz initrd=initrd metalbox.server=http://{server} "
        f"metalbox.mac={MAC} quiet console=tty0 console=ttyS0,115200 || goto failed"
    )
    decision, script = await stack.entries()
    assert (decision.kind, decision.mac, decision.machine_id) == (Kind.DECISION, MAC, None)
    assert decision.data == {
        "target": "agent",
        "reason": "not in the inventory yet",
        "inputs": {
            "mac": MAC,
            "uuid": UUID,
            "serial": "SN /1+2",
            "arch": "i386",
            "platform": "bios",
            "address": "127.0.0.1",
            "loader": "ipxe-1.0.0+git",
            "state": "unknown",
        },
    }
    assert script.data["role"] == "script"
    assert stack.presence.mac_of("127.0.0.1", script.at) == MAC
    assert stack.presence.is_booting(MAC, script.at)


async def test_a_known_machine_is_recognised(stack: Stack) -> None:
    number = (await stack.report())["id"]
    async with stack.http.get(f"/ipxe/script?{QUERY}") as answer:
        assert "nothing to boot: there is no agent for x86_64" in await answer.text()
    decision = [entry for entry in await stack.entries() if entry.kind is Kind.DECISION]
    assert [entry.machine_id for entry in decision] == [number]
    assert decision[0].data["inputs"]["machine"] == "sn12345"


@pytest.mark.parametrize(
    "query",
    [
        "",
        "mac=&uuid=&serial=",
        "mac=zz&mac=52-54-00-00-00-01",
        "mac=52-54-00-ab-cd-ef%0ashell",
        "serial=%ff%fe%00%0d%0a${cwuri}",
        "&&&==&%&%zz",
        "a" * 7000,
        "&".join(f"x{n}=1" for n in range(1000)),
        "product=R1&mac=52:54:00:00:00:66",
    ],
)
async def test_a_machine_that_introduces_itself_oddly_gets_a_script(stack: Stack, query: str) -> None:
    stack.arp["127.0.0.1"] = Mac("52:54:00:00:00:77")
    answer = await asyncio.to_thread(raw, stack.port, f"GET /ipxe/script?{query} HTTP/1.0\n\n")
    assert answer.startswith(b"HTTP/1.0 200 OK\r\n")
    script = answer.split(b"\r\n\r\n", 1)[1]
    assert script.startswith(b"#!ipxe\n")
    assert b"shell" not in script
    assert b"cwuri" not in script


async def test_one_who_asks_in_a_loop_for_what_is_not_there_has_one_line(stack: Stack) -> None:
    for _ in range(5):
        async with stack.http.get("/boot/none.efi") as answer:
            assert answer.status == 404
    assert [entry.count for entry in await stack.entries()] == [5]


def test_own_templates_take_the_place_of_the_shipped(tmp_path: Path) -> None:
    (tmp_path / "first.ipxe.j2").write_text("#!ipxe\nmine\n")
    assert load_templates(tmp_path).first.render() == "#!ipxe\nmine\n"
    (tmp_path / "agent.ipxe.j2").write_text("{{ oops")
    with pytest.raises(StartError, match=r"agent\.ipxe\.j2:1 is wrong"):
        load_templates(tmp_path)
