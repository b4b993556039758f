"""How the machine started: BIOS or UEFI, Secure Boot, TPM."""

from __future__ import annotations

import re
from pathlib import Path

from metalbox.agent import sysfs

GLOBAL_VARIABLES = "8be4df61-93ca-11d2-aa0d-00e098032b8c"  # EFI_GLOBAL_VARIABLE (UEFI 2.10, 3.3)


def mode(root: Path, machine: str) -> str:
    """ "uefi", "bios", or "" for machines that have neither (arm64 boards started by U-Boot's own means)."""
    if (root / "sys/firmware/efi").is_dir():
        return "uefi"
    return "bios" if machine in ("x86_64", "i686", "i386") else ""


def secure_boot(root: Path) -> bool | None:
    """Whether the firmware enforces signatures; None where it cannot tell (BIOS, or efivarfs is not mounted)."""
    # efivarfs puts four bytes of attributes before the value; the older interface has the value in a file of its own.
    value = sysfs.content(root / f"sys/firmware/efi/efivars/SecureBoot-{GLOBAL_VARIABLES}")[4:]
    value = value or sysfs.content(root / f"sys/firmware/efi/vars/SecureBoot-{GLOBAL_VARIABLES}/data")
    return bool(value[0]) if value else None


def tpm(root: Path, smbios: str = "") -> str:
    """ "2.0", "1.2" or "". The driver knows best; without it, the ACPI tables (TPM2, TCPA) and SMBIOS do."""
    for device in sysfs.entries(root / "sys/class/tpm"):
        if major := sysfs.text(device / "tpm_version_major"):  # since Linux 5.6
            return {"2": "2.0", "1": "1.2"}.get(major, "")
        caps = sysfs.text(device / "caps") or sysfs.text(device / "device/caps")  # TPM 1.2 only
        if match := re.search(r"TCG version: (1\.2|2\.0)", caps):
            return match[1]
        if "TPM 2.0" in sysfs.text(device / "device/description"):
            return "2.0"
    if (root / "sys/firmware/acpi/tables/TPM2").exists():
        return "2.0"
    return smbios or ("1.2" if (root / "sys/firmware/acpi/tables/TCPA").exists() else "")
