"""`bmc reseal` as an operator runs it: with the service stopped."""

from __future__ import annotations

from pathlib import Path

import pytest

from metalbox import bmcaccounts
from metalbox.bmcmatch import Source, Told
from metalbox.cli.main import main
from metalbox.secrets import Secret, Vault
from metalbox.store import Store, sqlite_url


def test_reseal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "metalbox.yaml").write_text(f"data_dir: {tmp_path}\n")
    argv = ["bmc", "reseal", "--config", str(tmp_path / "metalbox.yaml")]
    assert main(argv) == 4
    assert "nothing is sealed yet" in capsys.readouterr().err
    store = Store.open(sqlite_url(tmp_path / "metalbox.db"))
    told = Told(Source.OPERATOR, "192.0.2.7")
    bmcaccounts.add(store, Vault.open(tmp_path, (), {}), told, 1.0, user="root", password=Secret("x"))
    before = (tmp_path / "metalbox-key").read_text()
    assert main(argv) == 1, "the service is at work"
    assert "in use by another metalbox service" in capsys.readouterr().err
    assert (tmp_path / "metalbox-key").read_text() == before
    store.close()
    assert main(argv) == 0
    assert capsys.readouterr().out.startswith("1 secrets are sealed anew, with key ")
    (tmp_path / "metalbox-key").rename(tmp_path / "old")
    (tmp_path / "new").write_text("ab" * 32)
    (tmp_path / "new").chmod(0o600)
    assert main([*argv, "--key", str(tmp_path / "old"), "--new-key", str(tmp_path / "new")]) == 0
    assert "now give" in capsys.readouterr().out
