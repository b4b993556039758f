"""files: what firmware asks for, what it means, and that nothing else can be had."""

from __future__ import annotations

from pathlib import Path

import pytest

from metalbox.config import Boot
from metalbox.files import AGENT_NAMES, BOOT_FILES, BootFiles, ServedFile, normalise

MAC = "52:54:00:ab:cd:ef"


@pytest.mark.parametrize(
    ("asked", "plain"),
    [
        ("snponly.efi", "snponly.efi"),
        ("/snponly.efi", "snponly.efi"),
        ("//snponly.efi", "snponly.efi"),
        ("./snponly.efi", "snponly.efi"),
        ("\\snponly.efi", "snponly.efi"),
        ("\\\\snponly.efi", "snponly.efi"),
        ("C:\\snponly.efi", "snponly.efi"),
        ("c:/snponly.efi", "snponly.efi"),
        ("SNPONLY.EFI", "snponly.efi"),
        ("snponly.efi\xff", "snponly.efi"),
        ("snponly.efi\xff\xff\xfe", "snponly.efi"),
        ("snponly.efi\0junk", "snponly.efi"),
        ("snponly.efi \r\n", "snponly.efi"),
        ("/var/lib/tftpboot/snponly.efi", "snponly.efi"),
        ("/tftpboot/snponly.efi", "snponly.efi"),
        ("/srv/tftp//snponly.efi", "snponly.efi"),
        ("52-54-00-ab-cd-ef/snponly.efi", "snponly.efi"),
        (f"/{MAC.upper()}/snponly.efi", "snponly.efi"),
        ("01-52-54-00-AB-CD-EF/snponly.efi", "snponly.efi"),
        ("525400abcdef/snponly.efi", "snponly.efi"),
        ("4c4c4544-0042-3510-8054-b7c04f333732/snponly.efi", "snponly.efi"),
        ("1ab2c3d4/bootcode.bin", "bootcode.bin"),
        ("Boot\\BCD", "boot/bcd"),
        ("agent/x86_64/vmlinuz", "agent/x86_64/vmlinuz"),
        ("/grub/x86_64-efi/command.lst", "grub/x86_64-efi/command.lst"),
        ("pxelinux.cfg/01-52-54-00-ab-cd-ef", "pxelinux.cfg/01-52-54-00-ab-cd-ef"),
        ("%2e%2e/snponly.efi", "%2e%2e/snponly.efi"),
        ("a..b", "a..b"),
        ("...", "..."),
        ("x" * 255, "x" * 255),
        ("../snponly.efi", None),
        ("/../../etc/passwd", None),
        ("..\\..\\etc\\passwd", None),
        ("boot/../../etc/passwd", None),
        ("C:..\\boot.ini", None),
        ("..", None),
        ("", None),
        ("/", None),
        ("\\", None),
        (".", None),
        ("C:", None),
        ("C:\\", None),
        ("\0", None),
        ("\xff", None),
        ("\xffsnponly.efi", None),
        ("snp\xe9only.efi", None),
        ("snp\nonly.efi", None),
        ("snp\x1b[2Jonly.efi", None),
        ("x" * 256, None),
    ],
)
def test_names(asked: str, plain: str | None) -> None:
    assert normalise(asked) == plain
    assert BootFiles.normalise(asked) == plain


@pytest.fixture
def boot(tmp_path: Path) -> Boot:
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    second.mkdir()
    (first / "snponly.efi").write_bytes(b"first")
    (second / "snponly.efi").write_bytes(b"second")
    (second / "undionly.kpxe").write_bytes(b"bios")
    (second / "ipxe-amd64.efi").write_bytes(b"debian's name")
    (second / "shimx64.efi.signed").write_bytes(b"shim")
    (second / "grubnetx64.efi.signed").write_bytes(b"grub")
    (second / "secret.txt").write_bytes(b"secret")
    (tmp_path / "agent" / "x86_64").mkdir(parents=True)
    (tmp_path / "agent" / "x86_64" / "vmlinuz").write_bytes(b"kernel")
    (tmp_path / "agent" / "x86_64" / "manifest.json").write_bytes(b"{}")
    return Boot(files=(first, second, tmp_path / "missing"), agent=tmp_path / "agent")


