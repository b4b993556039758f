"""All secrets sealed anew with another key, while the service is stopped: all of them or none, also after a crash.

The new key is on disk beside the old one before the database is changed in one transaction, and takes the old one's
name after it. Killed in between, the next start of the service (or of this) sees which of the two the database is
sealed with, and finishes the exchange (`settle`).
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from metalbox import bmcaccounts, keyfile
from metalbox.errors import Refused, StartError
from metalbox.secrets import GIVEN_AWAY, KEY_NAME, Vault
from metalbox.store import Store

STAGED = f"{KEY_NAME}.new"


@dataclass(frozen=True, slots=True)
class Resealed:
    """`count` secrets are sealed with the key called `key`, which is in `path`."""

    count: int
    key: str
    path: Path


def reseal(store: Store, data_dir: Path, *, key: Path | None = None, new_key: Path | None = None) -> Resealed:
    """Seal every secret with another key. Raises StartError for a key that is missing or wrong, Refused.

    `key` is the present key where it is not in the data folder (systemd's credential): then `new_key` is needed, and
    the operator gives it to the service. Else the new key is copied from `new_key`, or made, and takes its place.
    """
    in_use = _in_use(store)
    if key is not None:
        if new_key is None:
            raise Refused("the present key is a file of your own: name the file of the new one, too")
        new = _open(new_key)
        if in_use == {new.name}:
            return Resealed(0, new.name, new_key)
        return Resealed(_exchange(store, _open(key, in_use), new), new.name, new_key)
    settle(data_dir, in_use)
    old = Vault.open(data_dir, in_use, {})
    if not old.name:
        raise Refused(f"nothing is sealed yet: a key is made in {old.path} with the first password")
    wanted = _open(new_key) if new_key is not None else None
    if wanted is not None and wanted.name == old.name:
        return Resealed(0, old.name, old.path)
    new = _stage(data_dir / STAGED, old, new_key)
    count = _exchange(store, old, new)
    _take_over(new.path, old.path)
    return Resealed(count, new.name, old.path)


def settle(data_dir: Path, in_use: Collection[str]) -> None:
    """Finish an exchange of keys that was broken off, or take its traces away. Raises StartError."""
    staged = data_dir / STAGED
    try:
        new = Vault(staged, keyfile.read(staged, data_dir, GIVEN_AWAY))
    except FileNotFoundError:
        return
    if set(in_use) == {new.name}:
        _take_over(staged, data_dir / KEY_NAME)
    else:
        # The database was not changed: this key has never sealed anything.
        with contextlib.suppress(OSError):
            staged.unlink()


def _open(path: Path, in_use: Collection[str] = ()) -> Vault:
    """The key in a file of an operator's, which must be the one in use. Raises StartError."""
    try:
        vault = Vault(path, keyfile.read(path, path.parent, GIVEN_AWAY))
    except FileNotFoundError:
        raise StartError(f"there is no key file {path}: `openssl rand -hex 32` makes a key") from None
    if others := sorted(set(in_use) - {vault.name}):
        raise StartError(
            f"the key in {path} is not the one that passwords in the database are sealed with (that is key "
            f"{', '.join(others)}, this is {vault.name}): name the right file"
        )
    return vault


def _stage(path: Path, old: Vault, source: Path | None) -> Vault:
    """The new key on disk beside the old one, for the same user. Raises StartError."""
    key = keyfile.read(source, source.parent, GIVEN_AWAY) if source is not None else b""
    made = keyfile.make(path, GIVEN_AWAY, key)
    try:
        owner = old.path.stat()
        os.chown(path, owner.st_uid, owner.st_gid)
    except OSError as error:
        raise StartError(f"the key file {path} cannot be given to the service's user: {error.strerror}") from None
    return Vault(path, made)


def _exchange(store: Store, old: Vault, new: Vault) -> int:
    with store.transaction():
        count = bmcaccounts.reseal(store, old, new)
        if left := _in_use(store) - {new.name}:
            raise Refused(f"secrets would be left that are sealed with key {', '.join(sorted(left))}")
    return count


def _take_over(path: Path, place: Path) -> None:
    try:
        path.replace(place)
        keyfile.sync(place.parent)
    except OSError as error:
        raise StartError(f"the key file {path} cannot become {place}: {error.strerror}") from None


def _in_use(store: Store) -> set[str]:
    with store.transaction():
        return store.bmcs.keys_in_use()
