"""What can be asked of a BMC over LAN without logging in: bytes of RMCP, ASF and IPMI outside of a session. PURE.

The presence ping and its pong (DSP0136 sections 3.2.2 and 3.2.4.3; IPMI v2.0 section 13.2), and three IPMI requests
that need no session: authentication capabilities (22.13), system GUID (22.14) and cipher suites (22.15).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from uuid import UUID

from metalbox.errors import MalformedPacket

PORT = 623
RMCP_VERSION = 6
# The sequence number that wants no RMCP acknowledgement.
NO_ACKNOWLEDGEMENT = 0xFF
CLASS_ASF, CLASS_IPMI, ACKNOWLEDGEMENT = 0x06, 0x07, 0x80
ASF_ENTERPRISE = 4542
PRESENCE_PING, PRESENCE_PONG = 0x80, 0x40
IPMI_SUPPORTED = 0x80

BMC, CONSOLE = 0x20, 0x81  # slave address of a BMC, software id of a remote console
APP = 0x06
GET_CAPABILITIES, GET_GUID, GET_CIPHER_SUITES = 0x38, 0x37, 0x54
ANSWERING_CHANNEL = 0x0E
ADMINISTRATOR = 0x04
EXTENDED = 0x80
LIST_BY_SUITE = 0x80
# Section 22.15: this many bytes of records an answer; a shorter answer is the last.
SUITES_CHUNK = 16
SUITES_CHUNKS = 64
SUITE, OEM_SUITE = 0xC0, 0xC1

AUTHENTICATIONS = {0: "none", 1: "md2", 2: "md5", 4: "password", 5: "oem"}

_RMCP = struct.Struct("!BBBB")
_ASF = struct.Struct("!IBBBB")
_PONG = struct.Struct("!I4sBB6s")
_SESSION = struct.Struct("<BIIB")


@dataclass(frozen=True, slots=True)
class Pong:
    """Somebody speaks RMCP here. Without IPMI it is often Intel AMT or a network card's ASF."""

    tag: int
    enterprise: int
    is_ipmi: bool


@dataclass(frozen=True, slots=True)
class Reply:
    """An IPMI answer outside of a session. `code` is the completion code, 0 is success; `data` what follows it."""

    function: int
    command: int
    sequence: int
    code: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Capabilities:
    """How a channel lets one log in. Without extended data (IPMI v1.5) the channel is taken to speak v1.5."""

    channel: int
    authentications: tuple[str, ...]
    is_anonymous: bool
    has_null_user: bool
    wants_kg: bool
    speaks_15: bool
    speaks_20: bool


def build_ping(tag: int = 0) -> bytes:
    """A presence ping; the pong repeats `tag` (0 to 254; 255 would mean that none is sent)."""
    header = _RMCP.pack(RMCP_VERSION, 0, NO_ACKNOWLEDGEMENT, CLASS_ASF)
    return header + _ASF.pack(ASF_ENTERPRISE, PRESENCE_PING, tag, 0, 0)


def build_request(command: int, data: bytes = b"", *, sequence: int = 0, function: int = APP) -> bytes:
    """An IPMI request to the BMC itself, outside of a session (sections 13.6 and 13.8)."""
    head = bytes((BMC, function << 2))
    body = bytes((CONSOLE, sequence << 2, command)) + data
    message = head + bytes((_checksum(head),)) + body + bytes((_checksum(body),))
    rmcp = _RMCP.pack(RMCP_VERSION, 0, NO_ACKNOWLEDGEMENT, CLASS_IPMI)
    return rmcp + _SESSION.pack(0, 0, 0, len(message)) + message


def build_capabilities_request(*, extended: bool = True, sequence: int = 0) -> bytes:
    """How may one log in here? BMCs of IPMI v1.5 may refuse the `extended` question and take the plain one."""
    channel = ANSWERING_CHANNEL | (EXTENDED if extended else 0)
    return build_request(GET_CAPABILITIES, bytes((channel, ADMINISTRATOR)), sequence=sequence)


def build_guid_request(*, sequence: int = 0) -> bytes:
    """Which machine is this?"""
    return build_request(GET_GUID, sequence=sequence)


def build_cipher_suites_request(index: int, *, sequence: int = 0) -> bytes:
    """Part `index` of the cipher suites for IPMI payloads on the channel that answers."""
    return build_request(GET_CIPHER_SUITES, bytes((ANSWERING_CHANNEL, 0, LIST_BY_SUITE | index)), sequence=sequence)


