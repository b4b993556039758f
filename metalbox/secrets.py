"""The vault: secrets sealed for the database with AES-256-GCM, under one key that is never in the database.

The key is systemd's credential `metalbox-key` where there is one, else the file `metalbox-key` in the data folder, made
when the first secret is sealed. A sealed text names its key, so that a wrong one is told before anything is tried, and
is bound to what it belongs to: moved to another row it does not open.
"""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from metalbox import keyfile
from metalbox.errors import Refused, StartError
from metalbox.secret import Secret

__all__ = ["KEY_NAME", "Secret", "Vault", "key_name", "key_path"]

KEY_NAME = "metalbox-key"
# What must be changed when others may have read the key.
GIVEN_AWAY = "change the passwords that it may have given away"
# What AES-GCM was made for (NIST SP 800-38D section 8.2.2): random, and far below 2^32 secrets under one key.
NONCE_BYTES = 12
VERSION = "v1"


def key_path(data_dir: Path, environment: Mapping[str, str]) -> Path:
    """Where the key is: systemd's credential (systemd.exec(5), LoadCredential=) if given, else in the data folder."""
    return keyfile.path_of(KEY_NAME, data_dir, environment)


def key_name(sealed: str) -> str:
    """The name of the key that a text was sealed with; "" when it is no sealed text."""
    parts = sealed.split(":")
    return parts[1] if len(parts) == 3 and parts[0] == VERSION else ""


class Vault:
    """Seals and opens. Made by `open`; used by one thread at a time."""

    def __init__(self, path: Path, key: bytes) -> None:
        self.path = path
        self._key = key

    @classmethod
    def open(cls, data_dir: Path, in_use: Iterable[str] = (), environment: Mapping[str, str] | None = None) -> Vault:
        """Read the key. Raises StartError when it is missing, wrong or seen by others.

        `in_use` are the names of the keys that the database's secrets are sealed with: only when there are none may
        the key be missing, and is made when the first secret is sealed.
        """
        path = key_path(data_dir, os.environ if environment is None else environment)
        wanted = set(in_use) - {""}
        try:
            key = keyfile.read(path, data_dir, GIVEN_AWAY)
        except FileNotFoundError:
            if wanted:
                raise StartError(
                    f"the key file {path} is missing, and passwords in the database are sealed with it: restore it "
                    "from a copy, or give it as systemd's credential metalbox-key"
                ) from None
            return cls(path, b"")
        if others := sorted(wanted - {_name(key)}):
            raise StartError(
                f"the key in {path} is not the one that passwords in the database are sealed with (that is key "
                f"{', '.join(others)}, this is {_name(key)}): restore the right file"
            )
        return cls(path, key)

    @property
    def name(self) -> str:
        """The name of the key, which tells nothing of it; "" while there is none."""
        return _name(self._key) if self._key else ""

    def seal(self, secret: Secret, owner: str) -> str:
        """Return a text for the database that only `unseal` with the same `owner` turns back. Raises StartError."""
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        if not self._key:
            self._key = keyfile.make(self.path, GIVEN_AWAY)
        nonce = os.urandom(NONCE_BYTES)
        plain = secret.reveal().encode("utf-8", "surrogatepass")
        sealed = nonce + AESGCM(self._key).encrypt(nonce, plain, owner.encode())
        return f"{VERSION}:{self.name}:{base64.b64encode(sealed).decode()}"

    def unseal(self, sealed: str, owner: str) -> Secret:
        """Return what was sealed. Raises Refused when this key, or this owner, does not open it."""
        from cryptography.exceptions import InvalidTag
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        if not self._key or key_name(sealed) != self.name:
            raise Refused(
                f"the secret of {owner} was sealed with key {key_name(sealed) or 'unknown'}, and {self.path} holds "
                f"{self.name or 'none'}: restore the right key file, or set the secret anew"
            )
        try:
            raw = base64.b64decode(sealed.rpartition(":")[2], validate=True)
            plain = AESGCM(self._key).decrypt(raw[:NONCE_BYTES], raw[NONCE_BYTES:], owner.encode())
        except (InvalidTag, ValueError):
            raise Refused(f"the secret of {owner} is damaged or was sealed for something else: set it anew") from None
        return Secret(plain.decode("utf-8", "surrogatepass"))

    def derive(self, owner: str, salt: bytes) -> bytes:
        """32 secret bytes that only this key, `owner` and `salt` give again (HKDF, RFC 5869). Raises StartError."""
        from cryptography.hazmat.primitives.hashes import SHA256
        from cryptography.hazmat.primitives.kdf.hkdf import HKDF

        if not self._key:
            self._key = keyfile.make(self.path, GIVEN_AWAY)
        return HKDF(algorithm=SHA256(), length=32, salt=salt, info=b"metalbox " + owner.encode()).derive(self._key)


def _name(key: bytes) -> str:
    return hashlib.sha256(b"metalbox key name" + key).hexdigest()[:8]
