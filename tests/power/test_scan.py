"""A scan of real peers: ipmi_sim, Redfish roots behind self-signed TLS, and what only pretends to be one."""

from __future__ import annotations

import asyncio
import shutil
import socket
import ssl
import subprocess
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest
from aiohttp import web

from metalbox.errors import InvalidValue, Refused
from metalbox.machine import Mac
from metalbox.power import asf, ssdp
from metalbox.power.found import Found
from metalbox.power.scan import Pace, Progress, Scan, scan
from tests.netns import Namespaces

pytestmark = pytest.mark.root

# Who answers is waited for. Nobody is known by ARP after three seconds, or by a refusal at once; but silence of IPMI
# costs each scan its two tries.
PACE = Pace(connect_seconds=30.0, answer_seconds=30.0, udp_seconds=1.0, total_seconds=120.0)
UUID = "92384634-2938-2342-8820-489239905423"
ROOT = {
    "@odata.type": "#ServiceRoot.v1_5_0.ServiceRoot",
    "RedfishVersion": "1.9.0",
    "Vendor": "Contoso",
    "Product": "3500",
    "UUID": UUID,
    "Oem": {"Dell": {"ServiceTag": "GTS7DV2", "ManagerMACAddress": "4c:d9:8f:20:73:84"}},
}
SIM = """name "{name}"
set_working_mc 0x20
  startlan 1
    addr {address} 623
    priv_limit admin
    allowed_auths_callback none md2 md5 straight
    allowed_auths_user none md2 md5 straight
    allowed_auths_operator none md2 md5 straight
    allowed_auths_admin none md2 md5 straight
    guid a123456789abcdefa123456789abcdef
  endlan
  user 2 true "factory" "factory" admin 10 none md2 md5 straight
"""
EMULATION = "mc_setbmc 0x20\nmc_add 0x20 0 no-device-sdrs 0x23 9 8 0x9f 0x1291 0xf02 persist_sdr\nmc_enable 0x20\n"
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@pytest.fixture
def net() -> Iterator[Namespaces]:
    """A scanner at 192.0.2.1, and a namespace with 192.0.2.10 to 29, where nothing listens yet."""
    with Namespaces() as net:
        net.link("scanner", "eth0", "bmcs", "eth0", left_ip="192.0.2.1/24", right_ip="192.0.2.10/24")
        for number in range(11, 30):
            net.run("bmcs", "ip", "address", "add", f"192.0.2.{number}/24", "dev", "eth0")
        yield net


@pytest.fixture
def certificate(tmp_path: Path) -> ssl.SSLContext:
    """A self-signed certificate for another name, with a key that only old BMCs have (RSA with 1024 bits)."""
    files = ("-keyout", str(tmp_path / "key"), "-out", str(tmp_path / "crt"))
    new = ("openssl", "req", "-x509", "-newkey", "rsa:1024", "-nodes", "-days", "1", "-subj", "/CN=idrac", *files)
    subprocess.run(new, check=True, capture_output=True, timeout=60)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.set_ciphers("DEFAULT:@SECLEVEL=0")
    context.load_cert_chain(tmp_path / "crt", tmp_path / "key")
    return context


async def run(net: Namespaces, *texts: str, pace: Pace = PACE, heard: list[Progress] | None = None) -> Scan:
    with net.inside("scanner"):
        return await scan(texts, pace=pace, progress=heard.append if heard is not None else None)


@asynccontextmanager
async def http(
    net: Namespaces, address: str, port: int, handler: Handler, tls: ssl.SSLContext | None = None
) -> AsyncIterator[None]:
    """A web server at one address of the BMCs."""
    app = web.Application()
    app.router.add_get("/{path:.*}", handler)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    try:
        with net.inside("bmcs"):
            await web.TCPSite(runner, address, port, ssl_context=tls).start()
        yield
    finally:
        await runner.cleanup()


@asynccontextmanager
async def tcp(net: Namespaces, address: str, port: int, talk: Talk) -> AsyncIterator[None]:
    """Something that takes connections and says what it likes."""

    async def closing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await talk(reader, writer)
        except (ConnectionError, asyncio.CancelledError):
            pass
        finally:
            writer.transport.abort()

    with net.inside("bmcs"):
        server = await asyncio.start_server(closing, address, port)
    try:
        yield
    finally:
        server.close()


