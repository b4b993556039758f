"""The simulated firmware's packets, read by metalbox's own parsers."""

from __future__ import annotations

import pytest

from metalbox.dhcp.packet import parse_packet
from metalbox.lab import pxeclient
from metalbox.lab.pxeclient import Offer
from metalbox.tftp.packet import parse_request


def test_a_discover_and_the_request_that_follows() -> None:
    discover = parse_packet(pxeclient.dhcp(pxeclient.DISCOVER, 7, 14, ipxe=False))
    assert (discover.message, discover.xid, discover.chaddr[:6]) == (1, 14, b"RTB\0\0\x07")
    assert 175 not in discover.options
    offer = Offer(pxeclient.OFFER, b"\x0a\x40\x01\x05", b"\x0a\x40\0\1", b"\x0a\x40\0\1", "snponly.efi")
    request = parse_packet(pxeclient.dhcp(pxeclient.REQUEST, 7, 15, ipxe=True, chosen=offer))
    assert request.message == 3
    assert request.options[50] == offer.address
    assert request.options[54] == offer.server
    assert request.options[77] == b"iPXE"


def answer(options: bytes, *, file: bytes = b"") -> bytes:
    head = bytearray(236)
    head[0:4] = 2, 1, 6, 0
    head[4:8] = (99).to_bytes(4, "big")
    head[16:20], head[20:24] = b"\x0a\x40\x01\x09", b"\x0a\x40\0\1"
    head[108 : 108 + len(file)] = file
    return bytes(head) + pxeclient.COOKIE + options


def test_an_offer_is_read_and_option_67_goes_before_the_field() -> None:
    read = pxeclient.read_dhcp(answer(b"\x35\x01\x02\0\x36\x04\x0a\x40\0\1\x43\x04abc\0\xff", file=b"other"))
    assert read == (99, Offer(2, b"\x0a\x40\x01\x09", b"\x0a\x40\0\1", b"\x0a\x40\0\1", "abc"))
    read = pxeclient.read_dhcp(answer(b"\x35\x01\x05\xff", file=b"snponly.efi"))
    assert read is not None
    assert (read[1].kind, read[1].file) == (5, "snponly.efi")


@pytest.mark.parametrize("data", [b"", bytes(300), b"\x01" + bytes(299), answer(b"\xff")[:240]])
def test_what_is_no_answer_is_none(data: bytes) -> None:
    assert pxeclient.read_dhcp(data) is None


def test_the_two_requests_of_edk2() -> None:
    probe = parse_request(pxeclient.read_request("snponly.efi", is_probe=True))
    file = parse_request(pxeclient.read_request("snponly.efi", is_probe=False))
    assert probe.name == file.name == "snponly.efi"
    assert probe.options == ((b"tsize", b"0"), (b"blksize", b"1468"), (b"windowsize", b"4"))
    assert file.options == ((b"blksize", b"1468"), (b"windowsize", b"4"))


def test_an_oack_is_read() -> None:
    assert pxeclient.granted(b"\0\x06tsize\x001048576\0BlkSize\x001468\0") == {"tsize": 1048576, "blksize": 1468}


def test_a_script_names_its_images() -> None:
    script = "#!ipxe\nkernel http://10.64.0.1:8080/a/vmlinuz initrd=initrd x=http://no/ || goto failed\n"
    script += "initrd --name initrd http://10.64.0.1:8080/a/initrd || goto failed\nboot\n"
    assert pxeclient.images(script) == ["http://10.64.0.1:8080/a/vmlinuz", "http://10.64.0.1:8080/a/initrd"]
    assert pxeclient.place("http://10.64.0.1:8080/a/initrd") == ("10.64.0.1", 8080, "/a/initrd")
    assert pxeclient.place("http://10.64.0.1/") == ("10.64.0.1", 80, "/")
    with pytest.raises(ValueError, match="no http URL"):
        pxeclient.place("snponly.efi")
