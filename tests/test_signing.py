"""The signing key: made once, never replaced silently, its public half beside it."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from metalbox.errors import StartError
from metalbox.signing import KEY_NAME, SigningKey, from_pem, retired, to_pem


def test_made_at_the_first_signature(tmp_path: Path) -> None:
    key = SigningKey.open(tmp_path, environment={})
    assert list(tmp_path.iterdir()) == []
    signature = key.sign(b"words")
    Ed25519PublicKey.from_public_bytes(key.public).verify(signature, b"words")
    assert (tmp_path / KEY_NAME).stat().st_mode & 0o777 == 0o600
    public = tmp_path / f"{KEY_NAME}.pub"
    assert public.stat().st_mode & 0o777 == 0o644
    assert from_pem(public.read_bytes()) == key.public
    again = SigningKey.open(tmp_path, [key.id], environment={})
    assert (again.id, again.pem) == (key.id, public.read_text())
    secret = (tmp_path / KEY_NAME).read_text().strip()
    assert secret not in repr(again) + public.read_text()


def test_a_lost_public_half_is_written_again(tmp_path: Path) -> None:
    key = SigningKey.open(tmp_path, environment={})
    (tmp_path / f"{KEY_NAME}.pub").write_text(key.pem.replace("A", "B"))
    (tmp_path / f"{KEY_NAME}.pub").write_text("another's")
    SigningKey.open(tmp_path, [key.id], environment={})
    assert (tmp_path / f"{KEY_NAME}.pub").read_text() == key.pem


def test_a_missing_key_is_never_replaced_silently(tmp_path: Path) -> None:
    used = SigningKey.open(tmp_path, environment={}).id
    (tmp_path / KEY_NAME).rename(tmp_path / "copy")
    with pytest.raises(StartError, match="is missing, and certificates in the database are signed with it"):
        SigningKey.open(tmp_path, [used], environment={})
    assert not (tmp_path / KEY_NAME).exists()


def test_another_key_is_taken_only_where_it_is_meant(tmp_path: Path) -> None:
    old = SigningKey.open(tmp_path, environment={})
    public = old.pem
    (tmp_path / KEY_NAME).unlink()
    new = SigningKey.open(tmp_path, environment={})
    assert new.id != old.id
    with pytest.raises(StartError, match=rf"that is key {old.id}, this is {new.id}\): restore .* or keep the old"):
        SigningKey.open(tmp_path, [old.id], environment={})
    retired(tmp_path, old.id).write_text(public)
    assert SigningKey.open(tmp_path, [old.id], environment={}).id == new.id


def test_systemds_credential(tmp_path: Path) -> None:
    data, credentials = tmp_path / "data", tmp_path / "credentials"
    data.mkdir()
    credentials.mkdir()
    (credentials / KEY_NAME).write_text("11" * 32)
    (credentials / KEY_NAME).chmod(0o440)
    key = SigningKey.open(data, environment={"CREDENTIALS_DIRECTORY": str(credentials)})
    assert key.path.parent == credentials
    assert [path.name for path in data.iterdir()] == [f"{KEY_NAME}.pub"]


def test_a_key_that_others_can_read_or_that_cannot_be_published(tmp_path: Path) -> None:
    SigningKey.open(tmp_path, environment={}).sign(b"")
    (tmp_path / f"{KEY_NAME}.pub").unlink()
    (tmp_path / f"{KEY_NAME}.pub").mkdir()
    with pytest.raises(StartError, match="cannot be written: Is a directory"):
        SigningKey.open(tmp_path, environment={})
    (tmp_path / KEY_NAME).chmod(0o644)
    with pytest.raises(StartError, match="begin with a new key"):
        SigningKey.open(tmp_path, environment={})


def test_public_keys_in_pem() -> None:
    assert from_pem(to_pem(bytes.fromhex("d7" * 32)).encode()) == bytes.fromhex("d7" * 32)
    rsa = subprocess.run(["openssl", "genrsa", "1024"], capture_output=True, check=True, timeout=20).stdout
    for text in (b"", b"rubbish", rsa):
        with pytest.raises(ValueError):
            from_pem(text)
    other = subprocess.run(["openssl", "rsa", "-pubout"], input=rsa, capture_output=True, check=True, timeout=20).stdout
    with pytest.raises(ValueError, match="no Ed25519 key"):
        from_pem(other)
