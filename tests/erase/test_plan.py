"""The plan: the decision for each kind of disk, and what holds for any disks at all."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metalbox.erase.methods import Level, Method, reported
from metalbox.erase.plan import DiskPlan, Preparation, Verdict, plan, table
from metalbox.machine import Disk, Erasing
from tests.erase.disks import HDD, NVME, VIRTIO, disks, words

M = Method
many = st.lists(disks, max_size=6)
levels = st.sampled_from(Level)
some_words = st.lists(words, max_size=3)


def one(disk: Disk, level: Level = Level.PURGE, **how: Any) -> DiskPlan:
    (row,) = plan([disk], level, **how).disks
    return row


def told(disk: Disk, **changes: Any) -> Disk:
    return replace(disk, erasing=replace(disk.erasing or Erasing(), **changes))


def test_the_strongest_method_first_and_all_reach_the_level() -> None:
    row = one(NVME)
    assert row.methods == (M.NVME_SANITIZE_CRYPTO, M.NVME_SANITIZE_BLOCK, M.NVME_FORMAT_CRYPTO, M.NVME_FORMAT)
    assert row.term == "NIST SP 800-88r2 Purge (IEEE 2883-2022 sanitize, cryptographic erase)"
    assert row.term_of(M.NVME_FORMAT).endswith("by the technique of Rev. 1 table A-8)")
    assert row.term_of(M.OVERWRITE) == ""
    assert row.reason == "nvme-sanitize-crypto is the strongest method of 5 that it reports"
    assert one(NVME, Level.CLEAR).methods[-1] is M.OVERWRITE
    assert row.key == NVME.serial
    assert row.namespaces == NVME.namespaces


def test_a_frozen_magnetic_disk_is_thawed_for_the_method_that_needs_it() -> None:
    row = one(HDD)
    assert row.methods == (M.ATA_SECURE_ERASE_ENHANCED,)
    assert row.preparations == (Preparation.UNFREEZE,)
    assert row.seconds == 430 * 60 + 20
    assert one(HDD, Level.CLEAR).methods == (M.ATA_SECURE_ERASE_ENHANCED, M.ATA_SECURE_ERASE, M.OVERWRITE)
    able = told(HDD, ata_sanitize=("overwrite",))
    assert one(able).preparations == ()
    after = one(able, failed={HDD.serial: [M.ATA_SANITIZE_OVERWRITE]})
    assert after.methods == (M.ATA_SECURE_ERASE_ENHANCED,)
    assert after.preparations == (Preparation.UNFREEZE,)
    assert after.reason == "ata-secure-erase-enhanced is the strongest method after ata-sanitize-overwrite failed"


def test_a_flash_disk_is_not_purged_by_secure_erase() -> None:
    row = one(replace(HDD, rotational=False))
    assert row.verdict is Verdict.REFUSED
    assert row.reason == (
        "no method reaches purge: on flash only a sanitize or NVMe format does, and it reports none that can be used; "
        "`--level clear` is possible, or exclude it"
    )


def test_a_virtual_disk_reaches_clear_at_most_beside_one_that_is_purged() -> None:
    mixed = plan([NVME, VIRTIO], Level.PURGE)
    assert [row.verdict for row in mixed.disks] == [Verdict.ERASE, Verdict.REFUSED]
    assert "whose storage belongs to a hypervisor; `--level clear` is possible" in mixed.disks[1].reason
    assert one(VIRTIO, Level.CLEAR).methods == (M.OVERWRITE,)
    assert one(VIRTIO, Level.CLEAR).reason == "overwrite is the only method for it"
    assert one(told(VIRTIO, discard_zeroes=True), Level.CLEAR).methods == (M.DISCARD, M.OVERWRITE)
    emulated = replace(NVME, model="QEMU NVMe Ctrl")
    assert one(emulated).verdict is Verdict.REFUSED
    assert one(emulated, Level.CLEAR).methods[0] is M.NVME_SANITIZE_CRYPTO
    assert one(emulated, Level.CLEAR).term == "NIST SP 800-88r2 Clear"


@pytest.mark.parametrize(
    ("disk", "words"),
    [
        (replace(HDD, transport="usb"), "by USB"),
        (replace(HDD, transport="iscsi"), "LUN in a storage network (iscsi)"),
        (replace(HDD, transport="fc"), "LUN in a storage network (fc)"),
        (replace(HDD, transport="mmc", name="mmcblk0"), "SD card or eMMC"),
        (replace(HDD, transport="mmc", name="mmcblk0boot1"), "boot area of an eMMC"),
        (replace(HDD, removable=True), "removable"),
        (replace(HDD, name="sr0", removable=True), "optical"),
        (told(HDD, multipath=True), "several paths"),
        (told(HDD, virtual_media=True), "virtual media"),
        (replace(HDD, transport="usb", erasing=None, serial="", wwn=""), "by USB"),
    ],
)
def test_what_is_never_touched_unless_named(disk: Disk, words: str) -> None:
    row = one(disk, Level.CLEAR)
    assert row.verdict is Verdict.UNTOUCHED
    assert words in row.reason
    if disk.serial:
        assert one(disk, Level.CLEAR, named=[HDD.wwn]).verdict is Verdict.ERASE
        assert one(disk, Level.CLEAR, named=[HDD.serial], keep=["5000C500A0000001"]).verdict is Verdict.UNTOUCHED
        assert one(disk, Level.CLEAR, named=[HDD.serial], exclude=[HDD.serial]).verdict is Verdict.UNTOUCHED


@pytest.mark.parametrize(
    ("disk", "words"),
    [
        (replace(HDD, serial="", wwn=""), "neither a serial number nor a WWN"),
        (replace(HDD, serial="00000000", wwn=""), "neither a serial number nor a WWN"),
        (replace(HDD, transport=""), "how it is attached is not known"),
        (replace(NVME, pci_address=""), "over a fabric"),
        (replace(HDD, erasing=None), "report again with this version's agent"),
        (replace(HDD, size_bytes=None), "no size, as a dead disk"),
        (replace(NVME, size_bytes=0), "create a namespace"),
        (replace(HDD, read_only=True), "write protected"),
        (told(HDD, write_protected=True), "write protected"),
        (told(HDD, ata_locked=True), "locked with an ATA password"),
        (told(HDD, ata_enabled=True), "and an ATA password is set"),
        (told(HDD, sanitizing="failed"), "a sanitize has failed on it"),
    ],
)
def test_what_must_be_erased_and_cannot_be(disk: Disk, words: str) -> None:
    row = one(disk)
    assert row.verdict is Verdict.REFUSED
    assert words in row.reason


def test_naming_a_disk_settles_how_it_is_attached() -> None:
    assert one(replace(HDD, transport=""), Level.CLEAR, named=[HDD.serial]).methods == (M.OVERWRITE,)
    assert one(replace(NVME, pci_address=""), named=[NVME.serial]).verdict is Verdict.ERASE


def test_twins_are_never_erased_by_their_position() -> None:
    twins = plan([HDD, replace(HDD, name="sdb", size_bytes=5)], Level.CLEAR)
    assert {row.verdict for row in twins.disks} == {Verdict.REFUSED}
    stick = plan([HDD, replace(HDD, transport="usb", wwn="0x5000C500A0000001")], Level.CLEAR)
    assert [row.verdict for row in stick.disks] == [Verdict.REFUSED, Verdict.UNTOUCHED]
    # By one mark that differs they can be told apart.
    apart = plan([HDD, replace(HDD, wwn="0x5000c500a0000002")], Level.CLEAR)
    assert {row.verdict for row in apart.disks} == {Verdict.ERASE}


def test_words_that_fit_no_disk_or_too_many_forbid_the_order() -> None:
    two = [HDD, replace(HDD, wwn="0x5000c500a0000002", transport="usb")]
    assert plan(two, Level.CLEAR, exclude=["sda"]).problems == (
        "no disk of this machine has the serial number or WWN 'sda': disks are not meant by their kernel names, "
        "which change from boot to boot",
    )
    both = plan(two, Level.CLEAR, named=[HDD.serial])
    assert "of 2 disks" in both.problems[0]
    assert both.disks[1].verdict is Verdict.UNTOUCHED
    assert plan(two, Level.CLEAR, named=["0x5000c500a0000002"]).disks[1].verdict is Verdict.ERASE
    # To leave alone is safe for all that it fits.
    assert plan(two, Level.CLEAR, keep=[HDD.serial]).of(Verdict.ERASE) == ()
    assert "say which" in plan(two, Level.CLEAR, keep=[HDD.serial], named=[HDD.wwn]).problems[0]
    assert plan([NVME], Level.CLEAR, keep=["36344830525001230025384500000001"]).of(Verdict.ERASE) == ()


def test_preparations() -> None:
    hidden = told(
        replace(HDD, size_bytes=100 * 512), native_sectors=200, dco_sectors=300, holders=("md0",), ata_frozen=False
    )
    assert one(hidden).preparations == (Preparation.STOP_HOLDERS, Preparation.REMOVE_DCO, Preparation.REMOVE_HPA)
    whole = told(replace(HDD, size_bytes=100 * 512), native_sectors=100, dco_sectors=100, ata_frozen=False)
    assert one(whole).preparations == ()
    assert one(told(NVME, sanitizing="in progress")).preparations == (Preparation.WAIT_SANITIZE,)


def test_after_a_failed_sanitize_only_a_sanitize_helps() -> None:
    assert one(told(NVME, sanitizing="failed"), Level.CLEAR).methods == (M.NVME_SANITIZE_CRYPTO, M.NVME_SANITIZE_BLOCK)


def test_when_all_methods_have_failed() -> None:
    row = one(HDD, failed={HDD.wwn: list(Method)})
    assert row.reason == "every method for it has failed: ata-secure-erase-enhanced"
    assert row.verdict is Verdict.REFUSED


def test_estimates_of_a_machine() -> None:
    shelf = plan([replace(HDD, serial=f"Z{n}", wwn="") for n in range(24)], Level.CLEAR)
    alone = one(HDD, Level.CLEAR)
    assert shelf.seconds() == alone.seconds  # bounded by the slowest
    assert shelf.seconds(parallel=1) == pytest.approx(24 * alone.seconds)
    assert shelf.seconds(full=True) == pytest.approx(alone.seconds + alone.reading_seconds)
    assert shelf.limit_seconds() > 2 * alone.seconds
    assert plan([], Level.CLEAR).seconds() == 0


def test_the_table_begins_with_what_is_erased() -> None:
    rows = table(plan([replace(HDD, transport="usb"), VIRTIO, NVME], Level.PURGE))
    assert [(row["serial"], row["verdict"], row["method"]) for row in rows] == [
        (NVME.serial, "erase", "nvme-sanitize-crypto"),
        (VIRTIO.serial, "refused", ""),
        (HDD.serial, "untouched", ""),
    ]


@settings(max_examples=400, deadline=None)
@given(many, levels, some_words, some_words, some_words)
def test_whatever_the_disks(some: list[Disk], level: Level, keep: Any, exclude: Any, named: Any) -> None:
    done = plan(some, level, keep=keep, exclude=exclude, named=named)
    assert done == plan(some, level, keep=keep, exclude=exclude, named=named)
    assert len(done.disks) == len(some)
    for disk, row in zip(some, done.disks, strict=True):
        assert (row.serial, row.wwn, row.model, row.name) == (disk.serial, disk.wwn, disk.model, disk.name)
        assert row.reason.strip()
        assert bool(row.choices) == (row.verdict is Verdict.ERASE)
        assert set(row.methods) <= set(reported(disk))
        assert all(choice.level.reaches(level) and choice.term and choice.seconds > 0 for choice in row.choices)
        if row.verdict is Verdict.ERASE:
            _may_be_erased(disk, row, named)
    names = [(row.serial.casefold(), row.wwn) for row in done.of(Verdict.ERASE)]
    assert len(names) == len(set(names))


def _may_be_erased(disk: Disk, row: DiskPlan, named: list[str]) -> None:
    told = disk.erasing
    assert told is not None
    assert disk.size_bytes
    assert not (disk.read_only or told.write_protected or told.ata_locked)
    assert (disk.serial and set(disk.serial) != {"0"}) or disk.wwn
    # Unless somebody has named it by a mark of its own.
    if not {disk.serial.casefold()[-16:], disk.wwn[-16:]} & {word.casefold()[-16:] for word in named}:
        assert disk.transport not in ("usb", "iscsi", "fc", "mmc", "")
        assert not (disk.removable or told.multipath or told.virtual_media or disk.name.startswith("sr"))


@settings(max_examples=100, deadline=None)
@given(many, levels, some_words)
def test_excluding_everything_erases_nothing(some: list[Disk], level: Level, named: Any) -> None:
    everything = [mark for disk in some for mark in (disk.serial, disk.wwn)]
    assert plan(some, level, exclude=everything, named=named).of(Verdict.ERASE) == ()
    assert plan(some, level, keep=everything, named=named).of(Verdict.ERASE) == ()
