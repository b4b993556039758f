from __future__ import annotations

import pytest

from metalbox.dhcp.bootfile import Firmware, Style, boot_answer, boot_item, boot_names, identify
from tests.dhcp.desk import BOOT_FILES, SERVER, ask, number

PROXY = Style(is_full=False, is_pxe10=False, is_pxe_port=False, no_proxy_wait=False)
FULL = Style(is_full=True, is_pxe10=False, is_pxe_port=False, no_proxy_wait=True)
FEATURES = "b105011af41000 eb03011501 170101 240101 140101"


def pxe(arch: int) -> bytes:
    return b"PXEClient:Arch:%05d:UNDI:003016" % arch


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, Firmware("os", None, b"")),
        ({60: b"MSFT 5.0"}, Firmware("os", None, b"")),
        ({60: b"iDRAC"}, Firmware("bmc", None, b"")),
        ({60: b"CPQRIB3"}, Firmware("bmc", None, b"")),
        ({60: pxe(0), 93: b"\0\0"}, Firmware("bios", 0, b"PXEClient")),
        ({60: pxe(7), 93: b"\0\7"}, Firmware("uefi", 7, b"PXEClient")),
        ({60: pxe(7)}, Firmware("uefi", 7, b"PXEClient")),
        ({60: pxe(7), 93: b"\0"}, Firmware("uefi", 7, b"PXEClient")),
        ({60: b"PXEClient"}, Firmware("bios", 0, b"PXEClient")),
        ({60: b"PXEClient:Arch:x"}, Firmware("bios", 0, b"PXEClient")),
        ({60: pxe(2), 93: b"\0\2\0\7"}, Firmware("uefi", 7, b"PXEClient")),
        ({60: pxe(16), 93: b"\0\x10"}, Firmware("http", 16, b"PXEClient")),
        ({60: b"HTTPClient:Arch:00016:UNDI:003000", 93: b"\0\x10"}, Firmware("http", 16, b"HTTPClient")),
        ({60: b"HTTPClient:Arch:00019"}, Firmware("http", 19, b"HTTPClient")),
        ({93: b"\0\x1f"}, Firmware("loader", 31, b"")),
        ({60: b"U-Boot.armv8", 93: b"\0\x16"}, Firmware("loader", 22, b"")),
        ({60: b"U-Boot"}, Firmware("loader", None, b"")),
        ({60: pxe(22), 93: b"\0\x16"}, Firmware("loader", 22, b"PXEClient")),
        ({60: pxe(0), 93: b"\0\0", 77: b"iPXE"}, Firmware("ipxe", 0, b"PXEClient")),
        ({60: pxe(0), 93: b"\0\0", 77: b"\x04iPXE"}, Firmware("ipxe", 0, b"PXEClient")),
        ({60: pxe(0), 93: b"\0\0", 77: b"gPXE"}, Firmware("bios", 0, b"PXEClient")),
        (
            {60: pxe(7), 93: b"\0\7", 175: bytes.fromhex(FEATURES + "130101"), 77: b"Tinkerbell"},
            Firmware("ipxe", 7, b"PXEClient"),
        ),
        # A network card's iPXE that cannot speak HTTP is made to load ours.
        ({60: pxe(7), 93: b"\0\7", 175: bytes.fromhex(FEATURES), 77: b"iPXE"}, Firmware("uefi", 7, b"PXEClient")),
        ({60: pxe(7), 93: b"\0\7", 175: b"\xeb\x03\x01\x15\x01"}, Firmware("ipxe", 7, b"PXEClient")),
        ({175: b""}, Firmware("ipxe", None, b"")),
    ],
)
def test_identify(options: dict[int, bytes], expected: Firmware) -> None:
    assert identify(ask(1, more=options)) == expected


def test_a_raspberry_pi_is_no_bios() -> None:
    packet = ask(1, mac=bytes.fromhex("b827eb000001"), more={60: pxe(0), 93: b"\0\0"})
    assert identify(packet) == Firmware("loader", 41, b"PXEClient")


def test_who_understands_a_proxy() -> None:
    assert identify(ask(1, more={60: pxe(7)})).boots
    assert identify(ask(1, more={175: b""})).boots
    assert not identify(ask(1, more={93: b"\0\x1f"})).boots
    assert not identify(ask(1)).boots


