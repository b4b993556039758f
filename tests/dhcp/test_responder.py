from __future__ import annotations

import pytest

from metalbox.dhcp.leases import LeaseState
from metalbox.dhcp.options import Message
from metalbox.dhcp.packet import Packet, build_packet
from metalbox.dhcp.responder import Ignored, Reply, RouteKind
from tests.dhcp.desk import BOOT_FILES, MAC, NETWORK, SERVER, TIMES, Desk, address, ask, number, wire

DISCOVER, REQUEST, DECLINE, RELEASE, INFORM = (
    Message.DISCOVER,
    Message.REQUEST,
    Message.DECLINE,
    Message.RELEASE,
    Message.INFORM,
)
UUID = bytes.fromhex("0022221111333344445555666677778821")
UUID_OPTION = "6111" + UUID.hex()
OURS = {54: address(SERVER)}
ONE_POOL = "subnets: [{subnet: 192.0.2.0/24, mode: full, pools: [192.0.2.100-192.0.2.103]}]"

# What each firmware sends beside option 53, from captures of it: EDK2, a BIOS ROM, iPXE, EDK2's HTTP boot.
UEFI = {57: b"\x05\xc0", 97: UUID, 94: b"\x01\x03\x00", 93: b"\x00\x07", 60: b"PXEClient:Arch:00007:UNDI:003000"}
BIOS = {57: b"\x05\xc0", 97: UUID, 94: b"\x01\x02\x01", 93: b"\x00\x00", 60: b"PXEClient:Arch:00000:UNDI:002001"}
IPXE = {
    57: b"\x05\xc0",
    93: b"\x00\x00",
    94: b"\x01\x02\x01",
    60: b"PXEClient:Arch:00000:UNDI:002001",
    77: b"iPXE",
    175: bytes.fromhex("b105011af41000 eb03010000 170101 220101 130101 110101 270101 190101 290101 100101 210101"),
    61: b"\x01" + MAC,
    97: UUID,
}
HTTP = {57: b"\x05\xc0", 97: UUID, 94: b"\x01\x03\x00", 93: b"\x00\x10", 60: b"HTTPClient:Arch:00016:UNDI:003000"}

PXE_CLASS = "3c09" + b"PXEClient".hex()
HTTP_CLASS = "3c0a" + b"HTTPClient".hex() + "00"
SCRIPT = b"http://192.0.2.1:8080/ipxe/first.ipxe"
URL = b"http://192.0.2.1:8080/boot/snponly.efi"
SERVER_TEXT = SERVER.encode()


def files(name: bytes, end: str = "") -> str:
    """Options 67 and 66."""
    extra = len(end) // 2
    return f"43{len(name) + extra:02x}{name.hex()}{end} 42{len(SERVER) + extra:02x}{SERVER_TEXT.hex()}{end}"


def lease_of(desk: Desk, mac: bytes = MAC, more: dict[int, bytes] | None = None) -> str:
    """Let a client go through DISCOVER and REQUEST; returns its address."""
    _, offer = desk.answer(ask(DISCOVER, mac=mac, more=more))
    selected = {**(more or {}), 50: offer.yiaddr.to_bytes(4, "big"), **OURS}
    reply, ack = desk.answer(ask(REQUEST, mac=mac, more=selected))
    assert ack.message == Message.ACK and reply.change is not None
    return reply.change.leases[0].address


# -- whole packets: proxy -------------------------------------------------------------------------------------------


def test_proxy_offer_to_bios_tells_to_boot_at_once() -> None:
    reply, _ = Desk.proxy().answer(ask(DISCOVER, more=BIOS))
    options = f"350102 3604c0000201 {UUID_OPTION} {PXE_CLASS} 2b04060108ff {files(b'undionly.kpxe', '00')} ff"
    assert reply.data == wire(options, siaddr=SERVER, sname=SERVER_TEXT, file=b"undionly.kpxe")
    assert (reply.route.kind, reply.route.port, reply.change) == (RouteKind.BROADCAST, 68, None)
    assert reply.exchange.data() == {
        "messages": ["DISCOVER", "OFFER"],
        "client": "bios",
        "mode": "proxy",
        "port": 67,
        "interface": "eth0",
        "relay": "",
        "boot_file": "undionly.kpxe",
        "vendor_class": "PXEClient:Arch:00000:UNDI:002001",
        "arch": 0,
    }


