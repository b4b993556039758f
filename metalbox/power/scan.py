"""Finds BMCs in addresses that an operator names: by Redfish's open root, by IPMI outside of a session, by SSDP.

It never logs in, and sends nothing to addresses that were not named, but for one multicast search on the segment that
leads to them. An address that hangs or talks rubbish costs its own place among those asked at once, and a bounded time.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
import ssl
import struct
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from ipaddress import ip_address
from urllib.parse import urljoin, urlsplit

import aiohttp

from metalbox.errors import MalformedPacket
from metalbox.power import asf, ssdp
from metalbox.power.addresses import parse_addresses
from metalbox.power.found import Found, Root, parse_root

log = logging.getLogger("metalbox.power")

ROOT = "/redfish/v1/"
# The largest root seen has 7 kB.
MAX_BODY = 256 * 1024
# To the same address only; some services have the root at /redfish/v1 and say so.
REDIRECTS = 2
# Servers without RFC 5746; OpenSSL's number, which Python's ssl names from version 3.12 on.
LEGACY_SERVER_CONNECT = 0x4
SEARCH_WAIT_SECONDS = 2
SEARCH_TRIES = 2


@dataclass(frozen=True, slots=True)
class Pace:
    """How fast and how long. A /16 of silent addresses takes about 17 minutes, a /24 five seconds."""

    # Addresses. Each has one connection open at most, which with TLS costs asyncio a buffer of 256 kB.
    at_once: int = 256
    per_second: float = 200.0  # addresses begun; each is some seven small packets when nobody is there
    connect_seconds: float = 4.0  # TCP and TLS together; a handshake costs old BMCs 2 s
    answer_seconds: float = 8.0  # a whole Redfish answer; BMCs of 2014 take 3 s for the root
    udp_seconds: float = 1.0  # for one IPMI question
    udp_tries: int = 2
    total_seconds: float = 1800.0


@dataclass(frozen=True, slots=True)
class Progress:
    """Told after each address. `found` is what was at this one, None when nothing."""

    done: int
    total: int
    found: Found | None = None


@dataclass(frozen=True, slots=True)
class Scan:
    """What was found, in the order of the addresses. `unasked`: for these the time was over."""

    found: tuple[Found, ...]
    asked: int
    unasked: tuple[str, ...] = ()


async def scan(
    texts: Sequence[str], *, progress: Callable[[Progress], None] | None = None, pace: Pace | None = None
) -> Scan:
    """Ask every address of `texts` (see addresses.parse_addresses). Raises InvalidValue and Refused before asking."""
    lap = _Lap(parse_addresses(texts), pace or Pace(), progress or (lambda _: None))
    return await lap.run()


class _Lap:
    """One scan while it runs."""

    def __init__(self, addresses: Sequence[str], pace: Pace, progress: Callable[[Progress], None]) -> None:
        self.addresses = addresses
        self.named = frozenset(addresses)
        self.pace = pace
        self.progress = progress
        self.asked: dict[str, Found | None] = {}

    async def run(self) -> Scan:
        connector = aiohttp.TCPConnector(limit=0, ssl=_any_tls(), force_close=True)
        timeout = aiohttp.ClientTimeout(total=self.pace.answer_seconds, sock_connect=self.pace.connect_seconds)
        headers = {"Accept": "application/json", "Accept-Encoding": "identity", "OData-Version": "4.0"}
        jar = aiohttp.DummyCookieJar()
        async with aiohttp.ClientSession(connector=connector, timeout=timeout, headers=headers, cookie_jar=jar) as web:
            with suppress(TimeoutError):
                async with asyncio.timeout(self.pace.total_seconds), _Questions(self.pace) as questions:
                    await self._all(web, questions)
        found = tuple(item for address in self.addresses if (item := self.asked.get(address)))
        unasked = tuple(address for address in self.addresses if address not in self.asked)
        return Scan(found, len(self.asked), unasked)

    async def _all(self, web: aiohttp.ClientSession, questions: _Questions) -> None:
        places = asyncio.Semaphore(self.pace.at_once)
        clock = asyncio.get_running_loop().time
        begin = clock()
        async with asyncio.TaskGroup() as group:
            search = group.create_task(_search(self.addresses[0]))
            for number, address in enumerate(self.addresses):
                await places.acquire()
                task = group.create_task(self._one(web, questions, address))
                task.add_done_callback(lambda _: places.release())
                await asyncio.sleep(begin + (number + 1) / self.pace.per_second - clock())
        async with asyncio.TaskGroup() as group:
            for address, answer in search.result().items():
                if address in self.named:
                    group.create_task(self._answered_search(web, address, answer))

    async def _one(self, web: aiohttp.ClientSession, questions: _Questions, address: str) -> None:
        https = _root(web, _url("https", address))
        (root, is_there), found = await asyncio.gather(https, questions.ask(Found(address)))
        url = _url("https", address)
        # Where 443 takes no connection in its time, and no IPMI is, there is nobody: 80 is not waited for.
        if root is None and (is_there or found.ipmi):
            url = _url("http", address)
            root, _ = await _root(web, url)
        self._done(address, _with_root(found, url, root) if root else found)

    async def _answered_search(self, web: aiohttp.ClientSession, address: str, answer: ssdp.Answer) -> None:
        """Take note of a service that made itself known; ask it where it says it is if the usual place was silent."""
        found = self.asked.get(address) or Found(address)
        if not found.redfish and _host(answer.url) == address:
            root, _ = await _root(web, answer.url)
            if root:
                found = _with_root(found, answer.url, root)
        found = replace(found, ssdp=True, uuid=found.uuid or answer.uuid)
        self.asked[address] = found
        self.progress(Progress(len(self.asked), len(self.addresses), found))

    def _done(self, address: str, found: Found) -> None:
        result = found if found.redfish or found.ipmi else None
        self.asked[address] = result
        self.progress(Progress(len(self.asked), len(self.addresses), result))


def _with_root(found: Found, url: str, root: Root) -> Found:
    return replace(
        found,
        redfish=True,
        url=url,
        vendor=root.vendor,
        product=root.product,
        version=root.version,
        uuid=root.uuid,
        serial=root.serial,
        mac=root.mac,
    )


# Redfish


def _any_tls() -> ssl.SSLContext:
    """TLS of any age without verification: nothing secret is said, and old BMCs have old ciphers and short keys."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.options |= LEGACY_SERVER_CONNECT
    return context


