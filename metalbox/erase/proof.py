"""Whether an outcome proves that a disk was erased: every single reason against it. PURE.

What an agent sends is a claim. It counts only where the order, the outcome and the verification tell one story without
a gap; whatever is missing, unknown or contradicts is a refusal, in a sentence for the failure record.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from metalbox.erase.methods import SECURITY, TABLE, Expected, Level, Method
from metalbox.errors import Refused
from metalbox.identity import same_uuid
from metalbox.machine import Machine
from metalbox.report import clean

# What a drive's last words must not contain, once the harmless phrases are gone.
BAD_WORDS = re.compile(
    r"fail|error|abort|in progress|unknown|unsupported|not supported|incomplete|not completed|frozen|locked"
)
HARMLESS = re.compile(
    r"\berror 00h|"
    r"\b(no|not|without|zero|0|never)\s+(any\s+)?(fail(ures?|ed)?|errors?|abort(ed|s)?|frozen|locked)\b"
)
# Numbers in which drives say how it ended, as the agent writes them, and what they must be. NVMe Base 2.0 section
# 5.16.1.22: SSTAT bits 2:0 are 1 (completed) or 4 (and deallocated). ACS-4, SANITIZE STATUS EXT: COUNT bit 15 is
# completed, bit 14 in progress; IDENTIFY word 128: bit 1 is a password, bit 2 locked.
SSTAT_DONE = (1, 4)
ENDINGS: tuple[tuple[re.Pattern[str], Callable[[str], bool]], ...] = (
    (re.compile(r"\bsstat\b\W*0x([0-9a-f]+)"), lambda told: int(told, 16) & 0b111 in SSTAT_DONE),
    (re.compile(r"\bsstat\b\W*(\d+)(?!x)\b"), lambda told: int(told) & 0b111 in SSTAT_DONE),
    (re.compile(r"\bsanitize log [0-9a-f]{4}([0-9a-f]{2})"), lambda told: int(told, 16) & 0b111 in SSTAT_DONE),
    (re.compile(r"\berror ([0-9a-f]{2})h"), lambda told: int(told, 16) == 0),
    (re.compile(r"\bcount ([0-9a-f]{4})h"), lambda told: int(told, 16) & 0xC000 == 0x8000),
    (re.compile(r"\bword 128 ([0-9a-f]{4})h"), lambda told: int(told, 16) & 0b110 == 0),
    (re.compile(r"\bsense key ([0-9a-f])h"), lambda told: int(told, 16) == 0),
    (re.compile(r"\bstatus 0x([0-9a-f]+)"), lambda told: int(told, 16) == 0),
)
# Of preparations: without these, a part of the disk was out of sight.
UNCOVERING = ("remove-hpa", "remove-dco")
# The regions that are read whatever the disk.
ALWAYS_READ = ("first", "last")

_DIGEST = re.compile(r"[0-9a-f]{64}")


def mapping(value: Any) -> Mapping[str, Any]:
    """The value where it is an object, else an empty one."""
    return value if isinstance(value, Mapping) else {}


def rows(value: Any) -> list[Mapping[str, Any]]:
    """The objects in a list; [] for what is no list."""
    return [row for row in value if isinstance(row, Mapping)] if isinstance(value, Sequence) else []


def text(value: Any) -> str:
    """The value where it is a text, without what cannot be printed; else ""."""
    return clean(value)[:2000] if isinstance(value, str) else ""


def whole(value: Any) -> int | None:
    """The value where it is an integer; True and 1.0 are none."""
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def marks(row: Mapping[str, Any]) -> tuple[str, str]:
    """By what rows of an order and of an outcome are told to be one disk: serial number and WWN."""
    return text(row.get("serial")), text(row.get("wwn"))


def check_order(data: Mapping[str, Any], outcome: Mapping[str, Any], machine: Machine) -> None:
    """Raises Refused when the outcome as a whole is not that of this order on this machine."""
    if not outcome:
        raise Refused("the agent never said what came of it")
    if refused := text(outcome.get("refused")):
        raise Refused(f"the agent refused the whole order: {refused}")
    if machine.conflict:
        raise Refused(f"which machine this is was not certain: {machine.conflict}")
    boot_id = text(data.get("boot_id"))
    if not boot_id or outcome.get("boot_id") != boot_id:
        raise Refused(f"the order was for the boot {boot_id!r}, and the outcome is from {outcome.get('boot_id')!r}")
    meant, spoke = mapping(data.get("machine")), mapping(outcome.get("machine"))
    for who, uuid, serial in (
        ("the agent's machine", text(spoke.get("uuid")), text(spoke.get("serial"))),
        ("the machine", machine.uuid, machine.serial),
    ):
        wanted = text(meant.get("uuid")), text(meant.get("serial"))
        if wanted[0] and not _is_same(uuid, wanted[0]):
            raise Refused(f"the order was for the UUID {wanted[0]}, and {who} has {uuid or 'none'}")
        if wanted[1] and serial != wanted[1]:
            raise Refused(f"the order was for the serial number {wanted[1]}, and {who} has {serial or 'none'}")


def _is_same(uuid: str, wanted: str) -> bool:
    # Equal placeholders are no mark, and none against it: the boot and the serial number are compared too.
    try:
        return uuid.lower() == wanted.lower() or same_uuid(uuid.lower(), wanted.lower())
    except ValueError:
        return False


def check_disk(data: Mapping[str, Any], row: Mapping[str, Any], outcome: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return what the outcome says of a disk of the order. Raises Refused unless it proves the erase."""
    found = _found(row, outcome)
    if found.get("result") != "erased":
        evidence = text(found.get("evidence")) or "without evidence"
        raise Refused(f"the agent says {text(found.get('result')) or 'nothing'!r}: {evidence}")
    if text(found.get("model")) != text(row["model"]):
        raise Refused(f"its model is {text(found.get('model'))!r}, and the order named {row['model']!r}")
    _check_size(row, found)
    method = _method(data, row, found)
    _check_attempts(method, row, found)
    _check_status(method, text(found.get("firmware_status")))
    _check_verification(data, found, method, mapping(found.get("verification")))
    return found


