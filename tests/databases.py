"""The databases that the store's tests run on: SQLite always, PostgreSQL where its server and driver are installed."""

from __future__ import annotations

import importlib.util
import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

SERVERS = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))


def _as_server(command: list[str]) -> list[str]:
    """PostgreSQL refuses to run as root."""
    if os.geteuid() != 0:
        return command
    return ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups", *command]


@contextmanager
def private_postgresql() -> Iterator[str]:
    """A server of our own in a temporary folder, on a Unix socket only; yields its SQLAlchemy URL."""
    if not SERVERS:
        pytest.skip("PostgreSQL's server is not installed (apt-get install postgresql)")
    if importlib.util.find_spec("psycopg") is None:
        pytest.skip("PostgreSQL's driver is not installed (pip install 'psycopg[binary]')")
    if os.geteuid() == 0 and "postgres" not in {user.pw_name for user in pwd.getpwall()}:
        pytest.skip("there is no user postgres to run the server as")
    binaries = SERVERS[-1].parent
    folder = Path(tempfile.mkdtemp(prefix="metalbox-pg-", dir="/tmp"))
    if os.geteuid() == 0:
        shutil.chown(folder, "postgres", "postgres")
    data = folder / "data"
    control = _as_server([str(binaries / "pg_ctl"), "-D", str(data), "-w", "-s", "-l", str(folder / "log")])
    initdb = [str(binaries / "initdb"), "-D", str(data), "-U", "metalbox", "-A", "trust", "--no-sync"]
    try:
        subprocess.run(_as_server(initdb), check=True, capture_output=True, timeout=120, cwd="/")
        options = f"-c listen_addresses= -c unix_socket_directories={folder} -c fsync=off"
        subprocess.run([*control, "-o", options, "start"], check=True, timeout=60, cwd="/", stdout=subprocess.DEVNULL)
        try:
            yield f"postgresql+psycopg://metalbox@/postgres?host={folder}"
        finally:
            subprocess.run([*control, "-m", "immediate", "stop"], check=True, timeout=60, cwd="/")
    finally:
        shutil.rmtree(folder)