def test_proxy_offer_to_uefi_leads_to_the_pxe_port() -> None:
    reply, _ = Desk.proxy().answer(ask(DISCOVER, more=UEFI, flags=0x8000))
    options = f"350102 3604c0000201 {UUID_OPTION} {PXE_CLASS} {files(b'snponly.efi')} ff"
    assert reply.data == wire(options, flags=0x8000, siaddr=SERVER, sname=SERVER_TEXT, file=b"snponly.efi")


def test_proxy_offer_to_uefi_can_name_the_file_for_good() -> None:
    reply, _ = Desk.proxy(uefi_offer="pxe10").answer(ask(DISCOVER, more=UEFI, flags=0x8000))
    options = f"350102 3604c0000201 {UUID_OPTION} {PXE_CLASS} 2b04060108ff {files(b'snponly.efi')} ff"
    assert reply.data == wire(options, flags=0x8000, siaddr=SERVER, sname=SERVER_TEXT, file=b"snponly.efi")


def test_proxy_offer_to_ipxe_is_the_first_script() -> None:
    reply, _ = Desk.proxy().answer(ask(DISCOVER, more=IPXE))
    options = f"350102 3604c0000201 3d0701{MAC.hex()} {UUID_OPTION} {PXE_CLASS} 2b04060108ff {files(SCRIPT)} ff"
    assert reply.data == wire(options, siaddr=SERVER, file=SCRIPT, size=0)
    assert reply.exchange.client == "ipxe"


def test_proxy_offer_to_uefi_http_is_a_url() -> None:
    reply, _ = Desk.proxy().answer(ask(DISCOVER, more=HTTP, flags=0x8000))
    options = f"350102 3604c0000201 {UUID_OPTION} {HTTP_CLASS} {files(URL)} ff"
    assert reply.data == wire(options, flags=0x8000, siaddr=SERVER, file=URL)


def test_pxe_port_answers_edk2_where_it_asked_from() -> None:
    packet = ask(REQUEST, more=UEFI, ciaddr=number("192.0.2.150"))
    reply, _ = Desk.proxy().answer(packet, source=("192.0.2.150", 4011), port=4011, unicast=True)
    options = f"350105 3604c0000201 {UUID_OPTION} {PXE_CLASS} {files(b'snponly.efi')} ff"
    assert reply.data == wire(options, ciaddr="192.0.2.150", siaddr=SERVER, sname=SERVER_TEXT, file=b"snponly.efi")
    assert reply.route == (RouteKind.UNICAST, "192.0.2.150", 4011, b"")


def test_pxe_port_repeats_the_boot_item_that_a_rom_picked() -> None:
    more = {**BIOS, 57: b"\x04\xec", 43: bytes.fromhex("470480000000ff")}
    packet = ask(REQUEST, more=more, ciaddr=number("192.0.2.150"))
    reply, _ = Desk.proxy().answer(packet, source=("192.0.2.150", 4011), port=4011, unicast=True)
    options = f"350105 3604c0000201 {UUID_OPTION} {PXE_CLASS} {files(b'undionly.kpxe', '00')} 2b07470480000000ff ff"
    assert reply.data == wire(options, yiaddr="192.0.2.150", siaddr=SERVER, sname=SERVER_TEXT, file=b"undionly.kpxe")


# -- whole packets: full --------------------------------------------------------------------------------------------


def test_full_offer_and_ack_to_an_operating_system() -> None:
    desk = Desk.full()
    more = {61: b"\x01" + MAC, 55: b"\x01\x03\x06"}
    reply, _ = desk.answer(ask(DISCOVER, more=more))
    options = f"3604c0000201 3d0701{MAC.hex()} {TIMES} {NETWORK} ff"
    assert reply.data == wire("350102" + options, yiaddr="192.0.2.100", size=0).ljust(300, b"\0")
    assert reply.route == (RouteKind.LINK, "192.0.2.100", 68, MAC)
    assert reply.change is None
    reply, _ = desk.answer(ask(REQUEST, more={**more, 50: address("192.0.2.100"), **OURS}))
    assert reply.data == wire("350105" + options, yiaddr="192.0.2.100", size=0).ljust(300, b"\0")
    assert reply.change is not None
    (lease,) = reply.change.leases
    assert (lease.address, lease.mac, lease.state, lease.expires_at) == (
        "192.0.2.100",
        "52:54:00:77:00:34",
        LeaseState.BOUND,
        desk.now + 3600,
    )