def _check_size(row: Mapping[str, Any], found: Mapping[str, Any]) -> None:
    """The size of the order, or more where the agent says that it brought hidden sectors to light."""
    size = whole(found.get("size_bytes"))
    done = [one.get("what") for one in rows(found.get("preparations")) if one.get("result") == "done"]
    is_uncovered = size is not None and size > row["size_bytes"] and any(what in done for what in UNCOVERING)
    if size != row["size_bytes"] and not is_uncovered:
        raise Refused(f"its size is {found.get('size_bytes')!r} bytes, and the order named {row['size_bytes']!r}")


def _found(row: Mapping[str, Any], outcome: Mapping[str, Any]) -> Mapping[str, Any]:
    told = rows(outcome.get("disks"))
    same = [one for one in told if marks(one) == marks(row)]
    if len(same) == 1:
        return same[0]
    if same:
        raise Refused("the agent tells of it twice")
    for one in told:
        for mark in ("serial", "wwn"):
            if row[mark] and text(one.get(mark)) == text(row[mark]):
                other = "wwn" if mark == "serial" else "serial"
                raise Refused(f"its {other} is {one.get(other)!r}, and the order named {row[other]!r}")
    raise Refused("the agent says nothing of it")


def _method(data: Mapping[str, Any], row: Mapping[str, Any], found: Mapping[str, Any]) -> Method:
    """The method that was used, when the order lists it and it reaches the order's level."""
    named = found.get("method")
    if named not in row["methods"] or named not in list(Method):
        raise Refused(f"it was erased by {named!r}, which the order does not list")
    method, wanted = Method(named), Level(data["level"])
    level = Level(row["levels"][row["methods"].index(named)])
    if not level.reaches(wanted) or not any(one.reaches(level) for one in TABLE[method].levels):
        raise Refused(f"{method} does not reach {wanted} on it")
    return method


