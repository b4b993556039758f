"""A whole storm, small: every machine goes through every phase of the real service, and nothing is left of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from metalbox import config
from metalbox.errors import Refused, StartError
from metalbox.lab import record, storm
from metalbox.lab.pxeclient import Phase
from metalbox.lab.services import IPXE, default_folder
from metalbox.lab.storm import Storm

MACHINES = 12
BOOT = default_folder("boot")


@pytest.mark.root
def test_all_machines_arrive_and_are_in_the_inventory(tmp_path: Path) -> None:
    said: list[str] = []
    home = tmp_path / "s"
    asked = Storm(MACHINES, image_bytes=1 << 20, spread=0.1, patience=100)
    figures = storm.run(home, asked, BOOT, said.append)
    assert figures["failures"] == {}
    assert (figures["arrived"], figures["missing"], figures["known"]) == (MACHINES, 0, MACHINES)
    assert (figures["retries"], figures["deferred"]) == (0, 0)
    assert [times["count"] for times in figures["phases"].values()] == [MACHINES] * len(Phase)
    loader = next(path for folder in (BOOT, IPXE) if (path := folder / storm.LOADER).is_file())
    assert figures["bytes"] >= MACHINES * (loader.stat().st_size + (1 << 20))
    assert figures["cpu_seconds"] > 0
    assert figures["rss_mb"] > 20
    assert "198.18.0.0/15" in said[0]
    assert not home.exists()
    assert not record.exists(home)


def test_one_storm_in_a_folder(tmp_path: Path) -> None:
    with record.locked(tmp_path), pytest.raises(Refused):
        storm.run(tmp_path, Storm(), BOOT, print)


def test_files_are_as_big_as_asked(tmp_path: Path) -> None:
    (tmp_path / storm.LOADER).write_bytes(b"iPXE")
    storm.make_files(tmp_path / "a", tmp_path, 8 << 20)
    storm.make_files(tmp_path / "b", tmp_path, 1000)
    sizes = {
        str(path.relative_to(tmp_path)): path.stat().st_size for path in tmp_path.glob("?/agent/x86_64/*")
    }  # fmt: skip
    assert sizes == {
        "a/agent/x86_64/vmlinuz": 2 << 20,
        "a/agent/x86_64/initrd": 6 << 20,
        "b/agent/x86_64/vmlinuz": 500,
        "b/agent/x86_64/initrd": 500,
    }
    assert (tmp_path / "a" / storm.LOADER).read_bytes() == b"iPXE"


def test_without_ipxe_it_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storm, "IPXE", tmp_path / "none")
    with pytest.raises(StartError, match="metalbox boot-files fetch"):
        storm.make_files(tmp_path / "a", tmp_path, 1000)


def test_the_service_is_told_what_it_takes(tmp_path: Path) -> None:
    import yaml

    (tmp_path / "m.yaml").write_text(yaml.safe_dump(dict(storm.configuration(tmp_path))))
    settings = config.load(tmp_path / "m.yaml")
    assert str(settings.subnets[0].mode) == "full"
    assert len(settings.subnets[0].pools[0]) > 100_000