def test_full_offer_to_bios() -> None:
    reply, _ = Desk.full().answer(ask(DISCOVER, more=BIOS))
    boot = f"{PXE_CLASS} 2b04060108ff {files(b'undionly.kpxe', '00')}"
    options = f"350102 3604c0000201 {UUID_OPTION} {TIMES} {boot} {NETWORK} ff"
    whole = wire(options, yiaddr="192.0.2.100", siaddr=SERVER, sname=SERVER_TEXT, file=b"undionly.kpxe")
    assert reply.data == whole


def test_full_offer_to_uefi_spares_the_pxe_port() -> None:
    reply, _ = Desk.full().answer(ask(DISCOVER, more=UEFI, flags=0x8000))
    boot = f"{PXE_CLASS} 2b04060108ff {files(b'snponly.efi')}"
    options = f"350102 3604c0000201 {UUID_OPTION} {TIMES} {boot} {NETWORK} ff"
    whole = wire(
        options, flags=0x8000, yiaddr="192.0.2.100", siaddr=SERVER, sname=SERVER_TEXT, file=b"snponly.efi", size=0
    )
    assert reply.data == whole
    assert reply.route.kind is RouteKind.BROADCAST


def test_full_offer_to_ipxe_tells_it_not_to_wait_for_a_proxy() -> None:
    reply, _ = Desk.full().answer(ask(DISCOVER, more=IPXE))
    boot = f"{PXE_CLASS} 2b04060108ff {files(SCRIPT)} af03b00101"
    options = f"350102 3604c0000201 3d0701{MAC.hex()} {UUID_OPTION} {TIMES} {boot} {NETWORK} ff"
    assert reply.data == wire(options, yiaddr="192.0.2.100", siaddr=SERVER, file=SCRIPT, size=0)


def test_full_offer_to_uefi_http() -> None:
    reply, _ = Desk.full().answer(ask(DISCOVER, more=HTTP, flags=0x8000))
    options = f"350102 3604c0000201 {UUID_OPTION} {TIMES} {HTTP_CLASS} {files(URL)} {NETWORK} ff"
    assert reply.data == wire(options, flags=0x8000, yiaddr="192.0.2.100", siaddr=SERVER, file=URL, size=0)


def test_reservation_brings_its_host_name() -> None:
    mac = bytes.fromhex("525400aaaaaa")
    reply, _ = Desk.full().answer(ask(DISCOVER, mac=mac))
    options = f"350102 3604c0000201 {TIMES} {NETWORK} 0c056669786564 ff"
    assert reply.data == wire(options, mac=mac, yiaddr="192.0.2.10")


def test_nak_has_no_boot_and_no_lease() -> None:
    desk = Desk.full()
    packet = ask(REQUEST, more={50: address("198.51.100.7"), 61: b"\xff\x01", **UEFI}, ciaddr=0)
    reply, parsed = desk.answer(packet)
    text = b"this address is of another network"
    options = f"350106 3604c0000201 3d02ff01 {UUID_OPTION} 38{len(text):02x}{text.hex()} ff"
    assert reply.data == wire(options, size=300)
    assert reply.route.kind is RouteKind.BROADCAST
    assert parsed.message_name == "NAK"


# -- modes ----------------------------------------------------------------------------------------------------------


def test_proxy_is_silent_to_others() -> None:
    desk = Desk.proxy()
    for vendor, client in ((b"udhcp 1.35.0", "os"), (b"iDRAC", "bmc"), (b"MSFT 5.0", "os"), (b"CPQRIB3", "bmc")):
        ignored = desk.silence(ask(DISCOVER, more={60: vendor}))
        assert ignored.reason == "not a boot client"
        assert ignored.detail == vendor.decode()
        assert ignored.exchange is not None and ignored.exchange.client == client
    assert desk.silence(ask(Message.BOOTP)).reason == "not a boot client"


def test_proxy_learns_from_requests_to_the_other_server() -> None:
    more = {**UEFI, 50: address("192.0.2.77"), 54: address("192.0.2.2")}
    ignored = Desk.proxy().silence(ask(REQUEST, more=more))
    assert ignored.reason == "proxy mode gives no address"
    assert ignored.exchange is not None
    assert ignored.exchange.address_text == "192.0.2.77"
    assert ignored.exchange.data(ignored.reason)["server_id"] == "192.0.2.2"
    assert ignored.exchange.data(ignored.reason)["messages"] == ["REQUEST", "IGNORED"]


