"""Checks of the wire: a DISCOVER as each kind of firmware sends it, then the boot file that the answer names.

The DISCOVER goes out by an ordinary broadcast socket, because a frame sent raw never reaches the services of the same
computer; all answers are read from a packet socket, which also sees those meant for others. Made-up clients use locally
administered addresses and the broadcast flag; an offer to one of them is never accepted, so no lease comes of it.
"""

from __future__ import annotations

import http.client
import io
import secrets
import socket
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import Any
from urllib.parse import urlsplit

from metalbox.doctor.findings import Finding, Level

# OVMF collects offers for 3.8 s; whoever needs longer than this is of no use to a machine.
LISTEN_SECONDS = 3.0
FETCH_SECONDS = 15
# Frames that may still be read when that time is over, more than fit the socket's buffer: they came while we were held
# up by others, and on a busy wire there is always one more.
MOST_LATE = 1024
ETHERTYPE_IP = 0x0800


@dataclass(frozen=True, slots=True)
class Guise:
    """One kind of firmware: what it says of itself in a DISCOVER (RFC 4578)."""

    name: str
    arch: int
    vendor_class: str
    user_class: str = ""


GUISES = (
    Guise("BIOS", 0, "PXEClient:Arch:00000:UNDI:002001"),
    Guise("UEFI x64", 7, "PXEClient:Arch:00007:UNDI:003000"),
    Guise("UEFI arm64", 11, "PXEClient:Arch:00011:UNDI:003000"),
    Guise("UEFI HTTP x64", 16, "HTTPClient:Arch:00016:UNDI:003000"),
    Guise("iPXE", 0, "PXEClient:Arch:00000:UNDI:002001", "iPXE"),
)


@dataclass(frozen=True, slots=True)
class Offer:
    """What one server answered. `boot_file` and `next_server` are "" where it named none."""

    server: str
    address: str
    next_server: str
    boot_file: str
    vendor_class: str


def check_wire(interface: str, ours: set[str], http_port: int) -> Iterator[Finding]:
    """Ask as every kind of firmware on one interface; `ours` are the addresses of this service."""
    others: dict[str, Offer] = {}
    fetched: set[str] = set()
    addresses_from: set[str] = set()
    for guise in GUISES:
        try:
            offers = discover(interface, guise)
        except OSError as error:
            advice = "run doctor as root, in the network namespace of the service"
            yield Finding(Level.FAIL, "wire", f"cannot send a DISCOVER on {interface}: {error}", advice)
            return
        mine = [offer for offer in offers if offer.server in ours]
        others |= {offer.server: offer for offer in offers if offer.server not in ours}
        addresses_from |= {offer.server for offer in offers if offer.address != "0.0.0.0"}
        yield from _about_ours(interface, guise, mine, ours, fetched)
    yield from _about_others(interface, list(others.values()))
    if not addresses_from:
        advice = "set `mode: full` for this subnet, or look at the site's DHCP server"
        yield Finding(Level.WARN, "addresses", f"nobody on {interface} gives addresses", advice)


def _about_ours(
    interface: str, guise: Guise, mine: list[Offer], ours: set[str], fetched: set[str]
) -> Iterator[Finding]:
    if not mine:
        level = Level.WARN if "arm64" in guise.name else Level.FAIL
        advice = "see `metalbox status` for the reason that was counted"
        yield Finding(level, "answer", f"{guise.name} on {interface}: metalbox does not answer", advice)
        return
    offer = mine[0]
    name = offer.boot_file
    if not name and guise.vendor_class.startswith("PXE"):
        offer = _ask_pxe_port(interface, guise, offer) or offer
        name = offer.boot_file
    if not name:
        yield Finding(Level.FAIL, "answer", f"{guise.name} on {interface}: an offer without boot file")
        return
    yield Finding(Level.OK, "answer", f"{guise.name} on {interface}: boot file {name} from {offer.next_server}")
    if name not in fetched:
        fetched.add(name)
        yield fetch(offer.next_server, name)


def _about_others(interface: str, offers: list[Offer]) -> Iterator[Finding]:
    for offer in offers:
        if offer.boot_file or offer.vendor_class.startswith(("PXEClient", "HTTPClient")):
            text = f"{offer.server} on {interface} also answers boot clients: file {offer.boot_file or '(none)'}"
            advice = "take filename, next-server and option 60 out of that server: the faster of two wins"
            yield Finding(Level.WARN, "rival", text, advice)
        else:
            yield Finding(Level.OK, "addresses", f"{offer.server} on {interface} gives addresses ({offer.address})")
    givers = [offer.server for offer in offers if offer.address != "0.0.0.0"]
    if len(givers) > 1:
        text = f"{len(givers)} servers give addresses on {interface}: {', '.join(givers)}"
        yield Finding(Level.WARN, "addresses", text, "only one should, unless they share their leases")


def discover(interface: str, guise: Guise) -> list[Offer]:
    """Broadcast one DISCOVER and return the offers that came for it, each server once. Raises OSError."""
    mac = bytes([0x02]) + secrets.token_bytes(5)
    xid = secrets.randbits(32)
    return list(_exchange(interface, _message(guise, mac, xid, "discover"), xid, LISTEN_SECONDS).values())


