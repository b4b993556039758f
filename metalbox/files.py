"""The virtual root of TFTP and HTTP: which names exist, and which file on this host each of them is.

What comes from the wire is never joined to a path. It is cleaned (`normalise`) and looked up in a table of known
names; only what the table says is searched in the configured folders. So nothing outside can be named, and a symbolic
link is followed: Debian's own /usr/lib/ipxe/ipxe.efi is one to /boot, and only an administrator can place them.
"""

from __future__ import annotations

import re
import stat
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from metalbox.config import Boot

MAX_NAME = 255

# Each boot binary by the name we use on the wire, and the names it has in Debian's packages (ipxe, shim-signed,
# grub-efi-amd64-signed, ...) and in iPXE's releases. shim derives its second stage's name by itself.
BOOT_FILES: Mapping[str, tuple[str, ...]] = {
    "undionly.kpxe": ("undionly.kpxe",),
    "undionly.kkpxe": ("undionly.kkpxe",),
    "ipxe.pxe": ("ipxe.pxe",),
    "ipxe.lkrn": ("ipxe.lkrn",),
    "ipxe.efi": ("ipxe.efi", "ipxe-amd64.efi", "ipxe-x86_64.efi"),
    "snponly.efi": ("snponly.efi", "snponly-amd64.efi", "snponly-x86_64.efi"),
    "ipxe-i386.efi": ("ipxe-i386.efi", "ipxe-ia32.efi"),
    "snponly-i386.efi": ("snponly-i386.efi", "snponly-ia32.efi"),
    "ipxe-arm64.efi": ("ipxe-arm64.efi", "ipxe-aarch64.efi"),
    "snponly-arm64.efi": ("snponly-arm64.efi", "snponly-aarch64.efi"),
    "shimx64.efi": ("shimx64.efi", "shimx64.efi.signed"),
    "shimaa64.efi": ("shimaa64.efi", "shimaa64.efi.signed"),
    "shimia32.efi": ("shimia32.efi", "shimia32.efi.signed"),
    "grubx64.efi": ("grubx64.efi", "grubnetx64.efi.signed"),
    "grubaa64.efi": ("grubaa64.efi", "grubnetaa64.efi.signed"),
    "grubia32.efi": ("grubia32.efi", "grubnetia32.efi.signed"),
    "mmx64.efi": ("mmx64.efi", "mmx64.efi.signed"),
    "mmaa64.efi": ("mmaa64.efi", "mmaa64.efi.signed"),
    "mmia32.efi": ("mmia32.efi", "mmia32.efi.signed"),
}
# The names of removable media, which some DHCP servers and firmware give by default, mean our first program.
DEFAULT_LOADERS: Mapping[str, Mapping[str, str]] = {
    "ipxe": {
        "bootx64.efi": "snponly.efi",
        "bootaa64.efi": "snponly-arm64.efi",
        "bootia32.efi": "ipxe-i386.efi",
    },
    "shim": {"bootx64.efi": "shimx64.efi", "bootaa64.efi": "shimaa64.efi", "bootia32.efi": "shimia32.efi"},
}
# A ROM that went through a PXE boot menu appends the layer it wants, which is the first, to the name (PXE 2.1 §2.2).
LAYER_SUFFIX = ".0"
AGENT_ARCHITECTURES = ("x86_64", "arm64")
AGENT_FILES = ("vmlinuz", "initrd")
AGENT_NAMES = frozenset(f"agent/{arch}/{name}" for arch in AGENT_ARCHITECTURES for name in AGENT_FILES)

