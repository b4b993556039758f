"""The management processor, asked from inside the machine: IPMI messages through Linux's /dev/ipmi0, without ipmitool.

Only questions are asked here; nothing is set. The numbers are those of the IPMI 2.0 specification, by section.
"""

from __future__ import annotations

import array
import fcntl
import ipaddress
import os
import select
import struct
from pathlib import Path

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    # (network function, command, data) -> the answer, beginning with its completion code.
    Ask = Callable[[int, int, bytes], bytes]

DEVICES = ("/dev/ipmi0", "/dev/ipmi/0", "/dev/ipmidev/0")
SECONDS = 3.0  # one answer; a BMC in the middle of a reset needs minutes, and is not waited for

# linux/ipmi.h on 64-bit machines: sizes of struct ipmi_req (40) and struct ipmi_recv (48).
IPMICTL_SEND_COMMAND = 0x8028690D
IPMICTL_RECEIVE_MSG_TRUNC = 0xC030690B
SYSTEM_INTERFACE_ADDRESS = struct.pack("=ihBx", 0x0C, 0x0F, 0)
RESPONSE = 1  # IPMI_RESPONSE_RECV_TYPE

APP, TRANSPORT = 0x06, 0x0C
GET_DEVICE_ID, GET_CHANNEL_INFO, GET_LAN = 0x01, 0x42, 0x02
LAN_MEDIUM = 4  # table 6-3: 802.3 LAN
CHANNELS = range(1, 12)
# Parameters of table 23-4.
IP_ADDRESS, IP_SOURCE, MAC_ADDRESS, IPV6_STATIC, IPV6_DYNAMIC = 3, 4, 5, 56, 59
SOURCES = {1: "static", 2: "dhcp", 3: "bios", 4: "other"}

# IANA private enterprise numbers as BMCs answer them.
VENDORS = {
    2: "IBM", 11: "Hewlett-Packard", 42: "Sun Microsystems", 111: "Oracle", 343: "Intel", 674: "Dell", 2011: "Huawei",
    2623: "ASUS", 5703: "NVIDIA", 5771: "Cisco", 6653: "Tyan", 7244: "Quanta", 10368: "Fujitsu", 10876: "Supermicro",
    15370: "Gigabyte", 19046: "Lenovo", 20301: "Lenovo", 20974: "American Megatrends", 33049: "Mellanox",
    37945: "Inspur", 47196: "Hewlett Packard Enterprise", 47488: "Supermicro", 49622: "ASRock Rack",
}  # fmt: skip


class BmcFailed(Exception):
    """The BMC's driver is there and the BMC does not answer; the message is a sentence."""


def device() -> str:
    """The path of the driver's first BMC; "" when there is none."""
    return next((path for path in DEVICES if Path(path).exists()), "")


def bmc(path: str) -> dict[str, Any]:
    """Ask the BMC behind this device who it is and where it is reached. Raises BmcFailed."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        raise BmcFailed(f"{path} cannot be opened: {error.strerror}") from None
    try:
        return interrogate(lambda function, command, data: exchange(descriptor, function, command, data))
    except OSError as error:
        raise BmcFailed(f"the BMC behind {path} does not answer: {error.strerror or error}") from None
    finally:
        os.close(descriptor)


def interrogate(ask: Ask) -> dict[str, Any]:
    """Find the firmware, the maker and the LAN channel: the first with an address, else the first with a MAC."""
    found: dict[str, Any] = parse_device_id(ask(APP, GET_DEVICE_ID, b""))
    best: dict[str, Any] = {}
    for channel in CHANNELS:
        information = ask(APP, GET_CHANNEL_INFO, bytes([channel]))
        if len(information) < 3 or information[0] or information[2] & 0x7F != LAN_MEDIUM:
            continue
        lan = _lan(ask, channel)
        if lan["address"]:
            return {**found, **lan}
        best = best or (lan if lan["mac"] else {})
    return {**found, **best}


def parse_device_id(answer: bytes) -> dict[str, Any]:
    """Get Device ID (20.1): bytes 3 and 4 are the firmware (7 bits, then BCD), 7 to 9 the maker's enterprise number."""
    if len(answer) < 10 or answer[0]:
        return {"firmware": "", "vendor": ""}
    enterprise = int.from_bytes(answer[7:10], "little") & 0xFFFFF
    vendor = VENDORS.get(enterprise) or (f"enterprise {enterprise}" if enterprise else "")
    return {"firmware": f"{answer[3] & 0x7F}.{answer[4]:02x}", "vendor": vendor}


def _lan(ask: Ask, channel: int) -> dict[str, Any]:
    """What the channel is configured with (23.2); the answer's second byte is the revision, the value follows."""

    def parameter(number: int, selector: int = 0) -> bytes:
        answer = ask(TRANSPORT, GET_LAN, bytes([channel, number, selector, 0]))
        return answer[2:] if len(answer) > 2 and not answer[0] else b""

    source = parameter(IP_SOURCE)
    mac = parameter(MAC_ADDRESS)[:6]
    address = parameter(IP_ADDRESS)[:4]
    text = ".".join(str(byte) for byte in address) if len(address) == 4 and any(address) else ""
    return {
        "channel": channel,
        "address": text or _ipv6(parameter),
        "mac": mac.hex(":") if len(mac) == 6 and any(mac) else "",
        "address_source": SOURCES.get(source[0] & 0x0F, "") if source else "",
    }


def _ipv6(parameter: Callable[[int, int], bytes]) -> str:
    """The first IPv6 address in use: selector, source or enable flag, 16 bytes, prefix length, status (0 is active)."""
    for number in (IPV6_STATIC, IPV6_DYNAMIC):
        value = parameter(number, 0)
        if len(value) >= 20 and any(value[2:18]) and value[19] == 0:
            return str(ipaddress.IPv6Address(value[2:18]))
    return ""


def exchange(descriptor: int, function: int, command: int, data: bytes) -> bytes:
    """Send one message to the BMC and wait for its answer (struct ipmi_req, struct ipmi_recv). Raises OSError."""
    address, body = array.array("B", SYSTEM_INTERFACE_ADDRESS), array.array("B", data or b"\0")
    message = struct.pack("@BBHP", function, command, len(data), body.buffer_info()[0])
    request = struct.pack("@PIl", address.buffer_info()[0], len(address), 1) + message
    fcntl.ioctl(descriptor, IPMICTL_SEND_COMMAND, request)
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    while poll.poll(SECONDS * 1000):
        kind, got, answer = _receive(descriptor)
        if kind == RESPONSE and got == command:
            return answer
    raise TimeoutError(f"no answer to command {function:#04x}/{command:#04x} within {SECONDS:g} s")


def _receive(descriptor: int) -> tuple[int, int, bytes]:
    """One message out of the driver's queue: what kind it is, its command, its data."""
    address, body = array.array("B", bytes(64)), array.array("B", bytes(280))
    message = struct.pack("@BBHP", 0, 0, len(body), body.buffer_info()[0])
    slot = bytearray(struct.pack("@iPIl", 0, address.buffer_info()[0], len(address), 0) + message)
    fcntl.ioctl(descriptor, IPMICTL_RECEIVE_MSG_TRUNC, slot)
    _function, command, length, _ = struct.unpack_from("@BBHP", slot, len(slot) - len(message))
    return struct.unpack_from("@i", slot)[0], command, body.tobytes()[:length]
