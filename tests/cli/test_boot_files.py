import argparse
from pathlib import Path
from typing import Any

import pytest

from metalbox.build import bootfiles
from metalbox.cli import boot_files


def test_it_lists_what_was_fetched_and_what_not(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def fetch(output: Path, *_: Any, **__: Any) -> dict[str, Any]:
        facts = {"bytes": 173_800, "package": "ipxe", "package_version": "1.0"}
        return {"files": {"snponly.efi": facts}, "not_included": {"ipxe-arm64.efi": "ipxe 1.0 does not have it"}}

    monkeypatch.setattr(bootfiles, "fetch", fetch)
    parser = argparse.ArgumentParser()
    boot_files.add_parser(parser.add_subparsers())
    args = parser.parse_args(["boot-files", "fetch", "--output", str(tmp_path)])
    assert args.run(args) == 0
    assert capsys.readouterr().out == (
        f"{tmp_path}\n"
        "  snponly.efi        173.8 kB  ipxe 1.0\n"
        "  ipxe-arm64.efi    not included: ipxe 1.0 does not have it\n"
    )
