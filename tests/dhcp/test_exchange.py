from __future__ import annotations

from metalbox.dhcp.exchange import Exchange
from metalbox.machine import Mac
from tests.dhcp.desk import number


def test_only_what_is_known_is_told() -> None:
    bare = Exchange(
        mac=Mac.parse("525400770034"),
        xid=0x2A,
        client="os",
        arch=None,
        message=99,
        reply=None,
        mode="",
        port=67,
        interface="eth0",
        address=0,
        server_id=0,
        relay=0,
        circuit_id="",
        remote_id="",
        boot_file="",
        vendor_class="",
        hostname="",
        machine_id=b"",
    )
    assert bare.key == "os:67:0000002a"
    assert bare.address_text == ""
    assert bare.data() == {
        "messages": ["99"],
        "client": "os",
        "mode": "",
        "port": 67,
        "interface": "eth0",
        "relay": "",
    }
    full = bare._replace(
        arch=0,
        message=3,
        reply=5,
        mode="full",
        address=number("192.0.2.100"),
        server_id=number("192.0.2.1"),
        relay=number("10.1.0.1"),
        circuit_id="swp1",
        remote_id="leaf",
        boot_file="undionly.kpxe",
        vendor_class="PXEClient",
        hostname="host",
    )
    assert full.data() == {
        "messages": ["REQUEST", "ACK"],
        "client": "os",
        "arch": 0,
        "mode": "full",
        "port": 67,
        "interface": "eth0",
        "relay": "10.1.0.1",
        "boot_file": "undionly.kpxe",
        "address": "192.0.2.100",
        "circuit_id": "swp1",
        "remote_id": "leaf",
        "server_id": "192.0.2.1",
        "vendor_class": "PXEClient",
        "hostname": "host",
    }
    ignored = full._replace(reply=None).data("pool exhausted")
    assert (ignored["messages"], ignored["ignored"]) == (["REQUEST", "IGNORED"], "pool exhausted")