def test_proxy_has_nothing_for_some() -> None:
    for arch in (2, 22, 31, 400):
        more = {93: arch.to_bytes(2, "big"), 60: b"PXEClient:Arch:%05d:UNDI:003000" % arch}
        ignored = Desk.proxy().silence(ask(DISCOVER, more=more))
        assert (ignored.reason, ignored.detail) == ("no boot file for this architecture", str(arch))


@pytest.mark.parametrize(
    ("packet", "reason"),
    [
        (ask(DISCOVER, more=UEFI), "not a question for the PXE port"),
        (ask(REQUEST, more={60: b"HTTPClient:Arch:00016"}), "not a PXE client on the PXE port"),
        (ask(REQUEST), "not a PXE client on the PXE port"),
        (ask(REQUEST, more={**UEFI, 93: b"\x00\x02"}), "no boot file for this architecture"),
    ],
)
def test_pxe_port_is_for_pxe_clients(packet: Packet, reason: str) -> None:
    assert Desk.proxy().silence(packet, source=("192.0.2.9", 4011), port=4011, unicast=True).reason == reason


def test_off_is_silent() -> None:
    desk = Desk.full("subnets: [{subnet: 192.0.2.0/24, mode: off}]")
    assert desk.silence(ask(DISCOVER, more=UEFI)).reason == "subnet is off"


def test_an_unlisted_network_is_in_the_default_mode() -> None:
    desk = Desk.full("")
    assert desk.send(ask(DISCOVER, more=UEFI)).exchange.mode == "proxy"  # type: ignore[union-attr]
    assert Desk.full("dhcp: {default_mode: off}").silence(ask(DISCOVER, more=UEFI)).reason == "subnet is off"


def test_reservations_mode_serves_known_machines() -> None:
    text = """
subnets:
  - subnet: 192.0.2.0/24
    mode: reservations
    pools: [192.0.2.100-192.0.2.101]
    reservations: [{mac: "52:54:00:aa:aa:aa", address: 192.0.2.10}]
"""
    desk = Desk.full(text)
    assert desk.silence(ask(DISCOVER)).reason == "unknown machine"
    assert desk.silence(ask(INFORM, ciaddr=number("192.0.2.9"))).reason == "unknown machine"
    assert lease_of(desk, bytes.fromhex("525400aaaaaa")) == "192.0.2.10"
    desk.known.add("52:54:00:77:00:34")
    assert lease_of(desk) == "192.0.2.100"


# -- states of RFC 2131 ---------------------------------------------------------------------------------------------


def test_selecting_another_server_frees_the_offer() -> None:
    desk = Desk.full()
    desk.answer(ask(DISCOVER))
    ignored = desk.silence(ask(REQUEST, more={50: address("192.0.2.200"), 54: address("192.0.2.2")}))
    assert (ignored.reason, ignored.detail) == ("client chose another server", "192.0.2.2")
    assert [lease_of(desk, bytes([2, 0, 0, 0, 0, n])) for n in range(3)] == [
        "192.0.2.101",
        "192.0.2.103",
        "192.0.2.100",
    ]


def test_selecting_after_the_offer_ended_is_given_what_is_still_free() -> None:
    desk = Desk.full()
    desk.answer(ask(DISCOVER))
    desk.now += 3600
    _, ack = desk.answer(ask(REQUEST, more={50: address("192.0.2.100"), **OURS}))
    assert ack.message == Message.ACK
    _, nak = desk.answer(ask(REQUEST, mac=b"\x02\0\0\0\0\1", more={50: address("192.0.2.100"), **OURS}))
    assert nak.message == Message.NAK


def test_selecting_answers_to_each_of_our_addresses() -> None:
    desk = Desk.full()
    desk.interfaces["eth1"] = "198.51.100.1/24"
    desk.__post_init__()
    _, offer = desk.answer(ask(DISCOVER))
    more = {50: offer.yiaddr.to_bytes(4, "big"), 54: address("198.51.100.1")}
    assert desk.answer(ask(REQUEST, more=more))[1].message == Message.ACK


def init_reboot(desk: Desk, wanted: str, mac: bytes = MAC) -> Reply | Ignored:
    return desk.send(ask(REQUEST, mac=mac, more={50: address(wanted)}))