def read(files: BootFiles, name: str) -> bytes | None:
    path = files.path(name)
    return path.read_bytes() if path else None


def test_the_folders_are_searched_in_their_order_and_under_the_names_of_debian(boot: Boot) -> None:
    files = BootFiles(boot)
    assert read(files, "snponly.efi") == b"first"
    assert read(files, "\\UNDIONLY.KPXE\xff") == b"bios"
    assert read(files, "undionly.kpxe.0") == b"bios"
    assert read(files, "ipxe.efi") == b"debian's name"
    assert read(files, "/shimx64.efi") == b"shim"
    assert read(files, "grubx64.efi") == b"grub"
    assert read(files, "agent/x86_64/vmlinuz") == b"kernel"


@pytest.mark.parametrize(
    "name",
    ["secret.txt", "shimx64.efi.signed", "agent/x86_64/manifest.json", "agent/x86_64/initrd", "agent/arm64/vmlinuz",
     "agent", "agent/x86_64", "mmx64.efi", "first/snponly.efi", "../second/secret.txt", "vmlinuz", "x" * 300],
)  # fmt: skip
def test_what_the_table_does_not_know_is_not_there(boot: Boot, name: str) -> None:
    assert BootFiles(boot).path(name) is None
    assert BootFiles(boot).find(name, "192.0.2.9") is None


def test_available(boot: Boot) -> None:
    expected = {"snponly.efi", "undionly.kpxe", "ipxe.efi", "shimx64.efi", "grubx64.efi", "bootx64.efi"}
    assert BootFiles(boot).available() == expected | {"agent/x86_64/vmlinuz"}


def test_the_default_loader_is_our_first_program(boot: Boot) -> None:
    assert read(BootFiles(boot), "EFI/BOOT/BOOTX64.EFI") is None
    assert read(BootFiles(boot), "bootx64.efi") == b"first"
    shim = Boot(files=boot.files, agent=boot.agent, uefi_loader="shim")
    assert read(BootFiles(shim), "BOOTX64.EFI") == b"shim"
    (boot.files[0] / "bootx64.efi").write_bytes(b"the site's own")
    assert read(BootFiles(boot), "bootx64.efi") == b"the site's own"


def test_a_symbolic_link_of_the_administrator_is_followed(boot: Boot, tmp_path: Path) -> None:
    """Debian's /usr/lib/ipxe/ipxe.efi is a link to /boot/ipxe.efi. No name from the wire can make or choose one."""
    (tmp_path / "elsewhere.efi").write_bytes(b"elsewhere")
    (boot.files[0] / "ipxe.efi").symlink_to(tmp_path / "elsewhere.efi")
    assert read(BootFiles(boot), "ipxe.efi") == b"elsewhere"


def test_what_is_no_regular_file_is_not_there(boot: Boot) -> None:
    (boot.files[0] / "mmx64.efi").symlink_to("nowhere")
    (boot.files[0] / "mmaa64.efi").mkdir()
    (boot.files[0] / "grubaa64.efi").symlink_to("/dev/zero")
    files = BootFiles(boot)
    assert [files.path(n) for n in ("mmx64.efi", "mmaa64.efi", "grubaa64.efi")] == [None] * 3


def test_a_rendered_file_comes_first_and_knows_its_client(boot: Boot) -> None:
    asked = []

    def render(name: str, client: str) -> bytes | None:
        asked.append((name, client))
        return f"for {client}".encode() if name == "grub/grub.cfg" else None

    files = BootFiles(boot, render)
    assert files.find("/grub/grub.cfg", "192.0.2.9") == ServedFile("grub/grub.cfg", data=b"for 192.0.2.9")
    assert files.find("snponly.efi", "192.0.2.9") == ServedFile("snponly.efi", boot.files[0] / "snponly.efi")
    assert files.find("../grub/grub.cfg", "192.0.2.9") is None
    assert asked == [("grub/grub.cfg", "192.0.2.9"), ("snponly.efi", "192.0.2.9")]


def test_all_known_names_are_plain() -> None:
    for name in [*BOOT_FILES, *AGENT_NAMES]:
        assert normalise(name) == name
