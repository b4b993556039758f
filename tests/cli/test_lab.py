"""`metalbox lab`: usage, and what it says where no lab stands. Racks themselves: tests/lab, tests/stories."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from metalbox.cli.main import main
from metalbox.lab import processes
from metalbox.lab.machines import complete, mixed, to_json
from metalbox.lab.record import Record


@pytest.fixture
def as_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr("metalbox.lab.requirements.missing", lambda _: [])


@pytest.mark.parametrize("verb", ["up", "status", "down"])
def test_without_root_it_says_so(
    verb: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert main(["lab", verb, "--dir", str(tmp_path)]) == 1
    assert "must be run as root: use sudo" in capsys.readouterr().err


@pytest.mark.parametrize("verb", ["status", "down"])
def test_where_no_lab_stands(verb: str, tmp_path: Path, as_root: None, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["lab", verb, "--dir", str(tmp_path)]) == 3
    assert f"there is no lab in {tmp_path}" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words",
    [["up", "--machines", "65"], ["up", "--wait", "0"], ["up", "--mode", "off"], ["up", "--off", "--wait"], []],
)
def test_wrong_usage(words: list[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["lab", *words])
    assert stopped.value.code == 2


def test_a_missing_agent_names_the_command_that_makes_it(
    tmp_path: Path, as_root: None, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = str(tmp_path / "agent")
    for name in ("undionly.kpxe", "snponly.efi"):
        (tmp_path / name).touch()
    argv = ["lab", "up", "--dir", str(tmp_path / "lab"), "--agent", folder, "--boot-files", str(tmp_path)]
    assert main(argv) == 1
    assert f"metalbox agent build --output {folder}" in capsys.readouterr().err
    assert not (tmp_path / "lab").exists()


def test_status_of_a_lab_whose_processes_died(
    tmp_path: Path, as_root: None, capsys: pytest.CaptureFixture[str]
) -> None:
    settings: dict[str, Any] = {
        "mode": "proxy",
        "service": "metalbox",
        "boot_files": "/boot",
        "agent": "/agent",
        "settings": {},
        "relay": None,
        "site": ["", ""],
        "machines": [to_json(spec) for spec in complete(mixed(1))],
    }
    Record(tmp_path, settings, [processes.Process(1, 0, "libvirtd")], is_complete=True).save()
    assert main(["lab", "status", "--dir", str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["MACHINE", "FIRMWARE", "MAC", "SERIAL", "POWER", "DISCOVERED"]
    assert lines[1].split()[:5] == ["lab0001", "bios", "52:54:00:6d:00:01", "LAB0001", "gone"]
    assert "service does not answer" in lines[1]
    (tmp_path / "bmc").mkdir()
    bmcs = {"lab0001": {"kind": "ipmi", "address": "192.0.2.11", "port": 623, "user": "factory", "password": "pw"}}
    (tmp_path / "bmc" / "bmcs.json").write_text(json.dumps({k: {**v, "mac": "", "uuid": ""} for k, v in bmcs.items()}))
    assert main(["lab", "status", "--dir", str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[-2:] == ["BMC", "ACCOUNT"]
    assert lines[1].split()[-4:] == ["ipmi", "192.0.2.11", "factory", "pw"]
    assert main(["lab", "status", "--dir", str(tmp_path), "-o", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["machines"][0]["bmc"] == bmcs["lab0001"]