def test_init_reboot() -> None:
    desk = Desk.full()
    unknown = init_reboot(desk, "192.0.2.100")
    assert isinstance(unknown, Ignored) and unknown.reason == "unknown client reboots"
    assert lease_of(desk) == "192.0.2.100"
    known = init_reboot(desk, "192.0.2.100")
    assert isinstance(known, Reply) and known.exchange.reply == Message.ACK and known.change
    for wanted in ("192.0.2.101", "198.51.100.1"):
        other = init_reboot(desk, wanted)
        assert isinstance(other, Reply) and other.exchange.reply == Message.NAK


def test_init_reboot_of_unknown_clients_when_authoritative() -> None:
    desk = Desk.full("dhcp: {authoritative: true}\n" + ONE_POOL)
    reply = init_reboot(desk, "192.0.2.100")
    assert isinstance(reply, Reply) and reply.exchange.reply == Message.NAK


def test_renewing_goes_back_to_the_client_with_a_new_end() -> None:
    desk = Desk.full()
    lease_of(desk)
    desk.now += 1800
    packet = ask(REQUEST, ciaddr=number("192.0.2.100"))
    reply, ack = desk.answer(packet, source=("192.0.2.100", 68), unicast=True)
    assert (ack.message, ack.ciaddr, ack.yiaddr) == (Message.ACK, packet.ciaddr, packet.ciaddr)
    assert reply.route == (RouteKind.UNICAST, "192.0.2.100", 68, b"")
    assert reply.change is not None and reply.change.leases[0].expires_at == desk.now + 3600


def test_renewing_what_we_forgot_is_given_when_free_and_refused_when_not() -> None:
    desk = Desk.full()
    packet = ask(REQUEST, ciaddr=number("192.0.2.101"))
    assert desk.answer(packet, source=("192.0.2.101", 68), unicast=True)[1].message == Message.ACK
    packet = ask(REQUEST, mac=b"\x02\0\0\0\0\1", ciaddr=number("192.0.2.101"))
    assert desk.answer(packet, source=("192.0.2.101", 68), unicast=True)[1].message == Message.NAK


def test_rebinding_needs_our_own_record() -> None:
    desk = Desk.full()
    packet = ask(REQUEST, ciaddr=number("192.0.2.100"))
    assert desk.silence(packet).reason == "unknown client rebinds"
    lease_of(desk)
    assert desk.answer(packet)[1].message == Message.ACK


def test_rebinding_through_a_relay_is_not_renewing() -> None:
    desk = Desk.full(RELAYED)
    packet = ask(REQUEST, ciaddr=number("10.1.0.100"), giaddr=number("10.1.0.1"))
    assert desk.silence(packet, source=RELAY, unicast=True).reason == "unknown client rebinds"


def test_request_without_any_address() -> None:
    assert Desk.full().silence(ask(REQUEST)).reason == "request without an address"


def test_a_stale_ciaddr_is_not_believed() -> None:
    desk = Desk.full()
    reply, offer = desk.answer(ask(DISCOVER, ciaddr=number("203.0.113.9")))
    assert (offer.ciaddr, reply.route.kind) == (0, RouteKind.LINK)
    more = {50: offer.yiaddr.to_bytes(4, "big"), **OURS}
    reply, ack = desk.answer(ask(REQUEST, more=more, ciaddr=number("203.0.113.9")))
    assert (ack.ciaddr, reply.route.kind) == (0, RouteKind.LINK)


def test_release_keeps_the_address_for_the_same_machine() -> None:
    desk = Desk.full()
    lease_of(desk)
    stranger = ask(RELEASE, mac=b"\x02\0\0\0\0\1", more=OURS, ciaddr=number("192.0.2.100"))
    assert desk.silence(stranger, unicast=True).reason == "release of no lease"
    packet = ask(RELEASE, more=OURS, ciaddr=number("192.0.2.100"))
    released = desk.silence(packet, source=("192.0.2.100", 68), unicast=True)
    assert released.reason == "released" and released.change is not None
    assert released.change.leases[0].state is LeaseState.RELEASED
    assert desk.silence(packet, unicast=True).change is None
    assert lease_of(desk, b"\x02\0\0\0\0\2") == "192.0.2.101"
    assert lease_of(desk) == "192.0.2.100"


