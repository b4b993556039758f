"""Which bytes of a file a request is answered with: preconditions and ranges after RFC 9110, sections 13 and 14. PURE.

Anything that cannot be read is as if it were not there: a boot loader with an odd header must boot all the same.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import format_datetime, parsedate_to_datetime

_RANGE = re.compile(r"bytes\s*=\s*(\d{0,19})\s*-\s*(\d{0,19})\s*", re.IGNORECASE)
_TAG = re.compile(r'(W/)?("[\x21\x23-\x7e\x80-\xff]*")')


@dataclass(frozen=True, slots=True)
class Version:
    """A file as it is now: `etag` with its quotes, `modified` in whole Unix seconds."""

    size: int
    etag: str
    modified: int

    @classmethod
    def of(cls, size: int, modified_ns: int, inode: int) -> Version:
        """By what stat(2) tells: a file that was replaced has another inode, one that was written another time."""
        return cls(size, f'"{inode:x}-{modified_ns:x}-{size:x}"', modified_ns // 10**9)

    @property
    def last_modified(self) -> str:
        """The header's value."""
        return format_datetime(datetime.fromtimestamp(self.modified, UTC), usegmt=True)


@dataclass(frozen=True, slots=True)
class Part:
    """The bytes from `start` up to `stop` of a file of `size` bytes, and the status that says so.

    200 all of it, 206 a part; 304, 412 and 416 none.
    """

    start: int
    stop: int
    size: int
    status: int

    @property
    def length(self) -> int:
        return self.stop - self.start

    @property
    def content_range(self) -> str:
        """The header's value, "" where there is none."""
        if self.status == 206:
            return f"bytes {self.start}-{self.stop - 1}/{self.size}"
        return f"bytes */{self.size}" if self.status == 416 else ""


def asked_part(headers: Mapping[str, str], version: Version, now: float, *, is_get: bool = True) -> Part:
    """What a GET (or HEAD) with these headers is answered with, in the order of RFC 9110 section 13.2.2."""
    size = version.size
    if (failed := _failed_precondition(headers, version)) is not None:
        return Part(0, 0, size, failed)
    asked = headers.get("Range")
    if asked is None or not is_get or not _is_same(headers.get("If-Range"), version, now):
        return Part(0, size, size, 200)
    return _part(asked, size)


def _failed_precondition(headers: Mapping[str, str], version: Version) -> int | None:
    """412, 304, or None to go on."""
    match, since = headers.get("If-Match"), _date(headers.get("If-Unmodified-Since"))
    if match is not None:
        if not _has_tag(match, version.etag, is_weak_enough=False):
            return 412
    elif since is not None and version.modified > since:
        return 412
    none_match, since = headers.get("If-None-Match"), _date(headers.get("If-Modified-Since"))
    if none_match is not None:
        return 304 if _has_tag(none_match, version.etag, is_weak_enough=True) else None
    return 304 if since is not None and version.modified <= since else None


def _has_tag(value: str, etag: str, *, is_weak_enough: bool) -> bool:
    if value.strip() == "*":
        return True
    return any(tag == etag and (is_weak_enough or not weak) for weak, tag in _TAG.findall(value))


def _is_same(if_range: str | None, version: Version, now: float) -> bool:
    """Whether a part of this file fits to what the client has (section 13.1.5); yes when it does not ask.

    A time counts only when it is the file's own, and the file was not written in the very second that it was read
    (section 8.8.2.2): else two versions could share it.
    """
    if if_range is None:
        return True
    if '"' in if_range:
        return _TAG.fullmatch(if_range.strip()) is not None and if_range.strip() == version.etag
    return _date(if_range) == version.modified and version.modified < int(now) - 1


def _part(asked: str, size: int) -> Part:
    """One range; several at once, other units and nonsense are answered with the whole file (section 14.2)."""
    found = _RANGE.fullmatch(asked.strip())
    if found is None or found.groups() == ("", ""):
        return Part(0, size, size, 200)
    first, last = found.groups()
    if not first:
        start, stop = max(0, size - int(last)), size
    else:
        start, stop = int(first), min(int(last) + 1, size) if last else size
        if last and int(last) < start:
            return Part(0, size, size, 200)
    return Part(start, stop, size, 206) if start < stop else Part(0, 0, size, 416)


def _date(text: str | None) -> int | None:
    """Unix seconds of any of HTTP's three forms of a time (section 5.6.7)."""
    if text is None:
        return None
    try:
        found = parsedate_to_datetime(text)
    except (TypeError, ValueError, IndexError, OverflowError):
        return None
    return int((found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp())
