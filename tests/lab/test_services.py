"""The service's configuration as the lab writes it, and what is said when a file is missing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from metalbox import config
from metalbox.config import Mode
from metalbox.errors import StartError
from metalbox.lab import services
from metalbox.lab.record import Record
from metalbox.lab.services import Metalbox, check_files, configuration, default_folder, in_checkout, memory_for


def made(mode: Mode, **more: Any) -> config.Config:
    arguments: dict[str, Any] = {"settings": {}, **more}
    document = configuration(Path("/lab"), mode, Path("/boot"), Path("/agent"), **arguments)
    return config.parse(yaml.safe_dump(document))


def test_proxy_mode_gives_no_addresses() -> None:
    (subnet,) = made(Mode.PROXY).subnets
    assert (subnet.mode, subnet.interface, subnet.pools) == (Mode.PROXY, "br0", ())


def test_full_mode_has_a_pool_on_each_segment() -> None:
    local, relayed = made(Mode.FULL, relayed=True).subnets
    assert [str(pool) for pool in (*local.pools, *relayed.pools)] == [
        "192.0.2.100-192.0.2.199",
        "198.51.100.100-198.51.100.199",
    ]
    assert relayed.interface == ""


def test_a_storys_settings_go_over_the_labs() -> None:
    told = made(Mode.PROXY, settings={"dhcp": {"null_ra": False}, "subnets": [], "log_level": "info"})
    assert (told.dhcp.null_ra, told.dhcp.interfaces, told.subnets, told.log_level) == (False, ("br0",), (), "info")


def test_missing_files_name_the_command_that_makes_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(services, "IPXE", tmp_path / "ipxe")
    with pytest.raises(StartError, match="metalbox boot-files fetch"):
        check_files(tmp_path, tmp_path)
    for name in ("undionly.kpxe", "snponly.efi"):
        (tmp_path / name).touch()
    with pytest.raises(StartError, match=f"metalbox agent build --output {tmp_path}"):
        check_files(tmp_path, tmp_path)
    (tmp_path / "x86_64").mkdir()
    for name in ("vmlinuz", "initrd"):
        (tmp_path / "x86_64" / name).touch()
    check_files(tmp_path, tmp_path)


def test_machines_get_the_memory_that_the_agents_image_asks_for(tmp_path: Path) -> None:
    assert memory_for(tmp_path) == 512
    (tmp_path / "x86_64").mkdir()
    for asked, given in (("320", 512), ("900", 900), ("[]", 512)):
        (tmp_path / "x86_64" / "manifest.json").write_text(f'{{"ram_mib": {asked}}}')
        assert memory_for(tmp_path) == given


def test_folders_are_in_the_checkout_or_in_var_lib(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(Path(services.__file__).parent)
    assert default_folder("lab") == services.ROOT / "var" / "lab"
    monkeypatch.chdir(tmp_path)
    assert in_checkout() is None
    assert default_folder("agent") == Path("/var/lib/metalbox/agent")


def test_a_folder_too_deep_for_a_unix_socket_is_a_sentence(tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 100)
    with pytest.raises(StartError, match="too long for a unix socket"):
        Metalbox(Record(deep), {}).start()
