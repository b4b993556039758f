"""`serve` with a configuration that cannot be used starts nothing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def test_a_wrong_configuration_is_one_sentence_and_exit_2(tmp_path: Path) -> None:
    file = tmp_path / "box.yaml"
    file.write_text(f"data_dir: {tmp_path}/data\nsocket: {tmp_path}/sock\nsubnets:\n  - subnet: 192.0.2.0/33\n")
    argv = [sys.executable, "-m", "metalbox", "serve", "--config", str(file)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert done.stderr == (
        f"metalbox: {file}:4: subnets.subnet: expected a network like 192.0.2.0/24, got '192.0.2.0/33'\n"
    )
    assert done.stdout == ""
    assert sorted(path.name for path in tmp_path.iterdir()) == ["box.yaml"]


def test_no_file_is_one_sentence_and_exit_2(tmp_path: Path) -> None:
    argv = [sys.executable, "-m", "metalbox", "serve", "--config", str(tmp_path / "none.yaml")]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert "cannot read the configuration: No such file or directory" in done.stderr
