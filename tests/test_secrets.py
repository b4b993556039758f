"""The vault and its key file: made once, guarded, and told of in one sentence when it does not fit."""

from __future__ import annotations

import stat
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metalbox.errors import Refused, StartError
from metalbox.secrets import Secret, Vault, key_name, key_path

KEY = "0123456789abcdef" * 4


def vault(folder: Path, *in_use: str) -> Vault:
    return Vault.open(folder, in_use, {})


def test_the_key_is_made_when_the_first_secret_is_sealed(tmp_path: Path) -> None:
    opened = vault(tmp_path)
    assert (opened.name, list(tmp_path.iterdir())) == ("", [])
    sealed = opened.seal(Secret("hunter2"), "BMC 1")
    (file,) = tmp_path.iterdir()
    assert file.name == "metalbox-key"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert key_name(sealed) == opened.name != ""
    again = vault(tmp_path, key_name(sealed))
    assert again.unseal(sealed, "BMC 1") == Secret("hunter2")
    again.seal(Secret("other"), "BMC 2")
    assert list(tmp_path.iterdir()) == [file]


def test_two_that_make_a_key_at_once_use_one(tmp_path: Path) -> None:
    one, two = vault(tmp_path), vault(tmp_path)
    assert two.unseal(two.seal(Secret("x"), "b"), "b") == Secret("x")
    assert two.unseal(one.seal(Secret("x"), "a"), "a") == Secret("x")


@settings(max_examples=50, deadline=None)
@given(st.text(), st.text(max_size=20), st.text(max_size=20))
def test_what_is_sealed_opens_for_its_owner_only(
    tmp_path_factory: pytest.TempPathFactory, text: str, owner: str, other: str
) -> None:
    opened = vault(tmp_path_factory.getbasetemp())
    sealed = opened.seal(Secret(text), owner)
    assert opened.unseal(sealed, owner).reveal() == text
    assert sealed != opened.seal(Secret(text), owner)
    assert sealed.isascii()
    if owner != other:
        with pytest.raises(Refused, match="is damaged or was sealed for something else"):
            opened.unseal(sealed, other)


def test_a_damaged_secret_is_refused(tmp_path: Path) -> None:
    opened = vault(tmp_path)
    sealed = opened.seal(Secret("hunter2"), "BMC 1")
    for broken in (sealed[:-2], sealed[:-5] + "AAAA=", sealed[: sealed.rfind(":") + 1], sealed + "!"):
        with pytest.raises(Refused, match="BMC 1 is damaged"):
            opened.unseal(broken, "BMC 1")
    for broken in ("", "hunter2", "v9" + sealed[2:], ":" + sealed):
        with pytest.raises(Refused, match="was sealed with key unknown"):
            opened.unseal(broken, "BMC 1")


def test_a_missing_key_is_never_replaced_silently(tmp_path: Path) -> None:
    sealed = vault(tmp_path).seal(Secret("x"), "a")
    (tmp_path / "metalbox-key").unlink()
    with pytest.raises(StartError, match=r"metalbox-key is missing, and passwords in the database are sealed with it"):
        vault(tmp_path, key_name(sealed))
    assert list(tmp_path.iterdir()) == []


def test_a_wrong_key_is_told_by_name(tmp_path: Path) -> None:
    sealed = vault(tmp_path).seal(Secret("x"), "a")
    file = tmp_path / "metalbox-key"
    file.write_text(KEY)
    with pytest.raises(StartError, match=f"is not the one .*that is key {key_name(sealed)}, this is [0-9a-f]{{8}}"):
        vault(tmp_path, key_name(sealed))
    with pytest.raises(Refused, match=f"was sealed with key {key_name(sealed)}, and .* holds"):
        vault(tmp_path).unseal(sealed, "a")


@pytest.mark.parametrize("content", ["", KEY[:-1], KEY + "00", "hunter2 is not hex", "ä" * 64])
def test_a_file_without_a_key_is_one_sentence_that_does_not_show_it(tmp_path: Path, content: str) -> None:
    file = tmp_path / "metalbox-key"
    file.write_text(content)
    file.chmod(0o600)
    with pytest.raises(StartError, match="holds no key: it must be 64 hex digits") as caught:
        vault(tmp_path)
    assert not content or content not in str(caught.value)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o644])
def test_a_key_that_others_can_read_is_refused(tmp_path: Path, mode: int) -> None:
    file = tmp_path / "metalbox-key"
    file.write_text(KEY + "\n")
    file.chmod(mode)
    with pytest.raises(StartError, match=rf"can be used by others \(mode {mode:04o}\): .* `chmod 600 "):
        vault(tmp_path)


def test_a_key_that_cannot_be_read_or_made(tmp_path: Path) -> None:
    (tmp_path / "metalbox-key").mkdir()
    with pytest.raises(StartError, match="cannot be read: Is a directory"):
        vault(tmp_path)
    with pytest.raises(StartError, match="cannot be made: No such file or directory"):
        vault(tmp_path / "missing").seal(Secret("x"), "a")


def test_systemds_credential_comes_first(tmp_path: Path) -> None:
    folder = tmp_path / "credentials"
    folder.mkdir()
    environment = {"CREDENTIALS_DIRECTORY": str(folder)}
    assert key_path(tmp_path, environment) == tmp_path / "metalbox-key"
    file = folder / "metalbox-key"
    file.write_text(KEY)
    file.chmod(0o440)
    opened = Vault.open(tmp_path, (), environment)
    assert opened.path == file
    assert opened.unseal(opened.seal(Secret("x"), "a"), "a") == Secret("x")
    assert list(tmp_path.iterdir()) == [folder]
    file.chmod(0o444)
    with pytest.raises(StartError, match="can be used by others"):
        Vault.open(tmp_path, (), environment)


def test_the_library_is_loaded_when_the_first_secret_is() -> None:
    code = "import sys, metalbox.bmcaccounts, metalbox.secrets; print('cryptography' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == "False\n"