# Roots of other TFTP servers: DHCP servers that were set up for those still say them.
FOREIGN_ROOTS = ("var/lib/tftpboot/", "var/lib/tftp/", "var/tftpboot/", "srv/tftp/", "tftpboot/", "tftp/")
# A folder for one machine: MAC with any separator or none, also with the hardware type before it as pxelinux writes
# it; UUID; the serial number of a Raspberry Pi.
_MACHINE = re.compile(
    r"^(?:(?:01-)?[0-9a-f]{2}(?:[-:][0-9a-f]{2}){5}|[0-9a-f]{12}|[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}|[0-9a-f]{8})/"
)
_DRIVE = re.compile(r"^[a-z]:")


@dataclass(frozen=True, slots=True)
class ServedFile:
    """One file to be sent under `name`: either at `path`, or `data` when it was made for this client."""

    name: str
    path: Path | None = None
    data: bytes = b""


# Called with a normalised name and the client's address; None when it does not make such a file.
Render = Callable[[str, str], bytes | None]


# A rack asks for the same names; what strangers make up pushes out the oldest.
@lru_cache(maxsize=1024)
def normalise(name: str) -> str | None:
    """The plain name behind what firmware asks for, in lower case; None when it is none that we would ever serve.

    `name` has one character for each byte on the wire. Firmware sends `/x`, `//x`, `\\x`, `C:\\x`, the root of the
    server it was once installed for, a folder for each machine, capital letters, and junk behind the name: some ROMs
    take the END option (0xFF) of an unterminated option 67 with them.
    """
    name = name.split("\0", 1)[0]
    while name and (name[-1] >= "\x7f" or name[-1] <= " "):
        name = name[:-1]
    if not name or len(name) > MAX_NAME or any(not " " <= c <= "~" for c in name):
        return None
    name = _DRIVE.sub("", name.lower()).replace("\\", "/")
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if ".." in parts:
        return None
    name = "/".join(parts)
    for root in FOREIGN_ROOTS:
        if name.startswith(root):
            name = name[len(root) :]
            break
    return _MACHINE.sub("", name) or None


class BootFiles:
    """The boot binaries, the agent and, when `render` is given, files made on request."""

    def __init__(self, settings: Boot, render: Render | None = None) -> None:
        self._folders = settings.files
        self._agent = settings.agent
        self._render = render
        self._loaders = DEFAULT_LOADERS[settings.uefi_loader]
        # Where a known name may be, in the order of search.
        self._places: dict[str, tuple[Path, ...]] = {}

    normalise = staticmethod(normalise)

    def path(self, name: str) -> Path | None:
        """Where the file is that firmware asks for by this name; None when it is unknown or not there."""
        plain = normalise(name)
        return self._path(plain) if plain is not None else None

    def find(self, name: str, client: str = "") -> ServedFile | None:
        """The file for this client, a rendered one before one on disk. `client` is an address."""
        plain = normalise(name)
        if plain is None:
            return None
        if self._render is not None and (data := self._render(plain, client)) is not None:
            return ServedFile(plain, data=data)
        path = self._path(plain)
        return ServedFile(plain, path) if path is not None else None

    def available(self) -> frozenset[str]:
        """The known names whose file is there now. Asks the disk some 60 times: about half a millisecond."""
        names = [*BOOT_FILES, *self._loaders, *AGENT_NAMES]
        return frozenset(name for name in names if self._path(name) is not None)

    def _path(self, plain: str) -> Path | None:
        if plain in AGENT_NAMES:
            return _regular(self._agent / plain.removeprefix("agent/"))
        if plain.endswith(".kpxe" + LAYER_SUFFIX):
            plain = plain.removesuffix(LAYER_SUFFIX)
        alias = self._loaders.get(plain)
        names = (plain, *BOOT_FILES[alias]) if alias else BOOT_FILES.get(plain)
        if names is None:
            return None
        places = self._places.get(plain)
        if places is None:
            places = self._places[plain] = tuple(folder / name for folder in self._folders for name in names)
        return next((path for path in places if _regular(path) is not None), None)


def _regular(path: Path) -> Path | None:
    try:
        return path if stat.S_ISREG(path.stat().st_mode) else None
    except OSError:
        return None
