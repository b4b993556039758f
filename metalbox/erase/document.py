"""Signed documents in a chain: canonical JSON, Ed25519, each with the digest of the one before. PURE.

Anyone with the public key can check them, with this file or without metalbox: the signature (RFC 8032) is over the
canonical JSON of the document without its member "signature". Canonical means UTF-8, members sorted by name, no white
space, no escapes but those that JSON requires, and integers instead of fractions.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum
from typing import Any

from metalbox.errors import InvalidValue

FORMAT = "metalbox-certificate-1"
ALGORITHM = "Ed25519"
# What the first document names as the digest of the one before it.
NOTHING = "0" * 64
# More than any document has; a longer file is none.
MAX_BYTES = 4 * 2**20

_DIGEST = re.compile(r"[0-9a-f]{64}")


class Kind(StrEnum):
    """What a document certifies, or records."""

    DRIVE = "drive"
    MACHINE = "machine"
    FAILURE = "failure"


def canonical(document: Mapping[str, Any]) -> bytes:
    """The one way to write a document. Raises InvalidValue for what has no one way: fractions, odd keys, surrogates."""
    try:
        _inspect(document, "")
    except RecursionError:
        raise InvalidValue("the document is nested too deeply") from None
    text = json.dumps(document, ensure_ascii=False, allow_nan=False, sort_keys=True, separators=(",", ":"))
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError:
        raise InvalidValue("the document holds a text that is no Unicode") from None


def _inspect(value: Any, path: str) -> None:
    if isinstance(value, Mapping):
        for name, inner in value.items():
            if not isinstance(name, str):
                raise InvalidValue(f"the document's {path or 'top'} has a member that is not named by a text")
            _inspect(inner, f"{path}.{name}".lstrip("."))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            _inspect(inner, f"{path}[{index}]")
    elif value is not None and not isinstance(value, (str, bool, int)):
        raise InvalidValue(f"the document's {path} is a {type(value).__name__}, which has no one way to be written")


def digest(document: Mapping[str, Any]) -> str:
    """SHA-256 of the whole canonical document, signature included: what the next one names as the one before."""
    return hashlib.sha256(canonical(document)).hexdigest()


def key_id(public: bytes) -> str:
    """The name of a public key (32 raw bytes): the first 32 hex digits of its SHA-256."""
    return hashlib.sha256(public).hexdigest()[:32]


def signed_bytes(document: Mapping[str, Any]) -> bytes:
    """What the signature is over."""
    return canonical({name: value for name, value in document.items() if name != "signature"})


def sign(draft: Mapping[str, Any], public: bytes, signer: Callable[[bytes], bytes]) -> dict[str, Any]:
    """The document with its signature; `signer` is the private half of `public`."""
    value = base64.b64encode(signer(signed_bytes(draft))).decode()
    return {**draft, "signature": {"algorithm": ALGORITHM, "key": key_id(public), "value": value}}


def read(content: bytes) -> dict[str, Any]:
    """Parse a document's file, one line end allowed after it. Raises InvalidValue when it is not canonical."""
    if len(content) > MAX_BYTES:
        raise InvalidValue(f"it is longer than {MAX_BYTES} bytes, and no certificate")
    body = content.removesuffix(b"\n")
    try:
        document = json.loads(body.decode("utf-8"))
    except (ValueError, RecursionError):
        raise InvalidValue("it is not JSON in UTF-8") from None
    if not isinstance(document, dict):
        raise InvalidValue("it is no JSON object")
    if canonical(document) != body:
        raise InvalidValue("it is not written in the canonical way: it was changed or reformatted after it was signed")
    return document


def verify(document: Mapping[str, Any], *publics: bytes) -> list[str]:
    """What is wrong with one document, as sentences; [] when it is signed by one of these keys and whole."""
    try:
        body = signed_bytes(document)
    except (InvalidValue, RecursionError) as error:
        return [str(error)]
    problems = _shape(document)
    signature = document.get("signature")
    if not isinstance(signature, Mapping) or set(signature) != {"algorithm", "key", "value"}:
        return [*problems, "it has no signature, or one of another shape"]
    if signature["algorithm"] != ALGORITHM:
        return [*problems, f"it is signed with {signature['algorithm']!r}, and only {ALGORITHM} is known"]
    public = next((one for one in publics if key_id(one) == signature["key"]), None)
    if public is None:
        given = ", ".join(key_id(one) for one in publics) or "none"
        return [*problems, f"it is signed with the key {signature['key']!r}, and what was given is {given}"]
    if not _is_signed(body, signature["value"], public):
        problems.append("its signature does not fit: it was changed after it was signed")
    return problems


def _shape(document: Mapping[str, Any]) -> list[str]:
    problems = []
    if document.get("format") != FORMAT:
        problems.append(f"its format is {document.get('format')!r}, and only {FORMAT} is known")
    number = document.get("number")
    if not isinstance(number, int) or isinstance(number, bool) or number < 1:
        problems.append(f"its number is {number!r}, which is none")
    if not _DIGEST.fullmatch(str(document.get("previous"))):
        problems.append("it does not name the document before it by a digest")
    if document.get("kind") not in list(Kind):
        problems.append(f"its kind is {document.get('kind')!r}, which is not known")
    return problems


def _is_signed(body: bytes, value: Any, public: bytes) -> bool:
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    try:
        raw = base64.b64decode(value, validate=True)
        # Base64 can say the same bytes in several ways; one is enough.
        if base64.b64encode(raw).decode() != value:
            return False
        Ed25519PublicKey.from_public_bytes(public).verify(raw, body)
    except (InvalidSignature, binascii.Error, TypeError, ValueError):
        return False
    return True


def verify_chain(documents: Sequence[Mapping[str, Any]], *, complete: bool = False) -> list[str]:
    """What is wrong between documents that are each sound, as sentences; in any order, some may be left out.

    `complete`: they are said to be all from the first on, so that a missing one is told. Nobody can tell from the
    documents alone whether the newest ones are missing.
    """
    problems = []
    numbered: dict[int, Mapping[str, Any]] = {}
    for document in documents:
        other = numbered.setdefault(document["number"], document)
        if digest(other) != digest(document):
            problems.append(f"there are two different documents with the number {document['number']}")
    last = 0
    for number in sorted(numbered):
        before = numbered.get(number - 1)
        expected = digest(before) if before is not None else NOTHING
        if (before is not None or number == 1) and numbered[number]["previous"] != expected:
            what = f"number {number - 1} as it is here" if before is not None else "none, as the first one must"
            problems.append(f"number {number} was not signed after {what}: one of them is from another chain")
        if complete and number != last + 1:
            problems.append(f"numbers {last + 1} to {number - 1} are missing")
        last = number
    for number, document in sorted(numbered.items()):
        problems += _members(number, document, numbered)
    return problems


def _members(number: int, document: Mapping[str, Any], numbered: Mapping[int, Mapping[str, Any]]) -> list[str]:
    """Whether the drive certificates that a machine certificate lists are those that are here."""
    rows = document.get("drives", []) if document.get("kind") == Kind.MACHINE else []
    return [
        f"number {number} lists number {row['number']} with another digest than the one that is here has"
        for row in rows
        if row["number"] in numbered and digest(numbered[row["number"]]) != row["digest"]
    ]
