"""The key that certificates are signed with: Ed25519, in a file like the vault's, with its public half beside it.

The private half is systemd's credential `metalbox-signing-key` where there is one, else the file of that name in the
data folder, made when the first certificate is signed. The public half is `metalbox-signing-key.pub` in the data
folder, in PEM, for those who verify.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from metalbox import keyfile
from metalbox.erase.document import key_id
from metalbox.errors import StartError

KEY_NAME = "metalbox-signing-key"
# What must be done when others may have read the key.
GIVEN_AWAY = "others may have signed with it, so begin with a new key (see the README)"


class SigningKey:
    """Signs. Made by `open`; used by one thread at a time."""

    def __init__(self, path: Path, data_dir: Path, seed: bytes) -> None:
        self.path = path
        self._data_dir = data_dir
        self._seed = seed

    @classmethod
    def open(
        cls, data_dir: Path, in_use: Iterable[str] = (), environment: Mapping[str, str] | None = None
    ) -> SigningKey:
        """Read the key. Raises StartError when it is missing, another one, or seen by others.

        `in_use` are the ids of the keys that certificates in the database are signed with. A new key is taken only
        where someone says that it is meant, by keeping the old public half as `metalbox-signing-key-ID.pub`.
        """
        path = keyfile.path_of(KEY_NAME, data_dir, os.environ if environment is None else environment)
        wanted = sorted(name for name in set(in_use) if name and not retired(data_dir, name).exists())
        try:
            seed = keyfile.read(path, data_dir, GIVEN_AWAY)
        except FileNotFoundError:
            if wanted:
                raise StartError(
                    f"the key file {path} is missing, and certificates in the database are signed with it: restore it "
                    f"from a copy, or give it as systemd's credential {KEY_NAME}"
                ) from None
            return cls(path, data_dir, b"")
        key = cls(path, data_dir, seed)
        if others := [name for name in wanted if name != key.id]:
            raise StartError(
                f"the key in {path} is not the one that certificates in the database are signed with (that is key "
                f"{', '.join(others)}, this is {key.id}): restore the right file, or keep the old public half as "
                f"{retired(data_dir, others[0])} to begin with a new key"
            )
        key._publish()
        return key

    @property
    def public(self) -> bytes:
        """The public half, 32 bytes; makes the key when there is none yet. Raises StartError."""
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

        self._need()
        return Ed25519PrivateKey.from_private_bytes(self._seed).public_key().public_bytes_raw()

    @property
    def id(self) -> str:
        """The name of the key in signatures."""
        return key_id(self.public)

    @property
    def pem(self) -> str:
        """The public half as OpenSSL reads it."""
        return to_pem(self.public)

    def sign(self, message: bytes) -> bytes:
        """The signature, 64 bytes (RFC 8032). Raises StartError when there is no key and none can be made."""
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

        self._need()
        return Ed25519PrivateKey.from_private_bytes(self._seed).sign(message)

    def _need(self) -> None:
        if not self._seed:
            self._seed = keyfile.make(self.path, GIVEN_AWAY)
            self._publish()

    def _publish(self) -> None:
        """Write the public half where it is missing or another's; whole, by a rename."""
        path = self._data_dir / f"{KEY_NAME}.pub"
        text = self.pem
        with contextlib.suppress(OSError, UnicodeDecodeError):
            if path.read_text() == text:
                return
        draft = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            draft.write_text(text)
            draft.chmod(0o644)
            draft.replace(path)
        except OSError as error:
            raise StartError(f"the public key {path} cannot be written: {error.strerror}") from None


def retired(data_dir: Path, name: str) -> Path:
    """Where the public half of an earlier key is kept, to say that another one is meant to take its place."""
    return data_dir / f"{KEY_NAME}-{name}.pub"


def to_pem(public: bytes) -> str:
    """A public key in PEM (SubjectPublicKeyInfo, RFC 8410)."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    key = Ed25519PublicKey.from_public_bytes(public)
    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


def from_pem(text: bytes) -> bytes:
    """The 32 bytes of a public key in PEM. Raises ValueError when it is none, or not Ed25519."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    try:
        key = load_pem_public_key(text)
    except UnsupportedAlgorithm as error:
        raise ValueError(str(error)) from None
    if not isinstance(key, Ed25519PublicKey):
        raise ValueError("it is no Ed25519 key")
    return key.public_bytes_raw()
