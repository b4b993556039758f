"""Which bytes a request is answered with: every precondition of RFC 9110, alone and in its order."""

from __future__ import annotations

import pytest

from metalbox.web.conditional import Part, Version, asked_part

SIZE = 1000
# Sun, 06 Nov 1994 08:49:37 GMT, the time of RFC 9110's own examples.
AT = 784111777
NOW = float(AT + 100)
FILE = Version.of(SIZE, AT * 10**9 + 123, 7)
SAME, BEFORE, AFTER = (
    "Sun, 06 Nov 1994 08:49:37 GMT",
    "Sun, 06 Nov 1994 08:49:36 GMT",
    "Sun, 06 Nov 1994 08:49:38 GMT",
)
OTHER = '"other"'
WHOLE = (200, 0, SIZE)


def answer(headers: dict[str, str], *, is_get: bool = True, now: float = NOW) -> tuple[int, int, int]:
    part = asked_part(headers, FILE, now, is_get=is_get)
    return part.status, part.start, part.stop


def test_a_file_written_again_or_replaced_is_another_version() -> None:
    assert FILE.last_modified == SAME
    others = (Version.of(SIZE, AT * 10**9 + 124, 7), Version.of(SIZE, AT * 10**9 + 123, 8), Version.of(SIZE + 1, 1, 7))
    assert len({FILE.etag, *(other.etag for other in others)}) == 4
    assert FILE.etag.startswith('"')
    assert FILE.etag.endswith('"')


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"If-None-Match": FILE.etag}, 304),
        ({"If-None-Match": f"W/{FILE.etag}"}, 304),
        ({"If-None-Match": f'{OTHER}, W/"x,y" ,{FILE.etag}'}, 304),
        ({"If-None-Match": "*"}, 304),
        ({"If-None-Match": OTHER}, 200),
        ({"If-None-Match": FILE.etag.strip('"')}, 200),
        ({"If-Modified-Since": SAME}, 304),
        ({"If-Modified-Since": AFTER}, 304),
        ({"If-Modified-Since": BEFORE}, 200),
        ({"If-Modified-Since": "Sunday, 06-Nov-94 08:49:37 GMT"}, 304),
        ({"If-Modified-Since": "Sun Nov  6 08:49:37 1994"}, 304),
        ({"If-Modified-Since": "yesterday"}, 200),
        ({"If-Modified-Since": "Sun, 06 Nov 99999999999999999999 08:49:37 GMT"}, 200),
        # The tag is the better witness: the time is not looked at beside it.
        ({"If-None-Match": OTHER, "If-Modified-Since": AFTER}, 200),
        ({"If-Match": FILE.etag}, 200),
        ({"If-Match": "*"}, 200),
        ({"If-Match": f"W/{FILE.etag}"}, 412),
        ({"If-Match": OTHER}, 412),
        ({"If-Unmodified-Since": SAME}, 200),
        ({"If-Unmodified-Since": BEFORE}, 412),
        ({"If-Match": FILE.etag, "If-Unmodified-Since": BEFORE}, 200),
        ({"If-Match": OTHER, "If-None-Match": FILE.etag}, 412),
        ({"If-Match": FILE.etag, "If-None-Match": FILE.etag}, 304),
    ],
)
def test_preconditions(headers: dict[str, str], status: int) -> None:
    expected = WHOLE if status == 200 else (status, 0, 0)
    assert answer(headers) == expected
    assert answer(headers, is_get=False) == expected


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ("bytes=0-0", (206, 0, 1)),
        ("bytes=10-", (206, 10, SIZE)),
        ("bytes=-10", (206, SIZE - 10, SIZE)),
        ("bytes=-5000", (206, 0, SIZE)),
        ("bytes=990-5000", (206, 990, SIZE)),
        ("Bytes = 1 - 2", (206, 1, 3)),
        ("bytes=1000-", (416, 0, 0)),
        ("bytes=5000-6000", (416, 0, 0)),
        ("bytes=-0", (416, 0, 0)),
        ("bytes=5-2", WHOLE),
        ("bytes=-", WHOLE),
        ("bytes=0-1,5-6", WHOLE),
        ("bytes=a-b", WHOLE),
        ("bytes=" + "9" * 40 + "-", WHOLE),
        ("items=0-1", WHOLE),
        ("", WHOLE),
    ],
)
def test_ranges(asked: str, expected: tuple[int, int, int]) -> None:
    assert answer({"Range": asked}) == expected
    assert answer({"Range": asked}, is_get=False) == WHOLE


@pytest.mark.parametrize(
    ("condition", "is_part"),
    [
        (FILE.etag, True),
        (f"W/{FILE.etag}", False),
        (OTHER, False),
        ('"', False),
        (SAME, True),
        (BEFORE, False),
        # A later time was never ours: what the client has is of another server.
        (AFTER, False),
        ("nonsense", False),
    ],
)
def test_a_part_of_another_version_is_never_sent(condition: str, is_part: bool) -> None:
    assert answer({"Range": "bytes=5-9", "If-Range": condition}) == ((206, 5, 10) if is_part else WHOLE)


def test_a_time_says_nothing_of_a_file_that_was_written_in_this_very_second() -> None:
    headers = {"Range": "bytes=5-9", "If-Range": SAME}
    assert answer(headers, now=AT + 0.9) == WHOLE
    assert answer({"Range": "bytes=5-9", "If-Range": FILE.etag}, now=AT + 0.9) == (206, 5, 10)


def test_if_range_alone_and_a_part_that_is_not_modified() -> None:
    assert answer({"If-Range": OTHER}) == WHOLE
    assert answer({"Range": "bytes=5-9", "If-None-Match": FILE.etag}) == (304, 0, 0)


def test_what_the_headers_say_of_a_part() -> None:
    assert Part(5, 10, SIZE, 206).content_range == "bytes 5-9/1000"
    assert Part(0, 0, SIZE, 416).content_range == "bytes */1000"
    assert Part(0, SIZE, SIZE, 200).content_range == ""
    empty = Version.of(0, 0, 1)
    assert asked_part({"Range": "bytes=0-"}, empty, NOW).status == 416
    assert asked_part({}, empty, NOW).length == 0
