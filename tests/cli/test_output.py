"""Tables, sizes, ages: what people read."""

from __future__ import annotations

import json
import time

import pytest
import yaml

from metalbox.cli import output


def test_a_table() -> None:
    text = output.table(("NAME", "STATE"), [("a", "discovered"), ("longer", "x")])
    assert text == "NAME    STATE\na       discovered\nlonger  x"


def test_a_reported_text_cannot_drive_the_terminal() -> None:
    assert output.table(("A",), [("\x1b[2Jhello\n",)]) == "A\n?[2Jhello?"


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (None, "?"),
        (0, "0 B"),
        (512, "512 B"),
        (512 * 2**20, "512 MiB"),
        (4 * 2**30, "4 GiB"),
        (960197124096, "960.2 GB"),
        (1500, "1.5 kB"),
    ],
)
def test_size(count: int | None, text: str) -> None:
    assert output.size(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.04, "0.0s"), (9.94, "9.9s"), (59, "59s"), (125, "2m 5s"), (3600, "1h"), (90061, "1d 1h")]
)
def test_duration(seconds: float, text: str) -> None:
    assert output.duration(seconds) == text


def test_ago() -> None:
    assert output.ago(0) == "never"
    assert output.ago(100.0, now=160.0) == "1m ago"


def test_clock_names_the_day_unless_it_is_today() -> None:
    assert len(output.clock(time.time())) == len("12:34:56.789")
    assert output.clock(0.5)[4] == "-"


def test_programs_get_what_the_service_said(capsys: pytest.CaptureFixture[str]) -> None:
    answer = {"machines": [{"name": "ä", "count": 3}]}
    assert not output.emit(answer, "table")
    assert output.emit(answer, "json")
    assert json.loads(capsys.readouterr().out) == answer
    assert output.emit(answer, "yaml")
    assert yaml.safe_load(capsys.readouterr().out) == answer
