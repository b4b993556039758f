"""A password that two ends know and the wire does not: X25519 (RFC 7748), then HKDF with SHA-256 (RFC 5869).

Who listens learns nothing. Who can change what is sent between agent and server can take either end's place.
"""

from __future__ import annotations

import hashlib
import hmac

P = 2**255 - 19
A24 = 121665
BASE = bytes([9]) + bytes(31)
LENGTH = 16  # IPMI 1.5 and many BMCs take no more
ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
LABEL = b"metalbox BMC account 1"


def x25519(scalar: bytes, point: bytes) -> bytes:
    """The function X25519 (RFC 7748 section 5), of 32 bytes each."""
    k = int.from_bytes(scalar, "little") & ~7 & (2**255 - 1) | 2**254
    x1 = int.from_bytes(point, "little") & (2**255 - 1)
    x2, z2, x3, z3, swap = 1, 0, x1, 1, 0
    for t in reversed(range(255)):
        bit = k >> t & 1
        if swap ^ bit:
            x2, z2, x3, z3 = x3, z3, x2, z2
        swap = bit
        a, b, c, d = x2 + z2, x2 - z2, x3 + z3, x3 - z3
        da, cb, aa, bb = d * a, c * b, a * a, b * b
        e = aa - bb
        x3, z3 = (da + cb) ** 2 % P, x1 * (da - cb) ** 2 % P
        x2, z2 = aa * bb % P, e * (aa + A24 * e) % P
    if swap:
        x2, z2 = x3, z3
    return (x2 * pow(z2, P - 2, P) % P).to_bytes(32, "little")


def expand(key: bytes, salt: bytes, info: bytes, length: int) -> bytes:
    """HKDF-SHA256 (RFC 5869): extract, then expand."""
    pseudo = hmac.new(salt, key, hashlib.sha256).digest()
    block, out, count = b"", b"", 0
    while len(out) < length:
        count += 1
        block = hmac.new(pseudo, block + info + bytes([count]), hashlib.sha256).digest()
        out += block
    return out[:length]


def password(private: bytes, theirs: bytes, salt: bytes, order: int, server: bytes, agent: bytes) -> str:
    """The password of an order; `server` and `agent` are both public keys. Raises ValueError for a key of no worth.

    16 letters and digits, of each kind at least one: 95 bits, that no policy of BMCs or shell stumbles over.
    """
    shared = x25519(private, theirs)
    if not any(shared):
        raise ValueError("the other end's public key is a point of small order")
    for turn in range(256):
        info = LABEL + order.to_bytes(8, "big") + server + agent + bytes([turn])
        number = int.from_bytes(expand(shared, salt, info, 48), "big")
        text = ""
        for _ in range(LENGTH):
            number, digit = divmod(number, len(ALPHABET))
            text += ALPHABET[digit]
        if text.upper() != text and text.lower() != text and any(sign.isdigit() for sign in text):
            return text
    raise ValueError("no password could be made of these keys")
