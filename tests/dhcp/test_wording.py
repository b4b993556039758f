"""metalbox.dhcp.wording: the sentences of the timeline."""

from __future__ import annotations

import pytest

from metalbox.dhcp.exchange import Exchange
from metalbox.dhcp.options import Message
from metalbox.dhcp.wording import describe
from metalbox.machine import Mac

PLAIN = Exchange(
    mac=Mac("52:54:00:ab:cd:ef"),
    xid=1,
    client="bios",
    arch=0,
    message=Message.DISCOVER,
    reply=None,
    mode="full",
    port=67,
    interface="eth0",
    address=0,
    server_id=0,
    relay=0,
    circuit_id="",
    remote_id="",
    boot_file="",
    vendor_class="",
    hostname="",
    machine_id=b"",
)
ADDRESS = 0xC0000264


@pytest.mark.parametrize(
    ("exchange", "ignored", "sentence"),
    [
        (
            PLAIN._replace(reply=Message.OFFER, address=ADDRESS, boot_file="undionly.kpxe"),
            "",
            "BIOS firmware looks for a DHCP server: offered 192.0.2.100 and told to boot undionly.kpxe",
        ),
        (
            PLAIN._replace(client="os", message=Message.REQUEST, reply=Message.ACK, address=ADDRESS),
            "",
            "operating system asks for its address: given 192.0.2.100",
        ),
        (
            PLAIN._replace(client="uefi", mode="proxy", reply=Message.OFFER, address=ADDRESS, boot_file="snponly.efi"),
            "",
            "UEFI firmware looks for a DHCP server: told to boot snponly.efi",
        ),
        (
            PLAIN._replace(client="uefi", port=4011, message=3, reply=5, mode="proxy", boot_file="snponly.efi"),
            "",
            "UEFI firmware asks on port 4011 what to boot: told to boot snponly.efi",
        ),
        (
            PLAIN._replace(client="os", message=Message.REQUEST, reply=Message.NAK),
            "",
            "operating system asks for its address: refused",
        ),
        (
            PLAIN._replace(client="os", message=Message.INFORM, reply=Message.ACK, address=ADDRESS),
            "",
            "operating system asks for settings: answered",
        ),
        (
            PLAIN._replace(relay=0xC0000201),
            "pool exhausted",
            "BIOS firmware looks for a DHCP server through relay 192.0.2.1: not answered, pool exhausted",
        ),
        (PLAIN._replace(client="os", message=7), "released", "operating system gives its address back: noted"),
        (
            PLAIN._replace(client="os", message=4),
            "declined",
            "operating system found its address in use: the address rests for a while",
        ),
        (PLAIN._replace(client="toaster", message=13), "", "toaster sends DHCP message 13: not answered"),
        (
            PLAIN._replace(mode="proxy", message=Message.REQUEST, address=ADDRESS, server_id=0xC0000202),
            "proxy mode gives no address",
            "BIOS firmware takes the address 192.0.2.100 from the DHCP server 192.0.2.2",
        ),
        (
            PLAIN._replace(client="os", mode="proxy", message=Message.REQUEST, address=ADDRESS),
            "proxy mode gives no address",
            "operating system takes the address 192.0.2.100 again",
        ),
        (PLAIN._replace(message=0, reply=0, address=ADDRESS), "", "BIOS firmware asks by BOOTP: given 192.0.2.100"),
    ],
)
def test_sentences(exchange: Exchange, ignored: str, sentence: str) -> None:
    assert describe(exchange, ignored) == sentence
