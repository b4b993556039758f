"""The service's half of a password that agent and service make together: X25519 and HKDF-SHA256. PURE.

The same as metalbox.agent.agreement, which says why and how; what comes out must be equal.
"""

from __future__ import annotations

from metalbox.secret import Secret

LENGTH = 16
ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
LABEL = b"metalbox BMC account 1"


def public_key(private: bytes) -> bytes:
    """The public key of 32 secret bytes."""
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

    return X25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw()


def password(private: bytes, agent: bytes, salt: bytes, order: int) -> Secret:
    """The password of an order, from our private key and the agent's public one. Raises ValueError for a bad key."""
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

    shared = X25519PrivateKey.from_private_bytes(private).exchange(X25519PublicKey.from_public_bytes(agent))
    info = LABEL + order.to_bytes(8, "big") + public_key(private) + agent
    for turn in range(256):
        number = int.from_bytes(_expand(shared, salt, info + bytes([turn])), "big")
        text = ""
        for _ in range(LENGTH):
            number, digit = divmod(number, len(ALPHABET))
            text += ALPHABET[digit]
        if text.upper() != text and text.lower() != text and any(sign.isdigit() for sign in text):
            return Secret(text)
    raise ValueError("no password could be made of these keys")


def _expand(shared: bytes, salt: bytes, info: bytes) -> bytes:
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF

    return HKDF(algorithm=SHA256(), length=48, salt=salt, info=info).derive(shared)
