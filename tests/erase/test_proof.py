"""An outcome proves an erase only when nothing speaks against it: each reason alone is enough to refuse."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metalbox.erase.methods import Level
from metalbox.erase.proof import check_disk, check_order
from metalbox.errors import Refused
from metalbox.machine import Machine
from tests.erase.disks import HDD, NVME, VIRTIO
from tests.erase.outcomes import MACHINE, changed, order, outcome

DATA = order()
SAID = outcome(DATA)
NOT_OURS = "11111111-2222-3333-4444-555555555555"


def check(data: dict[str, Any], said: dict[str, Any], machine: Machine = MACHINE, disk: int = 0) -> None:
    check_order(data, said, machine)
    check_disk(data, data["disks"][disk], said)


def test_what_is_right_is_proved() -> None:
    check(DATA, SAID)
    check(DATA, SAID, disk=1)
    # The same UUID in the other byte order, or in capitals, is the same.
    check(DATA, changed(SAID, "machine.uuid", "44454C4C-4200-1035-8054-B7C04F333732"))
    for level, disk in ((Level.CLEAR, VIRTIO), (Level.CLEAR, HDD)):
        data = order([disk], level, verify="full")
        check(data, outcome(data))


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        ("refused", "another machine", "refused the whole order: another machine"),
        ("boot_id", "boot-8", "the order was for the boot 'boot-9', and the outcome is from 'boot-8'"),
        ("boot_id", ..., "from None"),
        ("machine.uuid", NOT_OURS, f"and the agent's machine has {NOT_OURS}"),
        ("machine.uuid", "rubbish", "the agent's machine has rubbish"),
        ("machine.uuid", ..., "the agent's machine has none"),
        ("machine.serial", "SN8", "order was for the serial number SN7, and the agent's machine has SN8"),
        ("machine", [], "the agent's machine has none"),
        ("disks", [], "the agent says nothing of it"),
        ("disks", {"a": 1}, "the agent says nothing of it"),
        ("disks.0.serial", "OTHER", "its serial is 'OTHER', and the order named"),
        ("disks.0.wwn", "eui.00", "its wwn is 'eui.00', and the order named"),
        ("disks.0.serial", ["x"], "its serial is"),
        ("disks.0.model", "SAMSUNG other", "its model is 'SAMSUNG other', and the order named 'SAMSUNG MZQL2"),
        ("disks.0.size_bytes", 3_840_755_982_335, "its size is 3840755982335 bytes"),
        ("disks.0.size_bytes", "3840755982336", "its size is"),
        ("disks.0.size_bytes", float(NVME.size_bytes or 0), "its size is"),
        ("disks.0.result", "failed", "the agent says 'failed': without evidence"),
        ("disks.0.result", True, "the agent says 'nothing'"),
        ("disks.0.method", "overwrite", "by 'overwrite', which the order does not list"),
        ("disks.0.method", ["nvme-sanitize-crypto"], "which the order does not list"),
        ("disks.0.method", ..., "by None, which the order does not list"),
        ("disks.0.attempts.0.result", "failed", "its last attempt was 'nvme-sanitize-crypto' with the result 'failed'"),
        ("disks.0.attempts.0.method", "nvme-format", "its last attempt was 'nvme-format'"),
        ("disks.0.preparations", [{"what": "stop-holders", "result": "failed"}], "stop-holders failed before"),
        ("disks.0.preparations", [{"what": "stop-holders"}], "stop-holders  before the erase"),
        ("disks.0.firmware_status", "", "final status is missing"),
        ("disks.0.firmware_status", ..., "final status is missing"),
        ("disks.0.firmware_status", "sanitize in progress, 33 %", "final status is 'sanitize in progress"),
        ("disks.0.firmware_status", "Sanitize Failed", "final status is 'Sanitize Failed'"),
        ("disks.0.firmware_status", "SSTAT=0x0103", "not the end of a successful erase"),
        ("disks.0.firmware_status", "sstat: 2", "not the end of a successful erase"),
        ("disks.0.firmware_status", "sanitize log ffff0200" + "00" * 16, "not the end of a successful erase"),
        ("disks.0.firmware_status", "status 51h, error 04h, count 8000h, LBA 0h", "not the end"),
        ("disks.0.firmware_status", "status 50h, error 00h, count 4000h, LBA 0h", "not the end"),
        ("disks.0.firmware_status", "status 50h, error 00h, count 0000h, LBA 0h", "not the end"),
        ("disks.0.firmware_status", "IDENTIFY DEVICE word 128 0023h", "not the end"),
        ("disks.0.firmware_status", "Format NVM namespace 1: status 0x0000, namespace 2: status 0x2002", "not the end"),
        ("disks.0.firmware_status", "REQUEST SENSE sense key 0h, 00h/00h, TEST UNIT READY sense key 2h", "not the end"),
        ("disks.0.preparations", [{"what": "novel", "result": "failed"}], "novel failed before"),
        ("disks.0.firmware_status", "unknown", "final status is 'unknown'"),
        ("disks.0.verification", ..., "the verification says None"),
        ("disks.0.verification.result", "failed", "the verification says 'failed'"),
        ("disks.0.verification.seed", "5eed", "positions that the order's seed gives"),
        ("disks.0.verification.samples", 0, "read 0 samples"),
        ("disks.0.verification.samples", True, "read True samples"),
        ("disks.0.verification.bytes_read", 0, "0 bytes"),
        ("disks.0.verification.unchanged", 1, "1 sampled blocks are as they were"),
        ("disks.0.verification.unchanged", False, "False sampled blocks"),
        ("disks.0.verification.unchanged", ..., "None sampled blocks"),
        ("disks.0.verification.mismatches", [{"offset": 512}], "lists mismatches: {'offset': 512}"),
        ("disks.0.verification.mismatches", ..., "lists mismatches: None"),
        ("disks.0.verification.signatures", ["gpt"], "lists signatures: 'gpt'"),
        ("disks.0.verification.regions.first", 0, "the first region of the disk was not read"),
        ("disks.0.verification.regions", {}, "the first region"),
        ("disks.0.verification.regions.last", ..., "the last region"),
        ("disks.0.verification.expected", "pattern", "'pattern' does not prove that it was done"),
        ("disks.0.verification.expected", ["changed"], "does not prove"),
        ("disks.0.verification.after_digest", "", "digests of what was read before and after are missing"),
        ("disks.0.verification.after_digest", "ab" * 32, "what was read after the erase is what was read before"),
    ],
)
def test_each_reason_against_it(path: str, value: Any, words: str) -> None:
    with pytest.raises(Refused) as refusal:
        check(DATA, changed(SAID, path, value))
    assert words in str(refusal.value)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"uuid": NOT_OURS}, f"and the machine has {NOT_OURS}"),
        ({"serial": "SN8"}, "and the machine has SN8"),
        ({"conflict": "two machines say this UUID"}, "two machines say this UUID"),
    ],
)
def test_the_machine_must_be_the_one(change: dict[str, Any], words: str) -> None:
    with pytest.raises(Refused, match=words):
        check(DATA, SAID, replace(MACHINE, **change))


def test_a_placeholder_is_no_mark_against() -> None:
    nothing = "00000000-0000-0000-0000-000000000000"
    data, said = changed(DATA, "machine.uuid", nothing), changed(SAID, "machine.uuid", nothing)
    check(data, said, replace(MACHINE, uuid=nothing))
    with pytest.raises(Refused, match="was for the UUID"):
        check(data, SAID, replace(MACHINE, uuid=nothing))


def test_an_agent_that_never_spoke() -> None:
    with pytest.raises(Refused, match="never said"):
        check(DATA, {})
    with pytest.raises(Refused, match="for the boot ''"):
        check(changed(DATA, "boot_id", ""), changed(SAID, "boot_id", ""))
    with pytest.raises(Refused, match="seed"):
        check(changed(DATA, "seed", ""), changed(SAID, "disks.0.verification.seed", ""))


def test_a_disk_told_twice() -> None:
    with pytest.raises(Refused, match="tells of it twice"):
        check(DATA, {**SAID, "disks": [*SAID["disks"], SAID["disks"][0]]})


def test_the_level_is_that_of_the_method_on_this_disk() -> None:
    # As if somebody had put it into the order: a method that does not reach the level there, or anywhere.
    with pytest.raises(Refused, match="nvme-sanitize-crypto does not reach purge"):
        check(changed(DATA, "disks.0.levels.0", "clear"), SAID)
    forged = changed(DATA, "disks.0.methods.0", "overwrite")
    with pytest.raises(Refused, match="overwrite does not reach purge"):
        check(forged, changed(SAID, "disks.0.method", "overwrite"))


def test_full_was_asked_and_not_done() -> None:
    data = order(verify="full")
    said = outcome(data)
    check(data, said)
    for path, value in (("full", False), ("bytes_read", 4096), ("full", ...)):
        with pytest.raises(Refused, match="the whole disk was to be read back"):
            check(data, changed(said, f"disks.0.verification.{path}", value))


def test_hidden_parts_must_have_been_uncovered() -> None:
    data = changed(DATA, "disks.0.preparations", ["remove-hpa"])
    with pytest.raises(Refused, match="does not say that it did remove-hpa"):
        check(data, SAID)
    check(data, outcome(data))


def test_a_size_that_grew_by_what_was_hidden() -> None:
    grown = changed(SAID, "disks.0.size_bytes", DATA["disks"][0]["size_bytes"] + 512)
    with pytest.raises(Refused, match="its size is"):
        check(DATA, grown)
    # The agent looks itself, whether the plan knew or not.
    found = changed(grown, "disks.0.preparations", [{"what": "remove-hpa", "result": "done"}])
    check(DATA, found)
    with pytest.raises(Refused, match="its size is"):
        check(DATA, changed(found, "disks.0.size_bytes", 512))
    with pytest.raises(Refused, match="its size is"):
        check(DATA, changed(found, "disks.0.preparations.0.result", "failed"))


def test_a_preparation_that_failed_and_hinders_nothing() -> None:
    for what in ("unfreeze", "clear-password", "wait-sanitize"):
        check(DATA, changed(SAID, "disks.0.preparations", [{"what": what, "result": "failed"}]))
    for what in ("unfreeze", "clear-password", "stop-holders"):
        with pytest.raises(Refused, match=f"{what} failed before the erase"):
            check(DATA, changed(SAID, "disks.1.preparations", [{"what": what, "result": "failed"}]), disk=1)


@pytest.mark.parametrize(
    "status",
    [
        "0x0000",
        "SSTAT 0x0101",
        "sstat=4",
        "no errors; not frozen, not locked",
        "done",
        "sanitize log ffff0101" + "00" * 16,
        "status 50h, error 00h, count 8000h, LBA 000000000000h",
        "IDENTIFY DEVICE word 128 0029h",
        "REQUEST SENSE sense key 0h, 00h/00h, TEST UNIT READY sense key 0h, 00h/00h",
        "Format NVM namespace 1: status 0x0000, namespace 2: status 0x0000",
    ],
)
def test_a_good_last_word(status: str) -> None:
    check(DATA, changed(SAID, "disks.0.firmware_status", status))


def test_what_the_host_wrote_needs_known_contents_and_no_status() -> None:
    data = order([VIRTIO], Level.CLEAR)
    said = outcome(data)
    check(data, said)
    with pytest.raises(Refused, match="after overwrite, 'changed' does not prove"):
        check(data, changed(said, "disks.0.verification.expected", "changed"))
    # It was zero before, and is zero now.
    check(data, changed(said, "disks.0.verification.after_digest", "ab" * 32))


json = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8), st.just("erased")),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=5), inner, max_size=3)),
    max_leaves=8,
)
PATHS = [
    *(f"{name}" for name in SAID if name not in ("agent", "kernel", "tools", "seconds", "untouched", "refused")),
    *(f"disks.0.{name}" for name in ("serial", "wwn", "model", "size_bytes", "result", "method", "verification")),
    *(f"disks.0.verification.{name}" for name in SAID["disks"][0]["verification"] if name != "full"),
]


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(PATHS), json)
def test_rubbish_in_one_place_is_refused_and_nothing_else_happens(path: str, value: Any) -> None:
    """Any other value in a place that matters: refused, never an accident, and never a proof."""
    before: Any = SAID
    for part in path.split("."):
        before = before[int(part) if part.isdecimal() else part]
    counts = path.endswith((".samples", ".bytes_read")) and type(value) is int and value > 0
    if value == before or counts:
        return
    with pytest.raises(Refused):
        check(DATA, changed(SAID, path, value))