def test_decline_puts_the_address_into_quarantine() -> None:
    desk = Desk.full()
    lease_of(desk)
    wanted = {50: address("192.0.2.100")}
    assert desk.silence(ask(DECLINE, more=wanted)).change is None
    assert desk.silence(ask(DECLINE, mac=b"\x02\0\0\0\0\1", more={**wanted, **OURS})).reason == "decline of no lease"
    declined = desk.silence(ask(DECLINE, more={**wanted, **OURS}))
    assert declined.reason == "declined" and declined.change is not None
    assert declined.change.leases[0].expires_at == desk.now + 600
    assert lease_of(desk) == "192.0.2.101"
    assert lease_of(desk, b"\x02\0\0\0\0\1") == "192.0.2.103"
    assert desk.silence(ask(DISCOVER, mac=b"\x02\0\0\0\0\2")).reason == "pool exhausted"
    desk.now += 601
    assert lease_of(desk, b"\x02\0\0\0\0\2") == "192.0.2.100"


def test_inform_is_answered_without_a_lease() -> None:
    desk = Desk.full()
    reply, _ = desk.answer(ask(INFORM, ciaddr=number("192.0.2.9")), source=("192.0.2.9", 68))
    assert reply.data == wire(f"350105 3604c0000201 {NETWORK} ff", ciaddr="192.0.2.9")
    assert (reply.route.address, reply.change) == ("192.0.2.9", None)
    reply, _ = desk.answer(ask(INFORM), source=("192.0.2.8", 68))
    assert reply.route.address == "192.0.2.8"


def test_bootp_without_and_with_a_cookie() -> None:
    desk = Desk.full()
    old = ask(Message.BOOTP, has_cookie=False)
    reply, _ = desk.answer(old)
    assert reply.data == wire("", yiaddr="192.0.2.100").replace(b"\x63\x82\x53\x63", bytes(4))
    assert reply.change is not None and reply.change.leases[0].expires_at == desk.now + 86400
    reply, _ = desk.answer(ask(Message.BOOTP))
    assert reply.data == wire(f"{NETWORK} ff", yiaddr="192.0.2.100")


def test_pool_exhausted() -> None:
    desk = Desk.full()
    for n in range(3):
        lease_of(desk, bytes([2, 0, 0, 0, 0, n]))
    assert desk.silence(ask(DISCOVER)).reason == "pool exhausted"
    assert lease_of(desk, bytes.fromhex("525400bbbbbb")) == "192.0.2.102"


