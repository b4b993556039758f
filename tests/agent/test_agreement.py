"""X25519 and HKDF against their RFCs' numbers and against another implementation."""

from __future__ import annotations

import os

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from metalbox.agent.agreement import ALPHABET, BASE, expand, password, x25519

SALT = bytes(32)


@pytest.mark.parametrize(
    ("scalar", "point", "result"),
    [  # RFC 7748 section 5.2
        (
            "a546e36bf0527c9d3b16154b82465edd62144c0ac1fc5a18506a2244ba449ac4",
            "e6db6867583030db3594c1a424b15f7c726624ec26b3353b10a903a6d0ab1c4c",
            "c3da55379de9c6908e94ea4df28d084f32eccf03491c71f754b4075577a28552",
        ),
        (
            "4b66e9d4d1b4673c5ad22691957d6af5c11b6421e0ea01d42ca4169e7918ba0d",
            "e5210f12786811d3f4b7959d0538ae2c31dbe7106fc03c3efc4cd549c715a493",
            "95cbde9476e8907d7aade45cb4b873f88b595a68799fa152e6f8f7647aac7957",
        ),
    ],
)
def test_the_vectors_of_rfc_7748(scalar: str, point: str, result: str) -> None:
    assert x25519(bytes.fromhex(scalar), bytes.fromhex(point)).hex() == result


def test_a_thousand_rounds_of_rfc_7748() -> None:
    k = u = BASE
    for _ in range(1000):
        k, u = x25519(k, u), k
    assert k.hex() == "684cf59ba83309552800ef566f2f4d3c1c3887c49360e3875f2eb94d99532c51"


def test_it_agrees_with_another_implementation() -> None:
    for _ in range(20):
        mine, theirs = os.urandom(32), X25519PrivateKey.generate()
        public = theirs.public_key().public_bytes_raw()
        assert x25519(mine, BASE) == X25519PrivateKey.from_private_bytes(mine).public_key().public_bytes_raw()
        assert x25519(mine, public) == theirs.exchange(X25519PublicKey.from_public_bytes(x25519(mine, BASE)))


def test_the_first_vector_of_rfc_5869() -> None:
    key, salt, info = bytes([0x0B] * 22), bytes(range(13)), bytes(range(0xF0, 0xFA))
    expected = "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865"
    assert expand(key, salt, info, 42).hex() == expected
    assert expand(key, salt, info, 42) == HKDF(SHA256(), 42, salt, info).derive(key)


def test_passwords_are_strong_enough_for_every_policy_and_differ_by_everything() -> None:
    private, theirs, server, agent = os.urandom(32), x25519(os.urandom(32), BASE), os.urandom(32), os.urandom(32)
    made = {password(private, theirs, SALT, order, server, agent) for order in range(200)}
    assert len(made) == 200
    for text in made:
        assert len(text) == 16 and set(text) <= set(ALPHABET)
        assert any(c.isupper() for c in text) and any(c.islower() for c in text) and any(c.isdigit() for c in text)
    first = password(private, theirs, SALT, 1, server, agent)
    assert first == password(private, theirs, SALT, 1, server, agent)
    assert first != password(private, theirs, bytes([1] * 32), 1, server, agent)
    assert first != password(private, theirs, SALT, 1, agent, server)


def test_a_key_that_makes_every_secret_zero_is_refused() -> None:
    for point in (bytes(32), bytes([1]) + bytes(31)):
        with pytest.raises(ValueError, match="small order"):
            password(os.urandom(32), point, SALT, 1, bytes(32), bytes(32))
