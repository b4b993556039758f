from __future__ import annotations

from scapy.layers.dhcp import DHCPTypes

from metalbox.dhcp.options import MESSAGE_NAMES, Message

# scapy writes some names otherwise.
SPELLINGS = {"RELEASED": "RELEASE", "LEASE_QUERY": "LEASEQUERY", "FORCE_RENEW": "FORCERENEW"}


def test_message_numbers_are_those_of_the_registry() -> None:
    for number, name in DHCPTypes.items():
        plain = name.upper().replace("LEASE_", "LEASE")
        assert MESSAGE_NAMES[number] == SPELLINGS.get(name.upper(), plain), name


def test_names() -> None:
    assert MESSAGE_NAMES[Message.LEASEQUERY] == "LEASEQUERY"
    assert MESSAGE_NAMES[0] == "BOOTP"
