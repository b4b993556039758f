"""Which firmware asks, and what it is told to load: options 60, 77, 93 and 175 in; 43, 60, 66, 67 and header out.

Decided by the class of firmware alone, never by what the machine is to become: all roads lead to iPXE, and iPXE to the
first script, where the machine introduces itself.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import NamedTuple

from metalbox.dhcp import options
from metalbox.dhcp.packet import Packet, address_text, encode_option
from metalbox.dhcp.relay import sub_options

BIOS = 0
# Raspberry Pi ROMs say architecture 0 (BIOS) although they can run nothing of it; this is the number meant for them.
RPIBOOT = 41
RASPBERRY_PI_3 = b"\xb8\x27\xeb"

# Registry "Processor Architecture Types": those that load by HTTP, and their twins that load by TFTP.
HTTP_TWINS = {15: 6, 16: 7, 17: 9, 18: 10, 19: 11, 20: 0, 23: 21, 24: 22, 26: 25, 28: 27, 30: 29, 38: 37, 40: 39}
UEFI = frozenset({2, 6, 7, 8, 9, 10, 11, 25, 27, 29, 33, 34, 35, 36, 37, 39})

# Architecture 9 is EBC in the registry, but RFC 4578 as printed had x64 there, and some firmware follows it.
_X64 = ("snponly.efi", "ipxe.efi")
BOOT_FILES: dict[int, tuple[str, ...]] = {
    0: ("undionly.kpxe",),
    6: ("ipxe-i386.efi",),
    7: _X64,
    9: _X64,
    10: ("ipxe-arm32.efi",),
    11: ("ipxe-arm64.efi",),
    12: ("core.elf",),
    27: ("ipxe-riscv64.efi",),
    39: ("ipxe-loong64.efi",),
}
# With Secure Boot only a signed first program runs; falling back to iPXE would end in a violation on the screen.
SHIM_FILES: dict[int, tuple[str, ...]] = {7: ("shimx64.efi",), 9: ("shimx64.efi",), 11: ("shimaa64.efi",)}

# Vendor classes of management processors: iDRAC (Dell), CPQRIB3 (HPE iLO).
BMC_CLASSES = (b"iDRAC", b"CPQRIB")

PXE_CLASS = b"PXEClient"
HTTP_CLASS = b"HTTPClient"
# Option 43, sub-option 6 (discovery control) bit 3: there is a boot file in this offer, just load it.
BOOT_AT_ONCE = encode_option(options.VENDOR, b"\x06\x01\x08\xff")
# Option 175, sub-option 176 (no-pxedhcp): do not wait 2 s for a proxyDHCP server.
NO_PROXY_WAIT = encode_option(options.IPXE, b"\xb0\x01\x01")
IPXE_HTTP = 0x13
BOOT_ITEM = 71
# The header's field has 128 bytes with a NUL.
MAX_FILE = 127


class Firmware(NamedTuple):
    """Who asks. `client` is bios, uefi, http, ipxe, loader (U-Boot, SLOF, s390, petitboot), bmc or os.

    `vendor_class` is what option 60 of the reply must say: PXEClient, HTTPClient or nothing.
    """

    client: str
    arch: int | None
    vendor_class: bytes

    @property
    def boots(self) -> bool:
        """Whether it understands a proxy's offer."""
        return bool(self.vendor_class) or self.client == "ipxe"


class BootAnswer(NamedTuple):
    """What a boot client is told. `options` are encoded, most important first."""

    name: str
    siaddr: int
    sname: bytes
    file: bytes
    options: bytes


class Style(NamedTuple):
    """What the place of the question changes: we give the address too; a UEFI proxy offer names its file for good
    (`is_pxe10`); the question came to the PXE port; iPXE need not wait for a proxy."""

    is_full: bool
    is_pxe10: bool
    is_pxe_port: bool
    no_proxy_wait: bool


OPERATING_SYSTEM = Firmware("os", None, b"")
_TELLTALES = frozenset({options.VENDOR_CLASS, options.USER_CLASS, options.ARCHITECTURE, options.IPXE})


def boot_names(boot_files: Collection[str], uefi_loader: str) -> Mapping[int, str]:
    """For each client architecture the first of its boot files that exists."""
    wanted = {**BOOT_FILES, **SHIM_FILES} if uefi_loader == "shim" else BOOT_FILES
    names = {}
    for arch, candidates in wanted.items():
        name = next((name for name in candidates if name in boot_files), None)
        if name:
            names[arch] = name
    return names


