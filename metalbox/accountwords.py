"""What an agent says of the BMC account that it was ordered to make, from JSON to a checked value. PURE."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any

from metalbox.report import clean

MAX_TEXT = 1000
MAX_NOTES = 20
PRIVILEGES = ("operator", "administrator")


@dataclass(frozen=True, slots=True)
class Said:
    """`error` is "" when the account is there; then all the others have values, `address` where the BMC has one."""

    error: str = ""
    notes: tuple[str, ...] = ()
    public_key: str = ""
    user_id: int = 0
    channel: int = 0
    address: str = ""
    privilege: str = ""
    is_new: bool = False

    @property
    def account(self) -> str:
        """Which account it is, for sentences."""
        return f"id {self.user_id}, {self.privilege}, channel {self.channel}"


def parse(outcome: Mapping[str, Any]) -> Said:
    """Take an agent's outcome. What cannot be right becomes an error; nothing is raised."""
    notes = outcome.get("notes")
    kept = tuple(_text(note) for note in notes[:MAX_NOTES]) if isinstance(notes, list) else ()
    error = outcome.get("error")
    if error:
        return Said(error=_text(error) or "the agent failed without a word", notes=kept)
    key, privilege = outcome.get("public_key"), outcome.get("privilege")
    user_id, channel = outcome.get("user_id"), outcome.get("channel")
    if read_key(key) is None or privilege not in PRIVILEGES:
        return Said(error="the agent's answer has no key or no privilege", notes=kept)
    if not _is_number(user_id, 63) or not _is_number(channel, 15):
        return Said(error="the agent's answer has no user id or no channel", notes=kept)
    address = _address(outcome.get("address"))
    return Said(
        "", kept, str(key), int(str(user_id)), int(str(channel)), address, privilege, bool(outcome.get("is_new"))
    )


def read_key(value: object) -> bytes | None:
    """A public key of X25519 as it is written in JSON, None when it is none."""
    if not isinstance(value, str) or len(value) != 64:
        return None
    try:
        raw = bytes.fromhex(value)
    except ValueError:
        return None
    return raw if len(raw) == 32 else None


def _text(value: object) -> str:
    return clean(str(value)[:MAX_TEXT])


def _is_number(value: object, most: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value <= most


def _address(value: object) -> str:
    try:
        found = ip_address(str(value or ""))
    except ValueError:
        return ""
    return "" if found.is_unspecified else str(found)