def _url(scheme: str, address: str) -> str:
    return f"{scheme}://[{address}]{ROOT}" if ":" in address else f"{scheme}://{address}{ROOT}"


def _host(url: str) -> str:
    with suppress(ValueError):
        return str(ip_address(urlsplit(url).hostname or ""))
    return ""


async def _root(web: aiohttp.ClientSession, url: str) -> tuple[Root | None, bool]:
    """The service root at `url`, None when there is none; and whether anything answered the connection, if only no."""
    try:
        for _ in range(REDIRECTS + 1):
            async with web.get(url, allow_redirects=False) as response:
                if response.status in (301, 302, 307, 308):
                    target = urljoin(url, response.headers.get("Location", ""))
                    if _host(target) != _host(url) or not ssdp.is_plain(target):
                        return None, True
                    url = target
                    continue
                if response.status in (401, 403):
                    # Against DSP0266 section 13.3, and yet the header tells that Redfish is here.
                    return (Root() if "OData-Version" in response.headers else None), True
                body = await _body(response)
            return parse_root(body), True
    except aiohttp.ConnectionTimeoutError:
        return None, False
    except aiohttp.ClientConnectorError as error:
        # No answer to ARP, or a router's word: nobody. A refusal is somebody.
        log.debug("%s: %s", url, error)
        return None, error.errno not in (errno.EHOSTUNREACH, errno.ENETUNREACH)
    except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
        # ValueError: a redirect that is no URL, and MalformedPacket.
        log.debug("%s: %s", url, error or type(error).__name__)
    return None, True


async def _body(response: aiohttp.ClientResponse) -> bytes:
    """The whole body. Raises MalformedPacket when it is too long to be a service root."""
    body = bytearray()
    async for chunk in response.content.iter_any():
        body += chunk
        if len(body) > MAX_BODY:
            raise MalformedPacket(f"what answers there is longer than {MAX_BODY} bytes")
    return bytes(body)


# IPMI


