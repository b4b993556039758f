"""A BMC as a scan finds it, and what an open Redfish root says of it. PURE."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from metalbox.errors import InvalidValue, MalformedPacket
from metalbox.machine import Mac, parse_uuid

MAX_TEXT = 128


@dataclass(frozen=True, slots=True)
class Root:
    """The readable part of a Redfish service root (DSP0268, ServiceRoot). "" is: it does not say.

    `uuid` names the service and need not be the machine's; `serial` and `mac` come from Dell's root alone.
    """

    vendor: str = ""
    product: str = ""
    version: str = ""
    uuid: str = ""
    serial: str = ""
    mac: Mac | None = None


@dataclass(frozen=True, slots=True)
class Found:
    """Something at an address that speaks Redfish, IPMI or both, and all it says to whoever has not logged in.

    `url` is the Redfish root that answered. `guid` is IPMI's system GUID in hex as it came: asf.readings tells which
    UUIDs it may mean. `ssdp`: it answered the search for Redfish services, which it may do with its root out of reach.
    """

    address: str
    redfish: bool = False
    ipmi: bool = False
    vendor: str = ""
    product: str = ""
    version: str = ""
    uuid: str = ""
    serial: str = ""
    mac: Mac | None = None
    url: str = ""
    ssdp: bool = False
    guid: str = ""
    speaks_15: bool = False
    speaks_20: bool = False
    authentications: tuple[str, ...] = ()
    cipher_suites: tuple[int, ...] = ()
    is_anonymous: bool = False
    wants_kg: bool = False

    @property
    def hints(self) -> tuple[str, ...]:
        """What someone should look into, one clause each."""
        table = (
            (0 in self.cipher_suites, "offers IPMI cipher suite 0, by which any password is taken"),
            (self.speaks_15 and "none" in self.authentications, "offers IPMI 1.5 sessions without a password"),
            (self.ipmi and self.is_anonymous, "has an IPMI account without name and password"),
            (self.speaks_15 and not self.speaks_20, "speaks IPMI 1.5 only, which metalbox does not"),
            (self.wants_kg, "wants a key Kg for IPMI besides the password"),
            (self.redfish and self.url.startswith("http:"), "answers Redfish without TLS"),
        )
        return tuple(text for holds, text in table if holds)


def parse_root(data: bytes) -> Root:
    """Read a service root. Raises MalformedPacket for what is not one."""
    try:
        root = json.loads(data)
    except (ValueError, RecursionError):
        raise MalformedPacket("what answers there is not JSON") from None
    if not isinstance(root, dict):
        raise MalformedPacket("what answers there is no Redfish service root")
    kind, version = _text(root.get("@odata.type")), _text(root.get("RedfishVersion"))
    if not version and not kind.startswith("#ServiceRoot."):
        raise MalformedPacket("what answers there is no Redfish service root")
    oem = root.get("Oem")
    oem = oem if isinstance(oem, dict) else {}
    dell = oem.get("Dell")
    dell = dell if isinstance(dell, dict) else {}
    return Root(
        # Services older than Redfish 1.6 have no Vendor: the key of their extensions is the next best.
        vendor=_text(root.get("Vendor")) or next((_text(name) for name in oem), ""),
        product=_text(root.get("Product")),
        version=version,
        uuid=_uuid(root.get("UUID")),
        serial=_text(dell.get("ServiceTag")),
        mac=_mac(dell.get("ManagerMACAddress")),
    )


def _text(value: Any) -> str:
    return "".join(c for c in value if c.isprintable())[:MAX_TEXT].strip() if isinstance(value, str) else ""


def _uuid(value: Any) -> str:
    try:
        return parse_uuid(_text(value))
    except InvalidValue:
        return ""


def _mac(value: Any) -> Mac | None:
    try:
        mac = Mac.parse(_text(value))
    except InvalidValue:
        return None
    return mac if mac.is_usable else None