def test_a_shorter_lease_may_be_asked_for() -> None:
    desk = Desk.full()
    for asked, given in ((120, 120), (7200, 3600), (0xFFFFFFFF, 3600), (1, 60)):
        _, offer = desk.answer(ask(DISCOVER, more={51: asked.to_bytes(4, "big")}))
        assert (offer.number(51), offer.number(58), offer.number(59)) == (given, given // 2, given * 7 // 8)


# -- relays ---------------------------------------------------------------------------------------------------------

RELAYED = """
subnets:
  - {subnet: 192.0.2.0/24, mode: proxy}
  - subnet: 10.1.0.0/24
    mode: full
    pools: [10.1.0.100-10.1.0.110]
    server_address: 192.0.2.7
  - {subnet: 10.2.0.0/24, mode: full, pools: [10.2.0.100-10.2.0.110]}
"""
RELAY = ("10.1.0.1", 67)
AGENT = bytes.fromhex("0106000400110105 0204deadbeef")


def test_relayed_request_is_answered_to_the_relay_with_its_option_last() -> None:
    desk = Desk.full(RELAYED)
    reply, _ = desk.answer(ask(DISCOVER, more={82: AGENT}, giaddr=number("10.1.0.1"), hops=1), source=RELAY)
    network = "0104ffffff00 1c040a0100ff"
    options = f"350102 3604c0000207 {TIMES} {network} 520e {AGENT.hex()} ff"
    assert reply.data == wire(options, yiaddr="10.1.0.100", giaddr="10.1.0.1")
    assert reply.route == (RouteKind.RELAY, "10.1.0.1", 67, b"")
    assert reply.exchange.data()["circuit_id"] == "vlan 17 module 1 port 5"
    assert reply.exchange.data()["remote_id"] == "de:ad:be:ef"


def test_the_location_stays_on_the_lease_when_a_renewal_does_not_tell_it() -> None:
    desk = Desk.full(RELAYED)
    more = {50: address("10.1.0.100"), 54: address("192.0.2.7"), 82: AGENT, 12: b"host\0"}
    reply, _ = desk.answer(ask(REQUEST, more=more, giaddr=number("10.1.0.1")), source=RELAY)
    renewal = ask(REQUEST, ciaddr=number("10.1.0.100"))
    again, ack = desk.answer(renewal, source=("10.1.0.100", 68), unicast=True)
    assert ack.message == Message.ACK and again.change and reply.change
    assert again.change.leases[0][:9] == reply.change.leases[0][:9]
    assert again.change.leases[0].circuit_id == "vlan 17 module 1 port 5"
    assert again.change.leases[0].hostname == "host"
    # ISC's relay forwards a copy of what it also routed: answered alike, through the relay.
    copy, ack = desk.answer(
        ask(REQUEST, ciaddr=number("10.1.0.100"), more={82: AGENT}, giaddr=number("10.1.0.1")), source=RELAY
    )
    assert (ack.message, copy.route.kind) == (Message.ACK, RouteKind.RELAY)


def test_link_selection_chooses_the_network_and_not_the_way_back() -> None:
    desk = Desk.full(RELAYED)
    agent = bytes.fromhex("05040a020001")
    reply, offer = desk.answer(ask(DISCOVER, more={82: agent}, giaddr=number("10.1.0.1")), source=RELAY)
    assert offer.yiaddr == number("10.2.0.100")
    assert reply.route.address == "10.1.0.1"
    unknown = bytes.fromhex("0504cb007101")
    packet = ask(DISCOVER, more={82: unknown}, giaddr=number("10.1.0.1"))
    assert desk.silence(packet, source=RELAY).reason == "no subnet for this client"


def test_subnet_selection_is_honoured_and_returned() -> None:
    desk = Desk.full(RELAYED)
    _, offer = desk.answer(ask(DISCOVER, more={118: address("10.2.0.0")}))
    assert (offer.yiaddr, offer.options[118]) == (number("10.2.0.100"), address("10.2.0.0"))


def test_server_id_override_and_relay_port() -> None:
    desk = Desk.full(RELAYED)
    agent = bytes.fromhex("0b040a010001 1300")
    packet = ask(DISCOVER, more={82: agent}, giaddr=number("10.1.0.1"))
    reply, offer = desk.answer(packet, source=("10.1.0.1", 40000))
    assert offer.address(54) == number("10.1.0.1")
    assert reply.route == (RouteKind.RELAY, "10.1.0.1", 40000, b"")
    more = {82: agent, 50: address("10.1.0.100"), 54: address("10.1.0.1")}
    _, ack = desk.answer(ask(REQUEST, more=more, giaddr=number("10.1.0.1")), source=("10.1.0.1", 40000))
    assert ack.message == Message.ACK


def test_option_82_of_a_switch_without_giaddr() -> None:
    desk = Desk.full()
    reply, offer = desk.answer(ask(DISCOVER, more={82: AGENT}))
    assert offer.options[82] == AGENT
    assert list(offer.options)[-1] == 82
    assert reply.route.kind is RouteKind.LINK


def test_a_proxy_offer_through_a_relay_is_to_be_broadcast() -> None:
    reply, offer = Desk.proxy().answer(ask(DISCOVER, more=UEFI, giaddr=number("192.0.2.3")), source=("192.0.2.3", 67))
    assert (offer.yiaddr, offer.flags) == (0, 0x8000)
    assert reply.route == (RouteKind.RELAY, "192.0.2.3", 67, b"")


def test_nak_through_a_relay_is_to_be_broadcast() -> None:
    desk = Desk.full(RELAYED)
    packet = ask(REQUEST, more={50: address("192.0.2.9"), 82: AGENT}, giaddr=number("10.1.0.1"))
    reply, nak = desk.answer(packet, source=RELAY)
    assert (nak.message, nak.flags, nak.options[82]) == (Message.NAK, 0x8000, AGENT)
    assert reply.route.kind is RouteKind.RELAY


# -- size -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("announced", "limit"), [(None, 548), (100, 548), (576, 548), (1472, 1444), (65280, 1472)])
def test_replies_fit_the_client_and_never_lose_what_matters(announced: int | None, limit: int) -> None:
    desk = Desk.full()
    more = {**BIOS, 61: bytes(range(256)) * 6, 82: b"\x01\xc8" + b"x" * 200}
    more.pop(57)
    if announced is not None:
        more[57] = announced.to_bytes(2, "big")
    reply, offer = desk.answer(ask(DISCOVER, more=more))
    assert 300 <= len(reply.data) <= limit
    assert offer.options[82] == more[82]
    for code in (51, 53, 54, 67, 1, 3):
        assert code in offer.options


def test_an_option_82_that_leaves_no_room_is_left_out() -> None:
    _, offer = Desk.full().answer(ask(DISCOVER, more={82: b"\x01\xff" + b"x" * 255 + b"\x02\x20" + b"y" * 32}))
    assert 82 not in offer.options
    assert 51 in offer.options


# -- who is not answered --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("packet", "reason"),
    [
        (ask(DISCOVER, op=2), "not a client's message"),
        (ask(Message.OFFER), "not a client's message"),
        (ask(DISCOVER, hops=17), "too many hops"),
        (ask(DISCOVER, mac=bytes(6)), "neither hardware address nor client id"),
        (ask(DISCOVER, mac=b"\xff" * 6), "neither hardware address nor client id"),
        (ask(Message.LEASEQUERY, giaddr=number("192.0.2.3")), "message type not served"),
        (ask(77), "message type not served"),
        (ask(DISCOVER, giaddr=number("203.0.113.1")), "no subnet for this client"),
    ],
)
def test_ignored(packet: Packet, reason: str) -> None:
    assert Desk.full().silence(packet).reason == reason


