"""What the certificates and failure records say."""

from __future__ import annotations

from typing import Any

import pytest

from metalbox.erase import certificate
from metalbox.erase.certificate import iso, tidy
from metalbox.erase.document import canonical, digest
from metalbox.errors import Refused
from metalbox.machine import Disk
from tests.erase.disks import HDD, NVME, VIRTIO
from tests.erase.outcomes import NOW, SEED, changed, erasure, order, outcome


def signed(draft: dict[str, Any], number: int) -> dict[str, Any]:
    return {**draft, "number": number, "previous": "0" * 64, "signature": {}}


def test_a_drive() -> None:
    case = erasure()
    made = certificate.drive(case, case.data["disks"][0])
    assert canonical(made)
    assert made["kind"] == "drive"
    assert made["issued_at"] == iso(NOW) == "2027-01-15T08:00:00Z"
    assert made["operator"] == "alice at r1"
    assert made["machine"]["macs"] == ["52:54:00:00:00:01"]
    assert made["drive"]["namespaces"] == [{"nsid": 1, "size_bytes": NVME.size_bytes, "wwn": NVME.wwn}]
    assert (made["drive"]["serial"], made["drive"]["firmware"]) == (NVME.serial, "FW1")
    assert (made["method"], made["reached"], made["level"]) == ("nvme-sanitize-crypto", "purge", "purge")
    assert made["standard"] == "NIST SP 800-88r2 Purge (IEEE 2883-2022 sanitize, cryptographic erase)"
    assert (made["started_at"], made["seconds"]) == ("2027-01-15T07:59:09Z", 42)
    assert made["agent"]["tools"] == {"hdparm": "9.65", "nvme": "2.4"}
    told = made["verification"]
    assert (told["seed"], told["samples"], told["samples_ordered"], told["full"]) == (SEED, 1024, 1024, False)
    assert made["order"]["number"] == 3


def test_the_method_that_was_used_gives_the_term() -> None:
    case = erasure()
    said = changed(case.outcome, "disks.0.method", "nvme-format")
    said["disks"][0]["attempts"].append({"method": "nvme-format", "result": "done"})
    made = certificate.drive(erasure(said=said), case.data["disks"][0])
    assert made["standard"].endswith("Format NVM, user data erase, by the technique of Rev. 1 table A-8)")


def test_no_certificate_without_proof() -> None:
    case = erasure()
    with pytest.raises(Refused, match="failed"):
        certificate.drive(erasure(said=changed(case.outcome, "disks.0.result", "failed")), case.data["disks"][0])


def test_the_machine() -> None:
    stick = Disk(name="sdz", serial="STICK", transport="usb", size_bytes=5)
    data = order([NVME, HDD, stick])
    case = erasure(data)
    drives = [signed(certificate.drive(case, row), n) for n, row in enumerate(data["disks"], 4)]
    made = certificate.machine(case, drives)
    assert canonical(made)
    assert [(row["number"], row["serial"], row["digest"]) for row in made["drives"]] == [
        (4, NVME.serial, digest(drives[0])),
        (5, HDD.serial, digest(drives[1])),
    ]
    assert made["untouched"] == [
        {
            "serial": "STICK",
            "wwn": "",
            "model": "",
            "size_bytes": 5,
            "reason": "it is attached by USB: name it to erase it",
        }
    ]
    with pytest.raises(Refused, match=f"there is no certificate for {HDD.serial}"):
        certificate.machine(case, drives[:1])
    failed = signed(certificate.failure(case, data["disks"][1], "no"), 6)
    with pytest.raises(Refused, match=f"there is no certificate for {HDD.serial}"):
        certificate.machine(case, [drives[0], failed])
    with pytest.raises(Refused, match="another order"):
        certificate.machine(erasure(data, number=9), drives)


def test_no_machine_is_whole_with_a_disk_that_could_not_be_erased_or_was_not_named() -> None:
    data = order([NVME, VIRTIO])
    case = erasure(data)
    drives = [signed(certificate.drive(case, data["disks"][0]), 1)]
    with pytest.raises(Refused, match="no certificate for lab-1"):
        certificate.machine(case, drives)
    data = order([NVME])
    said = outcome(data)
    said["disks"].append({"serial": "NEW", "result": "refused"})
    with pytest.raises(Refused, match="no certificate for NEW"):
        certificate.machine(erasure(data, said), [signed(certificate.drive(erasure(data, said), data["disks"][0]), 1)])


def test_a_failure_keeps_the_evidence_whatever_the_agent_sent() -> None:
    case = erasure()
    said = changed(case.outcome, "disks.0.result", "failed")
    said["disks"][0] |= {"evidence": "I/O error\x00 at\ud800 4096", "odd": [1.5, {"deep": [[[[[[1]]]]]]}], "n": 2**70}
    made = certificate.failure(erasure(said=said), case.data["disks"][0], "the agent says 'failed'")
    assert canonical(made)
    assert (made["kind"], made["result"], made["reason"]) == ("failure", "failed", "the agent says 'failed'")
    assert made["said"][0]["evidence"] == "I/O error  at  4096"
    assert made["said"][0]["odd"][0] == "1.5"
    assert certificate.failure(erasure(said={}), case.data["disks"][0], "x")["said"] == []


def test_orders_are_told_apart_though_their_numbers_are_not() -> None:
    assert erasure().mark == erasure().mark
    assert erasure().mark != erasure(created_at=NOW).mark
    assert erasure().mark != erasure(order([NVME])).mark


def test_tidy_is_bounded() -> None:
    deep: Any = 1
    for _ in range(50):
        deep = [deep]
    assert canonical({"deep": tidy(deep), "many": tidy(list(range(10**4)))})
    assert len(tidy(list(range(10**4)))) == 100
    assert iso(float("inf")) == ""