class _Questions(asyncio.DatagramProtocol):
    """One UDP socket for each version of IP, and who waits for which answer."""

    def __init__(self, pace: Pace) -> None:
        self._pace = pace
        self._transports: dict[int, asyncio.DatagramTransport] = {}
        self._waiting: dict[tuple[str, str], asyncio.Future[asf.Pong | asf.Reply]] = {}

    async def __aenter__(self) -> _Questions:
        loop = asyncio.get_running_loop()
        for version, local in ((4, "0.0.0.0"), (6, "::")):
            with suppress(OSError):  # a host without IPv6, or without IPv4
                transport, _ = await loop.create_datagram_endpoint(lambda: self, local_addr=(local, 0))
                self._transports[version] = transport
        return self

    async def __aexit__(self, *exc: object) -> None:
        for transport in self._transports.values():
            transport.abort()

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        """Hand an answer to whoever waits for it; everything else is dropped."""
        try:
            answer = asf.parse_answer(data)
        except MalformedPacket as error:
            log.debug("%s: %s", addr[0], error)
            return
        future = self._waiting.get((addr[0], _kind(answer)))
        if future is not None and not future.done() and addr[1] == asf.PORT:
            future.set_result(answer)

    def error_received(self, exc: Exception) -> None:
        """Some address cannot be reached: it will be silent."""
        log.debug("a question could not be sent: %s", exc)

    async def ask(self, found: Found) -> Found:
        """Add to `found` what IPMI says at its address."""
        address = found.address
        pong, reply = await asyncio.gather(
            self._answer(address, "pong", asf.build_ping()),
            self._answer(address, _command(asf.GET_CAPABILITIES), asf.build_capabilities_request()),
        )
        if isinstance(reply, asf.Reply):
            found = await self._capable(found, reply)
        elif isinstance(pong, asf.Pong) and pong.is_ipmi:
            found = replace(found, ipmi=True)
        return found

    async def _capable(self, found: Found, reply: asf.Reply) -> Found:
        found = replace(found, ipmi=True)
        if reply.code:
            plain = asf.build_capabilities_request(extended=False)
            again = await self._answer(found.address, _command(asf.GET_CAPABILITIES), plain)
            if not isinstance(again, asf.Reply) or again.code:
                return found
            reply = again
        with suppress(MalformedPacket):
            can = asf.parse_capabilities(reply.data)
            found = replace(
                found,
                speaks_15=can.speaks_15,
                speaks_20=can.speaks_20,
                authentications=can.authentications,
                is_anonymous=can.is_anonymous,
                wants_kg=can.wants_kg,
            )
        guid = await self._answer(found.address, _command(asf.GET_GUID), asf.build_guid_request())
        if isinstance(guid, asf.Reply) and not guid.code:
            with suppress(MalformedPacket):
                found = replace(found, guid=asf.parse_guid(guid.data).hex())
        return replace(found, cipher_suites=await self._suites(found.address)) if found.speaks_20 else found

    async def _suites(self, address: str) -> tuple[int, ...]:
        records = b""
        for index in range(asf.SUITES_CHUNKS):
            request = asf.build_cipher_suites_request(index, sequence=index)
            reply = await self._answer(address, _command(asf.GET_CIPHER_SUITES, index), request)
            if not isinstance(reply, asf.Reply) or reply.code:
                break
            # The first byte is the channel.
            records += reply.data[1 : 1 + asf.SUITES_CHUNK]
            if len(reply.data) <= asf.SUITES_CHUNK:
                break
        try:
            return asf.parse_cipher_suites(records)
        except MalformedPacket as error:
            log.debug("%s: %s", address, error)
            return ()

    async def _answer(self, address: str, kind: str, packet: bytes) -> asf.Pong | asf.Reply | None:
        """Ask, and ask again; None when nobody answers."""
        transport = self._transports.get(6 if ":" in address else 4)
        if transport is None:
            return None
        future: asyncio.Future[asf.Pong | asf.Reply] = asyncio.get_running_loop().create_future()
        self._waiting[address, kind] = future
        try:
            for _ in range(self._pace.udp_tries):
                transport.sendto(packet, (address, asf.PORT))
                done, _ = await asyncio.wait((future,), timeout=self._pace.udp_seconds)
                if done:
                    return future.result()
            return None
        finally:
            del self._waiting[address, kind]


def _command(command: int, sequence: int = 0) -> str:
    return f"command {command} {sequence}"


def _kind(answer: asf.Pong | asf.Reply) -> str:
    return "pong" if isinstance(answer, asf.Pong) else _command(answer.command, answer.sequence)


# SSDP


class _Heard(asyncio.DatagramProtocol):
    def __init__(self) -> None:
        self.answers: dict[str, ssdp.Answer] = {}

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        """Keep the first answer of each address, of a bounded number."""
        try:
            answer = ssdp.parse_answer(data)
        except MalformedPacket as error:
            log.debug("%s: %s", addr[0], error)
            return
        if len(self.answers) < 65_536:
            self.answers.setdefault(addr[0], answer)


async def _search(towards: str) -> dict[str, ssdp.Answer]:
    """The Redfish services that answer a search on the segment that leads to an IPv4 address, by their addresses."""
    if ":" in towards:
        return {}
    try:
        sock = _search_socket(towards)
    except OSError as error:
        log.debug("no search for Redfish services towards %s: %s", towards, error)
        return {}
    loop = asyncio.get_running_loop()
    transport, heard = await loop.create_datagram_endpoint(_Heard, sock=sock)
    try:
        for _ in range(SEARCH_TRIES):
            transport.sendto(ssdp.build_search(SEARCH_WAIT_SECONDS), (ssdp.GROUP, ssdp.PORT))
            await asyncio.sleep((SEARCH_WAIT_SECONDS + 0.5) / SEARCH_TRIES)
    finally:
        transport.close()
    return heard.answers


def _search_socket(towards: str) -> socket.socket:
    """A socket whose multicasts leave by the interface that leads to an address. Raises OSError: there is none."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.connect((towards, ssdp.PORT))  # sends nothing: asks the routing table
        own = sock.getsockname()[0]
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    try:
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(own))
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, struct.pack("B", ssdp.HOPS))
        sock.bind((own, 0))
    except OSError:
        sock.close()
        raise
    return sock
