"""A bounded load of address requests, sent as a relay would send them; run inside a network namespace.

    python -m tests.stories.dora RELAY SERVER SECONDS SEED IN_FLIGHT PER_SECOND > acked.txt

Prints "MAC ADDRESS" the moment an ACK has come, one a line, flushed: what stands there was promised to a client.
"""

from __future__ import annotations

import contextlib
import itertools
import select
import socket
import sys
import time
from dataclasses import dataclass

from metalbox.dhcp.options import MESSAGE_TYPE, REQUESTED_ADDRESS, SERVER_ID
from metalbox.dhcp.packet import Packet, build_packet, parse_packet
from metalbox.errors import MalformedPacket
from metalbox.machine import Mac

DISCOVER, OFFER, REQUEST, ACK, NAK = 1, 2, 3, 5, 6
RESEND_SECONDS = 0.5


@dataclass
class Client:
    """One made-up machine on its way to an address."""

    mac: bytes
    message: Packet
    sent_at: float = 0.0


class Load:
    """Keeps a number of exchanges in flight over one socket until the time is over."""

    def __init__(self, relay: str, server: str, seed: int, in_flight: int, per_second: float) -> None:
        self.relay = int.from_bytes(socket.inet_aton(relay), "big")
        self.server = (server, 67)
        self.seed = seed
        self.in_flight = in_flight
        self.per_second = per_second
        self.numbers = itertools.count(1)
        self.waiting: dict[int, Client] = {}
        self.sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.sock.bind((relay, 67))
        self.sock.setblocking(False)

    def run(self, seconds: float) -> None:
        started = time.monotonic()
        begun = 0
        while (now := time.monotonic()) < started + seconds:
            while len(self.waiting) < self.in_flight and begun < (now - started) * self.per_second:
                self.begin()
                begun += 1
            for client in self.waiting.values():
                if now - client.sent_at > RESEND_SECONDS:
                    self.send(client, now)
            if select.select([self.sock], [], [], 0.05)[0]:
                self.drain()

    def begin(self) -> None:
        number = next(self.numbers)
        mac = bytes([2, self.seed & 0xFF]) + number.to_bytes(4, "big")
        xid = (self.seed << 24 | number) & 0xFFFFFFFF
        options = {MESSAGE_TYPE: bytes([DISCOVER])}
        packet = Packet(xid=xid, giaddr=self.relay, chaddr=mac + bytes(10), options=options, message=DISCOVER)
        self.waiting[xid] = Client(mac, packet)

    def send(self, client: Client, now: float) -> None:
        client.sent_at = now
        # Nobody listens while the service restarts: as on a real wire, the packet is lost.
        with contextlib.suppress(OSError):
            self.sock.sendto(build_packet(client.message), self.server)

    def drain(self) -> None:
        for _ in range(256):
            try:
                data = self.sock.recv(2048)
            except OSError:
                return
            try:
                self.answer(parse_packet(data))
            except MalformedPacket as error:
                print(f"malformed answer: {error}", file=sys.stderr)

    def answer(self, reply: Packet) -> None:
        client = self.waiting.get(reply.xid)
        if client is None:
            return
        if reply.message == OFFER and client.message.message == DISCOVER:
            options = {
                MESSAGE_TYPE: bytes([REQUEST]),
                REQUESTED_ADDRESS: reply.yiaddr.to_bytes(4, "big"),
                SERVER_ID: reply.options[SERVER_ID],
            }
            client.message = Packet(
                xid=reply.xid, giaddr=self.relay, chaddr=client.mac + bytes(10), options=options, message=REQUEST
            )
            self.send(client, time.monotonic())
        elif reply.message == ACK and client.message.message == REQUEST:
            address = socket.inet_ntoa(reply.yiaddr.to_bytes(4, "big"))
            print(Mac.from_bytes(client.mac), address, flush=True)
            del self.waiting[reply.xid]
        elif reply.message == NAK:
            # After a restart the server may have given the offered address to somebody else: ask anew, as clients do.
            del self.waiting[reply.xid]


if __name__ == "__main__":
    relay, server, seconds, seed, in_flight, per_second = sys.argv[1:7]
    Load(relay, server, int(seed), int(in_flight), float(per_second)).run(float(seconds))
