import argparse
from pathlib import Path

import pytest

from metalbox.cli import agent
from metalbox.errors import BuildError

MANIFEST = {
    "kernel": "6.1.0-56-amd64",
    "files": {"vmlinuz": {"bytes": 8_247_232}, "initrd": {"bytes": 24_807_502}},
    "unpacked_bytes": 59_330_560,
    "ram_mib": 256,
    "parts": {"libraries": 24_404_160, "agent": 296_358},
    "modules": {"Intel NICs": ["igb", "ice"], "NVMe": ["nvme"]},
    "tools": {"nvme-cli": ["nvme"], "hdparm": ["hdparm"]},
    "firmware": [],
    "not_included": {"a": "not there", "b": "not there"},
}


def parse(*arguments: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    agent.add_parser(parser.add_subparsers())
    return parser.parse_args(["agent", *arguments])


def test_the_table_says_what_is_in_the_image() -> None:
    assert agent.table(MANIFEST, Path("/images/x86_64")) == (
        "/images/x86_64\n"
        "  kernel            8.2 MB  6.1.0-56-amd64\n"
        "  initrd           24.8 MB    59.3 MB unpacked\n"
        "  needs          256 MiB of RAM\n"
        "  libraries        24.4 MB\n"
        "  agent             0.3 MB\n"
        "  drivers        3: Intel NICs, NVMe\n"
        "  tools          nvme-cli, hdparm\n"
        "  firmware       0 files\n"
        "  left out       a, b (not there)"
    )


def test_packages_may_be_added_more_than_once() -> None:
    assert parse("build", "--with", "lldpd", "--with", "tcpdump").extra == ["lldpd", "tcpdump"]


def test_an_unknown_architecture_is_a_sentence() -> None:
    args = parse("build", "--arch", "vax")
    with pytest.raises(BuildError, match="cannot build for 'vax': known are x86_64, arm64"):
        args.run(args)
