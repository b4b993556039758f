"""Keys, values, changes and selectors of labels."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metalbox import labels
from metalbox.errors import InvalidValue
from metalbox.labels import MAX_LABELS, Changes, Term

WORD = st.from_regex(r"[A-Za-z0-9._/]{1,20}", fullmatch=True)


def test_changes_are_read_and_applied() -> None:
    changes = labels.read_changes(["rack=r1", "pdu=a/3.left", "spare-", "rack=r1", "spare-"])
    assert changes == Changes({"rack": "r1", "pdu": "a/3.left"}, ("spare",))
    assert changes.applied({"spare": "yes", "x": "1"}) == {"pdu": "a/3.left", "rack": "r1", "x": "1"}
    assert list(changes.applied({"x": "1"})) == ["pdu", "rack", "x"]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["rack="], "'rack=' gives no value: write rack=VALUE, or rack- to remove the label"),
        (["=r1"], "'' cannot be a label's key"),
        (["rack=a b"], "'a b' cannot be the value of rack: it has letters, digits and . _ - / only, and at most 63"),
        (["räck=1"], "cannot be a label's key"),
        (["k" * 64 + "=1"], "and at most 63 of them"),
        (["rack=" + "v" * 64], "and at most 63 of them"),
        (["rack=a=b"], "'a=b' cannot be the value of rack"),
        (["a-=b"], "'a-' cannot be a label's key: `a-` is how a label is removed"),
        (["rack=1", "rack=2"], "rack is given two values: 1 and 2"),
        (["rack=1", "rack-"], "rack is set and removed at once"),
        (["rack=1\n"], "cannot be the value of rack"),
    ],
)
def test_what_no_label_can_be(words: list[str], sentence: str) -> None:
    with pytest.raises(InvalidValue) as caught:
        labels.read_changes(words)
    assert sentence in str(caught.value)


def test_a_machine_has_not_too_many() -> None:
    many = {f"k{number}": "v" for number in range(MAX_LABELS)}
    assert len(Changes(many).applied({})) == MAX_LABELS
    assert len(Changes({"new": "v"}, ("k0",)).applied(many)) == MAX_LABELS
    with pytest.raises(InvalidValue, match="at most 64 labels, this would make 65"):
        Changes({"new": "v"}).applied(many)


def test_words_that_change_and_words_that_name() -> None:
    assert [word for word in ("r1-01", "rack=r1", "spare-", "r[1-2]", "-", "all") if labels.is_change(word)] == [
        "rack=r1",
        "spare-",
    ]


def test_selectors() -> None:
    terms = labels.read_selector("rack=r1, role!=db,gpu,!broken")
    assert terms == (Term("rack", "r1"), Term("role", "db", True), Term("gpu"), Term("broken", is_not=True))
    good = {"rack": "r1", "gpu": "a100"}
    assert labels.fits(terms, good)
    for other in ({**good, "role": "db"}, {"rack": "r1"}, {**good, "broken": "fan"}, {**good, "rack": "r11"}, {}):
        assert not labels.fits(terms, other)
    assert labels.read_selector(" ") == ()
    assert labels.fits((), {})


@pytest.mark.parametrize("text", ["a,,b", ",", "a=", "!=b", "!", "a=b=c", "a b"])
def test_selectors_that_cannot_be_read(text: str) -> None:
    with pytest.raises(InvalidValue):
        labels.read_selector(text)


@given(st.dictionaries(WORD, WORD, max_size=5))
def test_what_is_shown_selects_and_sets_the_same(has: dict[str, str]) -> None:
    text = labels.shown(has)
    assert labels.fits(labels.read_selector(text), has)
    assert labels.read_changes(text.split(",") if text else []).applied({}) == has
    assert all(labels.is_selector(part) for part in text.split(",") if part)
