"""RMCP and IPMI outside of a session: whole packets, as ipmitool sends them and ipmi_sim answers."""

from __future__ import annotations

from contextlib import suppress

import pytest

from metalbox.errors import MalformedPacket
from metalbox.power import asf
from tests.mutations import mutations

# Recorded between ipmitool 1.8.19 and ipmi_sim 2.0.33.
PING = bytes.fromhex("0600ff06 000011be 80000000")
PONG = bytes.fromhex("0600ff06 000011be 40000010 000011be 00000000 81 00 000000000000")
ASK_CAPABILITIES = bytes.fromhex("0600ff07 00 00000000 00000000 09 2018c8 8104388e04b1")
ASK_CAPABILITIES_15 = bytes.fromhex("0600ff07 00 00000000 00000000 09 2018c8 8104380e0431")
CAPABILITIES = bytes.fromhex("0600ff07 00 00000000 00000000 10 811c63 20043800 0197040300000000 05")
CAPABILITIES_15 = bytes.fromhex("0600ff07 00 00000000 00000000 10 811c63 20043800 0117040000000000 88")
ASK_GUID = bytes.fromhex("0600ff07 00 00000000 00000000 07 2018c8 81043744")
GUID = bytes.fromhex("0600ff07 00 00000000 00000000 18 811c63 20043700 a123456789abcdefa123456789abcdef e5")
ASK_SUITES = bytes.fromhex("0600ff07 00 00000000 00000000 0a 2018c8 8104540e008099")
SUITES = bytes.fromhex("0600ff07 00 00000000 00000000 19 811c63 20045400 01 c000004080c001014080c002014180c0 41")
ANSWERS = [PONG, CAPABILITIES, CAPABILITIES_15, GUID, SUITES]


def reply(packet: bytes) -> asf.Reply:
    answer = asf.parse_answer(packet)
    assert isinstance(answer, asf.Reply)
    return answer


def test_questions_are_the_bytes_that_ipmitool_sends() -> None:
    assert asf.build_ping() == PING
    assert asf.build_ping(7) == PING[:9] + b"\7" + PING[10:]
    assert asf.build_capabilities_request(sequence=1) == ASK_CAPABILITIES
    assert asf.build_capabilities_request(extended=False, sequence=1) == ASK_CAPABILITIES_15
    assert asf.build_guid_request(sequence=1) == ASK_GUID
    assert asf.build_cipher_suites_request(0, sequence=1) == ASK_SUITES


def test_a_pong_tells_whether_ipmi_is_there() -> None:
    assert asf.parse_answer(PONG) == asf.Pong(tag=0, enterprise=4542, is_ipmi=True)
    # A network card's ASF 1.0 of Intel (343), without IPMI.
    amt = PONG[:9] + b"\5" + PONG[10:12] + bytes.fromhex("00000157 00000000 01 00 000000000000")
    assert asf.parse_answer(amt) == asf.Pong(tag=5, enterprise=343, is_ipmi=False)


def test_capabilities_of_ipmi_2_and_1_5() -> None:
    answer = reply(CAPABILITIES)
    assert answer == asf.Reply(6, 0x38, 1, 0, bytes.fromhex("0197040300000000"))
    every = ("none", "md2", "md5", "password")
    assert asf.parse_capabilities(answer.data) == asf.Capabilities(1, every, False, False, False, True, True)
    plain = asf.parse_capabilities(reply(CAPABILITIES_15).data)
    assert plain == asf.Capabilities(1, every, False, False, False, True, False)
    # Channel 8, MD5 and OEM, a key Kg, null user, anonymous login, IPMI v2.0 only.
    kg = asf.parse_capabilities(bytes.fromhex("08a4230200000000"))
    assert kg == asf.Capabilities(8, ("md5", "oem"), True, True, True, False, True)


def test_a_refusal_is_an_answer() -> None:
    # Completion code 0xcc, as BMCs of IPMI v1.5 answer the extended question.
    refusal = bytes.fromhex("0600ff07 00 00000000 00000000 08 811c63 200438ccd8")
    assert reply(refusal) == asf.Reply(6, 0x38, 1, 0xCC, b"")


def test_a_guid_may_mean_three_uuids() -> None:
    guid = asf.parse_guid(reply(GUID).data)
    assert asf.readings(guid) == (
        "674523a1-ab89-efcd-a123-456789abcdef",
        "a1234567-89ab-cdef-a123-456789abcdef",
        "efcdab89-6745-23a1-efcd-ab89674523a1",
    )
    assert len(asf.readings(bytes(16))) == 1
    with pytest.raises(MalformedPacket):
        asf.parse_guid(bytes(15))


def test_cipher_suites_in_two_parts() -> None:
    first = reply(SUITES)
    assert len(first.data) == 1 + asf.SUITES_CHUNK
    records = first.data[1:] + bytes.fromhex("03014181")
    assert asf.parse_cipher_suites(records) == (0, 1, 2, 3)
    # An OEM's suite 0x80 (of Dell, 674) is none of ours; 17 follows it; the last record is cut.
    assert asf.parse_cipher_suites(bytes.fromhex("c180a2020001 c011034481 c0")) == (17,)
    with pytest.raises(MalformedPacket):
        asf.parse_cipher_suites(b"\x01")


@pytest.mark.parametrize(
    ("packet", "reason"),
    [
        (b"", "0 bytes are too few for RMCP"),
        (b"\5" + PONG[1:], "RMCP version 5"),
        (bytes.fromhex("0600ff86"), "an acknowledgement is no answer"),
        (bytes.fromhex("0600ff08"), "of class 8"),
        (PONG[:10], "6 bytes are too few for an ASF"),
        (PING, "type 0x80"),
        (PONG[:-1], "is cut"),
        (CAPABILITIES[:12], "too few for an IPMI session"),
        (CAPABILITIES[:4] + b"\2" + CAPABILITIES[5:], "authentication 2"),
        (CAPABILITIES[:-1], "is cut"),
        (CAPABILITIES[:-1] + b"\6", "checksum"),
        (ASK_CAPABILITIES, "no answer of a BMC"),
    ],
)
def test_what_is_no_answer(packet: bytes, reason: str) -> None:
    with pytest.raises(MalformedPacket, match=reason):
        asf.parse_answer(packet)


def test_a_byte_of_padding_is_no_matter() -> None:
    assert asf.parse_answer(GUID + b"\0") == asf.parse_answer(GUID)


def test_no_packet_raises_anything_else() -> None:
    for data in mutations(ANSWERS):
        with suppress(MalformedPacket):
            answer = asf.parse_answer(data)
            assert isinstance(answer, asf.Pong) or 0 <= answer.sequence < 64


def test_no_data_raises_anything_else() -> None:
    """The checksums stop nearly every mutation above: here is what would come through."""
    for data in mutations([reply(packet).data for packet in ANSWERS[1:]]):
        with suppress(MalformedPacket):
            asf.parse_capabilities(data)
        with suppress(MalformedPacket):
            assert len(asf.parse_cipher_suites(data)) <= len(data)
        with suppress(MalformedPacket):
            assert asf.readings(asf.parse_guid(data))
