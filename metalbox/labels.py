"""Labels of machines: what a key and a value may be, what is to be changed, and who is selected by them. PURE.

Labels are an operator's words (`rack=r1`, `pdu=a/3`); metalbox reads a meaning into none but those that a budget of
power-ons names.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from metalbox.errors import InvalidValue

MAX_LENGTH = 63
# A machine has a handful; the list of machines carries them all.
MAX_LABELS = 64
_WORD = re.compile(r"[A-Za-z0-9._/-]{1,63}")
# In the order in which they are looked for: "!=" holds "=".
_UNEQUAL, _EQUAL = "!=", "="


def check(text: str, what: str = "a label") -> str:
    """Return a key or a value as it is. Raises InvalidValue."""
    if not _WORD.fullmatch(text):
        raise InvalidValue(
            f"{text[: MAX_LENGTH + 1]!r} cannot be {what}: it has letters, digits and . _ - / only, and at most "
            f"{MAX_LENGTH} of them"
        )
    return text


def check_key(text: str) -> str:
    """Return a key as it is; one that ends in "-" would be read as the order to remove it. Raises InvalidValue."""
    if text.endswith("-"):
        raise InvalidValue(f"{text!r} cannot be a label's key: `{text}` is how a label is removed")
    return check(text, "a label's key")


@dataclass(frozen=True, slots=True)
class Changes:
    """What is set and what is taken away."""

    set: Mapping[str, str] = field(default_factory=dict)
    remove: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Raises InvalidValue."""
        for key, value in self.set.items():
            check_key(key)
            check(value, f"the value of {key}")
        for key in self.remove:
            check_key(key)
            if key in self.set:
                raise InvalidValue(f"{key} is set and removed at once")

    def applied(self, labels: Mapping[str, str]) -> dict[str, str]:
        """The labels afterwards, sorted. Raises InvalidValue when there are too many."""
        after = {key: value for key, value in {**labels, **self.set}.items() if key not in self.remove}
        if len(after) > MAX_LABELS:
            raise InvalidValue(f"a machine has at most {MAX_LABELS} labels, this would make {len(after)}")
        return dict(sorted(after.items()))


def is_change(word: str) -> bool:
    """Whether a word of a command line changes a label: `key=value`, or `key-` to remove it."""
    return _EQUAL in word or (word.endswith("-") and len(word) > 1)


def read_changes(words: Iterable[str]) -> Changes:
    """Read `key=value` and `key-`. Raises InvalidValue."""
    wanted: dict[str, str] = {}
    remove: list[str] = []
    for word in words:
        key, equal, value = word.partition(_EQUAL)
        if not equal:
            remove.append(word.removesuffix("-"))
            continue
        if not value:
            raise InvalidValue(f"{word!r} gives no value: write {key}=VALUE, or {key}- to remove the label")
        if wanted.get(key, value) != value:
            raise InvalidValue(f"{key} is given two values: {wanted[key]} and {value}")
        wanted[key] = value
    return Changes(wanted, tuple(dict.fromkeys(remove)))


@dataclass(frozen=True, slots=True)
class Term:
    """One condition: `key` is there ("" as `value`), is `value`, or with `is_not` neither."""

    key: str
    value: str = ""
    is_not: bool = False

    def fits(self, labels: Mapping[str, str]) -> bool:
        """Whether a machine with these labels fulfils it; one without the key is not equal to anything."""
        has = labels.get(self.key) == self.value if self.value else self.key in labels
        return has is not self.is_not


def read_selector(text: str) -> tuple[Term, ...]:
    """Read `rack=r1,role!=db,gpu,!broken`: all of them must be fulfilled; "" is none. Raises InvalidValue."""
    return tuple(_term(part.strip(), text) for part in text.split(",")) if text.strip() else ()


def is_selector(text: str) -> bool:
    """Whether a word that may be a machine's name is a selector by labels: it has a sign that no name has."""
    return _EQUAL in text or text.startswith("!")


def fits(terms: Sequence[Term], labels: Mapping[str, str]) -> bool:
    """Whether a machine with these labels is meant."""
    return all(term.fits(labels) for term in terms)


def shown(labels: Mapping[str, str]) -> str:
    """All of them in one line."""
    return ",".join(f"{key}={value}" for key, value in sorted(labels.items()))


def _term(part: str, whole: str) -> Term:
    if not part:
        raise InvalidValue(f"{whole!r} has an empty part: write rack=r1,role!=db")
    is_not = _UNEQUAL in part
    key, equal, value = part.partition(_UNEQUAL if is_not else _EQUAL)
    if equal:
        return Term(check_key(key.strip()), check(value.strip(), f"the value of {key.strip()}"), is_not)
    return Term(check_key(part.removeprefix("!").strip()), is_not=part.startswith("!"))
