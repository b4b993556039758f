"""Wake-on-LAN: a packet that switches a sleeping machine on, and nothing that could do anything else.

The magic packet (AMD publication 20213, 1995): six bytes 0xff, sixteen times the MAC, then the SecureOn password if the
NIC was given one. NICs look for it anywhere in a frame; it travels as UDP to the discard port. Nobody answers, so what
comes of it is known only by the machine's own appearance.
"""

from __future__ import annotations

import asyncio
import errno
import socket

from metalbox.errors import BmcUnreachable, InvalidValue
from metalbox.machine import Mac
from metalbox.power import Endpoint, Power

LIMITED_BROADCAST = "255.255.255.255"
PORT = 9
# A lost packet would show only as a machine that does not come, and a machine that is on ignores them all. A switch
# port that has just lost its link may drop the first.
COPIES = 3
GAP_SECONDS = 0.1


def magic_packet(mac: Mac, password: bytes = b"") -> bytes:
    """Return the payload; `password` is empty or six bytes (four in an old form that some NICs still take)."""
    return b"\xff" * 6 + mac.raw * 16 + password


class WolPower(Power):
    """One MAC on one wire."""

    name = "wol"
    can = frozenset()

    def __init__(self, mac: Mac, broadcast: str, port: int, interface: str, password: bytes) -> None:
        self.mac = mac
        self.broadcast = broadcast
        self.port = port
        self.interface = interface
        self._packet = magic_packet(mac, password)

    async def on(self) -> None:
        """Send the packet three times. BmcUnreachable: it could not be sent from here."""
        try:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
                sender.setblocking(False)
                sender.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
                if self.interface:
                    sender.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, self.interface.encode())
                for copy in range(COPIES):
                    if copy:
                        await asyncio.sleep(GAP_SECONDS)
                    sender.sendto(self._packet, (self.broadcast, self.port))
        except OSError as error:
            raise self._failure(error) from None

    def _failure(self, error: OSError) -> BmcUnreachable:
        where = f"{self.broadcast} by {self.interface}" if self.interface else self.broadcast
        if error.errno == errno.ENODEV:
            return BmcUnreachable(f"the server has no interface {self.interface!r} to wake {self.mac} from")
        return BmcUnreachable(f"the packet that wakes {self.mac} could not be sent to {where}: {error.strerror}")


def connect(endpoint: Endpoint) -> Power:
    """The machine whose MAC is the endpoint's address. Raises InvalidValue, never with the password in it."""
    mac = Mac.parse(endpoint.address)
    if len(mac.raw) != 6:
        raise InvalidValue(f"{mac} is no Ethernet address: Wake-on-LAN needs one of six bytes")
    broadcast = endpoint.settings.get("broadcast") or LIMITED_BROADCAST
    try:
        socket.inet_pton(socket.AF_INET, broadcast)
    except OSError:
        raise InvalidValue(f"{broadcast!r} is no IPv4 address to send a wake-up packet to") from None
    password = b""
    if endpoint.credentials and endpoint.credentials.password:
        try:
            password = Mac.parse(endpoint.credentials.password).raw
        except InvalidValue:
            password = b""
        if len(password) != 6:
            raise InvalidValue(f"the SecureOn password for {mac} is none: it is six bytes, written like a MAC")
    return WolPower(mac, broadcast, endpoint.port or PORT, endpoint.settings.get("interface", ""), password)
