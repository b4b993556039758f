"""The Vagrantfile is one that Vagrant accepts, and its provisioning script one that a shell can read."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "vagrant"


def vagrant(tmp_path: Path, *words: str) -> str:
    if shutil.which("vagrant") is None:
        pytest.skip("vagrant is not installed (apt-get install --no-install-recommends vagrant vagrant-libvirt)")
    environment = {
        **os.environ,
        "VAGRANT_HOME": str(tmp_path / "home"),
        "VAGRANT_DOTFILE_PATH": str(tmp_path / "dot"),
        "VAGRANT_CHECKPOINT_DISABLE": "1",
        "METALBOX_MACHINES": "3",
    }
    done = subprocess.run(
        ["vagrant", *words], cwd=FOLDER, env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_vagrant_accepts_it(tmp_path: Path) -> None:
    assert "validated successfully" in vagrant(tmp_path, "validate")


def test_there_is_one_server_and_as_many_machines_as_asked_for(tmp_path: Path) -> None:
    rows = [line.split(",") for line in vagrant(tmp_path, "status", "--machine-readable").splitlines()]
    states = {row[1]: row[3] for row in rows if row[2] == "state"}
    assert states == dict.fromkeys(("server", "node1", "node2", "node3"), "not_created")


def test_the_provisioning_script_is_a_shell_script() -> None:
    subprocess.run(["sh", "-n", str(FOLDER / "provision.sh")], check=True, timeout=60)