def test_boot_names_are_of_files_that_exist() -> None:
    assert boot_names(BOOT_FILES, "ipxe") == {
        0: "undionly.kpxe",
        6: "ipxe-i386.efi",
        7: "snponly.efi",
        9: "snponly.efi",
        11: "ipxe-arm64.efi",
    }
    assert boot_names({"ipxe.efi"}, "ipxe") == {7: "ipxe.efi", 9: "ipxe.efi"}
    assert boot_names(BOOT_FILES, "shim") == {
        0: "undionly.kpxe",
        6: "ipxe-i386.efi",
        7: "shimx64.efi",
        9: "shimx64.efi",
    }


@pytest.mark.parametrize(
    ("firmware", "name"),
    [
        (Firmware("bios", 0, b"PXEClient"), "undionly.kpxe"),
        (Firmware("uefi", 6, b"PXEClient"), "ipxe-i386.efi"),
        (Firmware("uefi", 7, b"PXEClient"), "snponly.efi"),
        (Firmware("uefi", 9, b"PXEClient"), "snponly.efi"),
        (Firmware("uefi", 11, b"PXEClient"), "ipxe-arm64.efi"),
        (Firmware("http", 15, b"HTTPClient"), "http://192.0.2.1:8080/boot/ipxe-i386.efi"),
        (Firmware("http", 16, b"HTTPClient"), "http://192.0.2.1:8080/boot/snponly.efi"),
        (Firmware("http", 17, b"HTTPClient"), "http://192.0.2.1:8080/boot/snponly.efi"),
        (Firmware("http", 19, b"HTTPClient"), "http://192.0.2.1:8080/boot/ipxe-arm64.efi"),
        (Firmware("ipxe", 0, b"PXEClient"), "http://192.0.2.1:8080/ipxe/first.ipxe"),
        (Firmware("ipxe", None, b""), "http://192.0.2.1:8080/ipxe/first.ipxe"),
        (Firmware("http", None, b"HTTPClient"), None),
        (Firmware("http", 18, b"HTTPClient"), None),
        (Firmware("uefi", 27, b"PXEClient"), None),
        (Firmware("loader", 22, b""), None),
        (Firmware("loader", None, b""), None),
    ],
)
def test_boot_file_by_architecture(firmware: Firmware, name: str | None) -> None:
    answer = boot_answer(firmware, PROXY, number(SERVER), 8080, boot_names(BOOT_FILES, "ipxe"))
    assert (answer.name if answer else None) == name
    if answer and name:
        assert answer.file == name.encode()
        assert answer.siaddr == number(SERVER)


def test_a_name_that_does_not_fit_the_header_is_none() -> None:
    firmware = Firmware("uefi", 7, b"PXEClient")
    assert boot_answer(firmware, PROXY, number(SERVER), 8080, {7: "x" * 127}) is not None
    assert boot_answer(firmware, PROXY, number(SERVER), 8080, {7: "x" * 128}) is None


@pytest.mark.parametrize(
    ("firmware", "style", "has_43"),
    [
        (Firmware("bios", 0, b"PXEClient"), PROXY, True),
        (Firmware("uefi", 7, b"PXEClient"), PROXY, False),
        (Firmware("uefi", 7, b"PXEClient"), PROXY._replace(is_pxe10=True), True),
        (Firmware("ipxe", 7, b"PXEClient"), PROXY, True),
        (Firmware("uefi", 7, b"PXEClient"), FULL, True),
        (Firmware("bios", 0, b"PXEClient"), FULL, True),
        (Firmware("bios", 0, b"PXEClient"), PROXY._replace(is_pxe_port=True), False),
        (Firmware("uefi", 7, b"PXEClient"), FULL._replace(is_pxe_port=True), False),
        (Firmware("http", 16, b"HTTPClient"), FULL, False),
        (Firmware("ipxe", None, b""), FULL, False),
    ],
)
def test_who_is_told_to_boot_at_once(firmware: Firmware, style: Style, has_43: bool) -> None:
    answer = boot_answer(firmware, style, number(SERVER), 8080, boot_names(BOOT_FILES, "ipxe"))
    assert answer is not None
    assert (bytes.fromhex("2b04060108ff") in answer.options) is has_43


def test_boot_item() -> None:
    assert boot_item(ask(3, more={43: bytes.fromhex("470480000000ff")})) == bytes.fromhex("2b07470480000000ff")
    assert boot_item(ask(3, more={43: bytes.fromhex("060108ff")})) == b""
    assert boot_item(ask(3)) == b""