def parse_answer(data: bytes) -> Pong | Reply:
    """Read what came from port 623. Raises MalformedPacket, also for acknowledgements, which say nothing."""
    if len(data) < _RMCP.size:
        raise MalformedPacket(f"{len(data)} bytes are too few for RMCP, which has at least 4")
    version, _, _, kind = _RMCP.unpack_from(data)
    if version != RMCP_VERSION:
        raise MalformedPacket(f"RMCP version {version} is not {RMCP_VERSION}")
    if kind == CLASS_ASF:
        return _parse_pong(data[_RMCP.size :])
    if kind == CLASS_IPMI:
        return _parse_reply(data[_RMCP.size :])
    what = "an acknowledgement" if kind & ACKNOWLEDGEMENT else f"of class {kind}"
    raise MalformedPacket(f"an RMCP message {what} is no answer")


def _parse_pong(data: bytes) -> Pong:
    if len(data) < _ASF.size:
        raise MalformedPacket(f"{len(data)} bytes are too few for an ASF message, which has at least 8")
    enterprise, kind, tag, _, length = _ASF.unpack_from(data)
    if enterprise != ASF_ENTERPRISE or kind != PRESENCE_PONG:
        raise MalformedPacket(f"an ASF message of type {kind:#x} and enterprise {enterprise} is no presence pong")
    if length < _PONG.size or len(data) < _ASF.size + length:
        raise MalformedPacket(f"a presence pong with {length} of 16 bytes is cut")
    owner, _, entities, _, _ = _PONG.unpack_from(data, _ASF.size)
    return Pong(tag, owner, bool(entities & IPMI_SUPPORTED))


def _parse_reply(data: bytes) -> Reply:
    if len(data) < _SESSION.size:
        raise MalformedPacket(f"{len(data)} bytes are too few for an IPMI session header, which has 10")
    authentication, _, session, length = _SESSION.unpack_from(data)
    if authentication or session:
        raise MalformedPacket(f"authentication {authentication} and session {session:#x} were not asked for")
    # Section 13.6: some lengths of a packet are avoided by a byte of padding after the message.
    message = data[_SESSION.size : _SESSION.size + length]
    if length < 8 or len(message) < length:
        raise MalformedPacket(f"an IPMI answer of {length} bytes, of which {len(message)} came, is cut")
    if _checksum(message[:3]) or _checksum(message[3:]):
        raise MalformedPacket("the checksum of an IPMI answer is wrong")
    if message[0] != CONSOLE or message[3] != BMC or not message[1] & 0x04:
        raise MalformedPacket("an IPMI message that is no answer of a BMC to a remote console")
    return Reply((message[1] >> 2) - 1, message[5], message[4] >> 2, message[6], message[7:-1])


def parse_capabilities(data: bytes) -> Capabilities:
    """Read the data of an answer to GET_CAPABILITIES. Raises MalformedPacket."""
    if len(data) < 4:
        raise MalformedPacket(f"{len(data)} bytes are too few for authentication capabilities")
    channel, support, status, extended = data[:4]
    is_extended = bool(support & EXTENDED)
    return Capabilities(
        channel=channel & 0x0F,
        authentications=tuple(name for bit, name in AUTHENTICATIONS.items() if support & 1 << bit),
        is_anonymous=bool(status & 0x01),
        has_null_user=bool(status & 0x02),
        wants_kg=is_extended and bool(status & 0x20),
        speaks_15=bool(extended & 0x01) if is_extended else True,
        speaks_20=is_extended and bool(extended & 0x02),
    )


def parse_guid(data: bytes) -> bytes:
    """Read the data of an answer to GET_GUID: 16 bytes. Raises MalformedPacket."""
    if len(data) < 16:
        raise MalformedPacket(f"{len(data)} bytes are too few for a GUID")
    return bytes(data[:16])


def readings(guid: bytes) -> tuple[str, ...]:
    """The UUIDs that a GUID may mean: as SMBIOS stores it, as it is read, as IPMI v2.0 section 20.8 has it (backwards).

    BMCs do all three, and nothing tells which: the UUID of a known machine does.
    """
    texts = (str(UUID(bytes_le=guid)), str(UUID(bytes=guid)), str(UUID(bytes=guid[::-1])))
    return tuple(dict.fromkeys(texts))


def parse_cipher_suites(records: bytes) -> tuple[int, ...]:
    """The standard suites' numbers in joined records (table 22-18); a record cut at the end does not count."""
    found: list[int] = []
    at = 0
    while at < len(records):
        if records[at] not in (SUITE, OEM_SUITE):
            raise MalformedPacket(f"byte {records[at]:#04x} does not begin a cipher suite record")
        is_standard = records[at] == SUITE
        # The number, with OEM suites the enterprise too; then algorithms, whose two high bits are never both set.
        end = at + (2 if is_standard else 5)
        algorithms = end
        while end < len(records) and records[end] < SUITE:
            end += 1
        if is_standard and end > algorithms:
            found.append(records[at + 1])
        at = end
    return tuple(dict.fromkeys(found))


def _checksum(data: bytes) -> int:
    """Two's complement of the sum (section 13.8); 0 over data with its checksum."""
    return -sum(data) & 0xFF