# -- clients with habits of their own -------------------------------------------------------------------------------


def test_infiniband_is_known_by_its_client_id() -> None:
    desk = Desk.full()
    more = {61: bytes.fromhex("ff00000001000200")}
    packet = ask(DISCOVER, mac=b"", more=more, htype=32, flags=0x8000)
    reply, offer = desk.answer(packet)
    assert reply.route.kind is RouteKind.BROADCAST and reply.exchange.mac == ""
    more = {**more, 50: offer.yiaddr.to_bytes(4, "big"), **OURS}
    reply, _ = desk.answer(ask(REQUEST, mac=b"", more=more, htype=32, flags=0x8000))
    assert reply.change is not None
    assert (reply.change.leases[0].mac, reply.change.leases[0].client_id) == ("", "ff00000001000200")


def test_one_port_keeps_its_address_from_rom_to_installed_system() -> None:
    desk = Desk.full()
    ids: list[dict[int, bytes]] = [{}, {61: b"\x01" + MAC}, {61: bytes.fromhex("ff1234567800020000ab11")}]
    assert {lease_of(desk, more=more) for more in ids} == {"192.0.2.100"}


def test_slof_tells_its_architecture_only_in_the_request() -> None:
    desk = Desk.full()
    desk.files = (*BOOT_FILES, "core.elf")
    desk.__post_init__()
    _, offer = desk.answer(ask(DISCOVER, more={55: b"\x01"}))
    assert (offer.siaddr, offer.file) == (0, b"")
    more = {50: offer.yiaddr.to_bytes(4, "big"), **OURS, 93: b"\x00\x0c"}
    _, ack = desk.answer(ask(REQUEST, more=more))
    assert (ack.siaddr, ack.file, 60 in ack.options) == (number(SERVER), b"core.elf", False)


def test_u_boot_changes_its_class_in_the_middle() -> None:
    desk = Desk.full()
    _, offer = desk.answer(ask(DISCOVER, more={57: b"\x02\x40", 93: b"\x00\x16", 60: b"U-Boot.armv8"}))
    assert offer.file == b""
    more = {57: b"\x02\x40", 93: b"\x00\x0b", 60: b"PXEClient:Arch:00011:UNDI:003000", 97: UUID}
    reply, offer = desk.answer(ask(DISCOVER, more=more))
    assert (offer.file, offer.siaddr) == (b"ipxe-arm64.efi", number(SERVER))
    assert len(reply.data) <= 548


def test_the_same_mac_asks_by_pxe_and_then_by_http() -> None:
    desk = Desk.full()
    assert desk.answer(ask(DISCOVER, more=UEFI))[1].file == b"snponly.efi"
    assert desk.answer(ask(DISCOVER, more=HTTP))[1].file == URL


def test_shim_is_the_first_program_where_the_site_says_so() -> None:
    desk = Desk.full("boot: {uefi_loader: shim}\n" + ONE_POOL)
    assert desk.answer(ask(DISCOVER, more=UEFI))[1].file == b"shimx64.efi"
    assert desk.answer(ask(DISCOVER, more=BIOS))[1].file == b"undionly.kpxe"


def test_bytes_in_bytes_out() -> None:
    reply, _ = Desk.full().answer(build_packet(ask(DISCOVER)))
    assert reply.exchange.key == "os:67:39a8b0c2"
