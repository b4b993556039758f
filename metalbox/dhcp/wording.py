"""One sentence for people about one DHCP exchange, for the timeline. PURE."""

from __future__ import annotations

from metalbox.dhcp.exchange import Exchange
from metalbox.dhcp.options import Message
from metalbox.dhcp.packet import address_text
from metalbox.dhcp.route import PXE_PORT

WHO = {
    "bios": "BIOS firmware",
    "uefi": "UEFI firmware",
    "http": "UEFI HTTP Boot",
    "ipxe": "iPXE",
    "loader": "boot loader",
    "bmc": "BMC",
    "os": "operating system",
}
ASKS = {
    0: "asks by BOOTP",
    Message.DISCOVER: "looks for a DHCP server",
    Message.REQUEST: "asks for its address",
    Message.DECLINE: "found its address in use",
    Message.RELEASE: "gives its address back",
    Message.INFORM: "asks for settings",
}

# The responder's reason for what it hears in proxy mode and is meant for the site's own DHCP server.
NOT_OURS = "proxy mode gives no address"

# What needs no answer and is not lost: the responder's reasons for RELEASE and DECLINE that were taken in.
NOTED = {"released": "noted", "declined": "the address rests for a while"}


def describe(exchange: Exchange, ignored: str = "", address: str = "") -> str:
    """Who asked what, and what we answered or, in `ignored`, why we did not.

    `address` stands in place of the client's address, if it has one.
    """
    address = address or exchange.address_text
    who = WHO.get(exchange.client, exchange.client)
    if exchange.port == PXE_PORT:
        asks = "asks on port 4011 what to boot"
    else:
        asks = ASKS.get(exchange.message, f"sends DHCP message {exchange.message}")
    if ignored == NOT_OURS:
        server = f" from the DHCP server {address_text(exchange.server_id)}" if exchange.server_id else " again"
        return f"{who} takes the address {address}{server}"
    where = f" through relay {address_text(exchange.relay)}" if exchange.relay else ""
    return f"{who} {asks}{where}: {_answer(exchange, ignored, address)}"


def _answer(exchange: Exchange, ignored: str, address: str) -> str:
    if exchange.reply is None:
        return NOTED.get(ignored) or (f"not answered, {ignored}" if ignored else "not answered")
    if exchange.reply == Message.NAK:
        return "refused"
    verb = "offered" if exchange.reply == Message.OFFER else "given"
    parts = []
    # A proxy gives no address: the one that stands in the exchange is the site's.
    if exchange.address and exchange.mode != "proxy" and exchange.message != Message.INFORM:
        parts.append(f"{verb} {address}")
    if exchange.boot_file:
        parts.append(f"told to boot {exchange.boot_file}")
    return " and ".join(parts) or "answered"