def _check_attempts(method: Method, row: Mapping[str, Any], found: Mapping[str, Any]) -> None:
    attempts = rows(found.get("attempts"))
    if attempts and (attempts[-1].get("method") != method or _is_bad(attempts[-1].get("result"))):
        raise Refused(
            f"its last attempt was {text(attempts[-1].get('method'))!r} with the result "
            f"{text(attempts[-1].get('result'))!r}, and it is said to be erased by {method}"
        )
    preparations = rows(found.get("preparations"))
    for preparation in preparations:
        if _is_bad(preparation.get("result")) and not _is_harmless(method, preparation.get("what")):
            raise Refused(f"{text(preparation.get('what'))} {text(preparation.get('result'))} before the erase")
    done = [preparation.get("what") for preparation in preparations]
    for what in UNCOVERING:
        if what in row["preparations"] and what not in done:
            raise Refused(f"the agent does not say that it did {what}, so that a part of the disk was hidden")


def _is_harmless(method: Method, what: Any) -> bool:
    """Whether an erase may be right though this preparation failed.

    A freeze or a password hinders security commands only; a sanitize that failed before is done again.
    """
    return what == "wait-sanitize" or (what in ("unfreeze", "clear-password") and method not in SECURITY)


def _is_bad(result: Any) -> bool:
    return not isinstance(result, str) or not result or bool(BAD_WORDS.search(result.lower())) or "refused" in result


def _check_status(method: Method, status: str) -> None:
    """The drive's own last word, where the drive erased itself."""
    if not method.is_firmwares:
        return
    if not status:
        raise Refused("the drive's own final status is missing")
    lower = status.lower()
    if not all(is_good(told) for ending, is_good in ENDINGS for told in ending.findall(lower)):
        raise Refused(f"the drive's own final status is {status!r}: that is not the end of a successful erase")
    if BAD_WORDS.search(HARMLESS.sub("", lower)):
        raise Refused(f"the drive's own final status is {status!r}")


def _check_verification(
    data: Mapping[str, Any], found: Mapping[str, Any], method: Method, told: Mapping[str, Any]
) -> None:
    """Raises Refused unless what was read back is what must be read after this method."""
    if told.get("result") != "passed":
        raise Refused(f"the verification says {told.get('result')!r}")
    if not data.get("seed") or told.get("seed") != data["seed"]:
        raise Refused("the verification was not made at the positions that the order's seed gives")
    counts = {name: whole(told.get(name)) for name in ("samples", "bytes_read", "unchanged")}
    if not counts["samples"] or counts["samples"] < 1 or not counts["bytes_read"] or counts["bytes_read"] < 1:
        raise Refused(f"the verification read {told.get('samples')!r} samples, {told.get('bytes_read')!r} bytes")
    if counts["unchanged"] != 0:
        raise Refused(f"{told.get('unchanged')!r} sampled blocks are as they were before the erase")
    for name in ("mismatches", "signatures"):
        if told.get(name) != []:
            raise Refused(f"the verification lists {name}: {_first(told.get(name))}")
    regions = mapping(told.get("regions"))
    for region in ALWAYS_READ:
        if not whole(regions.get(region)):
            raise Refused(f"the {region} region of the disk was not read back")
    if data["verify"] == "full" and (told.get("full") is not True or counts["bytes_read"] < found["size_bytes"]):
        raise Refused("the whole disk was to be read back, and was not")
    expected, before, after = (told.get(name) for name in ("expected", "before_digest", "after_digest"))
    if expected not in TABLE[method].expected:
        raise Refused(f"after {method}, {expected!r} does not prove that it was done")
    if not all(isinstance(one, str) and _DIGEST.fullmatch(one) for one in (before, after)):
        raise Refused("the digests of what was read before and after are missing")
    if expected == Expected.CHANGED and before == after:
        raise Refused("what was read after the erase is what was read before it")


def _first(value: Any) -> str:
    return repr(value[0])[:200] if isinstance(value, list) and value else repr(value)[:200]
