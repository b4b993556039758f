"""Another key for every secret: exchanged whole, or not at all, wherever it is broken off."""

from __future__ import annotations

import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from metalbox import bmcaccounts
from metalbox.bmcmatch import Source, Told
from metalbox.errors import Refused, StartError
from metalbox.journal import Journal
from metalbox.power import Credentials
from metalbox.resealing import STAGED, reseal
from metalbox.secrets import Secret, Vault
from metalbox.store import Database, Store, sqlite_url
from metalbox.switchboard import Switchboard

KEY = "0123456789abcdef" * 4
KG = "00112233445566778899aabbccddeeff00112233"


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A data folder with a BMC that has a password, and one that has a key only."""
    store = Store.open(sqlite_url(tmp_path / "metalbox.db"))
    vault = Vault.open(tmp_path, (), {})
    told = Told(Source.OPERATOR, "192.0.2.7", drivers=("ipmi",))
    bmcaccounts.add(store, vault, told, 1.0, user="root", password=Secret("hunter2"))
    other = Told(Source.OPERATOR, "192.0.2.8", drivers=("ipmi",))
    bmcaccounts.add(store, vault, other, 1.0, settings={"kg": KG, "channel": "2"})
    store.close()
    return tmp_path


def key_of(place: Path) -> str:
    return (place / "metalbox-key").read_text().strip()


async def opened_by_a_service(place: Path) -> None:
    """A service starts, and knows every secret."""
    database = Database(Store.open(sqlite_url(place / "metalbox.db")))
    try:
        board = Switchboard(database, Journal(), place)
        first = await database.run(lambda store: bmcaccounts.endpoints(store, board.vault, 1))
        second = await database.run(lambda store: bmcaccounts.endpoints(store, board.vault, 2))
        assert first[0].credentials == Credentials("root", "hunter2")
        assert dict(second[0].settings) == {"kg": KG, "channel": "2"}
    finally:
        await database.close()
    assert not (place / STAGED).exists()


def run(place: Path, **files: Path) -> str:
    store = Store.open(sqlite_url(place / "metalbox.db"))
    try:
        done = reseal(store, place, **files)
        assert done.path == files.get("new_key", place / "metalbox-key") or "key" not in files
        return f"{done.count} {done.key}"
    finally:
        store.close()


async def test_a_new_key_is_made_and_takes_the_place_of_the_old_one(place: Path) -> None:
    before = key_of(place)
    run(place)
    assert key_of(place) != before
    assert stat.S_IMODE((place / "metalbox-key").stat().st_mode) == 0o600
    await opened_by_a_service(place)


async def test_a_key_of_the_operators_own(place: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.write_text(KEY + "\n")
    mine.chmod(0o600)
    count = run(place, new_key=mine)
    assert count.startswith("2 ")
    assert key_of(place) == KEY
    assert run(place, new_key=mine) == count.replace("2 ", "0 "), "it is so already"
    await opened_by_a_service(place)


def test_a_credential_is_the_operators_to_exchange(place: Path, tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    (place / "metalbox-key").rename(old)
    new.write_text(KEY)
    new.chmod(0o600)
    third = tmp_path / "third"
    third.write_text("ab" * 32)
    third.chmod(0o600)
    with pytest.raises(Refused, match="name the file of the new one"):
        run(place, key=old)
    with pytest.raises(StartError, match="is not the one that passwords in the database are sealed with"):
        run(place, key=new, new_key=third)
    assert run(place, key=old, new_key=new).startswith("2 ")
    assert run(place, key=old, new_key=new).startswith("0 ")
    assert not (place / "metalbox-key").exists()


def test_what_cannot_be_used_changes_nothing(place: Path, tmp_path: Path) -> None:
    before = key_of(place)
    seen = tmp_path / "seen"
    seen.write_text(KEY)
    seen.chmod(0o644)
    with pytest.raises(StartError, match="can be used by others"):
        run(place, new_key=seen)
    with pytest.raises(StartError, match="there is no key file"):
        run(place, new_key=tmp_path / "none")
    assert key_of(place) == before
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(Refused, match="nothing is sealed yet"):
        run(empty)


# What is killed in its middle, and whether the new key is then the one.
MIDDLES = {
    "before the database is changed": ("resealing._exchange = kill", False),
    "in the transaction": ("resealing.bmcaccounts.reseal = then_kill", False),
    "after it": ("resealing._take_over = kill", True),
    "after the key's new name": ("resealing.keyfile.sync = sync_then_kill", True),
}
SCRIPT = """
import os, signal, sys
from pathlib import Path
from metalbox import bmcaccounts, keyfile, resealing
from metalbox.store import Store, sqlite_url
reseal, sync, folder = bmcaccounts.reseal, keyfile.sync, Path(sys.argv[1])
def kill(*args):
    os.kill(os.getpid(), signal.SIGKILL)
def then_kill(*args):
    reseal(*args)
    kill()
def sync_then_kill(place):
    sync(place)
    if not (folder / resealing.STAGED).exists():
        kill()
{}
resealing.reseal(Store.open(sqlite_url(folder / "metalbox.db")), folder)
"""


def ended(script: str, place: Path) -> int:
    return subprocess.run([sys.executable, "-c", script, str(place)], check=False, timeout=60).returncode


@pytest.mark.parametrize("middle", MIDDLES)
async def test_killed_in_the_middle(place: Path, middle: str) -> None:
    patch, is_new = MIDDLES[middle]
    before = key_of(place)
    assert ended(SCRIPT.format(patch), place) == -signal.SIGKILL
    await opened_by_a_service(place)
    assert (key_of(place) != before) is is_new
    run(place)
    await opened_by_a_service(place)
