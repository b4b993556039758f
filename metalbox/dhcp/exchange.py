"""What one message of a DHCP conversation tells: made by the responder, rendered for the journal when wanted."""

from __future__ import annotations

from typing import Any, NamedTuple

from metalbox.config import Mode
from metalbox.dhcp.options import MESSAGE_NAMES, Message
from metalbox.dhcp.packet import address_text
from metalbox.dhcp.route import PXE_PORT
from metalbox.machine import Mac


class Exchange(NamedTuple):
    """One request and what became of it.

    `client` is one of bios, uefi, http, ipxe, loader, bmc, os. `arch` is option 93's first number, None without it.
    `message` and `reply` are message types, `reply` None when nothing was answered. `address` is the client's address
    as far as this message shows it, `server_id` is the option 54 that the client sent: the server it has chosen.
    `machine_id` is option 97 as it came. Addresses are numbers, 0 for none.
    """

    mac: Mac
    xid: int
    client: str
    arch: int | None
    message: int
    reply: int | None
    mode: str
    port: int
    interface: str
    address: int
    server_id: int
    relay: int
    circuit_id: str
    remote_id: str
    boot_file: str
    vendor_class: str
    hostname: str
    machine_id: bytes

    @property
    def key(self) -> str:
        """What the lines of one conversation have in common. What is said to the site's own server is another."""
        is_overheard = self.mode == Mode.PROXY and self.message == Message.REQUEST and self.port != PXE_PORT
        return f"{self.client}:{self.port}:{self.xid:08x}{':overheard' if is_overheard else ''}"

    @property
    def address_text(self) -> str:
        """The client's address in dotted decimals, or ""."""
        return address_text(self.address)

    def data(self, ignored: str = "") -> dict[str, Any]:
        """The journal's data of this message; `ignored` is the reason when nothing was sent."""
        messages = [MESSAGE_NAMES.get(self.message, str(self.message))]
        if self.reply is not None:
            messages.append(MESSAGE_NAMES[self.reply])
        elif ignored:
            messages.append("IGNORED")
        data: dict[str, Any] = {
            "messages": messages,
            "client": self.client,
            "mode": self.mode,
            "port": self.port,
            "interface": self.interface,
            "relay": address_text(self.relay),
        }
        optional: dict[str, Any] = {
            "boot_file": self.boot_file,
            "address": address_text(self.address),
            "circuit_id": self.circuit_id,
            "remote_id": self.remote_id,
            "server_id": address_text(self.server_id),
            "vendor_class": self.vendor_class,
            "hostname": self.hostname,
            "ignored": ignored,
        }
        data.update({name: value for name, value in optional.items() if value})
        if self.arch is not None:
            data["arch"] = self.arch
        return data
