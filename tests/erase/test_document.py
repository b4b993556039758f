"""Documents: one way to write them, and no byte can be changed unseen. OpenSSL, which knows nothing of us, agrees."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from metalbox.erase import certificate
from metalbox.erase.document import (
    NOTHING,
    canonical,
    digest,
    key_id,
    read,
    sign,
    signed_bytes,
    verify,
    verify_chain,
)
from metalbox.errors import InvalidValue
from metalbox.signing import to_pem
from tests.erase.outcomes import changed, erasure

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
PUBLIC = KEY.public_key().public_bytes_raw()
OTHER = Ed25519PrivateKey.from_private_bytes(bytes(32)).public_key().public_bytes_raw()


def make(number: int = 1, previous: str = NOTHING, **changes: Any) -> dict[str, Any]:
    case = erasure(operator="Zoë ✓")
    draft = {**certificate.drive(case, case.data["disks"][0]), "number": number, "previous": previous, **changes}
    return sign(draft, PUBLIC, KEY.sign)


DOCUMENT = make()
CONTENT = canonical(DOCUMENT)


def chain(length: int) -> list[dict[str, Any]]:
    made: list[dict[str, Any]] = []
    for number in range(1, length + 1):
        made.append(make(number, digest(made[-1]) if made else NOTHING))
    return made


def test_what_was_signed_is_verified() -> None:
    assert verify(DOCUMENT, PUBLIC) == verify(DOCUMENT, OTHER, PUBLIC) == []
    assert read(CONTENT) == read(CONTENT + b"\n") == DOCUMENT
    assert "Zoë ✓".encode() in CONTENT


@pytest.mark.parametrize("wrong", [{"a": 1.5}, {"a": [{"b": 0.0}]}, {1: "a"}, {"a": {"b": b"x"}}, {"a": "\ud800"}])
def test_what_has_no_one_way_to_be_written(wrong: Any) -> None:
    with pytest.raises(InvalidValue):
        canonical(wrong)
    assert verify(wrong, PUBLIC)


@settings(max_examples=400, deadline=None)
@given(st.integers(0, len(CONTENT) - 1), st.integers(1, 255))
def test_any_byte_changed_is_seen(where: int, flip: int) -> None:
    content = CONTENT[:where] + bytes([CONTENT[where] ^ flip]) + CONTENT[where + 1 :]
    try:
        document = read(content)
    except InvalidValue:
        return
    assert verify(document, PUBLIC)


@settings(max_examples=100, deadline=None)
@given(st.integers(0, len(CONTENT)), st.binary(min_size=1, max_size=4))
def test_any_byte_more_or_less_is_seen(where: int, more: bytes) -> None:
    for content in (CONTENT[:where] + more + CONTENT[where:], CONTENT[:where] + CONTENT[where + len(more) :]):
        if content.removesuffix(b"\n") == CONTENT:
            continue
        try:
            document = read(content)
        except InvalidValue:
            continue
        assert verify(document, PUBLIC)


def paths(value: Any, at: str = "") -> list[str]:
    found = [at] if at else []
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, one in inner:
        found += paths(one, f"{at}.{name}".lstrip("."))
    return found


@pytest.mark.parametrize("path", paths(DOCUMENT))
def test_any_member_changed_or_taken_away_is_seen(path: str) -> None:
    for value in ("something else", 77, None, ...):
        assert verify(changed(DOCUMENT, path, value), PUBLIC), path
    assert verify({**DOCUMENT, "more": 1}, PUBLIC)


def test_the_sentences() -> None:
    assert verify(DOCUMENT, OTHER) == [
        f"it is signed with the key '{key_id(PUBLIC)}', and what was given is {key_id(OTHER)}"
    ]
    assert "what was given is none" in verify(DOCUMENT)[0]
    assert verify(changed(DOCUMENT, "operator", "mallory"), PUBLIC) == [
        "its signature does not fit: it was changed after it was signed"
    ]
    assert verify(changed(DOCUMENT, "signature.algorithm", "none"), PUBLIC) == [
        "it is signed with 'none', and only Ed25519 is known"
    ]
    assert "no signature" in verify(changed(DOCUMENT, "signature", ...), PUBLIC)[0]
    wrong: list[dict[str, Any]] = [{"format": "x"}, {"number": 0}, {"number": True}, {"previous": "x"}, {"kind": "no"}]
    for changes in wrong:
        assert verify(make(**changes), PUBLIC), changes


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "not JSON"),
        (b"[1]", "no JSON object"),
        (b"\xff", "not JSON in UTF-8"),
        (json.dumps(DOCUMENT).encode(), "canonical way"),
        (CONTENT + b"\n\n", "canonical way"),
        (b"[" * 100_000, "not JSON"),
        (b'{"a":1,"a":1}', "canonical way"),
        (b" " * (4 * 2**20 + 1), "longer than"),
    ],
)
def test_files_that_are_none(content: bytes, words: str) -> None:
    with pytest.raises(InvalidValue, match=words):
        read(content)


def test_a_chain() -> None:
    made = chain(4)
    assert verify_chain(made, complete=True) == verify_chain(list(reversed(made)), complete=True) == []
    assert verify_chain([made[1], made[3]]) == []
    assert verify_chain([made[0], made[3]], complete=True) == ["numbers 2 to 3 are missing"]
    assert verify_chain(made[1:], complete=True) == ["numbers 1 to 1 are missing"]
    forged = [made[0], make(2, NOTHING), made[2]]
    assert verify_chain(forged) == [
        "number 2 was not signed after number 1 as it is here: one of them is from another chain",
        "number 3 was not signed after number 2 as it is here: one of them is from another chain",
    ]
    assert "two different documents with the number 2" in verify_chain([*made, make(2, digest(made[0]), seconds=1)])[0]
    assert "number 1 was not signed after none" in verify_chain([make(1, "ab" * 32)])[0]


def test_a_machine_lists_its_drives_by_digest() -> None:
    case = erasure()
    drives = [sign({**certificate.drive(case, row), "number": number, "previous": NOTHING}, PUBLIC, KEY.sign)
              for number, row in enumerate(case.data["disks"], 1)]  # fmt: skip
    whole = sign({**certificate.machine(case, drives), "number": 9, "previous": NOTHING}, PUBLIC, KEY.sign)
    assert verify_chain([drives[0], whole]) == []
    other = sign({**drives[0], "operator": "mallory"}, PUBLIC, KEY.sign)
    assert verify_chain([other, whole]) == ["number 9 lists number 1 with another digest than the one that is here has"]


def test_openssl_agrees(tmp_path: Path) -> None:
    import base64

    (tmp_path / "key.pub").write_text(to_pem(PUBLIC))
    (tmp_path / "signed").write_bytes(signed_bytes(DOCUMENT))
    (tmp_path / "sig").write_bytes(base64.b64decode(DOCUMENT["signature"]["value"]))
    command = [
        "openssl",
        "pkeyutl",
        "-verify",
        "-pubin",
        "-inkey",
        "key.pub",
        "-rawin",
        "-in",
        "signed",
        "-sigfile",
        "sig",
    ]
    assert subprocess.run(command, cwd=tmp_path, capture_output=True, timeout=20, check=False).returncode == 0
    (tmp_path / "signed").write_bytes(signed_bytes({**DOCUMENT, "operator": "mallory"}))
    assert subprocess.run(command, cwd=tmp_path, capture_output=True, timeout=20, check=False).returncode != 0
