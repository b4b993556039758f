"""`metalbox doctor`: its findings printed, its exit code, its output for programs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from metalbox.cli.main import main


def prepare(tmp_path: Path) -> Path:
    for name in ("boot/undionly.kpxe", "boot/snponly.efi", "boot/ipxe-arm64.efi", "agent/x86_64/initrd"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x" * 10)
    (tmp_path / "agent/x86_64/manifest.json").write_text("{}")
    file = tmp_path / "box.yaml"
    file.write_text(
        f"data_dir: {tmp_path}\nsocket: {tmp_path}/none.sock\ndhcp: {{interfaces: [nosuch0]}}\n"
        f"boot: {{files: [{tmp_path}/boot], agent: {tmp_path}/agent}}\n"
    )
    return file


def test_what_is_broken_is_said_with_advice(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--no-wire", "--config", str(prepare(tmp_path))]) == 1
    text = capsys.readouterr().out
    assert "fail  service    no service answers at" in text
    assert "fail  interface  nosuch0 does not exist\n                 -> correct dhcp.interfaces" in text
    assert f"ok    boot file  BIOS: {tmp_path}/boot/undionly.kpxe (10 bytes)" in text
    assert text.splitlines()[-1].endswith("broken")


def test_for_programs(tmp_path: Path, scripted: Any, capsys: pytest.CaptureFixture[str]) -> None:
    scripted.answers["GET /api/v1/status"] = (200, {"version": "1", "listening": []})
    argv = ["doctor", "--no-wire", "-o", "json", "--config", str(prepare(tmp_path)), "--socket", str(scripted.path)]
    main(argv)
    findings = json.loads(capsys.readouterr().out)["findings"]
    assert findings[0] == {"level": "ok", "check": "service", "text": "metalbox 1 answers: ", "advice": ""}
