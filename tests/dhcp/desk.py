"""A responder with its context, leases and a clock to turn, and an independent writer of the bytes it should send."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Interface

from metalbox.config import Config, Mode, Subnet, parse
from metalbox.dhcp.leases import Leases
from metalbox.dhcp.packet import Packet, parse_packet
from metalbox.dhcp.responder import Arrival, Context, Ignored, Reply, respond
from metalbox.machine import Mac

SERVER = "192.0.2.1"
MAC = bytes.fromhex("525400770034")
BOOT_FILES = ("undionly.kpxe", "snponly.efi", "ipxe.efi", "ipxe-i386.efi", "ipxe-arm64.efi", "shimx64.efi")
FULL = """
subnets:
  - subnet: 192.0.2.0/24
    mode: full
    pools: [192.0.2.100-192.0.2.103]
    router: 192.0.2.254
    dns: [192.0.2.53]
    domain: example.org
    ntp: [192.0.2.123]
    lease_seconds: 3600
    reservations:
      - {mac: "52:54:00:aa:aa:aa", address: 192.0.2.10, hostname: fixed}
      - {mac: "52:54:00:bb:bb:bb", address: 192.0.2.102}
"""
# Options 51, 58, 59 and 1, 3, 6, 15, 28, 42 of the configuration above.
TIMES = "330400000e10 3a0400000708 3b0400000c4e"
NETWORK = "0104ffffff00 0304c00002fe 0604c0000235 0f0b 6578616d706c652e6f7267 1c04c00002ff 2a04c000027b"


@dataclass
class Desk:
    """Sends packets to the responder as if they came in on eth0, whose address is 192.0.2.1/24."""

    config: Config
    interfaces: dict[str, str] = field(default_factory=lambda: {"eth0": f"{SERVER}/24"})
    known: set[str] = field(default_factory=set)
    files: tuple[str, ...] = BOOT_FILES
    now: float = 1_700_000_000.0

    def __post_init__(self) -> None:
        attached = {name: [IPv4Interface(address)] for name, address in self.interfaces.items()}
        self.context = Context.from_config(self.config, attached, self.files, self.is_known)
        self.leases = self.new_leases()

    @classmethod
    def full(cls, text: str = FULL) -> Desk:
        return cls(parse(text))

    @classmethod
    def proxy(cls, **settings: str) -> Desk:
        extra = "".join(f", {name}: {value}" for name, value in settings.items())
        return cls(parse(f"subnets: [{{subnet: 192.0.2.0/24, mode: proxy{extra}}}]"))

    def new_leases(self) -> Leases:
        own = [IPv4Interface(address).ip for address in self.interfaces.values()]
        return Leases(self.config.subnets, own=own, decline_seconds=self.config.dhcp.decline_seconds)

    def is_known(self, mac: Mac) -> bool:
        return mac in self.known

    def send(
        self,
        packet: Packet | bytes,
        source: tuple[str, int] = ("0.0.0.0", 68),
        port: int = 67,
        unicast: bool = False,
        interface: str = "eth0",
    ) -> Reply | Ignored:
        server = IPv4Interface(self.interfaces[interface]).ip
        arrival = Arrival(interface, 2, server, source, port, unicast)
        asked = parse_packet(packet) if isinstance(packet, bytes) else packet
        return respond(asked, arrival, self.context, self.leases, self.now)

    def answer(self, packet: Packet | bytes, **arrival: object) -> tuple[Reply, Packet]:
        """Send and expect a reply; also returns it parsed."""
        result = self.send(packet, **arrival)  # type: ignore[arg-type]
        assert isinstance(result, Reply), result
        return result, parse_packet(result.data)

    def silence(self, packet: Packet | bytes, **arrival: object) -> Ignored:
        """Send and expect none."""
        result = self.send(packet, **arrival)  # type: ignore[arg-type]
        assert isinstance(result, Ignored), result
        return result


def full_subnet() -> Subnet:
    """The subnet of the configuration above."""
    subnet = parse(FULL).subnets[0]
    assert subnet.mode is Mode.FULL
    return subnet


def number(text: str) -> int:
    """An address as the core has it."""
    return int(IPv4Address(text))


def ask(message: int, *, mac: bytes = MAC, more: dict[int, bytes] | None = None, **fields: int) -> Packet:
    """A client's message; `more` are its options besides 53."""
    head = {53: bytes([message])} if message else {}
    chaddr = mac.ljust(16, b"\0")
    packet = Packet(xid=0x39A8B0C2, hlen=len(mac), chaddr=chaddr, options={**head, **(more or {})}, message=message)
    for name, value in fields.items():
        setattr(packet, name, value)
    return packet


def address(text: str) -> bytes:
    """An address as an option has it."""
    return IPv4Address(text).packed


def wire(
    options: str,
    *,
    mac: bytes = MAC,
    flags: int = 0,
    ciaddr: str = "0.0.0.0",
    yiaddr: str = "0.0.0.0",
    siaddr: str = "0.0.0.0",
    giaddr: str = "0.0.0.0",
    sname: bytes = b"",
    file: bytes = b"",
    size: int = 300,
) -> bytes:
    """A whole expected reply: the header's fields, then the options in hex, then zeros."""
    head = bytes([2, 1, len(mac), 0]) + bytes.fromhex("39a8b0c2") + struct.pack("!HH", 0, flags)
    addresses = b"".join(address(text) for text in (ciaddr, yiaddr, siaddr, giaddr))
    fields = mac.ljust(16, b"\0") + sname.ljust(64, b"\0") + file.ljust(128, b"\0")
    return (head + addresses + fields + bytes.fromhex("63825363" + options)).ljust(size, b"\0")
