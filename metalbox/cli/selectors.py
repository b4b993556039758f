"""Which machines are meant: names, lists, ranges like `r[1-3]-[01-20]`, labels, `all`; and how many at most.

A selector means every name that it spells. One that is not known is an error, and nothing is done to the others: half a
rack is not what was asked for. `rack=r1,role!=db` means every machine that fulfils all of it. Touches nothing.
"""

from __future__ import annotations

import difflib
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from itertools import product

from metalbox.errors import InvalidValue, NotFound, Refused
from metalbox.labels import fits, is_selector, read_selector
from metalbox.machine import Mac

ALL = "all"
# Far more machines than one order is for, and few enough to be spelled at once.
MAX_NAMES = 10_000
# How many names an error message holds.
MENTIONED = 3

_RANGE = re.compile(r"([0-9]{1,9})(?:-([0-9]{1,9}))?")


def select(
    selectors: Sequence[str],
    known: Iterable[str],
    *,
    aliases: Mapping[str, str] | None = None,
    labels: Mapping[str, Mapping[str, str]] | None = None,
) -> tuple[str, ...]:
    """The names that are meant, in the order of the selectors, each once.

    `aliases` maps other marks of a machine (id, MAC, UUID, serial) to its name; leave out what several machines share.
    `labels` are those of each machine. Raises NotFound for what is not known, InvalidValue for what cannot be read.
    """
    names = dict.fromkeys(known)
    marks = _marks(names, aliases or {})
    if not any(split(selector) for selector in selectors):
        raise InvalidValue(f"no machine is named: write names, a range like r1-[01-20], or {ALL}")
    found: dict[str, None] = {}
    missing: dict[str, None] = {}
    for selector in selectors:
        if is_selector(selector) and not _mark(selector, names, marks):
            found |= dict.fromkeys(labelled(selector, labels or {}))
            continue
        for text in [selector] if _mark(selector, names, marks) else split(selector):
            if text == ALL:
                found |= dict.fromkeys(sorted(names, key=natural))
                continue
            for spelled in [text] if _mark(text, names, marks) else spell(text):
                name = _mark(spelled, names, marks)
                (missing if name is None else found)[spelled if name is None else name] = None
    if missing:
        raise NotFound(_unknown(list(missing), names))
    if not found:
        raise NotFound("there are no machines yet")
    return tuple(found)


def labelled(selector: str, labels: Mapping[str, Mapping[str, str]]) -> tuple[str, ...]:
    """The machines whose labels fulfil it, r2 before r10. Raises NotFound when there is none, InvalidValue."""
    terms = read_selector(selector)
    found = sorted((name for name, has in labels.items() if fits(terms, has)), key=natural)
    if not found:
        raise NotFound(f"no machine has the labels {selector}: `metalbox list --wide` shows those there are")
    return tuple(found)


def guard(names: Sequence[str], limit: int, *, verb: str) -> None:
    """Refuse to do something to more machines than were allowed. `verb` is its name: "power off"."""
    if len(names) <= limit:
        return
    shown = ", ".join(names[:MENTIONED])
    rest = f" and {len(names) - MENTIONED} more" if len(names) > MENTIONED else ""
    raise Refused(
        f"{verb} would mean {len(names)} machines ({shown}{rest}), and at most {limit} are allowed: nothing was done; "
        f"add --max {len(names)} if you mean them all"
    )


def split(text: str) -> list[str]:
    """The parts of a comma list; commas inside brackets do not part."""
    parts = [""]
    is_inside = False
    for character in text:
        is_inside = character == "[" or (is_inside and character != "]")
        if character == "," and not is_inside:
            parts.append("")
        else:
            parts[-1] += character
    return [part.strip() for part in parts if part.strip()]


def spell(text: str) -> list[str]:
    """Every name that one selector spells: `r[1-2]-[01-03]` is six. The last bracket turns fastest."""
    pieces = re.split(r"\[([^\[\]]*)\]", text)
    # Even places are plain text, odd ones what stood in brackets.
    if any(bracket in piece for piece in pieces[::2] for bracket in "[]"):
        raise InvalidValue(f"{text!r}: a bracket is open or too many; write a range like r1-[01-20]")
    if len(pieces) == 1:
        return [text]
    choices: list[list[str]] = []
    total = 1
    for place, piece in enumerate(pieces):
        choices.append(_numbers(piece, text) if place % 2 else [piece])
        total *= len(choices[-1])
        if total > MAX_NAMES:
            raise InvalidValue(f"{text!r} spells more than {MAX_NAMES:,} names")
    return ["".join(parts) for parts in product(*choices)]


def natural(name: str) -> tuple[tuple[int, int, str], ...]:
    """A key by which r2 comes before r10."""
    parts = re.findall(r"[0-9]+|[^0-9]+", name)
    return tuple((0, int(part), part) if part[0] in "0123456789" else (1, 0, part) for part in parts)


def _numbers(text: str, whole: str) -> list[str]:
    """What stands in one pair of brackets: numbers and ranges, with the zeros that their beginnings have."""
    found: list[str] = []
    for part in text.split(","):
        match = _RANGE.fullmatch(part.strip())
        if match is None:
            raise InvalidValue(f"{whole!r}: [{text}] is no range of numbers; write [01-20] or [1,3-5]")
        first, last = match[1], match[2] or match[1]
        width = len(first) if first.startswith("0") else 0
        if int(last) < int(first):
            raise InvalidValue(f"{whole!r}: {part.strip()} ends before it begins")
        if width and len(last) < width:
            raise InvalidValue(f"{whole!r}: {part.strip()} begins with zeros and ends without; write both ends alike")
        if int(last) - int(first) >= MAX_NAMES:
            raise InvalidValue(f"{whole!r} spells more than {MAX_NAMES:,} names")
        found += (f"{number:0{width}d}" for number in range(int(first), int(last) + 1))
    return found


def _marks(names: Iterable[str], aliases: Mapping[str, str]) -> dict[str, str]:
    """Every mark in lower case; a name that another one differs from by case only must be written as it is."""
    found = {mark.lower(): name for mark, name in aliases.items()}
    lower = Counter(name.lower() for name in names)
    return found | {name.lower(): name for name in names if lower[name.lower()] == 1}


def _mark(text: str, names: Mapping[str, None], marks: Mapping[str, str]) -> str | None:
    """The machine that a text names: as it is written, or else in any case and by any of its marks."""
    if text in names:
        return text
    with suppress(InvalidValue):
        if text.strip().lower() not in marks:
            return marks.get(Mac.parse(text))
    return marks.get(text.strip().lower())


def _unknown(missing: Sequence[str], names: Iterable[str]) -> str:
    shown = ", ".join(missing[:MENTIONED])
    rest = f" and {len(missing) - MENTIONED} more" if len(missing) > MENTIONED else ""
    close = difflib.get_close_matches(missing[0], list(names), n=MENTIONED)
    hint = f"; did you mean {' or '.join(close)}?" if close else "; `metalbox list` shows all"
    noun = "no machine is called" if len(missing) == 1 else f"{len(missing)} machines are not known:"
    return f"{noun} {shown}{rest}{hint}"
