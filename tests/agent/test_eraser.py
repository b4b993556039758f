"""Whole orders against simulated drives: never "erased" unless the bytes are gone, never a write to another disk."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from metalbox.agent import ata, drivework, eraser, target
from metalbox.agent.errands import Cancelled
from tests.agent.drives import (
    MIB,
    UUID,
    Asked,
    AtaDrive,
    Drive,
    NvmeDrive,
    ScsiDrive,
    SimulatedKernel,
    order,
    row,
)

METHODS: dict[type[Drive], tuple[str, ...]] = {
    NvmeDrive: ("nvme-sanitize-crypto", "nvme-sanitize-block", "nvme-sanitize-overwrite", "nvme-format-crypto",
                "nvme-format", "overwrite", "discard"),
    AtaDrive: ("ata-sanitize-crypto", "ata-sanitize-block", "ata-sanitize-overwrite", "ata-secure-erase-enhanced",
               "ata-secure-erase", "overwrite", "discard"),
    ScsiDrive: ("scsi-sanitize-crypto", "scsi-sanitize-block", "scsi-sanitize-overwrite", "overwrite", "discard"),
    Drive: ("overwrite",),
}  # fmt: skip
PAIRS = [(kind, method) for kind, methods in METHODS.items() for method in methods]
IDS = [f"{kind.__name__}-{method}" for kind, method in PAIRS]
FIRST = {NvmeDrive: "nvme-sanitize-block", AtaDrive: "ata-sanitize-block", ScsiDrive: "scsi-sanitize-block",
         Drive: "overwrite"}  # fmt: skip
Outcome = dict[str, Any]


def erase(folder: Path, data: dict[str, Any], *drives: Drive) -> tuple[Outcome, Asked]:
    asked = Asked(data)
    return eraser.work(asked, SimulatedKernel(folder, *drives)), asked  # type: ignore[arg-type]


def one(folder: Path, drive: Drive, *methods: str, **more: Any) -> Outcome:
    """The outcome of the only disk of an order, with a bystander that must keep every byte."""
    stranger = Drive("vdz", "BYSTANDER", seed=99)
    preparations = more.pop("preparations", ())
    data = order(row(drive, *methods, preparations=preparations), untouched=(stranger,), **more)
    outcome, _ = erase(folder, data, drive, stranger)
    assert stranger.writes == [] and bytes(stranger.medium) == stranger.original
    (disk,) = outcome["disks"]
    assert disk["result"] != "erased" or drive.is_gone()
    return {**disk}


@pytest.mark.parametrize(("kind", "method"), PAIRS, ids=IDS)
@pytest.mark.parametrize("verify", ["sample", "full"])
def test_every_method_erases_a_good_drive(kind: type[Drive], method: str, verify: str, tmp_path: Path) -> None:
    drive = kind("sda", "S1")
    disk = one(tmp_path, drive, method, verify=verify)
    assert (disk["result"], disk["method"], disk["evidence"]) == ("erased", method, "")
    assert disk["verification"]["result"] == "passed" and disk["verification"]["unchanged"] == 0
    assert disk["firmware_status"] and drive.is_gone()
    assert disk["verification"]["before_digest"] != disk["verification"]["after_digest"]


@pytest.mark.parametrize(("kind", "method"), PAIRS, ids=IDS)
@pytest.mark.parametrize("fault", ["lies", "fails", "vanishes", "stale", "one-sector", "unreadable-after"])
def test_a_drive_that_does_not_do_it_has_failed(kind: type[Drive], method: str, fault: str, tmp_path: Path) -> None:
    disk = one(tmp_path, kind("sda", "S1", fault), method)
    assert disk["result"] == "failed" and disk["evidence"]
    if fault in ("lies", "stale", "one-sector"):
        assert disk["verification"]["result"] == "failed"


@pytest.mark.parametrize("method", [m for _, m in PAIRS if "sanitize" in m])
def test_no_progress_is_a_failure_in_the_end(method: str, tmp_path: Path) -> None:
    kind = next(kind for kind, one_method in PAIRS if one_method == method)
    disk = one(tmp_path, kind("sda", "S1", "stuck"), method)
    assert disk["result"] == "failed" and ("no progress" in disk["evidence"] or "not done" in disk["evidence"])


@pytest.mark.parametrize("kind", [NvmeDrive, AtaDrive, ScsiDrive])
def test_a_method_that_is_not_taken_gives_way_to_the_next(kind: type[Drive], tmp_path: Path) -> None:
    drive = kind("sda", "S1", "refuses")
    disk = one(tmp_path, drive, FIRST[kind], "overwrite")
    assert disk["result"] == "erased" and disk["method"] == "overwrite"
    assert [attempt["result"] for attempt in disk["attempts"]] == ["not taken", "done"]


def test_a_discard_without_a_promise_of_zeroes_is_not_done(tmp_path: Path) -> None:
    drive = Drive("vda", "S1")
    disk = one(tmp_path, drive, "discard", "overwrite")
    assert (disk["result"], disk["method"]) == ("erased", "overwrite")
    assert "does not guarantee zeroes" in disk["attempts"][0]["evidence"]


def test_a_drive_that_comes_back_under_another_name_is_found(tmp_path: Path) -> None:
    drive = AtaDrive("sda", "S1")
    erase_all = drive.erase

    def renamed(way: str) -> None:
        erase_all(way)
        drive.name = "sdq"

    drive.erase = renamed  # type: ignore[method-assign]
    disk = one(tmp_path, drive, "ata-secure-erase")
    assert (disk["result"], disk["name"]) == ("erased", "sdq")


@pytest.mark.parametrize("kind", [NvmeDrive, AtaDrive, ScsiDrive])
def test_a_method_that_failed_midway_is_not_followed_by_another(kind: type[Drive], tmp_path: Path) -> None:
    disk = one(tmp_path, kind("sda", "S1", "fails"), FIRST[kind], "overwrite")
    assert disk["result"] == "failed" and [attempt["result"] for attempt in disk["attempts"]] == ["failed"]


@pytest.mark.parametrize("kind", list(METHODS))
def test_an_empty_drive_that_does_nothing_is_caught_by_markers(kind: type[Drive], tmp_path: Path) -> None:
    drive = kind("sda", "S1", "lies")
    drive.medium[:] = bytes(len(drive.medium))
    disk = one(tmp_path, drive, FIRST[kind])
    assert disk["result"] == "failed" and disk["verification"]["markers"] > 0
    good = kind("sda", "S1")
    good.medium[:] = bytes(len(good.medium))
    disk = one(tmp_path / "good", good, FIRST[kind])
    assert disk["result"] == "erased" and not any(good.medium[:MIB])


@pytest.mark.parametrize(
    ("fault", "kinds"),
    [("swapped", (NvmeDrive, AtaDrive, ScsiDrive)), ("resized", tuple(METHODS)), ("held", tuple(METHODS))],
)
def test_a_drive_that_is_another_or_in_use_is_refused(fault: str, kinds: tuple[Any, ...], tmp_path: Path) -> None:
    for number, kind in enumerate(kinds):
        drive = kind("sda", "S1", fault)
        disk = one(tmp_path / str(number), drive, FIRST[kind])
        assert disk["result"] == "refused" and drive.writes == [] and bytes(drive.medium) == drive.original


@pytest.mark.parametrize(
    "change", [{"serial": "S2"}, {"wwn": "0x5"}, {"model": "M"}, {"size_bytes": 1}, {"namespaces": []}]
)
def test_a_row_that_differs_from_the_drive_is_refused_and_the_others_go_on(change: Any, tmp_path: Path) -> None:
    drive, good = NvmeDrive("nvme0n1", "S1"), ScsiDrive("sda", "S3", seed=3)
    data = order({**row(drive, "overwrite"), **change}, row(good, "overwrite"))
    outcome, asked = erase(tmp_path, data, drive, good)
    results = {(disk["serial"], disk["result"]) for disk in outcome["disks"]}
    assert ("S3", "erased") in results and good.is_gone() and asked.claims == 1
    assert drive.writes == [] and "erased" not in {result for serial, result in results if serial != "S3"}


def test_a_drive_that_the_order_does_not_name_is_told_as_refused(tmp_path: Path) -> None:
    drive, stranger = NvmeDrive("nvme0n1", "S1"), AtaDrive("sda", "NEW", seed=5)
    outcome, _ = erase(tmp_path, order(row(drive, "nvme-format")), drive, stranger)
    results = {disk["serial"]: (disk["result"], disk["evidence"]) for disk in outcome["disks"]}
    assert results["S1"][0] == "erased"
    assert results["NEW"] == ("refused", "sda is in this machine, and the order does not name it")
    assert stranger.writes == [] and bytes(stranger.medium) == stranger.original


def test_two_drives_of_one_name_are_both_left_alone(tmp_path: Path) -> None:
    twins = [ScsiDrive("sda", "S1"), ScsiDrive("sdb", "S1")]
    outcome, asked = erase(tmp_path, order(row(twins[0], "overwrite")), *twins)
    assert outcome["disks"][0]["result"] == "refused" and "sda and sdb" in outcome["disks"][0]["evidence"]
    assert asked.claims == 0 and twins[0].writes == twins[1].writes == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"boot_id": "b0"}, "for the boot 'b0'"),
        ({"machine": {"uuid": UUID.replace("4", "5"), "serial": "", "macs": []}}, "for the machine with UUID"),
        ({"machine": {"uuid": UUID, "serial": "other", "macs": []}}, "serial 'other'"),
        ({"machine": {"uuid": "", "serial": "", "macs": ["52:54:00:00:00:99"]}}, "no port of this machine"),
        ({"machine": {}}, "does not say which machine"),
        ({"disks": []}, "no disk to be erased"),
        ({"verify": "never"}, "'never'"),
        ({"samples": 0}, "samples"),
        ({"seed": ""}, "no seed"),
    ],
)
def test_an_order_for_another_machine_or_boot_writes_nothing(change: Any, words: str, tmp_path: Path) -> None:
    drive = AtaDrive("sda", "S1")
    outcome, asked = erase(tmp_path, {**order(row(drive, "overwrite")), **change}, drive)
    assert words in outcome["refused"] and asked.claims == 0 and drive.writes == []
    assert all(disk["result"] == "refused" for disk in outcome["disks"])


def test_an_order_that_contradicts_itself_is_refused(tmp_path: Path) -> None:
    drive = AtaDrive("sda", "S1")
    for data, words in (
        (order(row(drive, "overwrite"), untouched=(drive,)), "both to be erased and to be left alone"),
        (order(row(drive, "overwrite"), row(drive, "overwrite")), "a disk twice"),
        (order(row(drive, "shred")), "does not know shred"),
        (order(row(drive)), "no method"),
    ):
        outcome, asked = erase(tmp_path / words.replace(" ", ""), data, drive)
        assert words in outcome["refused"] and drive.writes == [] and asked.claims == 0


def test_a_claim_that_is_refused_ends_it_before_the_first_write(tmp_path: Path) -> None:
    drive = AtaDrive("sda", "S1")
    asked = Asked(order(row(drive, "overwrite")))

    def refuse() -> None:
        raise Cancelled("order 7 is closed")

    asked.claim = refuse  # type: ignore[method-assign]
    with pytest.raises(Cancelled):
        eraser.work(asked, SimulatedKernel(tmp_path, drive))  # type: ignore[arg-type]
    assert drive.writes == [] and bytes(drive.medium) == drive.original


def test_a_command_that_hangs_costs_its_disk_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sick, good = AtaDrive("sda", "S1", "hang"), AtaDrive("sdb", "S2", seed=2)
    within, begin, targets = target.Target.within, sick.begin, {}

    def remembered(self: target.Target, seconds: float = target.COMMAND_SECONDS) -> None:
        targets[self.row["serial"]] = self
        within(self, seconds)

    def begin_late() -> None:
        targets["S1"].busy_until = 0.0  # its time is over when it hangs
        begin()

    monkeypatch.setattr(target.Target, "within", remembered)
    monkeypatch.setattr(sick, "begin", begin_late)
    monkeypatch.setattr(eraser, "LAST_WORD_SECONDS", 60.0)
    data = order(row(sick, "ata-secure-erase"), row(good, "ata-secure-erase"), parallel=1)
    outcome, asked = erase(tmp_path, data, sick, good)
    sick.release.set()
    results = {disk["serial"]: disk for disk in outcome["disks"]}
    assert results["S1"]["result"] == "failed" and "did not end in time" in results["S1"]["evidence"]
    assert results["S2"]["result"] == "erased" and good.is_gone()
    assert asked.told[-1]["disks"]["S1"]["phase"] == "failed" and asked.told[-1]["disks"]["S2"]["phase"] == "done"


def test_a_frozen_drive_is_thawed_by_one_sleep_for_all(tmp_path: Path) -> None:
    drives = [AtaDrive(f"sd{letter}", letter, "frozen", seed=number) for number, letter in enumerate("ab", 1)]
    rows = [row(drive, "ata-secure-erase", preparations=("unfreeze",)) for drive in drives]
    kernel = SimulatedKernel(tmp_path, *drives)
    outcome = eraser.work(Asked(order(*rows)), kernel)  # type: ignore[arg-type]
    assert [disk["result"] for disk in outcome["disks"]] == ["erased", "erased"] and kernel.slept == 1
    assert outcome["disks"][0]["preparations"][0]["what"] == "unfreeze"


def test_a_frozen_drive_that_may_not_sleep_takes_its_other_method(tmp_path: Path) -> None:
    drive = AtaDrive("sda", "S1", "frozen")
    disk = one(tmp_path, drive, "ata-secure-erase", "overwrite")
    assert (disk["result"], disk["method"]) == ("erased", "overwrite") and drive.password == b""
    assert "frozen" in disk["attempts"][0]["evidence"]


@pytest.mark.parametrize("is_planned", [True, False])
@pytest.mark.parametrize("fault", ["hpa", "dco"])
def test_hidden_areas_are_erased_as_well_even_when_the_plan_did_not_know(
    fault: str, is_planned: bool, tmp_path: Path
) -> None:
    drive = AtaDrive("sda", "S1", fault)
    disk = one(tmp_path, drive, "overwrite", preparations=(f"remove-{fault}",) if is_planned else ())
    assert disk["result"] == "erased" and disk["size_bytes"] == 4 * MIB and drive.is_gone()
    assert disk["preparations"][-1]["evidence"] == "from 6144 to 8192 sectors"


@pytest.mark.parametrize(("method", "kind"), [("nvme-sanitize-block", NvmeDrive), ("ata-sanitize-block", AtaDrive),
                                              ("scsi-sanitize-block", ScsiDrive)])  # fmt: skip
@pytest.mark.parametrize("fault", ["sanitizing", "sanitize-failed"])
def test_an_unfinished_sanitize_is_ended_and_the_whole_is_done_again(
    fault: str, method: str, kind: type[Drive], tmp_path: Path
) -> None:
    drive = kind("sda", "S1", fault)
    disk = one(tmp_path, drive, method, preparations=("wait-sanitize",))
    assert disk["result"] == "erased" and drive.is_gone() and disk["verification"]["markers"] > 0
    assert disk["preparations"][0]["what"] in ("wait-sanitize", "end-failed-sanitize")
    assert drive.began == (1 if fault == "sanitizing" else 2)  # nothing of the unfinished run counts


def test_a_drive_that_lost_its_power_is_unlocked_and_erased_by_the_next_order(tmp_path: Path) -> None:
    drive = AtaDrive("sda", "S1", "reset")
    first = one(tmp_path / "1", drive, "ata-secure-erase")
    assert first["result"] == "failed" and drive.password == b"" and not drive.is_locked
    drive.password, drive.is_locked = ata.PASSWORD, True
    drive.faults.clear()
    again = one(tmp_path / "2", drive, "ata-secure-erase")
    assert again["result"] == "erased" and again["preparations"][0]["what"] == "clear-password"


def test_a_foreign_password_is_not_touched(tmp_path: Path) -> None:
    drive = AtaDrive("sda", "S1", "foreign-lock")
    disk = one(tmp_path, drive, "ata-secure-erase", "overwrite")
    assert disk["result"] == "failed" and "not ours" in disk["evidence"] and drive.is_locked


def test_a_drive_is_never_left_with_our_password(tmp_path: Path) -> None:
    for number, fault in enumerate(("fails", "refuses", "keeps-password", "reset")):
        drive = AtaDrive("sda", "S1", fault)
        disk = one(tmp_path / str(number), drive, "ata-secure-erase")
        assert disk["result"] == "failed" and drive.password == b"" and not drive.is_locked, fault


def test_a_write_protected_drive_has_failed(tmp_path: Path) -> None:
    for number, (kind, method) in enumerate(PAIRS):
        if method == "overwrite":
            assert one(tmp_path / str(number), kind("sda", "S1", "protected"), method)["result"] == "failed"


def cancel_at_its_beginning(drive: Drive, asked: Asked) -> None:
    begin = drive.begin

    def cancelled() -> None:
        begin()
        asked.cancelled.set()

    drive.begin = cancelled  # type: ignore[method-assign]


def test_a_cancelled_order_stops_between_chunks(tmp_path: Path) -> None:
    drive = AtaDrive("sda", "S1", size=12 * MIB)
    asked = Asked(order(row(drive, "overwrite")))
    cancel_at_its_beginning(drive, asked)
    outcome = eraser.work(asked, SimulatedKernel(tmp_path, drive))  # type: ignore[arg-type]
    (disk,) = outcome["disks"]
    assert disk["result"] == "failed" and "cancelled" in disk["evidence"] and drive.began == 1


def test_a_cancelled_sanitize_says_that_it_goes_on(tmp_path: Path) -> None:
    drive = NvmeDrive("nvme0n1", "S1")
    asked = Asked(order(row(drive, "nvme-sanitize-block")))
    cancel_at_its_beginning(drive, asked)
    (disk,) = eraser.work(asked, SimulatedKernel(tmp_path, drive))["disks"]  # type: ignore[arg-type]
    assert disk["result"] == "failed" and "cannot be stopped" in disk["evidence"]


def test_a_bug_costs_its_disk_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    odd, good = ScsiDrive("sda", "S1"), AtaDrive("sdb", "S2", seed=2)
    work = drivework.DriveWork._work

    def odd_work(self: drivework.DriveWork) -> None:
        if self.target.row["serial"] == "S1":
            raise KeyError("odd")
        work(self)

    monkeypatch.setattr(drivework.DriveWork, "_work", odd_work)
    outcome, _ = erase(tmp_path, order(row(odd, "overwrite"), row(good, "overwrite")), odd, good)
    assert {disk["serial"]: disk["result"] for disk in outcome["disks"]} == {"S1": "failed", "S2": "erased"}


FAULTS = ("lies", "fails", "refuses", "stale", "vanishes", "swapped", "resized", "frozen", "locked", "foreign-lock",
          "protected", "sanitizing", "sanitize-failed", "one-sector", "unreadable-after", "stuck", "reset", "held",
          "keeps-password", "hpa", "dco")  # fmt: skip


@pytest.mark.parametrize("seed", range(24))
def test_random_machines_never_lose_a_byte_too_many_nor_claim_one_too_many(seed: int, tmp_path: Path) -> None:
    rng = random.Random(seed)
    drives: list[Drive] = []
    for number in range(6):
        kind = rng.choice(list(METHODS))
        faults = rng.sample(FAULTS, rng.choice((0, 0, 1, 1, 2)))
        drives.append(kind(f"d{number}", f"S{number}", *faults, seed=seed * 10 + number))
    role = [rng.choice(("erase", "erase", "erase", "keep", "unnamed")) for _ in drives]
    role[0] = "erase"
    rows = []
    for drive, part in zip(drives, role, strict=True):
        methods = METHODS[type(drive)]
        if part == "erase":
            rows.append(row(drive, *rng.sample(methods, rng.randint(1, len(methods))), preparations=("unfreeze",)))
    kept = tuple(drive for drive, part in zip(drives, role, strict=True) if part == "keep")
    outcome, _ = erase(tmp_path, order(*rows, untouched=kept, parallel=rng.randint(1, 6)), *drives)
    results = {disk["serial"]: disk["result"] for disk in outcome["disks"]}
    for drive, part in zip(drives, role, strict=True):
        if part != "erase":
            assert drive.writes == [] and bytes(drive.medium) == drive.original
            assert results.get(drive.serial) == ("refused" if part == "unnamed" else None)
        elif results[drive.serial] == "erased":
            assert drive.is_gone()
        elif results[drive.serial] == "refused":
            assert drive.writes == []