def _message(guise: Guise, mac: bytes, xid: int, kind: str) -> bytes:
    from scapy.layers.dhcp import BOOTP, DHCP

    options: list[Any] = [("message-type", kind)]
    options.append(("max_dhcp_size", 1472))
    options.append(("param_req_list", [1, 3, 6, 12, 15, 28, 43, 54, 60, 66, 67, 97]))
    options.append((97, b"\0" + uuid.uuid4().bytes_le))
    options.append((93, guise.arch.to_bytes(2, "big")))
    options.append((94, b"\x01\x03\x10"))
    options.append(("vendor_class_id", guise.vendor_class.encode()))
    if guise.user_class:
        options.append((77, guise.user_class.encode()))
    options.append("end")
    return bytes(BOOTP(op=1, chaddr=mac + bytes(10), xid=xid, flags=0x8000) / DHCP(options=options))


def _exchange(interface: str, message: bytes, xid: int, seconds: float) -> dict[str, Offer]:
    offers: dict[str, Offer] = {}
    with _packet_socket(interface) as tap, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as out:
        out.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        out.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, interface.encode())
        out.sendto(message, ("255.255.255.255", 67))
        end, late = time.monotonic() + seconds, 0
        while late < MOST_LATE:
            left = max(end - time.monotonic(), 0)
            late += not left
            tap.settimeout(left)
            try:
                frame = tap.recv(4096)
            except (TimeoutError, BlockingIOError):
                break
            offer = read_offer(frame, xid)
            if offer:
                offers[offer.server] = offer
    return offers


def _packet_socket(interface: str) -> socket.socket:
    # ETH_P_ALL also shows what leaves this computer, so the service's own broadcasts are seen.
    tap = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0003))
    tap.bind((interface, 0x0003))
    return tap


def read_offer(frame: bytes, xid: int) -> Offer | None:
    """Read one Ethernet frame as the answer to `xid`, or None if it is something else."""
    from scapy.layers.dhcp import BOOTP, DHCP
    from scapy.layers.l2 import Ether

    if int.from_bytes(frame[12:14], "big") != ETHERTYPE_IP:
        return None
    packet = Ether(frame)
    if BOOTP not in packet or DHCP not in packet or packet[BOOTP].op != 2 or packet[BOOTP].xid != xid:
        return None
    header = packet[BOOTP]
    options = {option[0]: option[1] for option in packet[DHCP].options if isinstance(option, tuple)}
    named = options.get("boot-file-name", b"") or header.file
    return Offer(
        server=str(options.get("server_id", packet.src)),
        address=str(header.yiaddr),
        next_server=str(header.siaddr) if header.siaddr != "0.0.0.0" else str(options.get("server_id", "")),
        boot_file=_text(named),
        vendor_class=_text(options.get("vendor_class_id", b"")),
    )


def _ask_pxe_port(interface: str, guise: Guise, offer: Offer) -> Offer | None:
    """Go on to UDP 4011 as UEFI does when the proxy offer has no option 43."""
    from scapy.layers.dhcp import BOOTP, DHCP

    xid = secrets.randbits(32)
    mac = bytes([0x02]) + secrets.token_bytes(5)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asker:
        asker.settimeout(LISTEN_SECONDS)
        asker.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, interface.encode())
        asker.connect((offer.next_server or offer.server, 4011))
        message = BOOTP(_message(guise, mac, xid, "request"))
        message[BOOTP].ciaddr = asker.getsockname()[0]
        message[BOOTP].flags = 0
        try:
            asker.send(bytes(message))
            answer = BOOTP(asker.recv(4096))
        except OSError:
            return None
    if DHCP not in answer or answer.xid != xid:
        return None
    return Offer(offer.server, "0.0.0.0", str(answer.siaddr), _text(answer.file), "PXEClient")


def _text(value: bytes) -> str:
    return value.split(b"\0")[0].decode("utf-8", "replace")


def fetch(server: str, name: str) -> Finding:
    """Fetch a boot file as a machine would, by TFTP or HTTP, and say how much came how fast."""
    started = time.monotonic()
    try:
        size = _fetch_http(name) if name.startswith("http://") else _fetch_tftp(server, name)
    except Exception as error:  # whatever a foreign client raises is its verdict on us
        by = "HTTP" if name.startswith("http://") else "TFTP"
        advice = "a firewall between, or the file is missing: see `metalbox status`"
        return Finding(Level.FAIL, "fetch", f"{name} by {by} from {server}: {error or type(error).__name__}", advice)
    seconds = time.monotonic() - started
    return Finding(Level.OK, "fetch", f"{name}: {size} bytes in {seconds:.2f} s")


def _fetch_http(url: str) -> int:
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port or 80, timeout=FETCH_SECONDS)
    try:
        connection.request("GET", parts.path)
        response = connection.getresponse()
        body = response.read()
        if response.status != 200:
            raise OSError(f"HTTP status {response.status}")
        return len(body)
    finally:
        connection.close()


def _fetch_tftp(server: str, name: str) -> int:
    import tftpy

    sink = io.BytesIO()
    sink.close = lambda: None  # type: ignore[method-assign]  # tftpy closes what it is given; we still want the length
    client = tftpy.TftpClient(str(IPv4Address(server)), 69, options={"blksize": 1468, "tsize": 0})
    client.download(name, sink, timeout=FETCH_SECONDS)
    return len(sink.getvalue())
