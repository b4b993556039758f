"""What is missing is said as a sentence with the command that installs it."""

from __future__ import annotations

import os

import pytest

from metalbox.errors import StartError
from metalbox.lab import requirements


def test_programs_and_files_that_are_missing_name_their_packages() -> None:
    needs = {"sh": "dash", "no-such-program": "beta", "/no/such/file": "alpha", "another-missing": "beta"}
    assert requirements.missing(needs) == ["alpha", "beta"]


def test_without_root_it_says_sudo(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(StartError, match="must be run as root: use sudo"):
        requirements.check()


def test_with_root_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert requirements.reason([{"sh": "dash"}]) == ""
    with pytest.raises(StartError, match="apt-get install --no-install-recommends thing"):
        requirements.check({"no-such-program": "thing"})


def test_sbin_is_looked_in_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    requirements.check()
    assert os.environ["PATH"] == "/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin"
