"""A text that nobody may see by accident: a password on its way from an operator's list to the vault. PURE."""

from __future__ import annotations

import hmac
from typing import NoReturn

HIDDEN = "[hidden]"


class Secret:
    """Its repr, str and format are HIDDEN, JSON and pickle refuse it; `reveal` is the one way to the text."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        """The text itself: for the vault, and for the driver that logs in."""
        return self._text

    def __repr__(self) -> str:
        return f"Secret({HIDDEN})"

    def __str__(self) -> str:
        return HIDDEN

    def __format__(self, spec: str) -> str:
        return format(HIDDEN, spec)

    def __bool__(self) -> bool:
        return bool(self._text)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Secret):
            return NotImplemented
        mine, others = (secret._text.encode("utf-8", "surrogatepass") for secret in (self, other))
        return hmac.compare_digest(mine, others)

    def __hash__(self) -> int:
        return hash(self._text)

    def __reduce__(self) -> NoReturn:
        raise TypeError("a secret cannot be pickled or copied")
