"""Redfish services that make themselves known: the search and its answers (DSP0266, "Discovery"; UPnP 1.1). PURE."""

from __future__ import annotations

import re
from dataclasses import dataclass

from metalbox.errors import MalformedPacket

GROUP, PORT = "239.255.255.250", 1900
SERVICE = "urn:dmtf-org:service:redfish-rest:1"
# DSP0266 asks for a time to live of 2.
HOPS = 2
MAX_SIZE = 4096
MAX_HEADERS = 64
MAX_URL = 512

_STATUS = re.compile(r"HTTP/1\.[01] 200\b")
_USN = re.compile(
    r"uuid:([0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12})::" + re.escape(SERVICE), re.IGNORECASE
)


@dataclass(frozen=True, slots=True)
class Answer:
    """A Redfish service, where its root is, and the UUID of the service. "" where the answer does not say."""

    url: str
    uuid: str


def build_search(wait_seconds: int) -> bytes:
    """The question to all. Each service answers at a random time within `wait_seconds` (1 to 5)."""
    lines = (
        "M-SEARCH * HTTP/1.1",
        f"HOST: {GROUP}:{PORT}",
        'MAN: "ssdp:discover"',
        f"MX: {wait_seconds}",
        f"ST: {SERVICE}",
        "",
        "",
    )
    return "\r\n".join(lines).encode()


def parse_answer(data: bytes) -> Answer:
    """Read an answer. Raises MalformedPacket for anything that is not the answer of a Redfish service."""
    if len(data) > MAX_SIZE:
        raise MalformedPacket(f"{len(data)} bytes are too many for an SSDP answer")
    lines = data.decode("latin-1").split("\r\n")
    if not _STATUS.match(lines[0]):
        raise MalformedPacket(f"{lines[0][:40]!r} does not begin an SSDP answer")
    headers: dict[str, str] = {}
    for line in lines[1 : MAX_HEADERS + 1]:
        name, colon, value = line.partition(":")
        if colon:
            headers.setdefault(name.strip().upper(), value.strip())
    # The version at the end may be followed by a minor one, "redfish-rest:1:6".
    target = headers.get("ST", "")
    if target != SERVICE and not target.startswith(SERVICE + ":"):
        raise MalformedPacket(f"an SSDP answer for {target[:60]!r}, which is no Redfish service")
    # AL is Redfish's header, LOCATION what UPnP has.
    url = headers.get("AL", "") or headers.get("LOCATION", "")
    match = _USN.match(headers.get("USN", ""))
    return Answer(url.strip("<>") if is_plain(url) else "", match[1].lower() if match else "")


def is_plain(url: str) -> bool:
    """Whether a text is an http(s) URL without anything that a terminal or a log would take amiss."""
    is_http = url.strip("<>").lower().startswith(("http://", "https://"))
    return is_http and len(url) <= MAX_URL and url.isascii() and url.isprintable() and " " not in url
