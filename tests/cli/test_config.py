"""`config check` and `config example`."""

from __future__ import annotations

from pathlib import Path

import pytest

from metalbox.cli.main import main


def test_a_good_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "box.yaml"
    file.write_text(
        "subnets:\n - {subnet: 192.0.2.0/24, interface: eth1, mode: full, pools: [192.0.2.10-192.0.2.19]}\n"
    )
    assert main(["config", "check", str(file)]) == 0
    assert "192.0.2.0/24 full on eth1, 10 pool addresses, 0 reserved" in capsys.readouterr().out


def test_a_bad_file_is_one_sentence_and_exit_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "box.yaml"
    file.write_text("http:\n  prt: 80\n")
    assert main(["config", "check", str(file)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == f"metalbox: {file}:2: unknown setting 'prt' in http: did you mean 'port'?\n"


def test_the_example_is_a_good_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "example"]) == 0
    (tmp_path / "example.yaml").write_text(capsys.readouterr().out)
    assert main(["config", "check", str(tmp_path / "example.yaml")]) == 0