class Echo(asyncio.DatagramProtocol):
    """Answers each datagram with what `answers` makes of it."""

    def __init__(self, answers: Callable[[bytes], list[bytes]]) -> None:
        self.answers = answers
        self.heard: list[bytes] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self.heard.append(data)
        for answer in self.answers(data):
            self.transport.sendto(answer, addr)


@asynccontextmanager
async def udp(net: Namespaces, address: str, answers: Callable[[bytes], list[bytes]]) -> AsyncIterator[Echo]:
    loop = asyncio.get_running_loop()
    with net.inside("bmcs"):
        transport, echo = await loop.create_datagram_endpoint(lambda: Echo(answers), local_addr=(address, asf.PORT))
    try:
        yield echo
    finally:
        transport.abort()
        await asyncio.sleep(0)


async def root(request: web.Request) -> web.StreamResponse:
    if request.path != "/redfish/v1/":
        raise web.HTTPNotFound
    assert "Authorization" not in request.headers
    return web.json_response(ROOT)


def simulator(net: Namespaces, folder: Path, address: str) -> None:
    """Start ipmi_sim at an address."""
    if shutil.which("ipmi_sim") is None:
        pytest.skip("needs Debian's package openipmi")
    (folder / "state").mkdir()
    (folder / "lan.conf").write_text(SIM.format(name="bmc", address=address))
    (folder / "emu").write_text(EMULATION)
    words = ("-c", str(folder / "lan.conf"), "-f", str(folder / "emu"), "-s", str(folder / "state"), "-n")
    with (folder / "log").open("wb") as log:
        net.popen("bmcs", "ipmi_sim", *words, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    deadline = time.monotonic() + 60
    while f"{address}:623" not in net.run("bmcs", "ss", "-Hlun").stdout:
        assert time.monotonic() < deadline, (folder / "log").read_text()
        time.sleep(0.05)


async def test_ipmi_sim_is_found_and_ipmitool_agrees(net: Namespaces, tmp_path: Path) -> None:
    simulator(net, tmp_path, "192.0.2.11")
    heard: list[Progress] = []
    # The simulator may stand still when we do not.
    result = await run(net, "192.0.2.10-192.0.2.13", heard=heard, pace=replace(PACE, udp_seconds=3.0))
    found = Found(
        "192.0.2.11",
        ipmi=True,
        guid="a123456789abcdefa123456789abcdef",
        speaks_15=True,
        speaks_20=True,
        authentications=("none", "md2", "md5", "password"),
        cipher_suites=tuple(range(15)),
    )
    assert result == Scan((found,), asked=4)
    assert "offers IPMI cipher suite 0, by which any password is taken" in found.hints
    assert sorted(item.done for item in heard) == [1, 2, 3, 4]
    assert [item.found for item in heard if item.found] == [found]
    if shutil.which("ipmitool") is None:
        return
    # The second answer to what it said twice confuses it: here it repeats nothing within 10 s.
    asked = ("-N", "10", "-I", "lan", "-H", "192.0.2.11", "-U", "factory", "-P", "factory")
    words = ("ipmitool", "-v", "-v", *asked)
    # It says what it hears before its session; in the session ipmi_sim does not take the question again.
    done = net.run("scanner", *words, "channel", "authcap", "14", "4", check=False)
    text = done.stdout + done.stderr
    assert "IPMI Supported" in text and "ASF Version 1.0" in text
    assert "Auth Types      : NONE MD2 MD5 PASSWORD" in text
    assert "Null users      : disabled" in text and "Anonymous login : disabled" in text


async def test_redfish_by_old_tls_and_without(net: Namespaces, certificate: ssl.SSLContext) -> None:
    async with http(net, "192.0.2.11", 443, root, certificate), http(net, "192.0.2.12", 80, root):
        result = await run(net, "192.0.2.0/28")
    over_tls = Found(
        "192.0.2.11",
        redfish=True,
        vendor="Contoso",
        product="3500",
        version="1.9.0",
        uuid=UUID,
        serial="GTS7DV2",
        mac=Mac.parse("4c:d9:8f:20:73:84"),
        url="https://192.0.2.11/redfish/v1/",
    )
    plain = replace(over_tls, address="192.0.2.12", url="http://192.0.2.12/redfish/v1/")
    assert result == Scan((over_tls, plain), asked=14)


async def test_roots_that_are_behind_a_redirect_or_a_login(net: Namespaces) -> None:
    async def moved(request: web.Request) -> web.StreamResponse:
        if request.path != "/redfish/v1":
            raise web.HTTPPermanentRedirect("/redfish/v1")
        return web.json_response(ROOT)

    async def elsewhere(_: web.Request) -> web.StreamResponse:
        raise web.HTTPFound("http://192.0.2.11/redfish/v1")

    async def circle(request: web.Request) -> web.StreamResponse:
        raise web.HTTPFound(request.path)

    async def locked(_: web.Request) -> web.StreamResponse:
        return web.Response(status=401, headers={"OData-Version": "4.0"})

    async def other(_: web.Request) -> web.StreamResponse:
        return web.Response(status=401, headers={"WWW-Authenticate": "Basic"})

    handlers = {11: moved, 12: elsewhere, 13: circle, 14: locked, 15: other}
    async with AsyncExitStack() as stack:
        for number, handler in handlers.items():
            await stack.enter_async_context(http(net, f"192.0.2.{number}", 80, handler))
        result = await run(net, "192.0.2.11-15")
    assert [(found.address, found.url, found.vendor) for found in result.found] == [
        ("192.0.2.11", "http://192.0.2.11/redfish/v1/", "Contoso"),
        ("192.0.2.14", "http://192.0.2.14/redfish/v1/", ""),
    ]


@pytest.mark.parametrize("do_they_end", [True, False])
async def test_hanging_and_garbage_peers_cost_nobody_else(
    net: Namespaces, certificate: ssl.SSLContext, do_they_end: bool
) -> None:
    """Ten sick neighbours. Those that hang until the sound ones are known; and those that hang for ever."""
    seconds = 60.0 if do_they_end else 8.0
    pace = replace(PACE, connect_seconds=seconds, answer_seconds=seconds)
    over = asyncio.Event()

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await over.wait()

    async def rubbish(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"\x16\x03\x01\xff\xff" + bytes(range(256)))
        await writer.drain()

    async def trickle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n{")
        while not over.is_set():
            writer.write(b" ")
            await writer.drain()
            await asyncio.sleep(0.01)

    async def flood(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            writer.write(b"[" * 65_536)
            await writer.drain()

    async def page(_: web.Request) -> web.StreamResponse:
        return web.Response(text="<html>a printer</html>")

    def noise(_: bytes) -> list[bytes]:
        return [b"\xff" * 40, b"\6", asf.build_ping(), b"\6\0\xff\x86"] * 20

    def half(data: bytes) -> list[bytes]:
        """A pong, then nonsense with a right checksum."""
        if data == asf.build_ping():
            return [bytes.fromhex("0600ff06 000011be 40000010 000011be 00000000 81 00 000000000000")]
        return [bytes.fromhex("0600ff07 00 00000000 00000000 08 811c63 200038ccdc")]

    sick = {
        11: (443, silent),
        12: (80, silent),
        13: (443, rubbish),
        14: (80, rubbish),
        15: (80, trickle),
        16: (80, flood),
    }
    sound: set[str] = set()

    def heard(item: Progress) -> None:
        if item.found is not None:
            sound.add(item.found.address)
        if do_they_end and {"192.0.2.20", "192.0.2.21"} <= sound:
            over.set()

    async with AsyncExitStack() as stack:
        for number, (port, talk) in sick.items():
            await stack.enter_async_context(tcp(net, f"192.0.2.{number}", port, talk))
        await stack.enter_async_context(http(net, "192.0.2.17", 443, page, certificate))
        await stack.enter_async_context(udp(net, "192.0.2.18", noise))
        await stack.enter_async_context(udp(net, "192.0.2.19", half))
        await stack.enter_async_context(udp(net, "192.0.2.11", noise))
        await stack.enter_async_context(http(net, "192.0.2.20", 443, root, certificate))
        await stack.enter_async_context(http(net, "192.0.2.21", 80, root))
        with net.inside("scanner"):
            result = await asyncio.wait_for(scan(["192.0.2.11-21"], pace=pace, progress=heard), 100)
    assert [found.address for found in result.found] == ["192.0.2.19", "192.0.2.20", "192.0.2.21"]
    assert result.found[0] == Found("192.0.2.19", ipmi=True)
    assert not result.unasked


async def test_a_bmc_of_ipmi_1_5_is_asked_the_plain_question(net: Namespaces) -> None:
    def old(data: bytes) -> list[bytes]:
        if data == asf.build_capabilities_request():
            return [bytes.fromhex("0600ff07 00 00000000 00000000 08 811c63 200038ccdc")]
        if data == asf.build_capabilities_request(extended=False):
            return [bytes.fromhex("0600ff07 00 00000000 00000000 10 811c63 20003800 0117040000000000 8c")]
        return []

    async with udp(net, "192.0.2.11", old) as echo:
        result = await run(net, "192.0.2.11")
    every = ("none", "md2", "md5", "password")
    assert result.found == (Found("192.0.2.11", ipmi=True, speaks_15=True, authentications=every),)
    # Neither a session (0x39, 0x3a) nor RMCP+ (authentication type 6) was ever begun.
    questions = {data[19] for data in echo.heard if data[3] == asf.CLASS_IPMI}
    assert questions == {asf.GET_CAPABILITIES, asf.GET_GUID}
    assert all(data[4] == 0 for data in echo.heard if data[3] == asf.CLASS_IPMI)


async def test_a_service_at_another_port_is_found_by_its_answer_to_the_search(
    net: Namespaces, certificate: ssl.SSLContext
) -> None:
    loop = asyncio.get_running_loop()
    answer = (
        f"HTTP/1.1 200 OK\r\nST:{ssdp.SERVICE}\r\nUSN:uuid:{UUID}::{ssdp.SERVICE}\r\n"
        "AL:https://192.0.2.11:8443/redfish/v1/\r\n\r\n"
    ).encode()
    asked: list[bytes] = []
    with net.inside("bmcs"):
        ears = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        group = socket.inet_aton(ssdp.GROUP) + socket.inet_aton("192.0.2.11")
        ears.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, group)
        ears.bind(("", ssdp.PORT))
        ears.setblocking(False)
        mouths = []
        for number in (11, 12, 29):
            mouths.append(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
            mouths[-1].bind((f"192.0.2.{number}", 0))

    def hear() -> None:
        data, source = ears.recvfrom(2000)
        asked.append(data)
        for mouth in mouths:
            mouth.sendto(answer, source)

    loop.add_reader(ears, hear)
    try:
        async with http(net, "192.0.2.11", 8443, root, certificate):
            result = await run(net, "192.0.2.11-13")
    finally:
        loop.remove_reader(ears)
        for sock in (ears, *mouths):
            sock.close()
    assert asked[0] == ssdp.build_search(2)
    # 192.0.2.12 points at somebody else's root, which is not taken for its own; 192.0.2.29 was not named.
    assert [(found.address, found.redfish, found.url, found.uuid, found.ssdp) for found in result.found] == [
        ("192.0.2.11", True, "https://192.0.2.11:8443/redfish/v1/", UUID, True),
        ("192.0.2.12", False, "", UUID, True),
    ]


async def test_the_time_is_bounded_and_what_was_not_asked_is_told(net: Namespaces) -> None:
    pace = replace(PACE, at_once=2, total_seconds=1.0)
    # The upper half of the network: nobody has these addresses.
    result = await run(net, "192.0.2.128/26", pace=pace)
    assert not result.found
    assert result.asked < 10 and len(result.unasked) == 62 - result.asked


async def test_the_pace_is_kept(net: Namespaces) -> None:
    begin = time.monotonic()
    await run(net, "127.0.0.1-127.0.0.40", pace=replace(PACE, per_second=40, udp_seconds=0.01))
    assert time.monotonic() - begin > 1.0


async def test_addresses_are_looked_at_before_anything_is_sent() -> None:
    with pytest.raises(Refused, match="more than the 65,536 of one scan"):
        await scan(["10.0.0.0/8"])
    with pytest.raises(InvalidValue, match="names no addresses"):
        await scan(["bmc-1"])


async def test_nobody_behind_an_unreachable_network(net: Namespaces) -> None:
    """No route: nothing is found, nothing raised."""
    assert await run(net, "198.51.100.1-2", "2001:db8::1") == Scan((), asked=3)
