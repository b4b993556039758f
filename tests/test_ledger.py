"""The ledger: on disk at once, whole or not at all, and the judge of restored databases."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from metalbox.errors import StartError
from metalbox.ledger import HOUR, NAME, Ledger


def test_what_is_noted_is_there_after_a_restart(tmp_path: Path) -> None:
    ledger = Ledger.open(tmp_path)
    assert (ledger.last_order, ledger.wishes, ledger.knows_more_than(0)) == (0, [], False)
    ledger.note_wish(100.0)
    ledger.note_order(7, 3)
    again = Ledger.open(tmp_path)
    assert (again.last_order, again.wishes, again.unsure_after) == (7, [100.0], 3)
    assert (tmp_path / NAME).stat().st_mode & 0o777 == 0o600
    assert [path.name for path in tmp_path.iterdir()] == [NAME]


def test_an_older_database_is_told_but_not_one_that_lost_the_last_moment(tmp_path: Path) -> None:
    ledger = Ledger.open(tmp_path)
    ledger.note_order(7, 3)
    assert [last for last in range(9) if ledger.knows_more_than(last)] == [0, 1, 2, 4, 5, 6]
    ledger.note_begun(6)
    assert not ledger.knows_more_than(3)
    ledger.note_begun(7)
    assert Ledger.open(tmp_path).knows_more_than(3)
    assert not ledger.knows_more_than(7)


def test_wishes_of_the_last_hour(tmp_path: Path) -> None:
    ledger = Ledger.open(tmp_path)
    for at in (10.0, 20.0, 30.0):
        ledger.note_wish(at)
    assert ledger.wished(30.0) == 3
    assert ledger.wished(15.0 + HOUR) == 2
    # The clock was set back: what seems to come still counts.
    assert ledger.wished(5.0) == 3
    ledger.note_wish(20.0 + HOUR)
    assert ledger.wishes == [30.0, 20.0 + HOUR]


@pytest.mark.parametrize("text", ["", "{", "[]", '{"last_order": "x", "wishes": [], "unsure_after": null}', "{}"])
def test_a_damaged_file_is_not_taken_for_an_empty_one(tmp_path: Path, text: str) -> None:
    (tmp_path / NAME).write_text(text)
    with pytest.raises(StartError, match=r"cannot be read .* restore it from a copy"):
        Ledger.open(tmp_path)


def test_the_file_is_json(tmp_path: Path) -> None:
    Ledger.open(tmp_path).note_order(1, 0)
    assert json.loads((tmp_path / NAME).read_text()) == {"last_order": 1, "wishes": [], "unsure_after": 0}