def identify(packet: Packet) -> Firmware:
    """Tell the firmware by user class and option 175, then vendor class, then architecture."""
    given = packet.options
    if _TELLTALES.isdisjoint(given):
        return OPERATING_SYSTEM
    vendor = given.get(options.VENDOR_CLASS, b"")
    arch = _architecture(packet, vendor)
    vendor_class = PXE_CLASS if vendor.startswith(PXE_CLASS) else HTTP_CLASS if vendor.startswith(HTTP_CLASS) else b""
    if _is_ipxe(given):
        return Firmware("ipxe", arch, vendor_class)
    if vendor_class == HTTP_CLASS or arch in HTTP_TWINS:
        return Firmware("http", arch, vendor_class)
    if vendor_class:
        # Old ROMs leave option 93 out.
        arch = BIOS if arch is None else arch
        return Firmware("bios" if arch == BIOS else "uefi" if arch in UEFI else "loader", arch, vendor_class)
    if arch is not None or vendor.startswith(b"U-Boot"):
        return Firmware("loader", arch, b"")
    return Firmware("bmc", None, b"") if vendor.startswith(BMC_CLASSES) else OPERATING_SYSTEM


def _architecture(packet: Packet, vendor: bytes) -> int | None:
    """The first of option 93's numbers that has a boot file somewhere, else its first; without it, option 60's."""
    data = packet.options.get(options.ARCHITECTURE, b"")
    if len(data) >= 2:
        numbers = [data[at] << 8 | data[at + 1] for at in range(0, len(data) - 1, 2)]
        arch = next((number for number in numbers if HTTP_TWINS.get(number, number) in BOOT_FILES), numbers[0])
    else:
        # PXEClient:Arch:00007:UNDI:003016
        _, found, rest = vendor.partition(b":Arch:")
        if not found or not rest[:5].isdigit():
            return None
        arch = int(rest[:5])
    if arch == BIOS and packet.chaddr.startswith(RASPBERRY_PI_3):
        return RPIBOOT
    return arch


def _is_ipxe(given: Mapping[int, bytes]) -> bool:
    """Whether iPXE asks that can load our script: one whose option 175 lists features, but not HTTP, cannot."""
    features = given.get(options.IPXE)
    if features is not None:
        listed = sub_options(features)
        return IPXE_HTTP in listed or not any(0x10 <= code <= 0x2F for code in listed)
    user_class = given.get(options.USER_CLASS, b"")
    # iPXE sends the bare text; RFC 3004 would have a length before it.
    return user_class == b"iPXE" or user_class.startswith(b"\x04iPXE")


def boot_answer(
    firmware: Firmware, style: Style, server: int, http_port: int, names: Mapping[int, str]
) -> BootAnswer | None:
    """What this firmware is told to load from `server`; None when there is nothing for it."""
    client, arch, vendor_class = firmware
    address = address_text(server)
    if client == "ipxe":
        name = f"http://{address}:{http_port}/ipxe/first.ipxe"
    else:
        if arch is None:
            return None
        file = names.get(HTTP_TWINS.get(arch, arch))
        if file is None:
            return None
        name = f"http://{address}:{http_port}/boot/{file}" if client == "http" else file
    encoded = name.encode()
    if len(encoded) > MAX_FILE:
        return None
    # "PXE ROMs have bugs" (dnsmasq) with an unterminated name; EDK2 adds its own NUL, iPXE shows ours in ${filename}.
    end = b"\0" if client == "bios" else b""
    parts = []
    if vendor_class:
        parts.append(encode_option(options.VENDOR_CLASS, vendor_class))
    if vendor_class == HTTP_CLASS:
        # GRUB compares the value as a C string inside of the packet: it needs a NUL, here a PAD, behind it.
        parts.append(b"\0")
    if vendor_class == PXE_CLASS and _boots_at_once(client, style):
        parts.append(BOOT_AT_ONCE)
    parts.append(encode_option(options.BOOT_FILE, encoded + end))
    parts.append(encode_option(options.TFTP_SERVER, address.encode() + end))
    if client == "ipxe" and style.no_proxy_wait:
        parts.append(NO_PROXY_WAIT)
    # sname is for loaders by TFTP: GRUB takes it for a TFTP server even when `file` is a URL.
    sname = b"" if name.startswith("http:") else address.encode()
    return BootAnswer(name, server, sname, encoded, b"".join(parts))


def _boots_at_once(client: str, style: Style) -> bool:
    """Whether to send option 43, which spares the question to the PXE port.

    A proxy's offer to UEFI has it only on demand: some makers' firmware ignores offers that bypass the PXE port. A full
    server's always has it: with option 60 and without 43, EDK2 would ask the PXE port first, one second more.
    """
    if style.is_pxe_port:
        return False
    return style.is_full or style.is_pxe10 or client != "uefi"


def boot_item(packet: Packet) -> bytes:
    """Option 43 that repeats the boot item (43.71) which a ROM asks for, encoded; empty when it asks for none."""
    item = sub_options(packet.options.get(options.VENDOR, b"")).get(BOOT_ITEM)
    if item is None:
        return b""
    return encode_option(options.VENDOR, encode_option(BOOT_ITEM, item) + b"\xff")
