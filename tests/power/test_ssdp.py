"""The search for Redfish services and its answers."""

from __future__ import annotations

from contextlib import suppress

import pytest

from metalbox.errors import MalformedPacket
from metalbox.power import ssdp
from tests.mutations import mutations

UUID = "92384634-2938-2342-8820-489239905423"
# The example of DSP0266, and a stack that follows UPnP more closely.
REDFISH = (
    b"HTTP/1.1 200 OK\r\n"
    b"CACHE-CONTROL:max-age=1800\r\n"
    b"ST:urn:dmtf-org:service:redfish-rest:1:6\r\n"
    b"USN:uuid:92384634-2938-2342-8820-489239905423::urn:dmtf-org:service:redfish-rest:1:6\r\n"
    b"AL:<https://192.0.2.11:8443/redfish/v1/>\r\n"
    b"EXT:\r\n\r\n"
)
UPNP = (
    b"HTTP/1.1 200 OK\r\n"
    b"Location: http://192.0.2.12/redfish/v1/\r\n"
    b"St: urn:dmtf-org:service:redfish-rest:1\r\n"
    b"Usn: UUID:92384634-2938-2342-8820-48923990542A::urn:dmtf-org:service:redfish-rest:1\r\n\r\n"
)


def test_the_search_byte_for_byte() -> None:
    assert ssdp.build_search(2) == (
        b"M-SEARCH * HTTP/1.1\r\n"
        b"HOST: 239.255.255.250:1900\r\n"
        b'MAN: "ssdp:discover"\r\n'
        b"MX: 2\r\n"
        b"ST: urn:dmtf-org:service:redfish-rest:1\r\n\r\n"
    )


def test_answers() -> None:
    assert ssdp.parse_answer(REDFISH) == ssdp.Answer("https://192.0.2.11:8443/redfish/v1/", UUID)
    assert ssdp.parse_answer(UPNP) == ssdp.Answer("http://192.0.2.12/redfish/v1/", UUID[:-1] + "a")


@pytest.mark.parametrize(
    ("packet", "reason"),
    [
        (b"", "does not begin"),
        (b"NOTIFY * HTTP/1.1\r\n\r\n", "does not begin"),
        (UPNP.replace(b"redfish-rest:1", b"redfish-rest:10"), "no Redfish service"),
        (UPNP.replace(b"St:", b"X:"), "no Redfish service"),
        (REDFISH + bytes(5000), "too many"),
    ],
)
def test_what_is_no_answer(packet: bytes, reason: str) -> None:
    with pytest.raises(MalformedPacket, match=reason):
        ssdp.parse_answer(packet)


@pytest.mark.parametrize(
    "url", ["", "file:///etc/passwd", "https://a/\x1b[2J", "https://" + "a" * 600, "https://\xe9/", "https://a b/"]
)
def test_urls_that_are_none(url: str) -> None:
    assert not ssdp.is_plain(url)
    answer = REDFISH.replace(b"<https://192.0.2.11:8443/redfish/v1/>", url.encode("latin-1"))
    assert ssdp.parse_answer(answer) == ssdp.Answer("", UUID)


def test_no_packet_raises_anything_else() -> None:
    for data in mutations([REDFISH, UPNP]):
        with suppress(MalformedPacket):
            answer = ssdp.parse_answer(data)
            assert answer.url.isprintable() and answer.uuid.isprintable()
