"""The command as a whole: its verbs, its start time, its manners."""

from __future__ import annotations

import argparse
import subprocess
import sys
from importlib import import_module

import pytest

from metalbox.cli import main as main_module
from metalbox.cli.main import main

VERBS = (
    "serve", "list", "show", "events", "why", "leases", "status", "report", "config", "agent", "boot-files", "doctor",
    "lab",
)  # fmt: skip


def test_every_verb_is_there_and_explains_itself(capsys: pytest.CaptureFixture[str]) -> None:
    for verb in VERBS:
        with pytest.raises(SystemExit) as caught:
            main([verb, "--help"])
        assert caught.value.code == 0
        assert verb in capsys.readouterr().out


def test_the_table_of_verbs_is_what_the_modules_add() -> None:
    for name, verbs in main_module.VERBS.items():
        added = argparse.ArgumentParser().add_subparsers()
        import_module(f"metalbox.cli.{name}").add_parser(added)
        assert tuple(added.choices) == verbs


def test_all_verbs_are_named_where_none_fits(capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["--help"], ["erasee"]):
        with pytest.raises(SystemExit):
            main(words)
        told = capsys.readouterr()
        for verb in VERBS:
            assert verb in told.out + told.err


def test_no_verb_is_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main([])
    assert caught.value.code == 2


def test_a_reader_that_goes_away_is_no_error() -> None:
    line = f"{sys.executable} -m metalbox config example | head -1"
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", line], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stderr == ""


def test_it_starts_with_little() -> None:
    """Time is measured by `bench.beside`; this is where it goes: modules, of which 60 are Python's own start."""
    code = "import sys; from metalbox.cli.main import main; main(['status', '--socket', '/nonexistent/socket'])"
    code = f"import atexit, sys; atexit.register(lambda: print(*sys.modules)); {code}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    loaded = set(done.stdout.split())
    assert "metalbox.cli.status" in loaded, done.stderr
    assert len(loaded) < 180
    assert not {"metalbox.cli.power", "metalbox.cli.life"} & loaded
    assert not {"asyncio", "aiohttp", "sqlalchemy", "yaml", "cryptography", "metalbox.config"} & loaded
