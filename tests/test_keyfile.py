"""Key files: where they are, made once, and never read where others can read them (more by tests/test_secrets.py)."""

from __future__ import annotations

from pathlib import Path

import pytest

from metalbox import keyfile
from metalbox.errors import StartError


def test_the_credential_comes_before_the_file(tmp_path: Path) -> None:
    data, credentials = tmp_path / "data", tmp_path / "credentials"
    credentials.mkdir()
    given = {"CREDENTIALS_DIRECTORY": str(credentials)}
    assert keyfile.path_of("a-key", data, given) == data / "a-key"
    (credentials / "a-key").write_text("00")
    assert keyfile.path_of("a-key", data, given) == credentials / "a-key"
    assert keyfile.path_of("a-key", data, {}) == data / "a-key"


def test_made_once_and_whole(tmp_path: Path) -> None:
    path = tmp_path / "a-key"
    key = keyfile.make(path, "begin anew")
    assert len(key) == keyfile.KEY_BYTES
    assert keyfile.make(path, "begin anew") == keyfile.read(path, tmp_path, "begin anew") == key
    assert [file.name for file in tmp_path.iterdir()] == ["a-key"]
    assert path.stat().st_mode & 0o777 == 0o600


def test_what_others_have_read_is_given_away(tmp_path: Path) -> None:
    path = tmp_path / "a-key"
    keyfile.make(path, "")
    path.chmod(0o640)
    with pytest.raises(StartError, match=r"\(mode 0640\): begin anew, then `chmod 600"):
        keyfile.read(path, tmp_path, "begin anew")
    # systemd gives credentials to the group of nobody else.
    path.chmod(0o440)
    assert keyfile.read(path, tmp_path / "elsewhere", "begin anew")
