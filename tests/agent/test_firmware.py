"""BIOS or UEFI, Secure Boot and TPM, by each way that kernels have shown them."""

from __future__ import annotations

from pathlib import Path

import pytest

from metalbox.agent import firmware
from tests.agent.snapshots import write

VARIABLE = "SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c"
VARIABLES = "sys/firmware/efi/efivars"


@pytest.mark.parametrize(
    ("files", "machine", "mode", "secure"),
    [
        ({"sys/x": ""}, "x86_64", "bios", None),
        ({"sys/x": ""}, "aarch64", "", None),
        ({"sys/firmware/efi/systab": ""}, "aarch64", "uefi", None),
        ({f"{VARIABLES}/{VARIABLE}": b"\x06\0\0\0\x01"}, "x86_64", "uefi", True),
        ({f"{VARIABLES}/{VARIABLE}": b"\x06\0\0\0\x00"}, "x86_64", "uefi", False),
        ({f"sys/firmware/efi/vars/{VARIABLE}/data": b"\x01"}, "x86_64", "uefi", True),
    ],
)
def test_how_it_started(
    files: dict[str, str | bytes], machine: str, mode: str, secure: bool | None, tmp_path: Path
) -> None:
    root = write(tmp_path, files)
    assert (firmware.mode(root, machine), firmware.secure_boot(root)) == (mode, secure)


@pytest.mark.parametrize(
    ("files", "smbios", "version"),
    [
        ({"sys/class/tpm/tpm0/tpm_version_major": "2\n"}, "", "2.0"),
        ({"sys/class/tpm/tpm0/tpm_version_major": "1\n"}, "", "1.2"),
        ({"sys/class/tpm/tpm0/caps": "Manufacturer: 0x49465800\nTCG version: 1.2\n"}, "", "1.2"),
        ({"sys/class/tpm/tpm0/device/description": "TPM 2.0 Device\n"}, "", "2.0"),
        ({"sys/firmware/acpi/tables/TPM2": b""}, "", "2.0"),
        ({"sys/firmware/acpi/tables/TCPA": b""}, "", "1.2"),
        ({"sys/firmware/acpi/tables/TCPA": b""}, "2.0", "2.0"),
        ({"sys/x": ""}, "1.2", "1.2"),
        ({"sys/x": ""}, "", ""),
    ],
)
def test_tpm(files: dict[str, str | bytes], smbios: str, version: str, tmp_path: Path) -> None:
    assert firmware.tpm(write(tmp_path, files), smbios) == version
