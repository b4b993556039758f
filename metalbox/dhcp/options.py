"""DHCP message types and the option codes that metalbox reads or writes, named as in RFC 2132 and later."""

from __future__ import annotations

from enum import IntEnum


class Message(IntEnum):
    """Option 53. BOOTP, which has no option 53, is 0 here. RFC 2131, RFC 4388, RFC 6926 and RFC 7724."""

    BOOTP = 0
    DISCOVER = 1
    OFFER = 2
    REQUEST = 3
    DECLINE = 4
    ACK = 5
    NAK = 6
    RELEASE = 7
    INFORM = 8
    FORCERENEW = 9
    LEASEQUERY = 10
    LEASEUNASSIGNED = 11
    LEASEUNKNOWN = 12
    LEASEACTIVE = 13
    BULKLEASEQUERY = 14
    LEASEQUERYDONE = 15
    ACTIVELEASEQUERY = 16
    LEASEQUERYSTATUS = 17
    TLS = 18


MESSAGE_NAMES: dict[int, str] = {int(message): message.name for message in Message}

PAD = 0
SUBNET_MASK = 1
ROUTER = 3
DNS = 6
HOST_NAME = 12
DOMAIN_NAME = 15
BROADCAST_ADDRESS = 28
NTP = 42
VENDOR = 43
REQUESTED_ADDRESS = 50
LEASE_TIME = 51
OVERLOAD = 52
MESSAGE_TYPE = 53
SERVER_ID = 54
PARAMETER_LIST = 55
MESSAGE_TEXT = 56
MAX_SIZE = 57
T1 = 58
T2 = 59
VENDOR_CLASS = 60
CLIENT_ID = 61
TFTP_SERVER = 66
BOOT_FILE = 67
USER_CLASS = 77
RELAY_AGENT = 82
ARCHITECTURE = 93
MACHINE_ID = 97
SUBNET_SELECTION = 118
IPXE = 175
END = 255
