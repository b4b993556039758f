"""Keys in files: read only where nobody else can read them, made whole or not at all.

A key is 32 random bytes as 64 hex digits, in systemd's credential of its name where there is one, else in a file of
mode 0600 in the data folder.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Mapping
from pathlib import Path

from metalbox.errors import StartError

KEY_BYTES = 32


def path_of(name: str, data_dir: Path, environment: Mapping[str, str]) -> Path:
    """Where the key is: systemd's credential (systemd.exec(5), LoadCredential=) if given, else in the data folder."""
    credentials = environment.get("CREDENTIALS_DIRECTORY", "")
    if credentials and (Path(credentials) / name).exists():
        return Path(credentials) / name
    return data_dir / name


def read(path: Path, data_dir: Path, given_away: str) -> bytes:
    """The key in a file that nobody else can use. Raises FileNotFoundError, StartError.

    `given_away` says, in an error, what is to be done when others may have read it.
    """
    # A credential is root's and 0440, in a folder that only the service enters; a file of ours is 0600.
    forbidden = 0o077 if path.parent == data_dir else 0o007
    try:
        with path.open("rb") as file:
            state = os.fstat(file.fileno())
            content = file.read(1024)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise StartError(f"the key file {path} cannot be read: {error.strerror}") from None
    mode = stat.S_IMODE(state.st_mode)
    if mode & forbidden:
        raise StartError(
            f"the key file {path} can be used by others (mode {mode:04o}): {given_away}, then `chmod 600 {path}`"
        )
    if state.st_uid not in (0, os.geteuid()):
        raise StartError(f"the key file {path} belongs to user {state.st_uid}: it must be the service's own, or root's")
    try:
        key = bytes.fromhex(content.decode("ascii").strip())
    except ValueError:
        key = b""
    if len(key) != KEY_BYTES:
        raise StartError(
            f"the key file {path} holds no key: it must be {2 * KEY_BYTES} hex digits, as `openssl rand -hex "
            f"{KEY_BYTES}` makes them"
        )
    return key


def make(path: Path, given_away: str, key: bytes = b"") -> bytes:
    """Make a key, or write this one, whole and on disk before it has its name: a crash leaves no half of one.

    Raises StartError.
    """
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with contextlib.suppress(FileNotFoundError):
            draft.unlink()
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with open(descriptor, "w") as file:
            file.write((key or os.urandom(KEY_BYTES)).hex() + "\n")
            file.flush()
            os.fsync(file.fileno())
        try:
            # Unlike a rename, it never replaces a key that somebody else has made meanwhile.
            with contextlib.suppress(FileExistsError):
                os.link(draft, path)
        finally:
            draft.unlink()
        sync(path.parent)
        return read(path, path.parent, given_away)
    except OSError as error:
        raise StartError(f"the key file {path} cannot be made: {error.strerror}") from None


def sync(folder: Path) -> None:
    """Bring the names in a folder to disk. Raises OSError."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
