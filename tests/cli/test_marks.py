"""`label` and `note` as people use them."""

from __future__ import annotations

from typing import Any

import pytest

from metalbox.cli.main import main
from tests.cli.test_power import row


@pytest.fixture
def two(scripted: Any) -> Any:
    scripted.answers["GET /api/v1/machines"] = (200, {"machines": [row("r1-01", 1), row("r1-02", 2)], "strangers": []})
    for name in ("r1-01", "r1-02"):
        answer = {"machine": name, "labels": {"rack": "r1", "pdu": "a"}, "owner": "", "note": ""}
        scripted.answers[f"POST /api/v1/machines/{name}/labels"] = (200, answer)
    return scripted


def run(scripted: Any, *argv: str) -> int:
    return main([*argv, "--socket", str(scripted.path)])


def posts(scripted: Any) -> list[tuple[str, Any]]:
    return [(path.split("/")[4], body) for method, path, _, body in scripted.requests if method == "POST"]


def test_label_machines(two: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(two, "label", "r1-[01-02]", "pdu=a", "spare-") == 0
    body = {"set": {"pdu": "a"}, "remove": ["spare"]}
    assert posts(two) == [("r1-01", body), ("r1-02", body)]
    assert capsys.readouterr().out.splitlines() == [
        "NAME   LABELS",
        "r1-01  pdu=a,rack=r1",
        "r1-02  pdu=a,rack=r1",
    ]


def test_label_those_that_have_labels(two: Any) -> None:
    assert run(two, "label", "-l", "place=2", "pdu=a") == 0
    assert run(two, "label", "-l", "rack", "pdu=b") == 0
    assert [name for name, _ in posts(two)] == ["r1-02", "r1-01", "r1-02"]


@pytest.mark.parametrize(
    ("argv", "code", "sentence"),
    [
        (["r1-01"], 2, "no label is named"),
        (["pdu=a"], 2, "no machine is named"),
        (["r1-01", "pdu=a", "-l", "rack=r1"], 2, "name machines, or select them by -l rack=r1, not both"),
        (["r1-01", "pdu=a b"], 2, "cannot be the value of pdu"),
        (["r1-03", "pdu=a"], 3, "no machine is called r1-03"),
        (["-l", "rack=r9", "pdu=a"], 3, "no machine has the labels rack=r9"),
    ],
)
def test_wrong_use(two: Any, capsys: pytest.CaptureFixture[str], argv: list[str], code: int, sentence: str) -> None:
    assert run(two, "label", *argv) == code
    assert sentence in capsys.readouterr().err
    assert posts(two) == []


def test_note(two: Any, capsys: pytest.CaptureFixture[str]) -> None:
    answer = {"machine": "r1-01", "labels": {}, "owner": "ann", "note": "fan\x1b[31m"}
    two.answers["POST /api/v1/machines/r1-01/note"] = (200, answer)
    assert run(two, "note", "r1-01", "fan", "--owner", "ann") == 0
    assert posts(two) == [("r1-01", {"note": "fan", "owner": "ann"})]
    assert capsys.readouterr().out == "r1-01: owner ann; fan?[31m\n"
    assert run(two, "note", "r1-01") == 2
    assert run(two, "note", "r1-01", "") == 0
    assert posts(two)[-1] == ("r1-01", {"note": ""})
