"""Certificates in words."""

from __future__ import annotations

from typing import Any

from metalbox.erase import certificate
from metalbox.erase.document import NOTHING, sign
from metalbox.erase.wording import limits, plain, sections
from metalbox.machine import Disk
from tests.erase.disks import NVME
from tests.erase.outcomes import erasure, order
from tests.erase.test_document import KEY, PUBLIC


def signed(draft: dict[str, Any], number: int = 1) -> dict[str, Any]:
    return sign({**draft, "number": number, "previous": NOTHING}, PUBLIC, KEY.sign)


def test_a_drive() -> None:
    case = erasure()
    text = plain(signed(certificate.drive(case, case.data["disks"][0])))
    lines = text.splitlines()
    assert lines[0] == "Certificate of erasure: one drive, number 1"
    assert "  Standard            NIST SP 800-88r2 Purge (IEEE 2883-2022 sanitize, cryptographic erase)" in lines
    assert f"  Serial number    {NVME.serial}" in lines
    assert "  Read back          1024 samples" in lines
    assert lines[-1].endswith("known only to its maker.")


def test_a_machine_and_a_failure() -> None:
    stick = Disk(name="sdz", serial="STICK\x1b[2J", transport="usb", size_bytes=5)
    case = erasure(order([NVME, stick]))
    drive = signed(certificate.drive(case, case.data["disks"][0]))
    whole = signed(certificate.machine(case, [drive]), 2)
    text = plain(whole)
    assert "Drives erased" in text
    assert "Drives left alone" in text
    assert "\x1b" not in text
    assert [section.heading for section in sections(whole)] == [
        "Result", "Drives erased", "Drives left alone", "Machine", "Signature",
    ]  # fmt: skip
    failed = signed(certificate.failure(case, case.data["disks"][0], "the drive vanished"))
    assert "  Because     the drive vanished" in plain(failed)
    assert limits(failed).startswith("This is no certificate.")
